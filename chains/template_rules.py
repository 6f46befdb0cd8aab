"""What a template may contain, checked in its parsed form before anything runs.

Owns parsing and the list of allowed statements. A template that passes has no calls, no private names, no
loading of other templates and bounded nesting. Knows nothing of chains or of values.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

from jinja2 import TemplateSyntaxError, nodes
from jinja2.parser import Parser

from chains.sandbox import FILTER_NAMES, LOOP_NAMES, REPEAT_NAMES, TEST_NAMES, Environment, environment
from chains.suggest import did_you_mean, shown

MAX_DEPTH = 60
MAX_LOOPS = 5
MAX_NODES = 20_000
MAX_SETS = 24
"""Each `set` can double a value that holds the last one twice; two dozen stay harmless."""

_ALLOWED = tuple(
    getattr(nodes, name)
    for name in [
        "Template",
        "Output",
        "TemplateData",
        "Name",
        "Const",
        "Tuple",
        "List",
        "Dict",
        "Pair",
        "Keyword",
        "Getattr",
        "Getitem",
        "Slice",
        "Filter",
        "Test",
        "Compare",
        "Operand",
        "And",
        "Or",
        "Not",
        "Add",
        "Sub",
        "Mul",
        "Div",
        "FloorDiv",
        "Mod",
        "Neg",
        "Pos",
        "Concat",
        "CondExpr",
        "If",
        "For",
        "Assign",
        "With",
    ]
)

_REFUSED: dict[type[nodes.Node], str] = {
    nodes.Call: "calls are not part of templates",
    nodes.CallBlock: "'call' is not part of templates",
    nodes.Pow: "'**' is not part of templates",
    nodes.Macro: "'macro' is not part of templates",
    nodes.Include: "'include' is not part of templates: a prompt is one file",
    nodes.Import: "'import' is not part of templates",
    nodes.FromImport: "'import' is not part of templates",
    nodes.Extends: "'extends' is not part of templates",
    nodes.Block: "'block' is not part of templates",
    nodes.FilterBlock: "'filter' blocks are not part of templates: use '| filter' on a value",
    nodes.AssignBlock: "'set' blocks are not part of templates: write {% set name = value %}",
    nodes.NSRef: "namespaces are not part of templates",
}
_RESERVED_NAMES = frozenset({"self", "super", "caller", "varargs", "kwargs"})


@dataclass(frozen=True, slots=True)
class TemplateProblem:
    """What is wrong with a template; `line` and `column` count from 1 inside the template."""

    message: str
    line: int
    column: int
    hint: str | None = None


class Parsed(NamedTuple):
    """A template's tree, or what is wrong with it."""

    tree: nodes.Node | None
    problem: TemplateProblem | None


@functools.lru_cache(maxsize=1024)
def parse(source: str, *, bare: bool = False) -> Parsed:
    """Parse a template, or with `bare` one expression, and hold it to the rules."""
    try:
        tree = read_expression(source) if bare else environment().parse(source)
    except TemplateSyntaxError as error:
        return Parsed(None, _syntax_problem(error, bare=bare))
    except (RecursionError, MemoryError):
        return Parsed(None, TemplateProblem("the template is nested too deeply", 1, 1))
    except (ValueError, OverflowError):
        return Parsed(None, TemplateProblem("the template holds a number that is too large", 1, 1))
    problem = _first_problem(tree)
    return Parsed(None, problem) if problem else Parsed(tree, None)


def read_expression(source: str) -> nodes.Expr:
    """Parse one expression; raise TemplateSyntaxError for anything after it."""
    env: Environment = environment()
    parser = Parser(env, source, state="variable")
    expression = parser.parse_expression()
    if not parser.stream.eos:
        raise TemplateSyntaxError("there is more after the expression", parser.stream.current.lineno)
    expression.set_environment(env)
    return expression


def column_of(node: nodes.Node) -> int:
    """Return the column that the lexer noted for a node."""
    return getattr(node.lineno, "column", 1)


def _syntax_problem(error: TemplateSyntaxError, *, bare: bool) -> TemplateProblem:
    message = (error.message or "it cannot be read").rstrip(".")
    hint = None
    if bare and ("'{'" in message or "got '{'" in message):
        hint = "This is a bare expression: write it without {{ }}."
    elif "end of template" in message or "Missing end of" in message:
        hint = "Close each {{ with }}, each {% with %} and each {% if %} with {% endif %}."
    what = "the expression" if bare else "the template"
    text = message[0].lower() + message[1:]
    return TemplateProblem(
        f"{what} cannot be read: {text}", int(error.lineno), getattr(error.lineno, "column", 1), hint
    )


def _first_problem(tree: nodes.Node) -> TemplateProblem | None:
    """Walk without recursion: the tree may be as deep as its text is long."""
    stack: list[tuple[nodes.Node, int, int]] = [(tree, 0, 0)]
    seen = sets = 0
    while stack:
        node, depth, loops = stack.pop()
        seen += 1
        loops += isinstance(node, nodes.For)
        if isinstance(node, nodes.Assign):
            sets += 1
        elif isinstance(node, nodes.With):
            sets += len(node.targets)
        problem = _too_much(node, depth=depth, loops=loops, seen=seen, sets=sets) or _refused(node)
        if problem:
            return problem
        stack.extend((child, depth + 1, loops) for child in reversed(list(node.iter_child_nodes())))
    return None


def _too_much(node: nodes.Node, *, depth: int, loops: int, seen: int, sets: int) -> TemplateProblem | None:
    if depth > MAX_DEPTH:
        return _problem(node, f"the template is nested deeper than {MAX_DEPTH} levels")
    if loops > MAX_LOOPS:
        return _problem(node, f"more than {MAX_LOOPS} loops inside each other")
    if seen > MAX_NODES:
        return _problem(node, f"the template has more than {MAX_NODES} parts")
    if sets > MAX_SETS:
        return _problem(node, f"the template sets more than {MAX_SETS} names")
    return None


def _refused(node: nodes.Node) -> TemplateProblem | None:
    refusal = next((text for kind, text in _REFUSED.items() if isinstance(node, kind)), None)
    if refusal or not isinstance(node, _ALLOWED):
        return _problem(node, refusal or f"{type(node).__name__.lower()!r} is not part of templates")
    match node:
        case nodes.Name(name=name) if name.startswith("_") or name in _RESERVED_NAMES:
            return _problem(node, f"the name {name!r} is not part of templates")
        case nodes.Getattr(attr=name) if name.startswith("_"):
            return _problem(node, f"{name!r} is private: names that start with '_' cannot be read")
        case nodes.Getitem(arg=nodes.Const(value=str(name))) if name.startswith("_"):
            return _problem(node, f"{name!r} is private: names that start with '_' cannot be read")
        case nodes.For(recursive=True):
            return _problem(node, "recursive loops are not part of templates")
        case nodes.Getattr(node=nodes.Name(name="loop"), attr=name) if name not in LOOP_NAMES | REPEAT_NAMES:
            return _problem(node, f"'loop' has no {name!r}", did_you_mean(name, LOOP_NAMES | REPEAT_NAMES))
        case nodes.Filter() | nodes.Test():
            return _unknown_function(node)
        case _:
            return None


def _unknown_function(node: nodes.Filter | nodes.Test) -> TemplateProblem | None:
    is_filter = isinstance(node, nodes.Filter)
    for name, known in ((node.name, FILTER_NAMES if is_filter else TEST_NAMES), *_named_inside(node)):
        if name not in known:
            word = "filter" if known is FILTER_NAMES else "test"
            return _problem(node, f"there is no {word} {shown(name)}", did_you_mean(name, known))
    return None


def _named_inside(node: nodes.Filter | nodes.Test) -> list[tuple[str, frozenset[str]]]:
    """Return the filter or test that `map('upper')` or `selectattr('x', 'eq', 1)` names as a text."""
    place, known = {
        "map": (0, FILTER_NAMES),
        "select": (0, TEST_NAMES),
        "reject": (0, TEST_NAMES),
        "selectattr": (1, TEST_NAMES),
        "rejectattr": (1, TEST_NAMES),
    }.get(node.name, (0, None))
    if known is None or len(node.args) <= place:
        return []
    name = node.args[place]
    return [(name.value, known)] if isinstance(name, nodes.Const) and isinstance(name.value, str) else []


def _problem(node: nodes.Node, message: str, hint: str | None = None) -> TemplateProblem:
    return TemplateProblem(message, int(node.lineno), column_of(node), hint)
