"""The model card that lies beside every trained model.

Owns the text of README.md. Knows nothing of where the model is published.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tasks.training.job import TrainingJob, TrainingResult

_UNIT = {"causal": "trained token", "classification": "text", "embedding": "pair"}
_TARGETS = {
    "causal": "Only the assistant's words, and the token that ends them, were targets.",
    "classification": "The labels of the training data were the targets; they stand in classifier.json.",
    "embedding": "Each anchor's positive was the target, among all positives of its batch.",
}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model comes from: its base, the hashes of its data and the chain and step that trained it.

    `licence` is that of the base; None where it is not known.
    """

    base: str
    data: dict[str, str | None]
    chain: str
    step: str
    parameters: dict[str, Any]
    licence: str | None = None


def write_card(name: str, job: TrainingJob, result: TrainingResult, origin: Origin) -> str:
    """Return the card as Markdown, with the front matter that model hubs read."""
    library = "peft" if job.is_adapter else "transformers"
    loss = f"{result.train_loss:.4f}"
    validation = "not measured" if result.validation_loss is None else f"{result.validation_loss:.4f}"
    if result.validation_accuracy is not None:
        validation += f", accuracy {result.validation_accuracy:.4f}"
    resumed = "" if result.resumed_from_step is None else f", resumed from step {result.resumed_from_step}"
    versions = ", ".join(f"{library} {version}" for library, version in sorted(result.versions.items()))
    # What a base's licence asks for holds for what is made from it; another one is not ours to state.
    stated = f"\nlicense: {origin.licence}" if origin.licence else ""
    licence = (origin.licence or "not known") if job.base is not None else "there is no base"
    return f"""---
library_name: {library}
tags: [headrace, {job.method}, {job.task}]{stated}
---
# {name}

Trained by Headrace: chain `{origin.chain}`, step `{origin.step}`, method `{job.method}`, task `{job.task}`.

| | |
|---|---|
| base | {origin.base} |
| licence of the base | {licence} |
| parameters | {result.parameters_total:,}, of which {result.parameters_trained:,} trained |
| steps | {result.steps} ({result.stop_reason}{resumed}) |
| tokens | {result.tokens:,} |
| training loss | {loss} nats per {_UNIT[job.task]}, mean of the last steps |
| validation loss | {validation} |
| training data (SHA-256) | {origin.data.get("train")} |
| validation data (SHA-256) | {origin.data.get("validation") or "none"} |
| versions | {versions} |

{_TARGETS[job.task]}

```json
{json.dumps(origin.parameters, indent=2, sort_keys=True)}
```
"""
