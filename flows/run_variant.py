"""The Prefect flow `run-variant`: a variant of a chain beside a run of it, within the deployed chain's run.

Owns how variants look in Prefect: a flow run each below that of the chain, and one table that compares them.
What a variant is, and what it comes to, is told elsewhere.
"""

# No postponed annotations: a runner loads this file by its path, where Prefect finds no names for them.

from collections.abc import Sequence
from typing import Any

from prefect import flow

from chains.loading import ChainFile, load
from chains.settings import get_settings
from chains.store import open_store
from flows.artifacts import markdown_table
from flows.prefect_starter import RowsFailed
from flows.resuming import find_run
from flows.run_chain import carry_out
from flows.varying import begun_variant, beside, compared, replay_of


@flow(
    name="run-variant",
    flow_run_name="variant · {variant}",
    retries=0,
    log_prints=True,
    persist_result=False,
)
async def run_variant(chain: str, run: str, variant: str) -> dict[str, Any]:
    """Run a variant of a chain as a fork of a run of it, or go on with the one that was begun.

    `chain` is the file, `run` the run of the chain as it is. Returns what `run-chain` returns.
    """
    settings = get_settings()
    chain_file = load(chain, settings=settings)
    with open_store(settings.store) as store:
        begun = begun_variant(store, find_run(store, run), chain_file, variant)
    asked = replay_of(run, chain_file.chain, variant)
    return await carry_out(asked, None, resume=begun.id if begun is not None else None)


async def run_variants(chain_file: ChainFile, base: str, names: Sequence[str]) -> None:
    """Run variants one after the other as flow runs of their own, and leave a table that compares them.

    Raises RowsFailed, after all have run, where one did not go well.
    """
    from prefect.artifacts import acreate_markdown_artifact

    path = str(chain_file.path.absolute())
    for name in names:
        await run_variant(path, base, name, return_state=True)  # a failed one is told below
    page, failed = [], []
    with open_store(get_settings().store) as store:
        run = find_run(store, base)
        for name in names:
            fork = begun_variant(store, run, chain_file, name)
            if fork is None or fork.status != "ok":
                failed.append(name)
            if fork is not None:
                page += variant_page(name, compared(store, run, fork))
    key = f"{chain_file.chain.chain}-variants".replace("_", "-")
    await acreate_markdown_artifact("\n\n".join(page) or "None was run.", key=key, description=f"run {base}")
    if failed:
        raise RowsFailed(f"variant {', '.join(failed)} did not go well; the chain as it is did (run {base})")


def variant_page(name: str, found: dict[str, Any]) -> list[str]:
    """Return what a variant came to beside the chain as it is, as blocks of Markdown."""
    from flows.cli.diff import metric_line

    ran = ", ".join(found["steps"]) or "nothing"
    blocks = [f"## {name} · {found['status']}", f"It ran {ran}.", markdown_table(beside(name, found))]
    if found["metrics"]:
        blocks.append(markdown_table([metric_line(line) for line in found["metrics"]]))
    return [*blocks, f"`headrace show {found['run_id']}`"]
