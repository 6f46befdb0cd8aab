"""The decode loop of local chat models: one batch of token ids in, new token ids per row out.

Greedy at temperature 0, else sampling with one generator per row, so that no row's answer depends on which
others share its batch (beyond the rounding of a padded matrix product). transformers' own `generate` spends
more time in bookkeeping than a small model spends in arithmetic, and cannot seed rows one by one.
Knows nothing of text: token ids and a `finished` question per row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from tasks.providers.prelude import Prelude

# Compacting the cache copies it, so rows are dropped when a quarter of the batch has ended.
DROP_SHARE = 0.25


@dataclass(slots=True)
class Generation:
    """One row of a batch: what it was asked, how it samples, and what it has said so far.

    `ended` says whether the tokens so far complete the answer (a stop text), `given_up` whether nobody waits
    for it any longer; `on_end` is called once, as soon as this row has ended.
    """

    prompt: Sequence[int]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    given_up: Callable[[], bool] = lambda: False
    ended: Callable[[Sequence[int]], bool] = lambda _: False
    on_end: Callable[[], None] = lambda: None
    tokens: list[int] = field(default_factory=list)
    finish_reason: str | None = None


def decode(
    model: Any,
    rows: Sequence[Generation],
    *,
    stop_ids: frozenset[int],
    pad_id: int,
    prelude: Prelude | None = None,
) -> None:
    """Extend every row until it stops; fills `tokens` and `finish_reason` in place."""
    import torch

    with torch.inference_mode():
        padded = _pad_left([row.prompt for row in rows], pad_id, model.device)
        _decode(model, list(rows), padded, stop_ids=stop_ids, prelude=prelude)


def _decode(
    model: Any,
    live: list[Generation],
    padded: tuple[torch.Tensor, torch.Tensor],
    *,
    stop_ids: frozenset[int],
    prelude: Prelude | None,
) -> None:
    import torch
    from transformers import DynamicCache

    device = model.device
    generators = _generators(live, device)
    ids, mask = padded
    cache = DynamicCache(config=model.config)
    width = ids.shape[1]
    if prelude is not None:
        prelude.put_into(cache, len(live))
        mask = torch.cat([mask.new_ones(len(live), prelude.length), mask], dim=1)
        width += prelude.length
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    longest = max(row.max_tokens for row in live)
    mask = torch.cat([mask, mask.new_ones(len(live), longest)], dim=1)
    while live:
        out = model(
            input_ids=ids,
            attention_mask=mask[:, :width],
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        chosen = _choose(out.logits[:, -1, :], live, generators)
        keep = [index for index, row in enumerate(live) if not _take(row, chosen[index], stop_ids)]
        if not keep:
            return
        positions = positions[:, -1:] + 1
        ids = torch.tensor(chosen, device=device).unsqueeze(1)
        width += 1
        if len(keep) <= len(live) * (1 - DROP_SHARE):
            index = torch.tensor(keep, device=device)
            cache.batch_select_indices(index)
            ids, positions, mask = ids[index], positions[index], mask[index]
            live, generators = [live[i] for i in keep], [generators[i] for i in keep]


def _take(row: Generation, token: int, stop_ids: frozenset[int]) -> bool:
    """Add one token to a row; return whether the row has ended."""
    if row.finish_reason is None:
        if token in stop_ids:
            row.finish_reason = "stop"
        else:
            row.tokens.append(token)
            if row.ended(row.tokens):
                row.finish_reason = "stop"
            elif len(row.tokens) >= row.max_tokens:
                row.finish_reason = "length"
            elif row.given_up():
                row.finish_reason = "given_up"
        if row.finish_reason is not None:
            row.on_end()
    return row.finish_reason is not None


def _pad_left(
    prompts: Sequence[Sequence[int]], pad_id: int, device: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), pad_id, dtype=torch.long)
    mask = torch.zeros((len(prompts), width), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids.to(device), mask.to(device)


def _generators(rows: Sequence[Generation], device: Any) -> list[Any]:
    """One CPU generator per sampling row: the same numbers on every device."""
    import torch

    return [torch.Generator().manual_seed(row.seed) if row.temperature > 0 else None for row in rows]


def _choose(logits: torch.Tensor, rows: Sequence[Generation], generators: Sequence[Any]) -> list[int]:
    chosen: list[int] = logits.argmax(dim=-1).tolist()
    for index, row in enumerate(rows):
        if row.temperature > 0 and row.finish_reason is None:
            chosen[index] = _sample(logits[index], row, generators[index])
    return chosen


def _sample(logits: torch.Tensor, row: Generation, generator: Any) -> int:
    """Draw one token by inverting the cumulative distribution over tokens sorted by probability."""
    import torch

    ordered, tokens = torch.softmax(logits.double().cpu() / row.temperature, dim=-1).sort(
        descending=True, stable=True
    )
    cumulative = ordered.cumsum(0)
    # Nucleus: the smallest set of tokens whose probability reaches top_p; the first one is always in it.
    kept = int((cumulative - ordered < row.top_p).sum())
    draw = torch.rand((), generator=generator, dtype=torch.float64) * cumulative[kept - 1]
    return int(tokens[min(int((cumulative[:kept] <= draw).sum()), kept - 1)])
