"""What a model learns: its examples, the model's form, and what its loss and answers are.

Owns the shape that the loop works with and the choice of the room: .causal, .classification or .embedding.
Knows nothing of methods, checkpoints or processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tasks.training.forgetting import Losses
from tasks.training.job import TrainingJob
from tasks.training.learner import Learner

if TYPE_CHECKING:
    import torch


class Objective(Protocol):
    """One task that a model can learn, for one job. Examples are opaque to the loop."""

    def untrained(self, work: Path) -> Learner:
        """Make the model and tokenizer that the job starts from, before its method touches them."""
        ...

    def examples(self, learner: Learner) -> tuple[list[Any], list[Any] | None, list[Any]]:
        """Read training, validation and general examples; InputInvalid names the lines that do not fit."""
        ...

    def order(self, train: Sequence[Any]) -> Callable[[int, int], Iterable[int]]:
        """Return what makes the sampler of the training examples, from batch size and seed."""
        ...

    def collator(self, learner: Learner) -> Callable[[list[Any]], dict[str, Any]]:
        """Return what puts examples into a batch."""
        ...

    def trainer_options(self) -> dict[str, Any]:
        """Return what the Trainer is given besides: how accuracy is measured."""
        ...

    def guessing(self, learner: Learner) -> float:
        """Return the loss of a model that finds every answer equally likely."""
        ...

    def begin(self, learner: Learner, train: Sequence[Any], should_stop: Callable[[], bool]) -> None:
        """Give what is new in the model its first weights, where the job does not go on from a checkpoint."""
        ...

    def losses(self, learner: Learner, general: Sequence[Any]) -> Losses:
        """Measure the loss of each general example, in evaluation mode."""
        ...

    def answers(self, model: Any, example: Any) -> torch.Tensor:
        """Return what the model says to one example, to be compared with what the saved files say."""
        ...

    def warnings(self, train: Sequence[Any]) -> list[str]:
        """Say what in the examples makes the result doubtful."""
        ...

    def save(self, learner: Learner, folder: Path) -> None:
        """Write weights (safetensors) and tokenizer files."""
        ...

    def reload(self, folder: Path) -> Any:
        """Load what `save` wrote, on its base where it is an adapter."""
        ...


def objective_of(job: TrainingJob) -> Objective:
    """Return what the job is to learn."""
    match job.task:
        case "causal":
            from tasks.training.causal import Causal

            return Causal(job)
        case "classification":
            from tasks.training.classification import Classification

            return Classification(job)
        case "embedding":
            from tasks.training.embedding import Embedding

            return Embedding(job)
