"""Keeps the lease of a run, or of a part of one, alive, and hears when the run is to stop or was taken over.

Owns the thread that does both: the event loop may be busy for longer than a lease, and training keeps it so.
Knows nothing of what stopping means. Invariant: from `take` to `give_back` the run is this process's, or
`lost` is told.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from chains.clock import Clock
from chains.errors import Cancelled, HeadraceError, InputInvalid
from flows.resuming import has_gone

if TYPE_CHECKING:
    from chains.store import Link, RunRow, StepRow, Store
    from chains.store.run_life import Counts
    from flows.parts.part import Part

_LOG = logging.getLogger(__name__)

LEASE_S = 30.0
RENEW_S = 5.0
LOOK_S = 1.0
"""How often somebody's wish to stop the run is looked for."""


class RunLease:
    """The lease of one run, in the name of one execution of it."""

    def __init__(self, store: Store, run_id: str, clock: Clock) -> None:
        self.holder = f"run-{clock.new_id()}"
        self._store = store
        self._name = run_id
        self._stoppable: tuple[str, ...] = (run_id,)
        self._clock = clock
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._cancel: Callable[[], None] | None = None
        self._lost: Callable[[], None] | None = None
        self._heard: set[str] = set()

    def take(self) -> bool:
        """Take the lease and keep it; False where another process has it."""
        return self._kept(self._store.lease_run(self._name, self.holder, LEASE_S))

    def begin(
        self,
        run: RunRow,
        steps: Iterable[StepRow],
        files: Mapping[str, bytes],
        links: Sequence[Link] = (),
    ) -> bool:
        """Write a new run, and take and keep its lease; False where another process has it."""
        begun = self._store.begin_run(run, steps, holder=self.holder, files=files, lease=LEASE_S, links=links)
        return self._kept(begun)

    def end(self, row: Callable[[Counts], RunRow]) -> bool:
        """Write the run's end and end the lease; False where another process has it by now."""
        if self.is_lost or not self._store.end_run(self._name, self.holder, row):
            return False
        self._ended.set()
        return True

    def _kept(self, taken: bool) -> bool:
        if not taken:
            return False
        self._thread = threading.Thread(target=self._keep, name="headrace-lease", daemon=True)
        self._thread.start()
        return True

    def listen(self, *, cancel: Callable[[], None], lost: Callable[[], None]) -> None:
        """Call `cancel` when somebody asks the run to stop, `lost` when it was taken over; from a thread."""
        with self._lock:
            self._cancel, self._lost = cancel, lost
            heard = set(self._heard)
        if "cancel" in heard:
            cancel()
        if "lost" in heard:
            lost()

    @property
    def is_lost(self) -> bool:
        """Whether the run is another process's by now."""
        return "lost" in self._heard

    def still_mine(self) -> bool:
        """Renew the lease and return whether that was possible."""
        return not self.is_lost and self._store.renew(self.holder, LEASE_S) > 0

    def give_back(self) -> None:
        """End the lease; a second call does nothing."""
        if not self._ended.is_set():
            self._ended.set()
            self._store.release_run(self._name, self.holder)

    def _keep(self) -> None:
        renewed = self._clock.monotonic()
        while not self._ended.wait(LOOK_S):
            try:
                if self._store.cancel_requested(*self._stoppable) is not None:
                    self._tell("cancel")
                if self._clock.monotonic() - renewed >= RENEW_S:
                    if not self._store.renew(self.holder, LEASE_S) and not self._ended.is_set():
                        self._tell("lost")
                        return
                    renewed = self._clock.monotonic()
            except Cancelled:
                return  # the store was closed
            except HeadraceError as error:  # the lease outlives some failed renewals
                _LOG.warning("The lease of run %s could not be renewed: %s", self._name, error)

    def _tell(self, what: str) -> None:
        with self._lock:
            if what in self._heard:
                return
            self._heard.add(what)
            listener = self._cancel if what == "cancel" else self._lost
        if listener is not None:
            listener()


class PartLease(RunLease):
    """The lease of a part of a run that another process has; it hears what stops the run, too."""

    def __init__(self, store: Store, part: Part, clock: Clock) -> None:
        super().__init__(store, part.run_id, clock)
        self.holder = f"part-{clock.new_id()}"
        self._name, self._stoppable = part.name, (part.run_id, part.name)
        self._run_fence = part.run_fence

    def take(self) -> bool:
        """Take the lease and keep it; False where another process has the part."""
        return self._kept(
            self._store.lease_part(self._name, self.holder, run_fence=self._run_fence, lease=LEASE_S)
        )


def take_over(store: Store, run: RunRow, clock: Clock) -> RunLease | None:
    """Take a run's lease without keeping it alive, to close the run; None where a process works on it."""
    lease = RunLease(store, run.id, clock)
    return lease if store.lease_run(run.id, lease.holder, LEASE_S) else None


def leased_run(store: Store, run_id: str, clock: Clock) -> RunLease:
    """Return the lease of a run that begins or goes on here; raise InputInvalid where another has it."""
    lease = RunLease(store, run_id, clock)
    if not lease.take() and not (_left_behind(store, run_id) and lease.take()):
        row = store.run(run_id)
        who = f"process {row.pid} on {row.host!r}" if row is not None else "another process"
        raise InputInvalid(
            f"run {run_id} is being worked on by {who}.",
            hint=f"Wait for it, or stop it with `headrace cancel {run_id}`.",
        )
    return lease


def _left_behind(store: Store, run_id: str) -> bool:
    """End the lease of a process that was killed after it wrote the run's end; False if it may be alive."""
    row = store.run(run_id)
    if row is None or not has_gone(row):
        return False
    store.close_lost(run_id, row.status)
    return True
