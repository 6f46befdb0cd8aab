"""Wakes a worker of parts when one is sent to it: Prefect's event stream rings, so that it may ask seldom.

Owns the connection to the stream. Knows nothing of parts. Nothing depends on it: without it, or where an
event is late, the worker asks at its own pace.
"""

from __future__ import annotations

import asyncio
import contextlib
from uuid import UUID

import httpx
from prefect.events import get_events_subscriber
from prefect.events.filters import EventAnyResourceFilter, EventFilter, EventNameFilter
from prefect.exceptions import PrefectException
from websockets.exceptions import WebSocketException

AGAIN_S = 10.0
"""After how long a stream that ended is asked for again."""


class Bell:
    """Rings when a flow run of a deployment is scheduled."""

    def __init__(self, deployment: UUID) -> None:
        self._rung = asyncio.Event()
        self._filter = EventFilter(
            event=EventNameFilter(name=["prefect.flow-run.Scheduled"]),
            # Not `related`: Prefect's server passes over that in what it sends as it happens.
            any_resource=EventAnyResourceFilter(id=[f"prefect.deployment.{deployment}"]),
        )

    async def wait(self, limit: float) -> bool:
        """Return whether it has rung since the last time, after `limit` seconds at the latest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await self._rung.wait()
        rung = self._rung.is_set()
        self._rung.clear()
        return rung

    async def listen(self) -> None:
        """Follow the stream until cancelled."""
        while True:
            with contextlib.suppress(OSError, httpx.HTTPError, PrefectException, WebSocketException):
                async with get_events_subscriber(self._filter, reconnection_attempts=0) as events:
                    async for _ in events:
                        self._rung.set()
            await asyncio.sleep(AGAIN_S)
