"""How surprised a causal model is by texts: the loss of each token given those before it.

Owns the windows that a long text is read through, and what counts. Knows nothing of steps or requests. Runs
in the worker thread of tasks.providers.batching.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.providers.chat_model import ChatModel

BATCH_TOKENS = 2048
"""Padded tokens of one forward pass: each has a number for every word of the vocabulary."""


@dataclass(frozen=True, slots=True)
class TextLoss:
    """Summed loss of a text in nats, and how many of its tokens were predicted."""

    nats: float
    tokens: int


@dataclass(frozen=True, slots=True)
class _Window:
    """A stretch of one text; the tokens before `first` are read and not counted again."""

    text: int
    ids: list[int]
    first: int


def text_losses(model: ChatModel, texts: Sequence[str]) -> list[TextLoss]:
    """Return the loss of each text, special tokens as the tokenizer adds them.

    The first token has nothing before it and is not predicted. A text that is longer than the model's window
    is read through windows that overlap by half, and each token is counted once.
    """
    nats, tokens = [0.0] * len(texts), [0] * len(texts)
    windows = []
    for number, text in enumerate(texts):
        ids: list[int] = model.tokenizer(text, verbose=False)["input_ids"]
        windows += _windows(number, ids, model.window)
    for batch in _batches(windows):
        for window, loss in zip(batch, _losses(model, batch), strict=True):
            nats[window.text] += loss
            tokens[window.text] += len(window.ids) - window.first
    return [TextLoss(*pair) for pair in zip(nats, tokens, strict=True)]


def _windows(number: int, ids: list[int], width: int) -> list[_Window]:
    found, done = [], 1
    while done < len(ids):
        start = 0 if done == 1 else done - width // 2
        end = min(start + width, len(ids))
        found.append(_Window(number, ids[start:end], done - start))
        done = end
    return found


def _batches(windows: Sequence[_Window]) -> list[list[_Window]]:
    found: list[list[_Window]] = []
    for window in sorted(windows, key=lambda window: len(window.ids)):
        if found and len(window.ids) * (len(found[-1]) + 1) <= BATCH_TOKENS:
            found[-1].append(window)
        else:
            found.append([window])
    return found


def _losses(model: ChatModel, batch: Sequence[_Window]) -> list[float]:
    import torch

    width = max(len(window.ids) for window in batch)
    # Padded behind, where a causal model does not look; what it makes of the padding is not counted.
    tokens = torch.tensor([window.ids + [0] * (width - len(window.ids)) for window in batch])
    mask = torch.tensor([[1] * len(window.ids) + [0] * (width - len(window.ids)) for window in batch])
    device = model.model.device
    with torch.inference_mode():
        logits = model.model(**_given(model, tokens.to(device), mask.to(device))).logits
        # Row by row: in float32 a batch over a large vocabulary would not fit where the model does.
        return [
            float(
                torch.nn.functional.cross_entropy(
                    logits[row, window.first - 1 : len(window.ids) - 1].float(),
                    tokens[row, window.first : len(window.ids)].to(device),
                    reduction="sum",
                )
            )
            for row, window in enumerate(batch)
        ]


def _given(model: ChatModel, tokens: Any, mask: Any) -> dict[str, Any]:
    if model.prelude is None:
        return {"input_ids": tokens, "attention_mask": mask, "use_cache": False}
    import torch
    from transformers import DynamicCache

    rows = len(tokens)
    cache = DynamicCache(config=model.model.config)
    model.prelude.put_into(cache, rows)
    before = torch.ones(rows, model.prelude.length, dtype=mask.dtype, device=mask.device)
    return {
        "input_ids": tokens,
        "attention_mask": torch.cat([before, mask], dim=1),
        "past_key_values": cache,
    }
