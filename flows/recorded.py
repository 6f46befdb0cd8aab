"""A run's chain as it was when it ran, from the store alone, with the models that `--model` named.

Owns the way from a run's row to chains.diff's RecordedRun. Knows nothing of the folder that the chain lay in.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from chains.diff import RecordedRun
from chains.errors import ChainInvalid, InputInvalid
from chains.loading import restore
from flows.overriding import override_models
from flows.request import request_of

if TYPE_CHECKING:
    from chains.store import RunRow, Store


def recorded_run(store: Store, run: RunRow) -> RecordedRun:
    """Return a run with its chain; raise InputInvalid where this Headrace does not read that chain."""
    options = json.loads(run.options or b"{}")
    names: dict[str, str] = json.loads(run.files or b"{}")
    files = {name: store.get_blob(sha256) for name, sha256 in names.items()}
    try:
        chain_file = restore(run.source, files, options.get("chain") or f"{run.chain}.yaml")
    except ChainInvalid as error:
        raise InputInvalid(
            f"the chain of run {run.id} is not one that this Headrace reads: {error.problems[0]}",
            hint="Look at the run with `headrace show`, which needs no chain.",
        ) from error
    request = request_of(run)
    chain = override_models(chain_file.chain, request.models, request.base_url)
    return RecordedRun(run, replace(chain_file, chain=chain))


def recorded_or_none(store: Store, run: RunRow) -> RecordedRun | None:
    """Return a run with its chain, or None where it is not one that this Headrace reads."""
    try:
        return recorded_run(store, run)
    except (InputInvalid, KeyError):
        return None
