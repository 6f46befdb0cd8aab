"""Scores of one prediction against one reference, between 0 and 1.

Owns what "the same" means: for labels (accuracy), for answers (exact match, token F1) and for content
(contains). Knows nothing of intervals or of steps. A list of texts as the reference of an answer or
content metric holds alternatives, of which the best counts, as in SQuAD.
"""

from __future__ import annotations

import json
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable
from typing import Any

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def canonical_text(value: Any) -> str:
    """Return the one text by which a value is compared.

    Text is put into Unicode NFC and trimmed. Nothing (null) and empty text are the same, because a CSV
    cell cannot tell them apart. Whole floats lose their fraction (3.0 is "3"); true and false are written
    as in JSON; lists and objects as JSON with sorted keys.
    """
    match value:
        case None:
            return ""
        case str():
            return unicodedata.normalize("NFC", value).strip()
        case float() if value.is_integer():
            return str(int(value))
        case _:
            return json.dumps(
                value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False
            )


def normalise_answer(text: str) -> str:
    """Return an answer as SQuAD compares it: lower case, no ASCII punctuation, no articles, single spaces."""
    bare = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def accuracy(prediction: Any, reference: Any) -> float:
    """Score 1 where both have the same canonical text; case counts."""
    return float(canonical_text(prediction) == canonical_text(reference))


def exact_match(prediction: Any, reference: Any) -> float:
    """Score 1 where both are the same answer after SQuAD's normalisation (Rajpurkar et al. 2016)."""
    return _best(
        lambda said, right: float(normalise_answer(said) == normalise_answer(right)), prediction, reference
    )


def token_f1(prediction: Any, reference: Any) -> float:
    """Score the overlap of the words of two answers, as SQuAD does (Rajpurkar et al. 2016)."""
    return _best(_overlap, prediction, reference)


def contains(prediction: Any, reference: Any) -> float:
    """Score 1 where the reference stands somewhere in the prediction; case and runs of spaces do not count.

    An empty reference is in an empty prediction only: otherwise every answer would hold it.
    """
    return _best(_holds, prediction, reference)


def _best(score: Callable[[str, str], float], prediction: Any, reference: Any) -> float:
    said = canonical_text(prediction)
    if isinstance(reference, list) and reference and all(isinstance(item, str) for item in reference):
        return max(score(said, canonical_text(item)) for item in reference)
    return score(said, canonical_text(reference))


def _overlap(said: str, right: str) -> float:
    said_words, right_words = normalise_answer(said).split(), normalise_answer(right).split()
    if not said_words or not right_words:
        return float(said_words == right_words)
    common = (Counter(said_words) & Counter(right_words)).total()
    return 2 * common / (len(said_words) + len(right_words))


def _holds(said: str, right: str) -> float:
    wanted = " ".join(right.casefold().split())
    return float(wanted in " ".join(said.casefold().split()) if wanted else not said)
