"""`python -m flows.engine`: Prefect's engine for one flow run in a process of its own, a little sooner.

Owns the command with which process workers start flow runs. Knows nothing of flow runs: it imports what all
of ours need and hands over to `prefect.engine`.
"""

import gc
import importlib
import runpy
import sys

NEEDED = (
    "prefect.flow_engine",
    "prefect.task_engine",
    "flows.executor",
    "flows.prefect_starter",
    "chains.loading",
)


def main() -> None:
    """Run the flow run that the environment names, as `python -m prefect.engine` does."""
    # None of what is imported is garbage; to look for some among it takes a sixth of the time.
    gc.disable()
    for module in NEEDED:
        importlib.import_module(module)
    sys.modules.pop("prefect.engine", None)  # it is run, as the main module, and not imported
    gc.freeze()
    gc.enable()
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
