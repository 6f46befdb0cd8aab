"""A prompt step whose answers are told while they come: what is kept is the same as without."""

from __future__ import annotations

import json
from typing import Any

import pytest


def told(desk: Any) -> list[tuple[str, str]]:
    """Return what was told, neighbouring parts of a text together."""
    found: list[tuple[str, str]] = []
    for one in (progress for progress in desk.progress if progress.record):
        if one.event == "text" and found and found[-1][0] == "text":
            found[-1] = ("text", found[-1][1] + one.text)
        else:
            found.append((one.event, one.text))
    return found


async def streamed(desk: Any, *tickets: str) -> None:
    await desk.run(*tickets, stream=True)


STEP = "    output: {intent: {enum: [refund, delivery]}}\n    reask: 1\n    cache: always"


@pytest.mark.parametrize("step", ["    cache: always", STEP])
async def test_a_streamed_record_is_the_one_that_comes_at_once(serve, desks, step):
    server = serve()
    plain = desks(server, step=step.replace("always", "refresh"))
    await plain.run("my parcel 12345 is late 🌍")
    desk = desks(server, step=step.replace("always", "refresh"))
    await streamed(desk, "my parcel 12345 is late 🌍")
    [at_once], [record] = plain.records(), desk.records()
    for name in ("status", "output", "messages", "inputs", "value_key", "tokens_in", "tokens_out"):
        assert getattr(record, name) == getattr(at_once, name), name
    assert record.tokens_in and record.tokens_out
    text = json.loads(record.output)["text"]
    assert told(desk) == [("text", text), ("said", "")]
    asked = json.loads(server.ledger()[-1]["raw"])
    assert asked["stream"] is True and asked["stream_options"] == {"include_usage": True}
    [attempt] = desk.store.attempts(record.id)
    assert attempt.model == "test-model" and attempt.request_id == "req-2"
    assert attempt.response.startswith(b"data: {") and attempt.response.endswith(b"data: [DONE]\n\n")
    assert "stream" not in json.loads(server.ledger()[0]["raw"])


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({"fault": "cut", "bytes": 700}, "InvalidBody"),
        ({"fault": "ends_early", "events": 3}, "InvalidBody"),
        ({"fault": "ends_early", "events": 3, "error": {"message": "busy", "code": 503}}, "ServerFault"),
    ],
)
async def test_a_stream_that_breaks_is_a_failed_attempt_and_the_text_begins_again(serve, desks, fault, kind):
    server = serve({"at": 1, **fault})
    desk = desks(server)
    await streamed(desk, "my parcel is late")
    [record] = desk.records()
    first, second = desk.store.attempts(record.id)
    assert (first.state, first.error_type, second.state) == ("error", kind, "ok")
    assert first.response and b"data: " in first.response  # what came is kept
    text = json.loads(record.output)["text"]
    heard = told(desk)
    assert [event for event, _ in heard] == ["text", "again", "text", "said"]
    assert text.startswith(heard[0][1]) and heard[0][1] != text and heard[2][1] == text


async def test_a_stream_that_always_breaks_is_never_an_answer(serve, desks):
    desk = desks(serve({"fault": "ends_early", "events": 4}))
    await streamed(desk, "one")
    [record] = desk.records()
    assert record.status == "failed" and record.output is None
    assert told(desk)[-1] == ("failed", "")
    assert len(desk.store.attempts(record.id)) == 3


async def test_an_answer_that_is_asked_for_again_begins_again(serve, desks):
    desk = desks(serve({"at": 1, "fault": "invalid_output"}), step=STEP)
    await streamed(desk, "my refund")
    assert [event for event, _ in told(desk)] == ["text", "again", "text", "said"]


async def test_an_answer_that_is_there_already_is_told_at_once(serve, desks):
    server = serve()
    await desks(server, step="    cache: always").run("one")
    desk = desks(server, step="    cache: always")
    await streamed(desk, "one")
    assert len(server.ledger()) == 1
    assert told(desk) == [("text", json.loads(desk.records()[0].output)["text"]), ("said", "")]


@pytest.mark.parametrize(
    "fault", [{"fault": "gzipped"}, {"fault": "body", "text": "{}"}, {"fault": "no_usage"}]
)
async def test_endpoints_that_pack_or_do_not_stream(serve, desks, fault):
    if fault["fault"] == "body":
        fault = {"fault": "body", "text": json.dumps(WHOLE)}
    desk = desks(serve(fault))
    await streamed(desk, "one")
    [record] = desk.records()
    assert record.status == "ok"
    assert told(desk) == [("text", json.loads(record.output)["text"]), ("said", "")]


WHOLE = {
    "model": "test-model",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "At once."}, "finish_reason": "stop"}
    ],
}


async def test_the_key_is_in_no_text_that_is_told(serve, desks, monkeypatch):
    monkeypatch.setenv("HEADRACE_ALLOWED_ENV", "SHOP_API_KEY")
    server = serve({"fault": "changed", "text": "sk-12345678 was your key"})
    desk = desks(server, model=', api_key: "{{ env.SHOP_API_KEY }}"')
    desk.providers._env = {"SHOP_API_KEY": "sk-12345678"}
    await streamed(desk, "one")
    assert "12345678" not in json.dumps(told(desk)) and b"sk-12345678" not in desk.records()[0].output
