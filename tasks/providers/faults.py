"""What an endpoint's refusal means: status, headers and body of an HTTP error, classified once.

Owns the table from HTTP answers to the error classes of `chains.errors`. Knows nothing of how an answer was
fetched. A class decides whether a call is tried again; nothing later looks at messages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from chains.errors import (
    CallRefused,
    ContentFiltered,
    ContextOverflow,
    HeadraceError,
    RateLimited,
    ServerFault,
)

TRANSIENT_STATUSES = frozenset({408, 409, 425})
OVERFLOW_CODES = frozenset(
    {"context_length_exceeded", "exceed_context_size_error", "string_above_max_length"}
)
OVERFLOW_TEXT = re.compile(r"maximum context length|context (?:size|window|length)|prompt is too long", re.I)
FILTER_CODES = frozenset({"content_filter", "content_policy_violation"})
QUOTA_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})

HINTS = {
    401: "Check the key that `api_key:` of this model names (OPENAI_API_KEY by default).",
    403: "The key may not use this model or endpoint.",
    404: "Check `model:` and `base_url:` (up to and including /v1).",
    413: "The request is too large for the endpoint; shorten the prompt.",
}


def classify(status: int, headers: Mapping[str, str], body: bytes, *, now: float) -> HeadraceError:
    """Return the error for an HTTP status that is not 200. `now` is in seconds since the epoch."""
    fault = error_of(body)
    code, message = str(fault.get("code") or ""), str(fault.get("message") or "")
    text = f"the endpoint answered {status}{_told(message, code, fault.get('param'), body)}."
    wait = retry_after(headers, now=now)
    if 300 <= status < 400:
        return _redirected(status, headers)
    if code in QUOTA_CODES:
        return CallRefused(text, hint="The account has no quota left; see its billing page.")
    if status == 429:
        return RateLimited(text, retry_after=wait)
    if status in TRANSIENT_STATUSES or status >= 500:
        return ServerFault(text, retry_after=wait)
    return _refused(status, code, message, text)


def _refused(status: int, code: str, message: str, text: str) -> CallRefused:
    if code in OVERFLOW_CODES or (status in (400, 413, 422) and OVERFLOW_TEXT.search(message)):
        return ContextOverflow(
            text, hint="Shorten the prompt, retrieve fewer passages, or use a longer model."
        )
    if code in FILTER_CODES:
        return ContentFiltered(text, hint="The endpoint's filter refused the prompt.")
    if "response_format" in text or "json_schema" in text:
        return CallRefused(
            text,
            hint="This endpoint or model does not take this `output:` as response_format; use one that does, "
            "or leave out `output:` and ask for the form in the prompt.",
        )
    return CallRefused(
        text, hint=HINTS.get(status, "Change what the message names; the same call fails again.")
    )


def _redirected(status: int, headers: Mapping[str, str]) -> CallRefused:
    # Only up to the path: a query may carry a token.
    target = headers.get("Location", "").split("?")[0].split("#")[0]
    target = re.sub(r"//[^/@]*@", "//", target)
    return CallRefused(
        f"the endpoint answered {status}, a redirect to {target[:200]!r}, which is not followed.",
        hint="If you trust that address, set it as base_url.",
    )


def error_of(body: bytes) -> dict[str, Any]:
    """Return the error object of a body in any of the forms that servers use, or an empty dict."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    if isinstance(document, list) and document:
        document = document[0]  # Gemini's OpenAI-compatible endpoint wraps its errors in a list
    if not isinstance(document, dict):
        return {}
    fault = document.get("error", document)
    if isinstance(fault, str):
        return {"message": fault}
    if not isinstance(fault, dict):
        return {}
    if "message" not in fault and isinstance(fault.get("detail"), str):
        return {**fault, "message": fault["detail"]}
    return fault


def _told(message: str, code: str, param: object, body: bytes) -> str:
    told = message.strip() or preview(body)
    parts = [f": {told[:300]!r}" if told else ""]
    if code and code not in told:
        parts.append(f" (code {code[:80]})")
    if param and str(param) not in told:
        parts.append(f" (parameter {str(param)[:80]!r})")
    return "".join(parts)


def preview(body: bytes) -> str:
    """Return the beginning of a body as one line of text."""
    return " ".join(body[:400].decode("utf-8", "replace").split())[:200]


def retry_after(headers: Mapping[str, str], *, now: float) -> float | None:
    """Return the seconds that an endpoint asks to wait, or None when it says nothing usable."""
    exact = _number(headers.get("retry-after-ms"))
    if exact is not None:
        return exact / 1000
    told = headers.get("Retry-After")
    seconds = _number(told)
    if seconds is not None or told is None:
        return seconds
    try:
        date = parsedate_to_datetime(told)
    except ValueError:
        return None
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)


def _number(text: str | None) -> float | None:
    if text is None or not re.fullmatch(r"\s*\d{1,12}(\.\d{1,6})?\s*", text, re.ASCII):
        return None
    return float(text)
