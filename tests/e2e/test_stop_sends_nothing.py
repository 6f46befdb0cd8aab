"""After Ctrl-C no call begins, whatever its row was waiting for: a place, a retry, a reask or a rate."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

HEARD_WITHIN = 0.4
"""Seconds that a signal may take to be heard on a busy machine; a call that began then is on its way."""


@pytest.mark.parametrize(
    ("script", "limits"),
    [
        ([{"fault": "status", "status": 500}], "concurrency: 6"),
        ([{"fault": "invalid_output"}], "concurrency: 6"),
        ([{"fault": "status", "status": 429, "headers": {"Retry-After": "1"}}], "concurrency: 6"),
        ([], "concurrency: 6, requests_per_minute: 240"),
    ],
    ids=["retry", "reask", "retry-after", "rate"],
)
def test_nothing_is_sent_once_the_signal_is_heard(
    make_desk: Callable, script: list[dict[str, Any]], limits: str
) -> None:
    desk = make_desk(*script, latency=0.6)
    text = desk.chain.read_text().replace("concurrency: 8", limits)
    desk.chain.write_text(text.replace("attempts: 3, base: 10ms, cap: 50ms", "attempts: 9, base: 800ms"))
    process = desk.start("run", str(desk.chain), "--data", str(desk.tickets(60)), "--direct")
    while desk.sent() < 6:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    stopped_at = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err.decode()
    late = [line for line in desk.server.ledger() if line["at"] > stopped_at + HEARD_WITHIN]
    assert not late, len(late)
    assert time.monotonic() - stopped_at < 12
    assert desk.headrace("verify").code == 0
