"""The text of a local answer, told while it is decoded.

Owns what may be told already: never half a character, nor what may become a stop text. Knows nothing of how
tokens are made.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from tasks.providers.streams import OnText


class Telling:
    """One answer on its way to a listener on an event loop; used in the thread that decodes."""

    def __init__(self, text_of: Callable[[Sequence[int]], str], stop: Sequence[str], on_text: OnText) -> None:
        self._text_of = text_of
        self._stop = stop
        self._on_text = on_text
        self._held = max((len(ending) - 1 for ending in stop), default=0)
        self._told = 0

    def ended(self, tokens: Sequence[int]) -> bool:
        """Tell what is sure by now; return whether the tokens complete the answer."""
        text = self._text_of(tokens)
        if any(ending in text for ending in self._stop):
            return True
        self._tell(text[: len(text) - self._held].rstrip("\ufffd"))
        return False

    def finish(self, tokens: Sequence[int]) -> None:
        """Tell the rest."""
        text = self._text_of(tokens)
        for ending in self._stop:
            text = text.split(ending, 1)[0]
        self._tell(text)

    def _tell(self, text: str) -> None:
        if len(text) > self._told:
            self._on_text(text[self._told :])
            self._told = len(text)


def on_loop(on_text: OnText) -> OnText:
    """Return a listener for other threads: it is told on the event loop of now, unless that is closed."""
    loop = asyncio.get_running_loop()

    def tell(text: str) -> None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(on_text, text)

    return tell
