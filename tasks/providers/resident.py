"""Loaded models that outlive the run that they were loaded for, in a process that does part after part.

Owns which models stay. Knows nothing of how they are loaded. A process keeps none unless it was asked to.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, TypeVar

Loaded = TypeVar("Loaded")

_kept: OrderedDict[Hashable, Any] = OrderedDict()
_lock = Lock()
_most = 0


def _silent(_: str) -> None:
    """Tell nobody."""


_say: Callable[[str], None] = _silent


def keep(number: int, say: Callable[[str], None] = _silent) -> None:
    """Let the models that were used last stay loaded, up to this number; `say` hears of each new one."""
    global _most, _say
    _most, _say = number, say
    _let_go()


def resident(key: Hashable, load: Callable[[], Loaded], *, name: str) -> Loaded:
    """Return the model of this key: the one that stayed, else one that is loaded now under its `name`."""
    with _lock:  # two runs of one process load no model twice
        if key in _kept:
            _kept.move_to_end(key)
            found: Loaded = _kept[key]
            return found
        loaded = load()
        _say(f"model {name!r} loaded")
        _kept[key] = loaded
        _let_go()
        return loaded


def _let_go() -> None:
    while len(_kept) > _most:
        _kept.popitem(last=False)
