"""`headrace testcase`: a recorded prompt step as a pytest file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import RunArgument, StepArgument, StoreOption
from flows.cli.read import MOST_ROWS, reading
from flows.cli.show import find_record


def testcase(
    run: RunArgument,
    step: StepArgument,
    row: Annotated[
        int | None, typer.Option("--row", min=0, max=MOST_ROWS, help="One row, counted from 0. Default: 0.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The test file. Default: stdout.")] = None,
    store: StoreOption = None,
) -> None:
    """Write a recorded prompt step as a pytest case, with its recorded responses."""
    from chains.errors import InputInvalid
    from chains.store import atomic_write
    from flows.recorded import recorded_run
    from flows.resuming import find_run
    from flows.testcase import case_of, written

    if out is not None and out.exists():
        raise InputInvalid(f"{str(out)!r} is there already.", hint="Name another file with --out.")
    with reading(store) as opened:
        found = find_run(opened, run)
        record = find_record(opened, found, step, row if row is not None else 0)
        assert record is not None  # a row was named
        case = case_of(opened, recorded_run(opened, found), record)
    chain = Path(json.loads(found.options)["chain"])
    text = written(case, chain, out.resolve().parent if out is not None else None)
    if out is None:
        sys.stdout.buffer.write(text.encode())
    else:
        atomic_write(out, text.encode())
        print(f"{out}: run it with pytest", file=sys.stderr)
