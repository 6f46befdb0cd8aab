"""A linear probe: a head fitted at once on the vectors of an encoder that stays as it is.

Owns what is reported of it, in the form of a training of one step. Knows nothing of files or checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tasks.training.fitting import TRAIN_LOSS, VALIDATION_ACCURACY, VALIDATION_LOSS
from tasks.training.learner import Learner
from tasks.training.watching import Watch, memory_mb

if TYPE_CHECKING:
    from tasks.training.classification import Classification, LabelledText


@dataclass(slots=True)
class ProbeState:
    """What the loop asks a trainer's state for."""

    num_input_tokens_seen: int
    log_history: list[dict[str, Any]] = field(default_factory=list)
    global_step: int = 1
    max_steps: int = 1
    best_global_step: int | None = None


def probed(
    objective: Classification,
    learner: Learner,
    watch: Watch,
    *,
    train: Sequence[LabelledText],
    validation: Sequence[LabelledText] | None,
) -> ProbeState:
    """Fit the head and measure it."""
    objective.fit_probe(learner, train, watch.should_stop)
    state = ProbeState(sum(len(example.input_ids) for example in train))
    loss, _ = objective.measured(learner, train)
    state.log_history.append({"step": 1, "loss": loss})
    watch.report(
        {
            "event": "step", "step": 1, "total": 1, "loss": loss, "learning_rate": 0.0, "grad_norm": 0.0,
            "tokens": state.num_input_tokens_seen, "memory_mb": memory_mb(),
        }
    )  # fmt: skip
    if validation is not None:
        found, accuracy = objective.measured(learner, validation)
        figures = {TRAIN_LOSS: loss, VALIDATION_LOSS: found, VALIDATION_ACCURACY: accuracy}
        state.log_history.append({"step": 1, **figures})
        watch.report({"event": "validation", "step": 1, "loss": found})
    return state
