"""Makes a folder of plain files from blobs, all at once.

Owns the rule for a folder that is there already: one that holds the files is left alone, one inside the
store that does not is replaced, and one elsewhere is never touched.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from chains import failpoints
from chains.errors import StoreConflict
from chains.store.blobs import Blobs
from chains.store.files import disk_errors, make_folder, sync_folder, temporary_name
from chains.store.names import checked_relative_path, checked_sha256


def materialise(blobs: Blobs, files: Mapping[str, str], into: Path, *, replace: bool) -> None:
    """Make the folder `into` hold `files` (relative path to sha256); it appears whole or not at all."""
    wanted = {checked_relative_path(name).as_posix(): checked_sha256(sha) for name, sha in files.items()}
    if _holds(into, wanted):
        return
    if not replace and into.exists():
        raise StoreConflict(
            f"The folder {str(into)!r} is there and does not hold these files.",
            hint="Name a folder that is not there.",
        )
    with disk_errors(into):
        _make(blobs, wanted, into)


def _make(blobs: Blobs, wanted: Mapping[str, str], into: Path) -> None:
    into.parent.mkdir(parents=True, exist_ok=True)
    temporary = into.with_name(temporary_name())
    try:
        _fill(blobs, wanted, temporary)
        failpoints.hit("store.folder.before_rename")
        _move_into_place(temporary, into, wanted)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    failpoints.hit("store.folder.after_rename")
    sync_folder(into.parent)


def _fill(blobs: Blobs, wanted: Mapping[str, str], folder: Path) -> None:
    make_folder(folder)
    for name, sha256 in wanted.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            blobs.copy_to(sha256, file)
            file.flush()
            os.fsync(file.fileno())
    for parent, _, _ in os.walk(folder):
        sync_folder(Path(parent))


def _move_into_place(temporary: Path, into: Path, wanted: Mapping[str, str]) -> None:
    """Rename; a folder with other content goes aside first, for a rename cannot replace a full folder."""
    aside = into.with_name(temporary_name())
    try:
        if into.exists():
            into.rename(aside)
        temporary.rename(into)
    except OSError:
        # Another process was quicker; what it made is as good if it holds the same files.
        if not _holds(into, wanted):
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _holds(folder: Path, wanted: Mapping[str, str]) -> bool:
    return folder.is_dir() and all(_is(folder / name, sha256) for name, sha256 in wanted.items())


def _is(path: Path, sha256: str) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError:
        return False
