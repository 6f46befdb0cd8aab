"""An OpenAI-compatible chat endpoint that costs next to nothing, to be run in a process of its own.

    python tests/bench/endpoint_server.py

Prints its URL (up to `/v1`) on the first line. A bare asyncio protocol rather than a web framework, so
that the endpoint is never what a benchmark measures; `GET /stats` gives its CPU seconds, which the report
shows. The ledger is a set of counters and, with `ids`, one entry per `[call ...]` mark that stands in a
prompt. `PUT /reset` takes other options (see `Options`) and empties the ledger.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import math
import random
import re
import socket
import struct
import time
import zlib
from dataclasses import dataclass, field
from typing import Any

MARK = re.compile(rb"\[call ([0-9a-z-]+)\]")
PROSE = "The parcel left the house on Monday and will be there within two days. " * 4
FAULTS = ("429", "500", "reset")


@dataclass
class Options:
    """`latency` is the time of each answer in seconds; with `sigma` it is the median of a lognormal."""

    latency: float = 0.2
    sigma: float = 0.0
    rate_429: float = 0.0
    retry_after: float = 1.0
    rate_500: float = 0.0
    rate_reset: float = 0.0
    ids: bool = False
    mark_every: int = 0
    seed: int = 7


@dataclass
class Ledger:
    """What was asked and answered since the last reset; times are seconds of the monotonic clock."""

    calls: int = 0
    answered: int = 0
    dropped: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    bytes_in: int = 0
    first_at: float | None = None
    last_at: float | None = None
    injected: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FAULTS, 0))
    marks: list[float] = field(default_factory=list)
    ids: dict[str, list[list[float | None]]] = field(default_factory=dict)


class Endpoint:
    """The options and the ledger that all connections share."""

    def __init__(self) -> None:
        self.reset(Options())

    def reset(self, options: Options) -> None:
        self.options = options
        self.ledger = Ledger()
        self.random = random.Random(options.seed)
        self.cpu_before = time.process_time()

    def draw_fault(self) -> str | None:
        options, drawn = self.options, self.random.random()
        for fault, rate in zip(FAULTS, (options.rate_429, options.rate_500, options.rate_reset), strict=True):
            if drawn < rate:
                return fault
            drawn -= rate
        return None

    def draw_latency(self) -> float:
        options = self.options
        if not options.sigma:
            return options.latency
        return options.latency * math.exp(self.random.gauss(0.0, options.sigma))

    def stats(self) -> dict[str, Any]:
        found = {name: value for name, value in dataclasses.asdict(self.ledger).items() if name != "ids"}
        return {**found, "cpu_s": time.process_time() - self.cpu_before, "now": time.monotonic()}


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection: requests with a Content-Length, one after the other."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.buffer = b""
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end]
            length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
            stop = end + 4 + (int(length[1]) if length else 0)
            if len(self.buffer) < stop:
                return
            body, self.buffer = self.buffer[end + 4 : stop], self.buffer[stop:]
            self._serve(head, body)

    def _serve(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"POST /v1/chat/completions"):
            self._ask(body)
        elif head.startswith(b"GET /stats"):
            self._write(b"200 OK", json.dumps(self.endpoint.stats()).encode())
        elif head.startswith(b"GET /ids"):
            self._write(b"200 OK", json.dumps(self.endpoint.ledger.ids).encode())
        elif head.startswith(b"PUT /reset"):
            self.endpoint.reset(Options(**json.loads(body)))
            gc.collect()
            self._write(b"200 OK", b"{}")
        else:
            self._write(b"404 Not Found", b"{}")

    def _ask(self, body: bytes) -> None:
        endpoint, ledger, now = self.endpoint, self.endpoint.ledger, time.monotonic()
        ledger.calls += 1
        ledger.in_flight += 1
        ledger.most_in_flight = max(ledger.most_in_flight, ledger.in_flight)
        ledger.bytes_in += len(body)
        if ledger.first_at is None:
            ledger.first_at = now
        found = MARK.search(body)
        name = found[1].decode() if found else ""
        entry: list[float | None] = [now, None]
        if endpoint.options.ids:
            ledger.ids.setdefault(name, []).append(entry)
        self.loop.call_later(endpoint.draw_latency(), self._answer, ledger, (name, body, entry))

    def _answer(self, ledger: Ledger, asked: tuple[str, bytes, list[float | None]]) -> None:
        ledger.in_flight -= 1
        if self.transport is None or self.transport.is_closing():
            ledger.dropped += 1
            return
        name, body, entry = asked
        fault = self.endpoint.draw_fault()
        if fault is not None:
            ledger.injected[fault] += 1
            self._fail(fault)
            return
        self._write(b"200 OK", completion(name, body))
        ledger.answered += 1
        entry[1] = ledger.last_at = time.monotonic()
        every = self.endpoint.options.mark_every
        if every and ledger.answered % every == 0:
            ledger.marks.append(entry[1])

    def _fail(self, fault: str) -> None:
        assert self.transport is not None
        if fault == "reset":
            # Linger 0 makes the kernel send RST, which a client sees as "connection reset by peer".
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        elif fault == "429":
            retry = f"Retry-After: {self.endpoint.options.retry_after:g}\r\n".encode()
            self._write(b"429 Too Many Requests", b'{"error":{"message":"Rate limit reached."}}', retry)
        else:
            self._write(b"500 Internal Server Error", b'{"error":{"message":"Something broke."}}')

    def _write(self, status: bytes, body: bytes, more: bytes = b"") -> None:
        assert self.transport is not None
        self.transport.write(
            b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n%b"
            % (status, len(body), more, body)
        )

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None


def completion(name: str, body: bytes) -> bytes:
    """Return a completion that is a function of the request and does not repeat its mark."""
    digest = zlib.crc32(body)
    words = len(body) // 4
    return (
        f'{{"id":"chatcmpl-{digest:08x}","object":"chat.completion","created":1750000000,"model":"bench",'
        f'"choices":[{{"index":0,"message":{{"role":"assistant","content":"{digest:08x} {PROSE}"}},'
        f'"finish_reason":"stop"}}],"usage":{{"prompt_tokens":{words},"completion_tokens":75,'
        f'"total_tokens":{words + 75}}}}}'
    ).encode()


async def serve() -> None:
    endpoint = Endpoint()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(endpoint), "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
