"""Processes that live and die with this one: servers and workers beside a run or below `headrace up`.

Owns how they are started (each in a group of its own, so that Ctrl-C reaches this process first), how their
lines are read, and that none outlives us, however we end. Knows nothing of what they do. Imports nothing of
Prefect.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from chains.clock import Clock

_UNTIL_STDIN_CLOSES = '("$@"; kill 0) & read -r _; kill 0'
"""Runs a command until it ends or the pipe to us closes, so that nothing is left behind a killed process."""

PAUSE_SECONDS = 0.05


def start_child(
    command: Sequence[str], *, environment: Mapping[str, str], sink: IO[bytes] | int
) -> subprocess.Popen[bytes]:
    """Start a command that ends when this process does. Its output goes to `sink`."""
    return subprocess.Popen(
        ["sh", "-c", _UNTIL_STDIN_CLOSES, "sh", *command],
        stdin=subprocess.PIPE,
        stdout=sink,
        stderr=subprocess.STDOUT,
        env=dict(environment),
        start_new_session=True,  # Ctrl-C stops the run first; `kill 0` reaches this group only
    )


class Child:
    """A named child whose lines are told one by one."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        tell: Callable[[str, str], None],
    ) -> None:
        self.name = name
        self._process = start_child(command, environment=environment, sink=subprocess.PIPE)
        self._tell = tell
        self._reader = threading.Thread(target=self._read, name=f"log-{name}", daemon=True)
        self._reader.start()

    @property
    def ended(self) -> bool:
        """Whether the command itself has ended."""
        return self._process.poll() is not None

    def ask_to_stop(self) -> None:
        """Ask the child and what it has started to stop, as Ctrl-C does."""
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()

    def wait_for_end(self, limit: float, hurry: threading.Event) -> None:
        """Wait until all of its group are gone, at most `limit` seconds, then end what is left."""
        clock = Clock()
        begun = clock.monotonic()
        while group_lives(self._process.pid) and clock.monotonic() - begun < limit and not hurry.is_set():
            hurry.wait(PAUSE_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the child and all that it has started at once."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(timeout=2)

    def _read(self) -> None:
        assert self._process.stdout is not None  # a pipe
        for line in self._process.stdout:
            self._tell(self.name, line.decode("utf-8", "replace").rstrip())


def group_lives(group: int, proc: Path = Path("/proc")) -> bool:
    """Whether a process of the group lives; one that has ended and only waits for its parent does not."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    if not proc.is_dir():
        return True
    for entry in proc.iterdir():
        if entry.name.isdigit():
            with suppress(OSError, IndexError, ValueError):
                state, _, of = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
                if int(of) == group and state != "Z":
                    return True
    return False
