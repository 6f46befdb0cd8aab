"""The Prefect flow `replay`: a fork of a run, started from the Prefect UI or by a deployment.

Owns the fields of its form. What a fork is, and how it runs, is told elsewhere.
"""

# No postponed annotations: a runner loads this file by its path, where Prefect finds no names for them.

from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows.request import Replay
from flows.run_chain import carry_out
from flows.store_parameter import StoreParameter, refuse_password


def _flow_run_name() -> str:
    return f"replay · {str(flow_run.parameters.get('run', 'run'))[:64]}"


@flow(name="replay", flow_run_name=_flow_run_name, retries=0, log_prints=True, persist_result=False)
async def replay(  # noqa: PLR0917 - the fields of the form in the Prefect UI
    run: str,
    start: str | None = None,
    edits: dict[str, Any] | None = None,
    models: dict[str, str] | None = None,
    fresh: bool = False,
    samples: int | None = None,
    budget: dict[str, float] | None = None,
    store: StoreParameter = None,
) -> dict[str, Any]:
    """Make a fork of a run: edited steps and what needs them run, everything else is linked.

    `run` is a run's id or `last`; `start` a step, or some of its rows, such as `triage[row 3]`; `edits` are
    new values by target: `triage.prompt`, `triage.temperature`, `inputs.tone`; `models` gives a step another
    model; `fresh` asks the step of `start` anew, `samples` so many times; `budget` is what the fork may spend
    (`usd`, `tokens`, `calls`). Returns what `run-chain` returns.
    """
    refuse_password(store)
    asked = Replay(
        run,
        start=start,
        edits=edits or {},
        models=models or {},
        fresh=fresh,
        samples=samples,
        budget=budget,
    )
    return await carry_out(asked, store)
