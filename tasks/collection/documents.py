"""The documents that an embed step names: found by path or glob, read, and kept inside the chain's folder.

Owns which files may be read and in which form. Knows nothing of chunks or vectors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from chains.errors import InputInvalid, Refused

SUFFIXES = {".md": True, ".markdown": True, ".txt": False}
WILD = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Document:
    """One file: its path as chunks name it, its text and its hash."""

    source: str
    text: str
    sha256: str
    markdown: bool


def read_documents(patterns: Sequence[str], folder: Path, *, read_outside: bool) -> list[Document]:
    """Read every file that the patterns name, once each, in the order of their paths."""
    found: dict[Path, str] = {}
    for pattern in patterns:
        matches = list(_matches(pattern, folder))
        if not matches:
            raise InputInvalid(
                f"No file fits {pattern!r} in {str(folder)!r}.",
                hint="Write a path or a glob such as handbook/*.md.",
            )
        for path in matches:
            _require_inside(path, folder, read_outside=read_outside)
            found.setdefault(path.resolve(), _source(path, folder))
    return [_read(path, source) for path, source in sorted(found.items(), key=lambda item: item[1])]


def _matches(pattern: str, folder: Path) -> Iterator[Path]:
    if "\0" in pattern:
        raise InputInvalid(f"{pattern!r} is no path.")
    parts = PurePosixPath(pattern).parts
    fixed = next((at for at, part in enumerate(parts) if WILD & set(part)), None)
    if fixed is None:
        path = folder / pattern
        return iter([path] if path.is_file() else [])
    root = folder.joinpath(*parts[:fixed])
    return (path for path in sorted(root.glob("/".join(parts[fixed:]))) if path.is_file() and _is_text(path))


def _is_text(path: Path) -> bool:
    """Whether a glob takes a file; one that is named outright must be a text, and says so when it is not."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _require_inside(path: Path, folder: Path, *, read_outside: bool) -> None:
    # Resolved first: `..` and links may lead out.
    if not read_outside and not path.resolve().is_relative_to(folder.resolve()):
        raise Refused(
            f"The document {str(path)!r} lies outside the chain's folder.",
            hint="Move it there, or set HEADRACE_READ_OUTSIDE=true on this machine.",
        )


def _source(path: Path, folder: Path) -> str:
    try:
        return path.relative_to(folder).as_posix()
    except ValueError:
        return path.as_posix()


def _read(path: Path, source: str) -> Document:
    markdown = SUFFIXES.get(path.suffix.lower())
    if markdown is None:
        raise InputInvalid(
            f"The document {source!r} is neither Markdown nor plain text.",
            hint=f"Embed files that end in {', '.join(SUFFIXES)}.",
        )
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise InputInvalid(f"The document {source!r} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InputInvalid(
            f"The document {source!r} is not UTF-8 (byte {error.start}).", hint="Save it as UTF-8."
        ) from error
    return Document(source=source, text=text, sha256=hashlib.sha256(content).hexdigest(), markdown=markdown)
