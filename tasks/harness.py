"""Named tasks of the Language Model Evaluation Harness (lm-eval) on one model.

Owns how a model is handed to lm-eval, and how its scores become figures. Knows nothing of chains and keeps no
records: a task brings its own prompts, data and metrics. Nothing is downloaded: what a task needs is on this
machine, or the task fails.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chains.errors import EnvironmentLacks, InputInvalid, StepFailed
from chains.spec import Model
from tasks.metrics.estimate import Estimate, amount, mean

if TYPE_CHECKING:
    from chains.store import Store
    from tasks.providers.routes import Route

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be measured: a task, where more tasks lie, and how many of its rows and examples."""

    task: str
    folder: Path | None = None
    limit: int | None = None
    shots: int | None = None
    chat: bool = False


def run_task(asked: Asked, model: Model, *, store: Store, route: Route | None = None) -> dict[str, Any]:
    """Run one task and return its figures, with all that lm-eval says of it under `harness`.

    `route` is where a model behind an endpoint is asked, and with which key.

    Raise EnvironmentLacks where lm-eval or the task's data is not here, InputInvalid for an unknown task.
    """
    os.environ.update(OFFLINE)  # before anything is imported that reads them
    try:
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager
    except ModuleNotFoundError as error:
        raise EnvironmentLacks(
            f"The harness needs {error.name!r}, which is not installed.", hint="Install `headrace[harness]`."
        ) from error
    tasks = TaskManager(include_path=str(asked.folder) if asked.folder else None)
    if asked.task not in tasks.all_tasks:
        raise InputInvalid(
            f"lm-eval has no task {asked.task!r:.200}.",
            hint="`--tasks FOLDER` names a folder with the YAML files of your own.",
        )
    try:
        found = simple_evaluate(
            **(_remote(model, route) if route is not None else _local(model, store)),
            tasks=[asked.task],
            task_manager=tasks,
            num_fewshot=asked.shots,
            limit=asked.limit,
            apply_chat_template=asked.chat or route is not None,
            bootstrap_iters=0,  # the intervals are made here
        )
    except (ConnectionError, FileNotFoundError) as error:
        raise EnvironmentLacks(
            f"The task {asked.task!r} could not be run: {error!s:.300}",
            hint="Nothing is downloaded here: fetch its data first, or write a task over a local file.",
        ) from error
    return {
        "task": asked.task,
        "model": model.model or model.provider,
        "figures": figures_of(found["samples"]),
        "versions": found.get("versions", {}),
        "harness": {name: value for name, value in found.items() if name not in ("samples", "config")},
        "samples": found["samples"],
    }


def figures_of(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return each metric of each task with its 95 % interval over rows, from what every row scored.

    Metrics that are no number for a row, such as those over a corpus, are left to lm-eval's own figures.
    """
    found = []
    for task, rows in sorted(samples.items()):
        scores: dict[tuple[str, str], list[float]] = {}
        for row in rows:
            for name in row.get("metrics", ()):
                score = row.get(name)
                if isinstance(score, bool | int | float):
                    scores.setdefault((name, str(row.get("filter", "none"))), []).append(float(score))
        for (name, part), values in scores.items():
            estimate = _estimate(task, name, values)
            found.append({"task": task, "metric": name, "filter": part, **estimate.to_dict()})
    return found


def _estimate(task: str, metric: str, values: list[float]) -> Estimate:
    if not all(map(math.isfinite, values)):
        raise StepFailed(f"task {task!r}: {metric!r} of a row is not a finite number.")
    return mean(values) if all(0 <= value <= 1 for value in values) else amount(values)


def _remote(model: Model, route: Route) -> dict[str, Any]:
    # Never empty: lm-eval would look for a key of its own.
    header = {"Content-Type": "application/json"}
    header |= {"Authorization": f"Bearer {route.key.text}"} if route.key is not None else {}
    header |= {name: value.text for name, value in {**route.headers, **route.payers}.items()}
    arguments = {
        "model": model.model,
        "base_url": f"{route.address.text.rstrip('/')}/chat/completions",
        "num_concurrent": model.limits.concurrency,
        "tokenizer_backend": None,
        "tokenized_requests": False,
        "header": header,
    }
    return {"model": "local-chat-completions", "model_args": arguments}


def _local(model: Model, store: Store) -> dict[str, Any]:
    from lm_eval.models.huggingface import HFLM

    from tasks.providers.chat_model import load_chat_model
    from tasks.providers.device import device_of, dtype_of
    from tasks.providers.weights import find_weights, starter_weights

    name = model.model or "starter"
    weights = (
        starter_weights()
        if model.provider == "starter"
        else find_weights(name, revision=model.revision, store=store)
    )
    if weights.is_embedder:
        raise InputInvalid(f"Model {name!r} is an embedder.", hint="Name a chat model.")
    device = device_of(model)
    dtype = dtype_of(model, embedder=False, device=device)
    loaded = load_chat_model(weights, name=name, dtype=dtype, device=device)
    if loaded.prelude is not None:
        raise InputInvalid(
            f"Model {name!r} has virtual tokens before each text, which lm-eval does not know of.",
            hint="Measure it with an evaluate step.",
        )
    return {"model": HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=_AT_ONCE)}
