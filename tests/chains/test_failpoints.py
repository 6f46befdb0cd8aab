"""pytest tests/chains/test_failpoints.py"""

from __future__ import annotations

import ast
import errno
import subprocess
import sys
from pathlib import Path

import pytest

from chains import failpoints

ROOT = Path(failpoints.__file__).parents[1]


@pytest.fixture(autouse=True)
def _read_the_environment_anew(monkeypatch):
    monkeypatch.setattr(failpoints, "_actions", None)
    monkeypatch.delenv(failpoints.VARIABLE, raising=False)


def points_in_source() -> set[str]:
    found = set()
    for package in ("chains", "tasks", "flows"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_bytes())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "failpoints.hit":
                    found.add(ast.literal_eval(node.args[0]))
    return found


def test_the_listed_points_are_those_that_the_source_reaches():
    assert points_in_source() == failpoints.POINTS


def test_a_point_does_nothing_when_the_variable_is_unset():
    failpoints.hit("store.group.before_commit")
    assert failpoints._actions == {}


def test_the_environment_is_read_once(monkeypatch):
    failpoints.hit("store.group.before_commit")
    monkeypatch.setenv(failpoints.VARIABLE, "store.group.before_commit=raise")
    failpoints.hit("store.group.before_commit")


def test_raise_acts_at_its_own_point_only(monkeypatch):
    monkeypatch.setenv(failpoints.VARIABLE, "store.group.before_commit=raise")
    failpoints.hit("store.group.after_commit")
    with pytest.raises(failpoints.FailpointHit, match=r"store\.group\.before_commit"):
        failpoints.hit("store.group.before_commit")


def test_a_count_acts_at_that_hit_only(monkeypatch):
    monkeypatch.setenv(failpoints.VARIABLE, "store.group.before_commit=raise@2")
    failpoints.hit("store.group.before_commit")
    with pytest.raises(failpoints.FailpointHit):
        failpoints.hit("store.group.before_commit")
    failpoints.hit("store.group.before_commit")


def test_enospc_raises_what_a_full_disk_raises(monkeypatch):
    monkeypatch.setenv(failpoints.VARIABLE, "store.file.before_write=enospc")
    with pytest.raises(OSError) as caught:
        failpoints.hit("store.file.before_write")
    assert caught.value.errno == errno.ENOSPC


def test_sleep_takes_the_seconds_that_are_given(monkeypatch):
    slept = []
    monkeypatch.setattr(failpoints.time, "sleep", slept.append)
    monkeypatch.setenv(failpoints.VARIABLE, "store.file.before_write=sleep:0.25")
    failpoints.hit("store.file.before_write")
    assert slept == [0.25]


def test_kill_ends_the_process_at_once():
    code = "from chains import failpoints; failpoints.hit('store.file.before_write'); print('alive')"
    environment = {"PYTHONPATH": str(ROOT), failpoints.VARIABLE: "store.file.before_write=kill"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (-9, b"")


@pytest.mark.parametrize(
    "text", ["store.nowhere=kill", "store.file.before_write=explode", "store.file.before_write"]
)
def test_a_name_or_verb_that_does_not_exist_is_refused(text):
    with pytest.raises(ValueError, match="HEADRACE_FAILPOINTS"):
        failpoints.parse(text)


def test_several_points_can_be_named_at_once():
    actions = failpoints.parse("store.file.before_write=kill, store.group.before_commit=sleep:0.5@3,")
    assert actions["store.file.before_write"].verb == "kill"
    assert (actions["store.group.before_commit"].seconds, actions["store.group.before_commit"].only_at) == (
        0.5,
        3,
    )
