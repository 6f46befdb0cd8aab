"""A recorded request as something to run by hand: curl, and Python with the openai client.

Owns the two forms. The key is left out: the variable of the environment that the chain names stands there.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from chains.graph import models_of
from flows.inspector.texts import as_text

if TYPE_CHECKING:
    from chains.diff import RecordedRun
    from chains.spec import Model
    from chains.store import AttemptRow, RecordRow

_ENV = re.compile(r"\{\{\s*env\.([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")
_DEFAULT = "https://api.openai.com/v1"


def copies(
    recorded: RecordedRun | None, record: RecordRow, attempts: Sequence[AttemptRow], limit: int
) -> dict[str, str]:
    """Return the last request by the name of each form; none for local models and very long requests."""
    model = _model(recorded, record)
    request = attempts[-1].request if attempts else None
    if model is None or request is None or len(request) > limit:
        return {}
    address, key = _address(model), _key(model)
    try:
        body = json.loads(request)
    except ValueError:
        return {}
    python = (
        "import os\nfrom openai import OpenAI\n\n"
        f"client = OpenAI(base_url={address!r}, api_key=os.environ[{key!r}])\n"
        f"print(client.chat.completions.create(**{body!r}))\n"
    )
    curl = (
        f"curl {shlex.quote(address + '/chat/completions')} \\\n"
        f"  -H 'Content-Type: application/json' -H \"Authorization: Bearer ${key}\" \\\n"
        f"  --data-raw {shlex.quote(as_text(request))}\n"
    )
    return {"curl": curl, "Python": python}


def _model(recorded: RecordedRun | None, record: RecordRow) -> Model | None:
    """Return the model of a prompt step that a chat endpoint answers."""
    if recorded is None or record.messages is None:
        return None
    chain = recorded.chain_file.chain
    step, _ = recorded.every.get(record.step, (None, None))
    names = models_of(step, chain) if step is not None else []
    model = chain.models.get(names[0]) if names else None
    return model if model is not None and model.provider == "openai" else None


def _address(model: Model) -> str:
    return (model.base_url or _DEFAULT).rstrip("/")


def _key(model: Model) -> str:
    found = _ENV.search(model.api_key or "")
    return found[1] if found else "OPENAI_API_KEY"
