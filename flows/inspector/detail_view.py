"""What the page of a step that runs once says besides its rows: an evaluation or a training.

Owns which steps have such a part. Knows nothing of HTML.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chains.spec import EvaluateStep, FinetuneStep
from flows.inspector.evaluation_view import evaluation_view
from flows.inspector.texts import decoded
from flows.inspector.training_view import training_view

if TYPE_CHECKING:
    from chains.store import RecordRow, RunRow
    from flows.inspector.looking import Looking


def detail_view(looking: Looking, run: RunRow, record: RecordRow | None, kind: str) -> dict[str, Any]:
    """Return `evaluation` and `training` of a step's own record, each None where the step is no such step."""
    found: dict[str, Any] = {"evaluation": None, "training": None}
    if record is None or record.row >= 0 or kind not in ("evaluate", "finetune"):
        return found
    recorded = looking.chain(run)
    step = recorded.chain_file.chain.steps.get(record.step) if recorded is not None else None
    output, error = decoded(record.output) or {}, decoded(record.error)
    if kind == "evaluate":
        known = step if isinstance(step, EvaluateStep) else None
        found["evaluation"] = evaluation_view(looking.store, run.id, record.step, step=known, output=output)
    else:
        known_training = step if isinstance(step, FinetuneStep) else None
        found["training"] = training_view(known_training, output, error)
    return found
