"""How values become text in templates, and the filters whose results could grow without bound.

Every value is JSON data and prints as JSON, except text, which prints as itself. Owns the caps on sizes.
Knows nothing of Jinja's environment.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from jinja2 import Undefined
from jinja2.filters import do_round

MAX_OUTPUT = 1_000_000
"""Characters that one template may write, or one value may have."""
MAX_ITEMS = 1_000_000
"""Values in one list or object, nested ones included."""


class TooLarge(ValueError):
    """A template asks for more work or text than it may; becomes `TemplateFailed` at the border."""


def text_of(value: Any) -> str:
    """Return text as itself and any other value as JSON."""
    if isinstance(value, str):
        return value
    return tojson(value)


def check_size(value: Any) -> None:
    """Raise for a missing value, for what is not JSON and for nested data that is too large.

    A list that holds one list many times is small in memory and endless in text: so values are counted.
    """
    left, stack = MAX_ITEMS, [value]
    while stack:
        item = stack.pop()
        left -= 1
        if left < 0:
            raise TooLarge("a value is too large")
        if isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, list | tuple):
            if len(item) > left:
                raise TooLarge("a value is too large")
            stack.extend(item)
        elif isinstance(item, Undefined):
            str(item)  # raises, naming what is missing
        elif not isinstance(item, str | int | float | None):
            raise TypeError(f"a {type(item).__name__} is no value to print")


def tojson(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON, in the order of its keys, with letters of all languages as they are."""
    check_size(value)
    if indent is not None and not 0 <= indent <= 8:
        raise ValueError("tojson takes an indent from 0 to 8")
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    if len(text) > MAX_OUTPUT:
        raise TooLarge("a value makes a text that is too large")
    return text


def join(values: Iterable[Any], d: str = "", attribute: str | None = None) -> str:
    """Join values as text, with `d` between them."""
    separator = text_of(d)
    parts, size = [], 0
    for value in values:
        if attribute is not None:
            value = _looked_up(value, attribute)
        part = text_of(value)
        size += len(part) + len(separator)
        if size > MAX_OUTPUT:
            raise TooLarge("a joined text is too large")
        parts.append(part)
    return separator.join(parts)


def _looked_up(value: Any, attribute: str) -> Any:
    for name in str(attribute).split("."):
        value = value[int(name)] if isinstance(value, list) else value[name]
    return value


def replace(value: Any, old: str, new: str, count: int | None = None) -> str:
    """Replace a piece of text by another."""
    text, old, new = text_of(value), text_of(old), text_of(new)
    times = text.count(old) if count is None or count < 0 else min(text.count(old), count)
    if len(text) + times * (len(new) - len(old)) > MAX_OUTPUT:
        raise TooLarge("'replace' makes a text that is too large")
    return text.replace(old, new, times)


def indent(value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    """Indent the lines of a text; the first one only when asked."""
    text = text_of(value)
    if isinstance(width, int) and not 0 <= width <= 100:
        raise ValueError("indent takes a width from 0 to 100")
    margin = " " * width if isinstance(width, int) else width
    lines = text.split("\n")
    if len(text) + len(lines) * len(margin) > MAX_OUTPUT:
        raise TooLarge("'indent' makes a text that is too large")
    start = [margin + lines[0] if first else lines[0]]
    return "\n".join(start + [margin + line if line or blank else line for line in lines[1:]])


def batch(values: Iterable[Any], linecount: int, fill_with: Any = None) -> list[list[Any]]:
    """Cut a list into lists of one length; the last one is filled up when `fill_with` is given."""
    if not 1 <= linecount <= 10_000:
        raise ValueError("batch takes a length from 1 to 10000")
    items = list(values)
    rows = [items[start : start + linecount] for start in range(0, len(items), linecount)]
    if rows and fill_with is not None:
        rows[-1] = rows[-1] + [fill_with] * (linecount - len(rows[-1]))
    return rows


def rounded(value: float, precision: int = 0, method: str = "common") -> float:
    """Round a number; `method` is common, ceil or floor."""
    if not -15 <= precision <= 15:
        raise ValueError("round takes a precision from -15 to 15")
    return do_round(value, precision, method)  # type: ignore[arg-type]  # it checks the method itself


def total(values: Iterable[Any], attribute: str | None = None, start: float = 0) -> float:
    """Add numbers up."""
    result = start
    for value in values:
        number = value if attribute is None else _looked_up(value, attribute)
        if not isinstance(number, int | float):
            raise TypeError("sum adds numbers only")
        result += number
    return result


def lower(value: Any) -> str:
    """Return the text in lower case."""
    return text_of(value).lower()


def upper(value: Any) -> str:
    """Return the text in upper case."""
    return text_of(value).upper()


def trim(value: Any, chars: str | None = None) -> str:
    """Return the text without whitespace, or the given characters, at its ends."""
    return text_of(value).strip(chars)


FILTERS: dict[str, Callable[..., Any]] = {
    "lower": lower,
    "upper": upper,
    "trim": trim,
    "join": join,
    "tojson": tojson,
    "replace": replace,
    "indent": indent,
    "batch": batch,
    "round": rounded,
    "sum": total,
    "string": text_of,
}
