"""A step with `map` runs for each item of a list, in whole runs of this process."""

from __future__ import annotations

import json

HEAD = """
chain: mapping
inputs: {words: {type: array, default: [a, b, c]}}
steps:
  list: {python: "code.py:same", args: {value: "{{ inputs.words }}"}}
"""
EACH = HEAD + '  each: {python: "code.py:up", map: "{{ list.value }}", as: word, args: {value: "{{ word }}"}'


def test_a_list_comes_out_in_order_with_a_record_for_each_item(workshop):
    done = workshop.run(EACH + "}\noutputs: {texts: \"{{ each | map(attribute='text') | list }}\"}")
    assert (done["status"], done["outputs"]) == ("ok", {"texts": ["A", "B", "C"]})
    own, *items = workshop.records(done, "each")
    assert json.loads(own.output) == [{"text": "A"}, {"text": "B"}, {"text": "C"}]
    assert [(item.item, json.loads(item.output)["text"]) for item in items] == [(0, "A"), (1, "B"), (2, "C")]
    assert own.item == -1 and json.loads(own.inputs) == {"list.value": ["a", "b", "c"]}
    assert json.loads(items[1].inputs) == {"value": "b"}
    counts = done["counts"]["each"]
    assert (counts["ok"], counts["within_ok"]) == (1, 3)


def test_an_empty_list_gives_an_empty_list(workshop):
    done = workshop.run(EACH + "}", words=[])
    assert workshop.output(done, "each") == []
    assert len(workshop.records(done, "each")) == 1


def test_what_is_no_list_fails_the_step_and_says_what_it_is(workshop):
    done = workshop.run(EACH.replace("list.value", "list.value[0]") + "}")
    assert done["status"] == "failed"
    assert workshop.error(done, "each") == "`map` of step 'each' is the text 'a', and needs a list."


def test_a_failed_item_fails_the_step_and_a_resume_runs_only_what_is_missing(workshop):
    workshop.fail("up-b")
    done = workshop.run(EACH + "}")
    assert done["status"] == "failed"
    assert "item 1 of 3: " in workshop.error(done, "each") and "up of 'b'" in workshop.error(done, "each")
    first = workshop.calls()
    workshop.fail()
    again = workshop.resume(done["run_id"])
    assert again["status"] == "ok"
    assert workshop.output(again, "each") == [{"text": "A"}, {"text": "B"}, {"text": "C"}]
    calls = sorted(first + workshop.calls(), key=str)
    assert calls.count(["up", "b"]) == 2 and calls.count(["up", "a"]) == calls.count(["up", "c"]) == 1


def test_no_item_begins_after_one_has_failed_where_they_run_one_by_one(workshop):
    workshop.fail("up-b")
    workshop.run(EACH + ", max_concurrency: 1}")
    assert [call for call in workshop.calls() if call[0] == "up"] == [["up", "a"], ["up", "b"]]


def test_failed_items_are_left_out_or_null(workshop):
    workshop.fail("up-b")
    left_out = workshop.run(EACH + ", on_error: skip}")
    assert left_out["status"] == "ok"
    assert workshop.output(left_out, "each") == [{"text": "A"}, {"text": "C"}]
    null = workshop.run(EACH + ", on_error: collect}")
    assert null["status"] == "ok"
    assert workshop.output(null, "each") == [{"text": "A"}, None, {"text": "C"}]
    assert null["counts"]["each"]["within_failed"] == 1


def test_as_many_items_run_at_once_as_the_step_says(workshop):
    steps = '  each: {python: "code.py:slowly", map: [1, 2, 3, 4, 5, 6], args: {value: "{{ item }}"}'
    free = workshop.run(HEAD + steps + "}")
    assert max(item["most"] for item in workshop.output(free, "each")) > 2
    bound = workshop.run(HEAD + steps + ", max_concurrency: 2}")
    assert max(item["most"] for item in workshop.output(bound, "each")) == 2


def test_items_may_be_written_out_and_be_anything(workshop):
    steps = """
  each: {python: "code.py:same", map: ["{{ list.value[0] }}", {deep: "{{ inputs.words }}"}, 3],
         args: {value: "{{ item }}"}}
"""
    done = workshop.run(HEAD + steps)
    assert [item.get("value", item) for item in workshop.output(done, "each")] == [
        "a",
        {"deep": ["a", "b", "c"]},
        3,
    ]


def test_a_once_step_reduces_over_the_rows_and_their_items(workshop):
    chain = EACH + '}\n  all: {python: "code.py:same", once: true, args: {value: "{{ each }}"}}'
    done = workshop.run_rows(chain, [{"words": ["a"]}, {"words": []}, {"words": ["b", "c"]}])
    assert done["status"] == "ok", done
    assert workshop.output(done, "all", -1) == {
        "value": [[{"text": "A"}], [], [{"text": "B"}, {"text": "C"}]]
    }


def test_when_is_asked_once_and_a_skipped_list_skips_who_reads_it(workshop):
    chain = EACH + ', when: "false"}\n  after: {python: "code.py:same", args: {value: "{{ each }}"}}'
    done = workshop.run(chain)
    assert done["status"] == "ok"
    assert [record.status for record in workshop.records(done, "each")] == ["skipped"]
    assert [record.status for record in workshop.records(done, "after")] == ["skipped"]


def test_progress_tells_how_many_items_there_are_and_how_each_ended(workshop):
    workshop.run(EACH + "}")
    told = [(progress.event, progress.total) for progress in workshop.told if progress.step == "each"]
    assert ("items", 3) in told and [event for event, _ in told].count("item") == 3


def test_a_generator_gives_the_list_of_what_it_yields(workshop):
    steps = """
  sync: {python: "code.py:letters", args: {value: ab}}
  async: {python: "code.py:later", args: {value: cd}}
  each: {python: "code.py:up", map: "{{ sync.value + async.value }}", args: {value: "{{ item }}"}}
"""
    done = workshop.run(HEAD + steps)
    assert done["status"] == "ok", done
    assert workshop.output(done, "each") == [{"text": letter} for letter in "ABCD"]


def test_a_generator_that_never_ends_is_an_error_of_its_step(workshop):
    workshop.write("endless.py", "import itertools\ndef count():\n    yield from itertools.count()\n")
    done = workshop.run(HEAD + '  endless: {python: "endless.py:count"}')
    assert "yields more than" in workshop.error(done, "endless")
