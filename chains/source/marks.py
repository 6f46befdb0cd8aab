"""Where everything in a YAML file stands: line and column of every key and value.

Owns the way from a place inside a value (a template's own line and column) to a place in the file. Knows
nothing of what keys and values mean.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

YamlPath: TypeAlias = tuple[str | int, ...]
Place: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Mark:
    """A value's first character, and how it was written: plain (''), quoted, or as a block (| or >)."""

    line: int
    column: int
    style: str = ""


@dataclass(slots=True)
class Marks:
    """Marks of one file, by YAML path."""

    lines: list[str]
    keys: dict[YamlPath, Place] = field(default_factory=dict)
    values: dict[YamlPath, Mark] = field(default_factory=dict)

    def key(self, path: YamlPath) -> Place:
        """Return where the key of `path` stands (for a list item: the item), or of the nearest parent."""
        for end in range(len(path), 0, -1):
            place = self.keys.get(path[:end])
            if place is not None:
                return place
        return (1, 1)

    def value(self, path: YamlPath) -> Place:
        """Return where the value of `path` begins, or the nearest key above it."""
        mark = self.values.get(path)
        return (mark.line, mark.column) if mark and path else self.key(path)

    def inside(self, path: YamlPath, line: int, column: int) -> Place:
        """Return where a line and column of a text value stand in the file.

        Exact for plain and quoted texts on one line and for literal blocks; for folded texts the line of the
        value.
        """
        mark = self.values.get(path)
        if mark is None:
            return self.key(path)
        if mark.style == "|":
            return self._in_block(mark, line, column)
        if line > 1 or mark.style == ">":
            return (mark.line, mark.column)
        return (mark.line, self._in_line(mark, column))

    def _line(self, number: int) -> str:
        """Return a line; an empty value may stand behind the last one."""
        return self.lines[number - 1] if number <= len(self.lines) else ""

    def _in_block(self, mark: Mark, line: int, column: int) -> Place:
        header = self._line(mark.line)[mark.column - 1 :]
        below = self.lines[mark.line :]
        first = next((text for text in below if text.strip()), "")
        indent = len(first) - len(first.lstrip(" "))
        if any(character.isdigit() for character in header.split("#")[0]):
            return (
                mark.line + line,
                1,
            )  # an explicit indentation: the line is right, the column is not known
        return (mark.line + line, indent + column)

    def _in_line(self, mark: Mark, column: int) -> int:
        """Step over quotes and escapes."""
        text = self._line(mark.line)
        at = mark.column - 1 + (1 if mark.style else 0)
        for _ in range(column - 1):
            if mark.style == '"' and text[at : at + 1] == "\\":
                at += {"x": 4, "u": 6, "U": 10}.get(text[at + 1 : at + 2], 2)
            elif mark.style == "'" and text[at : at + 2] == "''":
                at += 2
            else:
                at += 1
        return min(at, len(text)) + 1


def step_at(path: YamlPath) -> str:
    """Return the whole name of the step that a place lies in, as `draft.write`."""
    names = [str(path[1])]
    rest = path[2:]
    while len(rest) >= 2 and rest[0] == "steps":
        names.append(str(rest[1]))
        rest = rest[2:]
    return ".".join(names)
