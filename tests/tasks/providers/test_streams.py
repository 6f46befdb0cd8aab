"""Streamed answers: the whole that their events make is the answer that would have come at once."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai_server import completion, events

from chains.errors import InvalidBody
from tasks.providers.streams import REMOVED, Deltas, Veil, assembled

BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Grüße, 世界 🌍"}]}).encode()


def document(text: str | None = "Grüße, 世界 🌍: a longer answer.\n", **changes: Any) -> dict[str, Any]:
    return completion(BODY, text=text, **changes)


def stream(found: dict[str, Any], *, usage: bool = True) -> bytes:
    return b"".join(events(found, usage=usage))


@given(st.text(max_size=60), st.lists(st.integers(0, 4000), max_size=8), st.booleans())
def test_a_stream_cut_anywhere_tells_its_text_and_makes_the_whole_document(text, cuts, carriage):
    found = document(text)
    body = stream(found)
    body = body.replace(b"\n", b"\r\n") if carriage else body
    told: list[str] = []
    deltas = Deltas(told.append)
    places = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    for start, stop in itertools.pairwise(places):
        deltas.feed(body[start:stop])
    assert "".join(told) == text
    assert assembled(body) == (found, None)


@given(st.lists(st.text("abc", max_size=4), max_size=20), st.lists(st.text("abc", min_size=2), max_size=2))
def test_a_secret_is_cut_out_wherever_it_is_split(parts, secrets):
    told: list[str] = []
    veil = Veil(secrets, told.append)
    for part in parts:
        veil.tell(part)
    veil.end()
    text = "".join(told)
    assert not any(secret in text.replace(REMOVED, "|") for secret in secrets)
    assert veil.has_cut is (REMOVED in text)
    if not any(secret in "".join(parts) for secret in secrets):
        assert text == "".join(parts) and not veil.has_cut


@pytest.mark.parametrize(
    "changes",
    [
        {"finish_reason": "length"},
        {"text": None, "finish_reason": "length"},
        {"message": {"refusal": "I will not."}},
        {"top": {"system_fingerprint": "fp_1"}},
    ],
)
def test_reasons_refusals_and_what_else_an_endpoint_says_come_through(changes):
    found = document(**changes)
    assert assembled(stream(found))[0] == found


def test_a_stream_without_its_end_is_no_answer_and_one_without_done_is():
    parts = events(document(), usage=True)
    for number in range(len(parts) - 2):  # up to the finish reason
        whole, failure = assembled(b"".join(parts[:number]))
        assert whole is None and isinstance(failure, InvalidBody), number
        assert "broke off after" in failure.message
    assert assembled(b"".join(parts[:-1])) == (document(), None)


def test_an_error_inside_a_stream_is_the_answer():
    fault = {"error": {"message": "busy", "code": 503}}
    body = b"".join(events(document(), usage=False)[:3]) + b"data: " + json.dumps(fault).encode() + b"\n\n"
    assert assembled(body) == (fault, None)


@pytest.mark.parametrize("line", [b"data: {oops}", b"data: [1]", b"data: \xff"])
def test_what_is_no_event_is_no_answer(line):
    whole, failure = assembled(line + b"\n\n" + stream(document()))
    assert whole is None and isinstance(failure, InvalidBody)
    Deltas(pytest.fail).feed(line + b"\n\n")


def test_comments_names_and_ids_of_events_are_passed_over():
    body = b": wait\n\nevent: x\nid: 1\n" + stream(document())
    assert assembled(body) == (document(), None)
