"""A run's data set in the store: kept with the run while it is small, and read where the file is gone.

Owns the name under which a run's `files` list it, beside the files of its chain, and the copy that is read.
Knows nothing of rows.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from chains.data import Dataset
    from chains.settings import Settings
    from chains.store import RunRow, Store

DATA: Final = "@data"
"""No file of a chain has this name: it begins with what the command line takes for a mark."""


def chain_files_of(run: RunRow) -> dict[str, str]:
    """Return the files of a run's chain, by name with the sha256 of each; the data set is none of them."""
    names: dict[str, str] = json.loads(run.files or b"{}")
    return {name: sha256 for name, sha256 in names.items() if name != DATA}


def data_to_keep(dataset: Dataset | None, settings: Settings) -> bytes | None:
    """Return the bytes of a data set that are to be kept, or None where it is too large or has changed."""
    if dataset is None:
        return None
    try:
        if dataset.path.stat().st_size > settings.keep_data_mb * 1_000_000:
            return None
        content = dataset.path.read_bytes()
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest() == dataset.sha256 else None


def data_path(run: RunRow, store: Store, *, also_changed: bool) -> Path:
    """Return where the data set of a run is to be read: its file, else a copy of what the run has kept.

    A file that has changed since is returned as it is, to be refused, unless `also_changed`.
    """
    path = Path(run.data_path or "")
    sha256 = json.loads(run.files or b"{}").get(DATA)
    if sha256 is None or (path.is_file() and not (also_changed and _digest(path) != run.data_sha256)):
        return path
    folder = store.folder("work") / f"data-{sha256[:32]}"
    store.materialise({f"data{path.suffix.lower()}": sha256}, folder)
    return folder / f"data{path.suffix.lower()}"


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
