"""The model that each method starts from.

Owns the choice of the method's room: .scratch, .whole or .adapters. Knows nothing of loops or processes.
"""

from __future__ import annotations

from pathlib import Path

from tasks.training.adapters import with_adapter
from tasks.training.job import TrainingJob
from tasks.training.learner import Learner, learner_of_base
from tasks.training.scratch import learner_from_nothing
from tasks.training.whole import with_frozen_layers


def untrained(job: TrainingJob, work: Path) -> Learner:
    """Make the model and tokenizer that the job starts from, before its method touches them."""
    if job.base is None:
        return learner_from_nothing(job, work)
    return learner_of_base(job.base, max_length=job.hyperparameters.max_length)


def prepared(job: TrainingJob, learner: Learner, *, total_steps: int) -> Learner:
    """Mark what is trained, or add it. `total_steps` are the optimizer steps that the job will take."""
    if job.is_adapter:
        return with_adapter(job, learner, total_steps=total_steps)
    return with_frozen_layers(job, learner)
