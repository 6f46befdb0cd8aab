"""One process at a time in an embedded collection.

Owns the lock file beside a collection's folder. The lock is the operating system's, so it ends with the
process that held it, however that ended; the file's text only says who that is.
"""

from __future__ import annotations

import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path

from chains.clock import Clock
from chains.errors import CollectionBusy


class FolderLock:
    """The claim of this process on a collection's folder."""

    def __init__(self, path: Path, *, name: str, clock: Clock) -> None:
        self._path = path
        self._name = name
        self._clock = clock
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, or raise CollectionBusy naming the holder."""
        import fcntl

        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Not inherited by programs that this process starts: they must not keep the lock alive.
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _read_holder(descriptor)
            os.close(descriptor)
            raise CollectionBusy(
                f"The collection '{self._name}' is open in another process: {holder}.",
                hint="Wait for it to end, or keep the collection in a Qdrant server with `url:`.",
            ) from None
        self._descriptor = descriptor
        holder_text = json.dumps(
            {"pid": os.getpid(), "host": socket.gethostname(), "since": self._clock.now()}
        ).encode()
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, holder_text, 0)

    def release(self) -> None:
        """Give the lock back; the file stays, since removing it would let two processes lock two files."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None


def _read_holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        since = datetime.fromtimestamp(float(holder["since"]), tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"process {int(holder['pid'])} on {str(holder['host'])[:100]}, since {since}"
    except (ValueError, TypeError, KeyError, OverflowError, OSError):
        return "a process that did not leave its name"
