"""What `models:NAME@...` means where the model is behind an endpoint: its name there, and which endpoint.

Knows nothing of calls. The chain's own entry decides keys and headers; only the address, where the entry
leaves it out, is the one at which the model was made. Whether it may be called is decided as for any other
model.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from chains.errors import EnvironmentLacks, InputInvalid
from chains.spec import Model

if TYPE_CHECKING:
    from chains.store import ModelRow, Store

STORED = "models:"


def found_hosted(model: Model, store: Store) -> Model | None:
    """Return the model that an entry stands for, or None where no such version is published."""
    row = _row(model, store)
    return _resolved(model, row) if row is not None and row.kind == "hosted" else None


def hosted_model(name: str, model: Model, store: Store) -> Model:
    """Return the model that an entry stands for; raise where there is none, or where it is not hosted."""
    row = _row(model, store)
    if row is None:
        known = ", ".join(f"{one.name}@{one.version}" for one in store.models() if one.kind == "hosted")
        raise EnvironmentLacks(
            f"model {name!r}: there is no published model {model.model!r}.",
            hint=f"Hosted are: {known or 'none'}. A step with `finetune: openai` and `publish:` adds one.",
        )
    if row.kind != "hosted":
        raise InputInvalid(
            f"model {name!r}: models:{row.name}@{row.version} is on this machine, not at an endpoint.",
            hint="Give it `provider: local`.",
        )
    return _resolved(model, row)


def _row(model: Model, store: Store) -> ModelRow | None:
    name, _, version = (model.model or "").removeprefix(STORED).partition("@")
    return store.model(name, int(version) if version.isdecimal() else None)


def _resolved(model: Model, row: ModelRow) -> Model:
    made_at = json.loads(row.base or "{}")
    changes = {"model": made_at["hosted"]}
    if model.base_url is None:
        changes |= {key: made_at[key] for key in ("base_url", "api_version") if key in made_at}
    return model.model_copy(update=changes)
