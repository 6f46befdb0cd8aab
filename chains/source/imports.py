"""The files that a Python file of the chain imports from beside it, read from its syntax tree.

Owns how `from .words import clean` becomes paths below the chain's folder. Runs nothing; an import by a name
that is made up at run time is not seen. Knows nothing of which of the paths exist.
"""

from __future__ import annotations

import ast
import posixpath
from collections.abc import Iterator, Mapping


def imported_files(path: str, source: bytes) -> Iterator[str]:
    """Yield the paths at which the relative imports of a file may find their modules and packages."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level > 0:
            yield from _candidates(path, node)


def with_imports(path: str, files: Mapping[str, bytes]) -> frozenset[str]:
    """Return a file and all that it imports, directly or through others, among the chain's files."""
    found, todo = {path}, [path]
    while todo:
        here = todo.pop()
        for name in imported_files(here, files.get(here, b"")):
            if name in files and name not in found:
                found.add(name)
                todo.append(name)
    return frozenset(found)


def _candidates(path: str, node: ast.ImportFrom) -> Iterator[str]:
    folder = posixpath.join(posixpath.dirname(posixpath.normpath(path)), *[".."] * (node.level - 1))
    parts = node.module.split(".") if node.module else []
    modules = [parts[:count] for count in range(1, len(parts) + 1)]  # packages on the way run as well
    modules += [[*parts, name.name] for name in node.names if name.name != "*"]
    for module in modules:
        for ending in (".py", "/__init__.py"):
            file = posixpath.normpath(posixpath.join(folder, *module) + ending)
            if not file.startswith("../"):
                yield file
