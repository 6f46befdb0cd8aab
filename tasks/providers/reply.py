"""What comes back from a model: the bytes of one reply, and the completion read from it.

Owns two shapes. Knows nothing of HTTP, of retries or of the store. Invariant: a reply that arrived, even
in part or with an error status, is a `Reply`, so that its bytes are always kept; `failure` says what is
wrong with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from chains.errors import HeadraceError


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
