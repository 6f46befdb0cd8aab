"""The template language: Jinja with data only.

Owns the environment: which statements, filters and tests exist, that attributes are keys of JSON data and
nothing else, the caps on values, and a line and column for every node. A template can reach no
Python object: there are no globals, no calls, and `.name` looks up a key. What a
render may cost is in chains.metering. Knows nothing of chains.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from jinja2 import TemplateSyntaxError, Undefined, pass_context
from jinja2.filters import FILTERS
from jinja2.lexer import TokenStream
from jinja2.runtime import Context, LoopContext, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS

from chains import textform
from chains.metering import BUDGET, METERS, measured, type_of
from chains.textform import MAX_ITEMS, MAX_OUTPUT, TooLarge

PLAIN_FILTERS = [
    "default",
    "d",
    "length",
    "int",
    "float",
    "first",
    "last",
    "list",
    "map",
    "select",
    "selectattr",
    "reject",
    "rejectattr",
    "sort",
    "unique",
    "min",
    "max",
    "truncate",
    "items",
    "abs",
    "wordcount",
    "count",
]
FILTER_NAMES = frozenset(PLAIN_FILTERS) | frozenset(textform.FILTERS)
TEST_NAMES = frozenset(
    [
        "defined",
        "undefined",
        "none",
        "string",
        "number",
        "integer",
        "float",
        "boolean",
        "true",
        "false",
        "mapping",
        "sequence",
        "iterable",
        "odd",
        "even",
        "divisibleby",
        "lower",
        "upper",
        "in",
        "eq",
        "equalto",
        "==",
        "ne",
        "!=",
        "gt",
        "greaterthan",
        ">",
        "ge",
        ">=",
        "lt",
        "lessthan",
        "<",
        "le",
        "<=",
    ]
)
LOOP_NAMES = frozenset(
    {"index", "index0", "revindex", "revindex0", "first", "last", "length", "previtem", "nextitem"}
)

REPEAT_NAMES = frozenset({"turn", "previous"})
"""What `loop` has inside a repeat, where no `for` of the template has one of its own."""
TURNS = "turns"
"""The key under which what a repeat gives has its turns; `draft[0]` reads the first of them."""

_ARITHMETIC = frozenset({"+", "-", "*", "/", "//", "%", "**"})
_MAX_BITS = 1024


class Position(int):
    """A line number that also knows its column; Jinja's parser copies it from token to node."""

    column: int

    @classmethod
    def at(cls, line: int, column: int) -> Position:
        """Return the position for a line and a column, both counted from 1."""
        position = cls(line)
        position.column = column
        return position


class Environment(ImmutableSandboxedEnvironment):
    """Jinja over JSON data: keys for attributes, capped arithmetic, no globals."""

    intercepted_binops = _ARITHMETIC

    def __init__(self) -> None:
        # Constant folding would run filters while compiling, outside the budget of a render.
        super().__init__(undefined=StrictUndefined, finalize=_finalize, optimized=False, cache_size=0)
        self.globals.clear()
        self.filters = {name: FILTERS[name] for name in PLAIN_FILTERS}
        self.filters.update(textform.FILTERS, **METERS)
        tests: dict[str, Any] = TESTS  # its own type is that of one of them
        self.tests = {name: measured(tests[name]) for name in TEST_NAMES}

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Look up a key; attributes of Python objects do not exist here."""
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Look up a key or an index. What is missing below something missing is missing too."""
        if isinstance(obj, Undefined):
            return obj
        if isinstance(obj, dict) and isinstance(argument, str | int | float | bool | None):
            if argument in obj:
                return obj[argument]
            turns = obj.get(TURNS)
            if isinstance(turns, list) and type(argument) is int:  # no JSON object has a number for a key
                return self.getitem(turns, argument)
        elif isinstance(obj, list | tuple | str):
            if (
                isinstance(argument, int)
                and not isinstance(argument, bool)
                and -len(obj) <= argument < len(obj)
            ):
                return obj[argument]
        elif isinstance(obj, LoopContext) and argument in LOOP_NAMES:
            return getattr(obj, argument)
        return self.undefined(obj=obj, name=argument)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Calculate with numbers, and join texts or lists with `+`, never beyond the caps."""
        for value in (left, right):
            if isinstance(value, Undefined):
                str(value)  # raises, naming what is missing
        if operator == "**":
            raise TypeError("'**' is not part of templates")
        if isinstance(left, int | float) and isinstance(right, int | float):
            return _calculated(self.binop_table[operator], left, right)
        if operator == "+" and (
            (isinstance(left, str) and isinstance(right, str))
            or (isinstance(left, list) and isinstance(right, list))
        ):
            size = len(left) + len(right)
            if size > (MAX_OUTPUT if isinstance(left, str) else MAX_ITEMS):
                raise TooLarge("'+' makes a value that is too large")
            context.parent[BUDGET].spend(1 + size // 64)
            return left + right  # type: ignore[operator]  # two texts or two lists, as checked above
        raise TypeError(f"'{operator}' does not work between {type_of(left)} and {type_of(right)}")

    def _tokenize(
        self, source: str, name: str | None, filename: str | None = None, state: str | None = None
    ) -> TokenStream:
        tokens = _positioned(self.lexer.tokeniter(source, name, filename, state), source)
        return TokenStream(self.lexer.wrap(tokens, name, filename), name, filename)


def _calculated(operate: Any, left: float, right: float) -> float:
    result = operate(left, right)
    if isinstance(result, int) and result.bit_length() > _MAX_BITS:
        raise TooLarge("the number is too large")
    return result  # type: ignore[no-any-return]  # arithmetic on two numbers


def _positioned(tokens: Iterator[tuple[int, str, str]], source: str) -> Iterator[tuple[int, str, str]]:
    """Give every token its column.

    The lexer yields literal pieces of the source in order and leaves out only whitespace that `-` strips, so
    the next occurrence from where the last token ended is the token.
    """
    text = source.replace("\r\n", "\n").replace("\r", "\n")
    offset = line_start = 0
    line = 1

    def move_to(target: int) -> None:
        nonlocal offset, line_start, line
        newlines = text.count("\n", offset, target)
        if newlines:
            line += newlines
            line_start = text.rfind("\n", offset, target) + 1
        offset = target

    try:
        for _, kind, value in tokens:
            found = text.find(value, offset)
            move_to(found if found >= 0 else offset)
            yield Position.at(line, offset - line_start + 1), kind, value
            move_to(min(offset + len(value), len(text)))
    except TemplateSyntaxError as error:
        raise TemplateSyntaxError(str(error.message), Position.at(line, offset - line_start + 1)) from error


@pass_context
def _finalize(context: Context, value: Any) -> str:
    if isinstance(value, str):
        return value
    return textform.text_of(value)


@functools.cache
def environment() -> Environment:
    """Return the one environment; it holds no state of any chain."""
    return Environment()
