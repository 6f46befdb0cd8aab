"""The setting `task_runner` becomes a Prefect task runner, or one sentence about what is missing."""

from __future__ import annotations

import sys

import pytest
from pydantic import ValidationError

from chains.errors import EnvironmentLacks
from chains.settings import Settings
from flows.task_runners.opening import make_task_runner


@pytest.mark.parametrize(
    "value", ["dask", "ray", "dask:4", "dask:tcp://10.0.0.1:8786", "ray:ray://head:10001"]
)
def test_what_the_setting_takes(value: str) -> None:
    assert Settings(task_runner=value).task_runner == value


@pytest.mark.parametrize("value", ["", "spark", "dask:", "dask:0", "dask:host:8786", "Dask", "ray:auto"])
def test_what_the_setting_refuses(value: str) -> None:
    with pytest.raises(ValidationError):
        Settings(task_runner=value)


def test_a_local_dask_cluster_has_one_thread_for_each_process_and_no_dashboard() -> None:
    runner = make_task_runner("dask:3")
    assert runner.cluster_kwargs == {"n_workers": 3, "threads_per_worker": 1, "dashboard_address": None}
    assert make_task_runner("dask:tcp://10.0.0.1:8786").address == "tcp://10.0.0.1:8786"


@pytest.mark.parametrize(("extra", "package"), [("dask", "prefect_dask"), ("ray", "ray")])
def test_a_missing_extra_is_one_sentence_with_the_command(
    monkeypatch: pytest.MonkeyPatch, extra: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as Python does it for a package that is not there
    monkeypatch.setitem(sys.modules, f"{package}.task_runners", None)
    with pytest.raises(EnvironmentLacks, match=r"pip install 'headrace\[" + extra) as caught:
        make_task_runner(extra)
    assert "HEADRACE_TASK_RUNNER" in str(caught.value)
