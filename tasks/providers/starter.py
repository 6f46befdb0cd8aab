"""The chat model that ships with Headrace, so that every chain can run offline.

It is a local model like any other; only its weights need no name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chains.spec import Model
from tasks.providers.local import LocalProvider
from tasks.providers.weights import starter_weights

if TYPE_CHECKING:
    from chains.settings import Settings
    from chains.store import Store


def open_starter(name: str, model: Model, *, store: Store, settings: Settings) -> LocalProvider:
    """Open the starter model; `store` is taken so that all providers open alike."""
    del store
    return LocalProvider(name, model, starter_weights(), settings=settings)
