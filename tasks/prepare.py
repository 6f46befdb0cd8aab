"""The prepare step: from a data set to training files, deduplicated and split, with the proof of no leak.

Owns which file may be read, what is dropped and counted, where the parts are written and when an earlier
result is reused. What an example is stands in tasks.examples, how a split is cut in tasks.splitting.
The data set is read as a stream; what stays in memory is a few numbers per row. Invariant: equal data and
equal parameters leave equal bytes.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from chains.data import Dataset, open_dataset
from chains.errors import InputInvalid, Refused, StepFailed, StoreDamaged, TemplateFailed
from chains.keys import canonical, key_of
from chains.spec import PrepareStep
from chains.store.files import temporary_name
from chains.suggest import did_you_mean
from chains.templates import has_expression, render
from tasks.context import OnceJob, RowResult, StepContext
from tasks.examples import Converter, Example
from tasks.reuse import Question, found, question
from tasks.splitting import PARTS, assign, leaks

_SHOWN = 5
"""Bad rows or leaks that a message lists."""


async def run_once(ctx: StepContext, job: OnceJob) -> RowResult:
    """Write the training files, or find those that an earlier run left for the same data and parameters."""
    return await asyncio.to_thread(_prepare, ctx, job)


def _prepare(ctx: StepContext, job: OnceJob) -> RowResult:
    step = cast(PrepareStep, ctx.step)
    path = _data_path(ctx, step.prepare, job)
    dataset = open_dataset(path)
    _check_group(step, dataset)
    converter = Converter(ctx.chain_file, step, job.scope, from_text=dataset.format == "csv")
    inputs = {"data": str(path), "sha256": dataset.sha256}
    deciding = {
        "data": dataset.sha256,
        "format": dataset.format,
        "deduplicate": step.deduplicate,
        "split": step.split.model_dump(mode="json"),
        **converter.identity(),
    }
    key, asked = key_of("prepare", deciding), question(ctx, "prepare", deciding)
    reused = _reuse(ctx, asked, key)
    if reused is not None:
        record_id, output = reused
        return RowResult(output=output, value_key=asked.key, reused_from=record_id, inputs=inputs)
    with _scratch(ctx) as scratch:
        rows = _Reader(step, converter, scratch / "examples.jsonl").read(dataset)
        parts = assign(rows.units, step.split)
        _check_leaks(ctx, step, rows, parts)
        counts = _write_parts(scratch, parts)
        files = {part: ctx.store.put_file(scratch / f"{part}.jsonl") for part in PARTS if counts[part]}
    counts |= {"read": rows.read, "duplicates": rows.duplicates, "empty": rows.empty}
    output = {"counts": counts, "dropped": rows.duplicates + rows.empty, "files": files}
    return RowResult(output=_materialised(ctx, key, output), value_key=asked.key, inputs=inputs)


def _data_path(ctx: StepContext, source: str, job: OnceJob) -> Path:
    """Return the data set's path: in the chain's folder, or what an earlier step wrote below the store."""
    rendered = render(source, job.scope) if has_expression(source) else source
    folder = ctx.chain_file.folder.resolve()
    path = (folder / rendered).resolve()
    roots = [folder]
    if rendered != source:
        roots.append(Path(ctx.store.path).resolve())
    if not ctx.settings.read_outside and not any(path.is_relative_to(root) for root in roots):
        raise Refused(
            f"step {ctx.step_id!r} reads {rendered!r:.200}, which is outside the chain's folder.",
            hint="Move the file there, or set HEADRACE_READ_OUTSIDE=true on this machine.",
        )
    return path


def _check_group(step: PrepareStep, dataset: Dataset) -> None:
    group = step.split.group
    if group is not None and group not in dataset.columns:
        hint = did_you_mean(group, dataset.columns)
        raise InputInvalid(
            f"`split.group` names the column {group!r}, which {dataset.path.name!r} does not have.", hint=hint
        )


def _reuse(ctx: StepContext, asked: Question, key: str) -> tuple[str, dict[str, Any]] | None:
    record = found(ctx, asked)
    if record is None:
        return None
    try:
        return record.id, _materialised(ctx, key, json.loads(record.output or b"{}"))
    except StoreDamaged:
        # the files are derived from the data set, which is at hand: make them again, and the blobs with them
        return None


def _materialised(ctx: StepContext, key: str, output: dict[str, Any]) -> dict[str, Any]:
    """Return the output with the paths of its files, which are there and hold what was written."""
    folder: Path = ctx.store.folder("work").resolve() / key
    shas = output["files"]
    ctx.store.materialise({f"{part}.jsonl": sha for part, sha in shas.items()}, folder)
    paths = {part: str(folder / f"{part}.jsonl") if part in shas else None for part in PARTS}
    return {**output, **paths}


@contextmanager
def _scratch(ctx: StepContext) -> Iterator[Path]:
    """Give a folder for half-made files; what a crash leaves there has a name that the store cleans up."""
    folder = ctx.store.folder("work") / temporary_name()
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(slots=True)
class _Rows:
    """What is kept of each example: its row, its unit and its question, all as numbers."""

    rows: array[int] = field(default_factory=lambda: array("Q"))
    units: array[int] = field(default_factory=lambda: array("Q"))
    questions: array[int] = field(default_factory=lambda: array("Q"))
    read: int = 0
    duplicates: int = 0
    empty: int = 0


class _Reader:
    """One pass over the data set: every example that stays goes to a file, and its numbers to _Rows."""

    def __init__(self, step: PrepareStep, converter: Converter, target: Path) -> None:
        self._step = step
        self._converter = converter
        self._target = target
        self._seen: set[bytes] = set()
        self._numbers: dict[bytes, int] = {}
        self._bad: list[str] = []
        self._rows = _Rows()

    def read(self, dataset: Dataset) -> _Rows:
        """Return the numbers of all examples; rows that are no example are named all at once."""
        rows, bad = self._rows, 0
        with self._target.open("xb") as file:
            for number, row in dataset.rows():
                rows.read += 1
                try:
                    example = self._converter.convert(row)
                except (InputInvalid, TemplateFailed) as error:
                    bad += 1
                    if bad <= _SHOWN:
                        self._bad.append(f"row {number}: {error}")
                    continue
                if self._keeps(example):
                    self._note(number, row, example)
                    file.write(example.line)
        name = dataset.path.name
        if bad:
            more = f"\nand {bad - _SHOWN} more" if bad > _SHOWN else ""
            listed = "\n".join(self._bad)
            raise InputInvalid(f"{bad} of {rows.read} rows of {name!r} make no example:\n{listed}{more}")
        if not rows.rows:
            raise InputInvalid(f"{name!r} leaves no example: {rows.read} rows, {rows.empty} of them empty.")
        return rows

    def _keeps(self, example: Example) -> bool:
        if example.is_empty:
            self._rows.empty += 1
            return False
        if not self._step.deduplicate:
            return True
        digest = _digest(example.whole)
        if digest in self._seen:
            self._rows.duplicates += 1
            return False
        self._seen.add(digest)
        return True

    def _note(self, number: int, row: dict[str, Any], example: Example) -> None:
        question = self._number(b"q" + _digest(example.asked))
        group = row.get(self._step.split.group) if self._step.split.group is not None else None
        # a row without a group is a unit with those that ask the same
        unit = question if group in (None, "") else self._number(b"g" + canonical(group))
        self._rows.rows.append(number)
        self._rows.questions.append(question)
        self._rows.units.append(unit)

    def _number(self, name: bytes) -> int:
        return self._numbers.setdefault(name, len(self._numbers))


def _digest(text: str) -> bytes:
    # 16 of 32 bytes: a million rows then take 50 MB, and a collision is as unlikely as a wrong disk read
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


def _check_leaks(ctx: StepContext, step: PrepareStep, rows: _Rows, parts: Sequence[int]) -> None:
    found = leaks(rows.questions, parts)
    if not found:
        return
    listed = ", ".join(
        f"row {rows.rows[one]} ({PARTS[parts[one]]}) and row {rows.rows[other]} ({PARTS[parts[other]]})"
        for one, other in found[:_SHOWN]
    )
    raise StepFailed(
        f"step {ctx.step_id!r}: {len(found)} rows ask the same as a row in another part: {listed}.",
        hint=f"Groups of {step.split.group!r} share questions: drop those rows or group by another column.",
    )


def _write_parts(scratch: Path, parts: Sequence[int]) -> dict[str, int]:
    """Deal the examples out to a file for each part, in the order of their rows; return how many each got."""
    counts = dict.fromkeys(PARTS, 0)
    targets = [(scratch / f"{part}.jsonl").open("xb") for part in PARTS]
    try:
        with (scratch / "examples.jsonl").open("rb") as examples:
            for line, part in zip(examples, parts, strict=True):
                targets[part].write(line)
                counts[PARTS[part]] += 1
    finally:
        for target in targets:
            target.close()
    return counts
