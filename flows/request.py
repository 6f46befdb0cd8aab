"""What somebody asked for: a run of a chain, the rest of an earlier run, or a fork of one.

Plain JSON values, so that a request travels through Prefect and the store. Knows nothing of whether it can
be met.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chains.store import RunRow


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A chain, and what it runs over.

    `from_text`: the inputs are texts of a command line. `shards_on`: the pool whose workers run the rows.
    `approve`: answers to approve steps, by step, for all rows. `fork`: what was edited, where the run is a
    fork; its chain is the one that the store has.
    """

    chain: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    data: str | None = None
    mapping: Mapping[str, str] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    base_url: str | None = None
    skip_bad: bool = False
    limit: int | None = None
    budget: Mapping[str, float] | None = None
    from_text: bool = False
    shards_on: str | None = None
    fork: Mapping[str, Any] | None = None
    approve: Mapping[str, Any] = field(default_factory=dict)

    def options(self) -> dict[str, Any]:
        """Return what a resume needs to ask for the same again."""
        fork = {"fork": dict(self.fork)} if self.fork is not None else {}
        return fork | {
            "chain": self.chain,
            "mapping": dict(self.mapping),
            "models": list(self.models),
            "base_url": self.base_url,
            "skip_bad": self.skip_bad,
            "limit": self.limit,
            "budget": dict(self.budget) if self.budget else None,
            "shards_on": self.shards_on,
            "approve": dict(self.approve),
        }


@dataclass(frozen=True, slots=True)
class Resume:
    """An earlier run to go on with.

    `failed_only`: the run is complete, and what failed is tried again. `accept_changes`: the steps that
    differ from the chain of that time, and those that need them, run anew. `budget`: what the run may spend
    in all, in place of what the chain says.
    """

    run: str
    failed_only: bool = False
    accept_changes: bool = False
    budget: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Replay:
    """A fork to make of an earlier run.

    `start`: the step, and the rows, from which it may differ (`STEP[row 3]`). `edits`: new values by target
    (`STEP.prompt`, `STEP.temperature`, `inputs.NAME`); with `from_text` they are texts. `models`: for a step
    another model. `fresh`: the step of `start` is asked anew, `samples`: so many times. `chain`: the file to
    take in place of the chain that the run has kept.
    """

    run: str
    start: str | None = None
    edits: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)
    fresh: bool = False
    samples: int | None = None
    chain: str | None = None
    budget: Mapping[str, float] | None = None
    from_text: bool = False


def request_of(earlier: RunRow) -> RunRequest:
    """Return the request that a run was made from."""
    options = json.loads(earlier.options or b"{}")
    return RunRequest(
        chain=options["chain"],
        inputs=json.loads(earlier.inputs or b"{}"),
        data=earlier.data_path,
        mapping=options["mapping"],
        models=tuple(options["models"]),
        base_url=options["base_url"],
        skip_bad=options["skip_bad"],
        limit=options["limit"],
        budget=options.get("budget"),
        shards_on=options.get("shards_on"),
        approve=options.get("approve") or {},
        fork=options.get("fork"),
    )
