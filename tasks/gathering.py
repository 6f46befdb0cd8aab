"""Waiting for several things at once, so that nothing that was paid is dropped.

Knows nothing of what is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from chains.errors import HeadraceError, StepFailed

T = TypeVar("T")


async def gather(pending: Sequence[Awaitable[T]]) -> list[T]:
    """Await all; an unexpected error of one lets the others end first, so that no paid call is dropped."""
    results = await asyncio.gather(*pending, return_exceptions=True)
    for result in results:
        if isinstance(result, asyncio.CancelledError | HeadraceError):
            raise result
        if isinstance(result, BaseException):
            raise StepFailed(f"an unexpected {type(result).__name__}: {result}") from result
    return [result for result in results if not isinstance(result, BaseException)]
