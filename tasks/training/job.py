"""The order for one training and its result, as plain values that travel as JSON.

Owns the shapes that parent and child process share. Knows nothing of torch or of the store.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from chains.spec.finetuning import CHOOSING, Method, Task

ADAPTERS = frozenset({"lora", "adapter", "prefix", "prompt_tuning", "p_tuning", "ia3"})


def deciding_libraries(task: Task) -> tuple[str, ...]:
    """Return the libraries whose versions decide the weights."""
    also = {"causal": (), "classification": ("scikit-learn",), "embedding": ("sentence-transformers",)}
    return ("torch", "transformers", "peft", "trl", "tokenizers", *also[task])


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """How to train. Names and meanings are those of transformers and PEFT."""

    learning_rate: float
    num_train_epochs: float = 3.0
    max_steps: int | None = None
    per_device_train_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    packing: bool = False
    gradient_checkpointing: bool = False
    bf16: bool | None = None
    warmup_steps: int = 0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    lr_scheduler_type: str = "cosine"
    max_length: int = 512
    seed: int = 0
    save_steps: int = 500
    eval_steps: int = 200
    early_stopping_patience: int | None = None
    rehearsal: float = 0.0
    trains: Literal["full", "lora"] = "lora"
    beta: float = 0.1
    head: Literal["probe", "random"] = "probe"
    C: float = 1.0
    scale: float = 20.0
    freeze: list[str] = field(default_factory=list)
    train_last: int | None = None
    r: int = 16
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0
    lora_variant: Literal["lora", "rslora", "dora", "adalora"] = "lora"
    target_modules: list[str] | str = "all-linear"
    num_virtual_tokens: int = 20
    prefix_projection: bool = False
    encoder_hidden_size: int | None = None
    bottleneck_size: int = 64
    placement: Literal["houlsby", "pfeiffer"] = "houlsby"
    temperature: float = 1.0
    jsd_beta: float = 0.5
    label_weight: float = 0.0


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """Everything that a child process needs to train one model.

    `base` is a folder, or None for a model from nothing; then `architecture` holds the fields of
    chains.spec.Architecture. `teacher` is the folder of the model whose distributions are learnt, with
    `teacher_base` where that is an adapter; a student from nothing has its tokenizer.
    """

    method: Method
    train: str
    hyperparameters: Hyperparameters
    task: Task = "causal"
    validation: str | None = None
    general: str | None = None
    base: str | None = None
    architecture: dict[str, int] = field(default_factory=dict)
    teacher: str | None = None
    teacher_base: str | None = None
    threads: int | None = None

    @property
    def trains(self) -> str:
        """What the weights are: a method that says how weights change, also where the method says more."""
        if self.base is None:
            return "scratch"
        return self.hyperparameters.trains if self.method in CHOOSING else self.method

    @property
    def is_adapter(self) -> bool:
        """Whether the result is an adapter, to be loaded on top of its base."""
        return self.trains in ADAPTERS

    def to_json(self) -> str:
        """Write the job as JSON."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> TrainingJob:
        """Read what `to_json` wrote."""
        values = json.loads(text)
        return cls(**{**values, "hyperparameters": Hyperparameters(**values["hyperparameters"])})


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What one training came to. Losses are in nats per trained token; of texts and pairs per example."""

    steps: int
    train_loss: float
    validation_loss: float | None
    tokens: int
    seconds: float
    parameters_total: int
    parameters_trained: int
    validation_accuracy: float | None = None
    resumed_from_step: int | None = None
    stop_reason: Literal["steps", "early_stop"] = "steps"
    best_step: int | None = None
    gap: float | None = None
    gap_opened_at_step: int | None = None
    general_before: dict[str, float] | None = None
    general_after: dict[str, float] | None = None
    forgetting: dict[str, float] | None = None
    warnings: list[str] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)
    curve: list[dict[str, float]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    def metrics(self) -> dict[str, Any]:
        """Return what a step's outputs and gate, and the model's row, say of the training."""
        left_out = ("resumed_from_step", "versions", "history", "curve")
        return {name: value for name, value in asdict(self).items() if name not in left_out}

    def to_json(self) -> str:
        """Write the result as JSON."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> TrainingResult:
        """Read what `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        return cls(**values)
