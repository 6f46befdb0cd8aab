"""pytest tests/chains/store/test_store_reads.py"""

from __future__ import annotations

import dataclasses

import pytest

from chains.errors import InputInvalid
from chains.store import UNREAD, ModelRow, StepRow


def test_a_run_is_found_by_its_id_or_by_an_unambiguous_beginning(store, run_row):
    store.put(dataclasses.replace(run_row, id="run2"), dataclasses.replace(run_row, id="other"))
    assert store.run("run1").id == "run1"
    assert store.run("oth").id == "other"
    assert store.run("nothing") is None
    with pytest.raises(InputInvalid, match="run1, run2"):
        store.run("run")


def test_an_exact_id_wins_over_longer_ones(store, run_row):
    store.put(dataclasses.replace(run_row, id="run11"))
    assert store.run("run1").id == "run1"


@pytest.mark.parametrize("wild", ["%", "r%", "_un1", "RUN1", "", "../run1", "run1\0"])
def test_a_prefix_is_no_pattern(store, wild):
    with pytest.raises(InputInvalid, match="run id"):
        store.run(wild)


def test_an_underscore_in_a_prefix_stands_for_itself(store, run_row):
    store.put(dataclasses.replace(run_row, id="rx_1"), dataclasses.replace(run_row, id="rxa1"))
    assert store.run("rx_").id == "rx_1"


def test_runs_come_newest_first_and_can_be_of_one_chain(store, run_row):
    later = [dataclasses.replace(run_row, id=f"later{n}", started_at=200.0 + n, chain="b") for n in range(3)]
    store.put(*later)
    assert [run.id for run in store.runs()] == ["later2", "later1", "later0", "run1"]
    assert [run.id for run in store.runs(limit=2)] == ["later2", "later1"]
    assert [run.id for run in store.runs(chain="support")] == ["run1"]


def test_steps_come_in_the_order_in_which_they_began(store, step_row):
    store.put(
        StepRow(run_id="run1", id="a_waits", kind="embed"),
        StepRow(run_id="run1", id="z_first", kind="embed", started_at=1.0, once=True),
    )
    assert [step.id for step in store.steps("run1")] == ["z_first", "triage", "a_waits"]
    assert store.steps("run1")[0].once is True


def test_records_can_be_narrowed_to_rows_statuses_and_steps(store, record_row, step_row):
    store.put(dataclasses.replace(step_row, id="reply"))
    store.put(*(record_row(row, status="failed" if row == 3 else "ok") for row in range(10)))
    store.put(record_row(0, id="other", step="reply"))
    assert [record.row for record in store.records("run1", "triage", rows=range(2, 5))] == [2, 3, 4]
    assert [record.row for record in store.records("run1", "triage", rows=range(0, 10, 4))] == [0, 4, 8]
    assert [record.row for record in store.records("run1", statuses=["failed", "blocked"])] == [3]
    assert [record.step for record in store.records("run1", rows=range(1))] == ["reply", "triage"]
    assert store.records("run1", "triage", statuses=[]) == []
    assert store.records("nothing") == []


def test_a_record_is_found_by_its_whole_position(store, record_row):
    store.put(*(record_row(0, id=f"item-{item}", item=item) for item in (-1, 0, 1)))
    assert store.record("run1", "triage", 0).id == "item--1"
    assert store.record("run1", "triage", 0, item=1).id == "item-1"
    assert store.record("run1", "triage", 0, item=1, sample=2) is None


def test_samples_of_a_row_are_read_on_demand_and_are_no_rows_of_their_own(store, record_row):
    own = record_row(0, status="running")
    samples = [record_row(0, id=f"s{n}", sample=n, tokens_in=5, attempts=1, output=b"{}") for n in (1, 2)]
    store.put(own, *samples, record_row(1, status="ok", tokens_in=1, attempts=1, output=b"{}"))
    assert [record.id for record in store.records("run1", "triage")] == ["record-0", "record-1"]
    assert [record.sample for record in store.records("run1", rows=[0], within=True)] == [0, 1, 2]
    assert store.outputs("run1", "triage", range(2)) == {0: ("running", None), 1: ("ok", b"{}")}
    counts = store.counts("run1")["triage"]
    assert (counts["running"], counts["ok"], counts["tokens_in"], counts["attempts"]) == (1, 1, 11, 3)
    assert store.sums(["run1"])["run1"]["ok"] == 1
    assert [listed.record.row for listed in store.page_of_records("run1", "triage", limit=9)] == [0, 1]


def test_reading_without_payloads_opens_no_blob(store, record_row, attempt_row, files):
    store.put(record_row(output=b"x" * 70_000), attempt_row(request=b"y" * 70_000))
    for sha in files.all():
        files.remove(sha)
    [record] = store.records("run1", payloads=False)
    assert record.output is UNREAD and record.id == "record-0"
    assert store.attempts("record-0", payloads=False)[0].request is UNREAD
    assert store.attempts_of_run("run1", payloads=False)[0].number == 1
    assert store.runs(payloads=False)[0].source is UNREAD
    assert store.steps("run1", payloads=False)[0].spec is UNREAD


def test_attempts_come_by_number_and_those_of_a_run_by_time(store, record_row, attempt_row):
    store.put(record_row(0), record_row(1))
    store.put(attempt_row(2, started_at=1.0), attempt_row(1, started_at=2.0))
    store.put(attempt_row(1, id="second", record_id="record-1", started_at=1.5))
    assert [attempt.number for attempt in store.attempts("record-0")] == [1, 2]
    assert [attempt.id for attempt in store.attempts_of_run("run1")] == ["attempt-2", "second", "attempt-1"]
    assert store.attempts_of_run("run1", "reply") == []


def test_the_newest_good_record_of_a_key_is_reused(store, record_row):
    key = "k" * 64
    store.put(
        record_row(0, value_key=key, finished_at=1.0, output=b"old"),
        record_row(1, value_key=key, finished_at=3.0, output=b"new"),
        record_row(2, value_key=key, finished_at=9.0, output=b"bad", status="failed"),
    )
    found = store.reusable([key, "absent", key])
    assert {key: record.output for key, record in found.items()} == {key: b"new"}


def test_a_record_reused_from_one_that_is_gone_is_not_reused_again(store, record_row):
    key = "k" * 64
    store.put(record_row(0, value_key=key, finished_at=1.0, output=b"origin"))
    store.put(record_row(1, value_key=key, finished_at=5.0, reused_from="gone"))
    assert store.reusable([key])[key].id == "record-0"
    store.put(record_row(2, value_key=key, finished_at=6.0, reused_from="record-0"))
    assert store.reusable([key])[key].id == "record-2"


def test_a_record_whose_blob_is_damaged_is_not_reused(store, record_row, files):
    key = "k" * 64
    store.put(record_row(0, value_key=key, output=b"x" * 70_000))
    [sha] = files.all()
    files.write(sha, files.read(sha)[:-9])
    assert store.reusable([key]) == {}


def test_more_keys_than_one_query_takes_are_looked_up(store, record_row):
    store.put(*(record_row(row, value_key=f"{row:064d}") for row in range(1201)))
    found = store.reusable([f"{row:064d}" for row in range(1300)])
    assert {record.row for record in found.values()} == set(range(1201))
    assert store.reusable([]) == {}


def test_counts_tell_statuses_and_sums_and_keep_unknown_costs_apart(store, record_row):
    store.put(
        record_row(0, tokens_in=5, tokens_out=7, cost_micro=11, attempts=2),
        record_row(1, tokens_in=1, attempts=1, reused_from="record-0"),
        record_row(2, status="failed", attempts=3, cost_micro=1),
    )
    assert store.counts("run1") == {
        "triage": {
            "ok": 2,
            "failed": 1,
            "reused": 1,
            "tokens_in": 6,
            "tokens_out": 7,
            "cost_micro": 12,
            "attempts": 6,
            "cost_unknown": 1,
        }
    }
    assert store.counts("nothing") == {}


def model(**fields) -> ModelRow:
    return ModelRow(
        **{"name": "tuned", "kind": "adapter", "files": b"{}", "sha256": "s", "created_at": 1.0, **fields}
    )


def test_publishing_counts_up_and_moves_latest(store):
    assert [store.publish(model()).version for _ in range(3)] == [1, 2, 3]
    assert store.publish(model(name="other")).version == 1
    assert store.model("tuned").version == 3
    assert [(row.version, row.is_latest) for row in store.models("tuned")] == [
        (3, True),
        (2, False),
        (1, False),
    ]
    assert len(store.models()) == 4


def test_publishing_what_is_not_to_be_latest_leaves_latest_where_it_is(store):
    store.publish(model())
    assert store.publish(model(is_latest=False, metrics=b"z" * 70_000)).version == 2
    assert store.model("tuned").version == 1
    assert store.model("tuned", 2).metrics == b"z" * 70_000
    assert store.model("tuned", 9) is None
    assert store.model("absent") is None


def test_what_a_lost_process_left_open_is_closed_and_counted(store, record_row, attempt_row):
    store.put(record_row(0, status="running"), record_row(1), attempt_row(1), attempt_row(2, state="ok"))
    assert store.close_lost("run1", "interrupted") == 1
    assert [attempt.state for attempt in store.attempts("record-0")] == ["ambiguous", "ok"]
    assert [record.status for record in store.records("run1")] == ["cancelled", "ok"]
    assert store.steps("run1")[0].status == "cancelled"
    assert store.run("run1").status == "interrupted"
    assert store.verify() == []
    assert store.close_lost("run1", "interrupted") == 0


def test_closing_what_is_lost_leaves_other_runs_alone(store, run_row, step_row, record_row):
    store.put(dataclasses.replace(run_row, id="run2"), dataclasses.replace(step_row, run_id="run2"))
    store.put(record_row(0, id="theirs", run_id="run2", status="running"))
    store.close_lost("run1", "cancelled")
    assert store.record("run2", "triage", 0).status == "running"
    assert store.run("run2").status == "running"


def test_a_run_that_goes_on_after_closing_has_no_end(store):
    store.close_lost("run1", "running")
    assert (store.run("run1").status, store.run("run1").finished_at) == ("running", None)


def test_outputs_are_read_by_row_whether_they_are_blobs_or_not(store, record_row):
    store.put(
        record_row(0, output=b"short"),
        record_row(1, output=b"z" * 70_000),
        record_row(2, status="failed", output=None),
        record_row(3, output=b"not asked for"),
    )
    assert store.outputs("run1", "triage", range(3)) == {
        0: ("ok", b"short"),
        1: ("ok", b"z" * 70_000),
        2: ("failed", None),
    }
    assert store.outputs("run1", "absent", range(3)) == {}
