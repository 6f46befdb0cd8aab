"""What the pages look at: the store, the chains of its runs, and the index of words.

Owns finding and remembering. A run's chain is read once for as long as the run says the same. Raises NotThere
for whatever an address names and the store does not have.
"""

from __future__ import annotations

import json
import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Final

from chains.errors import HeadraceError, InputInvalid
from flows.inspector.addresses import Place
from flows.inspector.search import Search
from flows.recorded import recorded_or_none

if TYPE_CHECKING:
    from chains.diff import RecordedRun
    from chains.store import RecordRow, RunRow, Store

_KEPT: Final = 200
_SUMS_KEPT: Final = 5_000
_ENDS: Final = frozenset({"ok", "failed", "cancelled"})
"""How a run ends itself; one whose process was gone is closed by others."""


class NotThere(HeadraceError):
    """What an address names is not in the store."""


class Looking:
    """One store as the pages see it; shared by all requests."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._chains: OrderedDict[tuple[str, str, bytes], RecordedRun | None] = OrderedDict()
        self._sums: OrderedDict[tuple[str, str, float | None, float | None], dict[str, int]] = OrderedDict()
        self._lock = threading.Lock()

    @cached_property
    def search(self) -> Search:
        """The index of words, made when it is first wanted."""
        return Search(self.store)

    def run(self, run_id: str) -> RunRow:
        """Return a run by its id, or the `last` one."""
        try:
            found = next(iter(self.store.runs(limit=1)), None) if run_id == "last" else self.store.run(run_id)
        except InputInvalid as error:
            raise NotThere(str(error)) from error
        if found is None:
            raise NotThere(f"There is no run {run_id!r} in this store.")
        return found

    def chain(self, run: RunRow) -> RecordedRun | None:
        """Return a run's chain, or None where this Headrace does not read it."""
        key = (run.id, run.chain_hash, run.options)
        with self._lock:
            if key in self._chains:
                self._chains.move_to_end(key)
                return self._chains[key]
        found = recorded_or_none(self.store, run)
        with self._lock:
            self._chains[key] = found
            while len(self._chains) > _KEPT:
                self._chains.popitem(last=False)
        return found

    def sums(self, runs: Sequence[RunRow]) -> dict[str, dict[str, int]]:
        """Return the sums over each run's records; those of a run that has not changed are remembered."""
        keys = {run.id: (run.id, run.status, run.finished_at, run.heartbeat_at) for run in runs}
        with self._lock:
            found = {name: self._sums[key] for name, key in keys.items() if key in self._sums}
        fresh = self._told([run for run in runs if run.id not in found])
        unknown = [name for name in keys if name not in found and name not in fresh]
        fresh |= self.store.sums(unknown) if unknown else {}
        with self._lock:
            for run in runs:
                if run.status != "running" and run.id in fresh:
                    self._sums[keys[run.id]] = fresh[run.id]
            while len(self._sums) > _SUMS_KEPT:
                self._sums.popitem(last=False)
        return found | fresh

    def _told(self, runs: Sequence[RunRow]) -> dict[str, dict[str, int]]:
        """Return the sums that runs have written down themselves when they ended: their records stay closed.

        Not of a run that went on after its result, or ended without one.
        """
        ended = {run.id: run.status for run in runs if run.status in _ENDS}
        found = {}
        for name, encoded in (self.store.small_results(list(ended)) if ended else {}).items():
            result = json.loads(encoded)
            if result.get("status") == ended[name] and isinstance(result.get("counts"), dict):
                sums: Counter[str] = Counter()
                for counts in result["counts"].values():
                    sums.update(counts)
                found[name] = dict(sums)
        return found

    def record(self, run: RunRow, step: str, row: int, place: Place) -> RecordRow:
        """Return the record at a place of a run."""
        try:
            found = self.store.record(
                run.id, step, row, path=place.path, item=place.item, turn=place.turn, sample=place.sample
            )
        except InputInvalid as error:
            raise NotThere(str(error)) from error
        if found is None:
            raise NotThere(f"Run {run.id} has no record of step {step!r} there.")
        return found
