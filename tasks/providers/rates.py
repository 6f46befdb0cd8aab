"""Requests and tokens per minute of one model, shared by all processes on the store.

Owns what this process has taken from the shared bucket and not used yet. The bucket itself is the store's
(chains.store.rates). Callers are served in the order in which they come. Invariant: nobody is let through
without a slot, so the processes together never pass the rate by more than the bucket holds.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

from chains.spec import Limits

if TYPE_CHECKING:
    from chains.store import Store

CHUNK_SECONDS = 0.2
"""Slots for so long are taken at once; more would lie unused here while another process waits."""


def rate_name(base_url: str, model: str) -> str:
    """Return the name of the bucket that everybody who asks this model at this address shares."""
    return "model:" + hashlib.sha256(f"{base_url}\n{model}".encode()).hexdigest()[:32]


class Rates:
    """The rates of one model, for the callers of one event loop."""

    def __init__(self, store: Store, name: str, limits: Limits) -> None:
        self._store = store
        self._name = name
        self._requests_per_minute = limits.requests_per_minute
        self._tokens_per_minute = limits.tokens_per_minute
        self._requests = 0
        self._tokens = 0
        self._turn = asyncio.Lock()

    async def take(self, tokens: int) -> None:
        """Return when one request with so many tokens may be sent."""
        async with self._turn:
            while self._requests < 1 or (self._tokens_per_minute is not None and self._tokens < tokens):
                await self._fetch(tokens)
            self._requests -= 1
            self._tokens -= tokens

    def give_back(self, tokens: int) -> None:
        """Return tokens that were reserved and not used; with a negative number, take what was used more."""
        self._tokens += tokens

    def put_back(self, tokens: int) -> None:
        """Return a whole request that was let through and not sent."""
        self._requests += 1
        self._tokens += tokens

    async def _fetch(self, tokens: int) -> None:
        # Tokens are granted with a request only, so with a limit on them slots are taken one by one.
        wanted = 1 if self._tokens_per_minute is not None else self._chunk()
        missing = max(0, tokens - self._tokens) if self._tokens_per_minute is not None else 0
        slots = await self._store.take_slots(
            self._name,
            requests=wanted,
            tokens=missing,
            per_minute_requests=self._requests_per_minute,
            per_minute_tokens=self._tokens_per_minute,
        )
        self._requests += slots.requests
        self._tokens += slots.tokens
        if not slots.requests:
            await asyncio.sleep(slots.wait_s)

    def _chunk(self) -> int:
        return max(1, int((self._requests_per_minute or 0) / 60 * CHUNK_SECONDS))
