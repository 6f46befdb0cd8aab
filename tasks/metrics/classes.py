"""F1 over labels (macro, micro, weighted), figures for each label, and the confusion table.

Owns the confusion cells and their averages; equals scikit-learn's `f1_score` where every row has a
prediction. A missing or empty prediction is no label of its own: it is a miss of its reference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from tasks.metrics.estimate import FEW, Estimate, wilson
from tasks.metrics.resampling import bootstrap_interval, bootstrap_intervals

if TYPE_CHECKING:
    import numpy as np

Cell = tuple[str, str | None]
"""A reference, and the prediction for it (None: there was none)."""
Average = Literal["macro", "micro", "weighted"]

MOST_LABELS = 200
"""Labels that are told one by one; beyond that a table says nothing to a reader."""


def f1(pairs: Sequence[Cell], average: Average = "macro") -> Estimate:
    """Estimate F1, 2 tp / (2 tp + fp + fn), averaged over labels.

    The labels are those of the references and those that were predicted. `macro` is the mean over labels,
    `weighted` the mean by how many rows have the label as their reference, `micro` counts all labels
    together. The interval is a percentile bootstrap over rows, widened to hold the value where the resamples
    lean to one side. Fewer than ten rows, or rows that are all right or all wrong, leave a bootstrap nothing
    to vary: there it is Wilson's.
    """
    table = _Table(pairs)
    if table.n == 0 or table.right in (0, table.n):
        return wilson(table.right, table.n)
    value = table.averages(average, table.counts_as_draw())[0]
    if table.n < FEW:
        return wilson(value * table.n, table.n)
    low, high = bootstrap_interval(table.counts, lambda draws: table.averages(average, draws))
    return Estimate(float(value), min(low, float(value)), max(high, float(value)), table.n, "bootstrap")


def per_class(pairs: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return precision, recall and F1 of each label with their intervals; the rarest labels come last.

    Precision and recall are shares (Wilson); a label that was never said has no precision (null), and one
    that no row has has no recall. F1 is bootstrapped like `f1`.
    """
    table = _Table(pairs)
    if not table.n or len(table.labels) > MOST_LABELS:
        return []
    said, right, hits = table.marginals()
    intervals = bootstrap_intervals(table.counts, table.by_label)
    found = []
    for place, label in enumerate(table.labels):
        whole = said[place] + right[place]
        value = 2 * hits[place] / whole
        low, high = intervals[place]
        if hits[place] in (0, whole / 2) or whole < 2 * FEW:
            bound = wilson(value * whole / 2, max(1, round(whole / 2)))
            low, high = bound.low, bound.high
        f1_of = Estimate(value, min(low, value), max(high, value), table.n, "bootstrap")
        found.append(
            {
                "label": label,
                "rows": int(right[place]),
                "precision": wilson(hits[place], int(said[place])).to_dict() if said[place] else None,
                "recall": wilson(hits[place], int(right[place])).to_dict() if right[place] else None,
                "f1": f1_of.to_dict(),
            }
        )
    return sorted(found, key=lambda item: (-item["rows"], item["label"]))


def confusion(pairs: Sequence[Cell]) -> dict[str, Any]:
    """Return the labels and, for each reference, how often each label was said; `missing` counts no answer.

    Empty where there are more labels than a table can show.
    """
    table = _Table(pairs)
    if len(table.labels) > MOST_LABELS:
        return {}
    place = {label: number for number, label in enumerate(table.labels)}
    counts = [[0] * len(place) for _ in place]
    missing = [0] * len(place)
    for (right, said), count in zip(table.cells, table.counts, strict=True):
        if said in place:
            counts[place[right]][place[said]] += count
        else:
            missing[place[right]] += count
    return {"labels": list(place), "counts": counts, "missing": missing}


class _Table:
    """The cells of all rows, and F1 of many draws over them at once."""

    def __init__(self, pairs: Sequence[Cell]) -> None:
        import numpy as np

        found = Counter(pairs)
        self.cells = sorted(found, key=lambda cell: (cell[0], cell[1] is not None, cell[1] or ""))
        self.counts = [found[cell] for cell in self.cells]
        self.n = sum(self.counts)
        self.right = sum(found[cell] for cell in self.cells if cell[0] == cell[1])
        self.labels = sorted({right for right, _ in self.cells} | {said for _, said in self.cells if said})
        column = {label: position for position, label in enumerate(self.labels)}
        shape = (len(self.cells), len(self.labels))
        self._hits, self._said, self._of = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        for row, (right, said) in enumerate(self.cells):
            self._of[row, column[right]] += 1
            if said in column:
                self._said[row, column[said]] += 1
                self._hits[row, column[said]] += float(said == right)

    def counts_as_draw(self) -> np.ndarray:
        """Return the rows themselves as one draw."""
        import numpy as np

        return np.asarray([self.counts], dtype=np.float64)

    def averages(self, average: Average, draws: np.ndarray) -> np.ndarray:
        """Return one F1 for each draw; a label that a draw holds nowhere is left out of its mean."""
        import numpy as np

        hits, seen = draws @ self._hits, draws @ (self._said + self._of)
        if average == "micro":
            return np.asarray(2 * hits.sum(axis=1) / seen.sum(axis=1))
        scores = _divided(2 * hits, seen)
        weights = draws @ self._of if average == "weighted" else (seen > 0).astype(np.float64)
        return np.asarray((scores * weights).sum(axis=1) / weights.sum(axis=1))

    def by_label(self, draws: np.ndarray) -> np.ndarray:
        """Return F1 of each label (draws x labels), 0 where a draw holds the label nowhere."""
        return _divided(2 * (draws @ self._hits), draws @ (self._said + self._of))

    def marginals(self) -> tuple[list[float], list[float], list[float]]:
        """Return for each label how often it was said, how often it was right to say, and both at once."""
        draw = self.counts_as_draw()
        said, of, hits = ((draw @ matrix)[0].tolist() for matrix in (self._said, self._of, self._hits))
        return said, of, hits


def _divided(hits: np.ndarray, seen: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.asarray(np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0))
