"""The Prefect flow `run-chain`: a run as people see it in the Prefect UI.

Owns how a run maps onto Prefect: one flow run, one task run per (step, shard), one artifact per step, tags
and names. Only ids and counts pass through Prefect; payloads stay in the store.
"""

# No postponed annotations: a runner loads this file by its path, where Prefect finds no names for them.

import copy
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import Flow, flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run
from prefect.settings import get_current_settings
from prefect.states import Cancelled, Completed

from chains.errors import EnvironmentLacks
from chains.settings import get_settings
from chains.store import Store, open_store
from flows.artifacts import leave_inspector_link
from flows.closing import close_unfinished, until_free
from flows.elsewhere import open_elsewhere
from flows.executor import execute
from flows.prefect_client import shared_clients
from flows.prefect_server import without_password
from flows.prefect_starter import PrefectStarter, RowsFailed
from flows.prepared import PreparedRun, note_flow_run, prepare
from flows.progress import Report, ignore
from flows.request import Replay, Resume, RunRequest
from flows.resuming import find_run
from flows.store_parameter import StoreParameter, refuse_password
from flows.suspending import suspend, take_answers

_HANDED_OVER: dict[str, tuple[PreparedRun, Report]] = {}
"""Runs that the command line of this process has already checked and opened, by run id."""


async def run_prepared(run: PreparedRun, report: Report = ignore) -> dict[str, Any]:
    """Run what this process has already checked and opened as a flow run; return what `run_chain` returns."""
    _HANDED_OVER[run.run_id] = (run, report)
    # The rest of the request is here already: inputs may be long, and are nobody's business on the way.
    async with shared_clients():
        return await _named_aside(
            chain=str(run.chain_file.path),
            data=run.request.data,
            shards_on=run.request.shards_on,
            run_id=run.run_id,
        )


@contextmanager
def prefect_errors(url: str) -> Iterator[None]:
    """Turn what the Prefect API at `url` refuses, or does not answer, into one sentence."""
    import httpx

    try:
        yield
    except httpx.HTTPError as error:
        text = str(error).partition("\n")[0][:300]
        raise EnvironmentLacks(
            f"the Prefect API at {without_password(url)} failed: {type(error).__name__}: {text}",
            hint="`--direct` runs without Prefect.",
        ) from error


def _flow_run_name() -> str:
    parameters = flow_run.parameters
    name = str(parameters.get("chain", "chain")).removesuffix("/chain.yaml").rpartition("/")[2]
    return _title(name.removesuffix(".yaml").removesuffix(".yml"), parameters.get("data"))


def _title(chain: str, data: Any) -> str:
    return f"{chain} · {str(data).rpartition('/')[2]}" if data else chain


# Nothing is persisted. That a place is named spares each run the question which one the server would take.
@flow(
    name="run-chain",
    flow_run_name=_flow_run_name,
    retries=0,
    log_prints=True,
    persist_result=False,
    result_storage=Path(get_current_settings().results.local_storage_path),
)
async def run_chain(  # noqa: PLR0913, PLR0917 - the fields of the form in the Prefect UI
    chain: str,
    inputs: dict[str, Any] | None = None,
    data: str | None = None,
    map: dict[str, str] | None = None,
    models: list[str] | None = None,
    base_url: str | None = None,
    skip_bad: bool = False,
    limit: int | None = None,
    budget: dict[str, float] | None = None,
    shards_on: str | None = None,
    store: StoreParameter = None,
    resume: str | None = None,
    accept_changes: bool = False,
    run_id: str | None = None,
) -> dict[str, Any]:
    """Run a chain over one row (`inputs`) or a data set (`data`).

    `chain` is a file or the name of a shipped chain; `map` names columns for inputs; `budget` is what the
    run may spend (`usd`, `tokens`, `calls`); `resume` finishes an earlier run, and a flow run that Prefect
    starts again (Retry) finishes its own; `accept_changes` runs the steps that have changed since anew;
    `shards_on` is the work pool whose workers run the rows. Returns `{run_id, status, rows, counts,
    cost_micro, outputs}`; outputs only for a single row.
    """
    refuse_password(store)
    prepared, report = _HANDED_OVER.pop(run_id or "", (None, ignore))
    if prepared is not None:
        return await _carried(prepared, report)
    request = RunRequest(
        chain=chain,
        inputs=inputs or {},
        data=data,
        mapping=map or {},
        models=tuple(models or ()),
        base_url=base_url,
        skip_bad=skip_bad,
        limit=limit,
        budget=budget,
        shards_on=shards_on,
    )
    return await carry_out(request, store, resume=resume or run_id, accept_changes=accept_changes)


async def carry_out(
    asked: RunRequest | Replay,
    store: str | None,
    *,
    resume: str | None = None,
    accept_changes: bool = False,
) -> dict[str, Any]:
    """Do what a flow run was asked for; one that Prefect starts again goes on with what it had begun."""
    settings = get_settings()
    with open_store(store or settings.store) as opened:
        again = _earlier(opened, str(flow_run.id), resume, accept_changes=accept_changes)
        if again is not None:
            await until_free(opened, again.run)
            await take_answers(opened, find_run(opened, again.run))
        return await _carried(prepare(again or asked, store=opened, settings=settings), ignore)


async def _carried(prepared: PreparedRun, report: Report) -> dict[str, Any]:
    """Execute a run as this flow run, and end as it does."""
    flow_run_id = str(flow_run.id)
    try:
        note_flow_run(prepared, flow_run_id)
        starter = PrefectStarter(prepared)
        starter.aside(_describe_flow_run(flow_run_id, prepared))
        starter.aside(leave_inspector_link(prepared))
        result = await execute(prepared, starter, report, await open_elsewhere(prepared))
    except BaseException as error:
        close_unfinished(prepared, "failed" if isinstance(error, Exception) else "cancelled")
        raise
    get_run_logger().info("run %s: %s", result["run_id"], result["status"])
    if result["status"] == "waiting":
        await suspend(prepared.store, prepared.run_id)
        words = f"run {result['run_id']} waits for an answer: `headrace approve`, then `headrace resume`"
        return Completed(name="Waiting", message=words)  # type: ignore[return-value]  # Prefect takes states
    if result["status"] == "cancelled":
        return Cancelled(message=f"run {result['run_id']} was stopped; resume it to finish")  # type: ignore[return-value]  # Prefect takes states
    if result["status"] == "failed":
        raise RowsFailed(
            f"run {result['run_id']} failed; see its steps' artifacts, or `headrace show {result['run_id']}`"
        )
    return result


def _earlier(store: Store, flow_run_id: str, named: str | None, *, accept_changes: bool) -> Resume | None:
    """Return the run to go on with: the one that this flow run had before Prefect started it again, else
    the one that the parameters name."""
    own = store.runs(limit=1, flow_run=flow_run_id, payloads=False)
    run_id = own[0].id if own else named
    return Resume(run_id, accept_changes=accept_changes) if run_id else None


async def _describe_flow_run(flow_run_id: str, run: PreparedRun) -> None:
    """Give the flow run its name, and the tags by which the UI can filter for its chain and its run.

    A fork keeps the name that its flow gave it, which says what it is a fork of.
    """
    about = {f"chain:{run.chain.chain}", f"run:{run.run_id}", f"version:{run.chain_file.version}"}
    fork = run.request.fork is not None
    name = str(flow_run.name) if fork else _title(run.chain.chain, run.request.data)
    async with get_client() as client:
        await client.update_flow_run(UUID(flow_run_id), name=name, tags=sorted({*flow_run.tags, *about}))


_named_aside: Flow[..., Coroutine[Any, Any, dict[str, Any]]] = copy.copy(run_chain)
"""The same flow for runs of this process: no request for the name holds up their first call."""
_named_aside.flow_run_name = None
