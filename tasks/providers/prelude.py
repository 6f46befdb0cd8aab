"""Virtual tokens as the keys and values that a cache begins with.

Owns the way from a trained prefix or prompt to these tensors: they are worked out once, when the model is
loaded, and an answer then costs what it costs after a few more tokens of prompt. Knows nothing of requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Prelude:
    """Keys and values of the virtual tokens, per layer, for one row."""

    layers: list[tuple[torch.Tensor, torch.Tensor]]

    @property
    def length(self) -> int:
        """How many virtual tokens there are."""
        return int(self.layers[0][0].shape[-2])

    def to(self, where: Any) -> Prelude:
        """Move the tensors to a device, or turn them into a number format."""
        return Prelude([(keys.to(where), values.to(where)) for keys, values in self.layers])

    def put_into(self, cache: Any, rows: int) -> None:
        """Fill an empty cache for so many rows."""
        for index, (keys, values) in enumerate(self.layers):
            cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), index)


def prelude_of(adapted: Any) -> Prelude:
    """Return the prelude of a PEFT model with a prefix or a prompt."""
    import torch

    with torch.inference_mode():
        prompt = adapted.get_prompt(batch_size=1)
        if isinstance(prompt, torch.Tensor):
            # Embeddings: the keys and values are what the base makes of them.
            prompt = adapted.get_base_model()(inputs_embeds=prompt, use_cache=True).past_key_values
        return Prelude([(layer.keys.clone(), layer.values.clone()) for layer in prompt.layers])
