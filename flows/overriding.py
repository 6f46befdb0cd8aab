"""Puts something else in the place of what a chain says: `--model` and `--base-url`, and `--budget`.

Owns which settings of the old model the new one keeps. Knows nothing of whether the new one can be used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from chains.errors import InputInvalid
from chains.spec import Budget, Chain, Model

if TYPE_CHECKING:
    from chains.loading import ChainFile
    from flows.request import RunRequest
    from tasks.providers.trust import Granted

_SAMPLING = ("temperature", "top_p", "max_tokens", "stop", "seed")
_ENDPOINT = ("base_url", "api_key", "api_version", "organization", "project", "headers")


def override_models(chain: Chain, models: tuple[str, ...], base_url: str | None) -> Chain:
    """Apply `--model [NAME=]PROVIDER:MODEL` and `--base-url`; without a name, to the default model."""
    changed: dict[str, Model] = dict(chain.models)
    overridden = []
    for text in models:
        name, _, target = text.rpartition("=")
        name = name or chain.defaults.model or ""
        if name not in changed:
            raise InputInvalid(
                f"--model {text!r}: the chain has no model {name!r}."
                if name
                else f"--model {text!r}: the chain has no default model.",
                hint=f"Name one of {', '.join(sorted(chain.models))}, as in --model NAME=openai:gpt-5-mini.",
            )
        changed[name] = other_model(chain.models[name], target, base_url)
        overridden.append(changed[name].provider)
    if base_url and "openai" not in overridden:
        raise InputInvalid(
            "--base-url needs --model openai:NAME: it is the address of such a model.",
            hint="Write --model openai:NAME --base-url URL.",
        )
    return chain.model_copy(update={"models": changed})


def inner_overrides(chain_file: ChainFile, request: RunRequest) -> ChainFile:
    """Return a chain whose inner chains have the run's budget, and the models that `--model` puts there.

    A model of an inner chain is meant by its name there; without a name, its default model is.
    """
    inner: dict[str, ChainFile] = {}
    for text, found in chain_file.chains.items():
        chain = found.chain
        models = tuple(
            text
            for text in request.models
            if (text.rpartition("=")[0] or chain.defaults.model or "") in chain.models
        )
        chain = override_models(chain, models, request.base_url if models else None)
        chain = chain.model_copy(update={"budget": chain_file.chain.budget})
        inner[text] = inner_overrides(replace(found, chain=chain), request)
    return replace(chain_file, chains=inner)


def other_model(old: Model, target: str, base_url: str | None) -> Model:
    """Return the model that PROVIDER:MODEL names, with what of the old one's settings holds for it."""
    provider, colon, model = target.partition(":")
    if provider not in ("openai", "local", "starter") or (provider != "starter" and not model):
        raise InputInvalid(
            f"--model {target!r} names no model.",
            hint="Write openai:NAME, local:HUB_ID_OR_FOLDER or starter.",
        )
    if provider == "starter" and colon:
        raise InputInvalid(
            f"--model {target!r}: there is one starter model, and it takes no name.",
            hint="Write --model starter, or local:HUB_ID_OR_FOLDER for another one.",
        )
    fields = _kept(old, provider, elsewhere=base_url is not None)
    if provider == "openai" and base_url is not None:
        fields["base_url"] = base_url
    if provider == "local" and _is_folder(model):
        model = str(Path(model).expanduser().absolute())  # a chain's own paths count from its folder
    return Model.model_validate(fields | {"provider": provider, "model": model or None})


def granted(request: RunRequest) -> Granted:
    """Return what the user named and the chain did not: it may be called and read."""
    from tasks.providers.trust import Granted

    host = urlsplit(request.base_url or "").hostname
    of_fork = (request.fork or {}).get("models", {}).values()
    targets = [text.rpartition("=")[2].partition(":") for text in (*request.models, *of_fork)]
    folders = [model for provider, _, model in targets if provider == "local" and _is_folder(model)]
    return Granted(
        hosts=frozenset({host} if host else ()),
        folders=frozenset(Path(folder).expanduser().resolve() for folder in folders),
    )


def _is_folder(model: str) -> bool:
    return Path(model).expanduser().is_dir()


def _kept(old: Model, provider: str, *, elsewhere: bool) -> dict[str, Any]:
    """Return the old model's settings that also hold for the new one.

    An endpoint's models may refuse what is usual for a local one: a temperature, a short `max_tokens` that
    also counts what they think. So what nobody wrote is not made up, and what was fitted to a local model
    stays behind. A key never goes to another address.
    """
    if provider == "openai" and old.provider != "openai":
        names: tuple[str, ...] = ("temperature",)
    elif provider == "openai" and not elsewhere:
        names = (*_SAMPLING, "limits", "pool", *_ENDPOINT)
    else:
        names = (*_SAMPLING, "limits", "pool")
    return {name: value for name in names if (value := getattr(old, name)) is not None}


def override_budget(chain: Chain, budget: Mapping[str, float] | None) -> Chain:
    """Apply `--budget NAME=NUMBER` to what the whole run may spend."""
    if not budget:
        return chain
    said = chain.budget.model_dump(exclude_none=True) if chain.budget is not None else {}
    try:
        return chain.model_copy(update={"budget": Budget.model_validate({**said, **budget})})
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise InputInvalid(
            f"--budget does not fit: {wrong}.", hint="Write --budget usd=2, tokens=100000 or calls=500."
        ) from error
