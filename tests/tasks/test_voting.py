"""Votes over samples: what the same answer is, who wins, and when nobody does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chains.errors import StepFailed
from tasks.voting import ballot, elect

values = st.sampled_from(["refund", "delivery", {"a": 1, "b": [2]}, {"b": [2], "a": 1}, 3, 3.0, True, 1])
samples = st.lists(st.none() | values, min_size=1, max_size=12)


def said(value: Any) -> dict[str, Any]:
    return {"text": "any words", "finish_reason": "stop", "output": value}


def answers(given: list[Any]) -> list[dict[str, Any] | None]:
    return [None if value is None else said(value) for value in given]


@given(samples)
def test_the_majority_is_the_most_frequent_answer_and_of_equals_the_first_seen(given):
    cast = [None if value is None else ballot(said(value)) for value in given]
    if not any(cast):
        with pytest.raises(StepFailed, match=f"none of the {len(given)} samples"):
            elect(answers(given), "majority", 1)
        return
    elected = elect(answers(given), "majority", 1)
    counts = {vote: cast.count(vote) for vote in cast if vote is not None}
    assert elected.votes == max(counts.values()) == cast.count(cast[elected.place])
    # No answer that comes earlier has as many votes.
    assert all(counts[vote] < elected.votes for vote in cast[: elected.place] if vote is not None)


@given(samples, st.integers(1, 12))
def test_a_quorum_is_reached_exactly_when_enough_samples_agree_or_answer(given, quorum):
    cast = [ballot(said(value)) for value in given if value is not None]
    most = max((cast.count(vote) for vote in cast), default=0)
    for vote, reached in (("majority", most), ("first", len(cast)), ("all", len(cast))):
        if reached >= quorum:
            elect(answers(given), vote, quorum)
        else:
            with pytest.raises(StepFailed):
                elect(answers(given), vote, quorum)


@given(samples)
def test_the_first_answer_counts_whatever_the_others_say(given):
    if any(value is not None for value in given):
        place = elect(answers(given), "first", 1).place
        assert given[place] is not None and not any(value is not None for value in given[:place])


@given(st.permutations(["refund"] * 4 + ["delivery"] * 2 + ["question"]))
def test_a_clear_majority_wins_in_every_order(given):
    elected = elect(answers(given), "majority", 4)
    assert given[elected.place] == "refund" and elected.votes == 4


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Yes.", "  yes.\n", True),
        ("ﬁne", "fine", True),
        ("yes", "yes!", False),
        ("", " ", True),
        ("a b", "ab", False),
    ],
)
def test_texts_vote_with_their_words(one, other, same):
    first, second = ({"text": text, "output": None} for text in (one, other))
    assert (ballot(first) == ballot(second)) is same


def test_values_vote_with_their_json_and_not_with_their_text():
    assert ballot({"text": '{"a": 1}', "output": {"a": 1}}) == ballot(
        {"text": '{ "a":1 }', "output": {"a": 1}}
    )
    assert ballot(said(1)) != ballot(said(1.0)) != ballot(said(True))


def test_the_error_below_the_quorum_shows_the_counts():
    given = ["refund", "refund", "delivery", None, "refund", "question"]
    with pytest.raises(StepFailed, match=r"the 4 votes .* 6 samples voted 3 : 1 : 1, 1 without an answer"):
        elect(answers(given), "majority", 4)
    with pytest.raises(StepFailed, match="5 of 6 samples have an answer, and `quorum` asks for 6"):
        elect(answers(given), "all", 6)
