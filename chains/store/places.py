"""Where files of the store lie: a folder here, or (chains.store.remote) anything that fsspec reaches.

Owns names relative to the place, and that a file appears whole or not at all. Knows nothing of what the
files hold.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Protocol

from chains.store.files import atomic_file, disk_errors, is_temporary, sync_folder


class Place(Protocol):
    """Files by name, with `/` between the parts of a name. `label` holds no password."""

    label: str

    def write(self, name: str, fill: Callable[[IO[bytes]], None], *, synced: bool = True) -> None:
        """Make or replace a file with what `fill` writes; if synced, a power cut does not undo it."""
        ...

    def open(self, name: str) -> IO[bytes]:
        """Open a file to read; FileNotFoundError if it is not there."""
        ...

    def exists(self, name: str) -> bool:
        """Tell whether a file is there."""
        ...

    def touch(self, name: str) -> bool:
        """Make a file young where that costs little; tell whether it is there."""
        ...

    def modified(self, name: str) -> float:
        """Return when a file was last written; 0 for one that is gone."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file; one that is gone is no error."""
        ...

    def names(self) -> Iterator[tuple[str, float]]:
        """Yield every file that is whole, with when it was last written."""
        ...

    def errors(self) -> AbstractContextManager[None]:
        """Say in one sentence what this place refused."""
        ...


class LocalPlace:
    """A folder on a local disk, made when something is written into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.label = str(folder)

    def path(self, name: str) -> Path:
        """Return where a file is or would be."""
        return self.folder / name

    def write(self, name: str, fill: Callable[[IO[bytes]], None], *, synced: bool = True) -> None:
        """Make or replace a file; if synced, it is on disk when this returns."""
        path = self.path(name)
        _make_folders(path.parent)
        with atomic_file(path, synced=synced) as file:
            fill(file)

    def open(self, name: str) -> IO[bytes]:
        """Open a file to read."""
        return self.path(name).open("rb")

    def exists(self, name: str) -> bool:
        """Tell whether a file is there."""
        return self.path(name).exists()

    def touch(self, name: str) -> bool:
        """Make a file young, so that collecting leaves it alone."""
        try:
            os.utime(self.path(name))
        except FileNotFoundError:
            return False
        return True

    def modified(self, name: str) -> float:
        """Return when a file was last written or touched."""
        try:
            return self.path(name).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def remove(self, name: str) -> None:
        """Remove a file."""
        self.path(name).unlink(missing_ok=True)

    def names(self) -> Iterator[tuple[str, float]]:
        """Yield every file but those that are being written."""
        for parent, folders, files in os.walk(self.folder):
            folders.sort()
            for file in sorted(files):
                if not is_temporary(file):
                    name = (Path(parent) / file).relative_to(self.folder).as_posix()
                    yield name, self.modified(name)

    def errors(self) -> AbstractContextManager[None]:
        """Say what the operating system refused below the folder."""
        return disk_errors(self.folder)


def _make_folders(folder: Path) -> None:
    """Make a folder and those above it, with their names on disk."""
    try:
        folder.mkdir()
    except FileExistsError:
        return
    except FileNotFoundError:
        _make_folders(folder.parent)
        folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)
