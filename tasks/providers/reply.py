"""What comes back from a model: the bytes of one reply, and the completion read from it.

Owns two shapes, and the bytes of what a model on this machine is asked and answers. Knows nothing of HTTP,
of retries or of the store. Invariant: a reply that arrived, even in part or with an error status, is a
`Reply`, so that its bytes are always kept; `failure` says what is wrong with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chains.errors import HeadraceError, InputInvalid


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer as it arrived.

    `document` is the body read as JSON where a provider has done so. `failure` is set when the reply is no
    answer (an error status, a cut body): whoever sent the request raises it after keeping the bytes.
    `waited_s` is how long the call waited at a local model for the device, behind other batches.
    """

    body: bytes
    status: int | None = None
    request_id: str | None = None
    model: str | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    document: Any = field(default=None, repr=False)
    failure: HeadraceError | None = None
    waited_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Completion:
    """What a chat model said; token counts are None when the endpoint did not tell them."""

    text: str
    finish_reason: str
    tokens_in: int | None = None
    tokens_out: int | None = None
    model: str | None = None


def compact(document: Mapping[str, Any]) -> bytes:
    """Return the bytes of a document; raises InputInvalid for a text that is no text."""
    try:
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise InputInvalid(
            "A text holds half of a surrogate pair, which is no character.",
            hint="Clean the input before it is sent to a model.",
        ) from error


def reply_of(document: dict[str, Any]) -> Reply:
    """Return the answer of a model on this machine as a reply."""
    usage = document["usage"]
    return Reply(
        body=compact(document),
        status=200,
        model=document["model"],
        tokens_in=usage["prompt_tokens"],
        tokens_out=usage.get("completion_tokens"),
        document=document,
    )
