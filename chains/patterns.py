"""Search a text that a model wrote for a pattern that a chain names, without ever hanging.

Python's matcher may need time that grows exponentially with a text, cannot be interrupted and stops the whole
process meanwhile. So patterns whose work is surely small are searched here, all others in one helper process
that the system ends after a second of work. Knows nothing of schemas.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import subprocess
import sys
import threading
from functools import lru_cache

SMALL = 5_000_000
"""Steps of the matcher that are surely done within a fraction of a second."""
SECONDS = 1.0

_SEARCHER = f"""
import json, re, signal, sys
for line in sys.stdin:
    pattern, text = json.loads(line)
    signal.setitimer(signal.ITIMER_VIRTUAL, {SECONDS})  # its signal ends the process, whatever that is doing
    found = re.search(pattern, text) is not None
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    print(int(found), flush=True)
"""
_REPEATED_GROUP = re.compile(r"\)\s*[*+{]|\(\?[a-zA-Z]*x")
"""A repeat of something that may hold repeats; or the verbose form, in which that is harder to see."""


class TooSlow(ValueError):
    """A pattern needs too long for a text."""


def search(pattern: str, text: str) -> bool:
    """Whether a pattern is somewhere in a text, as in `re.search`; raise TooSlow after a second of work."""
    if is_quick(pattern, len(text)):
        return re.search(pattern, text) is not None
    return _searcher().search(pattern, text)


@lru_cache(maxsize=1024)
def is_quick(pattern: str, length: int) -> bool:
    """Whether the matcher's work on any text of this length is surely small.

    Without a repeated group, each repeat adds at most one factor of the length, the search for a beginning
    another one, and each `?` or `|` doubles the ways. Escaped ones count too: one errs to the safe side.
    """
    if _REPEATED_GROUP.search(pattern):
        return False
    anchored = pattern.startswith("^") and "|" not in pattern
    repeats = sum(map(pattern.count, "*+{")) + (not anchored)
    doubled = sum(map(pattern.count, "?|"))
    return doubled < 20 and max(length, 2) ** min(repeats, 30) * 2**doubled <= SMALL


class _Searcher:
    """One helper process, started anew after it had to be ended."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def search(self, pattern: str, text: str) -> bool:
        re.compile(pattern)  # what is no pattern fails here, as it does in `re.search`
        with self._turn:
            process = self._process or self._start()
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdin.write(json.dumps([pattern, text]) + "\n")
                process.stdin.flush()
                answer = process.stdout.readline()
            except BrokenPipeError:
                answer = ""
            if answer:
                return answer.strip() == "1"
            self.stop()
        raise TooSlow(f"the pattern {pattern!r:.200} needs too long for a text of {len(text)} characters.")

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-I", "-S", "-c", _SEARCHER]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        return self._process


@lru_cache(maxsize=1)
def _searcher_of(pid: int) -> _Searcher:
    """Return this process's searcher; a forked child must not share its parent's pipes."""
    searcher = _Searcher()
    atexit.register(searcher.stop)
    return searcher


def _searcher() -> _Searcher:
    return _searcher_of(os.getpid())
