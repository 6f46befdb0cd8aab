"""The Prefect flow `sweep`: marks runs whose process is gone, in the store and in Prefect.

Prefect never learns of a flow process that was killed with -9: its flow run stays `Running`. The lease of the
run in the store tells. On request it also removes old flow runs from Prefect. `python -m flows.sweep` serves
the flow on a schedule.
"""

# No postponed annotations: a runner loads this file by its path, where Prefect finds no names for them.

import argparse
from datetime import UTC, datetime
from typing import Annotated

from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from pydantic import Field

from chains.clock import Clock
from chains.settings import get_settings
from chains.store import open_store
from flows.closing import RECENT, close_lost_runs, crash_flow_runs, crash_parts, with_flow_runs
from flows.forgetting import forget_flow_runs
from flows.store_parameter import StoreParameter, refuse_password

Days = Annotated[
    float | None,
    Field(gt=0, description="Delete flow runs of Headrace in Prefect this many days after their end."),
]


@flow(name="sweep", retries=0, persist_result=False)
async def sweep(store: StoreParameter = None, forget_after_days: Days = None) -> list[str]:
    """Close lost runs, crash their flow runs and those of their parts, and return the ids of the runs.

    With `forget_after_days`, flow runs of Headrace that ended earlier are deleted in Prefect.
    """
    refuse_password(store)
    with open_store(store or get_settings().store) as opened:
        lost = close_lost_runs(opened, Clock())
        # One may have been closed by hand while Prefect was away.
        recent = opened.runs(limit=RECENT, payloads=False)
    closed = [run for run in recent if run.status in ("interrupted", "cancelled")]
    crashed = await crash_flow_runs(with_flow_runs([*closed, *lost]))
    await crash_parts([run.id for run in [*closed, *lost]])
    logger = get_run_logger()
    for run in lost:
        logger.warning("run %s was lost; `headrace resume %s` finishes it", run.id, run.id)
    logger.info("%d lost runs closed, %d flow runs marked Crashed", len(lost), len(crashed))
    if forget_after_days is not None:
        async with get_client() as client:
            gone = await forget_flow_runs(client, days=forget_after_days, now=datetime.now(UTC))
        logger.info("%d flow runs that ended over %g days ago deleted", gone, forget_after_days)
    return [run.id for run in lost]


def main() -> None:
    """Serve `sweep` on a schedule until stopped."""
    parser = argparse.ArgumentParser(prog="python -m flows.sweep", description=__doc__)
    parser.add_argument("--every", type=float, default=60.0, metavar="SECONDS", help="default: 60")
    parser.add_argument(
        "--forget-after",
        type=float,
        metavar="DAYS",
        help="delete flow runs of Headrace in Prefect this long after their end; default: never",
    )
    arguments = parser.parse_args()
    if arguments.forget_after is not None and arguments.forget_after <= 0:
        parser.error("--forget-after must be more than 0 days")
    from flows.sweep import sweep as imported  # a flow of `__main__` could not be found by its processes

    given = {"forget_after_days": arguments.forget_after}
    # One at a time: on a machine that is busy they would pile up otherwise, each a process of its own.
    imported.serve(
        name="sweep", interval=arguments.every, parameters=given, limit=1, print_starting_message=False
    )


if __name__ == "__main__":
    main()
