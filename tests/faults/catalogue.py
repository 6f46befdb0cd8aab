"""The form of the catalogue of faults: each fault with the tests that cause it, or why there is none here.

Owns how a named test is looked up. Knows nothing of the faults themselves (test_catalogue_*.py). Files are
parsed and not imported: naming a test starts nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Fault:
    """What goes wrong, the tests that make it go wrong (`faults/test_x.py::test_name`), and what has none."""

    what: str
    tests: tuple[str, ...] = ()
    untested: str = ""


def fault(what: str, *tests: str, untested: str = "") -> Fault:
    """Describe a fault; `untested` says why it, or a part of it, has no test here."""
    return Fault(what, tests, untested)


def problems(faults: Mapping[int, Fault], numbers: Iterable[int]) -> list[str]:
    """Return what is wrong with a catalogue that must have these numbers: nothing, if it is right."""
    return [*_numbering(faults, set(numbers)), *_unfounded(faults)]


def _numbering(faults: Mapping[int, Fault], wanted: set[int]) -> Iterator[str]:
    yield from (f"fault {number} is missing" for number in sorted(wanted - set(faults)))
    yield from (f"fault {number} belongs elsewhere" for number in sorted(set(faults) - wanted))


def _unfounded(faults: Mapping[int, Fault]) -> Iterator[str]:
    for number, entry in faults.items():
        if not entry.tests and not entry.untested:
            yield f"fault {number} has neither a test nor a reason"
        for name in entry.tests:
            path, _, function = name.partition("::")
            if function not in _functions(path):
                yield f"fault {number} names {name!r}, which is no test"


@cache
def _functions(path: str) -> frozenset[str]:
    try:
        tree = ast.parse((TESTS / path).read_bytes())
    except FileNotFoundError:
        return frozenset()
    found = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(node.name for node in found if node.name.startswith("test_"))
