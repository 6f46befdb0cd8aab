"""Tells what has become of a part that was sent, from its lease and from Prefect's state of its flow run.

Owns the rules, and nothing that asks or waits: they are decided here from what was seen. The lease goes
first: who renews it is alive, whatever Prefect believes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from flows.lease import LEASE_S

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.schemas.objects import State

    from chains.store import PartLease
    from flows.parts.part import Part
    from flows.pools import PoolState

SETTLE_S = 10.0
"""How long Prefect may take to learn that a part has ended."""
START_S = 2 * LEASE_S
"""How long a process may be `Running` before it has the part's lease; then it was killed before."""
SUBMIT_S = 300.0
"""How long a worker may have a part `Pending`; then it was killed in between, or cannot start a process."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How one sending of a part ended."""

    kind: Literal["done", "lost", "cancelled", "failed"]
    message: str = ""
    name: str = ""


@dataclass(slots=True)
class Sent:
    """A part on its way. `fence`: that of its lease before, so that a higher one is a process of ours."""

    part: Part
    pool: str
    flow_run_id: UUID
    since: float
    fence: int
    begun: bool = False
    stopped: bool = False
    taken_back: bool = False
    seen: tuple[str, float] = ("", 0.0)
    """Prefect's type of the state that the part is in, and since when."""
    released: float | None = None
    ended: asyncio.Future[Ending] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def end(self, ending: Ending) -> None:
        """Tell who waits."""
        if not self.ended.done():
            self.ended.set_result(ending)

    def fail(self, error: Exception) -> None:
        """Raise the error where somebody waits."""
        if not self.ended.done():
            self.ended.set_exception(error)


@dataclass(slots=True)
class Silence:
    """Since when a pool has picked up nothing."""

    since: float
    asked: float = 0.0

    def text(self, state: PoolState, waited: float) -> str:
        """Return what people are shown meanwhile."""
        number = len(state.workers)
        who = "paused" if state.paused else f"{number or 'no'} worker{'s' * (number > 1)}"
        return f"waiting for pool {state.name!r} ({waited:.0f} s, {who})"


def judge(sent: Sent, lease: PartLease | None, state: State[Any] | None, now: float) -> Ending | None:
    """Return how a part ended, or None while it goes on or waits."""
    if lease is not None and lease.fence > sent.fence:
        sent.begun = True
    if state is not None:
        if state.is_final():
            return _final(state)
        if state.type.value != sent.seen[0]:
            sent.seen = state.type.value, now
    if not sent.begun:
        return _not_begun(sent, now)
    if lease is None or lease.alive:  # no lease: the run was taken over, and who has lost it hears so
        sent.released = None
        return None
    if lease.holder is not None:
        return Ending("lost", "its lease has passed")
    sent.released = sent.released if sent.released is not None else now
    return Ending("done") if now - sent.released > SETTLE_S else None


def _final(state: State[Any]) -> Ending:
    message, name = state.message or "", state.name or ""
    if state.is_completed():
        return Ending("done", message, name)
    if state.is_cancelled():
        return Ending("cancelled", message, name)
    if state.is_crashed():
        return Ending("lost", message or "it crashed", name)
    return Ending("failed", message.removeprefix("Flow run encountered an exception: "), name)


def _not_begun(sent: Sent, now: float) -> Ending | None:
    word, since = sent.seen
    if word == "RUNNING" and now - since > START_S:
        return Ending("lost", "it began and did not take up the part")
    if word == "PENDING" and now - since > SUBMIT_S:
        return Ending("lost", "a worker took it and did not start it")
    return None
