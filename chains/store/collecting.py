"""Removes what a crash left behind and nothing refers to: temporary files and orphan blobs.

Owns the rule that makes this safe beside writers. A blob goes only if no row refers to it, its file and its
note are older than `grace`, and that still holds under the write lock, under which a writer looks for its
files before it commits (chains.store.batches).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, delete, select

from chains import failpoints
from chains.store import schema
from chains.store.blobs import Blobs
from chains.store.files import is_abandoned
from chains.store.verifying import referred_to

GRACE_S: Final = 3600.0
_PER_STATEMENT: Final = 500


def remove_temporaries(folder: Path, *, skip: Collection[str], grace: float) -> list[str]:
    """Remove abandoned temporary files and folders below `folder`; return their names."""
    removed = []
    for path in list(_entries(folder, skip)):
        if is_abandoned(path, grace=grace):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            removed.append(str(path.relative_to(folder)))
    return removed


def orphan_candidates(
    connection: Connection, blobs: Blobs, referenced: Collection[str], before: float
) -> list[str]:
    """Return blobs, by file or by note, that no row refers to and that are older than `before`."""
    noted = select(schema.blobs.c.sha256).where(schema.blobs.c.touched_at < before)
    names = set(connection.execute(noted).scalars())
    names.update(sha256 for sha256, written in blobs.listed() if written < before)
    return sorted(names - set(referenced))


def remove_orphans(connection: Connection, blobs: Blobs, candidates: list[str], before: float) -> list[str]:
    """Remove the candidates that are still unwanted; runs inside a write transaction."""
    removed = []
    table = schema.blobs
    for start in range(0, len(candidates), _PER_STATEMENT):
        part = candidates[start : start + _PER_STATEMENT]
        # A row committed since the candidates were found may refer to one.
        part = sorted(set(part) - referred_to(connection, part))
        unwanted: Any = (table.c.sha256.in_(part), table.c.pinned.is_(False), table.c.touched_at < before)
        connection.execute(delete(table).where(*unwanted))
        kept = set(connection.execute(select(table.c.sha256).where(table.c.sha256.in_(part))).scalars())
        for sha256 in part:
            if sha256 not in kept and blobs.modified(sha256) < before:
                failpoints.hit("store.collect.before_unlink")
                blobs.remove(sha256)
                removed.append(sha256)
    failpoints.hit("store.collect.before_commit")
    return removed


def _entries(folder: Path, skip: Collection[str]) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        if Path(parent) == folder:
            folders[:] = [name for name in folders if name not in skip]
        yield from (Path(parent) / name for name in (*folders, *files))
