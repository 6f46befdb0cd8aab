"""A device whose memory is too small for a batch of prompts: it is halved once, and the process says so."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from chains.errors import StepFailed


async def ask(provider: Any, number: int) -> str:
    messages = [{"role": "user", "content": f"order {number} was late"}]
    request = provider.chat_request(messages, schema=None, sample=0)
    return provider.read_chat(await provider.send_chat(request, timeout=60)).text


@pytest.fixture
def memory_for(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Let the model's forward pass find no memory for more rows than so many."""
    forward = LlamaForCausalLM.forward
    seen: list[int] = []

    def limit(rows: int) -> list[int]:
        def within(model: Any, input_ids: torch.Tensor, **options: Any) -> Any:
            seen.append(len(input_ids))
            if len(input_ids) > rows:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return forward(model, input_ids=input_ids, **options)

        monkeypatch.setattr(LlamaForCausalLM, "forward", within)
        return seen

    return limit


async def test_a_batch_that_does_not_fit_is_done_in_halves_and_later_ones_are_as_small(
    open_model: Any, chat_folder: Path, memory_for: Callable[[int], list[int]], caplog: Any
) -> None:
    provider = open_model(chat_folder, max_tokens=4)
    expected = [await ask(provider, number) for number in range(8)]
    seen = memory_for(4)
    with caplog.at_level(logging.WARNING):
        assert await asyncio.gather(*(ask(provider, number) for number in range(8))) == expected
    (said,) = [record.getMessage() for record in caplog.records if "did not fit" in record.getMessage()]
    assert "a batch of 8 did not fit into memory" in said
    assert seen.count(8) == 1 and max(seen[1:]) == 4


async def test_halves_that_do_not_fit_fail_their_calls_and_the_next_calls_are_tried_again(
    open_model: Any, chat_folder: Path, memory_for: Callable[[int], list[int]]
) -> None:
    provider = open_model(chat_folder, max_tokens=4)
    memory_for(1)
    results = await asyncio.gather(*(ask(provider, number) for number in range(4)), return_exceptions=True)
    assert all(isinstance(result, StepFailed) and "no memory" in str(result) for result in results)
    assert isinstance(await ask(provider, 5), str)
