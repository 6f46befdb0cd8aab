"""The Prefect clients of one flow run, made once and cheaply.

Owns what a process keeps for them from run to run: the TLS certificates, which take as long to read as some
requests of a short run; and how soon they ask again where a server's SQLite was locked for a moment. Knows
nothing of chains. Invariant: the clients are those that Prefect would make by itself, with the same settings.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, Final

import certifi
import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.context import AsyncClientContext, SyncClientContext
from prefect.settings import get_current_settings

SOON_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0, 1.0, 1.0, 1.0)
"""After which pauses a server that is not available now is asked again, before Prefect's own of 2 to 32 s."""


@asynccontextmanager
async def shared_clients() -> AsyncIterator[None]:
    """Let all that asks Prefect's API within this block, the engine of a flow run included, share clients."""
    api = get_current_settings().api
    if api.tls_insecure_skip_verify:  # Prefect's own affair
        yield
        return
    verify = _certificates(str(api.ssl_cert_file or certifi.where()))
    async with _Awaited({"verify": verify, "auth": AskAgain()}):
        with _Blocking({"verify": verify, "auth": AskAgain()}):
            yield


def patient_client() -> PrefectClient:
    """Return a client that asks again as soon: that of `shared_clients` where this is inside its block."""
    if isinstance(AsyncClientContext.get(), _Awaited):
        return get_client()
    return get_client(httpx_settings={"auth": AskAgain()})


class AskAgain(httpx.Auth):
    """Asks again soon what a server answers with "not available", and with no word of when it will be.

    A Prefect server answers so where its SQLite was locked, which is over in milliseconds; on a busy one
    several times in a row, and Prefect's own pauses would add up to a minute. (That an `Auth` may send a
    request again is httpx's own way; Prefect sends its passwords and keys as headers.)
    """

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Send a request, and again after each of the pauses."""
        for pause in SOON_S:
            response = yield request
            if not _was_locked(response):
                return
            time.sleep(pause)
        yield request

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Do the same for those who await."""
        for pause in SOON_S:
            response = yield request
            if not _was_locked(response):
                return
            await asyncio.sleep(pause)
        yield request


def _was_locked(response: httpx.Response) -> bool:
    return response.status_code == httpx.codes.SERVICE_UNAVAILABLE and "Retry-After" not in response.headers


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
