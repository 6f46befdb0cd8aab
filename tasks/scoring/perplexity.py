"""Perplexity: how well a local model foretells each prediction, which may be any text of the row.

Owns which rows count. Nothing is called and nothing is paid: the model runs here, and its losses are kept
with the rows. How a loss is made is in tasks.providers.text_losses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from chains.errors import InputInvalid
from chains.spec import EvaluateStep
from tasks.context import Progress, StepContext
from tasks.metrics.perplexity import perplexity
from tasks.metrics.text import canonical_text
from tasks.providers.local import LocalProvider
from tasks.scoring.compared import Compared
from tasks.scoring.figures import Figure, figure

NAME = "perplexity"
_AT_ONCE = 64
"""Texts between two looks at whether the run is to stop."""


async def foretold(ctx: StepContext, step: EvaluateStep, rows: Sequence[Compared]) -> Figure:
    """Return the perplexity of each row's prediction and of all together, by the step's `language_model`."""
    assert step.language_model is not None
    model = ctx.providers.get(step.language_model)
    if not isinstance(model, LocalProvider):
        raise InputInvalid(
            f"step {ctx.step_id!r}: model {step.language_model!r} does not run here, and an endpoint does "
            "not tell what it makes of a text.",
            hint="Name a model of provider `local` or `starter` as `language_model`.",
        )
    unscored = {item.row: item.reason or "there is no prediction" for item in rows if item.pair.missing}
    asked = [(item.row, _text(item.pair.prediction)) for item in rows if not item.pair.missing]
    losses: dict[int, tuple[float, int]] = {}
    for start in range(0, len(asked), _AT_ONCE):
        part = asked[start : start + _AT_ONCE]
        for (row, _), loss in zip(part, await model.text_losses([text for _, text in part]), strict=True):
            if loss.tokens:
                losses[row] = (loss.nats, loss.tokens)
            else:
                unscored[row] = "the text has no token that could be foretold"
        done, total = start + len(part), len(asked)
        text = f"perplexity of {done} of {total} texts"
        ctx.report(Progress(ctx.step_id, "message", text=text, done=done, total=total))
    scores = {row: math.exp(nats / tokens) for row, (nats, tokens) in losses.items()}
    if not losses:
        return figure(NAME, {}, unscored, perplexity([(0.0, 1)]))
    return figure(NAME, scores, unscored, perplexity([losses[row] for row in sorted(losses)]))


def _text(prediction: Any) -> str:
    """Return the text as it is: white space at its ends is foretold like the rest."""
    return prediction if isinstance(prediction, str) else canonical_text(prediction)
