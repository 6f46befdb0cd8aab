"""What this machine allows and prefers, read from `HEADRACE_...` variables.

Owns the settings' names, types and defaults. A chain file can set none of them: trust belongs to the
machine. The environment is read by `get_settings()` only, never at import and never by `Settings(...)`
itself; there is no settings file that a working folder could slip in.
"""

from __future__ import annotations

import os
from difflib import get_close_matches
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from chains.errors import EnvironmentLacks

PREFIX = "HEADRACE_"


def _split_commas(value: object) -> object:
    """Turn `a, b` into its parts; an empty text is an empty list."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


Names = Annotated[tuple[str, ...], BeforeValidator(_split_commas)]


class Settings(BaseModel):
    """Settings of this machine; `Settings()` is the defaults, `get_settings()` adds the environment."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    store: str = Field(default=".headrace", min_length=1)
    """Folder of the store, or the address of a PostgreSQL database."""
    blobs: str | None = Field(default=None, min_length=1)
    """Where large payloads are kept: a folder or an fsspec address, such as `s3://bucket/prefix`.
    Left out: the store's folder."""
    home: str = Field(default=".headrace", min_length=1)
    """Folder for collections, models and work where the store is a database."""
    allowed_modules: Names = ()
    """Modules that `python:` and `output:` may import besides the chain's own files; commas between them."""
    allowed_hosts: Names | None = None
    """Hosts that a chain may call; commas between them. Left out: any host; empty: none."""
    allowed_env: Names = ()
    """Environment variables that a chain may send to an endpoint although their names are not those of keys
    made for one (`..._API_KEY`, `..._TOKEN`); commas between them."""
    read_outside: bool = False
    """Whether a chain may read files outside its own folder."""
    torch_threads: int | None = Field(default=None, ge=1, le=1024)
    """Threads for local models. Left out: what torch chooses."""
    keep_data_mb: float = Field(default=8.0, ge=0, le=10_000)
    """Data sets up to so many megabytes are kept in the store with their run, so that it can be replayed
    where the file is gone or has changed. 0 keeps none."""
    shard_rows: int = Field(default=256, ge=1, le=1_000_000)
    """Rows that one task carries."""
    part_rows: int | None = Field(default=None, ge=1, le=10_000_000)
    """Rows of one part of a run that another process does. Left out: by the number of rows and of workers."""
    pool_wait: float = Field(default=900.0, gt=0)
    """Seconds that a run waits for a work pool that no worker serves."""
    task_runner: str | None = Field(default=None, pattern=r"^(dask|ray)(:([1-9][0-9]*|[a-z]+://\S+))?$")
    """Where the rows of a run are done: `dask` or `ray` for worker processes on this machine that last as
    long as the run, one for each core (`dask:4`: four), `dask:tcp://HOST:8786` or `ray:ray://HOST:10001` for
    a cluster that is there. Left out: in the process of the run."""
    ui_url: str | None = Field(default=None, pattern=r"^https?://\S+$")
    """Where people reach the inspector, such as `http://127.0.0.1:4300`: artifacts in Prefect then link to
    its pages. Left out: no links."""
    max_response_bytes: int = Field(default=16 * 1024 * 1024, ge=1024)
    """Longest response body, decoded, that is read from an endpoint."""
    prices: str | None = Field(default=None, min_length=1)
    """JSON file with prices that go before those that ship, in US dollars per million tokens:
    `{"models": {"NAME": {"input": 0.25, "output": 2.0}}}`."""
    budget_usd_per_day: float | None = Field(default=None, gt=0)
    """US dollars that all runs on the store may spend in one day (UTC)."""
    budget_tokens_per_day: int | None = Field(default=None, ge=1)
    """Tokens, sent and received, that all runs on the store may use in one day (UTC)."""
    budget_calls_per_day: int | None = Field(default=None, ge=1)
    """Calls that all runs on the store may make in one day (UTC)."""


def get_settings() -> Settings:
    """Read the settings from the environment; raise EnvironmentLacks with every wrong value at once."""
    # pydantic-settings costs tens of milliseconds, which a program that brings its own Settings need not pay.
    from pydantic_settings import BaseSettings, SettingsConfigDict

    class Environment(Settings, BaseSettings):
        model_config = SettingsConfigDict(
            env_prefix=PREFIX, enable_decoding=False, extra="forbid", frozen=True
        )

    misspelt = _misspelt()
    if misspelt:
        raise EnvironmentLacks("; ".join(misspelt), hint="Correct or unset it.")
    try:
        read = Environment()
    except ValidationError as error:
        raise EnvironmentLacks(_describe(error), hint="Correct or unset it.") from error
    return Settings.model_validate(read.model_dump())


def _misspelt() -> list[str]:
    """Name variables that were surely meant as a setting: a typo in one must not open every host."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    found = []
    for name in sorted(os.environ):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            close = get_close_matches(name.upper(), known, n=1, cutoff=0.85)
            if close:
                found.append(f"the environment variable {name!r} is no setting. Did you mean {close[0]!r}?")
    return found


def _describe(error: ValidationError) -> str:
    lines = []
    for item in error.errors(include_url=False):
        name = str(item["loc"][0]) if item["loc"] else ""
        lines.append(f"{PREFIX}{name.upper()} is {str(item['input'])[:200]!r}: {item['msg']}")
    return "; ".join(lines)
