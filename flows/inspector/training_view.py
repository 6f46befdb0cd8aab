"""What the pages say of a training: its curves, its guards and what it came to.

Owns how a finetune step's record is read, also while the training goes on. Knows nothing of HTML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chains.spec import FinetuneStep
from flows.inspector.curves import Curve, chart

_FACTS = (
    "model", "version", "method", "steps", "train_loss", "validation_loss", "tokens", "seconds",
    "parameters_trained", "parameters_total", "job", "hosted_model",
)  # fmt: skip


def training_view(
    step: FinetuneStep | None, output: Mapping[str, Any], error: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return what a page says of a training; `step` is None where the chain is not one that is read."""
    history = [point for point in output.get("history") or [] if isinstance(point, dict)]
    curve = [point for point in output.get("curve") or [] if isinstance(point, dict)]
    return {
        "facts": {name: output[name] for name in _FACTS if output.get(name) is not None},
        "guards": _guards(step, output, error),
        "warnings": [str(text) for text in output.get("warnings") or []],
        "history": history,
        "curve": curve,
        # What still runs has its figures in the history: those of the step of each milestone.
        "pictures": _pictures(history, curve or history),
    }


def _pictures(
    history: Sequence[Mapping[str, Any]], curve: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    loss = [
        Curve("loss of each step", "step-loss", _points(curve, "loss")),
        Curve("training examples", "train-loss", _points(history, "train_loss")),
        Curve("validation examples", "validation-loss", _points(history, "validation_loss")),
    ]
    rate = [Curve("learning rate", "rate", _points(curve, "learning_rate"))]
    found = []
    for title, curves in (("Loss", loss), ("Learning rate", rate)):
        picture = chart(title, curves)
        if picture is not None:
            legend = [{"name": one.name, "kind": one.kind} for one in curves if one.points]
            found.append({"title": title, "svg": picture, "legend": legend})
    return found


def _points(history: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    return [
        (float(point["step"]), float(point[name]))
        for point in history
        if isinstance(point.get(name), int | float) and isinstance(point.get("step"), int | float)
    ]


def _guards(
    step: FinetuneStep | None, output: Mapping[str, Any], error: Mapping[str, Any] | None
) -> list[dict[str, str]]:
    """Return each guard with what it has seen; `state` is ok, warned, failed or skipped (not looked at)."""
    kind = (error or {}).get("type")
    over = bool(output.get("steps")) or error is not None
    if not over:
        return []
    if output.get("method") == "openai" or (step is not None and step.finetune == "openai"):
        return _gate(step, kind, error)  # nobody here sees more of a job at an endpoint
    return [
        _guard("divergence", "failed" if kind == "TrainingDiverged" else "ok", _said(kind, error)),
        _over_fitting(output),
        _early_stop(step, output),
        _forgetting(step, output),
        *_gate(step, kind, error),
    ]


def _said(kind: str | None, error: Mapping[str, Any] | None) -> str:
    return (
        str((error or {}).get("message", "")) if kind == "TrainingDiverged" else "the loss did not run away"
    )


def _over_fitting(output: Mapping[str, Any]) -> dict[str, str]:
    gap, opened = output.get("gap"), output.get("gap_opened_at_step")
    if gap is None:
        return _guard("over-fitting", "skipped", "no validation data")
    words = f"validation loss {gap:+.3f} against the training loss"
    return _guard(
        "over-fitting",
        "ok" if opened is None else "warned",
        words if opened is None else f"{words}; wide since step {opened}",
    )


def _early_stop(step: FinetuneStep | None, output: Mapping[str, Any]) -> dict[str, str]:
    if output.get("stop_reason") == "early_stop":
        return _guard("early stopping", "ok", f"stopped; the best was step {output.get('best_step')}")
    patience = step.early_stopping_patience if step is not None else None
    words = "not asked for" if patience is None else f"not needed (patience {patience})"
    return _guard("early stopping", "skipped" if patience is None else "ok", words)


def _forgetting(step: FinetuneStep | None, output: Mapping[str, Any]) -> dict[str, str]:
    found = output.get("forgetting")
    limit = step.max_forgetting if step is not None else None
    if not found:
        return _guard("forgetting", "skipped", "no general data")
    words = (
        f"{found['value']:+.3f} nats per token on general data [{found['low']:+.3f}, {found['high']:+.3f}]"
    )
    if limit is None:
        return _guard("forgetting", "ok", f"{words}; no limit was set")
    return _guard("forgetting", "ok" if found["high"] <= limit else "failed", f"{words}; limit {limit:g}")


def _gate(
    step: FinetuneStep | None, kind: str | None, error: Mapping[str, Any] | None
) -> list[dict[str, str]]:
    if step is None or (step.gate is None and kind != "GateNotMet"):
        return []
    met = kind is None
    said = "met, so it was published" if met else str((error or {}).get("message", ""))
    return [_guard("gate", "ok" if met else "failed", f"{step.gate or 'max_forgetting'}: {said}")]


def _guard(name: str, state: str, text: str) -> dict[str, str]:
    return {"name": name, "state": state, "text": text}
