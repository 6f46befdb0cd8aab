"""What a run has made, told to Prefect as assets with what each was made from.

Owns the names of assets: `headrace://collections/NAME`, `headrace://datasets/CHAIN/STEP` and
`headrace://models/NAME`. Prefect's server keeps assets as events, which automations can wait for, and has no
page for them; Prefect Cloud draws their lineage from the same events. What was only found again in the store
was not made, and is not told.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chains.spec import EmbedStep, FinetuneStep, PrepareStep
from flows.artifacts import inspector_address
from flows.inspector.addresses import record_path
from tasks.scopes import ONCE

if TYPE_CHECKING:
    from chains.spec import Step
    from chains.store import RecordRow
    from flows.prepared import PreparedRun

MADE_BY = "headrace"
_GLOB = frozenset("*?[")
_TOLD = {
    "collections": ("version", "documents", "chunks", "embedded"),
    "datasets": ("counts", "dropped", "tokens"),
    "models": ("version", "method", "train_loss", "validation_loss", "steps", "tokens"),
}
"""The fields of an output that go along."""


@dataclass(frozen=True, slots=True)
class Made:
    """An asset as it was made: its key, where it can be looked at, what it was made from, and facts."""

    key: str
    name: str
    url: str | None
    made_from: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)


def tell_assets(run: PreparedRun, step_id: str, status: str) -> None:
    """Emit the events of what a step has made, if it made anything."""
    made = what_was_made(run, step_id) if status == "ok" else None
    if made is None:
        return
    from prefect.assets import Asset, AssetProperties
    from prefect.context import AssetContext
    from prefect.states import Completed

    about = {"name": made.name, **({"url": made.url} if made.url is not None else {})}
    AssetContext(
        downstream_assets={Asset(key=made.key, properties=AssetProperties(**about))},
        direct_asset_dependencies={Asset(key=key) for key in made.made_from},
        materialized_by=MADE_BY,
        materialization_metadata={made.key: made.facts},
    ).emit_events(Completed())


def what_was_made(run: PreparedRun, step_id: str) -> Made | None:
    """Return the asset that a step has just made; None for other steps, and for what was there already."""
    step = run.chain.steps[step_id]
    key = _key(run, step_id, step)
    if key is None or step_id not in run.once:
        return None
    record = run.store.record(run.run_id, step_id, ONCE)
    if record is None or record.status != "ok" or record.reused_from is not None or record.output is None:
        return None
    kind, _, name = key.removeprefix("headrace://").partition("/")
    output = json.loads(record.output)
    return Made(
        key,
        name,
        inspector_address(run, record_path(run.run_id, step_id, None)),
        tuple(dict.fromkeys(_made_from(run, step_id, step, record))),
        {
            "run": run.run_id,
            "step": step_id,
            **{part: output[part] for part in _TOLD[kind] if part in output},
        },
    )


def _key(run: PreparedRun, step_id: str, step: Step) -> str | None:
    match step:
        case EmbedStep(into=str(name)):
            return f"headrace://collections/{name}"
        case PrepareStep():
            return f"headrace://datasets/{run.chain.chain}/{step_id}"
        case FinetuneStep(publish=str(name)):
            return f"headrace://models/{name}"
        case _:
            return None


def _made_from(run: PreparedRun, step_id: str, step: Step, record: RecordRow) -> Iterator[str]:
    for upstream in sorted(run.graph.needs[step_id]):
        key = _key(run, upstream, run.chain.steps[upstream])
        if key is not None:
            yield key
    store = Path(run.store.path).resolve()
    for path in _files(run, step, record):
        # What a step has written below the store is named by its step.
        if not path.is_relative_to(store) and _is_plain(str(path)):
            yield path.as_uri()
    if isinstance(step, FinetuneStep):
        base = json.loads(record.output or b"{}").get("base") or {}
        name = str(base.get("model", ""))
        if base.get("provider") == "starter":
            yield "headrace://models/starter"
        elif name.startswith("models:"):
            yield f"headrace://models/{name.removeprefix('models:').partition('@')[0]}"
        elif name and _is_plain(name):
            yield Path(name).as_uri() if Path(name).is_absolute() else f"hf://{name}"


def _files(run: PreparedRun, step: Step, record: RecordRow) -> Iterator[Path]:
    if isinstance(step, EmbedStep):
        for pattern in [step.embed] if isinstance(step.embed, str) else step.embed:
            parts = Path(pattern).parts
            fixed = itertools.takewhile(lambda part: not _GLOB & set(part), parts)
            yield run.chain_file.folder.joinpath(*fixed).resolve()
        return
    given = (json.loads(record.inputs) if record.inputs else {}).get("data")
    for path in given.values() if isinstance(given, dict) else [given]:
        if isinstance(path, str):
            yield Path(path).resolve()


def _is_plain(path: str) -> bool:
    """Whether a path can stand in an asset's key, in which nothing may be escaped."""
    return path.isascii() and not any(char in path for char in " #?&%\"'<>[]{}|\\^`\n\r\t")
