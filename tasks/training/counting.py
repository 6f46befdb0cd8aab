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
    """Count for a job whose base is a folder; a model from scratch is counted with its whole vocabulary.

    A classifier's head is counted where its training file is there already, and else left out.
    """
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, LlamaConfig

    if job.base is None:
        config = LlamaConfig(**job.architecture, tie_word_embeddings=True)
    else:
        config = AutoConfig.from_pretrained(_transformer(Path(job.base)), trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM if job.task == "causal" else AutoModel
        return count_on(job, model.from_config(config))


def count_on(job: TrainingJob, model: Any) -> Counts:
    """Count for a model on the meta device, which the method changes."""
    import torch

    with torch.device("meta"):
        whole = model if job.task == "causal" else _encoder(job, model)
        learner = prepared(job, Learner(whole, tokenizer=None, stop_ids=[]), total_steps=100)
    total, trained = learner.parameters()
    if job.trains in VIRTUAL_TOKENS:
        return Counts(total, trained, _virtual(learner.model))
    return Counts(total, trained, trained if job.is_adapter else total)


def _transformer(base: Path) -> Path:
    """Return where the configuration is: a sentence embedder may have it in a folder of its own."""
    from tasks.embedders import layout_of

    return layout_of(base).transformer if (base / "modules.json").is_file() else base


def _encoder(job: TrainingJob, model: Any) -> Any:
    """Put over an encoder what its task does."""
    from tasks.training.classification import labels_in
    from tasks.training.encoder import TextClassifier, encoder_of
    from tasks.training.pair_encoder import PairEncoder

    encoder = encoder_of(model, None, pooling="mean")
    if job.task == "embedding":
        return PairEncoder(encoder, scale=job.hyperparameters.scale)
    if Path(job.train).is_file():
        return TextClassifier(encoder, labels_in(job.train))
    classifier = TextClassifier(encoder, ["a", "b"])
    del classifier.classifier
    return classifier


def _virtual(model: Any) -> int:
    """Count what is stored of virtual tokens: what the network made of them, and not the network."""
    config = model.active_peft_config
    per_token = config.token_dim * (config.num_layers * 2 if config.peft_type == "PREFIX_TUNING" else 1)
    return int(config.num_virtual_tokens * per_token)
