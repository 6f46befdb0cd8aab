"""What the pages say of an evaluation: metrics with intervals, the confusion of labels, the worst rows.

Owns the order of rows from worst to best. Knows nothing of HTML and of how a metric is worked out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from chains.spec import EvaluateStep
from chains.step_outputs import figures_of
from flows.inspector.texts import cut, pretty
from flows.measured import estimates
from tasks.scoring import spent

if TYPE_CHECKING:
    from chains.store import Store

MOST_LABELS: Final = 30
"""Labels of a table; the commonest are shown."""
MOST_ROWS: Final = 2_000
"""Rows that are looked through for the worst."""
WORST: Final = 10
_CELL: Final = 300


def evaluation_view(
    store: Store, run_id: str, step_id: str, *, step: EvaluateStep | None, output: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what a page says of an evaluation; `step` is None where the chain is not one that is read."""
    return {
        "metrics": [
            {
                "name": name,
                "value": float(found["value"]),
                "low": float(found["low"]),
                "high": float(found["high"]),
                "n": int(found["n"]),
                "share": 0 <= found["low"] <= found["value"] <= found["high"] <= 1,
            }
            for name, found in estimates(output)
        ],
        "rows": output.get("rows"),
        "missing": output.get("missing"),
        "unlabelled": output.get("unlabelled"),
        "gate": step.gate if step is not None else None,
        "confusion": _confusion(output.get("confusion")),
        "worst": _worst(store, run_id, step_id, step),
    }


def _confusion(table: Any) -> dict[str, Any] | None:
    """Return the table of labels, the commonest first where there are too many."""
    if not isinstance(table, dict) or not table.get("labels"):
        return None
    labels, counts, missing = table["labels"], table["counts"], table["missing"]
    totals = [sum(row) + gone for row, gone in zip(counts, missing, strict=True)]
    commonest = sorted(range(len(labels)), key=lambda place: (-totals[place], place))[:MOST_LABELS]
    places = sorted(commonest)
    return {
        "labels": [labels[place] for place in places],
        "left_out": len(labels) - len(places),
        "lines": [
            {
                "label": labels[place],
                "cells": [
                    _shaded(counts[place][other], totals[place], right=place == other) for other in places
                ],
                "missing": _shaded(missing[place], totals[place], right=False),
            }
            for place in places
        ],
    }


def _shaded(count: int, total: int, *, right: bool) -> dict[str, Any]:
    """Return a cell: its shade is the share of its line, in tenths."""
    return {"count": count, "tenths": -(-10 * count // total) if total else 0, "right": right}


def _worst(store: Store, run_id: str, step_id: str, step: EvaluateStep | None) -> dict[str, Any]:
    """Return the rows with the lowest scores by the step's first metric that gives each row one."""
    outputs = [
        (row, json.loads(output)) for row, output in store.small_outputs(run_id, step_id, limit=MOST_ROWS)
    ]
    by = _ranking(step, [output.get("scores") or {} for _, output in outputs])
    scored = [
        (output["scores"][by], row, output)
        for row, output in outputs
        if isinstance((output.get("scores") or {}).get(by), int | float)
    ]
    best = max((score for score, _, _ in scored), default=0.0)
    worst = sorted((item for item in scored if item[0] < best), key=lambda item: item[:2])[:WORST]
    return {
        "by": by,
        "looked_at": len(outputs),
        "rows": [
            {
                "row": row,
                "score": score,
                "prediction": cut(pretty(output.get("prediction")), _CELL).text,
                "reference": cut(pretty(output.get("reference")), _CELL).text,
                "missing": output.get("missing"),
            }
            for score, row, output in worst
        ],
    }


def _ranking(step: EvaluateStep | None, scores: list[Mapping[str, Any]]) -> str:
    """Return the name of the figure that rows are ranked by; what costs or takes time ranks nothing."""
    named = figures_of(step) if step is not None else tuple(scores[0]) if scores else ()
    ranks = [name for name in named if name not in spent.NAMES]
    return next((name for name in ranks if any(name in found for found in scores)), "")
