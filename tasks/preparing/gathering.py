"""One pass over a data set: rows become examples, those that do not stay are counted with their reasons.

Owns the filters, exact and near duplicates, and the files and numbers that are kept of each example. What
stays in memory is numbers; lines and texts are in files of the scratch folder. Knows nothing of parts.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from chains.errors import InputInvalid, TemplateFailed
from chains.keys import canonical
from chains.spec import PrepareStep
from tasks.examples import Converter, Example
from tasks.preparing.cleaning import Cleaner
from tasks.preparing.languages import language_of
from tasks.preparing.seen import DIGEST, Seen
from tasks.preparing.similar import Signatures, near_pairs

SHOWN = 5
"""Bad rows that a message lists."""
_SAMPLES = 3
"""Rows of each reason that the data card shows."""
_CUT = 200


class Rows(Protocol):
    """What a data set of any format brings."""

    @property
    def path(self) -> Path:
        """Where it is."""

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield every row with its number."""


class TokenCounter(Protocol):
    """A tokenizer, as far as counting goes."""

    def count_tokens(self, text: str) -> int:
        """Count the tokens of a text."""


@dataclass(slots=True)
class Gathered:
    """What is kept of each example: its row, unit, question, stratum and tokens, all as numbers.

    `dropped` counts by reason; `near` are the examples among them that were found after they were written.
    """

    folder: Path
    rows: array[int] = field(default_factory=lambda: array("Q"))
    units: array[int] = field(default_factory=lambda: array("Q"))
    questions: array[int] = field(default_factory=lambda: array("Q"))
    strata: array[int] = field(default_factory=lambda: array("Q"))
    tokens: array[int] = field(default_factory=lambda: array("Q"))
    read: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    samples: dict[str, list[str]] = field(default_factory=dict)
    near: set[int] = field(default_factory=set)
    asked: Signatures | None = None
    masked: Mapping[str, int] = field(default_factory=dict)
    _places: array[int] = field(default_factory=lambda: array("Q", [0]))

    def text(self, example: int, *, asked: bool) -> str:
        """Return an example's text for comparing: all of it, or its question."""
        with (self.folder / "texts").open("rb") as file:
            file.seek(self._places[example])
            return str(json.loads(file.read(self._places[example + 1] - self._places[example]))[asked])

    def note_text(self, length: int) -> None:
        """Remember where the next text ends."""
        self._places.append(self._places[-1] + length)

    def drop(self, reason: str, row: int, text: str, *, because: str = "") -> None:
        """Count a row that does not stay."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        shown = self.samples.setdefault(reason, [])
        if len(shown) < _SAMPLES:
            cut = " ".join(text.replace("\x1f", " ").split())
            shown.append(f"row {row}{because}: {cut[:_CUT]}{'…' if len(cut) > _CUT else ''}")


class Gatherer:
    """Reads one data set as a prepare step says."""

    def __init__(
        self, step: PrepareStep, converter: Converter, folder: Path, counter: TokenCounter | None
    ) -> None:
        self._step = step
        self._converter = converter
        self._cleaner = Cleaner(step.clean)
        self._counter = counter
        self._seen = Seen()
        self._bad: list[str] = []
        self._found = Gathered(folder)
        self._whole = Signatures() if step.near_duplicates is not None else None
        parts = [step.split.train, step.split.validation, step.split.test]
        if step.leaks.similarity is not None and sum(share > 0 for share in parts) > 1:
            self._found.asked = Signatures()

    def gather(self, dataset: Rows) -> Gathered:
        """Return the numbers of all examples; rows that are no example are named all at once."""
        found, bad = self._found, 0
        with ExitStack() as files:
            lines = files.enter_context((found.folder / "examples.jsonl").open("xb"))
            texts = files.enter_context((found.folder / "texts").open("xb"))
            for number, row in dataset.rows():
                found.read += 1
                try:
                    example = self._converter.convert(self._cleaner.row(row))
                except (InputInvalid, TemplateFailed) as error:
                    bad += 1
                    if bad <= SHOWN:
                        self._bad.append(f"row {number}: {error}")
                    continue
                if self._stays(number, example):
                    lines.write(example.line)
                    text = json.dumps([example.whole, example.asked]).encode()
                    texts.write(text)
                    found.note_text(len(text))
                    self._note(number, row, example)
        self._require_examples(dataset.path.name, bad)
        found.masked = self._cleaner.masked
        self._drop_near()
        return found

    def _require_examples(self, name: str, bad: int) -> None:
        found = self._found
        if bad:
            more = f"\nand {bad - SHOWN} more" if bad > SHOWN else ""
            listed = "\n".join(self._bad)
            raise InputInvalid(f"{bad} of {found.read} rows of {name!r} make no example:\n{listed}{more}")
        if not found.rows:
            reasons = ", ".join(
                f"{count} of them {reason.replace('_', ' ')}" for reason, count in found.dropped.items()
            )
            raise InputInvalid(f"{name!r} leaves no example: {found.read} rows, {reasons}.")

    def _stays(self, number: int, example: Example) -> bool:
        reason, because = self._reason_to_drop(number, example)
        if reason is not None:
            self._found.drop(reason, number, example.whole, because=because)
        return reason is None

    def _reason_to_drop(self, number: int, example: Example) -> tuple[str | None, str]:
        clean, length = self._step.clean, len(example.whole)
        if example.is_empty:
            return "empty", ""
        if clean.min_chars is not None and length < clean.min_chars:
            return "too_short", ""
        if clean.max_chars is not None and length > clean.max_chars:
            return "too_long", ""
        if clean.max_tokens is not None and self._tokens(example) > clean.max_tokens:
            return "too_many_tokens", ""
        if clean.languages and (language := language_of(example.whole)) not in clean.languages:
            return "language", f" ({language})"
        if self._step.deduplicate:
            first = self._seen.first(_digest(example.whole), number)
            if first != number:
                return "duplicates", f" (as row {first})"
        return None, ""

    def _tokens(self, example: Example) -> int:
        return self._counter.count_tokens(example.whole) if self._counter is not None else 0

    def _note(self, number: int, row: Mapping[str, Any], example: Example) -> None:
        split, found = self._step.split, self._found
        question = _name(b"q" + _digest(example.asked))
        group = row.get(split.group) if split.group is not None else None
        # a row without a group is a unit with those that ask the same
        unit = question if group in (None, "") else _name(b"g" + canonical(group))
        found.rows.append(number)
        found.questions.append(question)
        found.units.append(unit)
        if split.stratify is not None:
            found.strata.append(_name(canonical(row.get(split.stratify))))
        if self._counter is not None:
            found.tokens.append(self._tokens(example))
        if self._whole is not None:
            self._whole.add(example.whole)
        if found.asked is not None:
            found.asked.add(example.asked)

    def _drop_near(self) -> None:
        """Drop each example that is nearly the same as an earlier one that stays."""
        if self._whole is None or self._step.near_duplicates is None:
            return
        found = self._found
        pairs = near_pairs(
            self._whole,
            lambda example: found.text(example, asked=False),
            self._step.near_duplicates,
            lambda one, other: True,
        )
        for one, other, alike in sorted(pairs, key=lambda pair: (pair[1], pair[0])):
            if one not in found.near and other not in found.near:
                found.near.add(other)
                because = f" ({alike:.2f} like row {found.rows[one]})"
                found.drop(
                    "near_duplicates", found.rows[other], found.text(other, asked=False), because=because
                )


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:DIGEST]


def _name(content: bytes) -> int:
    """Return a number for a question, group or stratum; two of ten million are the same once in 300,000."""
    return int.from_bytes(hashlib.sha256(content).digest()[:8])
