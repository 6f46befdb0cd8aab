"""A run's chain as it was when it ran, from the store alone, with the models that `--model` named.

Owns the way from a run's row to chains.diff's RecordedRun, and to a chain that a fork can run where the files
of that time are gone.
"""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from chains.diff import RecordedRun
from chains.errors import ChainInvalid, InputInvalid
from chains.loading import find_chain, load, restore
from flows.kept_data import chain_files_of
from flows.overriding import override_models
from flows.request import request_of

if TYPE_CHECKING:
    from chains.loading import ChainFile
    from chains.settings import Settings
    from chains.store import RunRow, Store
    from flows.request import RunRequest


def recorded_run(store: Store, run: RunRow) -> RecordedRun:
    """Return a run with its chain; raise InputInvalid where this Headrace does not read that chain."""
    chain_file, request = kept_chain(store, run), request_of(run)
    chain = override_models(chain_file.chain, request.models, request.base_url)
    return RecordedRun(run, replace(chain_file, chain=chain))


def kept_chain(store: Store, run: RunRow) -> ChainFile:
    """Return the chain that a run was made with, as its file said; raise InputInvalid as `recorded_run`."""
    options = json.loads(run.options or b"{}")
    files = {name: store.get_blob(sha256) for name, sha256 in chain_files_of(run).items()}
    try:
        return restore(run.source, files, options.get("chain") or f"{run.chain}.yaml")
    except ChainInvalid as error:
        raise InputInvalid(
            f"the chain of run {run.id} is not one that this Headrace reads: {error.problems[0]}",
            hint="Look at the run with `headrace show`, which needs no chain.",
        ) from error


def chain_to_run(store: Store, request: RunRequest, run: RunRow | None, settings: Settings) -> ChainFile:
    """Return the chain of a request: its file, or for a fork what the store has kept of it.

    `run` is the run that there is already. Raises ChainInvalid and InputInvalid.
    """
    if request.fork is None or run is None:
        return load(find_chain(request.chain), settings=settings)
    return with_code(store, kept_chain(store, run))


def with_code(store: Store, chain_file: ChainFile) -> ChainFile:
    """Return a kept chain whose Python files can be loaded: a copy is made where the folder has others."""
    inner = {name: with_code(store, found) for name, found in chain_file.chains.items()}
    chain_file = replace(chain_file, chains=inner)
    code = {name: content for name, content in chain_file.files.items() if name.endswith(".py")}
    if all(_is_there(chain_file.folder / name, content) for name, content in code.items()):
        return chain_file
    names = {name: sha256(content).hexdigest() for name, content in sorted(code.items())}
    digest = sha256(json.dumps(names).encode()).hexdigest()
    folder = store.folder("work") / f"code-{digest[:32]}"
    store.materialise(names, folder)
    return replace(chain_file, copied_code=folder)


def _is_there(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except OSError:
        return False


def recorded_or_none(store: Store, run: RunRow) -> RecordedRun | None:
    """Return a run with its chain, or None where it is not one that this Headrace reads."""
    try:
        return recorded_run(store, run)
    except (InputInvalid, KeyError):
        return None
