"""Make the pools, queues, deployments and automations of this folder: `python deployments/apply.py`.

Goes to the API that PREFECT_API_URL names. May be run again after every change: what is there is updated, and
nothing else is touched. Knows nothing of how pools are served or images are built.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound

HERE = Path(__file__).resolve().parent
KINDS = ("process", "docker", "kubernetes")


def job_template(pool: str, kind: str) -> dict[str, Any]:
    """Return the base job template of a pool: containers differ by pool, processes do not."""
    name = kind if kind == "process" else f"{kind}-{pool}"
    found: dict[str, Any] = json.loads((HERE / "pools" / f"{name}.json").read_text())
    return found


async def apply_pool(
    client: PrefectClient, name: str, wanted: Mapping[str, Any], *, kind: str, limit: int | None
) -> None:
    """Make a pool, or give the one of this name its template, limit and queues."""
    template, limit = job_template(name, kind), limit or wanted["concurrency_limit"]
    try:
        found = await client.read_work_pool(name)
    except ObjectNotFound:
        made = WorkPoolCreate(name=name, type=kind, base_job_template=template, concurrency_limit=limit)
        await client.create_work_pool(made)
    else:
        if found.type != kind:
            raise SystemExit(f"The pool {name!r} is of kind {found.type!r}, not {kind!r}: delete it first.")
        changed = WorkPoolUpdate(base_job_template=template, concurrency_limit=limit)
        await client.update_work_pool(name, changed)
    there = {queue.name: queue for queue in await client.read_work_queues(work_pool_name=name)}
    for queue, options in wanted["queues"].items():
        if queue in there:
            await client.update_work_queue(there[queue].id, **{"concurrency_limit": None, **options})
        else:
            await client.create_work_queue(queue, work_pool_name=name, **options)


async def apply_automation(client: PrefectClient, wanted: AutomationCore) -> None:
    """Make an automation, or update the one of this name."""
    found = await client.read_automations_by_name(wanted.name)
    if found:
        await client.update_automation(found[0].id, wanted)
    else:
        await client.create_automation(wanted)


async def apply(kind: str, gpus: int | None) -> None:
    """Make everything but the deployments."""
    async with get_client() as client:
        for name, wanted in yaml.safe_load((HERE / "pools.yaml").read_text()).items():
            await apply_pool(client, name, wanted, kind=kind, limit=gpus if name == "gpu" else None)
        for path in sorted((HERE / "automations").glob("*.yaml")):
            await apply_automation(client, AutomationCore.model_validate(yaml.safe_load(path.read_text())))


def main() -> int:
    """Apply the folder; return the exit status of `prefect deploy`."""
    parser = argparse.ArgumentParser(prog="python deployments/apply.py", description=__doc__)
    parser.add_argument(
        "--kind", choices=KINDS, default="process", help="what the pools start; default: process"
    )
    parser.add_argument(
        "--gpus", type=int, metavar="N", help="how many devices the pool `gpu` has; default: 1"
    )
    options = parser.parse_args()
    asyncio.run(apply(options.kind, options.gpus))
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file"]
    return subprocess.run([*command, str(HERE / "prefect.yaml")], cwd=HERE.parent, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
