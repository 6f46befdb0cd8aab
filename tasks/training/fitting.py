"""Whether a training learnt its examples by heart, and whether there were enough of them.

Owns the train-validation gap and the words of warning. Knows nothing of models: it reads the log of a
training, where both losses were measured in evaluation mode at the same step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

TRAIN_LOSS = "eval_train_loss"
VALIDATION_LOSS = "eval_validation_loss"
VALIDATION_ACCURACY = "eval_validation_accuracy"
WIDE_GAP = 0.2
FEW_EXAMPLES = 50
FEW_TO_VALIDATE = 20


@dataclass(frozen=True, slots=True)
class Gap:
    """Validation loss minus training loss at the end, and the step from which on it was wide."""

    value: float
    opened_at_step: int | None


def gap_of(log: Sequence[dict[str, Any]]) -> Gap | None:
    """Read the gap from a training's log; None where nothing was validated."""
    trained, validated = _by_step(log, TRAIN_LOSS), _by_step(log, VALIDATION_LOSS)
    steps = sorted(trained.keys() & validated.keys())
    if not steps:
        return None
    opened = None
    for step in steps:
        wide = validated[step] - trained[step] > WIDE_GAP
        opened = (opened or step) if wide else None
    return Gap(round(validated[steps[-1]] - trained[steps[-1]], 6), opened)


def history_of(log: Sequence[dict[str, Any]], *, most: int = 200) -> list[dict[str, float]]:
    """Return the losses of each evaluation, also of those before a training was cut off."""
    trained, validated = _by_step(log, TRAIN_LOSS), _by_step(log, VALIDATION_LOSS)
    steps = sorted(trained.keys() & validated.keys())[-most:]
    right = _by_step(log, VALIDATION_ACCURACY)
    return [
        {"step": at, "train_loss": trained[at], "validation_loss": validated[at]}
        | ({"validation_accuracy": right[at]} if at in right else {})
        for at in steps
    ]


def curve_of(log: Sequence[dict[str, Any]], *, most: int = 200) -> list[dict[str, float]]:
    """Return the loss and the learning rate over the steps, as at most `most` points.

    Where there are more steps, a point stands for several: the mean of their losses, and the last rate.
    """
    steps = [entry for entry in log if "loss" in entry and "step" in entry]
    size = max(1, -(-len(steps) // most))
    found = []
    for start in range(0, len(steps), size):
        part = steps[start : start + size]
        loss = sum(float(entry["loss"]) for entry in part) / len(part)
        rate = float(part[-1].get("learning_rate", 0.0))
        found.append({"step": int(part[-1]["step"]), "loss": round(loss, 6), "learning_rate": rate})
    return found


def warnings_of(*, examples: int, validation: int | None, gap: Gap | None) -> list[str]:
    """Say what makes the result doubtful and what would help."""
    found = []
    if examples < FEW_EXAMPLES:
        found.append(
            f"{examples} training examples are few: over-fitting is likely. More rows would help most, then "
            "fewer trained parameters (ia3, prompt_tuning, a smaller r), fewer epochs and early stopping."
        )
    if validation is None:
        found.append("There is no validation data, so over-fitting was not looked for.")
    elif validation < FEW_TO_VALIDATE:
        found.append(f"{validation} validation examples say little: the validation loss moves with each one.")
    if gap is not None and gap.opened_at_step is not None:
        found.append(
            f"Over-fitted: since step {gap.opened_at_step} the validation loss is more than {WIDE_GAP} above "
            f"the training loss (at the end {gap.value:.2f}). More rows, fewer steps or "
            "early_stopping_patience would help."
        )
    return found


def _by_step(log: Sequence[dict[str, Any]], name: str) -> dict[int, float]:
    return {int(entry["step"]): float(entry[name]) for entry in log if name in entry}
