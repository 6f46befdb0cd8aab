"""`headrace verify`, `prune` and `export`: look after a store, and take a run out of it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal

import typer

from chains.errors import EnvironmentLacks, InputInvalid
from flows.cli.options import JsonOption, RunArgument, StoreOption
from flows.cli.read import reading
from flows.cli.text import print_json, safe
from flows.resuming import find_run

if TYPE_CHECKING:
    from chains.store import PruneReport, Store, VerifyReport

_DAY_S = 86_400.0
_AGE = re.compile(r"(\d+)\s*([dhw])")
_UNITS = {"h": _DAY_S / 24, "d": _DAY_S, "w": 7 * _DAY_S}
_ROWS_AT_ONCE = 1000


def verify(
    rebuild: Annotated[
        bool,
        typer.Option(
            "--rebuild", help="First put back what a lost or damaged database had, from the files beside it."
        ),
    ] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check every row and blob of the store against its hash; exit 1 where something is damaged."""
    with _rebuilding(store) if rebuild else reading(store) as opened:
        report = opened.verify_report(rebuild=rebuild)
    if as_json:
        rebuilt = {"runs_rebuilt": report.runs_rebuilt} if rebuild else {}
        print_json({"ok": not report.problems, "problems": report.problems, **rebuilt})
    else:
        _print_report(report, rebuild)
    if report.problems:
        raise typer.Exit(1)


def prune(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Runs to remove, by id or first letters.")
    ] = None,
    before: Annotated[
        str | None,
        typer.Option("--older-than", metavar="AGE", help="Remove runs that ended so long ago: 30d, 8w, 12h."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove them. Without it, only say what would go.")
    ] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove old runs. Answers that later runs reused, models and collections stay."""
    from chains.clock import Clock

    if not runs and before is None:
        raise InputInvalid("there is nothing to prune.", hint="Name runs, or an age with --older-than.")
    limit = None if before is None else Clock().now() - _seconds(before)
    with reading(store) as opened:
        named = [find_run(opened, run).id for run in runs or ()]
        report = opened.prune(limit, named, dry_run=not yes)
    if as_json:
        print_json({"removed": yes, **_facts(report)})
    else:
        _print_pruned(report, yes)


def export(
    run: RunArgument,
    form: Annotated[
        Literal["jsonl", "parquet", "html"],
        typer.Option("--format", help="jsonl, parquet, or html: one page with nothing beside it."),
    ] = "jsonl",
    out: Annotated[
        Path | None, typer.Option("--out", help="The file. Default but for parquet: standard output.")
    ] = None,
    step: Annotated[str | None, typer.Option("--step", help="Only this step.")] = None,
    store: StoreOption = None,
) -> None:
    """Write every record of a run: inputs, messages, output, error, tokens, cost."""
    if form == "html":
        _export_page(run, out, step, store)
        return
    if form == "parquet" and out is None:
        raise InputInvalid("a Parquet file cannot be printed.", hint="Name a file with --out.")
    with reading(store) as opened:
        rows = opened.export_rows(find_run(opened, run).id, step)
        if out is None:
            _write_lines(sys.stdout.buffer, rows)
            return
        from chains.store.files import atomic_file

        try:
            with atomic_file(out) as file:
                number = _write_lines(file, rows) if form == "jsonl" else _write_parquet(file, rows)
        except OSError as error:
            raise EnvironmentLacks(f"{str(out)!r} cannot be written: {error.strerror or error}.") from error
    print(f"{number} records in {safe(str(out))}", file=sys.stderr)


def _export_page(run: str, out: Path | None, step: str | None, store: str | None) -> None:
    """Write a run as one HTML file."""
    from chains.store import atomic_write
    from flows.inspector.exporting import exported

    if step is not None:
        raise InputInvalid("a page holds the whole run.", hint="Leave --step out.")
    with reading(store) as opened:
        text = exported(opened, find_run(opened, run)).encode("utf-8", "replace")
    if out is None:
        sys.stdout.buffer.write(text)
        return
    try:
        atomic_write(out, text)
    except OSError as error:
        raise EnvironmentLacks(f"{str(out)!r} cannot be written: {error.strerror or error}.") from error


@contextmanager
def _rebuilding(store: str | None) -> Iterator[Store]:
    from chains.settings import get_settings
    from chains.store import is_server, open_to_rebuild

    location = store or get_settings().store
    if not is_server(location) and not Path(location).is_dir():
        raise EnvironmentLacks(
            f"there is no folder {location!r}.", hint="Name the store with --store or HEADRACE_STORE."
        )
    with open_to_rebuild(location) as opened:
        yield opened


def _print_report(report: VerifyReport, rebuild: bool) -> None:
    if rebuild:
        print(f"Put back: {len(report.runs_rebuilt)} runs with {report.records_rebuilt} records.")
        for run_id in report.runs_rebuilt:
            print(f"  {safe(run_id)}")
    print("\n".join(safe(problem) for problem in report.problems) or "The store is clean.")


def _print_pruned(report: PruneReport, removed: bool) -> None:
    verb = "Removed" if removed else "Would remove"
    print(f"{verb} {len(report.runs)} runs, {report.records} records, {report.attempts} attempts.")
    for run_id in report.runs:
        print(f"  {safe(run_id)}")
    if not removed and report.runs:
        print("Nothing was removed: say --yes to remove them.")


def _facts(report: PruneReport) -> dict[str, Any]:
    return {
        "runs": report.runs,
        "records": report.records,
        "attempts": report.attempts,
        "blobs": report.blobs,
    }


def _seconds(age: str) -> float:
    found = _AGE.fullmatch(age.strip())
    if found is None:
        raise InputInvalid(
            f"--older-than {age[:200]!r} is no age.", hint="Write hours, days or weeks: 12h, 30d, 8w."
        )
    return int(found[1]) * _UNITS[found[2]]


def _write_lines(file: IO[bytes], rows: Iterator[dict[str, Any]]) -> int:
    number = 0
    for row in rows:
        text = json.dumps(row, ensure_ascii=False)
        file.write(text.encode("utf-8", "backslashreplace") + b"\n")
        number += 1
    return number


def _write_parquet(file: IO[bytes], rows: Iterator[dict[str, Any]]) -> int:
    """Write one row group per thousand records; what a step said has no common type, so it is JSON text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    words = ("run_id", "step", "status", "value_key", "reused_from", "inputs", "messages", "output", "error")
    numbers = ("row", "item", "turn", "sample", "attempts", "tokens_in", "tokens_out", "cost_micro")
    fields = [(name, pa.string()) for name in words] + [(name, pa.int64()) for name in numbers]
    schema = pa.schema([*fields, ("started_at", pa.float64()), ("finished_at", pa.float64())])
    number, part = 0, []

    with pq.ParquetWriter(file, schema) as writer:
        for row in rows:
            part.append({**row, **{name: _json_text(row[name]) for name in words[5:]}})
            number += 1
            if len(part) == _ROWS_AT_ONCE:
                writer.write_table(pa.Table.from_pylist(part, schema=schema))
                part = []
        writer.write_table(pa.Table.from_pylist(part, schema=schema))
    return number


def _json_text(value: Any) -> str | None:
    if value is None:
        return None
    text = json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode()
