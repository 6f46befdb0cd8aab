"""What the lists say of records that lie inside others."""

from __future__ import annotations

import json

import pytest

from chains.errors import InputInvalid
from flows.cli.show import show

CHAIN = """
chain: looking
steps:
  draft:
    repeat: {until: "loop.turn == 1", max: 2}
    steps:
      each: {python: "code.py:up", map: [a, b], args: {value: "{{ item }}{{ loop.turn }}"}}
"""


@pytest.fixture
def shown(workshop, capsys):
    workshop.run(CHAIN)

    def of(**options) -> str:
        show("last", store=str(workshop.store.path), **options)
        return capsys.readouterr().out

    return of


def test_show_lists_steps_inside_and_what_lies_inside_their_rows(shown):
    steps = {step["step"]: step for step in json.loads(shown(as_json=True))["steps"]}
    assert (steps["draft"]["ok"], steps["draft"]["inside"]) == (1, 0)
    assert (steps["draft.each"]["ok"], steps["draft.each"]["inside"]) == (0, 6)
    listed = json.loads(shown(step="draft.each", as_json=True))
    assert [line["place"] for line in listed] == [
        *("turn 0", "turn 0 · item 0", "turn 0 · item 1"),
        *("turn 1", "turn 1 · item 0", "turn 1 · item 1"),
    ]
    assert "turn 1 · item 1" in shown(step="draft.each")


def test_one_record_inside_is_shown_by_its_place(shown):
    assert '"B1"' in shown(step="draft.each", turn=1, item=1)
    assert "turn 1 · item 1" in shown(step="draft.each", turn=1, item=1)
    with pytest.raises(InputInvalid, match="no such record"):
        shown(step="draft.each", turn=7)


def test_pages_list_every_record_of_a_step_inside(workshop):
    done = workshop.run(CHAIN)
    page = workshop.store.page_of_records(done["run_id"], "draft.each", limit=4, offset=2, within=True)
    assert [(line.record.turn, line.record.item) for line in page] == [(0, 1), (1, -1), (1, 0), (1, 1)]


TIMED = """
chain: timed
inputs: {go: {type: string, default: x}}
steps:
  draft:
    repeat: {until: "loop.turn == 1", max: 2}
    steps:
      each: {python: "code.py:slowly", map: [1, 2], args: {value: "{{ item }}"}}
  score:
    evaluate: {prediction: "{{ draft.turn }}", reference: "1"}
    metrics: [accuracy, latency]
    timed: [draft]
"""


def test_the_time_of_a_row_is_that_of_what_lies_inside_counted_once(workshop):
    done = workshop.run(TIMED)
    assert done["status"] == "ok", done
    items = [record for record in workshop.records(done, "draft.each") if record.item >= 0]
    took = sum(record.finished_at - record.started_at for record in items)
    assert workshop.output(done, "score", -1)["latency"]["value"] == pytest.approx(took, rel=0.01)
