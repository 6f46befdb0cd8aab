"""What each method trains of a model.

Owns the choice of the method's room: .whole or .adapters. Knows nothing of tasks, loops or processes.
"""

from __future__ import annotations

from tasks.training.adapters import with_adapter
from tasks.training.job import TrainingJob
from tasks.training.learner import Learner
from tasks.training.whole import with_frozen_layers


def prepared(job: TrainingJob, learner: Learner, *, total_steps: int) -> Learner:
    """Mark what is trained, or add it. `total_steps` are the optimizer steps that the job will take."""
    if job.is_adapter:
        return with_adapter(job, learner, total_steps=total_steps)
    return with_frozen_layers(job, learner)
