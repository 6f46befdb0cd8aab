"""What a model still knows of a general set, before and after training, and what of that set is rehearsed.

Owns the cut of the general set, the losses per example and the interval of their difference. Knows nothing
of methods. Invariant: no example is both rehearsed and measured on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.training.batches import PadToLongest
from tasks.training.examples import MASKED, Example

if TYPE_CHECKING:
    import numpy as np

DRAWS = 2000
BATCH = 8


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its 95 % interval over `n` examples."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Losses:
    """Summed loss and number of targets per example."""

    nats: np.ndarray
    targets: np.ndarray


def cut(general: Sequence[Example], *, rehearses: bool, seed: int) -> tuple[list[Example], list[Example]]:
    """Return the examples to rehearse and those to measure on: halves, or all to measure on."""
    import numpy as np

    if not rehearses:
        return [], list(general)
    order = np.random.default_rng([seed, len(general)]).permutation(len(general)).tolist()
    half = len(order) // 2
    return [general[index] for index in order[:half]], [general[index] for index in order[half:]]


def rehearsed(train: list[Example], general: list[Example], *, share: float, seed: int) -> list[Example]:
    """Return the training examples with general ones mixed in, so that these make up `share` of all."""
    import numpy as np

    wanted = round(share / (1 - share) * len(train))
    if not wanted or not general:
        return train
    rng = np.random.default_rng([seed, wanted])
    whole, rest = divmod(wanted, len(general))
    chosen = [*range(len(general))] * whole + rng.permutation(len(general))[:rest].tolist()
    return [*train, *(general[index] for index in chosen)]


def losses(model: Any, examples: Sequence[Example], *, pad_id: int) -> Losses:
    """Measure the loss of each example, in evaluation mode."""
    import numpy as np
    import torch

    collate, nats, targets = PadToLongest(pad_id), [], []
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for at in range(0, len(examples), BATCH):
            collated = collate(list(examples[at : at + BATCH]))
            batch = {name: value.to(model.device) for name, value in collated.items()}
            labels = batch.pop("labels")[:, 1:]
            # Virtual tokens stand before the others; what they predict is not asked for.
            logits = model(**batch).logits[:, -batch["input_ids"].shape[1] :][:, :-1].float()
            each = torch.nn.functional.cross_entropy(
                logits.transpose(1, 2), labels, ignore_index=MASKED, reduction="none"
            )
            nats += each.sum(1).tolist()
            targets += (labels != MASKED).sum(1).tolist()
    model.train(was_training)
    return Losses(np.asarray(nats), np.asarray(targets, dtype=np.float64))


def mean(measured: Losses, *, seed: int) -> Interval:
    """Return the loss per target with its bootstrap interval over examples."""
    return _interval(measured.nats, measured.targets, seed)


def difference(before: Losses, after: Losses, *, seed: int) -> Interval:
    """Return how much more loss per target there is after training, paired by example."""
    return _interval(after.nats - before.nats, before.targets, seed)


def _interval(nats: np.ndarray, targets: np.ndarray, seed: int) -> Interval:
    import numpy as np

    rng = np.random.default_rng([seed, len(nats)])
    drawn = rng.integers(0, len(nats), size=(DRAWS, len(nats)))
    low, high = np.quantile(nats[drawn].sum(1) / targets[drawn].sum(1), [0.025, 0.975])
    return Interval(
        round(float(nats.sum() / targets.sum()), 6), round(float(low), 6), round(float(high), 6), len(nats)
    )
