"""Work that nobody waits for, done in the order in which it was handed in.

Owns the thread for it, one in each process. Knows nothing of the work. Invariant: after `drain` all that was
handed in before is done; the end of the interpreter drains.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from chains.errors import HeadraceError

_LOG: Final = logging.getLogger(__name__)


class Aside:
    """Does things later, one at a time."""

    def __init__(self) -> None:
        self._threads: dict[int, ThreadPoolExecutor] = {}

    def do(self, work: Callable[[], None], what: str) -> None:
        """Have something done soon; `what` begins the sentence that is logged where it cannot be done."""
        threads = self._threads.get(os.getpid())
        if threads is None:
            threads = self._threads.setdefault(os.getpid(), ThreadPoolExecutor(1, "headrace-aside"))
        threads.submit(_done, work, what)

    def drain(self) -> None:
        """Return when all that this process has handed in is done."""
        threads = self._threads.pop(os.getpid(), None)
        if threads is not None:
            threads.shutdown()


def _done(work: Callable[[], None], what: str) -> None:
    try:
        work()
    except HeadraceError as error:
        _LOG.warning("%s: %s", what, error)
