from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chains.errors import ContextOverflow, InputInvalid

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
TEXTS = [
    "The parcel has not arrived.",
    "My package was not delivered.",
    "Returns are free within thirty days of delivery, " * 8,
    "Ein Text auf Deutsch mit Umlauten: äöü.",
    "refund",
    "A mill wheel turns when water falls on it.",
]


async def vectors_of(provider: Any, texts: list[str]) -> np.ndarray:
    return provider.read_embed(await provider.send_embed(provider.embed_request(texts), timeout=60))


async def test_vectors_are_those_of_sentence_transformers(open_model: Any) -> None:
    from sentence_transformers import SentenceTransformer

    from tasks.providers.weights import find_weights

    folder = find_weights(MINILM, revision=None, store=None).folder  # type: ignore[arg-type]
    wanted = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, show_progress_bar=False)
    made = await vectors_of(open_model(MINILM, dtype="float32"), TEXTS)
    assert made.shape == (6, 384) and made.dtype == np.float32
    assert (made * wanted).sum(axis=1).min() > 0.99999


@pytest.mark.slow
async def test_another_layout_goes_through_sentence_transformers(open_model: Any, tmp_path: Path) -> None:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense

    from tasks.embedders import layout_of
    from tasks.providers.weights import find_weights

    folder = find_weights(MINILM, revision=None, store=None).folder  # type: ignore[arg-type]
    known = SentenceTransformer(str(folder), device="cpu")
    torch.manual_seed(0)
    model = SentenceTransformer(modules=[known[0], known[1], Dense(384, 32)], device="cpu")
    model.save_pretrained(str(tmp_path / "dense"))
    assert not layout_of(tmp_path / "dense").is_plain
    made = await vectors_of(open_model(tmp_path / "dense", dtype="float32"), TEXTS)
    assert made.shape == (6, 32)
    assert np.allclose(made, model.encode(TEXTS, show_progress_bar=False), atol=1e-5)


async def test_cls_pooling_takes_the_first_token(open_model: Any, tmp_path: Path) -> None:
    import shutil

    from sentence_transformers import SentenceTransformer

    from tasks.providers.weights import find_weights

    folder = find_weights(MINILM, revision=None, store=None).folder  # type: ignore[arg-type]
    copied = shutil.copytree(folder, tmp_path / "cls")
    pooling = copied / "1_Pooling" / "config.json"
    config = {
        key: value for key, value in json.loads(pooling.read_text()).items() if "pooling_mode" not in key
    }
    pooling.write_text(
        json.dumps({**config, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})
    )
    made = await vectors_of(open_model(copied, dtype="float32"), TEXTS)
    wanted = SentenceTransformer(str(copied), device="cpu").encode(TEXTS, show_progress_bar=False)
    assert (made * wanted).sum(axis=1).min() > 0.99999
    mean = await vectors_of(open_model(MINILM, dtype="float32"), TEXTS)
    assert (made * mean).sum(axis=1).max() < 0.999


async def test_texts_of_concurrent_calls_keep_their_own_vectors(open_model: Any) -> None:
    provider = open_model(MINILM, dtype="float32")
    together = await vectors_of(provider, TEXTS)
    alone = await asyncio.gather(*(vectors_of(provider, [text]) for text in TEXTS))
    assert (together * np.concatenate(alone)).sum(axis=1).min() > 0.99999
    nearest = (together @ together.T - np.eye(6)).argmax(axis=1)
    assert nearest[0] == 1 and nearest[1] == 0


async def test_bfloat16_keeps_the_direction_and_says_what_it_is(open_model: Any) -> None:
    exact, rounded = open_model(MINILM, dtype="float32"), open_model(MINILM, dtype="bfloat16")
    assert exact.identity["dtype"] == "float32" and rounded.identity["dtype"] == "bfloat16"
    similar = (await vectors_of(exact, TEXTS) * await vectors_of(rounded, TEXTS)).sum(axis=1)
    assert similar.min() > 0.999
    assert (await vectors_of(rounded, TEXTS)).dtype == np.float32


async def test_int8_works_when_it_is_asked_for(open_model: Any) -> None:
    exact, coarse = open_model(MINILM, dtype="float32"), open_model(MINILM, dtype="int8")
    similar = (await vectors_of(exact, TEXTS) * await vectors_of(coarse, TEXTS)).sum(axis=1)
    assert similar.min() > 0.8 and similar.max() < 0.99999, "close, and really another format"


async def test_a_text_longer_than_the_window_is_refused_and_others_are_embedded(open_model: Any) -> None:
    provider = open_model(MINILM)
    bad, good = await asyncio.gather(
        vectors_of(provider, ["word " * 300]), vectors_of(provider, ["short"]), return_exceptions=True
    )
    assert isinstance(bad, ContextOverflow)
    assert "302 tokens" in str(bad) and "256 tokens" in str(bad)
    assert isinstance(good, np.ndarray)


async def test_a_reply_is_json_with_counts(open_model: Any) -> None:
    provider = open_model(MINILM)
    request = provider.embed_request(["hello world"])
    assert json.loads(request) == {"model": MINILM, "input": ["hello world"], "encoding_format": "base64"}
    reply = await provider.send_embed(request, timeout=60)
    body = json.loads(reply.body)
    assert body["usage"]["prompt_tokens"] == reply.tokens_in == 4, "two words and two special tokens"
    assert len(body["data"]) == 1


def test_tokens_are_counted_and_placed(open_model: Any) -> None:
    provider = open_model(MINILM)
    text = "Unbelievable parcels!"
    spans = provider.token_spans(text)
    assert len(spans) == provider.count_tokens(text) > 2
    assert spans[-1] == (20, 21) and spans[0][0] == 0
    assert provider.window == 254
    assert provider.count_tokens("word " * 300) == 300, (
        "the tokenizer's own limit must not hide what is too long"
    )


async def test_an_embedder_answers_no_prompt(open_model: Any) -> None:
    provider = open_model(MINILM)
    request = provider.chat_request([{"role": "user", "content": "x"}])
    with pytest.raises(InputInvalid, match="is an embedder"):
        await provider.send_chat(request, timeout=60)
