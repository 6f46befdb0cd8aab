"""Finds the chains of a folder by what their files say, without checking them.

Owns which files of a folder are chains. Knows nothing of what is in them beyond their names.
"""

from __future__ import annotations

import re
from pathlib import Path

from chains.errors import InputInvalid

_DECLARED = re.compile(rb"^chain:\s*[\"']?([a-z0-9][a-z0-9_-]{0,63})[\"']?\s*(?:#.*)?$", re.MULTILINE)
_BEGINS = re.compile(rb"^chain\s*:", re.MULTILINE)


def declared_name(path: Path) -> str | None:
    """Return the name of the chain in a file, or None for a file that is none; the file is not checked."""
    found = _DECLARED.search(path.read_bytes())
    return found[1].decode() if found else None


def chain_file_named(name: str, folder: Path) -> Path:
    """Return the file of a chain that lies in a folder itself; raise InputInvalid where there is none."""
    for path in _yaml_files(folder):
        if declared_name(path) == name:
            return path
    raise InputInvalid(
        f"the chain {name!r} is not in the folder {str(folder)!r} any more.",
        hint="`headrace deploy --prune` removes the deployments of chains that are gone.",
    )


def chain_files(folder: Path) -> list[Path]:
    """Return the chain files of a folder and of the folders in it; raise InputInvalid where there is none.

    A file is a chain when it has the key `chain` at its top, so that other YAML may lie beside it.
    """
    if not folder.is_dir():
        raise InputInvalid(f"there is no folder {str(folder)!r}.", hint="Name one with --folder.")
    inner = [part for part in sorted(folder.iterdir()) if part.is_dir() and not part.name.startswith(".")]
    found = [path for place in (folder, *inner) for path in _yaml_files(place)]
    chains = [path for path in found if _BEGINS.search(path.read_bytes())]
    if not chains:
        raise InputInvalid(
            f"there is no chain in the folder {str(folder)!r}.",
            hint="A chain file begins with 'chain: NAME'.",
        )
    return chains


def _yaml_files(folder: Path) -> list[Path]:
    return [path for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]) if path.is_file()]
