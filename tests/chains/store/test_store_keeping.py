"""pytest tests/chains/store/test_store_keeping.py"""

from __future__ import annotations

import dataclasses
import os
import sqlite3
from functools import partial

import pytest
from sqlalchemy import Connection, delete

from chains.errors import InputInvalid, StoreConflict
from chains.store import CollectionRow, Limit, ModelRow, StepRow, Usage, open_store, open_to_rebuild
from chains.store.schema import records, runs, steps

EVERYWHERE = pytest.mark.parametrize(
    "backend", ["sqlite", "postgres", "sqlite-s3", "postgres-s3"], indirect=True
)
LOCAL = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
BIG = bytes(range(256)) * 400
KEY = "k" * 64


@pytest.fixture
def finished(store, run_row, step_row, record_row, attempt_row):
    """The store with its run at an end: two records, one of them large, and their attempts."""
    used = {"state": "ok", "response": BIG, "status": 200, "tokens_in": 5, "finished_at": 104.0}
    store.put(
        record_row(0, value_key=KEY, output=b'{"text": "yes"}', inputs=b'{"a": [1]}', finished_at=105.0),
        record_row(1, output=BIG, error=b"no json", attempts=1),
        attempt_row(1, request=b"ask", **used),
        dataclasses.replace(step_row, status="ok", finished_at=106.0),
        dataclasses.replace(run_row, status="ok", finished_at=107.0),
    )
    return store


@pytest.fixture
def later(finished, run_row, step_row, record_row):
    """A later run, which reused an answer of the first twice."""
    finished.put(
        dataclasses.replace(run_row, id="run2", status="ok", started_at=200.0, finished_at=207.0),
        dataclasses.replace(step_row, run_id="run2", status="ok"),
        *(
            record_row(
                row,
                id=f"link-{row}",
                run_id="run2",
                value_key=KEY,
                output=b'{"text": "yes"}',
                reused_from="record-0",
                finished_at=205.0 + row,
            )
            for row in range(2)
        ),
    )
    return finished


# Pruning


@EVERYWHERE
def test_pruning_by_age_removes_the_run_and_the_blobs_that_only_it_needs(later, files):
    report = later.prune(before=150.0, grace=0)
    assert (report.runs, report.records, report.attempts, report.blobs) == (["run1"], 2, 1, 1)
    assert [run.id for run in later.runs()] == ["run2"]
    assert later.attempts_of_run("run1") == [] and later.steps("run1") == []
    assert files.all() == []
    assert later.verify() == []


def test_an_answer_that_a_later_run_reused_stays_reusable(later):
    later.prune(runs=["run1"])
    found = later.reusable([KEY])[KEY]
    assert found.run_id == "run2" and found.output == b'{"text": "yes"}'
    assert [record.reused_from for record in later.records("run2")] == [None, "link-0"]


def test_a_dry_run_counts_and_removes_nothing(later):
    report = later.prune(before=1000.0, dry_run=True)
    assert (report.runs, report.records, report.attempts) == (["run1", "run2"], 4, 1)
    assert len(later.runs()) == 2


def test_a_run_that_is_running_or_unknown_is_not_pruned(store):
    with pytest.raises(StoreConflict, match="is running"):
        store.prune(runs=["run1"])
    with pytest.raises(InputInvalid, match="no run 'nothing'"):
        store.prune(runs=["nothing"])
    assert store.prune(before=1e12).runs == []


def test_models_collections_and_their_files_outlive_the_run_that_made_them(finished, files):
    sha = finished.put_blob(BIG[1:])
    listed = b'{"weights": "%s"}' % sha.encode()
    finished.publish(ModelRow(name="m", kind="full", files=listed, sha256=sha, created_at=1.0))
    finished.prune(before=1e12, grace=0)
    assert finished.runs() == []
    assert finished.get_blob(sha) == BIG[1:]
    assert finished.model("m") is not None


@EVERYWHERE
def test_files_that_only_pruned_runs_named_go_with_them(later, run_row, record_row, files):
    chain, shared, train, kept = (later.put_blob(f"file {number}".encode()) for number in range(4))
    both = b'{"a": "%s", "b": "%s"}' % (chain.encode(), shared.encode())
    later.put(
        dataclasses.replace(run_row, status="ok", finished_at=107.0, files=both),
        record_row(-1, output=b'{"files": {"train": "%s", "test": "%s"}}' % (train.encode(), kept.encode())),
        dataclasses.replace(later.run("run2"), files=b'{"b": "%s"}' % shared.encode()),
        record_row(-1, id="again", run_id="run2", output=b'{"files": {"test": "%s"}}' % kept.encode()),
    )
    later.prune(runs=["run1"], grace=0)
    assert [later.get_blob(sha) for sha in (shared, kept)] == [b"file 1", b"file 3"]
    assert len(files.all()) == 2, "the files that nothing names any more are gone"
    later.prune(runs=["run2"], grace=0)
    assert files.all() == []


def test_pictures_of_an_evaluation_whose_gate_was_not_met_stay_while_its_run_does(later, record_row, files):
    picture = later.put_blob(b"<svg/>")
    output = b'{"files": {"confusion.svg": "%s"}}' % picture.encode()
    for run in ("run1", "run2"):
        later.put(record_row(-1, id=f"gated-{run}", run_id=run, status="failed", output=output))
    later.prune(runs=["run1"], grace=0)
    assert later.get_blob(picture) == b"<svg/>"
    later.prune(runs=["run2"], grace=0)
    assert files.all() == []


async def test_pruning_forgets_what_the_run_spent_and_keeps_the_day(finished, record_row, attempt_row):
    limits = [
        Limit("run:run1", calls=9),
        Limit("step:run1/triage", calls=9),
        Limit("day:1970-01-01", calls=9),
    ]
    opening, intent = record_row(2), attempt_row(2, id="a2", record_id="record-2", state="error")
    await finished.begin_attempt(opening, intent, limits=limits, estimate=Usage())
    finished.prune(runs=["run1"])
    assert [finished.spent(limit.scope).calls for limit in limits] == [0, 0, 2]


# Export


@EVERYWHERE
def test_a_run_is_exported_record_by_record(finished):
    first, second = finished.export_rows("run1")
    assert (first["row"], first["step"], first["status"]) == (0, "triage", "ok")
    assert (first["inputs"], first["output"]) == ({"a": [1]}, {"text": "yes"})
    assert (second["error"], second["messages"]) == ("no json", None)
    assert list(finished.export_rows("run1", "nothing")) == []


def test_an_export_of_many_records_is_complete_and_in_order(store, step_row, record_row):
    store.put(dataclasses.replace(step_row, id="reply"))
    store.put(*(record_row(row) for row in range(700)))
    store.put(*(record_row(row, id=f"reply-{row}", step="reply") for row in range(600)))
    found = [(row["step"], row["row"]) for row in store.export_rows("run1")]
    assert found == [("reply", row) for row in range(600)] + [("triage", row) for row in range(700)]


# Manifests


def content(store) -> object:
    attempts = [
        dataclasses.replace(attempt, request=None, response=None) for attempt in store.attempts_of_run("run1")
    ]
    return (
        store.runs(),
        store.steps("run1"),
        store.records("run1"),
        attempts,
        store.models(),
        store.collections(),
    )


@pytest.fixture
def told(finished):
    """A finished run whose manifests are written, a model and a collection, and what all of it is."""
    sha = finished.put_blob(BIG[1:])
    listed = b'{"weights": "%s"}' % sha.encode()
    finished.publish(ModelRow(name="m", kind="full", files=listed, sha256=sha, created_at=1.0))
    finished.put(
        CollectionRow(
            name="c",
            embedder=b"\xff",
            dimension=3,
            distance="cosine",
            normalised=True,
            dtype="f32",
            updated_at=1.0,
        )
    )
    finished.write_manifest("run1")
    return content(finished)


@pytest.mark.parametrize("backend", ["sqlite", "sqlite-s3"], indirect=True)
@pytest.mark.parametrize("damage", ["gone", "overwritten", "cut"])
def test_a_lost_or_corrupt_database_is_made_again_from_manifests(
    store, told, location, blobs_at, damage, monkeypatch
):
    monkeypatch.setenv("HEADRACE_BLOBS", blobs_at)
    store.close()
    path = store.path / "headrace.db"
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(whole[:3000] if damage == "cut" else os.urandom(len(whole)))
    with open_to_rebuild(location) as rebuilt:
        report = rebuilt.verify_report(rebuild=True, grace=0)
        assert report.problems == []
        assert (report.runs_rebuilt, report.records_rebuilt) == (["run1"], 2)
        assert content(rebuilt) == told
        assert rebuilt.verify_report(rebuild=True, grace=0).runs_rebuilt == []
        assert rebuilt.get_blob(rebuilt.model("m").sha256) == BIG[1:]
    assert (store.path / "headrace.db.damaged-1").exists() == (damage != "gone")


def test_a_run_that_had_not_ended_is_rebuilt_as_interrupted(store, record_row):
    store.put(record_row(0), StepRow(run_id="run1", id="reply", kind="prompt"))
    store.write_manifest("run1")
    for table in (records, steps, runs):  # behind the store's back
        store._write(partial(Connection.execute, statement=delete(table)))
    report = store.verify_report(rebuild=True)
    assert (report.problems, report.runs_rebuilt) == ([], ["run1"])
    assert store.run("run1").status == "interrupted"
    assert [step.status for step in store.steps("run1")] == ["cancelled", "waiting"]
    assert [record.status for record in store.records("run1")] == ["ok"]


def test_a_damaged_manifest_is_a_problem_and_the_others_are_loaded(finished):
    finished.write_manifest("run1")
    finished.manifests.write("run7.jsonl.zst", lambda file: file.write(b"junk"))
    problems = finished.verify(rebuild=True)
    assert [problem for problem in problems if "run7.jsonl.zst" in problem] == problems != []


def test_a_run_that_was_pruned_does_not_come_back(finished):
    finished.write_manifest("run1")
    finished.prune(runs=["run1"])
    assert finished.verify_report(rebuild=True).runs_rebuilt == []
    assert finished.runs() == []


@LOCAL
def test_a_rebuilt_store_of_an_old_copy_keeps_what_the_copy_has(store, told, location, run_row):
    """A database restored from a backup lacks the newest runs only: the rest is not touched."""
    store.put(dataclasses.replace(run_row, id="run9", status="ok", finished_at=1.0))
    with sqlite3.connect(store.path / "headrace.db") as connection:
        connection.execute("UPDATE runs SET chain = 'mine' WHERE id = 'run1'")
    connection.close()
    with open_store(location) as again:
        assert again.verify_report(rebuild=True).runs_rebuilt == []
        assert again.run("run1").chain == "mine"
