"""What a chain is and what a run leaves behind.

`chains.load` reads and checks a chain file; `chains.Chain` and its parts build one in a program. Names are
loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chains.errors import ChainInvalid, HeadraceError, Problem
    from chains.loading import ChainFile, find_chain, load, load_source, to_yaml
    from chains.spec import (
        Chain,
        Collection,
        Defaults,
        EmbedStep,
        EvaluateStep,
        FinetuneStep,
        Input,
        Limits,
        Model,
        PrepareStep,
        PromptStep,
        PythonStep,
        RetrieveStep,
        Retry,
    )

_HOMES = {
    "chains.errors": ("ChainInvalid", "HeadraceError", "Problem"),
    "chains.loading": ("ChainFile", "find_chain", "load", "load_source", "to_yaml"),
    "chains.spec": (
        "Chain",
        "Collection",
        "Defaults",
        "EmbedStep",
        "EvaluateStep",
        "FinetuneStep",
        "Input",
        "Limits",
        "Model",
        "PrepareStep",
        "PromptStep",
        "PythonStep",
        "RetrieveStep",
        "Retry",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Chain",
    "ChainFile",
    "ChainInvalid",
    "Collection",
    "Defaults",
    "EmbedStep",
    "EvaluateStep",
    "FinetuneStep",
    "HeadraceError",
    "Input",
    "Limits",
    "Model",
    "PrepareStep",
    "Problem",
    "PromptStep",
    "PythonStep",
    "RetrieveStep",
    "Retry",
    "find_chain",
    "load",
    "load_source",
    "to_yaml",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'chains' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return __all__
