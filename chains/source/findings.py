"""Problems as they are found: each at its place in the file, once, and none that follows from another."""

from __future__ import annotations

from chains.errors import Location, Problem
from chains.source.document import Document
from chains.source.marks import YamlPath


class Findings:
    """Collects problems of one chain file."""

    def __init__(self, document: Document, name: str) -> None:
        self.document = document
        self.name = name
        self._problems: dict[Problem, None] = dict.fromkeys(document.problems)

    def at_key(self, path: YamlPath, message: str, hint: str | None = None) -> None:
        """Note a problem at the key of a path."""
        self._add(path, self.document.marks.key(path), message, hint)

    def at_value(self, path: YamlPath, message: str, hint: str | None = None) -> None:
        """Note a problem at the value of a path."""
        self._add(path, self.document.marks.value(path), message, hint)

    def inside(self, path: YamlPath, place: tuple[int, int], message: str, hint: str | None = None) -> None:
        """Note a problem at a line and column inside a text value."""
        self._add(path, self.document.marks.inside(path, *place), message, hint)

    def in_file(self, file: str, place: tuple[int, int], message: str, hint: str | None = None) -> None:
        """Note a problem in a file that the chain names."""
        self._note(Problem(Location(file, *place), message, hint))

    def add(self, problem: Problem) -> None:
        """Note a problem that already has its place."""
        self._note(problem)

    def all(self) -> list[Problem]:
        """Return the problems in file order."""
        return sorted(self._problems, key=lambda problem: (problem.location, problem.message))

    def _add(self, path: YamlPath, place: tuple[int, int], message: str, hint: str | None) -> None:
        # A value that YAML could not give is missing here; what follows from that would only mislead.
        if any(path[:end] in self.document.broken for end in range(len(path) + 1)):
            return
        self._note(Problem(Location(self.name, *place), message, hint))

    def _note(self, problem: Problem) -> None:
        ended = (
            problem.message
            if problem.message.endswith((".", "?")) or not problem.hint
            else problem.message + "."
        )
        self._problems.setdefault(Problem(problem.location, ended, problem.hint))
