"""What of this machine's environment a chain may use, and to which hosts it may go.

Owns the rule of docs/security.md: trust is never in the chain's file. A variable that a chain names must be
made for the purpose by its name, or be allowed by the machine; the key of a well-known service goes to that
service, or to hosts that the machine or the user has named. Knows nothing of requests. Invariant: no error
and no `shown` holds the value of a variable.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from chains.errors import EnvironmentLacks, Refused, TemplateFailed
from chains.references import Reference
from chains.templates import references, render
from tasks.providers.hosts import is_loopback, matches

if TYPE_CHECKING:
    from chains.settings import Settings

KEY_NAMES = ("*KEY", "*TOKEN")
PLACE_NAMES = ("*URL", "*HOST", "*ENDPOINT", "*ADDRESS")
PAYER_NAMES = ("*ORG", "*ORG_ID", "*ORGANIZATION", "*PROJECT", "*PROJECT_ID")
"""How a variable is called that was made to be sent: a key, where a server is, who pays."""

OTHER_PURPOSES = (
    *("AWS_*", "AZURE_CLIENT_*", "ARM_*", "GOOGLE_APPLICATION_*", "GITHUB_*", "GH_*", "GITLAB_*", "CI_*"),
    *("SSH_*", "GPG_*", "PREFECT_*", "HEADRACE_*", "PG*", "KUBE*", "DOCKER_*", "VAULT_*", "NPM_*", "PYPI_*"),
    *("TWINE_*", "UV_*", "PIP_*", "STRIPE_*", "SLACK_*", "*SECRET*", "*PRIVATE*", "*PASSW*", "*ACCESS_KEY*"),
    *("*SIGNING*", "*ENCRYPT*", "*DATABASE*"),
)
"""Families of variables that are no key of a model's endpoint, whatever else their names look like."""

HOMES: Mapping[str, tuple[str, ...]] = {
    "OPENAI_API_KEY": ("api.openai.com",),
    "AZURE_OPENAI_API_KEY": (
        "*.openai.azure.com",
        "*.cognitiveservices.azure.com",
        "*.services.ai.azure.com",
    ),
    "ANTHROPIC_API_KEY": ("api.anthropic.com",),
    "AWS_BEARER_TOKEN_BEDROCK": ("bedrock-runtime.*.amazonaws.com",),
    "CEREBRAS_API_KEY": ("api.cerebras.ai",),
    "COHERE_API_KEY": ("api.cohere.ai", "api.cohere.com"),
    "DEEPSEEK_API_KEY": ("api.deepseek.com",),
    "FIREWORKS_API_KEY": ("api.fireworks.ai",),
    "GEMINI_API_KEY": ("generativelanguage.googleapis.com",),
    "GITHUB_TOKEN": ("models.github.ai",),
    "GOOGLE_API_KEY": ("generativelanguage.googleapis.com",),
    "GROQ_API_KEY": ("api.groq.com",),
    "HF_TOKEN": ("router.huggingface.co", "*.endpoints.huggingface.cloud"),
    "MISTRAL_API_KEY": ("api.mistral.ai",),
    "NVIDIA_API_KEY": ("integrate.api.nvidia.com",),
    "OPENROUTER_API_KEY": ("openrouter.ai",),
    "PERPLEXITY_API_KEY": ("api.perplexity.ai",),
    "TOGETHER_API_KEY": ("api.together.xyz", "api.together.ai"),
    "XAI_API_KEY": ("api.x.ai",),
}
"""The services whose keys have usual names: such a key goes to its service and not where a chain says."""

HOME_ADDRESSES = {"OPENAI_API_KEY": "OPENAI_BASE_URL", "AZURE_OPENAI_API_KEY": "AZURE_OPENAI_ENDPOINT"}
"""Variables with which the machine itself says where a service is."""

PLAIN_PATHS = ("", "/", "/v1", "/api/v1", "/openai/v1")
"""Paths of a server's address that are shown; others may carry a token."""


@dataclass(frozen=True, slots=True)
class Granted:
    """What the user named on the command line: it needs no further permission."""

    hosts: frozenset[str] = frozenset()
    folders: frozenset[Path] = frozenset()


@dataclass(frozen=True, slots=True, repr=False)
class Rendered:
    """A text of a chain with the environment's values in it, and as it may be shown."""

    text: str
    shown: str
    names: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, repr=False)
class Trust:
    """One machine's rule, for the models and collections of one run."""

    env: Mapping[str, str]
    allowed_hosts: Sequence[str] | None = None
    allowed_env: Sequence[str] = ()
    granted: Granted = field(default_factory=Granted)

    @classmethod
    def of(cls, settings: Settings, env: Mapping[str, str], granted: Granted | None = None) -> Trust:
        """Return the rule of these settings."""
        return cls(env, settings.allowed_hosts, settings.allowed_env, granted or Granted())

    def is_home(self, name: str, host: str) -> bool:
        """Whether a host may have a well-known key without being asked for: it is its service's."""
        own = urlsplit(self.env.get(HOME_ADDRESSES.get(name, ""), "")).hostname
        return host.lower() == own or matches(host, HOMES.get(name, ())) or self._is_named(host)

    def check_sending(self, names: Iterable[str], host: str, where: str) -> None:
        """Raise Refused where the key of a well-known service would go to somebody else."""
        for name in names:
            if name not in HOMES or is_loopback(host) or self.is_home(name, host):
                continue
            raise Refused(
                f"{where}: {name} belongs to {' and '.join(HOMES[name])} and is not sent to {host!r}.",
                hint="Give that endpoint a key of its own, api_key: '{{ env.ITS_API_KEY }}' (any text for a "
                "server that wants none), or add the host to HEADRACE_ALLOWED_HOSTS.",
            )

    def key(self, template: str, where: str) -> Rendered:
        """Render an `api_key`, which must come from the environment."""
        if not references(template):
            raise EnvironmentLacks(
                f"{where}: api_key is written out.",
                hint="Put the key into an environment variable and write api_key: '{{ env.NAME }}'.",
            )
        rendered = self.text(template, where)
        if not rendered.text:
            raise EnvironmentLacks(f"{where}: its api_key is empty.", hint="Set the variable that it names.")
        if not rendered.text.isascii() or not rendered.text.isprintable():
            raise EnvironmentLacks(f"{where}: its api_key holds characters that no key has (a line break?).")
        return rendered

    def text(self, template: str, where: str, kinds: Sequence[str] = KEY_NAMES) -> Rendered:
        """Render a text whose variables are secrets, called like one of `kinds`."""
        values = self._values(references(template), where)
        for name in values:
            self._check_use(name, kinds, where)
        shown = {name: f"{{{{ env.{name} }}}}" for name in values}
        return Rendered(
            text=_render(template, values, where).strip(),
            shown=_render(template, shown, where),
            names=tuple(values),
            secrets=tuple(values.values()),
        )

    def address(self, template: str, where: str) -> Rendered:
        """Render an address: a variable may say where the server is, or be a secret in its path."""
        values = self._values(references(template), where)
        places = {name for name in values if _is_place(template, name)}
        shown, secrets = {}, []
        for name, value in values.items():
            self._check_use(name, PLACE_NAMES if name in places else KEY_NAMES, where)
            if name in places:
                shown[name], secret = _without_path(value)
                secrets += [secret] if secret else []
            else:
                shown[name] = f"{{{{ env.{name} }}}}"
                secrets.append(value)
        url = _render(template, values, where).strip()
        host = urlsplit(url).netloc if url.isascii() and "[" not in url else ""
        if any(value in host for name, value in values.items() if name not in places):
            raise Refused(
                f"{where}: a variable stands in the name of the host.",
                hint="Let one variable that is called ..._URL or ..._HOST give all of it.",
            )
        names = tuple(name for name in values if name not in places)
        return Rendered(url, _render(template, shown, where).strip(), names, tuple(secrets))

    def _is_named(self, host: str) -> bool:
        return host.lower() in self.granted.hosts or matches(host, self.allowed_hosts or ())

    def _values(self, used: Sequence[Reference], where: str) -> dict[str, str]:
        """Return the variables that a template reads; one with a default may be missing."""
        values = {}
        for reference in used:
            if reference.root != "env" or len(reference.path) != 1:
                raise EnvironmentLacks(
                    f"{where}: only '{{{{ env.NAME }}}}' may stand in addresses, keys and headers."
                )
            name = reference.path[0]
            if self.env.get(name):
                values[name] = self.env[name]
            elif not reference.guarded:
                raise EnvironmentLacks(
                    f"{where}: the environment variable {name} is not set.",
                    hint="Set it (a key may be any text for a server that wants none).",
                )
        return values

    def _check_use(self, name: str, kinds: Sequence[str], where: str) -> None:
        upper = name.upper()
        if name in self.allowed_env or name in HOMES:
            return
        if _like(upper, OTHER_PURPOSES) or not _like(upper, kinds):
            raise Refused(
                f"{where}: a chain may not read the environment variable {name} here.",
                hint=f"Variables called {', '.join(kinds)} may stand there. If this one is meant for the "
                "endpoint, add its name to HEADRACE_ALLOWED_ENV.",
            )


def _like(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _is_place(template: str, name: str) -> bool:
    """Whether a variable gives the server's whole name: at the beginning, up to a port or path."""
    begins = rf"\s*(?:https?://)?\{{\{{-?\s*env\.{re.escape(name)}\b[^{{}}]*\}}\}}\s*(?:$|[:/])"
    return re.match(begins, template) is not None and template.count(name) == 1


def _without_path(value: str) -> tuple[str, str | None]:
    """Return a server's address without its path, and the path where it may be a secret."""
    scheme, separator, rest = value.rpartition("://")
    netloc, slash, path = rest.partition("/")
    if slash + path.rstrip("/") in PLAIN_PATHS:
        return value, None
    return f"{scheme}{separator}{netloc.rpartition('@')[2]}/...", path


def _render(template: str, values: Mapping[str, str], where: str) -> str:
    try:
        return render(template, {"env": dict(values)})
    except TemplateFailed:
        # Its message may quote the value, so neither the message nor the cause is passed on.
        raise EnvironmentLacks(f"{where}: a template in an address, key or header fails.") from None
