"""What a step function is given and what it gives back.

Owns the shapes that the executor (flows) and the kinds (tasks) share. Knows nothing of Prefect: the same
context is made for a Prefect task, for a plain call in the process and for a test.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from chains.clock import Clock
from chains.spec import Retry, Step

if TYPE_CHECKING:
    from chains.loading import ChainFile
    from chains.settings import Settings
    from chains.store import RecordRow, Store
    from tasks.collection import Collections
    from tasks.providers import Providers

RowStatus = Literal["ok", "failed", "skipped", "blocked", "waiting", "cancelled"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record stands among those of its step: the fields of RecordRow of the same names."""

    row: int
    item: int = -1
    turn: int = -1
    path: str = ""


class Inside(Protocol):
    """Runs what lies inside a row's record: an item of a map, a step of a turn."""

    def __call__(
        self,
        ctx: StepContext,
        place: Place,
        scope: Mapping[str, Any],
        verdict: tuple[Literal["run", "skipped", "blocked", "waiting"], str] = ("run", ""),
    ) -> Awaitable[RecordRow]:
        """Leave a record at a place, or find the one that stands there, and return it with its output."""


Heard: TypeAlias = Literal["text", "again", "said", "failed"]
"""What is told of an answer while it comes: the next part of its text; that it begins again, and what was
told does not count; that it is complete; that there is none."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One thing that happened in a step; the command line and Prefect show them."""

    step: str
    event: Literal["started", "row", "items", "item", "retry", "message", "ended"] | Heard
    """`items`: a list has `total` of them; `item`: a piece of a row has ended, as `row` says of the row."""
    row: int | None = None
    status: str | None = None
    reused: bool = False
    tokens_in: int = 0
    tokens_out: int = 0
    cost_micro: int | None = None
    text: str = ""
    done: int = 0
    total: int = 0
    record: str = ""
    """Whose `text` it is."""


@dataclass(slots=True)
class StepContext:
    """Everything about one step of one run that does not differ between rows."""

    run_id: str
    step_id: str
    step: Step
    chain_file: ChainFile
    store: Store
    clock: Clock
    settings: Settings
    providers: Providers
    collections: Collections
    report: Callable[[Progress], None] = lambda _: None
    since: float = 0.0
    """When this execution of the run began (UTC seconds): rows that failed later are not tried again."""
    anew: float = 0.0
    """Records that ended before (UTC seconds) are of an earlier form of the step, and are run again."""
    holder: str = ""
    """In whose name value keys are claimed: the holder of the run's lease. Empty: this process."""
    worker: str | None = None
    """Who runs the step, where it is not the process of the run."""
    renewed: Callable[[], None] = lambda: None
    """Told when a once step that had ended is run again, because rows that it had read changed."""
    approvals: Mapping[str, Any] = field(default_factory=dict)
    """Answers to approve steps that the run was given beforehand, by step."""
    stream: bool = False
    """Whether answers are told while they come."""
    memo: dict[str, Any] = field(default_factory=dict)
    """What a kind works out once for all rows of the step."""
    inner_services: Mapping[str, tuple[Providers, Collections]] = field(default_factory=dict)
    """The models and collections of each chain that a step runs, by its file."""

    @property
    def id_in_chain(self) -> str:
        """The step's name among the steps of `chain_file`; `step_id` is the whole name."""
        return self.step_id.rpartition(".")[2]

    def services_of(self, chain_file: ChainFile) -> tuple[Providers, Collections]:
        """Return the models and collections of a chain that a step runs."""
        return self.inner_services[str(chain_file.path)]

    @property
    def retry(self) -> Retry:
        """Tries per call: the step's own, else the chain's default."""
        return self.step.retry or self.chain_file.chain.defaults.retry

    @property
    def timeout(self) -> float:
        """Seconds per attempt: the step's own, else the chain's default."""
        return self.step.timeout or self.chain_file.chain.defaults.timeout


@dataclass(frozen=True, slots=True)
class RowJob:
    """One row's work for a row-wise kind. `scope` holds `inputs` and the upstream outputs (never `row`).

    `opening` is the row's record as `running`; it goes into the store in one transaction with the first
    attempt's intent, so that an attempt never stands there without its record. `attempts_before` counts the
    record's attempts so far, `attempts_granted` how many of them do not count against the bound.
    """

    row: int
    record_id: str
    scope: Mapping[str, Any]
    opening: RecordRow | None = None
    attempts_before: int = 0
    attempts_granted: int = 0
    inside: Inside | None = None
    """For a step that has records inside its own."""


@dataclass(frozen=True, slots=True)
class RowView:
    """One row as a once step sees it: its scope, with `row` (the data set's columns) added.

    `statuses` tells how each upstream per-row step ended for this row.
    """

    row: int
    scope: Mapping[str, Any]
    statuses: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class OnceJob:
    """A once step's work.

    `scope`: `inputs` (the run's own), outputs of once steps, and the list over rows for each per-row step.
    `rows()` iterates over every row's view, in order; each call starts anew. The views are read from the
    store and the data set while one iterates, so a kind that keeps them all keeps the whole run in memory.
    """

    record_id: str
    scope: Mapping[str, Any]
    rows: Callable[[], Sequence[RowView]]
    opening: RecordRow | None = None
    attempts_before: int = 0
    attempts_granted: int = 0


@dataclass(slots=True)
class RowResult:
    """What a step function leaves behind for one row; the caller writes it as a record.

    `output` is JSON: a dict, or a list where the step gives one. Raise an error of chains.errors for a
    failed row. `value_key` is the key under which the output may be reused in later runs, or None when it
    must not be. `reused_from` is set when it was. `fence` is that of the claim on the value key under which
    the result was made.
    """

    output: Any
    value_key: str | None = None
    reused_from: str | None = None
    inputs: Mapping[str, Any] | None = None
    messages: list[dict[str, str]] | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost_micro: int | None = None
    attempts: int = 0
    fence: int | None = None
    row_records: list[RowScore] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RowScore:
    """A per-row record that a once step leaves beside its own (evaluate: prediction, reference, scores)."""

    row: int
    output: dict[str, Any]
    status: RowStatus = "ok"


class RowWaits(Exception):
    """The row goes on when a person has answered; the record says `waiting` until then."""

    inputs: Mapping[str, Any] | None = None


class StepSkipped(Exception):
    """The step has nothing to do here; the record says `skipped` with this reason."""
