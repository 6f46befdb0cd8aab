"""`headrace run`: one row or a data set, through Prefect or `--direct`, with live progress."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chains.errors import HeadraceError, InputInvalid
from flows.cli.check import JsonOption, StoreOption
from flows.request import Resume, RunRequest

if TYPE_CHECKING:
    from chains.settings import Settings
    from chains.store import RunRow, Store
    from flows.prefect_server import PrefectApi
    from flows.prepared import PreparedRun
    from flows.progress import Monitor


def run(
    chain: Annotated[
        str, typer.Argument(metavar="CHAIN", help="A chain file, or the name of a shipped chain.")
    ] = "",
    inputs: Annotated[
        list[str] | None,
        typer.Option("-i", "--input", metavar="NAME=VALUE", help="An input; @FILE reads a file."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Run over a JSONL, CSV or Parquet file.")
    ] = None,
    map_: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="INPUT=COLUMN", help="The column that an input takes."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write each row's outputs as JSONL.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", metavar="[NAME=]PROVIDER:MODEL", help="Use another model, such as openai:gpt-5-mini."
        ),
    ] = None,
    base_url: Annotated[
        str | None, typer.Option("--base-url", help="Endpoint for --model openai:..., up to /v1.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Run only the first N rows.")] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out bad rows of the data, and list them.")
    ] = False,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="RUN", help="Finish an earlier run.")
    ] = None,
    direct: Annotated[bool, typer.Option("--direct", help="Run without Prefect.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a chain over one row (-i) or a data set (--data)."""
    if bool(chain) == bool(resume):
        raise InputInvalid("name a chain, or a run with --resume.", hint="See `headrace run --help`.")
    if resume and (inputs or data or map_ or model or base_url or limit):
        raise InputInvalid(
            "--resume takes chain, inputs, data and models from the run.", hint="Leave them out."
        )
    request = RunRequest(
        chain=chain,
        inputs=_read_files(dict(parse_pairs(inputs or [], flag="-i"))),
        data=str(data) if data is not None else None,
        mapping=dict(parse_pairs(map_ or [], flag="--map")),
        models=tuple(model or ()),
        base_url=base_url,
        skip_bad=skip_bad,
        limit=limit,
        from_text=True,
    )
    run_to_end(Resume(resume) if resume else request, out=out, direct=direct, store=store, as_json=as_json)


def run_to_end(
    asked: RunRequest | Resume, *, out: Path | None, direct: bool, store: str | None, as_json: bool
) -> None:
    """Run a request, or the rest of an earlier run, and print how it ended."""
    with started_run(asked, store=store, direct=direct) as (prepared, monitor, row):
        if out is not None:
            from flows.outputs import write_outputs

            write_outputs(prepared, out)
        _print_end(prepared, monitor, row, out=out, as_json=as_json)
    if row.status != "ok":
        raise typer.Exit(130 if row.status == "cancelled" else 1)


@contextmanager
def started_run(
    asked: RunRequest | Resume, *, store: str | None, direct: bool = False
) -> Iterator[tuple[PreparedRun, Monitor, RunRow]]:
    """Prepare and run a request, or an earlier one again; give the run, its numbers and its row.

    The store is open as long as the block lasts.
    """
    from chains.settings import get_settings
    from chains.store import open_store
    from flows.prepared import prepare

    settings = get_settings()
    opened: Store = open_store(store or settings.store)
    api = None if direct else _api(asked, opened, settings)
    try:
        prepared = prepare(asked, store=opened, settings=settings)
        for bad in prepared.skipped_rows:
            print(f"left out: {bad}", file=sys.stderr)
        monitor = _execute(prepared, api)
        row = opened.run(prepared.run_id)
        assert row is not None  # prepare wrote it
        yield prepared, monitor, row
    except HeadraceError:
        if api is not None:
            api.stop()
        raise
    finally:
        opened.close()


def _api(asked: RunRequest | Resume, store: Store, settings: Settings) -> PrefectApi:
    """Return the Prefect API that is there, or one that comes up while the run is prepared."""
    from flows.prefect_server import find, start

    api = find()
    if api is None:
        if isinstance(asked, RunRequest):
            from chains.loading import find_chain, load

            load(find_chain(asked.chain), settings=settings)  # a bad chain starts no server
        api = start(store.folder("prefect"))
    return api


def _execute(prepared: PreparedRun, api: PrefectApi | None) -> Monitor:
    from chains.clock import Clock
    from flows.cli.live import shown
    from flows.progress import Monitor, StepProgress

    rows = len(prepared.rows)
    steps = {name: StepProgress(total=1 if name in prepared.once else rows) for name in prepared.graph.order}
    monitor = Monitor(Clock(), steps)
    with shown(monitor) as display:
        warming = _warm(prepared)
        if api is None:
            import asyncio

            from flows.executor import Direct, execute

            asyncio.run(execute(prepared, Direct(), display.report))
        else:
            _execute_flow(prepared, api, display)
        warming.join()
    return monitor


def _execute_flow(prepared: PreparedRun, api: PrefectApi, display: Any) -> None:
    # Our own display shows progress; Prefect's lines still reach the API and so the UI.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "ERROR")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    import asyncio

    api.wait(display.say)
    from flows.run_chain import RowsFailed, hand_over, run_chain

    request = prepared.request
    hand_over(prepared, display.report)
    with contextlib.suppress(RowsFailed):  # the run's row says so
        asyncio.run(
            run_chain(  # type: ignore[arg-type]  # Prefect types a flow's call as either kind
                chain=str(prepared.chain_file.path),
                inputs=dict(prepared.rows.shared),
                data=request.data,
                map=dict(request.mapping) or None,
                models=list(request.models) or None,
                base_url=request.base_url,
                skip_bad=request.skip_bad,
                limit=request.limit,
                run_id=prepared.run_id,
                return_state=True,
            )
        )
    if api.ours:
        row = prepared.store.run(prepared.run_id)
        api.settle(row.prefect_flow_run_id if row is not None else None)


def _warm(prepared: PreparedRun) -> threading.Thread:
    """Import the model libraries in the background, while a server comes up."""
    local = any(model.provider != "openai" for model in prepared.chain.models.values())

    def load() -> None:
        if local:
            import torch  # noqa: F401
            import transformers  # noqa: F401

    thread = threading.Thread(target=load, name="warm-imports", daemon=True)
    thread.start()
    return thread


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
        print(f"outputs: {out}", file=sys.stderr)
    first = _first_failure(prepared)
    if first:
        print(safe(first), file=sys.stderr)
    if row.status == "ok":
        print(f"next: headrace show {row.id}", file=sys.stderr)
    else:
        print(f"next: headrace show {row.id}; headrace resume {row.id}", file=sys.stderr)


def _took(row: RunRow) -> str:
    from flows.cli.text import duration

    return duration((row.finished_at or row.started_at) - row.started_at)


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


def parse_pairs(texts: list[str], *, flag: str) -> Iterator[tuple[str, str]]:
    """Split `NAME=VALUE` texts. Raises InputInvalid for one without `=`."""
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputInvalid(f"{flag} {text!r} is not NAME=VALUE.", hint=f"Write {flag} name=value.")
        yield name.strip(), value


def _read_files(inputs: dict[str, str]) -> dict[str, str]:
    found = {}
    for name, value in inputs.items():
        if value.startswith("@"):
            try:
                value = Path(value[1:]).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise InputInvalid(f"-i {name}=@…: cannot read {value[1:]!r}: {error}.") from error
        found[name] = value
    return found
