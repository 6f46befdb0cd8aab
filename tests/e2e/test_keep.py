"""`headrace prune`, `export` and `verify --rebuild`, in processes of their own."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.e2e


@pytest.fixture
def ran(desk):
    """The desk after a run of two tickets."""
    done = desk.headrace("run", str(desk.chain), "--data", str(desk.tickets(2)), "--direct")
    assert done.code == 0, done.err
    return desk


def test_a_run_is_exported_as_lines_and_as_parquet(ran) -> None:
    printed = [json.loads(line) for line in ran.headrace("export", "last").out.splitlines()]
    assert {row["row"] for row in printed if row["step"] == "triage"} == {0, 1}
    assert all(row["messages"] for row in printed if row["step"] == "triage")
    done = ran.headrace("export", "last", "--format", "parquet", "--out", "run.parquet", "--step", "triage")
    assert done.code == 0, done.err
    import pyarrow.parquet as pq

    (path,) = ran.folder.rglob("run.parquet")
    table = pq.read_table(path).to_pylist()
    assert [json.loads(row["output"]) for row in table] == [
        row["output"] for row in printed if row["step"] == "triage"
    ]
    assert ran.headrace("export", "last", "--format", "parquet").code == 2
    assert ran.headrace("export", "last", "--format", "xlsx").code == 2


@pytest.mark.slow
def test_a_lost_database_is_rebuilt_with_every_record(ran) -> None:
    shown = ran.headrace("show", "last", "--json").json()
    for path in ran.store.glob("headrace.db*"):
        path.unlink()
    assert ran.headrace("verify").code == 3
    done = ran.headrace("verify", "--rebuild", "--json")
    assert done.code == 0, done.err
    assert done.json() == {"ok": True, "problems": [], "runs_rebuilt": [shown["run"]]}
    again = ran.headrace("show", "last", "--json").json()
    assert again == shown
    assert "0 runs" in ran.headrace("verify", "--rebuild").out


@pytest.mark.slow
def test_pruning_says_first_what_would_go(ran) -> None:
    asked = ran.headrace("prune", "last")
    assert asked.code == 0 and "Would remove 1 runs" in asked.out and "--yes" in asked.out
    assert len(ran.headrace("runs", "--json").json()) == 1
    assert ran.headrace("prune", "--older-than", "1h", "--yes", "--json").json()["runs"] == []
    assert len(ran.headrace("prune", "last", "--yes", "--json").json()["runs"]) == 1
    assert ran.headrace("runs", "--json").json() == []
    assert ran.headrace("verify", "--rebuild").code == 0
    assert ran.headrace("runs", "--json").json() == []


@pytest.mark.parametrize("arguments", [(), ("--older-than", "soon"), ("nothing",)])
def test_what_cannot_be_pruned_is_a_usage_error(ran, arguments) -> None:
    assert ran.headrace("prune", *arguments).code == 2
