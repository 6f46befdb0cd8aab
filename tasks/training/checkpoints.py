"""Which checkpoint a training may go on from.

Owns the seal of a checkpoint: a file with the SHA-256 of every other file in the folder, written last.
Knows nothing of training. A checkpoint counts when its seal is there and fits all that it names.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from chains.store.files import atomic_write

SEAL = "sealed.json"
_NAME = re.compile(r"^checkpoint-(\d+)$")


@dataclass(frozen=True, slots=True)
class Found:
    """The newest whole checkpoint, if there is one, and the newer ones that were damaged or cut off."""

    whole: Path | None
    damaged: list[str] = field(default_factory=list)


def step_of(checkpoint: Path) -> int:
    """Return the optimizer step after which a checkpoint was written."""
    found = _NAME.match(checkpoint.name)
    return int(found[1]) if found else 0


def seal(checkpoint: Path) -> None:
    """Say that the checkpoint is whole."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != SEAL)
    hashes = {path.relative_to(checkpoint).as_posix(): _sha256(path) for path in files}
    atomic_write(checkpoint / SEAL, json.dumps(hashes, indent=2).encode())


def newest_whole(folder: Path) -> Found:
    """Find the newest whole checkpoint in `folder`; damaged ones are renamed to `broken-…`."""
    damaged: list[str] = []
    for path in sorted(_children(folder), key=step_of, reverse=True):
        if is_whole(path):
            return Found(path, damaged)
        path.rename(_free_name(path))
        damaged.append(path.name)
    return Found(None, damaged)


def is_whole(checkpoint: Path) -> bool:
    """Whether the seal is there and every file that it names is as it was."""
    try:
        hashes = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))
        return bool(hashes) and all(_sha256(checkpoint / name) == known for name, known in hashes.items())
    except (OSError, ValueError, AttributeError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _children(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if path.is_dir() and _NAME.match(path.name)]


def _free_name(path: Path) -> Path:
    number = 1
    while (target := path.with_name(f"broken-{path.name}-{number}")).exists():
        number += 1
    return target
