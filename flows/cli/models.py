"""The command `models`: what fine-tuning has published, where a version comes from, and which one is latest.

Knows nothing of training. A promotion or rollback moves `@latest` and nothing else: versions stay.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chains.clock import iso
from chains.errors import InputInvalid
from flows.cli.options import ChainArgument, JsonOption, StoreOption
from flows.cli.read import reading
from flows.cli.text import moment, print_json, table

if TYPE_CHECKING:
    from chains.store import ModelRow, Store

SHOWN = ("train_loss", "validation_loss", "accuracy", "forgetting")

app = typer.Typer(invoke_without_command=True, rich_markup_mode=None, add_completion=False)
VersionArgument = Annotated[str, typer.Argument(help="NAME, NAME@latest or NAME@3.", show_default=False)]


@app.callback()
def models(context: typer.Context, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """List the models that finetune steps have published; show, promote or roll back a version."""
    if context.invoked_subcommand is not None:
        return
    with reading(store) as opened:
        found = [_facts(model) for model in opened.models()]
    if as_json:
        print_json(found)
    elif not found:
        print("No models yet: a finetune step with `publish:` adds one.")
    else:
        print(table([_line(model) for model in found]))


@app.command()
def lineage(model: VersionArgument, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Show what a version was made from, back to a base that was not made here."""
    with reading(store) as opened:
        found = [
            _facts(row) | {"lineage": json.loads(row.lineage or b"{}")} for row in _ancestry(opened, model)
        ]
    if as_json:
        print_json(found)
        return
    for one in found:
        made = one["lineage"]
        print(f"{one['model']}  ({one['kind']}, made {moment(one['made_at'])})")
        print(f"  run   {made.get('run_id')}, step {made.get('step')} of chain {made.get('chain')}")
        for part, sha256 in (made.get("data") or {}).items():
            if sha256:
                print(f"  data  {part} {sha256[:12]}")
        print(f"  base  {one['base']}")


@app.command()
def parameters(chain: ChainArgument, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Count what the finetune steps of a chain would train and store, without training."""
    from chains.loading import find_chain, load
    from chains.settings import get_settings
    from chains.spec import FinetuneStep
    from chains.store import open_store
    from tasks.finetune import count_parameters
    from tasks.providers.weights import Reach

    settings = get_settings()
    chain_file = load(find_chain(chain), settings=settings)
    reach = Reach(chain_file.folder, read_outside=settings.read_outside)
    with open_store(store or settings.store) as opened:
        found = [
            {"step": name, "method": step.finetune}
            | asdict(count_parameters(step, name, chain_file, store=opened, reach=reach))
            for name, step in chain_file.chain.steps.items()
            if isinstance(step, FinetuneStep) and step.finetune != "openai"
        ]
    if as_json:
        print_json(found)
    elif not found:
        print("The chain has no finetune step that trains on this machine.")
    else:
        lines = [{key: _thousands(value) for key, value in one.items()} for one in found]
        print(table(lines, right=frozenset({"total", "trained", "stored"})))


@app.command()
def promote(model: VersionArgument, store: StoreOption = None) -> None:
    """Make a version the one that `models:NAME@latest` means."""
    with reading(store) as opened:
        row = _version(opened, model)
        opened.promote(row.name, row.version)
    print(f"models:{row.name}@latest is now @{row.version}.")


@app.command()
def rollback(
    name: Annotated[str, typer.Argument(help="Name of the model.", show_default=False)],
    store: StoreOption = None,
) -> None:
    """Make the version before the latest one the latest."""
    with reading(store) as opened:
        now = _version(opened, name)
        earlier = [row.version for row in opened.models(now.name) if row.version < now.version]
        if not earlier:
            raise InputInvalid(f"models:{now.name}@{now.version} has no version before it.")
        opened.promote(now.name, max(earlier))
    print(f"models:{now.name}@latest is now @{max(earlier)}; it was @{now.version}.")


def _version(store: Store, model: str) -> ModelRow:
    name, _, version = model.removeprefix("models:").partition("@")
    if version not in ("", "latest") and not version.isdecimal():
        raise InputInvalid(f"{model!r:.200} names no version.", hint="Write NAME, NAME@latest or NAME@3.")
    row = store.model(name, int(version) if version.isdecimal() else None)
    if row is None:
        known = ", ".join(f"{other.name}@{other.version}" for other in store.models()) or "none"
        raise InputInvalid(f"There is no published model {model!r:.200}.", hint=f"There are: {known}.")
    return row


def _ancestry(store: Store, model: str) -> list[ModelRow]:
    """Return a version and the versions that it was made from, the newest first."""
    found = [_version(store, model)]
    while (base := str(_base(found[-1].base).get("model", ""))).startswith("models:"):
        found.append(_version(store, base))
    return found


def _facts(model: ModelRow) -> dict[str, Any]:
    base = _base(model.base)
    return {
        "model": f"models:{model.name}@{model.version}",
        "latest": model.is_latest,
        "kind": model.kind,
        "base": str(base.get("model") or base.get("provider") or "-"),
        "made_at": iso(model.created_at),
        "run": json.loads(model.lineage or b"{}").get("run_id"),
        "metrics": json.loads(model.metrics or b"{}"),
    }


def _line(model: dict[str, Any]) -> dict[str, Any]:
    metrics = {name: model["metrics"].get(name) for name in SHOWN}
    return {
        "model": model["model"],
        "latest": "yes" if model["latest"] else "",
        "kind": model["kind"],
        "base": model["base"],
        "made": moment(model["made_at"]),
        "run": model["run"],
        "metrics": ", ".join(
            f"{name} {_number(value)}" for name, value in metrics.items() if value is not None
        ),
    }


def _base(base: str | None) -> dict[str, Any]:
    try:
        found = json.loads(base or "{}")
    except ValueError:
        return {"model": base}
    return found if isinstance(found, dict) else {"model": str(found)}


def _thousands(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _number(value: Any) -> str:
    if isinstance(value, dict) and "value" in value:
        value = value["value"]
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)
