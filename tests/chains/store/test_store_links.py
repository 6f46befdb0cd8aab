"""Records of a fork that are read from the run that it was made from, in each kind of store."""

from __future__ import annotations

import dataclasses

import pytest

from chains.errors import StoreConflict
from chains.store import Link

BIG = bytes(range(256)) * 400
STEPS = ("triage", "reply")
LINKS = tuple(Link(step) for step in STEPS)


@pytest.fixture
def ended(store, run_row, step_row, record_row):
    """A run of two steps and three rows that has ended."""
    store.put(
        dataclasses.replace(run_row, status="ok", rows=3, finished_at=107.0),
        *(dataclasses.replace(step_row, id=step, status="ok") for step in STEPS),
        dataclasses.replace(step_row, id="reply-polite", status="ok"),
        *(
            record_row(
                row,
                id=f"{step}-{row}",
                step=step,
                status="failed" if (step, row) == ("triage", 2) else "ok",
                value_key=f"{step}{row}".ljust(64, "0"),
                inputs=b"{}",
                messages=BIG if row == 1 else b"[]",
                output=f'{{"text": "{step} {row}"}}'.encode(),
                error=b'{"message": "no"}' if (step, row) == ("triage", 2) else None,
                cost_micro=5,
                tokens_in=7,
                attempts=1,
                finished_at=105.0,
            )
            for step in (*STEPS, "reply-polite")
            for row in range(3)
        ),
    )
    return store


def fork(store, run_row, step_row, name="run2", source="run1", links=LINKS) -> None:
    run = dataclasses.replace(run_row, id=name, forked_from=source, started_at=200.0, rows=3)
    steps = [dataclasses.replace(step_row, run_id=name, id=step, status="waiting") for step in STEPS]
    assert store.begin_run(run, steps, holder="me", files={}, links=links)
    assert store.end_run(name, "me", lambda _: dataclasses.replace(run, status="ok", finished_at=207.0))


def said(store, run: str) -> dict[tuple[str, int], tuple[bytes | None, ...]]:
    return {
        (record.step, record.row): (record.inputs, record.messages, record.output, record.error)
        for record in store.records(run)
    }


def test_a_linked_record_is_read_with_the_payloads_of_the_other(ended, run_row, step_row):
    fork(ended, run_row, step_row)
    assert said(ended, "run2") == said(ended, "run1")
    assert ended.outputs("run2", "triage", range(3)) == ended.outputs("run1", "triage", range(3))
    assert ended.record("run2", "reply", 1).messages == BIG
    rows = list(ended.export_rows("run2"))
    assert [row["output"] for row in rows] == [row["output"] for row in ended.export_rows("run1")]
    shown = ended.page_of_records("run2", "triage", limit=3)
    assert [item.error for item in shown] == [None, None, b'{"message": "no"}']
    assert ended.verify() == []


def test_a_link_holds_no_payload_and_costs_nothing(ended, run_row, step_row):
    fork(ended, run_row, step_row)
    with ended._reading_engine().connect() as connection:
        found = connection.exec_driver_sql(
            "SELECT count(*), count(output), count(messages_blob), count(tokens_in) FROM records "
            "WHERE run_id = 'run2'"
        ).one()
    assert tuple(found) == (9, 0, 0, 0)
    assert ended.counts("run2")["triage"] | {"reused": 0} == {
        "ok": 2, "failed": 1, "reused": 0, "tokens_in": 0, "tokens_out": 0, "cost_micro": 0, "attempts": 0,
        "cost_unknown": 0,
    }  # fmt: skip


def test_rows_that_run_again_and_steps_that_are_not_named_are_left_out(ended, run_row, step_row):
    fork(ended, run_row, step_row, links=(Link("triage", leave=frozenset({0, 2})),))
    assert said(ended, "run2").keys() == {("triage", 1)}


def test_a_fork_of_a_fork_is_linked_to_the_first(ended, run_row, step_row):
    fork(ended, run_row, step_row)
    fork(ended, run_row, step_row, "run3", "run2")
    assert said(ended, "run3") == said(ended, "run1")
    assert {record.reused_from for record in ended.records("run3", "triage")} == {
        f"triage-{row}" for row in range(3)
    }


def test_a_link_is_not_what_a_value_key_finds(ended, run_row, step_row):
    key = "triage0".ljust(64, "0")
    fork(ended, run_row, step_row)
    assert ended.reusable([key])[key].id == "triage-0"


def test_forks_outlive_what_they_are_linked_to(ended, run_row, step_row):
    fork(ended, run_row, step_row)
    fork(ended, run_row, step_row, "run3")
    before = said(ended, "run1")
    ended.prune(runs=["run1"], grace=0)
    assert said(ended, "run2") == said(ended, "run3") == before
    assert ended.record("run3", "reply", 1).messages == BIG
    assert not any(record.linked for record in ended.records("run2"))
    assert all(record.linked for record in ended.records("run3"))
    assert ended.verify(grace=0) == []
    key = "triage0".ljust(64, "0")
    assert ended.reusable([key])[key].run_id == "run2"
    ended.prune(runs=["run2"], grace=0)
    assert said(ended, "run3") == before
    assert ended.verify(grace=0) == []


def test_forks_keep_what_they_have_when_the_run_is_written_again(ended, run_row, step_row, record_row):
    fork(ended, run_row, step_row)
    fork(ended, run_row, step_row, "run3")
    before = said(ended, "run1")
    ended.part_from_forks("run1")
    ended.put(record_row(0, id="triage-0", step="triage", status="ok", output=b"{}", finished_at=300.0))
    assert said(ended, "run2") == said(ended, "run3") == before
    assert ended.verify() == []


def test_a_run_that_is_running_or_gone_has_no_forks(ended, run_row, step_row):
    ended.put(dataclasses.replace(run_row, status="running"))
    with pytest.raises(StoreConflict, match="is running"):
        fork(ended, run_row, step_row)
    assert ended.run("run2") is None
    with pytest.raises(StoreConflict, match="has been removed"):
        fork(ended, run_row, step_row, source="nowhere")


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_link_that_leads_nowhere_is_told(ended, run_row, step_row):
    fork(ended, run_row, step_row)
    with ended.database.writing_engine().begin() as connection:
        connection.exec_driver_sql("DELETE FROM records WHERE id = 'triage-1'")
    (problem,) = [line for line in ended.verify() if "is read from" in line]
    assert "triage-1, which is not there" in problem


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_links_are_made_again_from_manifests(ended, run_row, step_row):
    fork(ended, run_row, step_row)
    before = said(ended, "run1")
    ended.write_manifest("run2")
    ended.prune(runs=["run1"], grace=0)
    with ended.database.writing_engine().begin() as connection:
        for table in ("attempts", "records", "steps", "runs"):
            connection.exec_driver_sql(f"DELETE FROM {table}")
    report = ended.verify_report(rebuild=True)
    assert report.problems == [] and report.runs_rebuilt == ["run2"]
    assert said(ended, "run2") == before
