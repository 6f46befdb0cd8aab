"""A chain as it was read: the chain, its bytes, the files that it names and the place of everything.

Owns identity (`hash`). Knows nothing of checks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from chains.errors import Location
from chains.source.marks import Marks, Place, YamlPath
from chains.spec import Chain


@dataclass(frozen=True, slots=True)
class ChainFile:
    """A chain without problems, with what it was read from.

    `folder` is the root of every relative file of the chain; `files` are the prompt, schema and Python files
    that it names, as they were when it was read.
    """

    chain: Chain
    path: Path
    folder: Path
    source: bytes
    files: Mapping[str, bytes]
    hash: str
    marks: Marks = field(repr=False, compare=False)
    copied_code: Path | None = None
    """Where its Python files are, if not in `folder`: a copy of those that a run has kept."""
    chains: Mapping[str, ChainFile] = field(default_factory=dict)
    """The chains that its steps run, by the names that the steps give them. Their bytes, and those of their
    files, are among `files`."""

    @classmethod
    def of(
        cls,
        chain: Chain,
        source: bytes,
        files: Mapping[str, bytes],
        *,
        path: Path,
        marks: Marks,
        chains: Mapping[str, ChainFile] | None = None,
    ) -> ChainFile:
        """Return the chain that these bytes and files are."""
        hashed = hash_of(source, files)
        return cls(chain, path, path.parent, source, files, hashed, marks, chains=chains or {})

    @property
    def code_folder(self) -> Path:
        """The folder that Python files are loaded from."""
        return self.copied_code or self.folder

    @property
    def positions(self) -> Mapping[YamlPath, Place]:
        """The places of keys (and list items)."""
        return self.marks.keys

    @property
    def version(self) -> str:
        """What names this content for people: the first characters of its hash."""
        return self.hash[:12]

    def where(self, *path: str | int) -> Location:
        """Return the place of a key, or of its nearest parent that is in the file."""
        return Location(str(self.path), *self.marks.key(path))


def hash_of(source: bytes, files: Mapping[str, bytes]) -> str:
    """Return the content hash of a chain and its files."""
    parts = {
        "chain": hashlib.sha256(source).hexdigest(),
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()
