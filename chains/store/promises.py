"""The part of the store that keeps promises about paid calls: budgets, claims, rates, run leases.

Owns the public methods. What each one does inside its transaction is in .admitting, .spending, .claiming,
.rates and .leasing. Invariant: what is checked and what is written because of it are one transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, update

from chains.clock import Clock
from chains.errors import InputInvalid, StoreConflict
from chains.store import claiming, leasing, rates, run_life, schema, spending
from chains.store.admitting import Condition, Guard, Verdict
from chains.store.batches import Batch, batch_of
from chains.store.browsing import Browses
from chains.store.claiming import LEASE_S, Claim, checked_claim, checked_lease
from chains.store.leasing import PartLease
from chains.store.names import checked_id
from chains.store.rates import Rates, Slots
from chains.store.rows import AttemptRow, RecordRow, Row, RunRow, RunStatus
from chains.store.shapes import RUNS, decode
from chains.store.spending import Limit, Settlement, Usage
from chains.store.writer import Writer

_ESTIMATED_NOTHING = Usage()


class Promises(Browses):
    """What processes that share a store agree on; `Store` adds the rest."""

    _clock: Clock
    _leased: dict[str, int]

    def _writer(self) -> Writer:
        raise NotImplementedError

    async def _awrite(self, batch: Batch) -> Any:
        raise NotImplementedError

    async def begin_attempt(
        self,
        opening: RecordRow | None,
        intent: AttemptRow,
        *,
        limits: Sequence[Limit] = (),
        estimate: Usage = _ESTIMATED_NOTHING,
        claim: Claim | None = None,
    ) -> Verdict:
        """Write the rows of a call that is about to be sent, unless it would pass a limit or is not ours.

        One transaction takes the claim, checks every limit against what was spent and is under way, reserves
        the estimate and writes the rows; if the verdict is no, it does none of that.
        """
        condition = None
        if limits or claim is not None:
            checked = checked_claim(claim) if claim is not None else None
            condition = Condition(guard=Guard(limits, estimate, checked))
        rows: list[Row] = [intent] if opening is None else [opening, intent]
        verdict: Verdict | None = await self._awrite(batch_of(rows, condition))
        return verdict or Verdict(allowed=True)

    async def end_attempt(
        self,
        outcome: AttemptRow,
        *,
        limits: Sequence[Limit] = (),
        estimate: Usage = _ESTIMATED_NOTHING,
        actual: Usage = _ESTIMATED_NOTHING,
    ) -> None:
        """Write what became of a call, and put what it used in the place of its estimate."""
        settlement = Settlement(limits, estimate, actual) if limits else None
        await self._awrite(batch_of([outcome], Condition(settlement=settlement) if settlement else None))

    def hand_over(self, *rows: Row, settle: Settlement | None = None) -> None:
        """Write the rows before anything that is put later, and return at once; an error is only logged."""
        condition = Condition(settlement=settle) if settle is not None and settle.limits else None
        self._writer().hand_over(batch_of(rows, condition))

    def spent(self, scope: str) -> Usage:
        """Return what a scope has used; calls under way count with their estimates."""
        with self.database.errors(), self._reading_engine().connect() as connection:
            return spending.spent(connection, scope)

    async def claim(self, keys: Sequence[str], *, holder: str, lease: float = LEASE_S) -> dict[str, int]:
        """Claim those of the keys that are free; return their fences."""
        wanted = [checked_claim(Claim(key, holder, lease)) for key in keys]
        got: dict[str, int] = await self._writer().do(
            lambda connection: claiming.take(connection, wanted, self._lease_now(connection))
        )
        return got

    async def release(self, keys: Sequence[str], holder: str) -> None:
        """Give back those of the keys that the holder has."""
        if keys:
            await self._writer().do(lambda connection: claiming.give_back(connection, keys, holder))

    def claimed_by(self, key: str) -> str | None:
        """Return who has a claim on the key whose lease still runs."""
        with self.database.errors(), self._reading_engine().connect() as connection:
            return claiming.live(connection, [key], self._lease_now(connection)).get(key)

    def renew(self, holder: str, lease: float = LEASE_S) -> int:
        """Renew all claims and run leases of a holder; return how many there are. Blocks."""
        seconds = checked_lease(lease)

        def move(connection: Connection) -> int:
            until = self._lease_now(connection) + seconds
            return claiming.renew(connection, holder, until) + leasing.renew(connection, holder, until)

        renewed: int = self._write(move)
        return renewed

    async def take_slots(
        self,
        name: str,
        *,
        requests: int,
        tokens: int = 0,
        per_minute_requests: int | None = None,
        per_minute_tokens: int | None = None,
    ) -> Slots:
        """Take slots of a rate that all processes share: some now, or none and when to ask again."""
        if not 0 < len(name) <= 200 or requests < 1 or tokens < 0:
            raise InputInvalid(
                f"{requests!r} requests and {tokens!r} tokens of {name[:200]!r} cannot be taken.",
                hint="Ask for at least one request under a name of 1 to 200 characters.",
            )
        allowed = Rates(per_minute_requests, per_minute_tokens)
        taken: Slots = await self._writer().do(
            lambda connection: rates.take(
                connection,
                name,
                requests=requests,
                tokens=tokens,
                rates=allowed,
                now=self._lease_now(connection),
            )
        )
        return taken

    def lease_run(self, run_id: str, holder: str, lease: float = LEASE_S) -> bool:
        """Take or keep the lease of a run; False where another holder's lease still runs. Blocks.

        Who took it over is the only one who can write to the run from then on.
        """
        checked_id(run_id, "run id"), checked_id(holder, "holder")
        seconds = checked_lease(lease)

        def take(connection: Connection) -> int | None:
            now = self._lease_now(connection)
            return leasing.take(connection, run_id, holder, until=now + seconds, now=now)

        fence = self._write(take)
        if fence is not None:
            self._leased[run_id] = fence
        return fence is not None

    def release_run(self, run_id: str, holder: str) -> None:
        """End the holder's lease of a run and give back its claims. Blocks."""
        self._write(lambda connection: leasing.release(connection, run_id, holder))
        self._leased.pop(run_id, None)

    def run_fence(self, run_id: str) -> int | None:
        """Return the fence of a run that this process has the lease of, or of one of its parts."""
        return self._leased.get(run_id)

    def lease_part(self, name: str, holder: str, *, run_fence: int, lease: float = LEASE_S) -> bool:
        """Take the lease `RUN.PART` for a process that does a part of a run; False where another has it.

        What this store writes to the run is taken from then on for as long as nobody else has this part, and
        the run is still that of `run_fence`; if it is not now, that is a StoreConflict. Blocks.
        """
        run_id = leasing.run_of(name)
        checked_id(run_id, "run id"), checked_id(name.partition(".")[2], "part"), checked_id(holder, "holder")
        seconds = checked_lease(lease)

        def take(connection: Connection) -> int | None:
            if connection.execute(leasing.fence_of(run_id)).scalar() != run_fence:
                raise StoreConflict(
                    f"The run {run_id!r} is no longer the one that this part was made for.",
                    hint="It has ended, or was taken up again, and then makes its parts anew.",
                )
            now = self._lease_now(connection)
            return leasing.take(connection, name, holder, until=now + seconds, now=now)

        fence = self._write(take)
        if fence is not None:
            self._leased |= {name: fence, run_id: run_fence}
        return fence is not None

    def end_part(self, name: str) -> None:
        """End the lease of a part whose process is gone; if it is not, it can write no more. Blocks."""
        self._write(lambda connection: leasing.release(connection, name))

    def part_leases(self, run_id: str) -> dict[str, PartLease]:
        """Return how the parts of a run that somebody has had stand, by the names of their leases."""
        with self.database.errors(), self._reading_engine().connect() as connection:
            return leasing.parts(connection, run_id, self._lease_now(connection))

    def lost_runs(self) -> list[RunRow]:
        """Return the runs that are `running` and whose lease has passed, oldest first."""
        columns = RUNS.columns(payloads=True)
        with self.database.errors(), self._reading_engine().connect() as connection:
            query = leasing.lost(columns, self._lease_now(connection))
            found = connection.execute(query).all()
        return [decode(RUNS, values, self.blobs, payloads=True) for values in found]

    def close_lost(self, run_id: str, state: RunStatus) -> int:
        """End what a process that is gone left open in a run, and give the run `state`.

        Attempts in `intent` become `ambiguous`: their calls may have been paid. Running records and steps
        become `cancelled`; its lease and the claims of its holder end. Return the number of attempts. The
        caller knows that nobody works on the run.
        """

        def close(connection: Connection) -> int:
            now = self._clock.now()
            number = run_life.close_open(connection, run_id, now)
            if run_id not in self._leased:  # who takes a run over keeps its own lease
                leasing.release(connection, run_id)
            ended = {"finished_at": now} if state != "running" else {}
            runs = schema.runs
            connection.execute(update(runs).where(runs.c.id == run_id).values(status=state, **ended))
            return number

        number: int = self._write(close)
        return number

    def close_part(self, run_id: str, steps: Sequence[str], rows: range) -> int:
        """End what a process that is gone left open in a part of a run; as `close_lost` does for all of it.

        Returns the number of attempts that may have been paid. The caller has the part's lease.
        """
        number: int = self._write(
            lambda connection: run_life.close_part(connection, run_id, steps, rows, now=self._clock.now())
        )
        return number

    def request_cancel(self, name: str) -> None:
        """Ask whoever works on the run, or on the part `RUN.PART`, to stop. Blocks until it is written."""
        checked_id(leasing.run_of(name), "run id")
        self._write(lambda connection: leasing.request_cancel(connection, name, self._clock.now()))

    def cancel_requested(self, *names: str) -> float | None:
        """Return when somebody asked for the run, or for its part `RUN.PART`, to be stopped, or None."""
        found = self._values(leasing.cancel_requests(names))
        return found[0][0] if found else None

    def _lease_now(self, connection: Connection) -> float:
        return self.database.lease_time(connection, self._clock)

    def _write(self, work: Callable[[Connection], Any]) -> Any:
        return self._writer().do_blocking(work)
