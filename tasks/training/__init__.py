"""Training in a child process: what to train, how far it is, and the files it leaves behind."""

from __future__ import annotations

from tasks.training.job import Hyperparameters, TrainingJob, TrainingResult
from tasks.training.process import TrainingProgress, train

__all__ = ["Hyperparameters", "TrainingJob", "TrainingProgress", "TrainingResult", "train"]
