"""The table of chains.keys is what the kinds do: a field in the key changes it, a field left out does not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from chains import spec
from chains.clock import Clock
from chains.errors import Terminal
from chains.keys import IN_KEY, LEFT_OUT
from chains.settings import Settings
from chains.spec import Chain
from chains.store import Store, open_store
from tasks import embed, finetune, prepare, prompt, retrieve
from tasks.collection import Collections
from tasks.context import OnceJob, RowJob
from tasks.providers import Providers
from tasks.reuse import question

URL = "http://127.0.0.1:1/v1"
ENDPOINT = {"provider": "openai", "model": "m", "base_url": URL, "temperature": 0}
LOCAL = {"provider": "local", "model": "acme/tiny"}

ALL = {
    "description": "words",
    "when": "inputs.ticket",
    "after": ["other"],
    "on_skip": "run",
    "once": True,
    "retry": {"attempts": 2},
    "timeout": 5,
    "pool": "gpu",
}
KEPT = {**ALL, "cache": None}
MAPPED = dict.fromkeys(("map", "as_", "max_concurrency", "on_error"))
CALLING = {**KEPT, "deadline": 9, "on_ambiguous": "fail", "budget": {"calls": 9}}

BASE: Mapping[type[spec.Part], dict[str, Any]] = {
    spec.PromptStep: {"prompt": "Sort {{ inputs.ticket }}", "output": {"a": "string"}, "cache": "always"},
    spec.EmbedStep: {"embed": "a.md", "into": "book", "cache": "always"},
    spec.RetrieveStep: {"retrieve": "book", "query": "{{ inputs.ticket }}", "cache": "always"},
    spec.PrepareStep: {
        "prepare": "data.jsonl",
        "like": "ask",
        "completion": "{{ row.answer }}",
        "cache": "always",
    },
    spec.FinetuneStep: {"finetune": "lora", "base": "models.tiny", "data": {"train": "data.jsonl"}},
    spec.Model: ENDPOINT,
    spec.Collection: {"embedder": "one"},
}
CHANGED: Mapping[type[spec.Part], dict[str, Any]] = {
    spec.PromptStep: {
        **CALLING,
        **MAPPED,
        "prompt": "Judge {{ inputs.ticket }}",
        "model": "two",
        "output": {"a": "integer"},
        "reask": 3,
        "on_length": "accept",
        "samples": None,
        "vote": "first",
        "quorum": 2,
    },
    spec.EmbedStep: {
        **CALLING,
        **MAPPED,
        "embed": "b.md",
        "into": "other",
        "chunk": {"tokens": 99},
        "model": None,
    },
    spec.RetrieveStep: {
        **CALLING,
        **MAPPED,
        "retrieve": "other",
        "query": "about {{ inputs.ticket }}",
        "top_k": 9,
        "min_score": 0.1,
    },
    spec.PrepareStep: {
        **KEPT,
        "prepare": "more.jsonl",
        "like": "ask2",
        "completion": "{{ row.answer }}!",
        "text": None,
        "fields": None,
        "format": "messages",
        "clean": {"html": True},
        "deduplicate": False,
        "near_duplicates": 0.9,
        "tokens": None,
        "leaks": {"max": 3},
        "split": {"train": 0.5, "validation": 0.25, "test": 0.25},
    },
    spec.FinetuneStep: {
        **CALLING,
        "cache": None,
        "deadline": None,
        "on_ambiguous": None,
        "budget": None,
        "finetune": None,
        "base": "models.other",
        "data": {"train": "more.jsonl"},
        "publish": "tuned",
        "gate": "train_loss < 1",
        "architecture": None,
        "learning_rate": 0.5,
        "num_train_epochs": 1.5,
        "max_steps": 7,
        "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": 2,
        "packing": True,
        "gradient_checkpointing": True,
        "bf16": True,
        "warmup_steps": 5,
        "weight_decay": 0.5,
        "max_grad_norm": 0.5,
        "lr_scheduler_type": "linear",
        "max_length": 64,
        "seed": 5,
        "save_steps": 9,
        "eval_steps": 9,
        "early_stopping_patience": 2,
        "r": 4,
        "lora_alpha": 4,
        "lora_dropout": 0.5,
        "lora_variant": "dora",
        "target_modules": ["q_proj"],
        "max_forgetting": None,
        "rehearsal": None,
        "trains": None,
        "beta": None,
        "task": None,
        "head": None,
        "C": None,
        "scale": None,
        "freeze": None,
        "train_last": None,
        "num_virtual_tokens": None,
        "prefix_projection": None,
        "encoder_hidden_size": None,
        "bottleneck_size": None,
        "placement": None,
        "teacher": None,
        "level": None,
        "temperature": None,
        "jsd_beta": None,
        "label_weight": None,
        "max_unanswered": None,
        "method": None,
        "suffix": None,
        "n_epochs": None,
        "batch_size": None,
        "learning_rate_multiplier": None,
    },
    spec.Model: {
        "provider": None,
        "model": "n",
        "revision": None,
        "base_url": "http://127.0.0.1:2/v1",
        "api_version": "2024-10-21",
        "headers": {"X-Team": "a"},
        "temperature": 0.5,
        "top_p": 0.5,
        "max_tokens": 5,
        "seed": 5,
        "stop": ["x"],
        "dtype": None,
        "api_key": "{{ env.OWN_KEY }}",
        "device": None,
        "pool": "gpu",
        "limits": {"concurrency": 2, "requests_per_minute": 5},
        "organization": "o",
        "project": "p",
        "price": {"input": 1},
    },
    spec.Collection: {"embedder": "two", "distance": "dot", "url": URL, "api_key": "{{ env.OWN_KEY }}"},
}
"""Another value for every field of the table; None: the field has a test of its own below."""


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache with two models, one of them in two revisions, whose weights are never loaded."""
    for name, revision in (("tiny", "main"), ("tiny", "other"), ("else", "main")):
        folder = tmp_path / "hub" / f"models--acme--{name}" / "snapshots" / revision
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(f"{name} {revision}".encode())
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "chain"
    made.mkdir()
    (made / "a.md").write_text("one")
    (made / "b.md").write_text("two")
    rows = [{"ticket": f"ticket {row}", "answer": f"answer {row}"} for row in range(12)]
    (made / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (made / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:9]))
    return made


class KeySeen(Terminal):
    """A step asked the store for this key; what would follow are calls and training."""


class Looked:
    """A store that a step asks for its key, and nothing more."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def reusable(self, keys: list[str]) -> NoReturn:
        raise KeySeen(keys[0])


def context(
    store: Store, folder: Path, step: dict[str, Any], *, one: dict[str, Any], book: dict[str, Any]
) -> Any:
    models = {
        "one": one,
        "two": {**ENDPOINT, "model": "two"},
        "models.tiny": LOCAL,
        "models.other": {**LOCAL, "model": "acme/else"},
        "big": LOCAL,
        "bigger": {**LOCAL, "model": "acme/else"},
    }
    chain = Chain.model_construct(
        chain="c",
        inputs={"ticket": spec.Input()},
        models={name: spec.Model.model_validate(part) for name, part in models.items()},
        collections={
            "book": spec.Collection.model_validate(book),
            "other": spec.Collection(embedder="two"),
        },
        defaults=spec.Defaults(model="one"),
        steps=Chain.model_validate(
            {
                "chain": "c",
                "steps": {"it": step, "ask": {"prompt": "A {{ inputs.ticket }}"}, "ask2": {"prompt": "B"}},
            }
        ).steps,
        outputs={},
    )
    settings, env = Settings(), {"OWN_KEY": "k"}
    providers = Providers(chain.models, store=store, settings=settings, env=env)
    return SimpleNamespace(
        run_id="run1",
        step_id="it",
        id_in_chain="it",
        stream=False,
        step=chain.steps["it"],
        chain_file=SimpleNamespace(chain=chain, folder=folder, files={}),
        store=store,
        clock=Clock(),
        settings=settings,
        providers=providers,
        collections=Collections(
            chain.collections, store=store, providers=providers, settings=settings, env=env
        ),
        memo={},
    )


async def key_of(ctx: Any) -> str:
    """Return the key that the step's kind looks up before it does anything."""
    ctx.store = Looked(ctx.store.path)
    row = RowJob(0, "r", {"inputs": {"ticket": "t"}})
    once = OnceJob("r", {"inputs": {}}, list)
    with pytest.raises(KeySeen) as seen:
        match ctx.step:
            case spec.PromptStep():
                await prompt.run_row(ctx, row)
            case spec.EmbedStep() if ctx.step.into is None:
                await embed.run_row(ctx, row)
            case spec.EmbedStep():
                await embed.run_once(ctx, once)
            case spec.RetrieveStep():
                await retrieve.run_row(ctx, row)
            case spec.PrepareStep():
                await prepare.run_once(ctx, once)
            case spec.FinetuneStep():
                await finetune.run_once(ctx, once)
    await ctx.collections.aclose()
    return seen.value.message


async def key(store: Store, folder: Path, part: type[spec.Part], fields: dict[str, Any]) -> str:
    """Return the key with one part described so: a step, or the model or collection that a step uses."""
    one = fields if part is spec.Model else ENDPOINT
    book = fields if part is spec.Collection else BASE[spec.Collection]
    kind = {spec.Model: spec.PromptStep, spec.Collection: spec.EmbedStep}.get(part, part)
    step = fields if kind is part else BASE[kind]
    return await key_of(context(store, folder, step, one=one, book=book))


FIELDS = [(part, name) for part, fields in CHANGED.items() for name in fields if fields[name] is not None]


@pytest.mark.parametrize(("part", "name"), FIELDS, ids=lambda value: getattr(value, "__name__", value))
async def test_a_field_changes_the_key_exactly_where_the_table_says_so(
    store: Store, folder: Path, part: type[spec.Part], name: str
) -> None:
    before = await key(store, folder, part, BASE[part])
    after = await key(store, folder, part, {**BASE[part], name: CHANGED[part][name]})
    assert before and after
    assert (before != after) is (name in IN_KEY[part])


def test_every_field_of_the_table_is_tried() -> None:
    # A python step's and an evaluation's results are never used again, so these have no key.
    for part in CHANGED:
        assert set(CHANGED[part]) == set(IN_KEY[part]) | set(LEFT_OUT[part]), part


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        (ENDPOINT, LOCAL, False),
        (LOCAL, {**LOCAL, "model": "acme/else"}, False),
        (LOCAL, {**LOCAL, "revision": "other"}, False),
        (LOCAL, {**LOCAL, "dtype": "bfloat16"}, False),
        (LOCAL, {**LOCAL, "temperature": 0.5}, False),
        (LOCAL, {**LOCAL, "max_tokens": 5}, False),
        (LOCAL, {**LOCAL, "stop": ["x"]}, False),
        ({**LOCAL, "temperature": 1}, {**LOCAL, "temperature": 1, "seed": 5}, False),
        ({**LOCAL, "temperature": 1}, {**LOCAL, "temperature": 1, "top_p": 0.5}, False),
        (LOCAL, {**LOCAL, "device": "cpu"}, True),
        (LOCAL, {**LOCAL, "pool": "gpu", "limits": {"concurrency": 1}}, True),
    ],
)  # fmt: skip
async def test_fields_of_a_local_model_change_the_key_as_the_table_says(
    store: Store, folder: Path, before: dict[str, Any], after: dict[str, Any], same: bool
) -> None:
    first = await key(store, folder, spec.Model, before)
    assert (first == await key(store, folder, spec.Model, after)) is same


@pytest.mark.parametrize("part", [spec.PromptStep, spec.EmbedStep, spec.RetrieveStep, spec.PrepareStep])
async def test_an_answer_that_was_made_anew_has_the_key_of_the_one_before(
    store: Store, folder: Path, part: type[spec.Part]
) -> None:
    keys = set()
    for mode in ("always", "refresh"):
        step = {**BASE[part], "cache": mode}
        ctx = context(store, folder, step, one=ENDPOINT, book=BASE[spec.Collection])
        keys.add(question(ctx, "kind", {"a": 1}).key)
    assert len(keys) == 1 and None not in keys


async def test_the_model_of_an_embedding_changes_its_key(store: Store, folder: Path) -> None:
    steps = [
        {"embed": text, "model": model} for text in ("a", "{{ inputs.ticket }}") for model in ("one", "two")
    ]
    assert len({await key(store, folder, spec.EmbedStep, step) for step in steps}) == 4


async def test_the_method_and_shape_of_a_training_change_its_key(store: Store, folder: Path) -> None:
    scratch = {"finetune": "scratch", "data": {"train": "data.jsonl"}}
    both = {"data": {"train": "data.jsonl", "validation": "more.jsonl"}}
    shaped = {"architecture": {"hidden_size": 64}}
    variants = [BASE[spec.FinetuneStep], BASE[spec.FinetuneStep] | both, scratch, scratch | shaped]
    assert len({await key(store, folder, spec.FinetuneStep, step) for step in variants}) == 4


@pytest.mark.parametrize(
    ("method", "name", "values"),
    [
        ("instruction", "trains", ["lora", "full"]),
        ("transfer", "freeze", [["embed"], ["norm"]]),
        ("preference", "beta", [0.1, 0.2]),
        ("full", "max_forgetting", [0.1, 0.2]),
        ("full", "rehearsal", [0.0, 0.2]),
        ("transfer", "train_last", [1, 2]),
        ("prefix", "num_virtual_tokens", [20, 10]),
        ("prefix", "prefix_projection", [False, True]),
        ("p_tuning", "encoder_hidden_size", [None, 8]),
        ("adapter", "bottleneck_size", [64, 8]),
        ("adapter", "placement", ["houlsby", "pfeiffer"]),
    ],
)
async def test_what_only_some_methods_read_changes_their_key(
    store: Store, folder: Path, method: str, name: str, values: list[Any]
) -> None:
    data = {"train": "data.jsonl", "general": "more.jsonl"}
    steps = [{**BASE[spec.FinetuneStep], "data": data, "finetune": method, name: value} for value in values]
    assert len({await key(store, folder, spec.FinetuneStep, step) for step in steps}) == 2


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("teacher", ["big", "bigger"]),
        ("temperature", [1.0, 2.0]),
        ("jsd_beta", [0.5, 0.0]),
        ("label_weight", [0.0, 0.5]),
        ("architecture", [{}, {"hidden_size": 64}]),
    ],
)
async def test_what_is_learnt_from_a_teachers_weights_is_in_the_key(
    store: Store, folder: Path, name: str, values: list[Any]
) -> None:
    given = {"finetune": "distill", "teacher": "big", "level": "logits", "data": {"train": "data.jsonl"}}
    keys = {await key(store, folder, spec.FinetuneStep, {**given, name: value}) for value in values}
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [("n_epochs", 2), ("batch_size", 4), ("learning_rate_multiplier", 0.5), ("suffix", "x"), ("seed", 3),
     ("method", "dpo"), ("beta", 0.3), ("base", "two"), ("data", {"train": "others.jsonl"})],
)  # fmt: skip
async def test_what_a_hosted_job_is_asked_is_in_its_key(
    store: Store, folder: Path, name: str, value: Any
) -> None:
    pair = {"prompt": "a", "chosen": "b", "rejected": "c", "completion": "b"}
    for file, word in (("pairs.jsonl", "a"), ("others.jsonl", "z")):
        rows = [json.dumps({**pair, "prompt": f"{word} {number}"}) for number in range(12)]
        (folder / file).write_text("\n".join(rows))
    given = {"finetune": "openai", "base": "one", "data": {"train": "pairs.jsonl"}}
    given |= {"method": "dpo"} if name == "beta" else {}
    keys = {await key(store, folder, spec.FinetuneStep, step) for step in (given, {**given, name: value})}
    assert len(keys) == 2


async def test_the_fields_of_examples_change_their_key(store: Store, folder: Path) -> None:
    first = {"prepare": "data.jsonl", "fields": {"text": "{{ row.ticket }}"}, "cache": "always"}
    other = {**first, "fields": {"text": "{{ row.answer }}"}}
    keys = {await key(store, folder, spec.PrepareStep, step) for step in (first, other)}
    assert len(keys) == 2


async def test_the_text_of_plain_examples_changes_their_key(store: Store, folder: Path) -> None:
    first = {"prepare": "data.jsonl", "text": "{{ row.ticket }}", "cache": "always"}
    other = {**first, "text": "{{ row.answer }}"}
    assert await key(store, folder, spec.PrepareStep, first) != await key(
        store, folder, spec.PrepareStep, other
    )
