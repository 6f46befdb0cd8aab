"""The file that `--out` names: whether it may be written, before the run, and how it is written after it.

Owns the refusals: what the run itself reads or keeps is never overwritten. Knows nothing of what is in it.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from chains.errors import EnvironmentLacks, InputInvalid
from chains.spec import EmbedStep, FinetuneStep, PrepareStep
from chains.store.places import LocalPlace
from chains.suggest import shown
from chains.templates import has_expression

if TYPE_CHECKING:
    from chains.data import Dataset
    from chains.loading import ChainFile
    from chains.store import Store
    from flows.prepared import PreparedRun


def check_out(out: Path, *, store: Store, chain_file: ChainFile, dataset: Dataset | None) -> None:
    """Raise where `out` cannot be written, or is something that the run reads or keeps."""
    name = shown(str(out))
    try:
        target = out.resolve()
        _check_place(out, target, name)
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links
        raise InputInvalid(f"--out {name} is no path that can be followed: {error}.") from error
    if any(target.is_relative_to(folder.resolve()) for folder in _kept_in(store)):
        raise InputInvalid(f"--out {name} lies inside the store.", hint="Name a file elsewhere.")
    if dataset is not None and _same(target, dataset.path):
        raise InputInvalid(
            f"--out {name} is the data set itself, which would be overwritten.", hint="Name another file."
        )
    for path in _read_by(chain_file):
        if _same(target, path):
            raise InputInvalid(
                f"--out {name} is a file of the chain, which would be overwritten.", hint="Name another file."
            )


def write_out(run: PreparedRun, out: Path) -> EnvironmentLacks | None:
    """Write each row's outputs; return why that was not possible: the run itself has ended all the same."""
    from flows.outputs import write_outputs

    try:
        write_outputs(run, out)
    except OSError as error:
        return EnvironmentLacks(
            f"--out {shown(str(out))} cannot be written: {error.strerror or error}.",
            hint=f"`headrace resume {run.run_id} --out FILE` writes them; what is done is not asked again.",
        )
    return None


def _check_place(out: Path, target: Path, name: str) -> None:
    if out.is_dir():
        raise InputInvalid(f"--out {name} is a folder.", hint="Name a file in it.")
    if out.exists() and not out.is_file():
        raise InputInvalid(f"--out {name} is no ordinary file.", hint="Name a file.")
    if not out.parent.is_dir():
        raise InputInvalid(
            f"--out {name}: there is no folder {shown(str(out.parent))}.", hint="Make it, or name another."
        )
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise EnvironmentLacks(
            f"--out {name}: the folder {shown(str(out.parent))} cannot be written to.", hint="Name another."
        )
    if not target.name:
        raise InputInvalid(f"--out {name} names no file.")


def _kept_in(store: Store) -> Iterator[Path]:
    """Yield the store's folders on this machine; its blobs may lie elsewhere."""
    yield store.path
    if isinstance(store.blobs.place, LocalPlace):
        yield store.blobs.place.folder


def _read_by(chain_file: ChainFile) -> Iterator[Path]:
    """Yield the files that a chain consists of and that its steps read."""
    yield chain_file.path
    patterns = list(chain_file.files)
    for step in chain_file.chain.steps.values():
        match step:
            case EmbedStep(into=str(), embed=found):
                patterns += [found] if isinstance(found, str) else found
            case PrepareStep():
                patterns.append(step.prepare)
            case FinetuneStep():
                patterns += [text for _, text in step.data if isinstance(text, str)]
    for pattern in patterns:
        if not has_expression(pattern) and "\0" not in pattern:
            for name in glob.iglob(pattern, root_dir=chain_file.folder, recursive=True):
                yield chain_file.folder / name


def _same(target: Path, other: Path) -> bool:
    try:
        return target == other.resolve() or target.samefile(other)
    except OSError:
        return False
