"""The metrics of two runs side by side: per-row scores of the same rows, with paired intervals.

Owns the pairing of scores. Which rows belong together chains.diff says; how a difference is judged
tasks.metrics.compare says.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from chains.diff.alignment import pair_rows
from chains.errors import StepFailed
from chains.spec import EvaluateStep

if TYPE_CHECKING:
    from chains.diff import RecordedRun
    from chains.store import Store


MOST_MOVES = 100
"""Rows whose score changed that are told one by one."""


def compared_metrics(store: Store, before: RecordedRun, after: RecordedRun) -> list[dict[str, Any]]:
    """Return each metric of the evaluate steps that both runs have, with both values and the difference."""
    names = [
        name
        for name, step in before.chain_file.chain.steps.items()
        if isinstance(step, EvaluateStep) and isinstance(after.chain_file.chain.steps.get(name), EvaluateStep)
    ]
    return [line for name in names for line in _of_step(store, before, after, name)]


def _of_step(store: Store, before: RecordedRun, after: RecordedRun, step: str) -> list[dict[str, Any]]:
    found = [store.record(recorded.run.id, step, -1) for recorded in (before, after)]
    outputs = [json.loads(record.output) if record and record.output else {} for record in found]
    old, new = (_scores(store, recorded.run.id, step) for recorded in (before, after))
    pairs = [pair for pair in pair_rows(store, before, after) if pair[0] in old and pair[1] in new]
    lines = []
    for metric in outputs[0].keys() & outputs[1].keys():
        values = [output[metric].get("value") for output in outputs if isinstance(output[metric], dict)]
        if len(values) < 2 or None in values:
            continue
        scores = [
            (old[left][metric], new[right][metric])
            for left, right in pairs
            if metric in old[left] and metric in new[right]
        ]
        lines.append(
            {"step": step, "metric": metric, "before": values[0], "after": values[1], **_difference(scores)}
            | {"changed": _changed(pairs, old, new, metric)}
        )
    return sorted(lines, key=lambda line: str(line["metric"]))


def _changed(
    pairs: Iterable[tuple[int, int]],
    old: Mapping[int, Mapping[str, float]],
    new: Mapping[int, Mapping[str, float]],
    metric: str,
) -> dict[str, Any]:
    """Return how many rows score better and worse than before, and the first of them with both scores."""
    moves = [
        {"row": left, "row_after": right, "before": old[left][metric], "after": new[right][metric]}
        for left, right in pairs
        if metric in old[left] and metric in new[right] and old[left][metric] != new[right][metric]
    ]
    better = sum(move["after"] > move["before"] for move in moves)
    return {"better": better, "worse": len(moves) - better, "rows": moves[:MOST_MOVES]}


def _scores(store: Store, run_id: str, step: str) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for record in store.records(run_id, step):
        if record.row >= 0 and record.output is not None:
            found[record.row] = json.loads(record.output).get("scores") or {}
    return found


def _difference(scores: list[tuple[float, float]]) -> dict[str, Any]:
    """Return the paired difference, or None where the metric has no score for a single row."""
    from tasks.metrics.compare import compare

    if not scores:
        return {"paired": None}
    try:
        return {"paired": compare([old for old, _ in scores], [new for _, new in scores]).to_dict()}
    except StepFailed:  # scores that are no shares
        return {"paired": None}
