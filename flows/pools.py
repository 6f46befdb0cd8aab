"""Work pools and deployments: what Prefect has to know before a flow run can go to another process.

Owns how a pool and a deployment are made, the settings under which a process worker starts a flow run in
seconds, and who serves a pool. Knows nothing of what the flows do. Each function is idempotent: what is
there already stays as somebody has set it up.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import WorkPool
    from prefect.client.schemas.responses import DeploymentResponse

QUERY_SECONDS = 0.5
"""How often a worker of ours asks for work; Prefect's 10 s are most of what a short part would take."""


@dataclass(frozen=True, slots=True)
class PoolState:
    """A pool as the server knows it. `workers`: the names of those that were heard of lately."""

    name: str
    kind: str
    workers: tuple[str, ...]
    paused: bool = False
    limit: int | None = None

    @property
    def served(self) -> bool:
        """Whether somebody may pick up what waits there."""
        return bool(self.workers) and not self.paused


async def ensure_pool(
    client: PrefectClient, name: str, *, kind: str = "process", limit: int | None = None
) -> WorkPool:
    """Return the pool of this name, made if there is none; one that is there stays as it is.

    `limit` is how many flow runs a new pool runs at once, over all its workers.
    """
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    try:
        return await client.read_work_pool(name)
    except ObjectNotFound:
        pass
    wanted = WorkPoolCreate(
        name=name, type=kind, base_job_template=_job_template(kind), concurrency_limit=limit
    )
    try:
        return await client.create_work_pool(wanted)
    except ObjectAlreadyExists:  # somebody else was quicker
        return await client.read_work_pool(name)


async def ensure_deployment(
    client: PrefectClient,
    flow: Flow[..., Any],
    name: str,
    *,
    pool: str,
    tags: Sequence[str] = (),
    parameters: Mapping[str, Any] | None = None,
    description: str | None = None,
    replace: bool = False,
) -> UUID:
    """Return the id of the deployment `FLOW/name` on a pool, made if there is none.

    One that is there stays as it is, unless it is one of another pool or place of the code, or `replace`.
    The flow has to be a module's attribute: workers import it by its name.
    """
    entrypoint = entrypoint_of(flow)
    found = await _deployment(client, f"{flow.name}/{name}")
    if found is not None and not replace and found.entrypoint == entrypoint and found.work_pool_name == pool:
        return found.id
    kind = (await client.read_work_pool(pool)).type
    return await client.create_deployment(
        flow_id=await client.create_flow(flow),
        name=name,
        work_pool_name=pool,
        entrypoint=entrypoint,
        parameters=dict(parameters or {}),
        parameter_openapi_schema=flow.parameters.model_dump_for_openapi(),
        enforce_parameter_schema=True,
        job_variables=process_variables() if kind == "process" else {},
        description=description or flow.description,
        tags=list(tags),
        paused=False,
    )


async def pool_state(client: PrefectClient, name: str) -> PoolState | None:
    """Return how a pool is served, or None where the server has no such pool."""
    from prefect.client.schemas.objects import WorkerStatus
    from prefect.exceptions import ObjectNotFound

    try:
        pool = await client.read_work_pool(name)
    except ObjectNotFound:
        return None
    workers = await client.read_workers_for_work_pool(name)
    online = tuple(sorted(worker.name for worker in workers if worker.status == WorkerStatus.ONLINE))
    return PoolState(name, pool.type, online, bool(pool.is_paused), pool.concurrency_limit)


def entrypoint_of(flow: Flow[..., Any]) -> str:
    """Return the name by which a worker imports a flow."""
    return f"{flow.fn.__module__}.{flow.fn.__name__}"


def process_variables() -> dict[str, Any]:
    """Return the job variables with which a process worker of this machine runs this code, and soon.

    A command of our own saves the second process that Prefect starts to look at a workspace first.
    """
    variables: dict[str, Any] = {"command": f"{sys.executable} -m flows.engine"}
    root = code_root()
    if root is not None:
        path = [str(root), *(part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part)]
        variables["env"] = {"PYTHONPATH": os.pathsep.join(dict.fromkeys(path))}
    return variables


def worker_environment() -> dict[str, str]:
    """Return what a process worker should have in its environment besides its own."""
    environment = {"PREFECT_WORKER_QUERY_SECONDS": str(QUERY_SECONDS)}
    root = code_root()
    if root is not None:
        environment["PYTHONPATH"] = process_variables()["env"]["PYTHONPATH"]
    return environment


def code_root() -> Path | None:
    """Return the folder that the code is imported from, or None where it is installed."""
    root = Path(__file__).resolve().parents[1]
    installed = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}
    return None if root in installed else root


async def _deployment(client: PrefectClient, name: str) -> DeploymentResponse | None:
    from prefect.exceptions import ObjectNotFound

    try:
        return await client.read_deployment_by_name(name)
    except ObjectNotFound:
        return None


def _job_template(kind: str) -> dict[str, Any]:
    """Return the default template of a kind of pool, without which its workers would ignore variables."""
    if kind != "process":
        return {}
    from prefect.workers.process import ProcessWorker

    return ProcessWorker.get_default_base_job_template()
