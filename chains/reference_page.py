"""Keep `docs/chain-reference.md` in step with the models: `python -m chains.reference_page [PAGE]`.

Owns the tables of keys, types, defaults and meanings, which stand in the page between `<!-- keys: X -->` and
`<!-- end -->`; everything outside such a block is written by hand and left alone. Knows nothing of what the
keys do.
"""

from __future__ import annotations

import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from chains import spec
from chains.sandbox import FILTER_NAMES, TEST_NAMES
from chains.settings import PREFIX, Settings
from chains.store.files import atomic_write

PAGE = Path("docs/chain-reference.md")

_BLOCK = re.compile(r"(<!-- (?P<what>keys|names|settings): (?P<of>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_BOUNDS = {"ge": "from {}", "gt": "above {}", "le": "up to {}", "lt": "below {}"}
_SECTIONS = {
    "Input": "inputs",
    "Model": "models",
    "Collection": "collections",
    "Variant": "variants",
    "Schedule": "schedules",
}
"""Models whose section has another name than theirs."""
_NAMES: dict[str, Iterable[str]] = {"filters": FILTER_NAMES, "tests": TEST_NAMES}


def refreshed(page: str) -> str:
    """Return the page with every generated block made anew."""
    return _BLOCK.sub(lambda found: f"{found[1]}\n{_content(found['what'], found['of'])}\n\n{found[4]}", page)


def blocks(page: str) -> list[str]:
    """Return the names of the models whose keys the page shows."""
    return [found["of"] for found in _BLOCK.finditer(page) if found["what"] == "keys"]


def parts() -> list[type[spec.Part]]:
    """Return every model that a chain file can hold, in the order of the language."""
    return [
        value
        for value in vars(spec).values()
        if inspect.isclass(value) and issubclass(value, spec.Part) and value is not spec.Part
    ]


def _content(what: str, of: str) -> str:
    if what == "names":
        return ", ".join(f"`{name}`" for name in sorted(_NAMES[of]))
    if what == "settings":
        return _table(Settings, lambda name: f"{PREFIX}{name.upper()}", heading="variable")
    return _table(getattr(spec, of), str, heading="key")


def _table(model: type[BaseModel], spell: Callable[[str], str], *, heading: str) -> str:
    rows = [f"| {heading} | type | default | meaning |", "|---|---|---|---|"]
    hints = typing.get_type_hints(model, include_extras=True)
    for name in inspect.get_annotations(model):
        field = model.model_fields.get(name)
        if field is not None:
            kind, default = _type(hints[name], field), _default(field, hints[name])
            cells = (f"`{spell(field.alias or name)}`", kind, default, field.description or "")
            rows.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(rows)


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


def _type(hint: Any, field: FieldInfo) -> str:
    bounds = [
        words.format(getattr(limit, kind))
        for limit in field.metadata
        for kind, words in _BOUNDS.items()
        if hint is not spec.Duration and getattr(limit, kind, None) is not None
    ]
    return ", ".join([_words(hint), *bounds])


def _words(hint: Any) -> str:
    """Return the name of a type as the page writes it."""
    if hint == spec.Name:
        return "name"
    if hint == spec.Duration:
        return "duration"
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _words(inner[0])
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin in (typing.Union, types.UnionType):
        return _union([part for part in inner if part is not type(None)])
    if origin in (list, tuple):
        return f"list of {_words(inner[0])}"
    if origin is dict:
        return f"{_words(inner[0])}: {_words(inner[1])}"
    if inspect.isclass(hint) and issubclass(hint, spec.Part):
        return f"[{hint.__name__}](#{_SECTIONS.get(hint.__name__, hint.__name__.lower())})"
    plain = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "any value"}
    return plain[hint]


def _union(kinds: list[Any]) -> str:
    """Name the kinds of step by their verbs: their own names are not written in a chain file."""
    if all(kind in spec.KINDS.values() for kind in kinds):
        return "[a step](#steps)"
    return " or ".join(_words(kind) for kind in kinds)


def _default(field: FieldInfo, hint: Any) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value == "":
        return ""
    if isinstance(value, BaseModel):
        return "its defaults"
    if hint == spec.Duration:
        return f"`{value:g}s`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list | tuple | dict):
        return f"`[{', '.join(map(str, value))}]`" if value else ""
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def main(arguments: list[str]) -> None:
    """Write the page with its blocks made anew."""
    page = Path(arguments[0]) if arguments else PAGE
    atomic_write(page, refreshed(page.read_text(encoding="utf-8")).encode())


if __name__ == "__main__":
    main(sys.argv[1:])
