"""The prepare step: from a data set to training files, deduplicated and split, with the proof of no leak.

Owns which file may be read, where the parts are written and when an earlier result is reused. What an example
is stands in tasks.examples, what stays and why in tasks.preparing, how a split is cut in tasks.splitting. The
data set is read as a stream; what stays in memory is a few numbers per row. Invariant: equal data and equal
parameters leave equal bytes.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from chains.data import Dataset, open_dataset
from chains.errors import InputInvalid, Refused, StoreDamaged
from chains.keys import key_of
from chains.spec import PrepareStep
from chains.store.files import temporary_name
from chains.suggest import did_you_mean
from chains.templates import has_expression, render
from tasks.context import OnceJob, RowResult, StepContext
from tasks.examples import Converter
from tasks.preparing.card import card, token_counts
from tasks.preparing.gathering import Gathered, Gatherer
from tasks.preparing.leaking import find_leaks, report, require_few
from tasks.preparing.reading import SUFFIXES, TextRows, open_text
from tasks.reuse import Question, question
from tasks.reuse import found as found_record
from tasks.splitting import PARTS, assign


async def run_once(ctx: StepContext, job: OnceJob) -> RowResult:
    """Write the training files, or find those that an earlier run left for the same data and parameters."""
    return await asyncio.to_thread(_prepare, ctx, job)


def _prepare(ctx: StepContext, job: OnceJob) -> RowResult:
    step = cast(PrepareStep, ctx.step)
    path = _data_path(ctx, step.prepare, job)
    dataset = open_text(path) if path.suffix.lower() in SUFFIXES else open_dataset(path)
    _check_columns(step, dataset)
    converter = Converter(ctx.chain_file, step, job.scope, from_text=dataset.format == "csv")
    counter = _counter(ctx, step)
    inputs = {"data": str(path), "sha256": dataset.sha256}
    deciding = {
        "data": dataset.sha256,
        "format": dataset.format,
        "deduplicate": step.deduplicate,
        "near_duplicates": step.near_duplicates,
        "clean": step.clean.model_dump(mode="json"),
        "leaks": step.leaks.model_dump(mode="json"),
        "tokens": dict(counter.identity) if counter is not None else None,
        "split": step.split.model_dump(mode="json"),
        **converter.identity(),
    }
    key, asked = key_of("prepare", deciding), question(ctx, "prepare", deciding)
    reused = _reuse(ctx, asked, key)
    if reused is not None:
        record_id, output = reused
        return RowResult(output=output, value_key=asked.key, reused_from=record_id, inputs=inputs)
    with _scratch(ctx) as scratch:
        found = Gatherer(step, converter, scratch, counter).gather(dataset)
        output = _cut(ctx, step, found, {"name": path.name, "sha256": dataset.sha256})
    return RowResult(output=_materialised(ctx, key, output), value_key=asked.key, inputs=inputs)


def _cut(ctx: StepContext, step: PrepareStep, found: Gathered, source: Mapping[str, str]) -> dict[str, Any]:
    """Split what was gathered, prove that nothing leaks, and put the parts and their card into the store."""
    parts = _parts(step, found)
    all_leaks = find_leaks(step, found, parts)
    require_few(step, found, parts, all_leaks, step_id=ctx.step_id)
    counts = _write_parts(found.folder, parts)
    counts |= {"read": found.read}
    counts |= {reason: found.dropped.get(reason, 0) for reason in ("duplicates", "empty")}
    tokens = token_counts(found.tokens, parts) if found.tokens else {}
    leaks = report(found, parts, all_leaks)
    text = card(
        source=source, step=step, found=found, counts=counts, tokens=tokens, leaks=leaks, folder=found.folder
    )
    (found.folder / "card.md").write_text(text, encoding="utf-8")
    names = [part for part in PARTS if counts[part]]
    files = {name: ctx.store.put_file(found.folder / _file(name)) for name in (*names, "card")}
    return {
        "counts": counts,
        "dropped": sum(found.dropped.values()),
        "reasons": dict(found.dropped),
        "tokens": tokens,
        "leaks": leaks,
        "files": files,
    }


def _parts(step: PrepareStep, found: Gathered) -> Sequence[int]:
    """Return each example's part; what was dropped after it was written has none of them."""
    if not found.near:
        return assign(found.units, step.split, found.strata or None)
    kept = [example for example in range(len(found.rows)) if example not in found.near]
    strata = [found.strata[example] for example in kept] if found.strata else None
    places = assign([found.units[example] for example in kept], step.split, strata)
    parts = array("B", [len(PARTS)]) * len(found.rows)
    for example, part in zip(kept, places, strict=True):
        parts[example] = part
    return parts


def _counter(ctx: StepContext, step: PrepareStep) -> Any:
    """Return the model whose tokenizer counts, or None."""
    if step.tokens is None:
        return None
    provider = ctx.providers.get(step.tokens)
    if not hasattr(provider, "count_tokens"):
        raise InputInvalid(
            f"step {ctx.step_id!r} counts tokens with {step.tokens!r}, whose tokenizer is not at hand.",
            hint="Name a model of provider `local` or `starter` in `tokens`.",
        )
    return provider


def _file(name: str) -> str:
    return "card.md" if name == "card" else f"{name}.jsonl"


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


def _check_columns(step: PrepareStep, dataset: Dataset | TextRows) -> None:
    named = [("split.group", step.split.group), ("split.stratify", step.split.stratify)]
    named += [("clean.columns", column) for column in step.clean.columns or ()]
    for key, column in named:
        if column is not None and column not in dataset.columns:
            hint = did_you_mean(column, dataset.columns)
            raise InputInvalid(
                f"`{key}` names the column {column!r}, which {dataset.path.name!r} does not have.", hint=hint
            )


def _reuse(ctx: StepContext, asked: Question, key: str) -> tuple[str, dict[str, Any]] | None:
    record = found_record(ctx, asked)
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
    ctx.store.materialise({_file(name): sha for name, sha in shas.items()}, folder)
    paths = {name: str(folder / _file(name)) if name in shas else None for name in (*PARTS, "card")}
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


def _write_parts(scratch: Path, parts: Sequence[int]) -> dict[str, int]:
    """Deal the examples out to a file for each part, in the order of their rows; return how many each got."""
    counts = dict.fromkeys(PARTS, 0)
    targets = [(scratch / f"{part}.jsonl").open("xb") for part in PARTS]
    try:
        with (scratch / "examples.jsonl").open("rb") as examples:
            for line, part in zip(examples, parts, strict=True):
                if part == len(PARTS):
                    continue
                targets[part].write(line)
                counts[PARTS[part]] += 1
    finally:
        for target in targets:
            target.close()
    return counts
