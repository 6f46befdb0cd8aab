"""Makes the Prefect task runner that the setting `task_runner` names.

Owns what the two products are asked for, and the word about a package that is not installed. Knows nothing
of what runs on them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from chains.errors import EnvironmentLacks

if TYPE_CHECKING:
    from prefect.task_runners import TaskRunner


def make_task_runner(setting: str) -> TaskRunner[Any]:
    """Return the task runner of a setting such as `dask:4` or `ray:ray://head:10001`; it is not started.

    Raises EnvironmentLacks where its extra is not installed.
    """
    kind, _, where = setting.partition(":")
    address, workers = (where, None) if "://" in where else (None, int(where) if where else None)
    runner: TaskRunner[Any] = _dask(address, workers) if kind == "dask" else _ray(address, workers)
    return runner


def _dask(address: str | None, workers: int | None) -> Any:
    try:
        from dask.system import CPU_COUNT
        from prefect_dask.task_runners import DaskTaskRunner
    except ModuleNotFoundError as error:
        raise _lacks("dask", error) from error
    if address:
        return DaskTaskRunner(address=address)
    # One thread for each process: a unit is an event loop of its own, and two would share one interpreter.
    cluster = {"n_workers": workers or CPU_COUNT, "threads_per_worker": 1, "dashboard_address": None}
    return DaskTaskRunner(cluster_kwargs=cluster)


def _ray(address: str | None, workers: int | None) -> Any:
    try:
        import ray  # noqa: F401 - prefect-ray would miss it only later
        from prefect_ray.task_runners import RayTaskRunner
    except ModuleNotFoundError as error:
        raise _lacks("ray", error) from error
    # What workers print is in their logs: here it would come between what the command line prints.
    options = {"log_to_driver": False}
    if address:
        return RayTaskRunner(address=address, init_kwargs=options)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to others unless somebody says so
    return RayTaskRunner(init_kwargs={**options, "include_dashboard": False, "num_cpus": workers})


def _lacks(extra: str, error: ModuleNotFoundError) -> EnvironmentLacks:
    return EnvironmentLacks(
        f"HEADRACE_TASK_RUNNER asks for {extra.capitalize()}, and {error.name!r} is not installed.",
        hint=f"`pip install 'headrace[{extra}]'`, or unset it.",
    )
