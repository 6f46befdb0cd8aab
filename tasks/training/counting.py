"""How many parameters a training would train and store, without weights, data or a training.

Owns the count on the meta device, where tensors have shapes and no contents: a model of any size is counted
in seconds. Knows nothing of files of weights: it reads the base's configuration alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chains.spec.finetuning import VIRTUAL_TOKENS
from tasks.training.job import TrainingJob
from tasks.training.learner import Learner
from tasks.training.methods import prepared


@dataclass(frozen=True, slots=True)
class Counts:
    """Parameters of the model with all that is added, those that are trained, and those that are stored."""

    total: int
    trained: int
    stored: int


def count(job: TrainingJob) -> Counts:
    """Count for a job whose base is a folder; a model from scratch is counted with its whole vocabulary."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

    if job.base is None:
        config = LlamaConfig(**job.architecture, tie_word_embeddings=True)
    else:
        config = AutoConfig.from_pretrained(Path(job.base), trust_remote_code=False)
    with torch.device("meta"):
        return count_on(job, AutoModelForCausalLM.from_config(config))


def count_on(job: TrainingJob, model: Any) -> Counts:
    """Count for a model on the meta device, which the method changes."""
    import torch

    with torch.device("meta"):
        learner = prepared(job, Learner(model, tokenizer=None, stop_ids=[]), total_steps=100)
    total, trained = learner.parameters()
    if job.trains in VIRTUAL_TOKENS:
        return Counts(total, trained, _virtual(learner.model))
    return Counts(total, trained, trained if job.is_adapter else total)


def _virtual(model: Any) -> int:
    """Count what is stored of virtual tokens: what the network made of them, and not the network."""
    config = model.active_peft_config
    per_token = config.token_dim * (config.num_layers * 2 if config.peft_type == "PREFIX_TUNING" else 1)
    return int(config.num_virtual_tokens * per_token)
