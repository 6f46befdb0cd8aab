"""The parameter `store` of a flow: Prefect keeps and shows parameters, so a password may not be in it.

Owns the rule twice: as a pattern in the parameter's schema, by which the Prefect API refuses the value
before a flow run exists, and as a check for flows that are called without one. The command line passes no
store at all: it hands the open one over in its own process.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias
from urllib.parse import parse_qs, urlsplit

from pydantic import Field

from chains.errors import InputInvalid
from chains.store import is_server

NO_PASSWORD = r"^(?!\w+(\+\w+)?://([^/?#]*:[^/?#]*@|.*[?&]password=))"

StoreParameter: TypeAlias = Annotated[str | None, Field(json_schema_extra={"pattern": NO_PASSWORD})]


def refuse_password(store: str | None) -> None:
    """Raise InputInvalid where the address of a store holds a password."""
    if store is None or not is_server(store):
        return
    parts = urlsplit(store)
    if parts.password is None and "password" not in parse_qs(parts.query, keep_blank_values=True):
        return
    raise InputInvalid(
        "the parameter 'store' holds a password, and Prefect keeps and shows parameters.",
        hint="Set HEADRACE_STORE where the worker runs and leave 'store' out. Change the password: it is "
        "in the flow run's parameters now.",
    )
