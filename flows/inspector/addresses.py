"""Where the inspector's pages are: the paths that its own links and those of others use.

Owns the form of an address and nothing else, so that Prefect's artifacts can link to a page without loading
the inspector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

if TYPE_CHECKING:
    from chains.store import RecordRow


def run_path(run_id: str) -> str:
    """Return the address of a run's page."""
    return f"/runs/{quote(run_id, safe='')}"


def step_path(run_id: str, step: str) -> str:
    """Return the address of a step's page."""
    return f"{run_path(run_id)}/steps/{quote(step, safe='')}"


def record_path(run_id: str, step: str, row: int | None) -> str:
    """Return the address of the page of a row's own record."""
    place = "once" if row is None or row < 0 else str(row)
    return f"{step_path(run_id, step)}/{place}"


def path_of(record: RecordRow) -> str:
    """Return the address of a record's page, wherever in its row it lies."""
    return record_path(record.run_id, record.step, record.row) + Place.of(record).query


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record lies inside its row: an item of a map, a turn of a repeat, a sample; or nowhere, as the
    row's own."""

    path: str = ""
    item: int = -1
    turn: int = -1
    sample: int = 0

    @classmethod
    def of(cls, record: RecordRow) -> Place:
        """Return the place of a record."""
        return cls(record.path, record.item, record.turn, record.sample)

    @property
    def query(self) -> str:
        """What leads from the address of the row's own record to this one."""
        kept: dict[str, str | int] = {"path": self.path} if self.path else {}
        kept |= {"item": self.item} if self.item >= 0 else {}
        kept |= {"turn": self.turn} if self.turn >= 0 else {}
        kept |= {"sample": self.sample} if self.sample else {}
        return "?" + urlencode(kept) if kept else ""

    @property
    def words(self) -> str:
        """The place in words, such as `turn 1 · item 3`."""
        words = [self.path] if self.path else []
        words += [f"turn {self.turn}"] if self.turn >= 0 else []
        words += [f"item {self.item}"] if self.item >= 0 else []
        words += [f"sample {self.sample}"] if self.sample else []
        return " · ".join(words)


def path_inside(record: RecordRow) -> str:
    """Return the path of the records directly inside a record."""
    *outer, own = record.step.split(".")
    frames = [record.path] if record.path else []
    frames += [f"{outer[-1]}[turn {record.turn}]"] if record.turn >= 0 and outer else []
    frames += [f"{own}[item {record.item}]"] if record.item >= 0 else []
    return ".".join(frames)
