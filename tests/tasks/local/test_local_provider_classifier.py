"""A classifier behind the chat protocol: texts in, labels out, and what it cannot read named."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from chains.errors import ContextOverflow, InputInvalid
from tasks.training import Hyperparameters, TrainingJob
from tasks.training.loop import run
from tasks.training.objective import objective_of
from tasks.training.watching import Watch

TEXTS = {
    "my parcel refund": "refund",
    "delivery of my parcel is late": "delivery",
    "refund my card": "refund",
}
SCHEMA = {"type": "object", "properties": {"label": {"type": "string"}, "score": {"type": "number"}}}


@pytest.fixture(scope="session")
def probe(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainingJob]:
    """A linear probe on a tiny encoder, as a training leaves it."""
    work = tmp_path_factory.mktemp("probe")
    rows = [{"text": text, "label": label} for text, label in TEXTS.items()]
    (work / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = TrainingJob(
        method="linear_probe", task="classification", train=str(work / "train.jsonl"), base=str(tiny_encoder),
        hyperparameters=Hyperparameters(learning_rate=1.0, max_length=32, C=100.0), threads=1,
    )  # fmt: skip
    run(job, work, Watch(lambda _: None, lambda: False))
    return work / "model", job


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


async def test_a_text_gets_its_label_and_probability(
    probe: tuple[Path, TrainingJob], open_model: Callable[..., Any]
) -> None:
    folder, job = probe
    provider = open_model(folder)
    requests = [provider.chat_request(asked(text), schema=SCHEMA) for text in TEXTS]
    replies = await asyncio.gather(*(provider.send_chat(one, timeout=60) for one in requests))
    trained = objective_of(job).reload(folder).eval()
    for text, reply in zip(TEXTS, replies, strict=True):
        completion = provider.read_chat(reply)
        said = json.loads(completion.text)
        ids = provider._classifier().tokenize(text)
        with torch.inference_mode():
            scores = trained(torch.tensor([ids]), torch.ones(1, len(ids)))["logits"][0].softmax(-1)
        assert said["label"] == TEXTS[text] == trained.labels[int(scores.argmax())]
        assert said["score"] == pytest.approx(float(scores.max()), abs=1e-5)
        assert (completion.tokens_in, completion.tokens_out) == (len(ids), 0)
    await provider.aclose()


async def test_without_a_form_the_answer_is_the_bare_label(
    probe: tuple[Path, TrainingJob], open_model: Callable[..., Any]
) -> None:
    provider = open_model(probe[0])
    reply = await provider.send_chat(provider.chat_request(asked("my parcel refund")), timeout=60)
    assert provider.read_chat(reply).text == "refund"
    assert "temperature" not in provider.identity


async def test_a_batch_gives_each_text_what_it_gets_alone(
    probe: tuple[Path, TrainingJob], open_model: Callable[..., Any]
) -> None:
    model = open_model(probe[0])._classifier()
    rows = [model.tokenize(text) for text in (*TEXTS, "help")]
    together = model.classify(rows)
    for row, verdict in zip(rows, together, strict=True):
        [alone] = model.classify([row])
        assert alone.label == verdict.label and alone.score == pytest.approx(verdict.score, abs=1e-5)


async def test_a_text_beyond_the_window_fails_alone(
    probe: tuple[Path, TrainingJob], open_model: Callable[..., Any]
) -> None:
    provider = open_model(probe[0])
    requests = [provider.chat_request(asked(text)) for text in ("my " * 40, "my parcel refund")]
    long, short = await asyncio.gather(
        *(provider.send_chat(one, timeout=60) for one in requests), return_exceptions=True
    )
    assert isinstance(long, ContextOverflow) and "42 tokens" in long.message
    assert provider.read_chat(short).text == "refund"


@pytest.mark.parametrize(
    ("messages", "schema", "message"),
    [
        ([{"role": "system", "content": "x"}, *asked("y")], None, "messages of system, user"),
        (asked("y"), {"properties": {"intent": {}}}, r"asks for \['intent'\]"),
    ],
)
def test_what_a_classifier_cannot_do_is_named(
    messages: list[dict[str, str]],
    schema: dict[str, Any] | None,
    message: str,
    probe: tuple[Path, TrainingJob],
    open_model: Callable[..., Any],
) -> None:
    with pytest.raises(InputInvalid, match=message):
        open_model(probe[0]).chat_request(messages, schema=schema)


def test_a_broken_description_is_named(
    probe: tuple[Path, TrainingJob], open_model: Callable[..., Any], tmp_path: Path
) -> None:
    import shutil

    folder = shutil.copytree(probe[0], tmp_path / "broken")
    (folder / "classifier.json").write_text('{"labels": ["a"]}')
    with pytest.raises(InputInvalid, match="does not describe a classifier"):
        open_model(folder)._classifier()
