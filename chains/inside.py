"""Steps inside steps: every step of a chain with its whole name, its place in the file and what is around it.

Owns whole names, such as `draft.write`. Knows nothing of how a body of steps is run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chains.source.marks import YamlPath
from chains.spec import Chain, ChainStep, RepeatStep, Step

if TYPE_CHECKING:
    from chains.loading import ChainFile


LONGEST_NAME = 64
"""Characters of a whole name, as many as the store's columns have."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A step, where it stands in the file, and the steps that it stands in, outermost first."""

    id: str
    path: YamlPath
    step: Step
    around: tuple[Placed, ...] = ()

    @property
    def name(self) -> str:
        """The whole name, which its records have."""
        return ".".join((*(outer.id for outer in self.around), self.id))


def every_step(chain: Chain) -> Iterator[Placed]:
    """Yield every step of a chain file, each before those inside it."""
    for step_id, step in chain.steps.items():
        yield from _with_inside(Placed(step_id, ("steps", step_id), step))


def steps_inside(placed: Placed) -> Iterator[Placed]:
    """Yield the steps that stand directly inside a step."""
    if isinstance(placed.step, RepeatStep):
        for step_id, step in placed.step.steps.items():
            yield Placed(step_id, (*placed.path, "steps", step_id), step, (*placed.around, placed))


def placed(chain: Chain, step_id: str) -> Placed:
    """Return a step of the chain's own level."""
    return Placed(step_id, ("steps", step_id), chain.steps[step_id])


def all_inside(chain_file: ChainFile, step_id: str) -> dict[str, Step]:
    """Return all steps inside a step of the chain's own level, however deep, by their whole names."""
    return dict(_below(chain_file, placed(chain_file.chain, step_id), ""))


def _below(chain_file: ChainFile, found: Placed, prefix: str) -> Iterator[tuple[str, Step]]:
    """Yield what is inside a step, also in the chain that it runs; `prefix` stands before its name."""
    for inner in steps_inside(found):
        yield prefix + inner.name, inner.step
        yield from _below(chain_file, inner, prefix)
    if isinstance(found.step, ChainStep) and found.step.chain in chain_file.chains:
        other, below = chain_file.chains[found.step.chain], f"{prefix}{found.name}."
        for step_id, step in other.chain.steps.items():
            yield below + step_id, step
            yield from _below(other, placed(other.chain, step_id), below)


def _with_inside(found: Placed) -> Iterator[Placed]:
    yield found
    for inner in steps_inside(found):
        yield from _with_inside(inner)
