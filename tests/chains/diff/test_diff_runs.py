"""Two runs side by side: what diverges first in each row, and why."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event
from written_runs import CHAIN, Written, row_of

from chains.diff import RunDiff, diff_runs, words
from chains.store import open_store


def causes(found: RunDiff) -> list[tuple[Any, str, list[str]]]:
    return [
        (divergence.row_before, divergence.step, [str(cause) for cause in divergence.causes])
        for divergence in found.divergences
    ]


def test_a_run_and_itself_do_not_diverge(written: Written) -> None:
    run = written.run([row_of("a"), row_of("b")])
    found = diff_runs(written.store, run, run)
    assert found.diverged == 0 and found.divergences == [] and found.rows == 2
    assert {step.step: step.compared for step in found.steps} == {
        "triage": 2, "passages": 2, "reply": 2, "score": 0
    }  # fmt: skip


def test_an_answer_that_differs_for_the_same_request_is_noise_and_only_the_first_step_is_named(
    written: Written,
) -> None:
    before = written.run([row_of("a"), row_of("b")])
    after = written.run([row_of("a"), row_of("b", intent="question", text="No.")])
    found = diff_runs(written.store, before, after)
    assert causes(found) == [(1, "triage", ["sampling noise"])]
    reply = next(step for step in found.steps if step.step == "reply")
    assert (reply.asked_differently, reply.answered_differently, reply.first) == (1, 1, 0)


def test_another_template_is_named_where_it_says_something_else(written: Written) -> None:
    source = CHAIN.replace("Sort {{ inputs.ticket }}", "Order {{ inputs.ticket }}")
    before = written.run([row_of("a")])
    after = written.run([row_of("a", head="Order")], source=source)
    found = diff_runs(written.store, before, after)
    assert causes(found) == [(0, "triage", ["template"])]
    assert not found.divergences[0].answer_differs
    # The same words from another template ask the same.
    same = written.run([row_of("a")], source=CHAIN.replace("Sort {{", "Sort{{ ' ' }}{{"))
    found = diff_runs(written.store, before, same)
    assert found.diverged == 0 and [str(cause) for cause in found.of_steps["triage"]] == ["template"]


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("temperature: 0", "temperature: 1", "parameters temperature"),
        ("model: m,", "model: n,", "model model"),
        ("{intent: string}", "{intent: {enum: [a, b]}}", "output form"),
    ],
)
def test_models_parameters_and_forms_are_told_apart(written: Written, old: str, new: str, named: str) -> None:
    before = written.run([row_of("a")])
    after = written.run([row_of("a")], source=CHAIN.replace(old, new))
    assert causes(diff_runs(written.store, before, after)) == [(0, "triage", [named])]


def test_a_variable_is_named_with_both_values(written: Written) -> None:
    before, after = written.run([row_of("a")]), written.run([row_of("b")])
    found = diff_runs(written.store, before, after, steps=["triage", "reply"])
    (divergence,) = found.divergences
    (cause,) = divergence.causes
    assert (cause.kind, cause.name, cause.before, cause.after) == ("variable", "inputs.ticket", "a", "b")


def test_passages_are_named_with_their_ranks(written: Written) -> None:
    from chains.diff.causes import moved

    before, after = written.run([row_of("a")]), written.run([row_of("a", hits=("c", "a"))])
    (divergence,) = diff_runs(written.store, before, after).divergences
    (cause,) = divergence.causes
    assert divergence.step == "passages" and cause.kind == "passages"
    moves = {move["id"]: (move["before"], move["after"]) for move in moved(cause.before, cause.after)}
    assert moves == {"a": (1, 2), "b": (2, None), "c": (None, 1)}


def test_an_ending_is_named_with_its_error(written: Written) -> None:
    failed = row_of("a")
    failed["triage"] |= {"status": "failed", "error": {"type": "Refused", "message": "no"}, "output": None}
    before, after = written.run([row_of("a")]), written.run([failed])
    (divergence,) = diff_runs(written.store, before, after).divergences
    assert divergence.causes[0].to_dict() == {
        "cause": "ending", "name": "", "before": "ok", "after": "failed: no"
    }  # fmt: skip


def test_rows_of_other_data_are_paired_by_their_inputs(written: Written) -> None:
    before = written.run([row_of("a"), row_of("b"), row_of("b"), row_of("c")])
    after = written.run([row_of("c"), row_of("b", intent="x"), row_of("d")], data="e" * 64)
    found = diff_runs(written.store, before, after)
    assert found.paired_by == "inputs" and found.rows == 2
    assert (found.rows_only_before, found.rows_only_after) == (2, 1)
    assert [(d.row_before, d.row_after, d.step) for d in found.divergences] == [(1, 1, "triage")]


def test_steps_that_one_chain_lacks_are_named(written: Written) -> None:
    source = CHAIN.replace("  passages: {", "  found: {").replace("passages.hits", "found.hits")
    before, after = written.run([row_of("a")]), written.run([], source=source)
    found = diff_runs(written.store, before, after)
    assert found.only_before == ("passages",) and found.only_after == ("found",)


def test_a_thousand_rows_take_a_handful_of_queries(written: Written) -> None:
    before = written.run([row_of(str(row)) for row in range(1000)])
    after = written.run([row_of(str(row), intent="x" if row % 2 else "refund") for row in range(1000)])
    asked: list[str] = []
    engine = written.store._reading_engine()
    event.listen(engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    found = diff_runs(written.store, before, after, shown=3)
    assert found.diverged == 500 and len(found.divergences) == 3
    assert len(asked) <= 10


ANSWERS = st.sampled_from(["refund", "question"])
ROWS = st.lists(
    st.builds(row_of, st.sampled_from("abc"), ANSWERS, ANSWERS, st.sampled_from([("a", "b"), ("b", "a")])),
    min_size=1,
    max_size=4,
)
SOURCES = st.sampled_from([CHAIN, CHAIN.replace("temperature: 0", "temperature: 1")])
DATA = st.sampled_from(["d" * 64, "e" * 64])


@given(ROWS, ROWS, SOURCES, SOURCES, DATA)
@settings(deadline=None, max_examples=40)
def test_what_diverges_does_not_depend_on_which_run_is_named_first(
    one: list[Any], two: list[Any], source_one: str, source_two: str, data: str
) -> None:
    with TemporaryDirectory() as folder:
        store = open_store(Path(folder))
        written = Written(store)
        first = written.run(one, source=source_one)
        second = written.run(two, source=source_two, data=data)
        there = diff_runs(store, first, second)
        back = diff_runs(store, second, first)
        for run in (first, second):
            assert diff_runs(store, run, run).diverged == 0
        store.close()
    assert (there.diverged, there.rows) == (back.diverged, back.rows)
    assert (there.rows_only_before, there.rows_only_after) == (back.rows_only_after, back.rows_only_before)
    forth = {
        (d.row_before, d.row_after, d.step, d.answer_differs, tuple(map(str, d.causes)))
        for d in there.divergences
    }
    mirrored = {
        (d.row_after, d.row_before, d.step, d.answer_differs, tuple(map(str, d.causes)))
        for d in back.divergences
    }
    assert forth == mirrored
    for divergence in there.divergences:
        for cause in divergence.causes:
            assert cause.before != cause.after or cause.kind == "sampling noise"


@given(st.text(max_size=60), st.text(max_size=60))
@settings(deadline=None)
def test_the_pieces_of_a_word_diff_are_the_two_texts(before: str, after: str) -> None:
    pieces = words(before, after)
    assert "".join(piece.text for piece in pieces if piece.side != "after") == before
    assert "".join(piece.text for piece in pieces if piece.side != "before") == after


def test_words_are_compared_and_not_letters_and_very_long_texts_as_a_whole() -> None:
    pieces = [(piece.side, piece.text) for piece in words("the old house", "the new house")]
    assert pieces == [("same", "the "), ("before", "old"), ("after", "new"), ("same", " house")]
    lines = "".join(f"line {number} of many words\n" for number in range(400))
    by_line = words(lines, lines.replace("line 7 ", "row 7 "))
    assert ("before", "line 7 of many words\n") in [(piece.side, piece.text) for piece in by_line]
    long = "a\n" * 5000
    assert [piece.side for piece in words(long, long + "b")] == ["before", "after"]
