"""A repeat runs its steps in turns, in whole runs of this process."""

from __future__ import annotations

import json

HEAD = """
chain: looping
inputs: {start: {type: integer, default: 0}, goal: {type: integer, default: 3}}
steps:
  first: {python: "code.py:same", args: {value: "{{ inputs.start }}"}}
"""
LOOP = (
    HEAD
    + """
  grow:
    repeat: {until: "plus.sum >= inputs.goal", max: 5%s}
    steps:
      plus:
        python: "code.py:add"
        args: {value: "{{ loop.previous.plus.sum if loop.previous else first.value }}", other: 1}
      say: {python: "code.py:up", args: {value: "{{ plus.sum }} in {{ loop.turn }}"}}
"""
)


def test_turns_run_until_it_holds_and_are_read_by_number_or_as_the_one_that_was_taken(workshop):
    outputs = """
outputs:
  last: "{{ grow.plus.sum }}"
  first: "{{ grow[0].plus.sum }}"
  said: "{{ grow[-1].say.text }}"
  all: "{{ grow.turns | map(attribute='plus') | map(attribute='sum') | list }}"
  how: "{{ [grow.turn, grow.reached] }}"
"""
    done = workshop.run(LOOP % "" + outputs)
    assert done["status"] == "ok"
    assert done["outputs"] == {
        "last": 3,
        "first": 1,
        "said": "3 IN 2",
        "all": [1, 2, 3],
        "how": [2, True],
    }
    turns = workshop.records(done, "grow.plus")
    assert [(record.turn, json.loads(record.output)["sum"]) for record in turns] == [(0, 1), (1, 2), (2, 3)]
    assert done["counts"]["grow.plus"]["within_ok"] == 3
    steps = {step.id: step.status for step in workshop.store.steps(done["run_id"])}
    assert steps == {"first": "ok", "grow": "ok", "grow.plus": "ok", "grow.say": "ok"}


def test_a_repeat_that_never_ends_fails_or_takes_the_last_or_the_best_turn(workshop):
    failed = workshop.run(LOOP % "", goal=9)
    assert failed["status"] == "failed"
    assert "`until: plus.sum >= inputs.goal` is still false after 5 turns" in workshop.error(failed, "grow")
    last = workshop.run(LOOP % ", on_exhausted: last", goal=9)
    assert workshop.output(last, "grow")["turn"] == 4
    assert workshop.output(last, "grow")["reached"] is False
    best = workshop.run(LOOP % ', on_exhausted: "best(0 - (plus.sum - 2) * (plus.sum - 2))"', goal=9)
    assert workshop.output(best, "grow")["plus"] == {"sum": 2}
    first_of_equals = workshop.run(LOOP % ', on_exhausted: "best(7)"', goal=9)
    assert workshop.output(first_of_equals, "grow")["turn"] == 0


def test_a_failed_turn_fails_the_step_and_a_resume_runs_only_what_is_missing(workshop):
    workshop.fail("up-2 in 1")
    done = workshop.run(LOOP % "")
    assert done["status"] == "failed"
    assert workshop.error(done, "grow").startswith("turn 1: step 'say': ")
    first = workshop.calls()
    workshop.fail()
    again = workshop.resume(done["run_id"])
    assert again["status"] == "ok" and workshop.output(again, "grow")["plus"] == {"sum": 3}
    calls = sorted(first + workshop.calls(), key=str)
    assert [calls.count(call) for call in (["add", 0], ["add", 1], ["add", 2])] == [1, 1, 1]
    assert calls.count(["up", "2 in 1"]) == 2 and calls.count(["up", "1 in 0"]) == 1


MAP_IN_REPEAT = (
    HEAD
    + """
  grow:
    repeat: {until: "loop.turn >= 1", max: 3}
    steps:
      list: {python: "code.py:same", args: {value: "{{ [loop.turn, inputs.goal] }}"}}
      each: {python: "code.py:add", map: "{{ list.value }}", args: {value: "{{ item }}", other: 10}}
"""
)


def test_a_map_inside_a_repeat_has_items_in_each_turn(workshop):
    done = workshop.run(MAP_IN_REPEAT + "outputs: {sums: \"{{ grow.each | map(attribute='sum') | list }}\"}")
    assert done["outputs"] == {"sums": [11, 13]}
    places = [(record.turn, record.item) for record in workshop.records(done, "grow.each")]
    assert sorted(places) == [(0, -1), (0, 0), (0, 1), (1, -1), (1, 0), (1, 1)]


REPEAT_IN_MAP_IN_REPEAT = """
chain: deep
steps:
  outer:
    repeat: {until: "loop.turn == 1", max: 2}
    steps:
      middle:
        map: ["{{ loop.turn }}", 5]
        as: start
        repeat: {until: "plus.sum > start + 1", max: 3}
        steps:
          plus:
            python: "code.py:add"
            args: {value: "{{ loop.previous.plus.sum if loop.previous else start }}", other: 1}
outputs:
  sums: "{{ outer.turns | map(attribute='middle') | list }}"
"""


def test_repeats_in_maps_in_repeats_stand_at_places_of_their_own(workshop):
    done = workshop.run(REPEAT_IN_MAP_IN_REPEAT)
    assert done["status"] == "ok", done
    found = [[item["plus"]["sum"] for item in turn] for turn in done["outputs"]["sums"]]
    assert found == [[2, 7], [3, 7]]
    places = {(record.path, record.turn) for record in workshop.records(done, "outer.middle.plus")}
    assert len(places) == 8
    assert ("outer[turn 1].middle[item 0]", 1) in places


def test_steps_inside_see_what_is_outside_and_skips_reach_them(workshop):
    chain = """
chain: skips
inputs: {go: {type: boolean}}
steps:
  maybe: {python: "code.py:same", when: inputs.go, args: {value: 1}}
  loop_of:
    repeat: {until: "two is defined", max: 1, on_exhausted: last}
    steps:
      one: {python: "code.py:same", args: {value: "{{ maybe.value | default(7) }}"}}
      two: {python: "code.py:same", when: "one.value == 1", args: {value: "{{ one.value }}"}}
      three: {python: "code.py:same", args: {value: "{{ two.value }}"}}
  strict:
    repeat: {until: "true", max: 1}
    steps:
      one: {python: "code.py:same", args: {value: "{{ maybe.value }}"}}
"""
    went = workshop.run(chain, go=True)
    assert workshop.output(went, "loop_of")["three"] == {"value": 1}
    stayed = workshop.run(chain, go=False)
    assert stayed["status"] == "ok"
    assert workshop.output(stayed, "loop_of")["turns"] == [{"one": {"value": 7}}]
    assert [record.status for record in workshop.records(stayed, "strict")] == ["skipped"]
    inner = {record.step: record.status for record in workshop.records(stayed, "loop_of.three")}
    assert inner == {"loop_of.three": "skipped"}


def test_an_item_of_a_step_deep_inside_is_nothing_that_its_repeat_waits_for(workshop):
    chain = """
chain: deep
steps:
  outer:
    repeat: {until: "true", max: 1}
    steps:
      inner:
        repeat: {until: "true", max: 1}
        steps:
          each: {python: "code.py:up", map: [a], as: letter, args: {value: "{{ letter }}"}}
outputs: {said: "{{ outer.inner.each[0].text }}"}
"""
    assert workshop.run(chain)["outputs"] == {"said": "A"}
