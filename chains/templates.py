"""Rendering: templates and expressions over plain JSON data.

Owns compiling (cached), the scope's meaning and what a failure says. Each source is rendered once; a value
is never parsed as a template. What a template may contain is decided in chains.template_rules.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from jinja2 import Template, TemplateError, Undefined, UndefinedError, nodes

from chains.errors import TemplateFailed
from chains.metering import BUDGET, Budget, Metered
from chains.references import Reference, references
from chains.sandbox import environment
from chains.suggest import did_you_mean, shown
from chains.template_rules import TemplateProblem, parse, read_expression
from chains.textform import MAX_OUTPUT, TooLarge, check_size, text_of

__all__ = [
    "Reference",
    "TemplateProblem",
    "evaluate",
    "has_expression",
    "is_whole",
    "references",
    "render",
    "render_value",
    "syntax_error",
]

# What running a checked template over JSON data can raise. Anything else is a defect of ours.
_FAILURES = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError, MemoryError)
_RESULT = "result"


def syntax_error(source: str, *, bare: bool = False) -> TemplateProblem | None:
    """Return what is wrong with a template (with `bare`: an expression), or None."""
    return parse(source, bare=bare).problem


def render(source: str, scope: Mapping[str, Any]) -> str:
    """Render a template to text."""
    try:
        template = _compiled(source)
        return template if isinstance(template, str) else _written(template, scope)
    except _FAILURES as error:
        raise _failed(source, scope, error, bare=False) from error


def evaluate(source: str, scope: Mapping[str, Any]) -> Any:
    """Return the value of a bare expression."""
    try:
        return _value(_compiled_expression(source, bare=True), scope)
    except _FAILURES as error:
        raise _failed(source, scope, error, bare=True) from error


def render_value(value: Any, scope: Mapping[str, Any]) -> Any:
    """Render every text inside a value; one that is a whole `{{ expression }}` keeps its type."""
    if isinstance(value, str):
        return _render_text(value, scope)
    if isinstance(value, Mapping):
        return {key: render_value(item, scope) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [render_value(item, scope) for item in value]
    return value


def has_expression(source: str) -> bool:
    """Whether a text is more than its own letters: whether it holds `{{ }}` or `{% %}`."""
    tree = parse(source).tree
    if tree is None:
        return True
    return any(not isinstance(node, nodes.TemplateData) for node in _pieces(tree))


def _render_text(source: str, scope: Mapping[str, Any]) -> Any:
    if not is_whole(source):
        return render(source, scope)
    try:
        return _value(_compiled_expression(source, bare=False), scope)
    except _FAILURES as error:
        raise _failed(source, scope, error, bare=False) from error


def _pieces(tree: nodes.Node) -> list[nodes.Node]:
    pieces: list[nodes.Node] = []
    for statement in tree.iter_child_nodes():
        pieces.extend(statement.nodes if isinstance(statement, nodes.Output) else [statement])
    return pieces


@functools.lru_cache(maxsize=1024)
def is_whole(source: str) -> bool:
    """Whether a text is one `{{ expression }}`, whose value keeps its type."""
    tree = parse(source.strip()).tree
    pieces = _pieces(tree) if tree is not None else []
    return (
        len(pieces) == 1
        and isinstance(pieces[0], nodes.Expr)
        and not isinstance(pieces[0], nodes.TemplateData)
    )


@functools.lru_cache(maxsize=1024)
def _compiled(source: str) -> Template | str:
    """Return a template ready to render, or its text where that is the same for every row."""
    _require_readable(source, bare=False)
    # Parsed anew: metering rewrites the tree, and the cached one is read for references.
    tree = environment().parse(source)
    template = environment().from_string(Metered().visit(tree))
    return template if has_expression(source) else _written(template, {})


@functools.lru_cache(maxsize=1024)
def _compiled_expression(source: str, *, bare: bool) -> Template:
    if not bare:
        source = source.strip()
    _require_readable(source, bare=bare)
    expression = read_expression(source) if bare else _only_expression(source)
    body: list[nodes.Node] = [nodes.Assign(nodes.Name(_RESULT, "store"), expression, lineno=1)]
    tree = nodes.Template(body, lineno=1)
    tree.set_environment(environment())
    return environment().from_string(Metered().visit(tree))


def _only_expression(source: str) -> nodes.Expr:
    [piece] = _pieces(environment().parse(source))
    assert isinstance(piece, nodes.Expr)
    return piece


def _require_readable(source: str, *, bare: bool) -> None:
    problem = syntax_error(source, bare=bare)
    if problem is not None:
        where = f"line {problem.line}, column {problem.column}"
        raise TemplateFailed(f"{problem.message} ({where} of {shown(source)})", hint=problem.hint)


def _written(template: Template, scope: Mapping[str, Any]) -> str:
    context = template.new_context({**scope, BUDGET: Budget()})
    parts: list[str] = []
    size = 0
    for part in template.root_render_func(context):
        size += len(part)
        if size > MAX_OUTPUT:
            raise TooLarge(f"the text is longer than {MAX_OUTPUT} characters")
        parts.append(part)
    return "".join(parts)


def _value(template: Template, scope: Mapping[str, Any]) -> Any:
    context = template.new_context({**scope, BUDGET: Budget()})
    for _ in template.root_render_func(context):
        pass
    value = context.vars[_RESULT]
    check_size(value)
    return _plain(value)


def _plain(value: Any) -> Any:
    """Return JSON data: tuples as lists, keys as text."""
    if isinstance(value, dict):
        return {text_of(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _failed(source: str, scope: Mapping[str, Any], error: BaseException, *, bare: bool) -> TemplateFailed:
    what = "expression" if bare else "template"
    if isinstance(error, UndefinedError):
        for reference in references(source, bare=bare):
            missing = None if reference.guarded else _missing(reference, scope)
            if missing is not None:
                return TemplateFailed(f"the {what} {shown(source, 80)} reads {missing[0]}", hint=missing[1])
    reason = str(error) or type(error).__name__
    if isinstance(error, RecursionError):
        reason = "a value is nested too deeply"
    return TemplateFailed(f"the {what} {shown(source, 80)} failed: {reason[:200]}")


def _missing(reference: Reference, scope: Mapping[str, Any]) -> tuple[str, str | None] | None:
    """Return what a reference does not find, and a hint, or None when it finds its value."""
    value: Any = scope
    walked: list[str] = []
    for name in (reference.root, *reference.path):
        found = environment().getitem(dict(value) if isinstance(value, Mapping) else value, _key(value, name))
        if isinstance(found, Undefined):
            known = [str(key) for key in value] if isinstance(value, Mapping) else []
            owner = f"{'.'.join(walked)!r} has no {name!r}" if walked else f"there is no {name!r} here"
            return f"{str(reference)!r}, but {owner}.", did_you_mean(name, known)
        walked.append(name)
        value = found
    return None


def _key(value: Any, name: str) -> str | int:
    return int(name) if isinstance(value, list | tuple | str) and name.lstrip("-").isdigit() else name
