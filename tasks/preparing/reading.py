"""Text and Markdown files as rows: a paragraph each, or a section with its heading.

Owns where a row ends and the row's columns (`text`, `heading`, `source`). Read as a stream of lines, so that
memory does not grow with the file. Other formats are chains.data's.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chains.errors import InputInvalid

SUFFIXES = frozenset({".txt", ".md", ".markdown"})
_HEADING = re.compile(r"#{1,6}\s+(.*?)\s*#*\s*")
_FENCE = re.compile(r"\s*(```|~~~)")
MOST_CHARS = 4 * 1024 * 1024
"""Longest paragraph or section."""


@dataclass(frozen=True, slots=True)
class TextRows:
    """The rows of one text or Markdown file, with what a data set tells of itself."""

    path: Path
    sha256: str
    columns: tuple[str, ...]
    format: str

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the number and the columns of each row."""
        parts = _sections(self.path) if self.format == "markdown" else _paragraphs(self.path)
        for number, row in enumerate(parts):
            yield number, {**row, "source": self.path.name}


def open_text(path: Path) -> TextRows:
    """Return the rows of a file; InputInvalid where it is none, or not UTF-8."""
    if not path.is_file():
        raise InputInvalid(f"there is no file {str(path)!r}.")
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    markdown = path.suffix.lower() != ".txt"
    columns = ("text", "heading", "source") if markdown else ("text", "source")
    return TextRows(path, sha256, columns, "markdown" if markdown else "text")


def _paragraphs(path: Path) -> Iterator[dict[str, Any]]:
    lines: list[str] = []
    for line in (*_lines(path), ""):
        if line.strip():
            lines.append(line)
            _require_short(path, lines)
        elif lines:
            yield {"text": "\n".join(lines)}
            lines = []


def _sections(path: Path) -> Iterator[dict[str, Any]]:
    heading: str | None = None
    lines: list[str] = []
    fenced = False
    for line in _lines(path):
        if _FENCE.match(line):
            fenced = not fenced
        found = None if fenced else _HEADING.fullmatch(line)
        if found is None:
            lines.append(line)
            _require_short(path, lines)
            continue
        yield from _section(heading, lines)
        heading, lines = found[1], []
    yield from _section(heading, lines)


def _section(heading: str | None, lines: list[str]) -> Iterator[dict[str, Any]]:
    text = "\n".join(lines).strip()
    if text:
        yield {"text": text, "heading": heading}


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for line in lines:
                yield line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise InputInvalid(f"{path.name!r} is not UTF-8: {error.reason}.", hint="Convert it.") from error


def _require_short(path: Path, lines: list[str]) -> None:
    if len(lines) % 1000 == 0 and sum(map(len, lines)) > MOST_CHARS:
        raise InputInvalid(
            f"{path.name!r} has a paragraph or section of more than {MOST_CHARS:,} characters.",
            hint="Put empty lines or headings into it.",
        )
