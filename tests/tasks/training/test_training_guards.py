"""What keeps a training from harm: forgetting, over-fitting, too little data, a loss that runs away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chains.errors import TrainingDiverged
from tasks.training import TrainingJob, TrainingResult
from tasks.training.examples import Example
from tasks.training.fitting import curve_of, gap_of, warnings_of
from tasks.training.forgetting import cut, difference, losses, mean, rehearsed
from tasks.training.learner import load_base
from tasks.training.loop import run
from tasks.training.watching import Watch

Order = Callable[..., TrainingJob]
Write = Callable[..., Path]
QUIET = Watch(lambda _: None, lambda: False)


def trained(job: TrainingJob, work: Path) -> TrainingResult:
    work.mkdir(exist_ok=True)
    return run(job, work, QUIET)


def example(*ids: int) -> Example:
    return Example(np.asarray(ids, dtype=np.int32), np.asarray(ids, dtype=np.int32))


@pytest.fixture
def base(scratch: Order, tmp_path: Path) -> str:
    """A model that answers which colour a ball has."""
    trained(scratch(max_steps=120, save_steps=1000), tmp_path / "base")
    return str(tmp_path / "base" / "model")


@pytest.fixture
def animals(examples_file: Write) -> Path:
    names = ("cat", "dog", "cow", "hen")
    return examples_file(
        "animals.jsonl", {f"Pet {number}: {names[number % 4]}": names[number % 4] for number in range(40)}
    )


def test_forgetting_is_measured_with_its_interval_and_rehearsal_lessens_it(
    scratch: Order, base: str, animals: Path, colours: Path, tmp_path: Path
) -> None:
    changed = {"learning_rate": 0.02, "max_steps": 60, "save_steps": 1000}
    job = replace(
        scratch(train=animals, **changed), method="full", base=base, architecture={}, general=str(colours)
    )
    plain = trained(job, tmp_path / "plain")
    again = replace(job, hyperparameters=replace(job.hyperparameters, rehearsal=0.3))
    mixed = trained(again, tmp_path / "mixed")
    assert plain.forgetting is not None and mixed.forgetting is not None
    assert plain.forgetting["n"] == 40 and mixed.forgetting["n"] == 20
    assert plain.forgetting["low"] <= plain.forgetting["value"] <= plain.forgetting["high"]
    assert plain.forgetting["low"] > 0.5 > mixed.forgetting["high"]
    assert plain.general_before is not None and plain.general_after is not None
    rise = plain.general_after["value"] - plain.general_before["value"]
    assert plain.forgetting["value"] == pytest.approx(rise, abs=1e-5)


def test_what_is_rehearsed_is_never_measured_on() -> None:
    general = [example(number, 1) for number in range(31)]
    again, kept = cut(general, rehearses=True, seed=3)
    ids = [{int(one.input_ids[0]) for one in part} for part in (again, kept)]
    assert not ids[0] & ids[1] and ids[0] | ids[1] == set(range(31))
    assert cut(general, rehearses=False, seed=3) == ([], general)


@pytest.mark.parametrize(
    ("share", "general", "added"), [(0.1, 31, 10), (0.5, 31, 90), (0.0, 31, 0), (0.5, 0, 0)]
)
def test_the_share_of_rehearsal_is_what_was_asked_for(share: float, general: int, added: int) -> None:
    train = [example(number) for number in range(90)]
    mixed = rehearsed(train, [example(1000 + number) for number in range(general)], share=share, seed=0)
    assert mixed[:90] == train and len(mixed) == 90 + added
    counts = [[int(one.input_ids[0]) for one in mixed[90:]].count(1000 + number) for number in range(general)]
    assert max(counts, default=0) - min(counts, default=0) <= 1


def test_the_losses_of_examples_are_those_of_the_model(base: str, colours: Path) -> None:
    import torch

    from tasks.training.examples import load_examples

    model, tokenizer = load_base(base)
    found = load_examples(str(colours), tokenizer, stop_ids=[], max_length=64)[:9]
    measured = losses(model, found, pad_id=tokenizer.pad_token_id)
    for index, one in enumerate(found):
        ids, labels = (torch.from_numpy(part).long()[None] for part in (one.input_ids, one.labels))
        with torch.no_grad():
            alone = float(model(input_ids=ids, labels=labels).loss)
        assert measured.nats[index] / measured.targets[index] == pytest.approx(alone, abs=1e-4)
    assert difference(measured, measured, seed=0).value == 0
    assert mean(measured, seed=0).n == 9


@pytest.mark.parametrize(
    ("train", "validation", "opened"),
    [
        ([3.0, 1.0, 0.5], [3.1, 2.5, 2.6], 20),
        ([3.0, 1.0, 0.5, 0.4], [3.5, 1.1, 1.0, 1.1], 30),
        ([3.0, 1.0, 0.5], [3.1, 1.1, 0.6], None),
        ([3.0, 1.0, 0.9], [3.9, 2.0, 1.0], None),
    ],
)
def test_the_gap_is_told_with_the_step_from_which_it_stayed_wide(
    train: list[float], validation: list[float], opened: int | None
) -> None:
    log = [{"step": 10 * at, "eval_train_loss": loss} for at, loss in enumerate(train, start=1)]
    log += [{"step": 10 * at, "eval_validation_loss": loss} for at, loss in enumerate(validation, start=1)]
    gap = gap_of([*log, {"step": 5, "loss": 1.0}])
    assert gap is not None and gap.value == pytest.approx(validation[-1] - train[-1])
    assert gap.opened_at_step == opened


def test_learning_by_heart_is_noticed_and_learning_the_rule_is_not(
    scratch: Order, examples_file: Write, colours: Path, tmp_path: Path
) -> None:
    names = ("red", "green", "blue", "black")
    asked = {f"Ball {number} is {names[number % 3]}.": names[number % 3] for number in range(50, 74)}
    validation = examples_file("validation.jsonl", asked)
    few = examples_file(
        "few.jsonl", {f"Ball {number} is {names[number]}.": names[number] for number in range(3)}
    )
    changed = {"validation": validation, "max_steps": 100, "eval_steps": 20, "save_steps": 1000}
    rule = trained(scratch(**changed), tmp_path / "rule")
    heart = trained(scratch(train=few, **changed), tmp_path / "heart")
    assert rule.gap is not None and rule.gap_opened_at_step is None
    assert not any("Over-fitted" in text for text in rule.warnings)
    assert heart.gap is not None and heart.gap > 0.5
    assert heart.gap_opened_at_step is not None and heart.gap_opened_at_step < heart.steps
    assert any(f"since step {heart.gap_opened_at_step}" in text for text in heart.warnings)
    assert any("3 training examples are few" in text for text in heart.warnings)


def test_too_little_data_is_said() -> None:
    assert warnings_of(examples=500, validation=100, gap=None) == []
    assert "no validation data" in warnings_of(examples=500, validation=None, gap=None)[0]
    assert "say little" in warnings_of(examples=500, validation=4, gap=None)[0]


def test_a_loss_that_runs_away_leaves_the_last_checkpoint(scratch: Order, base: str, tmp_path: Path) -> None:
    changed = {"learning_rate": 1e3, "warmup_steps": 1000, "max_steps": 60, "save_steps": 1}
    job = replace(
        scratch(**changed, lr_scheduler_type="constant", max_grad_norm=1e9),
        method="full", base=base, architecture={},
    )  # fmt: skip
    with pytest.raises(TrainingDiverged) as caught:
        trained(job, tmp_path / "work")
    assert caught.value.hint is not None
    step = int(caught.value.hint.split("of step ")[1].split(" ")[0])
    assert (tmp_path / "work" / "checkpoints" / f"checkpoint-{step}" / "sealed.json").is_file()


def test_the_curve_of_a_long_training_has_few_points_that_stand_for_all_steps() -> None:
    log = [{"step": step, "loss": float(step), "learning_rate": 1 / step} for step in range(1, 1001)]
    log.insert(500, {"step": 500, "eval_validation_loss": 1.0})
    curve = curve_of(log, most=200)
    assert len(curve) == 200 and curve[-1]["step"] == 1000
    assert curve[0] == {"step": 5, "loss": 3.0, "learning_rate": 0.2}
    assert curve_of(log[:3]) == log[:3] and curve_of([]) == []
