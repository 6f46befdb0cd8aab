"""Which part of a rendered message came from which variable.

Owns the finding of a template's pieces in what it was rendered to. A plain `{{ name }}` is found exactly,
between the words around it; what a loop or a condition wrote is one stretch, in which the values are looked
for. Where the text and the template do not fit together, nothing is marked that is not there: the values are
looked for in the whole text. Knows nothing of HTML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import nodes

from chains.template_rules import parse
from chains.textform import text_of

_SHORTEST = 3
"""Characters of a value that is looked for where its place is not known."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a rendered text; `variable` is the dotted name of what it came from, if that is known."""

    text: str
    variable: str | None = None


def marked(source: str, text: str, variables: Mapping[str, Any]) -> list[Stretch]:
    """Return the text of one message as stretches."""
    written = {name: text_of(value) for name, value in variables.items()}
    pieces = _pieces(source)
    found = _walk(pieces, text, written) if pieces is not None else None
    return _joined(found if found is not None else _looked_for(text, written))


@dataclass(frozen=True, slots=True)
class _Literal:
    text: str


@dataclass(frozen=True, slots=True)
class _Hole:
    """What an expression or a block writes; `name` is set for a plain variable."""

    name: str | None
    names: tuple[str, ...]


def _pieces(source: str) -> list[_Literal | _Hole] | None:
    tree = parse(source).tree
    if tree is None:
        return None
    found: list[_Literal | _Hole] = []
    for statement in tree.iter_child_nodes():
        for node in statement.nodes if isinstance(statement, nodes.Output) else [statement]:
            if isinstance(node, nodes.TemplateData):
                found.append(_Literal(node.data))
            else:
                found.append(_Hole(_plain_name(node), _names(node)))
    return found


def _plain_name(node: nodes.Node) -> str | None:
    parts: list[str] = []
    while isinstance(node, nodes.Getattr):
        parts.append(node.attr)
        node = node.node
    if not isinstance(node, nodes.Name):
        return None
    return ".".join([node.name, *reversed(parts)])


def _names(node: nodes.Node) -> tuple[str, ...]:
    """Return the variables inside an expression or a block, longest first."""
    found = {name for part in node.find_all((nodes.Getattr, nodes.Name)) if (name := _plain_name(part))}
    own = _plain_name(node)
    return tuple(sorted(found | ({own} if own else set()), key=len, reverse=True))


def _walk(pieces: Sequence[_Literal | _Hole], text: str, written: Mapping[str, str]) -> list[Stretch] | None:
    """Go through the pieces and the text side by side; None where they do not fit."""
    found: list[Stretch] = []
    at = 0
    for place, piece in enumerate(pieces):
        if isinstance(piece, _Literal):
            if not text.startswith(piece.text, at):
                return None
            found.append(Stretch(piece.text))
            at += len(piece.text)
            continue
        end = _end(pieces, place, piece, text, at, written)
        if end is None:
            return None
        found += _hole(piece, text[at:end], written)
        at = end
    return found if at == len(text) else None


def _end(  # noqa: PLR0917 - a place in two sequences
    pieces: Sequence[_Literal | _Hole],
    place: int,
    hole: _Hole,
    text: str,
    at: int,
    written: Mapping[str, str],
) -> int | None:
    value = written.get(hole.name or "")
    if value is not None and text.startswith(value, at):
        return at + len(value)
    following = pieces[place + 1] if place + 1 < len(pieces) else None
    if following is None:
        return len(text)
    if isinstance(following, _Literal):
        end = text.find(following.text, at)
        return None if end < 0 else end
    return at  # two holes side by side: the first one wrote nothing that can be told apart


def _hole(hole: _Hole, text: str, written: Mapping[str, str]) -> list[Stretch]:
    known = [name for name in hole.names if name in written]
    if hole.name in written or len(known) == 1:
        return [Stretch(text, hole.name if hole.name in written else known[0])]
    return _looked_for(text, {name: written[name] for name in known})


def _looked_for(text: str, written: Mapping[str, str]) -> list[Stretch]:
    """Mark the values where they stand, longest first and without overlap."""
    found = [Stretch(text)]
    for name, value in sorted(written.items(), key=lambda item: len(item[1]), reverse=True):
        if len(value) < _SHORTEST:
            continue
        found = [part for stretch in found for part in _split(stretch, name, value)]
    return found


def _split(stretch: Stretch, name: str, value: str) -> list[Stretch]:
    if stretch.variable is not None or value not in stretch.text:
        return [stretch]
    found = []
    for place, between in enumerate(stretch.text.split(value)):
        found += [Stretch(value, name)] if place else []
        found.append(Stretch(between))
    return found


def _joined(stretches: Sequence[Stretch]) -> list[Stretch]:
    found: list[Stretch] = []
    for stretch in stretches:
        if not stretch.text:
            continue
        if found and found[-1].variable == stretch.variable:
            found[-1] = Stretch(found[-1].text + stretch.text, stretch.variable)
        else:
            found.append(stretch)
    return found


def root_of(variable: str) -> str:
    """Return the step that a variable comes from, or `inputs`."""
    return variable.partition(".")[0]
