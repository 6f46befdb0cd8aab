"""The finetune step: from prepared examples to a published model, with real training of a tiny one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chains.clock import Clock
from chains.errors import EnvironmentLacks, GateNotMet, InputInvalid, Refused
from chains.settings import Settings
from chains.spec import Chain
from chains.store import RecordRow, RunRow, StepRow, Store, open_store
from tasks.context import OnceJob, Progress, RowResult
from tasks.finetune import run_once
from tasks.providers.weights import Reach

TINY = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 320,
    "max_position_embeddings": 64,
}
SCRATCH = {
    "finetune": "scratch",
    "data": {"train": "train.jsonl"},
    "architecture": TINY,
    "max_steps": 4,
    "max_length": 64,
    "learning_rate": 0.01,
    "publish": "tiny",
}
LORA = {
    "finetune": "lora",
    "base": "small",
    "data": {"train": "train.jsonl"},
    "max_steps": 4,
    "max_length": 64,
    "learning_rate": 0.01,
    "r": 2,
    "publish": "tuned",
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(tmp_path / "store")
    yield opened
    opened.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "chain"
    made.mkdir()
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Say {word}."}],
            "completion": [{"role": "assistant", "content": word}],
        }
        for word in ("red", "green", "blue", "black")
    ]
    (made / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return made


Tune = Callable[..., Any]


@pytest.fixture
def tune(store: Store, folder: Path) -> Tune:
    async def run(
        step: dict[str, Any],
        *,
        models: dict[str, Any] | None = None,
        scope: dict[str, Any] | None = None,
        told: list[Progress] | None = None,
        opening: RecordRow | None = None,
        **settings: Any,
    ) -> RowResult:
        chain = Chain.model_validate({"chain": "t", "models": models or {}, "steps": {"tune": step}})
        ctx = SimpleNamespace(
            run_id="run1",
            step_id="tune",
            step=chain.steps["tune"],
            chain_file=SimpleNamespace(chain=chain, folder=folder, files={}),
            store=store,
            clock=Clock(),
            settings=Settings(torch_threads=1, **settings),
            providers=SimpleNamespace(reach=Reach(folder)),
            report=(told if told is not None else []).append,
        )
        return await run_once(ctx, OnceJob("rec1", {"inputs": {}, **(scope or {})}, list, opening))

    return run


def keep(store: Store, result: RowResult) -> None:
    """Write the record as the row runner does."""
    begun = {"status": "running", "started_at": 0.0}
    store.put(
        RunRow(id="run1", chain="t", chain_hash="0" * 64, source=b"", **begun),
        StepRow(run_id="run1", id="tune", kind="finetune", once=True, **begun),
        RecordRow(
            id="rec1",
            run_id="run1",
            step="tune",
            row=-1,
            status="ok",
            value_key=result.value_key,
            output=json.dumps(result.output).encode(),
            started_at=0.0,
        ),
    )


@pytest.mark.slow
async def test_a_model_is_trained_published_and_tuned_from_its_version(store: Store, tune: Tune) -> None:
    told: list[Progress] = []
    made = await tune(SCRATCH, told=told)
    assert made.output["model"] == "models:tiny@1"
    assert (made.output["method"], made.output["base"], made.output["version"]) == ("scratch", None, 1)
    assert made.output["steps"] == 4 and made.output["tokens"] > 0
    assert {one.event for one in told} == {"message"} and told[-1].done == told[-1].total == 4
    assert store.get_blob(made.output["files"]["losses.svg"]).startswith(b"<svg")
    row = store.model("tiny")
    assert row is not None and row.kind == "full" and row.base is None
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= json.loads(row.files).keys()
    assert json.loads(row.metrics)["train_loss"] == made.output["train_loss"]
    assert json.loads(row.lineage)["run_id"] == "run1"

    models = {"small": {"provider": "local", "model": "models:tiny@latest"}}
    tuned = await tune(LORA, models=models)
    assert tuned.output["base"] == {"provider": "local", "model": "models:tiny@1"}
    adapter = store.model("tuned")
    assert adapter is not None and adapter.kind == "adapter"
    assert json.loads(adapter.base or "") == tuned.output["base"]
    files = json.loads(adapter.files)
    config = json.loads(store.get_blob(files["adapter_config.json"]))
    assert config["base_model_name_or_path"] == "models:tiny@1"
    card = store.get_blob(files["README.md"]).decode()
    assert str(store.path) not in card and tuned.inputs["sha256"]["train"] in card
    # Checkpoints do not stay once the model is in the store.
    assert not list((store.folder("work")).glob("*/checkpoints"))


@pytest.mark.slow
async def test_what_was_trained_is_found_again_until_something_that_decides_it_changes(
    store: Store, tune: Tune, folder: Path
) -> None:
    first = await tune(SCRATCH)
    keep(store, first)
    again = await tune(SCRATCH)
    assert again.reused_from == "rec1" and again.output == first.output
    assert len(store.models("tiny")) == 1
    other_seed = await tune({**SCRATCH, "seed": 1})
    assert other_seed.reused_from is None and other_seed.output["version"] == 2
    with (folder / "train.jsonl").open("a") as lines:
        lines.write('{"text": "one more"}\n')
    assert (await tune(SCRATCH)).output["version"] == 3


@pytest.mark.slow
async def test_a_model_that_was_published_but_not_recorded_is_not_published_twice(
    store: Store, tune: Tune
) -> None:
    first = await tune(SCRATCH)
    second = await tune(SCRATCH)
    assert second.reused_from is None
    assert second.output["model"] == first.output["model"] == "models:tiny@1"
    assert len(store.models("tiny")) == 1


@pytest.mark.slow
async def test_a_gate_that_says_no_publishes_nothing_and_its_training_is_kept(
    store: Store, tune: Tune
) -> None:
    with pytest.raises(GateNotMet, match=r"train_loss < 0\.001"):
        await tune({**SCRATCH, "gate": "train_loss < 0.001"})
    assert store.models() == []
    told: list[Progress] = []
    passed = await tune({**SCRATCH, "gate": "train_loss < 100"}, told=told)
    assert passed.output["version"] == 1
    assert told == []


async def test_data_outside_the_chain_and_the_store_is_refused(tune: Tune, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.jsonl").write_text('{"text": "a"}\n')
    step = {**SCRATCH, "data": {"train": str(tmp_path / "elsewhere.jsonl")}}
    with pytest.raises(Refused, match=r"data\.train is .* outside"):
        await tune(step)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ({"train": "nowhere.jsonl"}, EnvironmentLacks, "there is no file"),
        ({"train": "{{ examples.train }}"}, InputInvalid, "came out as None"),
    ],
)
async def test_missing_training_data_is_named(
    tune: Tune, data: dict[str, str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        await tune({**SCRATCH, "data": data}, scope={"examples": {"train": None}})


@pytest.mark.parametrize(
    ("models", "error", "message"),
    [
        ({"small": {"provider": "openai", "model": "gpt"}}, InputInvalid, "behind an endpoint"),
        (
            {"small": {"provider": "local", "model": "models:nothing@1"}},
            EnvironmentLacks,
            "no published model",
        ),
        ({}, EnvironmentLacks, "'small'"),
    ],
)
async def test_a_base_that_cannot_be_tuned_is_named_before_anything_starts(
    tune: Tune, store: Store, models: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        await tune(LORA, models=models)
    assert not list(store.folder("work").glob("*"))


@pytest.mark.slow
async def test_a_model_that_forgot_too_much_is_not_published_and_with_rehearsal_it_is(
    store: Store, tune: Tune, folder: Path
) -> None:
    def write(name: str, words: list[str]) -> None:
        rows = [
            {
                "prompt": [{"role": "user", "content": f"Say {word} {number}."}],
                "completion": [{"role": "assistant", "content": word}],
            }
            for number in range(10)
            for word in words
        ]
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("train.jsonl", ["red", "green", "blue", "black"])
    write("animals.jsonl", ["cat", "dog", "cow", "hen"])
    await tune({**SCRATCH, "max_steps": 120})
    models = {"small": {"provider": "local", "model": "models:tiny@1"}}
    rough = {
        "finetune": "full", "base": "small", "publish": "tuned", "max_length": 64, "max_steps": 60,
        "data": {"train": "animals.jsonl", "general": "train.jsonl"},
        "learning_rate": 0.02, "max_forgetting": 0.5,
    }  # fmt: skip
    with pytest.raises(GateNotMet, match="may have forgotten too much"):
        await tune(rough, models=models)
    assert store.models("tuned") == []
    passed = await tune({**rough, "rehearsal": 0.3}, models=models)
    assert passed.output["forgetting"]["high"] <= 0.5
    assert passed.output["model"] == "models:tuned@1"


@pytest.mark.slow
async def test_evaluations_and_checkpoints_are_in_the_record_while_training_runs(
    store: Store, tune: Tune
) -> None:
    begun = {"status": "running", "started_at": 0.0}
    store.put(
        RunRow(id="run1", chain="t", chain_hash="0" * 64, source=b"", **begun),
        StepRow(run_id="run1", id="tune", kind="finetune", once=True, **begun),
    )
    opening = RecordRow(id="rec1", run_id="run1", step="tune", row=-1, **begun)
    data = {"train": "train.jsonl", "validation": "train.jsonl"}
    seen: list[dict[str, Any]] = []

    class Told(list[Progress]):
        def append(self, progress: Progress) -> None:
            record = store.record("run1", "tune", -1)
            if record is not None and record.output:
                assert record.status == "running"
                seen.append(json.loads(record.output))

    done = await tune(
        {**SCRATCH, "data": data, "max_steps": 6, "eval_steps": 2, "save_steps": 3},
        opening=opening,
        told=Told(),
    )
    # What was there before the last report: the record is written after a report, and training goes on.
    steps = [(one["milestone"], one["step"]) for one in seen[-1]["history"]]
    assert {("evaluation", 2), ("checkpoint", 3), ("evaluation", 4)} <= set(steps)
    figures = seen[-1]["history"][0]
    assert figures["loss"] > 0 and figures["validation_loss"] > 0 and figures["memory_mb"] > 0
    assert figures["learning_rate"] > 0 and figures["grad_norm"] > 0
    assert [one["step"] for one in done.output["history"]] == [2, 4, 6]
