"""A Prefect server that is not available for a moment is asked again soon, and then at Prefect's own pace."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import prefect
import pytest
from prefect.client import base
from prefect.client.orchestration import get_client
from prefect.context import SyncClientContext
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import prefect_client


class Busy(BaseHTTPRequestHandler):
    """Answers 503 as often as `refusals` says, else as a Prefect server would."""

    refusals = 0

    def do_GET(self) -> None:
        refused = self.path.endswith("/hello") and Busy.refusals > 0
        Busy.refusals -= refused
        body = json.dumps(prefect.__version__ if self.path.endswith("/version") else "hello").encode()
        self.send_response(503 if refused else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/api"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("awaited", [True, False])
@pytest.mark.parametrize(("refusals", "own_pauses"), [(1, 0), (3, 0), (4, 1), (7, 1), (8, 2)])
def test_a_server_that_was_locked_is_asked_again_soon_and_then_at_prefects_own_pace(
    url: str, refusals: int, own_pauses: int, awaited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def no_sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(base.anyio, "sleep", no_sleep)
    monkeypatch.setattr(base.time, "sleep", pauses.append)
    monkeypatch.setattr(prefect_client, "SOON_S", (0.0, 0.0, 0.0))

    async def ask() -> int:
        async with prefect_client.shared_clients():
            Busy.refusals = refusals
            if not awaited:
                with SyncClientContext.get_or_create() as context:
                    return context.client.hello().status_code
            async with get_client() as client:
                return (await client.hello()).status_code

    with temporary_settings({PREFECT_API_URL: url}):
        assert asyncio.run(ask()) == 200
    assert len([pause for pause in pauses if pause > 0]) == own_pauses
