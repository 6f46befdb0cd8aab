"""Gives every row of a request its typed inputs, before anything runs.

Owns how a data set's columns meet a chain's inputs, and what a once step may not read. Knows nothing of
stores, models and steps' work. Rows are checked and counted here, and read again when steps need them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from chains.errors import InputInvalid
from chains.spec import Chain, PrepareStep, runs_once
from flows.kept_data import data_path
from tasks.row_source import RowSource

if TYPE_CHECKING:
    from chains.data import Dataset
    from chains.loading import ChainFile
    from chains.store import RunRow, Store
    from flows.request import RunRequest


def open_data(request: RunRequest, earlier: RunRow | None, store: Store | None = None) -> Dataset | None:
    """Open the request's data set; one that is not what the earlier run had is refused.

    With a `store` the data set that the run has kept is read in place of a file that is gone; a fork reads it
    in place of one that has changed, too.
    """
    if request.data is None:
        return None
    from chains.data import open_dataset

    path = Path(request.data)
    if earlier is not None and store is not None:
        path = data_path(earlier, store, also_changed=request.fork is not None)
    dataset = open_dataset(path, skip_bad=request.skip_bad)
    if earlier is not None and earlier.data_sha256 != dataset.sha256:
        raise InputInvalid(
            f"the data set {request.data!r} has changed since run {earlier.id}.",
            hint="Start a new run; answers that still fit are reused from the store.",
        )
    return dataset


def bind_rows(chain: Chain, request: RunRequest, dataset: Dataset | None) -> tuple[RowSource, list[str]]:
    """Give every row its typed inputs; also return what was wrong with the rows that were left out."""
    from chains.inputs import bind_inputs

    if dataset is None:
        if request.mapping:
            raise InputInvalid("--map needs --data.", hint="Name the data set with --data FILE.")
        return RowSource(bind_inputs(chain, request.inputs, from_text=request.from_text)), []
    from chains.data import map_columns, validate_rows

    mapping = {
        name: column
        for name, column in map_columns(chain, dataset.columns, request.mapping).items()
        if name not in request.inputs
    }
    rest = chain.model_copy(update={"inputs": {k: v for k, v in chain.inputs.items() if k not in mapping}})
    shared = bind_inputs(rest, request.inputs, from_text=request.from_text)
    bound = validate_rows(chain, dataset, mapping, skip_bad=request.skip_bad)
    bad = [str(row) for row in bound.bad]
    if bound.bad_count > len(bad):
        bad.append(f"and {bound.bad_count - len(bad)} more")
    return RowSource(shared, bound, limit=request.limit), bad


def refuse_per_row_inputs(chain_file: ChainFile, rows: RowSource) -> None:
    """Refuse a once step that reads an input which differs from row to row."""
    from chains.graph import templates_of
    from chains.references import references

    differing = set(chain_file.chain.inputs) - set(rows.shared)
    for step_id, step in chain_file.chain.steps.items():
        if not runs_once(step) or not differing:
            continue
        for path, source, bare, may_read_row in templates_of(step_id, chain_file):
            if may_read_row or (isinstance(step, PrepareStep) and "completion" in path):
                continue
            for found in references(source, bare=bare):
                if found.root == "inputs" and found.path and found.path[0] in differing:
                    raise InputInvalid(
                        f"step {step_id!r} runs once, but input {found.path[0]!r} comes from the data and "
                        "differs between rows.",
                        hint=f"Give one value for all rows: -i {found.path[0]}=...",
                    )
