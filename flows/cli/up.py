"""`headrace up`: a Prefect server, workers and the chains of a folder, in the foreground until Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chains.errors import StepFailed
from flows.cli.options import StoreOption

if TYPE_CHECKING:
    from chains.loading import ChainFile
    from flows.deploying import Deployed, Gone
    from flows.standing import Standing

CPU_POOL, GPU_POOL = "cpu", "gpu"
_NOISE = re.compile(
    r"deployment (pull )?step|All deployment steps completed|^\s*$|^[ |]*[_\\/ |]{12,}$"
    r"|^Configure Prefect|prefect config set|^View the API|^Check out the dashboard"
)
"""Lines that say the same for every run or server; addresses are told once all stands."""
_COLOURS = {"server": "35", CPU_POOL: "36", GPU_POOL: "33"}


def up(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="The chains. Default: here.")] = Path(),
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Of the server.")] = 4200,
    gpu: Annotated[
        bool | None,
        typer.Option("--gpu/--no-gpu", help="Serve the pool `gpu`. Default: where a GPU is found."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="Runs at once on the pool `cpu`. Default: the number of cores."),
    ] = None,
    store: StoreOption = None,
) -> None:
    """Bring up a Prefect server, workers and the chains of a folder; Ctrl-C takes all down."""
    from flows.cli.deploy import chains_to_deploy
    from flows.standing import Standing

    files = chains_to_deploy(None, folder)
    standing = Standing(_say, _absolute_store(store))
    with _two_signals() as (stopped, hurry):
        try:
            standing.start_server(port)
            devices = _devices(gpu)
            standing.wait_for_server(stopped)
            if not stopped.is_set():
                _bring_up(standing, files, folder, devices=devices, limit=limit or os.cpu_count() or 2)
            _watch(standing, stopped)
        finally:
            print("\nStopping; once more ends everything at once.", file=sys.stderr)
            standing.close(hurry)
    print("All is down.", file=sys.stderr)


def _bring_up(
    standing: Standing, files: list[ChainFile], folder: Path, *, devices: list[str], limit: int
) -> None:
    import asyncio

    from flows.run_chain import prefect_errors
    from flows.standing import register

    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO")
    pools = [CPU_POOL, *([GPU_POOL] if devices else [])]
    with prefect_errors(standing.api.url):
        deployed, gone = asyncio.run(register(files, folder, pools=pools, gpu_limit=1))
    standing.start_worker(CPU_POOL, limit=limit)
    if devices:
        standing.start_part_worker(GPU_POOL)
    _print_addresses(standing, deployed, gone, devices)


def _print_addresses(
    standing: Standing, deployed: list[Deployed], gone: list[Gone], devices: list[str]
) -> None:
    from flows.cli.text import safe
    from flows.prefect_server import USUAL_URL, without_password

    ui = without_password(standing.api.url).removesuffix("/api")
    whose = "started here" if standing.server is not None else "was up already"
    print(f"\nPrefect  {ui}  ({whose})")
    print(f"store    {safe(without_password(standing.store))}")
    print(f"pools    {CPU_POOL}" + (f", {GPU_POOL} ({devices[0]})" if devices else ""))
    for one in deployed:
        asleep = ", paused" if one.paused else ""
        print(f"chain    {one.chain}  {one.version}{asleep}  {ui}/deployments/deployment/{one.id}/run")
    for left in gone:
        print(f"gone     {safe(left.chain)}: `headrace deploy --prune` removes its deployment")
    if standing.api.url != USUAL_URL:
        print(f"\nFor other commands: export PREFECT_API_URL={without_password(standing.api.url)}")
    print("Ctrl-C takes all down.\n", flush=True)


def _watch(standing: Standing, stopped: threading.Event) -> None:
    """Return when the user asks to stop; raise where a child has ended by itself."""
    while not stopped.wait(0.3):
        child = standing.ended()
        if child is not None and not stopped.is_set():
            raise StepFailed(f"the {child.name} has ended by itself; its last lines are above.")


@contextmanager
def _two_signals() -> Iterator[tuple[threading.Event, threading.Event]]:
    """Give two events: the first SIGINT or SIGTERM sets one, the second the other."""
    stopped, hurry = threading.Event(), threading.Event()

    def signalled(_number: int, _frame: object) -> None:
        (hurry if stopped.is_set() else stopped).set()

    old = {number: signal.signal(number, signalled) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped, hurry
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _devices(gpu: bool | None) -> list[str]:
    from flows.standing import accelerators_here

    if gpu is False:
        return []
    return accelerators_here() or (["no accelerator found: its steps run on the CPU"] if gpu else [])


def _absolute_store(store: str | None) -> str:
    """Return the store so that processes in other folders mean the same."""
    from chains.settings import get_settings

    location = store or get_settings().store
    return location if "://" in location else str(Path(location).absolute())


def _say(name: str, line: str) -> None:
    """Print a line of a child with its name in front."""
    from flows.cli.text import safe

    if _NOISE.search(line):
        return
    label = f"{name:<6} |"
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        label = f"\x1b[{_COLOURS.get(name, '0')}m{label}\x1b[0m"
    print(f"{label} {safe(line)}", flush=True)
