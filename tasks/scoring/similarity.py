"""Embedding similarity: how near a prediction's vector is to its reference's.

Owns the cosine. The texts are embedded by the step `STEP-similarity`, each once; its rows count the texts and
not the data set's rows. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chains.spec import EmbedStep, EvaluateStep
from tasks.asking import ask_rows, calling
from tasks.context import StepContext
from tasks.metrics.overlap import references_of
from tasks.metrics.text import canonical_text
from tasks.scoring.compared import Compared
from tasks.scoring.figures import Figure, figure_of_shares

NAME = "similarity"


async def similar(ctx: StepContext, step: EvaluateStep, rows: Sequence[Compared]) -> Figure:
    """Return the cosine of prediction and reference, the best of alternatives; a negative one counts as 0."""
    numbers: dict[str, int] = {}
    for item in rows:
        if not item.pair.missing:
            for text in (canonical_text(item.pair.prediction), *references_of(item.pair.reference)):
                numbers.setdefault(text, len(numbers))
    embed = EmbedStep(embed="{{ judge.text }}", model=step.embedder, **calling(step))
    variables = {number: {"text": text} for text, number in numbers.items() if text}
    answers = await ask_rows(ctx, NAME, embed, variables) if variables else None
    scores: dict[int, float] = {}
    unscored: dict[int, str] = {}
    for item in rows:
        said, right = canonical_text(item.pair.prediction), references_of(item.pair.reference)
        if item.pair.missing or not said or not any(right):
            scores[item.row] = float(not item.pair.missing and said in right)
            continue
        assert answers is not None
        places = [numbers[text] for text in (said, *right) if text]
        failed = next((answers.failures[place] for place in places if place in answers.failures), None)
        if failed is not None:
            unscored[item.row] = failed
        else:
            scores[item.row] = _nearest(answers.outputs, places)
    return figure_of_shares(NAME, scores, unscored)


def _nearest(outputs: Mapping[int, Mapping[str, Any]], places: Sequence[int]) -> float:
    import numpy as np

    said, *right = (np.asarray(outputs[place]["vector"], dtype=np.float64) for place in places)
    length = float(np.linalg.norm(said))
    cosines = [float(said @ other) / (length * float(np.linalg.norm(other))) for other in right]
    return min(1.0, max(0.0, *cosines))
