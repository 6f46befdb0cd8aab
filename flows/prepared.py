"""From a request to a run that may begin: everything that can be wrong is found here, before any call.

Owns the order of the checks and the run's row in the store.
Knows nothing of Prefect and of how steps are started.
"""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from chains.clock import Clock
from chains.errors import EnvironmentLacks, HeadraceError, InputInvalid
from chains.spec import Chain, runs_once
from flows.approving import checked_answers
from flows.binding import bind_rows, open_data, refuse_per_row_inputs
from flows.kept_data import data_to_keep
from flows.lease import RunLease, leased_run
from flows.out_file import check_out
from flows.overriding import granted, inner_overrides, override_budget, override_models
from flows.request import Replay, Resume, RunRequest, request_of
from flows.resuming import compared, earlier_run, stale_since
from flows.step_rows import rows_inside, step_row
from tasks.row_source import RowSource

if TYPE_CHECKING:
    from chains.data import Dataset
    from chains.graph import Graph
    from chains.loading import ChainFile
    from chains.settings import Settings
    from chains.store import RunRow, Store
    from flows.forking import Fork
    from tasks.collection import Collections
    from tasks.providers import Providers

    Services: TypeAlias = tuple[Providers, Collections]


@dataclass(slots=True)
class PreparedRun:
    """A checked run: its chain, rows, providers and place in the store."""

    run_id: str
    request: RunRequest
    chain_file: ChainFile
    graph: Graph
    rows: RowSource
    store: Store
    settings: Settings
    clock: Clock
    providers: Providers
    collections: Collections
    lease: RunLease
    row: RunRow
    """The run's row in the store, as this process wrote it last."""
    inner_services: dict[str, Services] = field(default_factory=dict)
    """The models and collections of each chain that a step runs, by its file."""
    worker: str | None = None
    """Who runs this, where it is a part of a run that another process has."""
    resumed: bool = False
    stream: bool = False
    """Whether answers are told while they come."""
    skipped_rows: list[str] = field(default_factory=list)
    fresh_fork: bool = False
    """A fork that was just made: what failed in its source stands, too; only a resume tries it again."""
    anew: dict[str, float] = field(default_factory=dict)
    """For a step that has changed: when it did; records that ended before do not stand."""

    @property
    def chain(self) -> Chain:
        """The chain that runs, with overrides applied."""
        return self.chain_file.chain

    @property
    def all_services(self) -> list[Services]:
        """The models and collections of the chain and of those that its steps run."""
        return [(self.providers, self.collections), *self.inner_services.values()]

    @property
    def shards(self) -> list[range]:
        """The ranges of rows that one unit of a per-row step carries."""
        return self.rows.shards(self.settings.shard_rows)

    @property
    def once(self) -> frozenset[str]:
        """The steps that run once over all rows."""
        return frozenset(name for name, step in self.chain.steps.items() if runs_once(step))


@dataclass(frozen=True, slots=True)
class _Opening:
    """What the run's row says besides the request."""

    dataset: Dataset | None
    hashes: dict[str, str]
    earlier: RunRow | None
    fork: Fork | None = None
    data: bytes | None = None
    """The data set, where the store is to keep it."""

    @property
    def kept(self) -> dict[str, str]:
        """The data set as one of the files that the run keeps."""
        from flows.kept_data import DATA

        before = self.fork.source if self.fork is not None else self.earlier
        known = json.loads(before.files or b"{}").get(DATA) if before is not None else None
        found = known or (sha256(self.data).hexdigest() if self.data is not None else None)
        return {DATA: found} if found is not None else {}


def prepare(
    asked: RunRequest | Resume | Replay, *, store: Store, settings: Settings, out: Path | None = None
) -> PreparedRun:
    """Check a request against its chain, data, machine and store, and open the run.

    A `Resume` opens an earlier run again, with the request that it was made from; a `Replay` makes a fork of
    one, linked to what of it stands. Raises ChainInvalid or InputInvalid for what the user wrote,
    EnvironmentLacks for a missing key or model. `out` is where the outputs are to be written.
    """
    from chains.changes import step_hashes
    from chains.graph import graph_of_file

    clock = Clock()
    earlier = earlier_run(store, asked) if isinstance(asked, Resume) else None
    fork = _fork(store, asked, settings) if isinstance(asked, Replay) else None
    of_before = fork.source if fork is not None else earlier
    if of_before is not None:
        # Which record is newer decides what stands, also where the machine's clock was set back since.
        clock.not_before(store.newest_end(of_before.id))
    request = fork.request if fork is not None else request_of(earlier) if earlier is not None else asked
    assert isinstance(request, RunRequest)  # a resume has an earlier run
    if isinstance(asked, Resume) and asked.budget:
        request = replace(request, budget={**(request.budget or {}), **asked.budget})
    chain_file = fork.chain_file if fork is not None else _chain_file(store, request, earlier, settings)
    graph, hashes = graph_of_file(chain_file), step_hashes(chain_file)
    anew: dict[str, float] = {}
    if earlier is not None and isinstance(asked, Resume):
        changes = compared(earlier, hashes)
        anew = stale_since(earlier, changes, graph, accepted=asked.accept_changes, now=clock.now())
    dataset = open_data(request, of_before, store)
    if out is not None:
        check_out(out, store=store, chain_file=chain_file, dataset=dataset)
    if request.approve:
        request = replace(request, approve=checked_answers(chain_file.chain, request.approve))
    rows, bad = bind_rows(chain_file.chain, request, dataset)
    refuse_per_row_inputs(chain_file, rows)
    providers, collections = services(chain_file, request, store=store, settings=settings)
    run_id = earlier.id if earlier is not None else clock.new_id()
    opening = _Opening(
        dataset, hashes, earlier, fork, data_to_keep(dataset, settings) if earlier is None else None
    )
    prepared = PreparedRun(
        run_id=run_id,
        lease=RunLease(store, run_id, clock) if earlier is None else leased_run(store, run_id, clock),
        row=_row(run_id, request, chain_file, rows, opening, anew, now=clock.now()),
        request=request,
        chain_file=chain_file,
        graph=graph,
        rows=rows,
        store=store,
        settings=settings,
        clock=clock,
        providers=providers,
        collections=collections,
        inner_services=inner_services(chain_file, request, store=store, settings=settings),
        resumed=earlier is not None,
        skipped_rows=bad,
        fresh_fork=fork is not None,
        anew=anew,
    )
    try:
        _open_run(prepared, opening)
    except BaseException as error:
        # After Ctrl-C the run's row may still be on its way: the writer closes the run behind it.
        with suppress(HeadraceError):
            store.close_lost(run_id, "failed" if isinstance(error, Exception) else "cancelled")
            prepared.lease.give_back()
        raise
    return prepared


def _fork(store: Store, asked: Replay, settings: Settings) -> Fork:
    from flows.forking import plan_fork

    return plan_fork(store, asked, settings)


def _chain_file(store: Store, request: RunRequest, earlier: RunRow | None, settings: Settings) -> ChainFile:
    """Return the chain of a request, with what the request puts in the place of what it says."""
    from flows.recorded import chain_to_run

    chain_file = chain_to_run(store, request, earlier, settings)
    chain = override_models(chain_file.chain, request.models, request.base_url)
    return inner_overrides(replace(chain_file, chain=override_budget(chain, request.budget)), request)


def services(
    chain_file: ChainFile, request: RunRequest, *, store: Store, settings: Settings
) -> tuple[Providers, Collections]:
    """Return the models and collections of a run; raise EnvironmentLacks with all that they lack here."""
    from chains.usage import in_use
    from tasks.budgets import unpriced
    from tasks.collection import Collections
    from tasks.providers import Providers

    chain, (models, kept) = chain_file.chain, in_use(chain_file.chain)
    providers = Providers(
        chain.models,
        store=store,
        settings=settings,
        env=os.environ,
        granted=granted(request),
        folder=chain_file.folder,
    )
    collections = Collections(chain.collections, store=store, providers=providers, settings=settings)
    missing = providers.check(sorted(models & set(chain.models)))
    missing += collections.check(sorted(kept & set(chain.collections)))
    missing += [] if missing else unpriced(chain, settings, providers.price)
    if missing:
        raise EnvironmentLacks("\n".join(missing))
    return providers, collections


def inner_services(
    chain_file: ChainFile, request: RunRequest, *, store: Store, settings: Settings
) -> dict[str, Services]:
    """Return the models and collections of the chains that a chain's steps run, by their files."""
    found: dict[str, Services] = {}
    for inner in chain_file.chains.values():
        found[str(inner.path)] = services(inner, request, store=store, settings=settings)
        found |= inner_services(inner, request, store=store, settings=settings)
    return found


def _row(  # noqa: PLR0917 - what there is to say
    run_id: str,
    request: RunRequest,
    chain_file: ChainFile,
    rows: RowSource,
    opening: _Opening,
    anew: dict[str, float],
    *,
    now: float,
) -> RunRow:
    """Return the run's row: a new one, or the earlier one as running again."""
    from chains.store import RunRow

    files = {path: sha256(content).hexdigest() for path, content in chain_file.files.items()} | opening.kept
    options = request.options() | {"chain": str(chain_file.path.absolute()), "steps": opening.hashes}
    options |= {"anew": dict(anew)} if anew else {}
    dataset, earlier = opening.dataset, opening.earlier
    row = RunRow(
        id=run_id,
        chain=chain_file.chain.chain,
        chain_hash=chain_file.hash,
        source=chain_file.source,
        files=json.dumps(files).encode(),
        inputs=json.dumps(dict(rows.shared), ensure_ascii=False).encode("utf-8", "surrogatepass"),
        data_path=str(Path(request.data).resolve()) if request.data is not None else None,
        data_sha256=dataset.sha256 if dataset is not None else None,
        rows=len(rows),
        status="running",
        started_at=now,
        host=socket.gethostname(),
        pid=os.getpid(),
        options=json.dumps(options).encode(),
        heartbeat_at=now,
        forked_from=opening.fork.source.id if opening.fork is not None else None,
    )
    if earlier is None:
        return row
    return replace(
        row,
        started_at=earlier.started_at,
        prefect_flow_run_id=earlier.prefect_flow_run_id,
        forked_from=earlier.forked_from,
    )


def _open_run(prepared: PreparedRun, opening: _Opening) -> None:
    """Write the run with its steps. It is leased when it is there, so that no crash leaves one unfound."""
    run, chain_file, store = prepared.row, prepared.chain_file, prepared.store
    steps = [step_row(run.id, chain_file.chain, step_id) for step_id in prepared.graph.order]
    steps += [row for name in prepared.graph.order for row in rows_inside(run.id, chain_file, name)]
    if opening.earlier is not None:
        for content in chain_file.files.values():
            store.put_blob(content)
        store.close_lost(run.id, "interrupted")
        store.part_from_forks(run.id)
        store.put(run, *steps)
        return
    contents = [*chain_file.files.values(), *([opening.data] if opening.data is not None else [])]
    files = {sha256(content).hexdigest(): content for content in contents}
    links = opening.fork.links if opening.fork is not None else ()
    if not prepared.lease.begin(run, steps, files, links):
        raise InputInvalid(f"run {run.id} is there already.", hint="Start the run again.")


def note_anew(run: PreparedRun, step_id: str) -> None:
    """Let what the dependents of a step have left stand no more, even where this process ends first."""
    from chains.changes import with_dependents

    steps = with_dependents(frozenset({step_id}), run.graph) - {step_id}
    if steps:
        run.anew |= dict.fromkeys(steps, run.clock.now())
        options = json.loads(run.row.options or b"{}") | {"anew": run.anew}
        run.row = replace(run.row, options=json.dumps(options).encode())
        run.store.put(run.row)


def note_anew_elsewhere(run: PreparedRun) -> None:
    """Take over what a part has noted in the run's row in another process."""
    row = run.store.run(run.run_id)
    if row is not None and row.options != run.row.options:
        run.row = replace(run.row, options=row.options)
        run.anew |= json.loads(row.options).get("anew", {})


def note_flow_run(run: PreparedRun, flow_run_id: str) -> None:
    """Write down which Prefect flow run carries this run, before any call is sent."""
    run.row = replace(run.row, prefect_flow_run_id=flow_run_id)
    run.store.hand_over(run.row)
