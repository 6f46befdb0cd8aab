"""Steps that hold other steps: `repeat` and `chain`.

Knows nothing of how a body of steps is run. What the steps inside may be and read is checked in
chains.check_inside.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from chains.spec.parts import Expression, Name, Part
from chains.spec.steps import MappedStep

if TYPE_CHECKING:
    from chains.spec.kinds import Step

_EXHAUSTED = r"^(fail|last|best\(.+\))$"
_BEST = re.compile(r"best\((.+)\)", re.DOTALL)


class Repeat(Part):
    """When a repeat ends."""

    until: Expression
    """A bare expression, asked after each turn. It may read the steps inside, what the step itself reads, and
    `loop.turn`; where a step inside that it reads was skipped, it is false."""
    max: int = Field(ge=1, le=1000)
    """The most turns."""
    on_exhausted: str = Field(default="fail", pattern=_EXHAUSTED)
    """What happens when the last turn is over and `until` is still false: `fail`; `last`: the last turn is
    taken; `best(EXPRESSION)`: the turn that has the highest number there, the first of equals."""

    @property
    def exhausted(self) -> Literal["fail", "last", "best"]:
        """What happens when no turn was good enough."""
        match self.on_exhausted:
            case "fail" | "last" as word:
                return word
            case _:
                return "best"

    @property
    def best(self) -> Expression | None:
        """The expression that tells how good a turn was."""
        found = _BEST.fullmatch(self.on_exhausted)
        return found[1] if found else None


class RepeatStep(MappedStep):
    """Run steps again and again until something holds."""

    repeat: Repeat
    """When it ends."""
    steps: dict[Name, Step] = Field(min_length=1)
    """The steps of one turn. They may read each other, the steps beside the repeat, and `loop`."""


class ChainStep(MappedStep):
    """Run another chain as one step."""

    chain: str = Field(min_length=1, max_length=400)
    """Its file, counted from the folder of this one, or the name of a shipped chain."""
    inputs: dict[Name, Any] = {}
    """Values for its inputs; texts are templates."""
