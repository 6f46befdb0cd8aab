"""Waits for what another process does in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def until(question: Callable[[], Any], what: str = "it", seconds: float = 150) -> Any:
    """Return the first true answer; `what` names that which did not come."""
    deadline = time.monotonic() + seconds
    while not (found := question()):
        assert time.monotonic() < deadline, f"{what} did not come within {seconds:g} s"
        time.sleep(0.2)
    return found
