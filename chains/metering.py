"""What a render may cost: loops, filters and comparisons spend from a budget that has an end.

Owns the budget, what each kind of work costs, and how the spending gets into a parsed template. Knows
nothing of which filters and statements a template may use (chains.sandbox, chains.template_rules).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from jinja2 import Undefined, nodes, pass_context
from jinja2.runtime import Context
from jinja2.visitor import NodeTransformer

from chains import textform
from chains.textform import MAX_OUTPUT, TooLarge

BUDGET = "_budget"
"""Name of the work budget in a render's variables; a template cannot say it, for the underscore."""

_SPENDS_PER_LOOK = 32
_TEXT_PER_UNIT = 64
_ITEMS_PER_UNIT = 8
_AT_ONCE = frozenset({"default", "d", "length", "count", "first", "last", "items"})
"""Filters that take no longer over a long value than over a short one."""


class Budget:
    """How much work one render may do: loop turns, filter calls, and what they and comparisons read.

    Counting decides, so that a template fails on every machine or on none. What one unit stands for may
    still cost more than it should (two deep values that are compared), so processor time has an end too.
    """

    __slots__ = ("_ends", "_seconds", "_until_look", "left")

    def __init__(self, units: int = 2_000_000, seconds: float = 10.0) -> None:
        self.left = units
        self._seconds = seconds
        self._ends: float | None = None  # most renders are over before the first look at the clock
        self._until_look = _SPENDS_PER_LOOK

    def spend(self, units: int) -> None:
        """Take units off; raise when none are left."""
        self.left -= units
        if self.left < 0:
            raise TooLarge("the template does too much work (nested loops over long lists?)")
        self._until_look -= 1
        if self._until_look < 0:
            self._until_look = _SPENDS_PER_LOOK
            now = time.thread_time()
            if self._ends is None:
                self._ends = now + self._seconds
            elif now > self._ends:
                raise TooLarge("the template takes too long (long texts or lists in a loop?)")


def type_of(value: Any) -> str:
    """Return the word for a value's type in messages."""
    return {str: "text", bool: "a truth value", list: "a list", dict: "an object", type(None): "null"}.get(
        type(value), "a number" if isinstance(value, int | float) else type(value).__name__
    )


@pass_context
def _counted(context: Context, values: Any) -> Any:
    """Spend one unit for each turn of a loop."""
    if isinstance(values, Undefined):
        return values
    if not isinstance(values, list | tuple | dict | str):
        raise TypeError(f"a loop needs a list, not {type_of(values)}")
    budget: Budget = context.parent[BUDGET]

    def turns() -> Iterator[Any]:
        for value in values:
            budget.spend(1)
            yield value

    return turns()


@pass_context
def _spent(context: Context, value: Any) -> Any:
    """Spend for what a filter is about to read."""
    context.parent[BUDGET].spend(_weight(value))
    return value


@pass_context
def _compared(context: Context, value: Any) -> Any:
    """Spend for what is compared, or looked through by `in`."""
    context.parent[BUDGET].spend(_glance(value))
    return value


@pass_context
def _bounded(context: Context, value: Any) -> Any:
    """Turn what a filter yields into a list, spending for each item, and refuse what is too large."""
    budget: Budget = context.parent[BUDGET]
    if isinstance(value, Iterator):
        items = []
        for item in value:
            budget.spend(1 + _size(item) // _TEXT_PER_UNIT)
            items.append(item)
        return items
    if isinstance(value, str):
        if len(value) > MAX_OUTPUT:
            raise TooLarge("a filter makes a text that is too large")
        budget.spend(len(value) // _TEXT_PER_UNIT)
    return value


def measured(test: Callable[..., Any]) -> Callable[..., Any]:
    """Let a test spend for what it reads, also where `select` asks it for each item."""

    @pass_context
    @functools.wraps(test)
    def asked(context: Context, value: Any, *args: Any) -> Any:
        context.parent[BUDGET].spend(sum(map(_glance, args), _glance(value)))
        return test(value, *args)

    return asked


def _glance(value: Any) -> int:
    """Return what comparing a value costs, or looking through it; what is deep in it is not seen."""
    if isinstance(value, str):
        return 1 + len(value) // _TEXT_PER_UNIT
    return 1 + len(value) // _ITEMS_PER_UNIT if isinstance(value, list | tuple | dict) else 1


def _weight(value: Any) -> int:
    """Return what reading a value costs: its text, or its items and the text and items in them."""
    if isinstance(value, str):
        return 1 + len(value) // _TEXT_PER_UNIT
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return 1
    return 1 + len(value) + sum(map(_size, value)) // _TEXT_PER_UNIT


def _size(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    return len(value) * _TEXT_PER_UNIT if isinstance(value, list | tuple | dict) else 0


@pass_context
def _joined(context: Context, values: list[Any]) -> str:
    text = textform.join(values)
    context.parent[BUDGET].spend(1 + len(text) // 64)
    return text


METERS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {"counted": _counted, "spent": _spent, "compared": _compared, "bounded": _bounded, "joined": _joined}
)
"""The filters that `Metered` puts into templates; the rules know them not, so no template can name them."""


class Metered(NodeTransformer):
    """Put the budget into a parsed template: around loops, filters, `~`, and comparisons in loops."""

    def __init__(self) -> None:
        self._loops = 0

    def visit_For(self, node: nodes.For) -> nodes.Node:
        """Count the turns."""
        self._loops += 1
        self.generic_visit(node)
        self._loops -= 1
        if isinstance(node.iter, nodes.Expr):
            node.iter = _filter(node.iter, "counted")
        return node

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:
        """Weigh what goes in and what comes out."""
        self.generic_visit(node)
        if isinstance(node.node, nodes.Expr) and node.name not in _AT_ONCE:
            node.node = _filter(node.node, "spent")
        return _filter(node, "bounded")

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        """Weigh what is compared, or looked through by `in`."""
        self.generic_visit(node)
        if self._loops:
            node.expr = _filter(node.expr, "compared")
            for operand in node.ops:
                operand.expr = _filter(operand.expr, "compared")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        """Join with a cap."""
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), "joined")


def _filter(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)
