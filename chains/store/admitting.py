"""Decides, inside the transaction that would write them, which batches of rows may be written.

Owns the order of the checks: the run is still this process's, the claim that a record was made under is
still there, the value is not being made by somebody else, no budget would be passed. A batch that is turned
away is answered and leaves nothing; the others of its transaction are not disturbed. Batches that ask for no
check cost nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from sqlalchemy import Connection

from chains.errors import HeadraceError, StoreConflict
from chains.store import claiming, schema
from chains.store.claiming import Claim
from chains.store.spending import Ledger, Limit, Settlement, Usage

_FINAL: Final = frozenset({"ok", "failed", "skipped", "blocked", "cancelled"})


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a call may be sent, and if not, why.

    Over a budget: `scope`, `unit`, `limit` and `spent`, which includes what is under way. Claimed by somebody
    else: `claimed_by`. There already: `done`, the id of a record with this value key. `fence` is that of the
    claim that was got.
    """

    allowed: bool
    scope: str | None = None
    unit: str | None = None
    limit: int | None = None
    spent: int | None = None
    fence: int | None = None
    claimed_by: str | None = None
    done: str | None = None


@dataclass(frozen=True, slots=True)
class Guard:
    """What has to hold before a call is sent."""

    limits: Sequence[Limit] = ()
    estimate: Usage = field(default_factory=Usage)
    claim: Claim | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """What a batch asks for besides being written; at most one of the three."""

    guard: Guard | None = None
    settlement: Settlement | None = None
    fence: int | None = None


Rows: TypeAlias = Sequence[tuple[Any, Mapping[str, Any]]]
Answer: TypeAlias = Verdict | HeadraceError | None


class Admission:
    """The batches of one stretch of a transaction, and what each is answered. None: written, no question."""

    def __init__(self, connection: Connection, batches: Sequence[tuple[Rows, Condition | None]]) -> None:
        self._connection = connection
        self._batches = batches
        self.answers: list[Answer] = [None] * len(batches)

    def decide(self, lost: Collection[str], lease_now: Callable[[], float]) -> list[Answer]:
        """Check every batch; `lost` are the runs of this process that another has taken over."""
        if lost:
            self._refuse_taken_over(set(lost))
        open_ = [i for i, (_, condition) in enumerate(self._batches) if condition and self.answers[i] is None]
        if open_:
            self._check_fences(open_)
            self._check_guards(open_, lease_now)
        return self.answers

    def written(self, index: int) -> bool:
        """Tell whether the batch's rows are to be written."""
        answer = self.answers[index]
        return answer is None or (isinstance(answer, Verdict) and answer.allowed)

    def _refuse_taken_over(self, lost: set[str]) -> None:
        for index, (rows, _) in enumerate(self._batches):
            touched = {_run_of(table, columns) for table, columns in rows} & lost
            if touched:
                self.answers[index] = StoreConflict(
                    f"The run {min(touched)!r} has been taken over by another process.",
                    hint="This process was paused for longer than its lease; let it end.",
                )

    def _check_fences(self, among: Sequence[int]) -> None:
        """Refuse what was made under a claim that has passed; give back the claims of what is final."""
        fenced = {i: condition.fence for i in among if (condition := self._batches[i][1]) and condition.fence}
        if not fenced:
            return
        keys = {i: _value_keys(self._batches[i][0]) for i in fenced}
        held = claiming.fences(self._connection, sorted({key for found in keys.values() for key in found}))
        ended: set[str] = set()
        for index, fence in fenced.items():
            late = [key for key in keys[index] if held.get(key) != fence]
            if late:
                self.answers[index] = StoreConflict(
                    f"The claim on {late[0]!r} has passed to another process.",
                    hint="Link the record that it made instead.",
                )
            else:
                ended.update(key for key, status in keys[index].items() if status in _FINAL)
        if ended:
            claiming.give_back(self._connection, sorted(ended))

    def _check_guards(self, among: Sequence[int], lease_now: Callable[[], float]) -> None:
        guards: dict[int, Guard] = {}
        settlements: list[Settlement] = []
        for index in among:
            condition = self._batches[index][1]
            if condition is None or self.answers[index] is not None:
                continue
            if condition.guard is not None:
                guards[index] = condition.guard
            if condition.settlement is not None:
                settlements.append(condition.settlement)
        self._check_claims(guards, lease_now)
        self._check_limits(guards, settlements)

    def _check_claims(self, guards: Mapping[int, Guard], lease_now: Callable[[], float]) -> None:
        claims = {index: guard.claim for index, guard in guards.items() if guard.claim is not None}
        if not claims:
            return
        now = lease_now()
        got = claiming.take(self._connection, list(claims.values()), now)
        others = claiming.live(self._connection, [c.key for c in claims.values() if c.key not in got], now)
        # Looked for once the claims are held: who had them may have finished while this waited for them.
        known = [claim.key for claim in claims.values() if not claim.anew]
        done = claiming.answered(self._connection, known) if known else {}
        needless = set()
        for index, claim in claims.items():
            if not claim.anew and claim.key in done:
                self.answers[index] = Verdict(False, done=done[claim.key])
                needless.add(claim.key)
                continue
            fence = got.pop(claim.key, None)
            if fence is None:
                # A key that is wanted twice in one transaction goes to the first.
                self.answers[index] = Verdict(False, claimed_by=others.get(claim.key, claim.holder))
            else:
                self.answers[index] = Verdict(True, fence=fence)
        if needless & got.keys():
            claiming.give_back(self._connection, sorted(needless & got.keys()))

    def _check_limits(self, guards: Mapping[int, Guard], settlements: Sequence[Settlement]) -> None:
        limits = [limit for settlement in settlements for limit in settlement.limits]
        limits += [limit for guard in guards.values() for limit in guard.limits]
        if not limits:
            return
        ledger = Ledger(self._connection, [limit.scope for limit in limits])
        for settlement in settlements:
            ledger.settle(settlement)
        given_back = []
        for index, guard in guards.items():
            if not self.written(index):
                continue
            excess = ledger.excess(guard.limits, guard.estimate)
            if excess is None:
                ledger.reserve(guard.limits, guard.estimate)
                continue
            self.answers[index] = Verdict(
                False, scope=excess.scope, unit=excess.unit, limit=excess.limit, spent=excess.spent
            )
            if guard.claim is not None:
                given_back.append(guard.claim.key)
        if given_back:
            claiming.give_back(self._connection, given_back)
        ledger.write()


def _run_of(table: Any, columns: Mapping[str, Any]) -> str:
    """Return the run that a row belongs to; a model or collection belongs to none."""
    return str(columns["id"] if table is schema.runs else columns.get("run_id", ""))


def _value_keys(rows: Rows) -> dict[str, str]:
    """Return the value keys of the records among the rows, with the status of each."""
    return {
        columns["value_key"]: columns["status"]
        for table, columns in rows
        if table is schema.records and columns["value_key"] is not None
    }
