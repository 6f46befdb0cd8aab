"""`headrace deploy`: chains become deployments with forms and schedules."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chains.errors import ChainInvalid, EnvironmentLacks, InputInvalid
from flows.cli.options import JsonOption

if TYPE_CHECKING:
    from chains.loading import ChainFile
    from flows.prefect_server import PrefectApi

FolderOption = Annotated[
    Path, typer.Option("--folder", metavar="DIR", help="The folder of the chains. Default: here.")
]
PoolOption = Annotated[
    str, typer.Option("--pool", metavar="NAME", help="The work pool that runs them; made when missing.")
]


def deploy(
    chains: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CHAIN]...", help="Chain files or names. Default: every chain of the folder."
        ),
    ] = None,
    folder: FolderOption = Path(),
    pool: PoolOption = "cpu",
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove the deployments of chains that are gone from the folder.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Register chains with Prefect: each gets a form of its own inputs, its version and its schedules."""
    import asyncio

    files = chains_to_deploy(chains, folder)
    api = api_there()
    facts = asyncio.run(_deploy(files, api, pool=pool, folder=None if chains else folder, prune=prune))
    if as_json:
        from flows.cli.text import print_json

        print_json(facts)
    else:
        _print(facts)


def chains_to_deploy(names: list[str] | None, folder: Path) -> list[ChainFile]:
    """Return the checked chains that are named, or all of a folder; raise with all that is wrong in them."""
    from chains.loading import find_chain, load
    from chains.settings import get_settings
    from flows.chain_files import chain_files

    settings = get_settings()
    files, problems = [], []
    for path in (
        [_in_folder(name, folder) or find_chain(name) for name in names] if names else chain_files(folder)
    ):
        try:
            files.append(load(path, settings=settings))
        except ChainInvalid as error:
            problems += error.problems
    if problems:
        raise ChainInvalid(problems)
    return files


def _in_folder(name: str, folder: Path) -> Path | None:
    """Return the file of a chain of the folder that is named, and not given by its path."""
    from flows.chain_files import chain_files, declared_name

    if not folder.is_dir() or Path(name).exists():
        return None
    try:
        return next((path for path in chain_files(folder) if declared_name(path) == name), None)
    except InputInvalid:
        return None


def api_there() -> PrefectApi:
    """Return the Prefect API that is there, and point Prefect at it; raise EnvironmentLacks where none is."""
    from flows.prefect_server import find

    api = find()
    if api is None:
        raise EnvironmentLacks(
            "no Prefect API is configured, and none answers on Prefect's usual port.",
            hint="`headrace up` starts one; or set PREFECT_API_URL.",
        )
    api.name()
    api.wait(lambda _: None)
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    return api


async def _deploy(
    files: list[ChainFile], api: PrefectApi, *, pool: str, folder: Path | None, prune: bool
) -> dict[str, Any]:
    from dataclasses import asdict

    from prefect.client.orchestration import get_client

    from flows.deploying import deploy_chains, find_gone
    from flows.run_chain import prefect_errors

    with prefect_errors(api.url):
        async with get_client() as client:
            deployed = await deploy_chains(client, files, pool=pool)
            names = [one.chain for one in deployed]
            gone = [] if folder is None else await find_gone(client, folder, names, prune=prune)
    ui = api.url.removesuffix("/api")
    return {
        "deployments": [
            one.facts() | {"form": f"{ui}/deployments/deployment/{one.id}/run"} for one in deployed
        ],
        "gone": [asdict(one) for one in gone],
    }


def _print(facts: dict[str, Any]) -> None:
    from flows.cli.text import safe, table

    lines = [
        {
            "deployment": one["name"],
            "state": one["state"] + (", paused" if one["paused"] else ""),
            "version": one["version"],
            "pool": one["pool"],
            "schedules": ", ".join(one["schedules"]) or "-",
            "form": one["form"],
        }
        for one in facts["deployments"]
    ]
    print(table(lines))
    for one in facts["gone"]:
        done = "removed" if one["removed"] else "still deployed; `--prune` removes it"
        print(f"gone from the folder: {safe(one['chain'])} ({done})")
