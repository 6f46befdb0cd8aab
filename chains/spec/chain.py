"""A whole chain file, and the typed inputs that it asks for.

Owns the sections of a chain. Knows nothing of YAML positions (chains.loading).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from chains.spec.kinds import Step
from chains.spec.models import Budget, Collection, Defaults, Model
from chains.spec.parts import Name, Part
from chains.spec.schedules import Schedule
from chains.spec.varying import Variant


class Input(Part):
    """One typed input of a chain."""

    type: Literal["string", "integer", "number", "boolean", "array", "object"] = "string"
    """JSON type of the value."""
    description: str = ""
    """What the value means; shown in forms and in `headrace check`."""
    enum: list[Any] | None = None
    """The allowed values."""
    default: Any = None
    """Used when no value is given; an input with neither a default nor `required: false` is required."""
    required: bool | None = None
    """Whether a value must be given. Left out: true where there is no default."""
    minimum: float | None = None
    """Smallest allowed number."""
    maximum: float | None = None
    """Largest allowed number."""
    max_length: int | None = Field(default=None, ge=1)
    """Longest allowed text, in characters."""

    @property
    def is_required(self) -> bool:
        """Whether a run must bring a value."""
        return self.required if self.required is not None else "default" not in self.model_fields_set


class Chain(Part):
    """A whole chain file."""

    chain: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
    """The chain's name."""
    description: str = ""
    """What the chain does."""
    inputs: dict[Name, Input] = {}
    """Typed inputs."""
    models: dict[Name, Model] = {}
    """Models by name."""
    collections: dict[Name, Collection] = {}
    """Collections by name."""
    defaults: Defaults = Defaults()
    """Values for every step that does not set its own."""
    on_error: Literal["fail", "skip", "collect"] = "collect"
    """`collect`: other rows go on and failed rows are counted; `skip`: failed rows are left out and do
    not fail the run; `fail`: the first failed row stops the run."""
    max_failed_rows: int = Field(default=0, ge=0)
    """With `collect`: how many rows may fail before the run counts as failed."""
    budget: Budget | None = None
    """What a run may spend."""
    steps: dict[Name, Step] = Field(min_length=1)
    """The steps, by id. Their order in the file does not matter."""
    outputs: dict[Name, Any] = {}
    """What a run returns for each row."""
    variants: dict[Name, Variant] = {}
    """Other forms of the chain by name, which `headrace run --variants` compares with it."""
    schedule: dict[Name, Schedule] = {}
    """When the deployed chain runs by itself, by name."""

    def to_yaml(self) -> str:
        """Write the chain as YAML that loads as the same chain."""
        # chains.loading builds on this module.
        from chains.loading.writing import to_yaml

        return to_yaml(self)
