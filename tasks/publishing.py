"""A trained model's last files, and its way into the store as a version of its name.

Owns the card, the name of an adapter's base, and that no version is written twice. Knows nothing of training.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from chains.errors import StepFailed
from chains.keys import canonical
from chains.spec import FinetuneStep
from chains.store import ModelRow
from chains.store.files import atomic_write
from tasks.context import StepContext
from tasks.training import TrainingJob, TrainingResult
from tasks.training.card import Origin, write_card


def finish_files(
    folder: Path,
    *,
    step: FinetuneStep,
    order: TrainingJob,
    result: TrainingResult,
    origin: Origin,
    described: dict[str, Any] | None,
) -> None:
    """Write the card, and name the base in the adapter's own file as the chain does, not as a path here."""
    card = write_card(step.publish or step.finetune, order, result, origin)
    atomic_write(folder / "README.md", card.encode())
    config = folder / "adapter_config.json"
    if described is not None and config.is_file():
        values = json.loads(config.read_text(encoding="utf-8"))
        values["base_model_name_or_path"] = described.get("model", described["provider"])
        atomic_write(config, json.dumps(values, indent=2, sort_keys=True).encode())


async def publish(
    ctx: StepContext,
    step: FinetuneStep,
    work: Path,
    *,
    key: str,
    described: dict[str, Any] | None,
    result: TrainingResult,
    origin: Origin,
) -> tuple[str, int | None]:
    """Add a version of the step's name, unless these weights are one; return its name and number."""
    if step.publish is None:
        return str(work / "model"), None
    row = _published(ctx, step.publish, key)
    if row is None:
        row = await asyncio.to_thread(
            _put_model, ctx, step, work / "model", key=key, described=described, result=result, origin=origin
        )
    # What is published can be made anew from the store; checkpoints are many times its size.
    shutil.rmtree(work, ignore_errors=True)
    return f"models:{row.name}@{row.version}", row.version


def publish_hosted(
    ctx: StepContext,
    step: FinetuneStep,
    hosted: str,
    *,
    key: str,
    described: dict[str, Any],
    metrics: dict[str, Any],
    data: dict[str, str],
) -> tuple[str, int | None]:
    """Add a version that names a model at an endpoint, unless there is one; return its name and number."""
    if step.publish is None:
        return hosted, None
    row = _published(ctx, step.publish, key)
    if row is None:
        lineage = {
            "run_id": ctx.run_id,
            "step": ctx.step_id,
            "chain": ctx.chain_file.chain.chain,
            "data": data,
            "weights_key": key,
        }
        row = ctx.store.publish(
            ModelRow(
                name=step.publish,
                kind="hosted",
                base=canonical({**described, "hosted": hosted}).decode(),
                files=b"{}",
                sha256=hashlib.sha256(canonical({**described, "hosted": hosted})).hexdigest(),
                metrics=canonical(metrics),
                lineage=canonical(lineage),
                created_at=ctx.clock.now(),
            )
        )
    return f"models:{row.name}@{row.version}", row.version


def _published(ctx: StepContext, name: str, key: str) -> ModelRow | None:
    """Find the version that a run published with these weights before it ended without a record."""
    rows = [row for row in ctx.store.models(name) if json.loads(row.lineage).get("weights_key") == key]
    return max(rows, key=lambda row: row.version) if rows else None


def _put_model(
    ctx: StepContext,
    step: FinetuneStep,
    folder: Path,
    *,
    key: str,
    described: dict[str, Any] | None,
    result: TrainingResult,
    origin: Origin,
) -> ModelRow:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    if not paths:
        raise StepFailed(f"The training left no files in {str(folder)!r}.")
    files = {path.relative_to(folder).as_posix(): ctx.store.put_file(path) for path in paths}
    lineage = {
        "run_id": ctx.run_id,
        "step": ctx.step_id,
        "chain": ctx.chain_file.chain.chain,
        "data": origin.data,
        "parameters": origin.parameters,
        "versions": result.versions,
        "weights_key": key,
    }
    assert step.publish is not None
    return ctx.store.publish(
        ModelRow(
            name=step.publish,
            kind="adapter" if (folder / "adapter_config.json").is_file() else "full",
            base=canonical(described).decode() if described else None,
            files=canonical(files),
            sha256=hashlib.sha256(canonical(files)).hexdigest(),
            metrics=canonical(result.metrics()),
            lineage=canonical(lineage),
            created_at=ctx.clock.now(),
        )
    )
