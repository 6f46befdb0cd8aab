"""From bytes to plain values with the place of each: YAML at the level of parser events.

Owns the limits (size, depth, nodes) and what of YAML is left out: anchors, aliases, tags, merge keys,
several documents. Nothing is constructed but text, numbers, truth values, null, lists and mappings. Knows
nothing of chains.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from chains.errors import Location, Problem
from chains.source.marks import Mark, Marks, YamlPath
from chains.source.scalars import ScalarRefused, plain_value
from chains.suggest import shown

MAX_BYTES = 1_000_000
MAX_DEPTH = 50
MAX_NODES = 10_000

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_HINTS = {
    "mapping values are not allowed": "Quote a text that contains ': '.",
    "cannot start any token": "Indent with spaces, and quote a text that starts with %, @ or `.",
    "expected <block end>": "Check the indentation of this line and the one above.",
    "could not find expected ':'": "Check the indentation, and that each key ends with ':'.",
    "quoted scalar": "Close the quote.",
    "expected ',' or": "Close the bracket, and quote a text that contains { } [ ] or ','.",
}


@dataclass(slots=True)
class Document:
    """A file's value, its marks, what is wrong with it, and which values are missing because of that."""

    value: Any
    marks: Marks
    problems: list[Problem] = field(default_factory=list)
    broken: set[YamlPath] = field(default_factory=set)


class _Unreadable(Exception):
    """Ends the reading of a document; carries its last problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def read_document(source: bytes, name: str) -> Document:
    """Read one YAML document; problems are in the result, never raised."""
    document = Document(None, Marks([]))
    try:
        text = decode(source, name)
        document.marks.lines = text.splitlines()
        if (control := _CONTROL.search(text)) is not None:
            place = _place(text, control.start())
            raise _Unreadable(
                Problem(
                    Location(name, *place), f"the character {control[0]!r} is not allowed in a chain file"
                )
            )
        _Builder(text, name, document).build()
    except _Unreadable as error:
        document.problems.append(error.problem)
    except yaml.MarkedYAMLError as error:
        document.problems.append(_syntax_problem(error, name))
    except yaml.YAMLError as error:
        document.problems.append(
            Problem(Location(name, 1, 1), f"this is not YAML: {str(error).splitlines()[0][:200]}")
        )
    return document


def decode(source: bytes, name: str) -> str:
    """Return a file's text without a byte order mark; raise for what is too large or not UTF-8."""
    if len(source) > MAX_BYTES:
        raise _Unreadable(
            Problem(Location(name, 1, 1), f"the file has {len(source)} bytes; at most {MAX_BYTES} are read")
        )
    if source.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _Unreadable(Problem(Location(name, 1, 1), "the file is UTF-16.", "Save it as UTF-8."))
    try:
        return source.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line, column = _place(source[: error.start].decode("utf-8"), None)
        text = f"the byte 0x{source[error.start]:02x} is not UTF-8."
        raise _Unreadable(Problem(Location(name, line, column), text, "Save the file as UTF-8.")) from error


def text_problem(source: bytes, name: str) -> Problem | None:
    """Return why a file cannot be read as text, or None."""
    try:
        decode(source, name)
    except _Unreadable as error:
        return error.problem
    return None


def _place(text: str, offset: int | None) -> tuple[int, int]:
    before = text[:offset]
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


def _syntax_problem(error: yaml.MarkedYAMLError, name: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    what = error.problem or "it cannot be read"
    text = f"this is not YAML: {what}" + (f" {error.context}" if error.context else "")
    hint = next((hint for piece, hint in _HINTS.items() if piece in text), None)
    return Problem(Location(name, *place), text[:200] + ("." if hint else ""), hint)


class _Builder:
    """Builds values from parser events."""

    def __init__(self, text: str, name: str, document: Document) -> None:
        self.parser = _parser(text)
        self.name = name
        self.document = document
        self.nodes = 0

    def build(self) -> None:
        """Fill the document."""
        self._next()  # the start of the stream
        event = self._next()
        if isinstance(event, yaml.StreamEndEvent):
            raise _Unreadable(Problem(Location(self.name, 1, 1), "the file is empty."))
        self.document.value = self._node(self._next(), ())
        self._next()  # the end of the document
        event = self._next()
        if not isinstance(event, yaml.StreamEndEvent):
            self._add(event, "a second document starts here.", "Keep one chain in each file.")

    def _next(self) -> yaml.Event:
        event: yaml.Event = self.parser.get_event()
        return event

    def _add(self, event: yaml.Event, message: str, hint: str | None = None) -> None:
        self.document.problems.append(Problem(self._location(event), message, hint))

    def _location(self, event: Any) -> Location:
        return Location(self.name, *_start(event))

    def _node(self, event: Any, path: YamlPath) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise _Unreadable(Problem(self._location(event), f"the file has more than {MAX_NODES} values"))
        if len(path) > MAX_DEPTH:
            raise _Unreadable(
                Problem(self._location(event), f"the file is nested deeper than {MAX_DEPTH} levels")
            )
        line, column = _start(event)
        self.document.marks.values[path] = Mark(line, column, getattr(event, "style", "") or "")
        if isinstance(event, yaml.AliasEvent):
            alias = (event.anchor or "")[:60]
            self._add(event, f"the alias '*{alias}' is not part of chain files.", "Write the value out.")
            return self._broken(path)
        self._refuse_extras(event)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(path)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(path)
        assert isinstance(event, yaml.ScalarEvent)
        return self._scalar(event, path)

    def _refuse_extras(self, event: Any) -> None:
        if event.anchor is not None:
            self._add(
                event,
                f"the anchor '&{event.anchor[:60]}' is not part of chain files.",
                "Write the value out.",
            )
        if event.tag is not None:
            self._add(
                event,
                f"the tag {event.tag[:60]!r} is not part of chain files.",
                "Leave it out; quote what is text.",
            )

    def _broken(self, path: YamlPath) -> None:
        self.document.broken.add(path)

    def _scalar(self, event: Any, path: YamlPath) -> Any:
        text: str = event.value
        if "\x00" in text:
            self._add(event, "a text holds a NUL character")
            return self._broken(path)
        if event.tag is not None or not event.implicit[0]:
            return text
        try:
            return plain_value(text)
        except ScalarRefused as refusal:
            self._add(event, f"{refusal.message}.", refusal.hint)
            return self._broken(path)

    def _sequence(self, path: YamlPath) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            item = (*path, len(items))
            self.document.marks.keys[item] = _start(event)
            items.append(self._node(event, item))
        return items

    def _mapping(self, path: YamlPath) -> dict[str, Any]:
        items: dict[str, Any] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key = self._key(event, path)
            if key is None or key in items:
                if key is not None:
                    line, column = self.document.marks.keys[(*path, key)]
                    self._add(
                        event,
                        f"the key {shown(key)} is here twice; it was first at line {line}, column {column}.",
                        "Keep one.",
                    )
                self._skip()
                continue
            self.document.marks.keys[(*path, key)] = _start(event)
            items[key] = self._node(self._next(), (*path, key))
        return items

    def _key(self, event: Any, path: YamlPath) -> str | None:
        """Return a key, or None after noting why it is none."""
        if not isinstance(event, yaml.ScalarEvent):
            self._add(
                event,
                "a key must be text, not a list, an object or an alias.",
                'Quote a value that starts with {{ or {: "{{ inputs.x }}".',
            )
            self._drain(event)
            self._broken(path)
            return None
        self._refuse_extras(event)
        if event.implicit[0] and event.value == "<<":
            self._add(event, "merge keys ('<<') are not part of chain files.", "Write the keys out.")
            return None
        key = self._scalar(event, (*path, event.value[:200]))
        if isinstance(key, str):
            return key
        if (*path, event.value[:200]) not in self.document.broken:
            self._add(event, f"the key {shown(key)} is not text.", "Quote it.")
        return None

    def _skip(self) -> None:
        """Read the next node and drop it."""
        self._drain(self._next())

    def _drain(self, event: yaml.Event) -> None:
        """Read to the end of a node whose first event is given, without recursion."""
        depth = 0
        while True:
            self.nodes += 1
            if self.nodes > MAX_NODES:
                raise _Unreadable(
                    Problem(self._location(event), f"the file has more than {MAX_NODES} values")
                )
            if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
                depth += 1
            elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
                depth -= 1
            if depth == 0:
                return
            event = self._next()


def _start(event: Any) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _parser(text: str) -> Any:
    """Return the C parser where PyYAML has it; its marks are those of the Python one."""
    if yaml.__with_libyaml__:
        return yaml.CSafeLoader(text)  # read event by event: it constructs nothing
    return yaml.SafeLoader(text)
