"""The Prefect flow `sweep`: marks runs whose process is gone, in the store and in Prefect.

Prefect never learns of a flow process that was killed with -9: its flow run stays `Running`. The lease of the
run in the store tells. `python -m flows.sweep` serves the flow on a schedule.
"""

# No postponed annotations: a runner loads this file by its path, where Prefect finds no names for them.

import argparse

from prefect import flow, get_run_logger

from chains.clock import Clock
from chains.settings import get_settings
from chains.store import open_store
from flows.closing import RECENT, close_lost_runs, crash_flow_runs, crash_parts, with_flow_runs
from flows.store_parameter import StoreParameter, refuse_password


@flow(name="sweep", retries=0, persist_result=False)
async def sweep(store: StoreParameter = None) -> list[str]:
    """Close lost runs, crash their flow runs and those of their parts, and return the ids of the runs."""
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
    return [run.id for run in lost]


def main() -> None:
    """Serve `sweep` on a schedule until stopped."""
    parser = argparse.ArgumentParser(prog="python -m flows.sweep", description=__doc__)
    parser.add_argument("--every", type=float, default=60.0, metavar="SECONDS", help="default: 60")
    arguments = parser.parse_args()
    from flows.sweep import sweep as imported  # a flow of `__main__` could not be found by its processes

    imported.serve(name="sweep", interval=arguments.every, print_starting_message=False)


if __name__ == "__main__":
    main()
