"""A model and its tokenizer in memory, before it is trained.

Owns loading a base and what can be said of any model: its parameters and the tokens that end an answer.
Knows nothing of methods or loops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chains.errors import EnvironmentLacks, InputInvalid

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(slots=True)
class Learner:
    """A model in its untrained state, with its tokenizer and the tokens that end an answer."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    stop_ids: list[int]

    @property
    def body(self) -> Any:
        """The part of the model that a method changes: an encoder without what is put over it, else all."""
        return self.model.encoder if getattr(self.model, "wraps_encoder", False) else self.model

    def with_body(self, body: Any) -> Learner:
        """Return the learner with this part in the other's place."""
        if not getattr(self.model, "wraps_encoder", False):
            return Learner(body, self.tokenizer, self.stop_ids)
        self.model.encoder = body
        return self

    def parameters(self) -> tuple[int, int]:
        """Count all parameters and those that are trained."""
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in self.model.parameters()]
        return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def load_base(folder: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model in float32 from a folder; safetensors only, no remote code."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            folder, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
    except (OSError, ValueError) as error:
        raise EnvironmentLacks(
            f"The model in {folder!r} cannot be loaded: {str(error)[:200]}",
            hint="It needs config.json, tokenizer files and safetensors.",
        ) from error
    return model, tokenizer


def learner_of_base(folder: str, *, max_length: int) -> Learner:
    """Load a base model, ready for a method to choose what of it is trained."""
    model, tokenizer = load_base(folder)
    check_window(model, tokenizer, max_length=max_length)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return Learner(model, tokenizer, _stop_ids(model, tokenizer))


def check_window(model: Any, tokenizer: Any, *, max_length: int) -> None:
    """Raise InputInvalid where examples may be longer than what the model takes at once."""
    window = getattr(model.config, "max_position_embeddings", None)
    if window is not None and max_length > window:
        raise InputInvalid(f"max_length ({max_length}) is more than the base model's window ({window}).")


def _stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    configured = model.generation_config.eos_token_id if model.generation_config else None
    several = configured if isinstance(configured, list) else [configured]
    return sorted({one for one in [*several, tokenizer.eos_token_id] if one is not None})
