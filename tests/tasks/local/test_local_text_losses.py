"""Losses of texts under a causal model, and the perplexity that an evaluate step makes of them.

Run with: pytest tests/tasks/local/test_local_text_losses.py
"""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from chains.errors import InputInvalid, StepFailed
from chains.spec import Chain
from tasks.context import OnceJob, RowView
from tasks.evaluate import run_once
from tasks.providers.chat_model import ChatModel, load_chat_model
from tasks.providers.text_losses import text_losses
from tasks.providers.weights import find_weights

TEXTS = ["the order was late", "money back please " * 20, "I want my money and tell me when it ships", "the"]


def loaded(folder: Path, store: Any) -> ChatModel:
    weights = find_weights(str(folder), revision=None, store=store)
    return load_chat_model(weights, name="tiny", dtype="float32", device="cpu")


def by_transformers(model: Any, ids: list[int]) -> float:
    tokens = torch.tensor([ids])
    with torch.inference_mode():
        return float(model(input_ids=tokens, labels=tokens).loss) * (len(ids) - 1)


def test_the_loss_of_each_text_in_a_batch_is_that_of_the_text_alone(chat_folder: Path, store: Any) -> None:
    model = loaded(chat_folder, store)
    found = text_losses(model, TEXTS)
    for text, loss in zip(TEXTS, found, strict=True):
        ids = model.tokenizer(text)["input_ids"]
        assert loss.tokens == len(ids) - 1
        if loss.tokens:
            assert loss.nats == pytest.approx(by_transformers(model.model, ids), rel=1e-4)


def test_each_token_of_a_text_beyond_the_window_counts_once(chat_folder: Path, store: Any) -> None:
    model = loaded(chat_folder, store)
    text = "the order was late and I want my money back please " * 40
    ids = model.tokenizer(text, verbose=False)["input_ids"]
    assert len(ids) > 1.5 * model.window == 384
    [found] = text_losses(model, [text])
    # the same sum, with each window's losses from the library's own loss function
    nats, done = by_transformers(model.model, ids[:256]), 256
    while done < len(ids):
        window = torch.tensor([ids[done - 128 : done + 128]])
        labels = window.clone()
        labels[:, :128] = -100
        with torch.inference_mode():
            counted = window.shape[1] - 128
            nats += float(model.model(input_ids=window, labels=labels).loss) * counted
        done += counted
    assert (found.tokens, done) == (len(ids) - 1, len(ids))
    assert found.nats == pytest.approx(nats, rel=1e-4)


# peft 0.21 asks transformers 5 for a property under its old name
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_virtual_tokens_stand_before_each_text(chat_folder: Path, store: Any) -> None:
    from peft import PrefixTuningConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from tasks.providers.prelude import prelude_of

    bare = loaded(chat_folder, store)
    base = AutoModelForCausalLM.from_pretrained(chat_folder)
    torch.manual_seed(3)
    adapted = get_peft_model(base, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)).eval()
    model = ChatModel(adapted.get_base_model(), bare.tokenizer, name="tiny", prelude=prelude_of(adapted))
    for loss, other, text in zip(text_losses(model, TEXTS), text_losses(bare, TEXTS), TEXTS, strict=True):
        ids = bare.tokenizer(text)["input_ids"]
        if len(ids) > 1:
            assert loss.nats == pytest.approx(by_transformers(adapted, ids), rel=1e-4)
            assert abs(loss.nats - other.nats) > 1e-3


async def evaluated(open_model: Any, store: Any, folder: Path, views: list[RowView]) -> Any:
    step = {"evaluate": {"prediction": "{{ row.text }}"}, "metrics": ["perplexity"], "language_model": "lm"}
    models = {"lm": {"provider": "local", "model": str(folder)}}
    chain = Chain.model_validate({"chain": "t", "models": models, "steps": {"score": step}})
    provider = open_model(folder, dtype="float32")
    said: list[Any] = []
    ctx: Any = SimpleNamespace(
        step_id="score",
        step=chain.steps["score"],
        store=store,
        providers={"lm": provider},
        report=said.append,
    )
    result = await run_once(ctx, OnceJob("r1", {}, lambda: views))
    await provider.aclose()
    return result, said


def view(row: int, text: object) -> RowView:
    return RowView(row, {"inputs": {}, "row": {} if text is None else {"text": text}}, {})


async def test_perplexity_is_that_of_all_tokens_and_each_row_has_its_own(
    open_model: Any, store: Any, tmp_path: Path, build: Any
) -> None:
    folder = build(tmp_path / "plain", template=None)  # a base model has no chat template and needs none
    views = [view(row, text) for row, text in enumerate(TEXTS)]
    result, said = await evaluated(open_model, store, folder, views)
    model = loaded(folder, store)
    losses = [loss for loss in text_losses(model, TEXTS) if loss.tokens]
    wanted = math.exp(sum(loss.nats for loss in losses) / sum(loss.tokens for loss in losses))
    figure = result.output["perplexity"]
    assert figure["value"] == pytest.approx(wanted, rel=1e-5) and figure["n"] == len(losses)
    assert 1 < figure["low"] < figure["value"] < figure["high"]
    first = result.row_records[0].output["scores"]["perplexity"]
    assert first == pytest.approx(math.exp(losses[0].nats / losses[0].tokens), rel=1e-5)
    alone = result.row_records[3].output
    assert figure["unscored"] == (len(TEXTS) - len(losses)) == len(alone.get("unscored", {}))
    assert said[-1].text == "perplexity of 4 of 4 texts"


async def test_a_text_that_is_not_there_is_counted_and_never_averaged(
    open_model: Any, store: Any, chat_folder: Path
) -> None:
    result, _ = await evaluated(open_model, store, chat_folder, [view(0, TEXTS[0]), view(1, "")])
    assert (result.output["perplexity"]["n"], result.output["perplexity"]["unscored"]) == (1, 1)
    with pytest.raises(StepFailed, match="'perplexity': no row has a score: row 0: the text has no token"):
        await evaluated(open_model, store, chat_folder, [view(0, "")])


async def test_a_model_behind_an_endpoint_is_named(store: Any) -> None:
    step = {"evaluate": {"prediction": "{{ row.text }}"}, "metrics": ["perplexity"], "language_model": "far"}
    models = {"far": {"provider": "openai", "model": "m"}}
    chain = Chain.model_validate({"chain": "t", "models": models, "steps": {"score": step}})
    ctx: Any = SimpleNamespace(
        step_id="score", step=chain.steps["score"], store=store, providers={"far": object()}
    )
    with pytest.raises(InputInvalid, match="'far' does not run here"):
        await run_once(ctx, OnceJob("r1", {}, lambda: [view(0, "x")]))
