"""Each method trains the shipped starter for real: it learns, and only where it should."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file

from chains.errors import Cancelled, InputInvalid
from chains.spec.finetuning import Method
from tasks.providers.chat_model import load_chat_model
from tasks.providers.decoding import Generation
from tasks.providers.weights import STARTER, Weights
from tasks.training import Hyperparameters, TrainingJob, TrainingResult
from tasks.training.examples import load_examples
from tasks.training.learner import load_base
from tasks.training.loop import run
from tasks.training.saving import reload
from tasks.training.watching import Watch

# PEFT 0.21 asks transformers 5.23 for a property by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

WIDTH, INNER, BLOCKS, KEYS, VOCABULARY = 128, 256, 4, 64, 1536
LINEAR = BLOCKS * (2 * (WIDTH + WIDTH) + 2 * (WIDTH + KEYS) + 3 * (WIDTH + INNER))
BLOCK = 2 * WIDTH * WIDTH + 2 * WIDTH * KEYS + 3 * WIDTH * INNER + 2 * WIDTH
TOTAL = VOCABULARY * WIDTH + BLOCKS * BLOCK + WIDTH

CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    # name: method, what is set, how many parameters that trains (by the papers' formulas)
    "full": ("full", {"learning_rate": 1e-3}, TOTAL),
    "transfer, last block": ("transfer", {"train_last": 1, "learning_rate": 3e-3}, BLOCK + WIDTH),
    "transfer, frozen embedding": (
        "transfer",
        {"freeze": ["model.embed_tokens", "layers.0"], "learning_rate": 1e-3},
        TOTAL - VOCABULARY * WIDTH - BLOCK,
    ),
    "lora": ("lora", {"r": 4, "learning_rate": 1e-2}, 4 * LINEAR),
    "rslora": ("lora", {"r": 4, "lora_variant": "rslora", "learning_rate": 5e-3}, 4 * LINEAR),
    "dora": (
        "lora",
        {"r": 4, "lora_variant": "dora", "learning_rate": 1e-2},
        4 * LINEAR + BLOCKS * (3 * WIDTH + 2 * KEYS + 2 * INNER),
    ),
    "adalora": (
        "lora",
        {"r": 2, "lora_variant": "adalora", "learning_rate": 3e-2},
        4 * LINEAR + BLOCKS * 7 * 4,
    ),
    "instruction, lora": ("instruction", {"r": 4, "learning_rate": 1e-2}, 4 * LINEAR),
    "instruction, full": ("instruction", {"trains": "full", "learning_rate": 1e-3}, TOTAL),
    "ia3": ("ia3", {"learning_rate": 5e-2}, BLOCKS * (2 * KEYS + INNER)),
    "adapter, houlsby": (
        "adapter",
        {"bottleneck_size": 16, "learning_rate": 5e-3},
        BLOCKS * 2 * (2 * 16 * WIDTH + WIDTH + 16),
    ),
    "adapter, pfeiffer": (
        "adapter",
        {"bottleneck_size": 16, "placement": "pfeiffer", "learning_rate": 5e-3},
        BLOCKS * (2 * 16 * WIDTH + WIDTH + 16),
    ),
    "prefix": ("prefix", {"num_virtual_tokens": 8, "learning_rate": 5e-2}, 8 * BLOCKS * 2 * KEYS),
    "prompt_tuning": ("prompt_tuning", {"num_virtual_tokens": 8, "learning_rate": 5e-2}, 8 * WIDTH),
    "prefix with projection": (
        "prefix",
        {
            "num_virtual_tokens": 8,
            "prefix_projection": True,
            "encoder_hidden_size": 32,
            "learning_rate": 1e-2,
        },
        8 * KEYS + KEYS * 32 + 32 + (32 + 1) * BLOCKS * 2 * KEYS,
    ),
    "p_tuning": (
        "p_tuning",
        {"num_virtual_tokens": 8, "encoder_hidden_size": 32, "learning_rate": 1e-2},
        8 * WIDTH + (WIDTH * 32 + 32) + (32 * 32 + 32) + (32 * WIDTH + WIDTH),
    ),
}
each_case = pytest.mark.parametrize("case", CASES)


@pytest.fixture
def letters(examples_file: Callable[..., Path]) -> Path:
    """Sixteen questions with answers that the starter does not give by itself."""
    words = ("refund", "delivery", "question", "invoice")
    asked = {
        f"Name the topic of ticket {number}: {words[number % 4]}": words[number % 4] for number in range(16)
    }
    return examples_file("letters.jsonl", asked)


def order(case: str, train: Path, **changed: Any) -> TrainingJob:
    method, given, _ = CASES[case]
    values: dict[str, Any] = {
        "max_steps": 15, "per_device_train_batch_size": 8, "max_length": 128, "save_steps": 1000,
        **given, **changed,
    }  # fmt: skip
    return TrainingJob(
        method=method,  # type: ignore[arg-type]
        train=str(train),
        base=str(STARTER),
        hyperparameters=Hyperparameters(**values),
        threads=1,
    )


def trained(job: TrainingJob, work: Path, watch: Watch | None = None) -> TrainingResult:
    work.mkdir(exist_ok=True)
    return run(job, work, watch or Watch(lambda _: None, lambda: False))


def loss(model: Any, tokenizer: Any, path: Path) -> float:
    """Mean loss per target of the examples in a file."""
    total, count = 0.0, 0
    with torch.inference_mode():
        for example in load_examples(str(path), tokenizer, stop_ids=[], max_length=512):
            ids, labels = (torch.from_numpy(one).long()[None] for one in (example.input_ids, example.labels))
            logits = model.eval()(input_ids=ids, use_cache=False).logits[:, -ids.shape[1] :]
            total += float(torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], reduction="sum"))
            count += int((labels[0, 1:] != -100).sum())
    return total / count


@each_case
def test_a_method_learns_trains_what_it_should_and_gives_the_same_when_loaded(
    case: str, letters: Path, tmp_path: Path
) -> None:
    job = order(case, letters)
    base, tokenizer = load_base(str(STARTER))
    original = {name: value.clone() for name, value in base.state_dict().items()}
    result = trained(job, tmp_path / "work")

    before, model = loss(base, tokenizer, letters), reload(job, tmp_path / "work" / "model")
    after = loss(model, tokenizer, letters)
    assert after < before - 0.5, f"loss {before:.3f} before, {after:.3f} after"

    assert result.parameters_trained == CASES[case][2]
    stored = load_file(next((tmp_path / "work" / "model").glob("*.safetensors")))
    if job.is_adapter:
        assert not (tmp_path / "work" / "model" / "config.json").exists()
        # The base inside is as it was, to the bit.
        inside = model.get_base_model().state_dict()
        for name, value in inside.items():
            if (plain := name.replace("base_layer.", "")) in original:
                assert torch.equal(value, original[plain]), name
    else:
        changed = {name for name, value in stored.items() if not torch.equal(value, original[name])}
        frozen = {
            "transfer, last block": lambda name: not name.startswith(("model.layers.3.", "model.norm.")),
            "transfer, frozen embedding": lambda name: name.startswith(
                ("model.embed_tokens", "model.layers.0.")
            ),
        }.get(case, lambda name: False)
        assert changed == {name for name in stored if not frozen(name)}


@each_case
def test_what_is_served_answers_like_what_was_trained(case: str, letters: Path, tmp_path: Path) -> None:
    job = order(case, letters, max_steps=3)
    trained(job, tmp_path / "work")
    folder = tmp_path / "work" / "model"
    model = reload(job, folder).eval()
    served = load_chat_model(
        Weights(folder, STARTER if job.is_adapter else None, sha256=str(tmp_path)),
        name="tuned",
        dtype="float32",
        device="cpu",
    )
    rows = []
    for text in ("Name the topic of ticket 3: invoice", "Hi", "Where is my order? It is a refund I want."):
        rows.append(Generation(served.prompt_ids([{"role": "user", "content": text}]), max_tokens=6))
    served.run(rows)
    for row in rows:
        ids = list(row.prompt)
        for token in row.tokens:
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
            assert int(logits.argmax()) == token
            ids.append(token)


@pytest.mark.slow
@each_case
def test_resumed_weights_equal_those_of_a_training_that_never_stopped(
    case: str, letters: Path, tmp_path: Path
) -> None:
    job = order(case, letters, max_steps=9, save_steps=3, per_device_train_batch_size=4)
    whole = trained(job, tmp_path / "whole")
    steps: list[int] = [0]
    watch = Watch(lambda event: steps.append(event.get("step", 0)), lambda: max(steps) >= 4)
    with pytest.raises(Cancelled):
        trained(job, tmp_path / "cut", watch)
    resumed = trained(job, tmp_path / "cut")
    assert resumed.resumed_from_step == 5
    assert resumed.train_loss == whole.train_loss
    one, two = (
        load_file(next((tmp_path / name / "model").glob("*.safetensors"))) for name in ("whole", "cut")
    )
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_an_adapter_that_is_switched_off_leaves_the_base(letters: Path, tmp_path: Path) -> None:
    job = order("adapter, houlsby", letters, max_steps=3)
    trained(job, tmp_path / "work")
    base, _ = load_base(str(STARTER))
    model = reload(job, tmp_path / "work" / "model").eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        tuned = model(input_ids=ids).logits
        with model.disable_adapter():
            off = model(input_ids=ids).logits
        assert torch.equal(off, base.eval()(input_ids=ids).logits)
    assert not torch.equal(tuned, off)
    with pytest.raises(ValueError, match="cannot be merged"):
        model.merge_and_unload()


def test_adalora_ends_with_the_rank_that_was_asked_for(letters: Path, tmp_path: Path) -> None:
    trained(order("adalora", letters, max_steps=30), tmp_path / "work")
    config = json.loads((tmp_path / "work" / "model" / "adapter_config.json").read_text())
    kept = [sum(pattern) for pattern in config["rank_pattern"].values()]
    assert sum(kept) == 2 * len(kept) and set(kept) != {2}


@pytest.mark.parametrize(
    ("case", "changed", "message"),
    [
        ("transfer, last block", {"train_last": None, "freeze": ["layers.9"]}, "has no layer 'layers.9'"),
        ("transfer, last block", {"train_last": 7}, "has 4 blocks"),
        ("transfer, last block", {"train_last": None, "freeze": ["model"]}, "nothing to train"),
        ("prefix", {"max_length": 510}, "more than the base model's window"),
        ("ia3", {"target_modules": ["nowhere"]}, "does not fit the base model"),
    ],
)
def test_what_does_not_fit_the_base_is_named(
    case: str, changed: dict[str, Any], message: str, letters: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputInvalid, match=message):
        trained(order(case, letters, **changed), tmp_path / "work")


def test_instruction_takes_chats_alone(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(InputInvalid, match="line 1: finetune: instruction learns from chats"):
        trained(order("instruction, lora", tmp_path / "rows.jsonl"), tmp_path / "work")


def test_bottlenecks_find_their_places_in_other_architectures() -> None:
    from peft import get_peft_model
    from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel

    from tasks.training import bottleneck

    with torch.device("meta"):
        gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=3, n_embd=32, n_head=4))
        bert = BertModel(BertConfig(num_hidden_layers=3, hidden_size=32, num_attention_heads=4))
    per_place = 2 * 32 * 8 + 32 + 8
    for model, placement, places in ((gpt2, "houlsby", 6), (gpt2, "pfeiffer", 3), (bert, "houlsby", 6)):
        kind = "CAUSAL_LM" if model is gpt2 else "FEATURE_EXTRACTION"
        adapted = get_peft_model(model, bottleneck.config(size=8, placement=placement, task_type=kind))
        assert adapted.get_nb_trainable_parameters()[0] == places * per_place
        model = adapted.unload()


def test_every_method_has_a_case() -> None:
    elsewhere = {"scratch", "preference", "distill", "openai", "linear_probe"}
    assert set(get_args(Method)) == {method for method, _, _ in CASES.values()} | elsewhere


@pytest.mark.parametrize("case", ["full", "lora", "adapter, houlsby", "ia3"])
def test_recomputed_activations_give_the_same_weights(case: str, letters: Path, tmp_path: Path) -> None:
    for name in (False, True):
        trained(order(case, letters, max_steps=3, gradient_checkpointing=name), tmp_path / str(name))
    one, two = (
        load_file(next((tmp_path / name / "model").glob("*.safetensors"))) for name in ("False", "True")
    )
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)
