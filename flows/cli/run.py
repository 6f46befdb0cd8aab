"""`headrace run`: one row or a data set, through Prefect or `--direct`, with live progress."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chains.errors import HeadraceError, InputInvalid
from flows.cli.approve import ask_here, read_answers
from flows.cli.options import (
    BaseUrlOption,
    ChainArgument,
    DataOption,
    DirectOption,
    InputsOption,
    JsonOption,
    LimitOption,
    MapOption,
    ModelOption,
    OutOption,
    SkipBadOption,
    StoreOption,
    no_store,
    request_of_options,
)
from flows.request import Replay, Resume, RunRequest

if TYPE_CHECKING:
    from concurrent.futures import Future

    from chains.settings import Settings
    from chains.store import RunRow, Store
    from flows.prefect_server import PrefectApi
    from flows.prepared import PreparedRun
    from flows.progress import Monitor


def run(
    chain: ChainArgument = "",
    inputs: InputsOption = None,
    data: DataOption = None,
    map_: MapOption = None,
    out: OutOption = None,
    model: ModelOption = None,
    base_url: BaseUrlOption = None,
    limit: LimitOption = None,
    skip_bad: SkipBadOption = False,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="RUN", help="Finish an earlier run.")
    ] = None,
    shards_on: Annotated[
        str | None,
        typer.Option("--shards-on", metavar="POOL", help="Run the rows on the workers of a Prefect pool."),
    ] = None,
    approve: Annotated[
        list[str] | None,
        typer.Option(
            "--approve", metavar="STEP=ANSWER", help="Answer an approve step beforehand: yes, no or JSON."
        ),
    ] = None,
    variants: Annotated[
        str | None,
        typer.Option(
            "--variants", metavar="A,B", help="Run these variants of the chain too, and compare; or `all`."
        ),
    ] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="Print the answers of a single run as they come.")
    ] = False,
    direct: DirectOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a chain over one row (-i) or a data set (--data)."""
    if bool(chain) == bool(resume):
        raise InputInvalid("name a chain, or a run with --resume.", hint="See `headrace run --help`.")
    if resume and (inputs or data or map_ or model or base_url or limit or shards_on or approve):
        raise InputInvalid(
            "--resume takes chain, inputs, data and models from the run.", hint="Leave them out."
        )
    if stream and (data or resume):
        raise InputInvalid("--stream is for a new run over one row (-i).", hint="Leave --stream out.")
    if shards_on and direct:
        raise InputInvalid("--shards-on needs Prefect, and --direct runs without it.", hint="Leave one out.")
    request = request_of_options(
        chain,
        inputs=inputs,
        data=data,
        mapping=map_,
        models=model,
        base_url=base_url,
        limit=limit,
        skip_bad=skip_bad,
        shards_on=shards_on,
    )
    if approve:
        request = replace(request, approve=read_answers(approve))
    if variants is not None:
        from flows.cli.variants import run_variants

        if resume or stream or out is not None or shards_on:
            hint = "Leave out --resume, --stream, --out and --shards-on."
            raise InputInvalid("--variants runs a chain several times and compares.", hint=hint)
        return run_variants(request, variants, direct=direct, store=store, as_json=as_json)
    asked = Resume(resume) if resume else request
    run_to_end(asked, out=out, direct=direct, store=store, as_json=as_json, stream=stream)


def run_to_end(
    asked: RunRequest | Resume | Replay,
    *,
    out: Path | None,
    direct: bool,
    store: str | None,
    as_json: bool,
    stream: bool = False,
) -> None:
    """Run a request, or the rest of an earlier run, and print how it ended."""
    unwritten = None
    with started_run(asked, store=store, direct=direct, out=out, stream=stream) as (prepared, monitor, row):
        if out is not None:
            from flows.out_file import write_out

            unwritten = write_out(prepared, out)
        _print_end(prepared, monitor, row, out=None if unwritten else out, as_json=as_json)
        goes_on = row.status == "waiting" and not as_json and _asks_here() and ask_here(prepared.store, row)
    if unwritten is not None:
        raise unwritten
    if goes_on:
        return run_to_end(Resume(row.id), out=out, direct=direct, store=store, as_json=as_json)
    if row.status != "ok":
        raise typer.Exit(_EXIT_CODES.get(row.status, 1))


_EXIT_CODES = {"cancelled": 130, "waiting": 4}


def _asks_here() -> bool:
    """Whether a person sits before the terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()


@contextmanager
def started_run(
    asked: RunRequest | Resume | Replay,
    *,
    store: str | None,
    direct: bool = False,
    out: Path | None = None,
    stream: bool = False,
) -> Iterator[tuple[PreparedRun, Monitor, RunRow]]:
    """Prepare and run a request, or an earlier one again; give the run, its numbers and its row.

    The store is open as long as the block lasts.
    """
    import gc

    from chains.settings import get_settings

    gc.disable()  # a tenth of the time of imports goes into it; `_execute` begins to collect again
    settings = get_settings()
    location = store or settings.store
    opened, prepared, api = None, None, None
    try:
        # Standard output belongs to what the run returns: what a python step prints goes to the other.
        with contextlib.redirect_stdout(sys.stderr):
            # Before all else that takes time: a server that has to be started comes up meanwhile.
            api = None if direct else _api(asked, location, settings)
            from chains.store import open_store
            from flows.cli.text import safe
            from flows.prepared import prepare

            opened = open_store(location) if isinstance(asked, RunRequest) else _existing(location)
            prepared = prepare(asked, store=opened, settings=settings, out=out)
            prepared.stream = stream
            for bad in prepared.skipped_rows:
                print(f"left out: {safe(bad)}", file=sys.stderr)
            monitor = _execute(prepared, api)
        row = opened.run(prepared.run_id)
        assert row is not None  # prepare wrote it
        yield prepared, monitor, row
    except BaseException as error:
        if prepared is not None:
            from flows.closing import close_unfinished

            close_unfinished(prepared, "failed" if isinstance(error, Exception) else "cancelled")
        if api is not None and isinstance(error, HeadraceError):
            api.stop()
        raise
    finally:
        gc.enable()
        if opened is not None:
            opened.close()


def _existing(location: str) -> Store:
    """Open the store of an earlier run; a mistyped name makes none."""
    from chains.store import open_store, store_exists

    if not store_exists(location):
        raise no_store(location)
    return open_store(location)


def _api(asked: RunRequest | Resume | Replay, location: str, settings: Settings) -> PrefectApi:
    """Return the Prefect API that is there, or one that comes up while the run is prepared."""
    from flows.prefect_server import find, start

    api = find()
    if api is None:
        if isinstance(asked, RunRequest):
            from chains.loading import find_chain, load

            load(find_chain(asked.chain), settings=settings)  # a bad chain starts no server
        else:
            _existing(location).close()  # nor does a mistyped store
        folder = settings.home if "://" in location else location
        api = start(Path(folder).expanduser().absolute() / "prefect")
    api.name()
    return api


def _execute(prepared: PreparedRun, api: PrefectApi | None) -> Monitor:
    from chains.clock import Clock
    from flows.cli.live import shown
    from flows.progress import Monitor, StepProgress

    rows = len(prepared.rows)
    steps = {name: StepProgress(total=1 if name in prepared.once else rows) for name in prepared.graph.order}
    monitor = Monitor(Clock(), steps)
    with shown(monitor, stream=prepared.stream) as display:
        warming = _warm(prepared)
        if api is None:
            import asyncio

            from flows.executor import execute
            from flows.units import Direct

            _collect()
            asyncio.run(execute(prepared, Direct(), display.report))
        else:
            _execute_flow(prepared, api, display)
        wait([warming])
    return monitor


def _execute_flow(prepared: PreparedRun, api: PrefectApi, display: Any) -> None:
    # Our own display shows progress and failed rows; Prefect's lines still reach the API and so the UI.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    import asyncio

    from prefect.exceptions import CancelledRun

    from flows.prefect_starter import RowsFailed
    from flows.run_chain import prefect_errors, run_prepared

    api.wait(display.say)
    _collect()
    with contextlib.suppress(RowsFailed, CancelledRun), prefect_errors(api.url):  # the run's row says so
        asyncio.run(run_prepared(prepared, display.report))
    if api.ours:
        row = prepared.store.run(prepared.run_id)
        api.settle(row.prefect_flow_run_id if row is not None else None)


def _collect() -> None:
    """Have garbage looked for again, but not among what the imports made: that stays."""
    import gc

    gc.freeze()
    gc.enable()


def _warm(prepared: PreparedRun) -> Future[None]:
    """Import the model libraries in the background, while a server comes up."""
    from tasks.providers.batching import worker

    local = any(model.provider != "openai" for model in prepared.chain.models.values())

    def load() -> None:
        if local:
            import torch  # noqa: F401
            import transformers  # noqa: F401

    # In the thread that loads models: transformers cannot be imported by two threads at once.
    return worker().submit(load)


def _print_end(
    prepared: PreparedRun, monitor: Monitor, row: RunRow, *, out: Path | None, as_json: bool
) -> None:
    import json

    from flows.cli.text import print_json, safe

    result = json.loads(row.result or b"{}")
    if as_json:
        print_json(result)
        return
    for name, value in (result.get("outputs") or {}).items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        print(f"{safe(name)}: {safe(text)}")
    print(f"\nrun {row.id}: {row.status} in {_took(row)}", file=sys.stderr)
    if out is not None:
        print(f"outputs: {safe(str(out))}", file=sys.stderr)
    first = _first_failure(prepared)
    if first:
        print(safe(first), file=sys.stderr)
    if row.status == "ok":
        print(f"next: headrace show {row.id}", file=sys.stderr)
    elif row.status == "waiting":
        _print_waiting(prepared, row)
    else:
        print(f"next: headrace show {row.id}; headrace resume {row.id}", file=sys.stderr)


def _print_waiting(prepared: PreparedRun, row: RunRow) -> None:
    from flows.approving import rows_that_wait
    from flows.cli.text import safe, shorten

    waiting = rows_that_wait(prepared.store, row, prepared.chain, most=10)
    for asked in waiting:
        print(safe(f"{asked.place} waits: {shorten(asked.question, 90)}"), file=sys.stderr)
    if waiting:
        first = waiting[0].record
        which = f" --row {first.row}" if first.row >= 0 and len(prepared.rows) > 1 else ""
        print(f"next: headrace approve {row.id} {first.step} yes|no{which}", file=sys.stderr)


def _took(row: RunRow) -> str:
    from chains.clock import elapsed
    from flows.cli.text import duration

    return duration(elapsed(row.started_at, row.finished_at) or 0.0)


def _first_failure(prepared: PreparedRun) -> str | None:
    import json

    from flows.listing import first_failed

    record, number = first_failed(prepared)
    if record is None:
        return None
    error = json.loads(record.error or b"{}")
    place = f"step {record.step!r}" + (f", row {record.row}" if record.row >= 0 else "")
    lines = [
        f"{number} failed; the first: {place}: {error.get('message')} {error.get('hint') or ''}".rstrip()
    ]
    lines += [f"  {line}" for line in error.get("history", [])]
    return "\n".join(lines)
