"""A port of this machine that nobody has."""

from __future__ import annotations

import socket


def free_port() -> int:
    """Return a port that is free now; whoever starts a server on it is usually the next to ask."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
