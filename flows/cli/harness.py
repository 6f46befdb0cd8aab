"""`headrace harness`: a named task of lm-eval on a local model or on an endpoint."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import BaseUrlOption, JsonOption, StoreOption


def harness(
    task: Annotated[
        str, typer.Argument(metavar="TASK", help="A task that lm-eval knows, or one of --tasks.")
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="PROVIDER:MODEL",
            help="starter, local:HUB_ID_OR_FOLDER, local:models:NAME@latest or openai:NAME.",
        ),
    ] = "starter",
    base_url: BaseUrlOption = None,
    tasks: Annotated[
        Path | None, typer.Option("--tasks", help="A folder with task files (YAML) of your own.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N rows.")] = None,
    shots: Annotated[
        int | None, typer.Option("--shots", min=0, help="Worked examples before each row.")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Ask a local model through its chat template.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write everything that lm-eval said, as JSON.")
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a task of lm-eval on one model, offline (extra `harness`)."""
    from chains.errors import InputInvalid
    from chains.settings import get_settings
    from chains.spec import Model
    from chains.store import open_store
    from chains.store.files import atomic_write
    from flows.cli.text import print_json, table
    from flows.overriding import granted, other_model
    from flows.request import RunRequest
    from tasks.harness import Asked, run_task
    from tasks.providers.routes import route_of
    from tasks.providers.trust import Trust

    if tasks is not None and not tasks.is_dir():
        raise InputInvalid(f"--tasks {str(tasks)!r} is no folder.")
    settings = get_settings()
    named = other_model(Model(provider="starter"), model, base_url)
    route = None
    if named.provider == "openai":
        request = RunRequest(chain="", models=(model,), base_url=base_url)
        trust = Trust.of(settings, os.environ, granted(request))
        route = route_of(model, named, settings=settings, trust=trust)
    asked = Asked(task, folder=tasks, limit=limit, shots=shots, chat=chat)
    with open_store(store or settings.store) as opened:
        found = run_task(asked, named, store=opened, route=route)
    samples = found.pop("samples")
    if out is not None:
        text = json.dumps({**found, "samples": samples}, ensure_ascii=False, indent=1, default=str)
        atomic_write(out, text.encode())
    if as_json:
        print_json(json.loads(json.dumps(found, default=str)))
        return
    print(table([_line(figure) for figure in found["figures"]], right=frozenset({"value", "rows"})))


def _line(figure: dict[str, object]) -> dict[str, object]:
    return {
        "task": figure["task"],
        "metric": figure["metric"],
        "filter": figure["filter"],
        "value": f"{figure['value']:.3f}",
        "95 % interval": f"{figure['low']:.3f} to {figure['high']:.3f}",
        "rows": figure["n"],
    }
