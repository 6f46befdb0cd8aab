"""Runs the forks that somebody started in the inspector, each in a thread of this process.

Owns the threads. A fork is an ordinary run with a lease: it can be watched, cancelled and resumed from
anywhere, and is cancelled when the inspector ends. Knows nothing of forms.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from chains.errors import HeadraceError, InputInvalid

if TYPE_CHECKING:
    from chains.settings import Settings
    from chains.store import Store
    from flows.prepared import PreparedRun
    from flows.request import Replay

MOST: Final = 4
"""Forks that run here at once."""
END_S: Final = 15.0
"""How long the end of the inspector waits for its forks: calls in flight have ten seconds."""

_LOG = logging.getLogger(__name__)


class Replays:
    """The forks that run in this process."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.settings = settings
        self._store = store
        self._running: dict[str, threading.Thread] = {}
        self._lock = threading.Lock()

    def start(self, asked: Replay) -> str:
        """Make a fork, let it run, and return its id; raises what `prepare` does."""
        from flows.prepared import prepare

        with self._lock:
            self._running = {name: thread for name, thread in self._running.items() if thread.is_alive()}
            if len(self._running) >= MOST:
                raise InputInvalid(f"{MOST} forks are running here.", hint="Wait for one of them to end.")
            run = prepare(asked, store=self._store, settings=self.settings)
            thread = threading.Thread(target=_carry_out, args=(run,), name=f"headrace-{run.run_id}")
            self._running[run.run_id] = thread
            thread.start()
        return run.run_id

    def close(self) -> None:
        """Stop what runs: no new calls, and some seconds for those in flight."""
        with self._lock:
            running = dict(self._running)
        for run_id, thread in running.items():
            if thread.is_alive():
                with suppress(HeadraceError):
                    self._store.request_cancel(run_id)
        for thread in running.values():
            thread.join(END_S)


def _carry_out(run: PreparedRun) -> None:
    from flows.closing import close_unfinished
    from flows.executor import execute
    from flows.units import Direct

    try:
        asyncio.run(execute(run, Direct()))
    except Exception:  # noqa: BLE001 - the border of the thread: the run's own row says how it ended
        _LOG.exception("Fork %s ended with an error", run.run_id)
        close_unfinished(run, "failed")
