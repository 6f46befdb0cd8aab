"""How a connection is made: name resolution that is checked, and certificates.

Knows nothing of requests. Invariant: names are resolved and checked by the same resolver that the connection
uses, so that no second look-up can give another answer than the one that tasks.providers.hosts let pass.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Mapping

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from chains.errors import EnvironmentLacks
from tasks.providers.hosts import is_denied


class GuardedResolver(AbstractResolver):
    """Resolves as the system does and leaves out addresses that are never called."""

    def __init__(self) -> None:
        self._inner = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the allowed addresses of a name; raise OSError when none is left."""
        found = await self._inner.resolve(host, port, family)
        allowed = [item for item in found if not is_denied(ipaddress.ip_address(item["host"].split("%")[0]))]
        if not allowed:
            raise DeniedAddress(f"{host!r} resolves to a link-local or metadata address")
        return allowed

    async def close(self) -> None:
        """Release the inner resolver."""
        await self._inner.close()


class DeniedAddress(OSError):
    """A name led to an address that is never called."""


def connector(scheme: str, env: Mapping[str, str]) -> aiohttp.TCPConnector:
    """Return a connector whose names are checked; how many calls are in flight is the gate's business."""
    context: ssl.SSLContext | bool = certificates(env) if scheme == "https" else True
    return aiohttp.TCPConnector(resolver=GuardedResolver(), limit=0, ssl=context)


def certificates(env: Mapping[str, str]) -> ssl.SSLContext:
    """Return a context that trusts the system's authorities, or the bundle that the environment names."""
    bundle = env.get("SSL_CERT_FILE") or env.get("REQUESTS_CA_BUNDLE")
    try:
        return ssl.create_default_context(cafile=bundle or None)
    except (OSError, ssl.SSLError) as error:
        raise EnvironmentLacks(
            f"the certificate bundle {bundle!r} cannot be read ({error}).",
            hint="Correct or unset SSL_CERT_FILE.",
        ) from error
