"""Where a model's calls go, and with what: its address, its key and its headers, or why not here.

Owns the usual address and the usual variables, and that everything is allowed before it is put together.
Knows nothing of HTTP, so that `headrace check` can ask. What may go where is in tasks.providers.trust.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chains.errors import HeadraceError, Refused
from chains.references import references
from chains.spec import Chain, Model
from chains.usage import in_use
from tasks.providers.hosts import check_host, is_loopback, split_url
from tasks.providers.trust import KEY_NAMES, PAYER_NAMES, Rendered, Trust

if TYPE_CHECKING:
    from chains.settings import Settings

DEFAULT_BASE_URL = "https://api.openai.com/v1"
OPENAI_KEY = "OPENAI_API_KEY"
AZURE_KEY = "AZURE_OPENAI_API_KEY"


@dataclass(frozen=True, slots=True, repr=False)
class Route:
    """A model's address, key and further headers, with the environment's values in them."""

    host: str
    address: Rendered
    key: Rendered | None
    headers: Mapping[str, Rendered]
    payers: Mapping[str, Rendered]


def route_of(name: str, model: Model, *, settings: Settings, trust: Trust) -> Route:
    """Return where the calls of a model go; raise what keeps it from being called."""
    where = f"model {name!r}"
    address = trust.address(model.base_url or _usual_address(trust.env), where)
    host = split_url(address.text, where).hostname or ""
    check_host(host, settings.allowed_hosts, where)
    key = _key_of(model, host, trust, where)
    headers = {header: trust.text(value, where) for header, value in model.headers.items()}
    payers = _payers(model, host, trust, where)
    parts = [address, *payers.values(), *headers.values()] + ([key] if key is not None else [])
    trust.check_sending((used for part in parts for used in part.names), host, where)
    return Route(host, address, key, headers, payers)


def refusals(chain: Chain, *, settings: Settings, env: Mapping[str, str]) -> dict[str, str]:
    """Return why models in use could not be called here even if every variable were set, by model."""
    found = {}
    for name in sorted(in_use(chain)[0] & set(chain.models)):
        model = chain.models[name]
        if model.provider != "openai":
            continue
        unset = {variable: "unset" for variable in _variables(model) if not env.get(variable)}
        try:
            route_of(name, model, settings=settings, trust=Trust.of(settings, {**env, **unset}))
        except Refused as refusal:
            found[name] = str(refusal)
        except HeadraceError:
            continue  # the machine lacks something else, which is told in its own words
    return found


def _variables(model: Model) -> set[str]:
    """Return the variables that a model sends; those of its address are left out: they decide the host."""
    sent = [model.api_key, model.organization, model.project, *model.headers.values()]
    used = [reference for text in sent if text for reference in references(text)]
    return {OPENAI_KEY, AZURE_KEY} | {
        reference.path[0] for reference in used if reference.root == "env" and len(reference.path) == 1
    }


def _usual_address(env: Mapping[str, str]) -> str:
    return "{{ env.OPENAI_BASE_URL }}" if env.get("OPENAI_BASE_URL") else DEFAULT_BASE_URL


def _payers(model: Model, host: str, trust: Trust, where: str) -> dict[str, Rendered]:
    """Return the headers that say who pays, as OpenAI's own client sends them."""
    said = {"OpenAI-Organization": model.organization, "OpenAI-Project": model.project}
    if trust.is_home(OPENAI_KEY, host):
        usual = {"OpenAI-Organization": "OPENAI_ORG_ID", "OpenAI-Project": "OPENAI_PROJECT_ID"}
        for header, variable in usual.items():
            if trust.env.get(variable):
                said[header] = said[header] or f"{{{{ env.{variable} }}}}"
    return {
        header: trust.text(value, where, kinds=(*PAYER_NAMES, *KEY_NAMES))
        for header, value in said.items()
        if value
    }


def _key_of(model: Model, host: str, trust: Trust, where: str) -> Rendered | None:
    if model.api_key is not None:
        return trust.key(model.api_key, where)
    usual = AZURE_KEY if model.api_version else OPENAI_KEY
    at_home = trust.is_home(usual, host)
    if is_loopback(host) and not (at_home and trust.env.get(usual)):
        return None  # a server on this machine mostly wants none
    if not at_home:
        trust.check_sending([usual], host, where)
    return trust.key(f"{{{{ env.{usual} }}}}", where)
