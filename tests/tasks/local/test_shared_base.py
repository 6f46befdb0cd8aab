"""Several adapters on one base: the base is loaded once, and each answers as if it were alone."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.providers.local import LocalProvider

# peft 0.21 asks transformers 5 for an attribute under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

QUESTIONS = ("the order was late", "I want my money back", "tell me when it ships", "thank you")


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders from which whole models are loaded, in order; they are loaded as ever."""
    from transformers import AutoModelForCausalLM

    seen: list[str] = []
    load = AutoModelForCausalLM.from_pretrained

    def counted(folder: Any, *arguments: Any, **given: Any) -> Any:
        seen.append(str(folder))
        return load(folder, *arguments, **given)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", counted)
    return seen


@pytest.fixture
def adapter(chat_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write an adapter for the tiny model that changes what it says."""

    def make(name: str, seed: int, **changed: Any) -> Path:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        torch.manual_seed(seed)
        config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, **changed)
        base = AutoModelForCausalLM.from_pretrained(chat_folder)
        get_peft_model(base, config).save_pretrained(tmp_path / name)
        settings = tmp_path / name / "adapter_config.json"
        values = json.loads(settings.read_text()) | {"base_model_name_or_path": str(chat_folder)}
        settings.write_text(json.dumps(values))
        return tmp_path / name

    return make


async def answers(model: LocalProvider) -> list[str]:
    requests = [model.chat_request([{"role": "user", "content": question}]) for question in QUESTIONS]
    replies = await asyncio.gather(*(model.send_chat(request, timeout=60) for request in requests))
    return [model.read_chat(reply).text for reply in replies]


async def alone(open_model: Any, folder: Path) -> list[str]:
    """What a model says that is opened, asked and closed by itself."""
    model = open_model(folder, max_tokens=12)
    try:
        return await answers(model)
    finally:
        await model.aclose()


async def test_two_adapters_load_their_base_once_and_answer_as_each_does_alone(
    open_model: Any, chat_folder: Path, adapter: Callable[..., Path], loads: list[str]
) -> None:
    folders = [adapter("one", 1), adapter("two", 2, use_rslora=True), adapter("three", 3, use_dora=True)]
    loads.clear()
    expected = [await alone(open_model, folder) for folder in folders]
    gc.collect()
    assert loads == [str(chat_folder)] * 3
    assert len({tuple(found) for found in expected}) == 3

    loads.clear()
    models = [open_model(folder, max_tokens=12) for folder in folders]
    # At once, and again in another order: each batch is answered by its own adapter.
    assert list(await asyncio.gather(*map(answers, models))) == expected
    assert [await answers(model) for model in reversed(models)] == expected[::-1]
    assert loads == [str(chat_folder)]
    weights = {id(model._loaded.model) for model in models}
    assert len(weights) == 1
    for model in models:
        await model.aclose()


async def test_one_adapter_is_merged_and_another_base_is_not_shared(
    open_model: Any, chat_folder: Path, adapter: Callable[..., Path], build: Any, tmp_path: Path
) -> None:
    from peft.tuners.lora import LoraLayer

    gc.collect()  # a base that another test has left would be shared
    one, other = adapter("one", 1), adapter("two", 2)
    elsewhere = build(tmp_path / "elsewhere", seed=9)
    settings = other / "adapter_config.json"
    values = json.loads(settings.read_text()) | {"base_model_name_or_path": str(elsewhere)}
    settings.write_text(json.dumps(values))
    models = [open_model(folder, max_tokens=4) for folder in (one, other)]
    for model in models:
        await answers(model)
        assert not any(isinstance(part, LoraLayer) for part in model._loaded.model.modules())
        await model.aclose()


async def test_a_base_is_let_go_with_the_last_of_its_adapters(
    open_model: Any, adapter: Callable[..., Path]
) -> None:
    from tasks.providers import shared_base

    gc.collect()
    models = [open_model(adapter(name, seed), max_tokens=4) for seed, name in enumerate(("one", "two"))]
    for model in models:
        await answers(model)
    assert len(shared_base._loaded) == 1
    while models:
        await models.pop().aclose()
    del model
    for _ in range(100):  # a thread that has just answered may hold its model a moment longer
        gc.collect()
        if not shared_base._loaded:
            break
        await asyncio.sleep(0.05)
    assert len(shared_base._loaded) == 0 and len(shared_base._expected) == 0
