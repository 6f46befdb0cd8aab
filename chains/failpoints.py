"""Named places in the program where a test can kill, stop, delay or fail it.

Owns the names and what the environment asks for at them; knows nothing of the code around a point. The
environment is read once, at the first point that is reached: with `HEADRACE_FAILPOINTS` unset, a point
costs one comparison. `HEADRACE_FAILPOINTS="a=kill,b=raise@3,c=sleep:0.5,d=enospc"`: `@N` acts at the N-th
time only, and without it every time.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from dataclasses import dataclass
from typing import Final

VARIABLE: Final = "HEADRACE_FAILPOINTS"

POINTS: Final = frozenset(
    {
        # chains.store.files: every file that the store writes, so every blob
        "store.file.before_write",
        "store.file.before_rename",
        "store.file.after_rename",
        # chains.store.remote: a file that goes to a bucket
        "store.remote.before_upload",
        "store.remote.after_upload",
        # chains.store.folders: a folder made from blobs
        "store.folder.before_rename",
        "store.folder.after_rename",
        # chains.store.writer and .batches: one group of rows
        "store.group.before_begin",
        "store.group.between_tables",
        "store.group.before_commit",
        "store.group.after_commit",
        # chains.store.migrating: a schema upgrade
        "store.migrate.after_backup",
        "store.migrate.before_commit",
        "store.migrate.after_commit",
        # tasks.attempts: one outside call
        "attempt.after_intent",
        "attempt.before_outcome",
        # chains.store.collecting: removal of what nothing refers to
        "store.collect.before_unlink",
        "store.collect.before_commit",
    }
)
"""Every point of the program; tests hold this list and the calls of `hit` to each other."""


class FailpointHit(RuntimeError):
    """Raised at a point that was asked to `raise`; stands for any bug, so it is no HeadraceError."""


@dataclass(slots=True)
class _Action:
    verb: str
    seconds: float
    only_at: int | None
    hits: int = 0


_actions: dict[str, _Action] | None = None
_lock = threading.Lock()


def hit(name: str) -> None:
    """Do here what the environment asks for at this point; usually nothing."""
    actions = _actions if _actions is not None else _read_environment()
    if actions and name in actions:
        _act(name, actions[name])


def parse(text: str) -> dict[str, _Action]:
    """Read the value of the environment variable; a name or verb that does not exist is a ValueError."""
    actions = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, wish = part.partition("=")
        wish, _, count = wish.partition("@")
        verb, _, seconds = wish.partition(":")
        if name not in POINTS:
            raise ValueError(f"{VARIABLE} names {name!r}, which is no failpoint; there are {sorted(POINTS)}")
        if verb not in {"kill", "raise", "sleep", "enospc"}:
            raise ValueError(
                f"{VARIABLE} asks for {verb!r} at {name!r}; write kill, raise, sleep:S or enospc"
            )
        actions[name] = _Action(verb, float(seconds or 0), int(count) if count else None)
    return actions


def _read_environment() -> dict[str, _Action]:
    global _actions
    _actions = parse(os.environ.get(VARIABLE, ""))
    return _actions


def _act(name: str, action: _Action) -> None:
    with _lock:
        action.hits += 1
        if action.only_at is not None and action.hits != action.only_at:
            return
    if action.verb == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action.verb == "sleep":
        time.sleep(action.seconds)
    elif action.verb == "enospc":
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} (failpoint {name})")
    else:
        raise FailpointHit(f"failpoint {name}")
