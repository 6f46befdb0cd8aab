"""The Prefect clients of one flow run, made once and cheaply.

Owns what a process keeps for them from run to run: the TLS certificates, which take as long to read as some
requests of a short run. Knows nothing of chains. Invariant: the clients are those that Prefect would make by
itself, with the same settings.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache

import certifi
from prefect.context import AsyncClientContext, SyncClientContext
from prefect.settings import get_current_settings


@asynccontextmanager
async def shared_clients() -> AsyncIterator[None]:
    """Let all that asks Prefect's API within this block, the engine of a flow run included, share clients."""
    api = get_current_settings().api
    if api.tls_insecure_skip_verify:  # Prefect's own affair
        yield
        return
    verify = _certificates(str(api.ssl_cert_file or certifi.where()))
    async with _Awaited(httpx_settings={"verify": verify}):
        with _Blocking(httpx_settings={"verify": verify}):
            yield


@cache
def _certificates(file: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=file)


class _Blocking(SyncClientContext):
    """A client that is also found by those who ask for one without naming settings."""

    def __init__(self, httpx_settings: dict[str, ssl.SSLContext]) -> None:
        super().__init__(httpx_settings=httpx_settings)
        self._httpx_settings = None


class _Awaited(AsyncClientContext):
    """The same for those who await."""

    def __init__(self, httpx_settings: dict[str, ssl.SSLContext]) -> None:
        super().__init__(httpx_settings=httpx_settings)
        self._httpx_settings = None
