"""The Prefect clients of one flow run, made once and cheaply.

Owns what a process keeps for them from run to run: the TLS certificates, which take as long to read as some
requests of a short run; and how soon they ask again where a server's SQLite was locked for a moment. Knows
nothing of chains. Invariant: the clients are those that Prefect would make by itself, with the same settings.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, Final

import certifi
import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.context import AsyncClientContext, SyncClientContext
from prefect.settings import get_current_settings

SOON_S: Final = (0.05, 0.2)
"""After which pauses a server that is not available now is asked again, before Prefect's own 2 s and more."""
_TRIES: Final = "headrace.tries"


@asynccontextmanager
async def shared_clients() -> AsyncIterator[None]:
    """Let all that asks Prefect's API within this block, the engine of a flow run included, share clients."""
    api = get_current_settings().api
    if api.tls_insecure_skip_verify:  # Prefect's own affair
        yield
        return
    verify = _certificates(str(api.ssl_cert_file or certifi.where()))
    async with _Awaited({"verify": verify, "event_hooks": {"response": [_ask_again_soon]}}):
        with _Blocking({"verify": verify, "event_hooks": {"response": [ask_again_soon]}}):
            yield


def patient_client() -> PrefectClient:
    """Return a client that asks again as soon: that of `shared_clients` where this is inside its block."""
    if isinstance(AsyncClientContext.get(), _Awaited):
        return get_client()
    return get_client(httpx_settings={"event_hooks": {"response": [_ask_again_soon]}})


def ask_again_soon(response: httpx.Response) -> None:
    """Put a short Retry-After on the first answers "not available" to a request that have none.

    A Prefect server answers so where its SQLite was locked, which is over in milliseconds.
    """
    tries = response.request.extensions.get(_TRIES, 0)
    if response.status_code == httpx.codes.SERVICE_UNAVAILABLE and tries < len(SOON_S):
        response.headers.setdefault("Retry-After", str(SOON_S[tries]))
        response.request.extensions[_TRIES] = tries + 1


async def _ask_again_soon(response: httpx.Response) -> None:
    ask_again_soon(response)


@cache
def _certificates(file: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=file)


class _Blocking(SyncClientContext):
    """A client that is also found by those who ask for one without naming settings."""

    def __init__(self, httpx_settings: dict[str, Any]) -> None:
        super().__init__(httpx_settings=httpx_settings)
        self._httpx_settings = None


class _Awaited(AsyncClientContext):
    """The same for those who await."""

    def __init__(self, httpx_settings: dict[str, Any]) -> None:
        super().__init__(httpx_settings=httpx_settings)
        self._httpx_settings = None
