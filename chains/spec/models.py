"""Models and what holds for their calls: limits, prices, budgets, retries, and the collections they fill.

Knows nothing of steps, nor of which providers are installed.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from chains.spec.parts import Duration, Name, Part


class Limits(Part):
    """What one model may be asked for at once."""

    concurrency: int = Field(default=64, ge=1, le=4096)
    """Calls in flight at once, over all shards of a process."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    """Calls in any minute, over all processes on the store."""
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Tokens in any minute, over all processes on the store: what is sent, and what may come back at most."""


class Price(Part):
    """What a model costs, in US dollars per million tokens."""

    input: float = Field(ge=0)
    """What is sent."""
    output: float = Field(default=0.0, ge=0)
    """What comes back."""
    training: float | None = Field(default=None, ge=0)
    """What a fine-tuning job trains on, for each pass over it. Default: not known."""


class Budget(Part):
    """What may be spent; the call that would go beyond it is not made."""

    usd: float | None = Field(default=None, gt=0)
    """US dollars. Every model that is called needs a known price."""
    tokens: int | None = Field(default=None, ge=1)
    """Tokens, sent and received."""
    calls: int | None = Field(default=None, ge=1)
    """Calls, repeated ones included."""

    @model_validator(mode="after")
    def _limits_something(self) -> Budget:
        if self.usd is None and self.tokens is None and self.calls is None:
            raise ValueError("a budget needs at least one of 'usd', 'tokens' and 'calls'")
        return self


_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_OWN_HEADERS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "host",
        "transfer-encoding",
    }
)
_ENDPOINT_KEYS = ("headers", "api_version", "organization", "project")


class Model(Part):
    """A model that steps refer to by its name under `models:`."""

    provider: Literal["openai", "local", "starter"]
    """`openai`: any OpenAI-compatible endpoint; `local`: transformers on this machine; `starter`: the
    small model that ships with Headrace."""
    model: str | None = None
    """The provider's name of the model, a hub id, a folder, or `models:NAME@latest` from the store. Not
    needed for `starter`."""
    revision: str | None = None
    """Commit or tag of a hub model."""
    base_url: str | None = None
    """Address of an OpenAI-compatible endpoint, up to and including `/v1`."""
    api_key: str | None = None
    """A `{{ env.NAME }}` template. Default: `{{ env.OPENAI_API_KEY }}`, with `api_version`
    `{{ env.AZURE_OPENAI_API_KEY }}`, where `base_url` is that service's own."""
    api_version: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | None = None
    """For an Azure deployment, whose `base_url` ends in `/openai/deployments/NAME`: its API version,
    such as `2024-10-21`."""
    organization: str | None = None
    """Organisation that pays. Default: the environment variable OPENAI_ORG_ID."""
    project: str | None = None
    """Project that pays. Default: the environment variable OPENAI_PROJECT_ID."""
    headers: dict[str, str] = {}
    """More headers of each call. Values may be `{{ env.NAME }}` templates; what they become is never
    stored."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """Sampling temperature. Local models default to 0 (greedy)."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Nucleus sampling."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest answer, in tokens."""
    seed: int | None = None
    """Sampling seed."""
    stop: list[str] | None = None
    """Texts that end an answer."""
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] = "auto"
    """Number format of a local model's weights. `auto`: bfloat16 for embedding where it keeps the
    neighbours, else float32 on CPU."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where a local model runs."""
    pool: Name | None = None
    """Work pool for every step that uses this model."""
    limits: Limits = Limits()
    """What this model may be asked for at once, and in a minute."""
    price: Price | None = None
    """What it costs. Default: from the table of prices; a local model costs nothing."""

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not _HEADER_NAME.fullmatch(name):
                raise ValueError(f"{name!r:.80} is no name of a header")
            if name.lower() in _OWN_HEADERS:
                raise ValueError(f"the header {name!r} is set by the call itself")
            if any(ord(character) < 32 or ord(character) == 127 for character in text):
                raise ValueError(f"the header {name!r} holds a line break or control character")
        return value

    @model_validator(mode="after")
    def _named(self) -> Model:
        if self.provider != "starter" and not self.model:
            raise ValueError(f"a model of provider '{self.provider}' needs the key 'model'")
        return self

    @model_validator(mode="after")
    def _fits_provider(self) -> Model:
        for name in _ENDPOINT_KEYS if self.provider != "openai" else ():
            if getattr(self, name):
                raise ValueError(f"'{name}' is for provider 'openai', not for '{self.provider}'")
        return self


class Collection(Part):
    """A set of vectors with one embedder, one dimension and one distance."""

    embedder: Name
    """The model under `models:` that makes the vectors."""
    distance: Literal["cosine", "dot", "euclid"] = "cosine"
    """How nearness is measured."""
    url: str | None = None
    """Address of a Qdrant server. Left out: an embedded collection in the store's folder."""
    api_key: str | None = None
    """A `{{ env.NAME }}` template for the Qdrant server."""


class Retry(Part):
    """How often and how patiently a call is tried."""

    attempts: int = Field(default=4, ge=1, le=20)
    """Tries per call, the first one included."""
    base: Duration = 0.5
    """First back-off; doubled each time, with full jitter."""
    cap: Duration = 30.0
    """Longest back-off."""


class Defaults(Part):
    """Values for every step that does not set its own."""

    model: Name | None = None
    """The model of prompt steps."""
    timeout: Duration = 60.0
    """Deadline of one attempt."""
    retry: Retry = Retry()
    """Tries per call."""
