"""The methods that change the base's own weights: all of them, or those that are not frozen.

Owns which parameters are trained. Knows nothing of adapters or loops.
"""

from __future__ import annotations

import re
from typing import Any

from chains.errors import InputInvalid
from tasks.training.job import TrainingJob
from tasks.training.learner import Learner

_BLOCK = re.compile(r"(?:^|\.)(?:layers|h|layer|blocks|block)\.(\d+)\.")
_FINAL_NORM = re.compile(r"(?:^|\.)(?:norm|ln_f|final_layer_norm|final_layernorm)\.(?:weight|bias)$")


def with_frozen_layers(job: TrainingJob, learner: Learner) -> Learner:
    """Mark what is trained; a name in `freeze` that fits nothing is an error."""
    model, given = learner.model, job.hyperparameters
    names = [name for name, _ in model.named_parameters()]
    if job.trains == "linear_probe":
        learner.body.requires_grad_(False)
    if job.trains != "transfer":
        return learner
    unknown = [name for name in given.freeze if not any(_is_part(name, one) for one in names)]
    if unknown:
        raise InputInvalid(
            f"freeze: the base model {job.base!r} has no layer {unknown[0]!r}.",
            hint=f"It has {', '.join(_shown(names))}.",
        )
    last = None if given.train_last is None else _last_blocks(names, given.train_last, job.base)
    for name, parameter in model.named_parameters():
        frozen = any(_is_part(one, name) for one in given.freeze) or (last is not None and name not in last)
        parameter.requires_grad_(not frozen)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputInvalid("freeze leaves nothing to train.", hint="Freeze fewer layers.")
    return learner


def _is_part(given: str, name: str) -> bool:
    """Whether a name as written stands for this parameter: whole parts of it, at its beginning or within."""
    return f".{given.strip('.')}." in f".{name}."


def _last_blocks(names: list[str], count: int, base: str | None) -> set[str]:
    numbers = [int(found[1]) for name in names if (found := _BLOCK.search(name))]
    blocks = max(numbers, default=-1) + 1
    if count > blocks:
        raise InputInvalid(f"train_last is {count}, but the base model {base!r} has {blocks} blocks.")
    kept = set()
    for name in names:
        found = _BLOCK.search(name)
        if (found and int(found[1]) >= blocks - count) or (
            not found and (_FINAL_NORM.search(name) or name.startswith(("lm_head.", "classifier.", "score.")))
        ):
            kept.add(name)
    return kept


def _shown(names: list[str]) -> list[str]:
    """Return the layers that a user would name: blocks by number, the rest as they are."""
    shown: dict[str, Any] = {}
    for name in names:
        found = _BLOCK.search(name)
        shown[name[: found.end() - 1] if found else name.rsplit(".", 1)[0]] = None
    return list(shown)[:12]
