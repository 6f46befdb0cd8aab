"""Registers chains with Prefect: per chain one deployment with a form of its own, its version and schedules.

Owns what a deployment of a chain is called and made of, and which ones are ours. Knows nothing of how their
runs are run (flows.deployed). What a file says goes; only a pause that somebody set in Prefect stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from zoneinfo import ZoneInfo

from chains.errors import InputInvalid
from flows.forms import DATA, OPTIONS, form_of
from flows.pools import ensure_pool, process_variables

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.responses import DeploymentResponse

    from chains.loading import ChainFile
    from chains.spec import Schedule

FLOW = "run-chain"
TAG = "headrace"
ENTRYPOINT = "flows.deployed."
_PULL = "prefect.deployments.steps.set_working_directory"
_ANCHOR = datetime(2020, 1, 1)


@dataclass(frozen=True, slots=True)
class Deployed:
    """A chain's deployment as it is now. `name` is what `run_deployment` takes."""

    chain: str
    name: str
    id: str
    version: str
    state: Literal["made", "updated", "unchanged"]
    pool: str
    paused: bool
    schedules: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self) | {"schedules": list(self.schedules)}


@dataclass(frozen=True, slots=True)
class Gone:
    """A deployment whose chain is not in its folder any more."""

    chain: str
    id: str
    folder: str
    removed: bool


async def deploy_chains(client: PrefectClient, files: Sequence[ChainFile], *, pool: str) -> list[Deployed]:
    """Make or update the deployments of chains on a pool, which is made when it is missing.

    Raises InputInvalid for two chains of one name, before anything is changed.
    """
    forms = {file.chain.chain: form_of(file.chain) for file in files}
    _refuse_twins(files)
    variables = await _job_variables(client, pool)
    flow_id = await client.create_flow_from_name(FLOW)
    deployed = []
    for file in files:
        name = file.chain.chain
        earlier = await _earlier(client, name)
        wanted = _wanted(file, forms[name], pool, variables)
        state = _state(earlier, wanted)
        if earlier is None or state != "unchanged":
            paused = earlier.paused if earlier is not None else False
            id_ = await client.create_deployment(flow_id=flow_id, name=name, paused=paused, **wanted)
        else:
            paused, id_ = earlier.paused, earlier.id
        schedules = tuple(file.chain.schedule)
        version = file.version
        deployed.append(
            Deployed(name, f"{FLOW}/{name}", str(id_), version, state, pool, bool(paused), schedules)
        )
    return deployed


async def find_gone(
    client: PrefectClient, folder: Path, present: Sequence[str], *, prune: bool
) -> list[Gone]:
    """Return our deployments of chains that were in a folder and are not; `prune` removes them."""
    found = []
    root = folder.resolve()
    for deployment in await _ours(client):
        at = Path(deployment.path or "/")
        if deployment.name in present or not (at == root or at.parent == root):
            continue
        if prune:
            await client.delete_deployment(deployment.id)
        found.append(Gone(deployment.name, str(deployment.id), str(at), prune))
    return found


async def _ours(client: PrefectClient) -> list[DeploymentResponse]:
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags

    tagged = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
    found: list[DeploymentResponse] = []
    while True:
        page = await client.read_deployments(deployment_filter=tagged, limit=200, offset=len(found))
        found += page
        if len(page) < 200:
            return [one for one in found if (one.entrypoint or "").startswith(ENTRYPOINT)]


def _refuse_twins(files: Sequence[ChainFile]) -> None:
    places: dict[str, ChainFile] = {}
    for file in files:
        twin = places.setdefault(file.chain.chain, file)
        if twin is not file:
            raise InputInvalid(
                f"{str(twin.path)!r} and {str(file.path)!r} are both the chain {file.chain.chain!r}.",
                hint="A deployment has the name of its chain: rename one of them.",
            )


async def _job_variables(client: PrefectClient, pool: str) -> dict[str, Any]:
    kind = (await ensure_pool(client, pool)).type
    return process_variables() if kind == "process" else {}


async def _earlier(client: PrefectClient, name: str) -> DeploymentResponse | None:
    from prefect.exceptions import ObjectNotFound

    try:
        return await client.read_deployment_by_name(f"{FLOW}/{name}")
    except ObjectNotFound:
        return None


def _wanted(
    file: ChainFile, form: Mapping[str, Any], pool: str, variables: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the deployment is to be made of."""
    chain, folder = file.chain, str(file.folder.resolve())
    version = file.version
    return {
        "version": version,
        "description": f"{chain.description}\n\nChain `{chain.chain}`, version `{version}`.".strip(),
        "tags": [TAG, f"chain:{chain.chain}"],
        "entrypoint": f"{ENTRYPOINT}{chain.chain}",
        "path": folder,
        "pull_steps": [{_PULL: {"directory": folder}}],
        "work_pool_name": pool,
        "job_variables": dict(variables),
        "parameter_openapi_schema": dict(form),
        "enforce_parameter_schema": True,
        "schedules": [_schedule(name, schedule) for name, schedule in chain.schedule.items()],
    }


def _schedule(name: str, said: Schedule) -> DeploymentScheduleCreate:
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule

    rule: CronSchedule | IntervalSchedule | RRuleSchedule
    if said.cron is not None:
        rule = CronSchedule(cron=said.cron, timezone=said.timezone)
    elif said.rrule is not None:
        rule = RRuleSchedule(rrule=said.rrule, timezone=said.timezone)
    else:
        assert said.interval is not None  # a schedule has one rule
        rule = IntervalSchedule(
            interval=timedelta(seconds=said.interval),
            timezone=said.timezone,
            anchor_date=_ANCHOR.replace(tzinfo=ZoneInfo(said.timezone)),
        )
    parameters: dict[str, Any] = dict(said.inputs)
    if said.data is not None:
        parameters[DATA] = said.data
    if said.limit is not None:
        parameters[OPTIONS] = {"limit": said.limit}
    return DeploymentScheduleCreate(schedule=rule, active=said.active, parameters=parameters, slug=name)


def _state(
    earlier: DeploymentResponse | None, wanted: Mapping[str, Any]
) -> Literal["made", "updated", "unchanged"]:
    if earlier is None:
        return "made"
    for name, value in wanted.items():
        there = getattr(earlier, name)
        if name == "schedules":
            same = _comparable(there) == _comparable(value)
        elif name == "tags":
            same = set(there) == set(value)
        else:
            same = there == value
        if not same:
            return "updated"
    return "unchanged"


def _comparable(schedules: Sequence[Any]) -> dict[str, Any]:
    return {one.slug: (one.schedule.model_dump(mode="json"), one.active, one.parameters) for one in schedules}
