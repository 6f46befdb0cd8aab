"""Preference tuning of the shipped starter: what was chosen becomes likelier than what was rejected."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from chains.errors import Cancelled, InputInvalid
from tasks.providers.weights import STARTER
from tasks.training import Hyperparameters, TrainingJob, TrainingResult
from tasks.training.examples import load_examples
from tasks.training.learner import load_base
from tasks.training.loop import run
from tasks.training.saving import reload
from tasks.training.watching import Watch


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    words = ("refund", "delivery", "question", "invoice")
    path = tmp_path / "pairs.jsonl"
    with path.open("w") as out:
        for number in range(16):
            said = {"chosen": words[number % 4], "rejected": words[(number + 1) % 4]}
            row: dict[str, Any] = {
                name: [{"role": "assistant", "content": word}] for name, word in said.items()
            }
            row["prompt"] = [{"role": "user", "content": f"Topic of {number}: {words[number % 4]}"}]
            out.write(json.dumps(row) + "\n")
    return path


def order(train: Path, **changed: Any) -> TrainingJob:
    values = {
        "learning_rate": 1e-2,
        "max_steps": 12,
        "max_length": 128,
        "save_steps": 1000,
        "r": 4,
        **changed,
    }
    return TrainingJob(
        method="preference",
        train=str(train),
        validation=str(train),
        base=str(STARTER),
        hyperparameters=Hyperparameters(**{**values, **changed}),
        threads=1,
    )


def trained(job: TrainingJob, work: Path, should_stop: Callable[[], bool] = lambda: False) -> TrainingResult:
    work.mkdir(exist_ok=True)
    return run(job, work, Watch(lambda _: None, should_stop))


def margins(model: Any, tokenizer: Any, path: Path) -> list[float]:
    """How much likelier each chosen answer is than its rejected one, in nats."""
    sums = []
    for key in ("chosen", "rejected"):
        total = []
        for one in load_examples(str(path), tokenizer, stop_ids=[], max_length=512, completion=key):
            ids, labels = (torch.from_numpy(part).long()[None] for part in (one.input_ids, one.labels))
            with torch.inference_mode():
                logits = model.eval()(input_ids=ids, use_cache=False).logits
            total.append(
                -float(torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], reduction="sum"))
            )
        sums.append(total)
    return [chosen - rejected for chosen, rejected in zip(*sums, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("trains", ["lora", "full"])
def test_the_chosen_answers_win_and_the_base_stays(trains: str, pairs: Path, tmp_path: Path) -> None:
    job = order(pairs, trains=trains, learning_rate=1e-2 if trains == "lora" else 1e-3)
    base, tokenizer = load_base(str(STARTER))
    before = margins(base, tokenizer, pairs)
    result = trained(job, tmp_path / "work")
    after = margins(reload(job, tmp_path / "work" / "model"), tokenizer, pairs)
    assert sum(after) / len(after) > sum(before) / len(before) + 1
    assert all(later > 0 for later in after)
    if trains == "lora":
        stored = load_file(next((tmp_path / "work" / "model").glob("*.safetensors")))
        assert not (tmp_path / "work" / "model" / "ref").exists()
        assert sum(value.numel() for value in stored.values()) == result.parameters_trained < 60_000
    else:
        assert result.parameters_trained == result.parameters_total


@pytest.mark.slow
def test_a_preference_training_that_was_stopped_ends_with_the_same_weights(
    pairs: Path, tmp_path: Path
) -> None:
    job = order(pairs, max_steps=6, save_steps=2)
    whole = trained(job, tmp_path / "whole")
    asked = iter([False, False, True])
    with pytest.raises(Cancelled):
        trained(job, tmp_path / "cut", lambda: next(asked, True))
    resumed = trained(job, tmp_path / "cut")
    assert resumed.resumed_from_step == 3
    assert resumed.train_loss == whole.train_loss
    one, two = (
        load_file(next((tmp_path / name / "model").glob("*.safetensors"))) for name in ("whole", "cut")
    )
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_row_that_is_no_pair_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "chosen": "b"}\n')
    with pytest.raises(InputInvalid, match="line 1: a pair needs 'prompt', 'chosen' and 'rejected'"):
        trained(order(tmp_path / "rows.jsonl"), tmp_path / "work")
