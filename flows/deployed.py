"""Deployed chains as Prefect flows: `flows.deployed.NAME` is the flow of the chain NAME.

Workers import the flow by that name after the deployment's pull step has gone to the chain's folder. Owns how
the parameters of the chain's own form reach `run_chain`. The runs are runs of the flow `run-chain`, as those
of the command line are.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from prefect import Flow, get_run_logger
from prefect.runtime import deployment, flow_run
from prefect.states import Failed

from chains.loading import ChainFile, load
from chains.settings import get_settings
from flows.chain_files import chain_file_named
from flows.forms import DATA, OPTIONS, VARIANTS, asked_for
from flows.prefect_starter import RowsFailed
from flows.run_chain import run_chain
from flows.run_variant import run_variants
from flows.telling import tell_result
from flows.varying import check_variants


def __getattr__(name: str) -> Flow[..., Any]:
    """Return the flow of a chain in the working folder."""
    if name.startswith("_"):
        raise AttributeError(f"module 'flows.deployed' has no attribute {name!r}")
    return flow_of(load(chain_file_named(name, Path.cwd()), settings=get_settings()))


def flow_of(chain_file: ChainFile) -> Flow[..., Any]:
    """Return the flow whose parameters are the chain's inputs, `data`, `variants` and `options`."""

    async def run_deployed(**parameters: Any) -> Any:
        await _tell_change(chain_file)
        settings = get_settings()
        variants = parameters.pop(VARIANTS, None) or []
        check_variants(chain_file, variants, settings)
        asked = asked_for(chain_file, parameters, settings=settings)
        try:
            result = await run_chain.fn(chain=str(chain_file.path.absolute()), **asked)
            went_well = isinstance(result, dict) and result["status"] == "ok"
            if went_well and variants:
                await run_variants(chain_file, result["run_id"], variants)
            return result
        except RowsFailed as error:  # as a state: a traceback through Prefect would tell nobody anything
            return Failed(message=str(error))
        finally:
            await tell_result(str(flow_run.id))

    fields = [*chain_file.chain.inputs, DATA, VARIANTS, OPTIONS]
    run_deployed.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # what Prefect binds by
        [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in fields]
    )
    return Flow(
        run_deployed,
        name=run_chain.name,
        flow_run_name=chain_file.chain.chain,
        description=chain_file.chain.description,
        retries=0,
        persist_result=False,
        log_prints=True,
        validate_parameters=False,  # the server checks them by the form, and the run by the chain
    )


async def _tell_change(chain_file: ChainFile) -> None:
    """Say so where the chain has changed since it was deployed: the form may be an old one."""
    deployed = deployment.version
    if deployed and deployed != chain_file.version:
        get_run_logger().warning(
            "The chain has changed since it was deployed (%s, now %s); `headrace deploy` updates its form.",
            deployed,
            chain_file.version,
        )
