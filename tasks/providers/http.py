"""One HTTP connection pool to one endpoint: bytes out, bytes in, within deadlines and size limits.

Owns the aiohttp session, deadlines, decompression and the removal of the key from whatever comes back.
Knows nothing of chat or embeddings. Invariant: exactly one request goes out per `post` or `get`, no redirect
is followed, and at most `max_bytes` decoded bytes are held.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

import aiohttp
import orjson
from multidict import CIMultiDict
from yarl import URL

from chains.clock import Clock
from chains.errors import (
    CallRefused,
    ConnectionFailed,
    EnvironmentLacks,
    HeadraceError,
    InvalidBody,
    Refused,
    TimedOut,
)
from tasks.providers.faults import classify, preview
from tasks.providers.hosts import is_loopback, split_url
from tasks.providers.network import DeniedAddress, connector
from tasks.providers.reply import Reply
from tasks.providers.streams import EVENTS, REMOVED, Deltas, OnText, Veil, assembled

SHORTEST_SECRET = 8
"""Keys shorter than this (`none`, `EMPTY`) are placeholders; cutting them out would only damage answers."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds for parts of one attempt; the attempt's own timeout bounds all of it.

    The first byte has the whole attempt to come: an answer that is not streamed begins when it is done.
    """

    connect: float = 5.0
    between_chunks: float = 30.0


@dataclass(frozen=True, slots=True)
class _Request:
    """What goes out; `headers` take the place of the session's."""

    method: str
    url: URL
    body: bytes | None = None
    headers: Mapping[str, str] | None = None


@dataclass(slots=True)
class _Received:
    """How far one exchange came."""

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    deltas: Deltas | None = None
    veil: Veil | None = None

    @property
    def is_stream(self) -> bool:
        """Whether the answer comes as events, which it does only where that was asked for."""
        return self.deltas is not None and self.headers.get("Content-Type", "").startswith(EVENTS)


@dataclass(frozen=True, slots=True, repr=False)
class Extras:
    """What a call carries besides its key; `secrets` are the values that came from the environment.

    `shown` is the address as messages and records have it, where that differs from what is called.
    """

    headers: Mapping[str, str] = field(default_factory=dict)
    secrets: Sequence[str] = ()
    api_version: str | None = None
    shown: str | None = None


class Endpoint:
    """A base URL with a key. Made without touching the network; the session opens with the first call.

    The key and other secrets are in no repr and in nothing that `post` returns or raises. An API version
    makes it an Azure deployment: the version goes into the query, the key into a header of its own.
    """

    def __init__(
        self,
        base_url: str,
        key: str | None,
        *,
        env: Mapping[str, str],
        max_bytes: int,
        extras: Extras | None = None,
        deadlines: Deadlines | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._parts = split_url(base_url, "the endpoint")
        self.key = key
        extras = extras or Extras()
        self.shown = (extras.shown or base_url).rstrip("/")
        self._api_version = extras.api_version
        self._urls: dict[str, URL] = {}
        self._env = env
        self._max_bytes = max_bytes
        self._deadlines = deadlines or Deadlines()
        self._clock = clock or Clock()
        self._session: aiohttp.ClientSession | None = None
        self._headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "gzip, deflate",
            "User-Agent": "headrace",
            **self._credentials(),
        }
        # A header of the chain takes the place of one of ours, however it is spelt.
        own = {name.lower(): name for name in self._headers}
        for name, value in extras.headers.items():
            self._headers.pop(own.get(name.lower(), ""), None)
            self._headers[name] = value
        self._secrets = _forms([key or "", *extras.secrets])

    @property
    def host(self) -> str:
        """The host that is called."""
        return self._parts.hostname or ""

    @property
    def identity(self) -> str:
        """What tells this address from others, without what may not be shown."""
        if self.shown == self.base_url:
            return self.base_url
        return f"{self.shown}#{hashlib.sha256(self.base_url.encode()).hexdigest()[:16]}"

    @property
    def shared_by(self) -> tuple[object, ...]:
        """What two models must have in common to use one pool of connections."""
        return self.base_url, self._api_version, frozenset(self._headers.items())

    def __repr__(self) -> str:
        return f"Endpoint({self.shown!r})"

    async def post(
        self,
        path: str,
        request: bytes,
        *,
        timeout: float,
        on_text: OnText | None = None,
        form: str | None = None,
    ) -> Reply:
        """Send one request and return what came back, in whatever state; raise when nothing did.

        With `on_text` the answer may come as a stream of events, and its text is told while it comes. `form`
        is the content type of what is no JSON.
        """
        headers = {"Content-Type": form} if form is not None else None
        return await self._send(_Request("POST", self._url(path), request, headers), timeout, on_text)

    async def get(self, path: str, query: Mapping[str, str], *, timeout: float) -> Reply:
        """Ask for what is there; else as `post`."""
        return await self._send(_Request("GET", self._url(path).update_query(query)), timeout, None)

    async def _send(self, request: _Request, timeout: float, on_text: OnText | None) -> Reply:
        received = _Received()
        if on_text is not None:
            received.veil = Veil([form.decode() for form in self._secrets], on_text)
            received.deltas = Deltas(received.veil.tell)
        try:
            async with asyncio.timeout(timeout):
                await self._exchange(request, received)
        except (TimeoutError, aiohttp.ClientError, OSError, HeadraceError) as error:
            failure = self._failure(error, received, timeout)
            if received.status is None:
                raise failure from error
            return self._reply(received, failure)
        finally:
            if received.veil is not None:
                received.veil.end()
        return self._reply(received, None)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def without_key(self, data: bytes) -> bytes:
        """Return data with the key cut out, for endpoints that repeat it in their messages."""
        for form in self._secrets:
            data = data.replace(form, REMOVED.encode())
        return data

    def _without_secrets(self, text: str) -> str:
        return self.without_key(text.encode("utf-8", "surrogateescape")).decode("utf-8", "replace")

    def _credentials(self) -> dict[str, str]:
        if self.key is None:
            return {}
        return {"api-key": self.key} if self._api_version else {"Authorization": f"Bearer {self.key}"}

    def _url(self, path: str) -> URL:
        """Return the address of a path; parsed once, for it is asked with every call."""
        if path not in self._urls:
            url = URL(self.base_url + path)
            self._urls[path] = (
                url.with_query({"api-version": self._api_version}) if self._api_version else url
            )
        return self._urls[path]

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=connector(self._parts.scheme, self._env),
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=None, connect=self._deadlines.connect),
                # What runs on this machine is not behind the proxy that the environment names.
                trust_env=not is_loopback(self._parts.hostname or ""),
                # Bodies are decompressed here, in steps, so that a small bomb cannot fill the memory.
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def _exchange(self, request: _Request, received: _Received) -> None:
        async with self._open().request(
            request.method, request.url, data=request.body, headers=request.headers, allow_redirects=False
        ) as response:
            received.status = response.status
            received.headers = response.headers
            unpack = _Unpacker(response.headers.get("Content-Encoding", ""))
            while True:
                chunk = await self._part(response.content, received)
                if not chunk:
                    break
                unpacked = unpack.feed(chunk, self._max_bytes + 1 - len(received.body))
                received.body += unpacked
                if received.deltas is not None and received.is_stream:
                    received.deltas.feed(unpacked)
                if len(received.body) > self._max_bytes:
                    response.close()
                    raise CallRefused(
                        f"the answer of {self.shown} is longer than {self._max_bytes} bytes.",
                        hint="Set max_tokens, or HEADRACE_MAX_RESPONSE_BYTES if such answers are right.",
                    )
            unpack.check_end()

    async def _part(self, content: aiohttp.StreamReader, received: _Received) -> bytes:
        """Return the next part of an answer, or nothing at its end."""
        # A short answer has come whole with its head; only who waits for a part needs a deadline.
        part = content.read_nowait()
        if part or content.at_eof():
            return part
        if received.is_stream and not received.body:
            return await content.readany()  # the head comes at once, the first word when it is thought of
        async with asyncio.timeout(self._deadlines.between_chunks):
            return await content.readany()

    def _reply(self, received: _Received, failure: HeadraceError | None) -> Reply:
        body = self.without_key(bytes(received.body))
        status = received.status or 0
        document: Any = None
        if failure is None and not 200 <= status < 300:
            headers = {name: self._without_secrets(value) for name, value in received.headers.items()}
            failure = classify(status, CIMultiDict(headers), body, now=self._clock.now())
        elif failure is None:
            kind = received.headers.get("Content-Type", "")
            document, failure = assembled(body) if received.is_stream else read_json(body, kind)
        if received.veil is not None and received.veil.has_cut:
            body, document = self._unveiled(document)
        usage = document.get("usage") if isinstance(document, dict) else None
        model = document.get("model") if isinstance(document, dict) else None
        return Reply(
            body=body,
            status=received.status,
            request_id=self._without_secrets(received.headers.get("x-request-id") or "")[:200] or None,
            model=model[:200] if isinstance(model, str) else None,
            tokens_in=_tokens(usage, "prompt_tokens"),
            tokens_out=_tokens(usage, "completion_tokens"),
            document=document,
            failure=failure,
        )

    def _unveiled(self, document: Any) -> tuple[bytes, Any]:
        """Return what is kept of a stream whose parts together held the key: the whole without it."""
        if document is None:
            return b"[a streamed answer that broke off and held the key]", None
        whole = self.without_key(orjson.dumps(document))
        return whole, orjson.loads(whole)

    def _failure(self, error: Exception, received: _Received, timeout: float) -> HeadraceError:
        """Return our error for one of the client library's."""
        where = self.shown
        so_far = f" after {len(received.body)} bytes" if received.status is not None else ""
        if isinstance(error, HeadraceError):
            return error
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            late = TimedOut(f"no connection to {where} within {self._deadlines.connect:g} s.")
            late.reached = False
            return late
        if isinstance(error, TimeoutError):
            return self._timed_out(received, timeout)
        if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, DeniedAddress):
            return Refused(f"{where}: {error.os_error}, which is never called.")
        if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
            return EnvironmentLacks(
                f"no trusted connection to {where}: {self._without_secrets(_plain(error))}.",
                hint="If the authority is right, name its bundle in SSL_CERT_FILE.",
            )
        if isinstance(error, aiohttp.ClientPayloadError):
            return InvalidBody(f"the answer of {where} broke off{so_far}.")
        if isinstance(error, aiohttp.ServerDisconnectedError):
            return ConnectionFailed(f"{where} closed the connection without an answer.")
        if isinstance(error, aiohttp.ClientResponseError):
            return ConnectionFailed(f"{where} answers in something that is not HTTP.")
        why = self._without_secrets(_plain(error))
        return ConnectionFailed(f"the connection to {where} failed{so_far}: {why}.")

    def _timed_out(self, received: _Received, timeout: float) -> TimedOut:
        if received.status is None:
            return TimedOut(
                f"{self.shown} began no answer within {timeout:g} s.",
                hint="Raise `timeout:` if it needs longer.",
            )
        return TimedOut(
            f"the answer of {self.shown} stopped after {len(received.body)} bytes "
            f"(limits: {self._deadlines.between_chunks:g} s between parts, {timeout:g} s in all)."
        )


class _Unpacker:
    """Undoes gzip or deflate in bounded steps."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding.strip().lower()
        self._inflate: Any = None
        if self._encoding in ("gzip", "x-gzip", "deflate"):
            self._inflate = zlib.decompressobj(wbits=47)  # 32 + 15: zlib or gzip, told by its header
        elif self._encoding not in ("", "identity"):
            raise InvalidBody(f"the answer is packed as {self._encoding[:40]!r}, which was not asked for.")

    def feed(self, chunk: bytes, room: int) -> bytes:
        if self._inflate is None:
            return chunk[:room]
        try:
            unpacked: bytes = self._inflate.decompress(chunk, room)
        except zlib.error as error:
            raise InvalidBody(f"the answer's {self._encoding} packing is damaged ({error}).") from error
        return unpacked

    def check_end(self) -> None:
        if self._inflate is not None and not self._inflate.eof:
            raise InvalidBody(f"the answer's {self._encoding} packing breaks off.")


def _forms(secrets: Sequence[str]) -> tuple[bytes, ...]:
    """Return every form in which secrets can stand in an answer, the longest first."""
    real = [secret for secret in secrets if len(secret) >= SHORTEST_SECRET]
    forms = {
        form.encode()
        for secret in {*real, *map(unquote, real)}
        for form in (secret, json.dumps(secret)[1:-1], quote(secret, safe=""), quote(secret))
    }
    return tuple(sorted(forms, key=len, reverse=True))


def read_json(body: bytes, content_type: str) -> tuple[Any, HeadraceError | None]:
    """Return a body's JSON, or the reason why it is none."""
    try:
        return orjson.loads(body.removeprefix(b"\xef\xbb\xbf")), None
    except orjson.JSONDecodeError as error:
        kind = content_type.split(";")[0].strip() or "no content type"
        what = f"{error.msg}; {kind[:60]}"
        return None, InvalidBody(f"the answer with status 200 is not JSON ({what}): {preview(body)!r}.")


def _tokens(usage: Any, name: str) -> int | None:
    # Zero counts as unknown: some servers send zeros where they do not count.
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and count > 0 else None


def _plain(error: Exception) -> str:
    text = str(error.os_error) if isinstance(error, aiohttp.ClientConnectorError) else str(error)
    return text[:200].rstrip(".") or type(error).__name__
