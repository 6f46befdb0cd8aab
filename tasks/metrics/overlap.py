"""BLEU, chrF and ROUGE: how much of a text's words and characters stand in another.

Owns the counts of each row and their sums. BLEU's tokens and counts come from sacrebleu, so that its figure
is the one that papers report (Post 2018); chrF (Popović 2015) and ROUGE (Lin 2004) are counted here and
equal sacrebleu's and rouge-score's. A list of texts as the reference holds alternatives. Knows nothing of
steps. Figures lie between 0 and 1, where sacrebleu prints 0 to 100.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tasks.metrics.estimate import FEW, Estimate, wilson
from tasks.metrics.resampling import bootstrap_interval
from tasks.metrics.text import canonical_text

if TYPE_CHECKING:
    import numpy as np

_ORDERS = 6
"""Longest character n-gram of chrF."""
_BETA = 2
"""How much more chrF's recall weighs than its precision."""
_WORDS = re.compile(r"[^a-z0-9]+")


def references_of(reference: Any) -> list[str]:
    """Return the texts that a prediction may be like: the alternatives of a list, or the one text."""
    if isinstance(reference, list) and reference and all(isinstance(item, str) for item in reference):
        return [canonical_text(item) for item in reference]
    return [canonical_text(reference)]


def rouge(prediction: Any, reference: Any, kind: str) -> float:
    """Score the F-measure of ROUGE-1, ROUGE-2 or ROUGE-L (`1`, `2`, `L`), without stemming; the best counts.

    Words are runs of ASCII letters and digits, as in rouge-score.
    """
    said = _words(canonical_text(prediction))
    return max(_rouge(said, _words(text), kind) for text in references_of(reference))


def _words(text: str) -> list[str]:
    return _WORDS.sub(" ", text.lower()).split()


def _rouge(said: Sequence[str], right: Sequence[str], kind: str) -> float:
    if kind == "L":
        common, of_said, of_right = _longest_common(said, right), len(said), len(right)
    else:
        ours, theirs = _grams(said, int(kind)), _grams(right, int(kind))
        common, of_said, of_right = (ours & theirs).total(), ours.total(), theirs.total()
    return 2 * common / (of_said + of_right) if common else 0.0


def _grams(words: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[start : start + size]) for start in range(len(words) - size + 1))


def _longest_common(said: Sequence[str], right: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    row = [0] * (len(right) + 1)
    for word in said:
        before = 0
        for place, other in enumerate(right, start=1):
            before, row[place] = row[place], before + 1 if word == other else max(row[place], row[place - 1])
    return row[-1]


def chrf_row(prediction: Any, reference: Any) -> list[int]:
    """Return chrF's counts of one row: for each order the n-grams said, those of the reference, and both."""
    said = "".join(canonical_text(prediction).split())
    each = [_chrf_counts(said, "".join(text.split())) for text in references_of(reference)]
    return max(each, key=lambda counts: _chrf_of(counts))


def _chrf_counts(said: str, right: str) -> list[int]:
    found = []
    for size in range(1, _ORDERS + 1):
        ours = Counter(said[start : start + size] for start in range(len(said) - size + 1))
        theirs = Counter(right[start : start + size] for start in range(len(right) - size + 1))
        # an order that the reference is too short for has no hits to miss
        found += [ours.total() if theirs else 0, theirs.total(), (ours & theirs).total()]
    return found


def _chrf_of(counts: Sequence[int]) -> float:
    import numpy as np

    return float(chrf_of_sums(np.asarray([counts], dtype=np.float64))[0])


def chrf_of_sums(sums: np.ndarray) -> np.ndarray:
    """Return chrF2 of summed counts (draws x 18): F of the mean precision and recall of all orders."""
    import numpy as np

    parts = sums.reshape(len(sums), _ORDERS, 3)
    said, right, both = parts[:, :, 0], parts[:, :, 1], parts[:, :, 2]
    has = (said > 0) & (right > 0)
    orders = np.maximum(has.sum(axis=1), 1)
    precision = np.divide(both, said, out=np.zeros_like(both), where=has).sum(axis=1) / orders
    recall = np.divide(both, right, out=np.zeros_like(both), where=has).sum(axis=1) / orders
    weighed = _BETA**2 * precision + recall
    found = (1 + _BETA**2) * precision * recall
    return np.asarray(np.divide(found, weighed, out=np.zeros(len(sums)), where=weighed > 0))


def bleu_row(prediction: Any, reference: Any) -> list[int]:
    """Return BLEU's counts of one row: matches and n-grams of four orders, and both lengths."""
    from sacrebleu.metrics.bleu import BLEU

    found = BLEU(effective_order=True).sentence_score(canonical_text(prediction), references_of(reference))
    return [*found.counts, *found.totals, found.sys_len, found.ref_len]


def bleu_of_sums(sums: np.ndarray) -> np.ndarray:
    """Return corpus BLEU-4 of summed counts (draws x 10), with sacrebleu's default smoothing (`exp`)."""
    import numpy as np

    matches, grams, said, right = sums[:, :4], sums[:, 4:8], sums[:, 8], sums[:, 9]
    none = (matches == 0) & (grams > 0)
    halved = np.where(none, 2.0 ** np.cumsum(none, axis=1) * np.maximum(grams, 1), 1.0)
    precision = np.where(none, 1.0 / halved, matches / np.maximum(grams, 1))
    whole = (grams > 0).all(axis=1) & (matches[:, 0] > 0)
    logs = np.log(np.where(precision > 0, precision, 1.0)).mean(axis=1)
    brevity = np.where(said < right, np.exp(1 - right / np.maximum(said, 1)), 1.0)
    return np.where(whole, brevity * np.exp(logs), 0.0)


def of_sums(rows: Sequence[Sequence[int]], figure: Callable[[np.ndarray], np.ndarray]) -> Estimate:
    """Estimate a figure of summed counts, by a bootstrap over rows; of fewer than ten rows by Wilson's."""
    import numpy as np

    n = len(rows)
    if not n:
        return wilson(0, 0)
    # sorted, so that the order of the rows decides nothing
    cells, times = np.unique(np.asarray(rows, dtype=np.float64), axis=0, return_counts=True)
    value = min(1.0, float(figure(times[np.newaxis].astype(np.float64) @ cells)[0]))
    if n < FEW or len(cells) == 1:
        return wilson(value * n, n)
    low, high = bootstrap_interval(times.tolist(), lambda draws: figure(draws @ cells))
    return Estimate(value, min(low, value), max(min(1.0, high), value), n, "bootstrap")
