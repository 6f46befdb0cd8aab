"""What several answers to one question come to: the vote over a step's samples.

Owns what counts as the same answer, ties and the quorum. Knows nothing of how samples are asked for.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chains.errors import StepFailed
from chains.keys import canonical
from chains.spec import Vote

Answer = Mapping[str, Any]
"""A prompt step's output."""


@dataclass(frozen=True, slots=True)
class Elected:
    """The answer that counts: its place among the samples, and how many samples gave the same."""

    place: int
    votes: int


def ballot(answer: Answer) -> bytes:
    """Return what two answers must share to be the same.

    A structured answer votes with its value, as canonical JSON; a text with its words: case, spaces and line
    breaks do not count, nor do forms of one Unicode character.
    """
    if answer.get("output") is not None:
        return b"v" + canonical(answer["output"])
    words = unicodedata.normalize("NFKC", str(answer.get("text", ""))).casefold().split()
    return b"t" + canonical(" ".join(words))


def elect(answers: Sequence[Answer | None], vote: Vote, quorum: int) -> Elected:
    """Return the answer that counts; None stands for a sample that has no answer.

    `majority`: the answer that most samples gave, of several with as many votes the one seen first; at
    least `quorum` samples must have given it. `first`, `all`: the first sample that has an answer; at least
    `quorum` must have one. Raises StepFailed with the counts where the quorum is not reached.
    """
    ballots = [None if answer is None else ballot(answer) for answer in answers]
    counts = Counter(cast for cast in ballots if cast is not None)
    answered = counts.total()
    if not answered:
        raise StepFailed(f"none of the {len(answers)} samples has an answer.")
    if vote == "majority":
        winner, votes = counts.most_common(1)[0]  # of equal counts the one that was put in first
        reached = votes
    else:
        winner = next(cast for cast in ballots if cast is not None)
        votes, reached = counts[winner], answered
    if reached < quorum:
        raise StepFailed(_below(counts, len(answers), vote, quorum), hint=_HINT[vote == "majority"])
    return Elected(ballots.index(winner), votes)


_HINT = {
    True: "Lower `quorum`, ask for more `samples`, or make the answers easier to tell apart with `output:`.",
    False: "Lower `quorum`, or see why the others failed in their records.",
}


def _below(counts: Counter[bytes], samples: int, vote: Vote, quorum: int) -> str:
    answered = counts.total()
    missing = f", {samples - answered} without an answer" if samples > answered else ""
    if vote != "majority":
        return f"{answered} of {samples} samples have an answer, and `quorum` asks for {quorum}."
    split = " : ".join(str(number) for _, number in counts.most_common(10))
    return (
        f"no answer has the {quorum} votes that `quorum` asks for: {samples} samples voted {split}{missing}."
    )
