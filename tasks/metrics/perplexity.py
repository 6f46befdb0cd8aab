"""Perplexity over rows: e to the loss per token, with its interval.

Owns the interval. It goes by rows, not by tokens: those of one text hang together. Knows nothing of models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tasks.metrics.estimate import CONFIDENCE, Estimate, t_quantile


def perplexity(rows: Sequence[tuple[float, int]]) -> Estimate:
    """Estimate the perplexity of all rows together from each row's loss in nats and its predicted tokens.

    The loss per token is a ratio of two sums over rows; its interval is Student's t over how far each row is
    from it (Cochran, Sampling Techniques, 6.4), taken to the power of e. One row alone has no spread: its
    interval is itself, and `n` says so.
    """
    n = len(rows)
    tokens = sum(count for _, count in rows)
    loss = math.fsum(nats for nats, _ in rows) / tokens
    if n == 1:
        return Estimate(math.exp(loss), math.exp(loss), math.exp(loss), n, "t")
    apart = math.fsum((nats - loss * count) ** 2 for nats, count in rows)
    error = math.sqrt(n / (n - 1) * apart) / tokens
    half = t_quantile((1 + CONFIDENCE) / 2, n - 1) * error
    return Estimate(math.exp(loss), math.exp(loss - half), math.exp(loss + half), n, "t")
