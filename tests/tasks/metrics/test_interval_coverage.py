"""A 95 % interval holds the truth in 93 to 97 % of a thousand simulated evaluations.

Run with: pytest tests/tasks/metrics/test_interval_coverage.py
"""

from itertools import pairwise

import numpy as np
import pytest

from tasks.metrics import METRICS, Pair
from tasks.metrics.compare import compare
from tasks.metrics.estimate import mean, wilson
from tasks.metrics.overlap import chrf_of_sums, of_sums
from tasks.metrics.perplexity import perplexity

TRIALS = 1000


def share_covered(draw, truth):
    """The share of trials whose interval holds the truth."""
    found = [draw(np.random.default_rng([11, trial])) for trial in range(TRIALS)]
    return sum(item.low <= truth <= item.high for item in found) / TRIALS


@pytest.mark.parametrize("n", [60, 400])
@pytest.mark.parametrize("p", [0.55, 0.8, 0.93])
def test_of_a_share(n, p):
    assert 0.93 <= share_covered(lambda rng: wilson(int(rng.binomial(n, p)), n), p) <= 0.97


@pytest.mark.parametrize("n", [20, 200])
@pytest.mark.parametrize(("a", "b"), [(2, 2), (4, 1.5)])
def test_of_a_mean_of_scores(n, a, b):
    assert 0.93 <= share_covered(lambda rng: mean(rng.beta(a, b, n).tolist()), a / (a + b)) <= 0.97


@pytest.mark.parametrize("n", [30, pytest.param(150, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_of_a_paired_difference_of_scores(n):
    def draw(rng):
        hard = rng.beta(2, 2, n)
        before = np.clip(hard + rng.normal(0, 0.05, n), 0, 1)
        after = np.clip(hard * 0.9 + 0.1 * rng.random(n), 0, 1)
        return compare(before.tolist(), after.tolist())

    rng = np.random.default_rng(5)
    hard = rng.beta(2, 2, 4_000_000)
    before = np.clip(hard + rng.normal(0, 0.05, hard.size), 0, 1)
    truth = float(np.mean(hard * 0.9 + 0.1 * rng.random(hard.size) - before))
    assert 0.93 <= share_covered(draw, truth) <= 0.97


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_of_macro_f1():
    labels, shares, right_share = ["a", "b", "c"], [0.5, 0.3, 0.2], 0.8
    n = 300

    def draw(rng):
        right = rng.choice(labels, n, p=shares)
        said = np.where(rng.random(n) < right_share, right, rng.choice(labels, n))
        pairs = [Pair(*row) for row in zip(said.tolist(), right.tolist(), strict=True)]
        return METRICS["f1_macro"].estimate(pairs)

    # the population's own F1: a label is said rightly, or by chance
    scores = []
    for share in shares:
        hits = share * (right_share + (1 - right_share) / 3)
        said = share * right_share + (1 - right_share) / 3
        scores.append(2 * hits / (said + share))
    assert 0.93 <= share_covered(draw, sum(scores) / 3) <= 0.97


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_of_a_figure_over_summed_counts():
    n = 150
    shapes = np.array([[10 - place, 10 - place, max(0, 7 - 2 * place)] for place in range(6)])
    easy = np.array([[10 - place, 10 - place, 10 - place] for place in range(6)])
    cells = np.stack([shapes.ravel(), easy.ravel()])
    truth = float(chrf_of_sums(cells.mean(axis=0, keepdims=True))[0])

    def draw(rng):
        return of_sums(cells[rng.integers(0, 2, n)].tolist(), chrf_of_sums)

    assert 0.93 <= share_covered(draw, truth) <= 0.97


def test_more_rows_make_an_interval_narrower():
    widths = [wilson(0.8 * n, n).high - wilson(0.8 * n, n).low for n in (10, 100, 1000, 10_000)]
    assert all(wide > narrow for wide, narrow in pairwise(widths))


@pytest.mark.parametrize("n", [30, 200])
def test_of_perplexity(n):
    # texts of very different lengths, whose losses per token differ from text to text
    def draw(rng):
        tokens = np.maximum(2, rng.lognormal(4, 0.7, n).astype(int))
        nats = tokens * rng.normal(2.5, 0.6, n) + rng.normal(0, 1, n) * np.sqrt(tokens)
        return perplexity(list(zip(nats.tolist(), tokens.tolist(), strict=True)))

    assert 0.93 <= share_covered(draw, float(np.exp(2.5))) <= 0.97
