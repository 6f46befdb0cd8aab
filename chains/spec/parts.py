"""What every part of a chain file is made of: names, durations, templates, and the rules of a part.

Owns the patterns and the strictness that all models of the package share. Knows nothing of any one model.
"""

from __future__ import annotations

import re
from typing import Annotated, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

NAME_PATTERN = r"^[a-z][a-z0-9_]{0,63}$"
RESERVED = frozenset(
    (
        *("inputs", "row", "env", "secret", "loop", "item", "run"),
        *("true", "false", "none", "not", "and", "or", "in", "is", "if", "else"),
    )
)

Name: TypeAlias = Annotated[str, Field(pattern=NAME_PATTERN)]
Template: TypeAlias = str
Expression: TypeAlias = str

_DURATION = re.compile(r"^(\d+(?:\.\d+)?)(ms|s|m|h|d)$")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(value: object) -> object:
    """Turn `500ms`, `60s`, `2m`, `1h` or a number of seconds into seconds."""
    if isinstance(value, str):
        match = _DURATION.match(value.strip())
        if not match:
            raise ValueError(
                f"{value!r} is not a duration; write a number with ms, s, m, h or d, such as 60s"
            )
        return float(match[1]) * _UNITS[match[2]]
    return value


Duration: TypeAlias = Annotated[float, BeforeValidator(parse_duration), Field(gt=0, le=30 * 86400)]


class Part(BaseModel):
    """Common rules: frozen, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
