"""Examples put together into padded batches of similar length, in an order that only the seed decides.

Owns the order and the padding. Knows nothing of training. An epoch's order depends on (seed, epoch) alone and
not on a global generator, so that a training that goes on from a checkpoint sees the same batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tasks.training.examples import MASKED, Example

if TYPE_CHECKING:
    import numpy as np
    import torch

BATCHES_PER_POOL = 50


class EpochOrder:
    """What samplers share that give each epoch an order of its own, the same again for the same seed."""

    def __init__(self, *, batch_size: int, seed: int) -> None:
        self.batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose which epoch's order the next iteration gives."""
        self._epoch = epoch

    def rng(self) -> np.random.Generator:
        """Return the source of chance of this epoch."""
        import numpy as np

        return np.random.default_rng([self._seed, self._epoch])


class LengthGroupedOrder(EpochOrder):
    """A sampler: shuffled, then sorted by length within pools of 50 batches, then shuffled by batch."""

    def __init__(self, lengths: Sequence[int], *, batch_size: int, seed: int) -> None:
        super().__init__(batch_size=batch_size, seed=seed)
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = self.rng()
        shuffled = rng.permutation(len(self.lengths)).tolist()
        pool = self.batch_size * BATCHES_PER_POOL
        batches: list[list[int]] = []
        for start in range(0, len(shuffled), pool):
            by_length = sorted(shuffled[start : start + pool], key=lambda index: -self.lengths[index])
            batches += [
                by_length[at : at + self.batch_size] for at in range(0, len(by_length), self.batch_size)
            ]
        # A batch that is not full must stay last, or the sampler's cut into batches would shift.
        full = [batch for batch in batches if len(batch) == self.batch_size]
        rest = [batch for batch in batches if len(batch) < self.batch_size]
        order = [full[index] for index in rng.permutation(len(full)).tolist()]
        yield from (index for batch in [*order, *rest] for index in batch)


class PadToLongest:
    """Collate examples into tensors, padded at the end to the longest of the batch."""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, examples: list[Example]) -> dict[str, torch.Tensor]:
        """Stack the examples."""
        import torch

        width = max(len(example.input_ids) for example in examples)
        shape = (len(examples), width)
        batch: dict[str, Any] = {
            "input_ids": torch.full(shape, self.pad_id, dtype=torch.long),
            "attention_mask": torch.zeros(shape, dtype=torch.long),
            "labels": torch.full(shape, MASKED, dtype=torch.long),
        }
        for row, example in enumerate(examples):
            length = len(example.input_ids)
            batch["input_ids"][row, :length] = torch.from_numpy(example.input_ids)
            batch["attention_mask"][row, :length] = 1
            batch["labels"][row, :length] = torch.from_numpy(example.labels)
        if any(example.positions is not None for example in examples):
            return _apart(batch, examples)
        return batch


def packed(examples: Sequence[Example], *, max_length: int) -> list[Example]:
    """Put examples into rows of at most `max_length` tokens: the longest first, each where it fits."""
    import numpy as np

    rows: list[tuple[int, list[Example]]] = []
    for example in sorted(examples, key=lambda one: -len(one.input_ids)):
        size = len(example.input_ids)
        at = next((at for at, (used, _) in enumerate(rows) if used + size <= max_length), len(rows))
        used, held = rows[at] if at < len(rows) else (0, [])
        rows[at : at + 1] = [(used + size, [*held, example])]
    return [
        Example(
            np.concatenate([one.input_ids for one in held]),
            np.concatenate([_from_second(one.labels) for one in held]),
            np.concatenate([np.arange(len(one.input_ids)) for one in held]),
        )
        for _, held in rows
    ]


def _from_second(labels: Any) -> Any:
    """Mask the first label: nothing of the same example predicts it, but the example before would."""
    masked = labels.copy()
    masked[0] = MASKED
    return masked


def _apart(batch: dict[str, Any], examples: list[Example]) -> dict[str, Any]:
    """Give positions in place of a mask: the model keeps examples apart where positions begin anew."""
    import torch

    positions = torch.arange(batch["input_ids"].shape[1]).repeat(len(examples), 1)
    for row, example in enumerate(examples):
        length = len(example.input_ids)
        if example.positions is not None:
            positions[row, :length] = torch.from_numpy(example.positions)
        positions[row, length:] = torch.arange(positions.shape[1] - length)
    # With a cache the model would not look at positions, and the examples would see each other.
    return {
        "input_ids": batch["input_ids"],
        "labels": batch["labels"],
        "position_ids": positions,
        "use_cache": False,
    }
