"""Going on with a text: what a causal language model learns, from chats, prompts with answers, and texts.

Owns which examples are read how. Knows nothing of methods, checkpoints or processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.training import forgetting
from tasks.training.batches import LengthGroupedOrder, PadToLongest
from tasks.training.examples import Example, load_examples
from tasks.training.job import TrainingJob
from tasks.training.learner import Learner, learner_of_base, load_base
from tasks.training.scratch import learner_from_nothing

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Causal:
    """Next tokens, of which only the model's own words are targets."""

    job: TrainingJob

    def untrained(self, work: Path) -> Learner:
        """Load the base, or make a model from nothing."""
        if self.job.base is None:
            return learner_from_nothing(self.job, work)
        return learner_of_base(self.job.base, max_length=self.job.hyperparameters.max_length)

    def examples(self, learner: Learner) -> tuple[list[Example], list[Example] | None, list[Example]]:
        """Encode the rows of each file."""
        job = self.job
        pairs, chats = job.method == "preference", job.method == "instruction"

        def load(path: str, *, chats_only: bool, completion: str | None = None) -> list[Example]:
            return load_examples(
                path,
                learner.tokenizer,
                stop_ids=learner.stop_ids,
                max_length=job.hyperparameters.max_length,
                chats_only=chats_only,
                completion=completion or "completion",
            )

        if pairs:
            # Of each pair both answers are checked; the better one stands for it where one is measured.
            for part in filter(None, (job.train, job.validation)):
                load(part, chats_only=False, completion="rejected")
        chosen = "chosen" if pairs else None
        return (
            load(job.train, chats_only=chats, completion=chosen),
            load(job.validation, chats_only=chats, completion=chosen) if job.validation else None,
            load(job.general, chats_only=False) if job.general else [],
        )

    def order(self, train: Sequence[Example]) -> Callable[[int, int], Iterable[int]]:
        """Put examples of similar length into one batch."""
        lengths = [len(example.input_ids) for example in train]
        return lambda batch_size, seed: LengthGroupedOrder(lengths, batch_size=batch_size, seed=seed)

    def collator(self, learner: Learner) -> Callable[[list[Example]], dict[str, Any]]:
        """Pad to the longest of the batch."""
        return PadToLongest(learner.tokenizer.pad_token_id)

    def trainer_options(self) -> dict[str, Any]:
        """Nothing besides the loss is measured."""
        return {}

    def guessing(self, learner: Learner) -> float:
        """Return the loss of equally likely tokens."""
        return math.log(len(learner.tokenizer))

    def begin(self, learner: Learner, train: Sequence[Example], should_stop: Callable[[], bool]) -> None:
        """Leave the model as it is: nothing in it is new."""

    def losses(self, learner: Learner, general: Sequence[Example]) -> forgetting.Losses:
        """Measure the loss over the targets of each example."""
        return forgetting.losses(learner.model, general, pad_id=learner.tokenizer.pad_token_id)

    def answers(self, model: Any, example: Example) -> torch.Tensor:
        """Return the logits at each token."""
        import torch

        ids = torch.tensor([example.input_ids.tolist()])
        logits: torch.Tensor = model(input_ids=ids.to(model.device)).logits
        return logits

    def warnings(self, train: Sequence[Example]) -> list[str]:
        """Say nothing more than what counts say."""
        return []

    def save(self, learner: Learner, folder: Path) -> None:
        """Write the model, or the adapter alone."""
        learner.model.save_pretrained(folder)
        learner.tokenizer.save_pretrained(folder)

    def reload(self, folder: Path) -> Any:
        """Load the model, or the adapter on its base."""
        if not self.job.is_adapter:
            return load_base(str(folder))[0]
        from tasks.training.adapters import load_adapter

        assert self.job.base is not None, "an adapter has a base"
        return load_adapter(load_base(self.job.base)[0], folder)
