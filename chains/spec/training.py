"""Steps that run once over all rows to make a model: `prepare` and `finetune`.

Knows nothing of training loops (tasks.training).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from chains.spec.parts import Expression, Name, Part, Template
from chains.spec.steps import KeptStep, StepBase


class Split(Part):
    """Shares of rows, cut with a seed."""

    train: float = Field(default=0.8, ge=0, le=1)
    """Share for training."""
    validation: float = Field(default=0.1, ge=0, le=1)
    """Share for choosing."""
    test: float = Field(default=0.1, ge=0, le=1)
    """Share for the last measurement."""
    seed: int = 0
    """Seed of the shuffle."""
    group: str | None = None
    """A column; rows with one value of it stay in one part."""

    @model_validator(mode="after")
    def _sums_to_one(self) -> Split:
        if abs(self.train + self.validation + self.test - 1) > 1e-9:
            raise ValueError("train, validation and test must add up to 1")
        return self


class PrepareStep(KeptStep):
    """Read rows, clean, deduplicate and split them, and write them as training examples (once)."""

    prepare: str
    """A JSONL, CSV or Parquet file, or a template that gives its path."""
    like: Name | None = None
    """A prompt step: each example asks what that step would send for the row."""
    completion: Template | None = None
    """With `like`: the answer that the model should learn, from `row`."""
    text: Template | None = None
    """For plain language modelling: the text of an example, from `row`."""
    deduplicate: bool = True
    """Drop rows whose text was seen before (after Unicode and whitespace normalisation)."""
    split: Split = Split()
    """How the rows are cut."""

    @model_validator(mode="after")
    def _one_form(self) -> PrepareStep:
        if (self.like is None) != (self.completion is None):
            raise ValueError("'like' and 'completion' belong together")
        if self.like and self.text:
            raise ValueError("give either 'like' with 'completion', or 'text'")
        return self


class TrainingFiles(Part):
    """The files that a finetune step reads."""

    train: Template
    """Training examples (JSONL: `messages`, `prompt`/`completion` or `text`)."""
    validation: Template | None = None
    """Examples for early stopping."""


class Architecture(Part):
    """Shape of a model that is trained from nothing (Llama)."""

    hidden_size: int = Field(default=128, ge=8)
    """Width of the residual stream."""
    intermediate_size: int = Field(default=384, ge=8)
    """Width of the MLP."""
    num_hidden_layers: int = Field(default=4, ge=1)
    """Decoder layers."""
    num_attention_heads: int = Field(default=4, ge=1)
    """Query heads."""
    num_key_value_heads: int = Field(default=2, ge=1)
    """Key and value heads."""
    vocab_size: int = Field(default=1024, ge=300)
    """Size of the byte-level BPE vocabulary."""
    max_position_embeddings: int = Field(default=512, ge=16)
    """Longest context, in tokens."""


class FinetuneStep(StepBase):
    """Train a model (once) and publish it."""

    finetune: Literal["scratch", "lora"]
    """The method: `scratch` (own tokenizer and weights) or `lora` (low-rank adapter on `base`)."""
    base: str | None = None
    """A name under `models:`, a hub id or a folder. Not for `scratch`."""
    data: TrainingFiles
    """What to learn from."""
    publish: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")] | None = None
    """Name of the model in the store; each run of the step adds a version."""
    gate: Expression | None = None
    """A bare expression over the step's own metrics; where it is false nothing is published."""
    architecture: Architecture = Architecture()
    """For `scratch`: the model's shape."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Default: 2e-4 for lora, 3e-4 for scratch."""
    num_train_epochs: float = Field(default=3.0, gt=0)
    """Passes over the training examples."""
    max_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps; takes the place of epochs."""
    per_device_train_batch_size: int = Field(default=8, ge=1)
    """Examples per forward pass."""
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """Forward passes per optimizer step."""
    warmup_steps: int = Field(default=0, ge=0)
    """Optimizer steps until the learning rate is full."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW weight decay."""
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = "cosine"
    """Shape of the learning rate."""
    max_length: int = Field(default=512, ge=8)
    """Longest example, in tokens; longer ones fail the step."""
    seed: int = 0
    """Seed of weights, order and dropout."""
    save_steps: int = Field(default=500, ge=1)
    """Optimizer steps between checkpoints."""
    eval_steps: int = Field(default=200, ge=1)
    """Optimizer steps between evaluations, where there is validation data."""
    early_stopping_patience: int | None = Field(default=None, ge=1)
    """Evaluations without a better validation loss before training stops."""
    r: int = Field(default=16, ge=1)
    """Rank of a LoRA adapter (Hu et al. 2021, arXiv 2106.09685)."""
    lora_alpha: float = Field(default=32.0, gt=0)
    """LoRA scale: the update is multiplied by alpha / r."""
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the adapter."""
    target_modules: list[str] | Literal["all-linear"] = "all-linear"
    """Layers that get an adapter."""

    @model_validator(mode="after")
    def _base_fits_method(self) -> FinetuneStep:
        if self.finetune == "scratch" and self.base is not None:
            raise ValueError("finetune: scratch starts from nothing and takes no 'base'")
        if self.finetune == "lora" and self.base is None:
            raise ValueError("finetune: lora needs 'base'")
        return self
