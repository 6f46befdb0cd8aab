"""Fixtures for the steps and providers: a real server in its own process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Not tests/ itself: its folders `chains` and `tasks` would hide the packages.
sys.path.append(str(Path(__file__).parents[1] / "servers"))

from launch import Running, start


@pytest.fixture(scope="session")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    server = start(tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


@pytest.fixture
def serve(_server: Running, tmp_path: Path) -> Callable[..., Running]:
    """Return a fresh server with these faults: `serve({"at": 1, "fault": "close"}, latency=0.01)`.

    All tests share one process; each call begins anew, with a ledger of its own.
    """

    def begin(*rules: dict[str, Any], **options: Any) -> Running:
        folder = tmp_path / "server"
        folder.mkdir()
        return _server.restarted(folder, rules, **options)

    return begin
