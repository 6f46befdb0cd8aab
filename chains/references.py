"""Which names a template reads, found in its parsed form.

Owns scoping: loop variables, `set` and `with` names are the template's own, everything else is a reference.
Knows nothing of which names exist.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

from jinja2 import nodes

from chains.template_rules import column_of, parse

_DEFAULT_FILTERS = frozenset({"default", "d"})


@dataclass(frozen=True, slots=True)
class Reference:
    """One use of a name from outside the template.

    `guarded`: the template says what happens when it is missing (`| default(...)`, `is defined`).
    """

    root: str
    path: tuple[str, ...]
    line: int
    column: int
    guarded: bool

    def __str__(self) -> str:
        return ".".join((self.root, *self.path))


def references(source: str, *, bare: bool = False) -> list[Reference]:
    """Return every reference of a template in order of appearance; none for one that cannot be read."""
    return list(_references(source, bare))


@functools.lru_cache(maxsize=1024)
def _references(source: str, bare: bool) -> tuple[Reference, ...]:
    tree = parse(source, bare=bare).tree
    if tree is None:
        return ()
    reader = _Reader()
    reader.read(tree, frozenset(), frozenset())
    return tuple(sorted(reader.found, key=lambda reference: (reference.line, reference.column)))


def _chain_of(node: nodes.Node) -> tuple[nodes.Name, tuple[str, ...], list[nodes.Expr]] | None:
    """Take `a.b['c'][i].d` apart: the name, the constant path, and the expressions used as keys."""
    path: list[str] = []
    keys: list[nodes.Expr] = []
    while isinstance(node, nodes.Getattr | nodes.Getitem):
        if isinstance(node, nodes.Getattr):
            path.append(node.attr)
        elif isinstance(node.arg, nodes.Const):
            path.append(str(node.arg.value))
        else:
            path.clear()  # what lies behind a key that is only known later cannot be named
            keys.append(node.arg)
        node = node.node
    return (node, tuple(reversed(path)), keys) if isinstance(node, nodes.Name) else None


class _Reader:
    """Walks a tree; `bound` are the template's own names, `guards` the names known to be there."""

    def __init__(self) -> None:
        self.found: list[Reference] = []

    def read(
        self, node: nodes.Node, bound: frozenset[str], guards: frozenset[str], safe: bool = False
    ) -> None:
        """Collect what `node` reads; `safe` says that a missing value is dealt with."""
        chain = _chain_of(node)
        if chain is not None:
            name, path, keys = chain
            if name.name not in bound:
                guarded = safe or name.name in guards
                self.found.append(Reference(name.name, path, int(name.lineno), column_of(name), guarded))
            for key in keys:
                self.read(key, bound, guards)
            return
        match node:
            case nodes.Filter(name=filter_name) if filter_name in _DEFAULT_FILTERS:
                self._read_first(node, bound, guards)
            case nodes.Test(name="defined" | "undefined"):
                self._read_first(node, bound, guards)
            case nodes.And() | nodes.Or():
                there, missing = _known(node.left)
                self.read(node.left, bound, guards, safe)
                self.read(
                    node.right, bound, guards | (there if isinstance(node, nodes.And) else missing), safe
                )
            case nodes.CondExpr():
                self._read_choice(node, bound, guards, safe)
            case nodes.Template():
                self._read_body(node.body, bound, guards)
            case nodes.If() | nodes.For() | nodes.With() | nodes.Assign():
                self._read_body([node], bound, guards)
            case _:
                for child in node.iter_child_nodes():
                    self.read(child, bound, guards, safe and not isinstance(node, nodes.Output))

    def _read_first(
        self, node: nodes.Filter | nodes.Test, bound: frozenset[str], guards: frozenset[str]
    ) -> None:
        """Read the tested value as safe, and the arguments as any other expression."""
        for child in node.iter_child_nodes():
            self.read(child, bound, guards, safe=child is node.node)

    def _read_choice(
        self, node: nodes.CondExpr, bound: frozenset[str], guards: frozenset[str], safe: bool
    ) -> None:
        there, missing = _known(node.test)
        self.read(node.test, bound, guards)
        self.read(node.expr1, bound, guards | there, safe)
        if node.expr2 is not None:
            self.read(node.expr2, bound, guards | missing, safe)

    def _read_body(
        self, body: Iterable[nodes.Node], bound: frozenset[str], guards: frozenset[str]
    ) -> frozenset[str]:
        """Read statements in order; return the names bound after them."""
        for node in body:
            match node:
                case nodes.Assign():
                    self.read(node.node, bound, guards)
                    bound |= _targets(node.target)
                case nodes.If():
                    bound = self._read_if(node, bound, guards)
                case nodes.For():
                    self._read_for(node, bound, guards)
                case nodes.With():
                    for value in node.values:
                        self.read(value, bound, guards)
                    inside = bound.union(*(_targets(target) for target in node.targets))
                    self._read_body(node.body, inside, guards)
                case _:
                    self.read(node, bound, guards)
        return bound

    def _read_if(self, node: nodes.If, bound: frozenset[str], guards: frozenset[str]) -> frozenset[str]:
        there, missing = _known(node.test)
        self.read(node.test, bound, guards)
        after = self._read_body(node.body, bound, guards | there)
        for branch in node.elif_:
            branch_there, _ = _known(branch.test)
            self.read(branch.test, bound, guards | missing)
            after |= self._read_body(branch.body, bound, guards | missing | branch_there)
        return after | self._read_body(node.else_, bound, guards | missing)

    def _read_for(self, node: nodes.For, bound: frozenset[str], guards: frozenset[str]) -> None:
        self.read(node.iter, bound, guards)
        inside = bound | _targets(node.target) | {"loop"}
        if node.test is not None:
            self.read(node.test, inside, guards)
        self._read_body(node.body, inside, guards)
        self._read_body(node.else_, bound, guards)


def _targets(node: nodes.Node) -> frozenset[str]:
    return frozenset(name.name for name in [node, *node.find_all(nodes.Name)] if isinstance(name, nodes.Name))


def _known(test: nodes.Node) -> tuple[frozenset[str], frozenset[str]]:
    """Return the roots that a condition shows to be there when it is true, and when it is false."""
    nothing: frozenset[str] = frozenset()
    match test:
        case nodes.Test(name="defined" | "undefined" as name):
            chain = _chain_of(test.node)
            roots = frozenset({chain[0].name}) if chain else nothing
            return (roots, nothing) if name == "defined" else (nothing, roots)
        case nodes.Not():
            there, missing = _known(test.node)
            return missing, there
        case nodes.And():
            left, right = _known(test.left), _known(test.right)
            return left[0] | right[0], nothing
        case nodes.Or():
            left, right = _known(test.left), _known(test.right)
            return nothing, left[1] | right[1]
        case _:
            return nothing, nothing
