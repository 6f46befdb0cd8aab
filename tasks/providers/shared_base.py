"""One base in memory for all the LoRA adapters on it that a run asks: which of them answers is switched.

Owns which models are expected on which base, and the base with its adapters. A lone adapter is merged into
its base, which answers faster; several leave it as it is, so that it is in memory once. Everything here but
`expect` and `forget` runs in the one thread of tasks.providers.batching, so no batch sees another's adapter.
"""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any, TypeAlias

from tasks.providers.weights import Weights

BaseKey: TypeAlias = tuple[str, str, str]

_expected: weakref.WeakKeyDictionary[object, tuple[BaseKey, str]] = weakref.WeakKeyDictionary()
_loaded: weakref.WeakValueDictionary[BaseKey, SharedBase] = weakref.WeakValueDictionary()


def base_key(weights: Weights, *, dtype: str, device: str) -> BaseKey | None:
    """Return what the adapters must have in common that share a base; None for what cannot share one."""
    if weights.base_sha256 is None or dtype == "int8" or _kind(weights.folder) != "LORA":
        return None
    return weights.base_sha256, dtype, device


def expect(who: object, weights: Weights, *, dtype: str, device: str) -> None:
    """Note that a model may be asked, until `forget`."""
    key = base_key(weights, dtype=dtype, device=device)
    if key is not None:
        _expected[who] = (key, weights.sha256)


def forget(who: object) -> None:
    """Expect nobody's questions any more."""
    _expected.pop(who, None)


def is_shared(key: BaseKey) -> bool:
    """Whether more than one adapter is expected on a base, or it is in memory for several already."""
    return key in _loaded or len({adapter for other, adapter in _expected.values() if other == key}) > 1


def shared_base(key: BaseKey) -> SharedBase:
    """Return the base of this key; its weights are loaded with the first adapter."""
    found = _loaded.get(key)
    if found is None:
        found = _loaded[key] = SharedBase()
    return found


class SharedBase:
    """A base with its adapters, one of which is in use."""

    def __init__(self) -> None:
        self._adapted: Any = None

    @property
    def model(self) -> Any:
        """The base itself, which answers with the adapter that is in use."""
        return self._adapted.get_base_model()

    def add(self, name: str, folder: Path, load: Any) -> None:
        """Put an adapter on the base; `load` gives the base with its first one, called by this name."""
        if self._adapted is None:
            self._adapted = load(name)
        elif name not in self._adapted.peft_config:
            before = next(self._adapted.get_base_model().parameters())
            self._adapted.load_adapter(str(folder), adapter_name=name, use_safetensors=True)
            # The adapter comes in float32, on the device that PEFT finds.
            self._adapted.to(device=before.device, dtype=before.dtype).eval()

    def use(self, name: str) -> None:
        """Let this adapter answer."""
        if self._adapted.active_adapter != name:
            self._adapted.set_adapter(name)


def _kind(folder: Path) -> str:
    found: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    return str(found.get("peft_type"))
