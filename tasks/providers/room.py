"""How large the batches of a local model may be, when its device's memory turned out to be too small for one.

Owns the halving: the batch that did not fit is done in two halves, and later ones are half as large. Once
only: a device that is too small for that as well is told to the user. Knows nothing of models.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from chains.errors import StepFailed
from tasks.providers.batching import Job
from tasks.providers.device import free_unused, is_out_of_memory, memory_text

_LOG = logging.getLogger(__name__)

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class Room:
    """The room that the batches of one model have."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._halved = False

    def of(self, size: int) -> int:
        """Return how much of a batch of this size there is room for."""
        return max(size // 2, 1) if self._halved else size

    def within(
        self, run: Callable[[Sequence[Job[Asked, Answer]]], None]
    ) -> Callable[[Sequence[Job[Asked, Answer]]], None]:
        """Return `run` for batches that are done in halves, the first time that one does not fit.

        What does not fit then either is a StepFailed of its calls.
        """

        def fitting(jobs: Sequence[Job[Asked, Answer]]) -> None:
            left = self._tried(run, jobs)
            if not left:
                return
            if self._halved or len(left) == 1:
                raise self._too_large(len(left))
            self._halved = True
            # Out of the failed try, whose frames held its tensors.
            free_unused()
            half = -(-len(left) // 2)
            _LOG.warning(
                "Model %r: a batch of %d did not fit into memory (%s); it is done in two halves, and later "
                "batches are half as large.",
                *(self._name, len(jobs), memory_text()),
            )
            for some in (left[:half], left[half:]):
                if self._tried(run, some):
                    raise self._too_large(len(some))

        return fitting

    def _tried(
        self, run: Callable[[Sequence[Job[Asked, Answer]]], None], jobs: Sequence[Job[Asked, Answer]]
    ) -> list[Job[Asked, Answer]]:
        """Run a batch; return what has no answer since the memory was full."""
        try:
            run(jobs)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return [job for job in jobs if not job.future.done()]
        return []

    def _too_large(self, rows: int) -> StepFailed:
        free_unused()
        return StepFailed(
            f"The device has no memory for a batch of {rows} of the local model {self._name!r} "
            f"({memory_text()}).",
            hint="Use a smaller model or shorter texts, or let `limits: {concurrency: 1}` ask one at a time.",
        )
