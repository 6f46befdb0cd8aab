"""The `finetune` step: its methods, its data, its hyper-parameters, and which of them go together.

Owns the grammar. Knows nothing of training (tasks.training). Names are those of transformers and PEFT where
they have one. Invariant: a key that the method does not read is refused, so nothing is set in vain.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from chains.spec.distilling import CALLING_KEYS, DISTILL, DISTILL_KEYS, DistillKeys
from chains.spec.hosting import HOSTED, HOSTED_KEYS, HOSTED_READS, HostedKeys
from chains.spec.parts import Expression, Part, Template

Method = Literal[
    "scratch",
    "full",
    "transfer",
    "lora",
    "adapter",
    "prefix",
    "prompt_tuning",
    "p_tuning",
    "ia3",
    "instruction",
    "preference",
    "distill",
    "openai",
    "linear_probe",
]
Task = Literal["causal", "classification", "embedding"]

_FOR_ENCODERS = frozenset({"full", "transfer", "lora", "adapter", "ia3"})
METHODS_OF: dict[Task, frozenset[str]] = {
    "causal": frozenset(get_args(Method)) - {"linear_probe"},
    "classification": _FOR_ENCODERS | {"linear_probe"},
    "embedding": _FOR_ENCODERS,
}
"""The methods by which a model can learn each task."""

CHOOSING = frozenset({"instruction", "preference", "distill"})
FROM_NOTHING = frozenset({"scratch", "distill"})
"""Methods that make a model of their own where there is no `base`."""
_LORA = CHOOSING | {"lora"}
VIRTUAL_TOKENS = frozenset({"prefix", "prompt_tuning", "p_tuning"})
ONLY_FOR: dict[str, frozenset[str]] = {
    "architecture": FROM_NOTHING,
    "freeze": frozenset({"transfer"}),
    "train_last": frozenset({"transfer"}),
    "trains": CHOOSING,
    "beta": frozenset({"preference"}) | HOSTED,
    "r": _LORA,
    "lora_alpha": _LORA,
    "lora_dropout": _LORA,
    "lora_variant": _LORA,
    "target_modules": _LORA | {"ia3"},
    "num_virtual_tokens": VIRTUAL_TOKENS,
    "prefix_projection": frozenset({"prefix"}),
    "encoder_hidden_size": frozenset({"prefix", "p_tuning"}),
    "bottleneck_size": frozenset({"adapter"}),
    "placement": frozenset({"adapter"}),
    **dict.fromkeys((*DISTILL_KEYS, *CALLING_KEYS), DISTILL),
    **dict.fromkeys(HOSTED_KEYS, HOSTED),
    "budget": DISTILL | HOSTED,
}
"""Keys that only some methods read."""

ONLY_FOR_TASK: dict[str, frozenset[str]] = {
    "packing": frozenset({"causal"}),
    "gradient_checkpointing": frozenset({"causal"}),
    "head": frozenset({"classification"}),
    "C": frozenset({"classification"}),
    "scale": frozenset({"embedding"}),
}
"""Keys that only some tasks read."""

NOT_FOR_PROBE = (
    "learning_rate", "num_train_epochs", "max_steps", "gradient_accumulation_steps", "bf16", "warmup_steps",
    "weight_decay", "max_grad_norm", "lr_scheduler_type", "save_steps", "eval_steps",
    "early_stopping_patience", "head",
)  # fmt: skip
"""Keys of a training in steps; a linear probe is fitted at once."""


class TrainingFiles(Part):
    """The files that a finetune step reads."""

    train: Template
    """Training examples (JSONL: `messages`, `prompt`/`completion` or `text`; for `preference` `prompt`,
    `chosen` and `rejected`; for `classification` `text` and `label`; for `embedding` `anchor`, `positive`
    and, in all rows or in none, `negative`)."""
    validation: Template | None = None
    """Examples for early stopping, and for the gap between training and validation loss."""
    general: Template | None = None
    """Examples of what the base can do already: forgetting is measured on them before and after."""


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


class FinetuneStep(DistillKeys, HostedKeys):
    """Train a model (once) and publish it."""

    finetune: Method
    """The method: `scratch` (own tokenizer and weights), `full` (all weights of `base`), `transfer` (some
    layers frozen), `lora`, `adapter` (bottlenecks), `prefix`, `prompt_tuning`, `p_tuning`, `ia3`, or
    `instruction` (chats under the base's own template, see `trains`), `preference` (DPO), `distill`
    (from a `teacher`), `openai` (a job at the endpoint of `base`), or `linear_probe` (a classifier on the
    frozen vectors of an encoder)."""
    task: Task = "causal"
    """What the model learns: `causal` to go on with a text, `classification` to give a text one of the
    labels in the training data, `embedding` to bring the texts of a pair together. The last two begin with an
    encoder and take `full`, `transfer`, `lora`, `adapter` or `ia3`; classification also `linear_probe`."""
    base: str | None = None
    """A name under `models:`, a hub id or a folder. Not for `scratch`; `distill` without it makes a student
    from nothing."""
    data: TrainingFiles
    """What to learn from."""
    publish: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")] | None = None
    """Name of the model in the store; each run of the step adds a version."""
    gate: Expression | None = None
    """A bare expression over the step's own metrics; where it is false nothing is published."""
    architecture: Architecture = Architecture()
    """For `scratch`, and `distill` without `base`: the model's shape."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Default by what is trained: all weights 2e-5, frozen layers 1e-4, lora 2e-4, scratch 3e-4, adapter
    1e-3, ia3 3e-3, virtual tokens 1e-2, preference 1e-6 (all weights) or 1e-5 (lora). For classification
    all weights 1e-4, frozen layers 2e-4, lora and adapter 1e-3, ia3 3e-3."""
    num_train_epochs: float = Field(default=3.0, gt=0)
    """Passes over the training examples."""
    max_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps; takes the place of epochs."""
    per_device_train_batch_size: int = Field(default=8, ge=1)
    """Examples per forward pass."""
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """Forward passes per optimizer step."""
    packing: bool = False
    """Put several short examples into one row of up to `max_length` tokens, without their seeing each other.
    Not with virtual tokens, nor for `preference`."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, a third more time. Not with virtual
    tokens."""
    bf16: bool | None = None
    """Mixed precision in bfloat16. Default: where the device has it (CUDA), not on CPU."""
    warmup_steps: int = Field(default=0, ge=0)
    """Optimizer steps until the learning rate is full."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW weight decay."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""
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
    max_forgetting: float | None = Field(default=None, gt=0)
    """Publish nothing where the loss on `data.general` may have risen by more than this (nats per token, the
    upper end of the 95 % interval)."""
    rehearsal: float = Field(default=0.0, ge=0, le=0.9)
    """Share of `data.general` in what is trained on; half of that file is kept for measuring."""
    trains: Literal["full", "lora"] = "lora"
    """For `instruction`, `preference` and `distill`: whether all weights are trained or a LoRA adapter. A
    student from nothing is trained as a whole."""
    head: Literal["probe", "random"] = "probe"
    """For classification: what the head begins with, a linear probe (arXiv 2202.10054: it spares the encoder
    the gradients of a head that knows nothing) or random weights."""
    C: float = Field(default=1.0, gt=0)
    """For `linear_probe` and `head: probe`: inverse of the L2 penalty, as in scikit-learn."""
    scale: float = Field(default=20.0, gt=0)
    """For embedding: what cosine similarities are multiplied by before the softmax (the inverse of a
    temperature)."""
    beta: float = Field(default=0.1, gt=0)
    """For `preference`, and `openai` with `method: dpo`: how near the model stays to its base (arXiv
    2305.18290)."""
    freeze: list[str] = Field(default=[], max_length=100)
    """For `transfer`: names of layers that stay as they are, as they begin or as whole parts
    (`model.embed_tokens`, `layers.0`)."""
    train_last: int | None = Field(default=None, ge=0)
    """For `transfer`: only the last so many blocks, the final norm and an untied head are trained."""
    r: int = Field(default=16, ge=1)
    """Rank of a LoRA adapter (Hu et al. 2021, arXiv 2106.09685)."""
    lora_alpha: float = Field(default=32.0, gt=0)
    """LoRA scale: the update is multiplied by alpha / r."""
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the adapter."""
    lora_variant: Literal["lora", "rslora", "dora", "adalora"] = "lora"
    """`rslora` scales by alpha / sqrt(r) (arXiv 2312.03732), `dora` learns magnitudes apart (arXiv
    2402.09353), `adalora` begins with twice the rank and moves it to where it counts (arXiv 2303.10512)."""
    target_modules: list[str] | Literal["all-linear"] = "all-linear"
    """Layers that get an adapter. For `ia3`, `all-linear` means keys, values and the MLP's last layer."""
    num_virtual_tokens: int = Field(default=20, ge=1, le=1000)
    """Virtual tokens before each prompt (`prefix`, `prompt_tuning`, `p_tuning`)."""
    prefix_projection: bool = False
    """For `prefix`: learn it through a two-layer network, which is not stored (arXiv 2101.00190)."""
    encoder_hidden_size: int | None = Field(default=None, ge=1)
    """Width of the network that makes the virtual tokens (`p_tuning`, `prefix` with `prefix_projection`).
    Default: the base's width."""
    bottleneck_size: int = Field(default=64, ge=1)
    """For `adapter`: width of the bottleneck."""
    placement: Literal["houlsby", "pfeiffer"] = "houlsby"
    """For `adapter`: after attention and MLP (arXiv 1902.00751), or after the MLP alone (arXiv
    2005.00247)."""

    @model_validator(mode="after")
    def _base_fits_method(self) -> FinetuneStep:
        if self.finetune not in METHODS_OF[self.task]:
            fitting = ", ".join(sorted(METHODS_OF[self.task]))
            raise ValueError(f"finetune: {self.finetune} is not for task {self.task}, which takes {fitting}")
        if self.finetune == "scratch" and self.base is not None:
            raise ValueError("finetune: scratch starts from nothing and takes no 'base'")
        if self.finetune not in FROM_NOTHING and self.base is None:
            raise ValueError(f"finetune: {self.finetune} needs 'base'")
        if self.data.general is not None and self.base is None:
            raise ValueError(
                "a model from nothing has no base that could forget, so it takes no 'data.general'"
            )
        if self.data.general is not None and self.task == "classification":
            raise ValueError("a classifier's labels are new to its base, so it takes no 'data.general'")
        if self.data.general is None and (self.max_forgetting is not None or self.rehearsal):
            name = "rehearsal" if self.rehearsal else "max_forgetting"
            raise ValueError(f"'{name}' needs 'data.general'")
        return self

    @model_validator(mode="after")
    def _fits_host(self) -> FinetuneStep:
        if self.finetune != "openai":
            return self
        for name, field in type(self).model_fields.items():
            if name not in HOSTED_READS and getattr(self, name) != field.default:
                raise ValueError(f"'{name}' is for training on this machine, not for openai")
        if self.data.general is not None:
            raise ValueError("'data.general' is for training on this machine, not for openai")
        if self.method != "dpo" and self.beta != type(self).model_fields["beta"].default:
            raise ValueError("'beta' is for 'method: dpo'")
        return self

    @model_validator(mode="after")
    def _fits_level(self) -> FinetuneStep:
        if self.finetune != "distill":
            return self
        if self.teacher is None:
            raise ValueError("finetune: distill needs 'teacher'")
        if self.base is not None and self.architecture != Architecture():
            raise ValueError("a student is made from 'base' or from 'architecture', not from both")
        other = {"sequence": ("temperature", "jsd_beta", "label_weight"), "logits": ("max_unanswered",)}
        for name in (*other[self.level], *(CALLING_KEYS if self.level == "logits" else ())):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"'{name}' does not go with 'level: {self.level}'")
        return self

    @model_validator(mode="after")
    def _keys_fit_method(self) -> FinetuneStep:
        for name, methods in ONLY_FOR.items():
            if self.finetune not in methods and self._is_set(name):
                raise ValueError(f"'{name}' is for {', '.join(sorted(methods))}, not for {self.finetune}")
        for name, tasks in ONLY_FOR_TASK.items():
            if self.task not in tasks and self._is_set(name):
                raise ValueError(f"'{name}' is for task {', '.join(sorted(tasks))}, not for {self.task}")
        if self.finetune == "linear_probe" and (
            unread := [name for name in NOT_FOR_PROBE if self._is_set(name)]
        ):
            raise ValueError(f"'{unread[0]}' is not for linear_probe, which is fitted at once")
        if self.finetune == "transfer" and not self.freeze and self.train_last is None:
            raise ValueError("finetune: transfer needs 'freeze' or 'train_last'")
        if self.finetune in VIRTUAL_TOKENS and self.gradient_checkpointing:
            raise ValueError("gradient_checkpointing does not work with virtual tokens")
        if self.packing and self.finetune in VIRTUAL_TOKENS | {"preference"}:
            raise ValueError(f"packing does not work with finetune: {self.finetune}")
        return self

    def _is_set(self, name: str) -> bool:
        """Whether a key says something; a default that is written out does not."""
        return bool(getattr(self, name) != type(self).model_fields[name].default)
