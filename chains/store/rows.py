"""What the store keeps, as frozen rows: one class per table, one field per column.

Owns the fields, their closed sets of values and their defaults. Knows nothing of SQL. A field of bytes is a
payload: it may be large, is kept exactly as given, and is a blob of its own when it is over 64 KiB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

RunStatus: TypeAlias = Literal["running", "ok", "failed", "waiting", "cancelled", "interrupted"]
StepStatus: TypeAlias = Literal["waiting", "running", "ok", "failed", "skipped", "cancelled"]
RecordStatus: TypeAlias = Literal["running", "ok", "failed", "skipped", "blocked", "waiting", "cancelled"]
AttemptState: TypeAlias = Literal["intent", "ok", "error", "ambiguous"]
ModelKind: TypeAlias = Literal["adapter", "full", "hosted"]


class _Unread(bytes):
    """The type of UNREAD: empty bytes that `put` refuses to write."""

    def __repr__(self) -> str:
        return "UNREAD"


UNREAD: Final = _Unread()
"""Stands in every payload field of a row that was read with `payloads=False`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One execution of a chain. `files` is JSON {path: sha256 of a blob}; times are seconds, UTC.

    `forked_from` is the run that a replay was made from; it may have been removed since.
    """

    id: str
    chain: str
    chain_hash: str
    source: bytes
    files: bytes = b"{}"
    inputs: bytes = b"{}"
    data_path: str | None = None
    data_sha256: str | None = None
    rows: int = 1
    status: RunStatus = "running"
    started_at: float
    finished_at: float | None = None
    result: bytes | None = None
    host: str | None = None
    pid: int | None = None
    prefect_flow_run_id: str | None = None
    options: bytes = b"{}"
    heartbeat_at: float | None = None
    forked_from: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
    """One step of a run."""

    run_id: str
    id: str
    kind: str
    once: bool = False
    status: StepStatus = "waiting"
    started_at: float | None = None
    finished_at: float | None = None
    spec: bytes = b"{}"
    counts: bytes = b"{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordRow:
    """What a step left behind for one row; `row` is -1 for a once step. A cost of None is unknown, not 0.

    `item` counts the items of the step's own map, `turn` the turns of the repeat that it stands in; -1: none.
    Items and turns further out are in `path`, outermost first, as in `draft[turn 1].chat[item 3]`: a step may
    stand in any number of them. `worker` names who made it, where that was not the process of the run. A
    `linked` record has the payloads of `reused_from` and none of its own; it is read with them.
    """

    id: str
    run_id: str
    step: str
    row: int
    item: int = -1
    turn: int = -1
    sample: int = 0
    status: RecordStatus = "running"
    value_key: str | None = None
    reused_from: str | None = None
    inputs: bytes | None = None
    messages: bytes | None = None
    output: bytes | None = None
    error: bytes | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost_micro: int | None = None
    started_at: float | None = None
    finished_at: float | None = None
    attempts: int = 0
    worker: str | None = None
    linked: bool = False
    path: str = ""

    @property
    def stands_for_row(self) -> bool:
        """Whether this is the step's own record for its row, and not one within it."""
        return not self.path and self.item == -1 and self.turn == -1 and self.sample == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """One try at one outside call: the exact bytes that went out and came back.

    `wait_s` is what it waited before it began: for a place, a rate, a budget or the next try. `device_wait_s`
    is the part of its time after that in which a local model was busy with others.
    """

    id: str
    record_id: str
    run_id: str
    step: str
    number: int
    state: AttemptState = "intent"
    request: bytes | None = None
    response: bytes | None = None
    status: int | None = None
    error_type: str | None = None
    error_message: str | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost_micro: int | None = None
    model: str | None = None
    request_id: str | None = None
    started_at: float
    finished_at: float | None = None
    wait_s: float = 0.0
    device_wait_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """One version of a published model. `files` is JSON {relative path: sha256 of a blob}."""

    name: str
    version: int = 0
    kind: ModelKind
    base: str | None = None
    files: bytes
    sha256: str
    metrics: bytes = b"{}"
    lineage: bytes = b"{}"
    created_at: float
    is_latest: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionRow:
    """A set of vectors and the identity of what made them."""

    name: str
    embedder: bytes
    dimension: int
    distance: str
    normalised: bool
    dtype: str
    points: int = 0
    url: str | None = None
    updated_at: float


Row: TypeAlias = RunRow | StepRow | RecordRow | AttemptRow | ModelRow | CollectionRow
