"""Writes files so that a reader sees the old content or the new, never a part, also after a power cut.

Owns the temporary names that such a write uses, and how to tell that one was left by a process that is
gone. Knows nothing of blobs or rows.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from chains import failpoints
from chains.errors import EnvironmentLacks

_TEMPORARY: Final = re.compile(r"\.tmp-(?P<place>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{16}(-journal|-wal|-shm)?")


def atomic_write(path: Path, data: bytes) -> None:
    """Write `data` to `path`; a crash leaves the old file or the new; on return the new one is on disk."""
    with atomic_file(path) as file:
        file.write(data)


@contextmanager
def atomic_file(path: Path, *, synced: bool = True) -> Iterator[BinaryIO]:
    """Open a file that appears as `path`, synced to disk, when the block ends without an error."""
    temporary = path.with_name(temporary_name())
    try:
        failpoints.hit("store.file.before_write")
        with temporary.open("xb") as file:
            yield file
            if synced:
                file.flush()
                os.fsync(file.fileno())
        failpoints.hit("store.file.before_rename")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    failpoints.hit("store.file.after_rename")
    if synced:
        sync_folder(path.parent)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Say in one sentence what the operating system refused to do below `folder`."""
    try:
        yield
    except OSError as error:
        raise EnvironmentLacks(
            f"The store cannot write below {str(folder)!r}: {error.strerror or error}.",
            hint="Free some space there, or name another folder with HEADRACE_STORE.",
        ) from error


def sync_folder(folder: Path) -> None:
    """Put the names in `folder` on disk; without it a power cut can undo a rename."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make `folder` if it is not there, with its name on disk."""
    try:
        folder.mkdir()
    except FileExistsError:
        return
    sync_folder(folder.parent)


def temporary_name() -> str:
    """Return a name that no other process uses and that says who uses it."""
    return f".tmp-{_place()}-{os.getpid()}-{secrets.token_hex(8)}"


def is_temporary(name: str) -> bool:
    """Tell whether `name` was made by `temporary_name`."""
    return _TEMPORARY.fullmatch(name) is not None


def is_abandoned(path: Path, *, grace: float) -> bool:
    """Tell whether a temporary file is left over: its process is gone, or it is older than `grace`."""
    match = _TEMPORARY.fullmatch(path.name)
    if match is None:
        return False
    try:
        age = time.time() - path.lstat().st_mtime  # noqa: TID251 - compared with the file system's own clock
    except FileNotFoundError:
        return False
    pid = int(match["pid"])
    if match["place"] == _place():
        # A live process of this machine keeps its file however old; a long copy is no leftover.
        return pid != os.getpid() and not _lives(pid)
    return age > grace


def remove_abandoned(folder: Path) -> None:
    """Remove what killed processes of this machine left in a folder that is not the store's."""
    for path in folder.glob(".tmp-*"):
        if is_abandoned(path, grace=math.inf):
            with suppress(OSError):  # who may not remove it may still write beside it
                path.unlink()


def _place() -> str:
    """Name this machine and pid namespace: only within one does a pid say who is alive."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return hashlib.sha256(f"{socket.gethostname()} {namespace}".encode()).hexdigest()[:8]


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
