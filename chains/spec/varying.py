"""Other forms of a chain, to be compared with it.

Knows nothing of how a variant is run.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from chains.spec.parts import Name, Part


class Variant(Part):
    """The chain with some fields of some steps in another form."""

    description: str = ""
    """What is different, and why."""
    steps: dict[Name, dict[str, Any]] = Field(min_length=1)
    """By step, fields with other values. `temperature`, `top_p`, `max_tokens`, `seed` and `stop` are those of
    the step's model, and change for this step alone."""
