"""Why a record is there as it is: the verdict, the parts, and what changed since which run."""

from __future__ import annotations

from typing import Any

from written_runs import CHAIN, Written, row_of

from chains.diff import RecordedRun, Why, why


def ask(written: Written, run: RecordedRun, step: str, *others: RecordedRun, row: int = 0) -> Why:
    record = written.store.record(run.run.id, step, row)
    assert record is not None
    known = {other.run.id: other for other in others}
    return why(written.store, run, record, restored=lambda earlier: known.get(earlier.id))


def keyed(key: str, **fields: Any) -> dict[str, Any]:
    row = row_of(**fields)
    row["triage"] |= {"key": key}
    return row


def test_the_first_run_has_nothing_to_compare_with(written: Written) -> None:
    run = written.run([keyed("k1", ticket="a")])
    found = ask(written, run, "triage")
    assert found.verdict == "ran" and found.compared is None and found.key == "k1"
    assert found.parts["parameters"] == {"temperature": 0.0}
    assert found.parts["variables"] == {"inputs.ticket": "a"}
    assert found.parts["messages"][0]["content"] == "Sort a"


def test_a_reused_record_names_the_run_that_it_came_from(written: Written) -> None:
    first = written.run([keyed("k1", ticket="a")])
    again = keyed("k1", ticket="a")
    again["triage"] |= {"reused_from": "run1-triage-0"}
    found = ask(written, written.run([again]), "triage", first)
    assert (found.verdict, found.reused_run, found.reused_record) == ("reused", "run1", "run1-triage-0")
    again["triage"] |= {"reused_from": "gone"}
    found = ask(written, written.run([again]), "triage", first)
    assert found.reused_run is None and "removed since" in found.reason


def test_what_changed_is_named_since_the_nearest_earlier_run(written: Written) -> None:
    near = written.run([keyed("k1", ticket="a")])
    far = written.run([keyed("k2", ticket="b", head="Order")])
    source = CHAIN.replace("temperature: 0", "temperature: 1")
    found = ask(written, written.run([keyed("k3", ticket="a")], source=source), "triage", near, far)
    assert found.compared is not None and found.compared.run == "run1"
    assert [str(cause) for cause in found.compared.changed] == ["parameters temperature"]
    assert found.reason == "No record had its key. Since run run1 has changed: parameters temperature."


def test_where_nothing_that_is_kept_has_changed_it_is_the_model_itself(written: Written) -> None:
    first = written.run([keyed("k1", ticket="a")])
    found = ask(written, written.run([keyed("k2", ticket="a")]), "triage", first)
    assert found.compared is not None
    assert [str(cause) for cause in found.compared.changed] == ["model identity"]


def test_without_a_key_the_reason_is_that_nothing_is_looked_for(written: Written) -> None:
    first = written.run([row_of("a")])
    found = ask(written, written.run([row_of("b")]), "triage", first)
    assert "may answer the same question differently" in found.reason
    assert "has changed: variable inputs.ticket" in found.reason
    found = ask(
        written,
        written.run([row_of("b")], source=CHAIN.replace("{prompt:", "{cache: never, prompt:")),
        "triage",
    )
    assert "`cache: never`" in found.reason


def test_a_row_that_did_not_run_says_what_its_record_says(written: Written) -> None:
    row = row_of("a")
    row["reply"] = {"status": "skipped", "error": {"type": "StepSkipped", "message": "`when: x` is false"}}
    found = ask(written, written.run([row]), "reply")
    assert (found.verdict, found.reason) == ("not run", "`when: x` is false")
