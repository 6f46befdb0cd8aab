"""Preference tuning: the chosen answer of each pair becomes likelier than the rejected one (DPO, by TRL).

Owns the pairs as TRL wants them and its trainer. Knows nothing of which weights are trained.
"""

from __future__ import annotations

from typing import Any

from tasks.training.examples import read_rows
from tasks.training.job import TrainingJob
from tasks.training.learner import Learner
from tasks.training.trainer import trainer_class

REFERENCE = "ref"
_COLUMNS = ("prompt", "chosen", "rejected")


def preference_trainer(job: TrainingJob, learner: Learner, arguments: dict[str, Any]) -> Any:
    """Return TRL's trainer over the job's pairs; what they are compared with is the base itself."""
    from trl import DPOConfig, DPOTrainer

    given = job.hyperparameters
    train = _pairs(job.train)
    validation = _pairs(job.validation) if job.validation else None
    return trainer_class(DPOTrainer)(
        model=learner.model,
        args=DPOConfig(**arguments, beta=given.beta, max_length=given.max_length),
        train_dataset=train,
        eval_dataset=None
        if validation is None
        else {"validation": validation, "train": train.select(range(min(len(train), len(validation))))},
        processing_class=learner.tokenizer,
    )


def forget_reference(model: Any) -> None:
    """Drop the copy of the untrained adapter that TRL compares with, so that it is not published."""
    if REFERENCE in getattr(model, "peft_config", {}):
        model.delete_adapter(REFERENCE)


def _pairs(path: str) -> Any:
    from datasets import Dataset

    return Dataset.from_list([{name: row[name] for name in _COLUMNS} for _, row in read_rows(path)])
