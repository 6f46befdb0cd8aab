"""The table from HTTP answers to error classes."""

from __future__ import annotations

import json

import pytest

from chains.errors import (
    CallRefused,
    ContentFiltered,
    ContextOverflow,
    RateLimited,
    ServerFault,
    Terminal,
    Transient,
)
from tasks.providers.faults import classify, retry_after

NOW = 1_750_000_000.0


def body(message: str = "no", code: str | None = None, param: str | None = None) -> bytes:
    return json.dumps({"error": {"message": message, "code": code, "param": param}}).encode()


@pytest.mark.parametrize(
    ("status", "content", "expected"),
    [
        (301, b"", CallRefused),
        (307, b"", CallRefused),
        (400, body(), CallRefused),
        (400, body(code="context_length_exceeded"), ContextOverflow),
        (400, body("This model's maximum context length is 8192 tokens"), ContextOverflow),
        (
            400,
            body("too long", "exceed_context_size_error"),
            ContextOverflow,
        ),
        (400, body(code="content_filter"), ContentFiltered),
        (400, body(code="content_policy_violation"), ContentFiltered),
        (401, body(code="invalid_api_key"), CallRefused),
        (402, body(), CallRefused),
        (403, b"<html>", CallRefused),
        (404, body(code="model_not_found"), CallRefused),
        (405, b"", CallRefused),
        (408, b"", ServerFault),
        (409, b"", ServerFault),
        (413, b"", CallRefused),
        (422, body(), CallRefused),
        (425, b"", ServerFault),
        (429, body(), RateLimited),
        (429, body(code="insufficient_quota"), CallRefused),
        (500, b"", ServerFault),
        (502, b"<html>Bad gateway</html>", ServerFault),
        (503, b"", ServerFault),
        (504, b"", ServerFault),
        (529, body("overloaded"), ServerFault),
    ],
)
def test_each_status_and_code_has_one_class(status: int, content: bytes, expected: type[Exception]) -> None:
    error = classify(status, {}, content, now=NOW)

    assert type(error) is expected
    assert isinstance(error, Transient) is (expected in (ServerFault, RateLimited))
    assert isinstance(error, Transient | Terminal)
    assert str(status) in error.message


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "2"}, 2.0),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": " 1.5 "}, 1.5),
        ({"Retry-After": "Sun, 15 Jun 2025 15:07:20 GMT"}, 40.0),
        ({"Retry-After": "Sun, 15 Jun 2025 17:07:20 +0200"}, 40.0),
        ({"Retry-After": "Sun, 15 Jun 2025 15:00:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-3"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "1e9"}, None),
        ({"Retry-After": "٣"}, None),
        ({"Retry-After": ""}, None),
        ({"retry-after-ms": "250", "Retry-After": "1"}, 0.25),
        ({}, None),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date_and_else_ignored(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert retry_after(headers, now=NOW) == seconds


def test_the_wait_that_the_endpoint_asks_for_is_on_the_error() -> None:
    error = classify(503, {"Retry-After": "7"}, b"", now=NOW)

    assert isinstance(error, ServerFault)
    assert error.retry_after == 7


def test_a_message_names_code_parameter_and_cause_in_bounded_length() -> None:
    error = classify(400, {}, body("Unsupported value " * 100, "unsupported_value", "temperature"), now=NOW)

    assert "unsupported_value" in error.message
    assert "'temperature'" in error.message
    assert len(error.message) < 600


def test_a_refused_response_format_gets_a_hint_about_output() -> None:
    error = classify(400, {}, body("'response_format' is not supported"), now=NOW)

    assert type(error) is CallRefused
    assert "`output:`" in (error.hint or "")


def test_a_redirect_is_named_without_its_query_and_password() -> None:
    error = classify(307, {"Location": "https://me:pw@evil.example/v1?token=abc#x"}, b"", now=NOW)

    assert "'https://evil.example/v1'" in error.message
    assert "abc" not in str(error)
    assert "pw" not in str(error)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00",
        b"[]",
        b"[1]",
        b"null",
        b'"text"',
        b'{"error": 3}',
        b'{"error": "plain text"}',
        b'{"detail": "fastapi says so"}',
        b'[{"error": {"message": "wrapped", "code": 400}}]',
        b'{"error": {"message": 7, "code": 9, "param": [1]}}',
        b"[" * 100_000,
    ],
)
def test_any_body_of_an_error_gives_a_message_and_no_traceback(content: bytes) -> None:
    assert "answered 400" in classify(400, {}, content, now=NOW).message


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b'{"error": "plain text"}', "plain text"),
        (b'{"detail": "fastapi says so"}', "fastapi says so"),
        (b'[{"error": {"message": "wrapped"}}]', "wrapped"),
        (b"<h1>Bad\ngateway</h1>", "<h1>Bad gateway</h1>"),
    ],
)
def test_the_cause_is_found_in_every_shape_of_error(content: bytes, text: str) -> None:
    assert text in classify(500, {}, content, now=NOW).message
