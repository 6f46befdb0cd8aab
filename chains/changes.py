"""What has changed between two readings of a chain, step by step.

Owns the hash of a step: everything in the chain and its files that may change what the step leaves behind.
Where it runs, how often a call is tried and what it is described as are not in it. Knows nothing of runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chains.graph import Graph, body_of, models_of, templates_of
from chains.keys import canonical, deciding
from chains.prompts import prompt_parts
from chains.source.imports import with_imports
from chains.spec import ChainStep, EmbedStep, MappedStep, PromptStep, RepeatStep, RetrieveStep, Step, kind_of
from chains.templates import references

if TYPE_CHECKING:
    from chains.loading import ChainFile

NOT_COMPARED = frozenset(
    {
        *("description", "retry", "timeout", "deadline", "pool", "reask", "cache", "on_ambiguous", "budget"),
        "max_concurrency",
    }
)
"""Fields of a step that leave finished records as good as they were."""


@dataclass(frozen=True, slots=True)
class Changes:
    """The steps that differ, by name, each group in the order of the newer chain."""

    changed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changed or self.added or self.removed)

    def __str__(self) -> str:
        named = (("changed", self.changed), ("added", self.added), ("removed", self.removed))
        return "; ".join(f"{word}: {', '.join(steps)}" for word, steps in named if steps)


def step_hashes(chain_file: ChainFile) -> dict[str, str]:
    """Return a hash for every step of a chain."""
    return {
        step_id: hashlib.sha256(canonical(_parts(step_id, step, chain_file))).hexdigest()
        for step_id, step in chain_file.chain.steps.items()
    }


def compare(before: Mapping[str, str], now: Mapping[str, str]) -> Changes:
    """Return how the steps of one reading differ from those of an earlier one."""
    return Changes(
        changed=tuple(step for step in now if step in before and now[step] != before[step]),
        added=tuple(step for step in now if step not in before),
        removed=tuple(step for step in before if step not in now),
    )


def with_dependents(steps: frozenset[str], graph: Graph) -> frozenset[str]:
    """Return the steps and all that need one of them, directly or through others."""
    found = set(steps)
    for step_id in graph.order:  # each comes after all that it needs
        if graph.needs[step_id] & found:
            found.add(step_id)
    return frozenset(found)


def _parts(step_id: str, step: Step, chain_file: ChainFile) -> dict[str, Any]:
    chain = chain_file.chain
    fields = step.model_dump(mode="json", exclude={*NOT_COMPARED, *_unused(step)})
    asked = [name for name in (step_id, getattr(step, "like", None)) if name in chain.steps]
    inputs = inputs_read(asked, chain_file)
    collection = chain.collections.get(_collection_of(step) or "")
    inside: dict[str, Any] = {}
    if isinstance(step, RepeatStep):
        body = body_of(chain_file, step)
        inside = {"steps": {name: _parts(name, inner, body) for name, inner in step.steps.items()}}
        del fields["steps"]
    if isinstance(step, ChainStep) and step.chain in chain_file.chains:
        inner = chain_file.chains[step.chain]
        given = {name: spec.model_dump(mode="json") for name, spec in inner.chain.inputs.items()}
        inside = {"steps": step_hashes(inner), "outputs": inner.chain.outputs, "defaults": given}
    return inside | {
        "kind": kind_of(step),
        "fields": fields,
        "prompts": [
            [list(part) for part in prompt_parts(chain_file, name)]
            for name in asked
            if isinstance(chain.steps[name], PromptStep)
        ],
        "files": {name: _digest(chain_file.files[name]) for name in _files_named(fields, chain_file.files)},
        "models": {
            name: deciding(chain.models[name]) for name in models_of(step, chain) if name in chain.models
        },
        "collection": deciding(collection) if collection is not None else None,
        "inputs": {
            name: spec.model_dump(mode="json", exclude={"description"})
            for name, spec in chain.inputs.items()
            if name in inputs
        },
    }


def _unused(step: Step) -> frozenset[str]:
    """Return the fields that say nothing here; a step is the same as before there were such fields."""
    unused: set[str] = set()
    if isinstance(step, PromptStep) and step.samples == 1:
        unused |= {"samples", "vote", "quorum"}
    if isinstance(step, MappedStep) and step.map is None:
        unused |= {"map", "as_", "on_error"}
    return frozenset(unused)


def inputs_read(steps: list[str], chain_file: ChainFile) -> set[str]:
    """Return the inputs that the templates of these steps read."""
    found: set[str] = set()
    for step_id in steps:
        for _, source, bare, _ in templates_of(step_id, chain_file):
            for reference in references(source, bare=bare):
                if reference.root == "inputs":
                    found |= {reference.path[0]} if reference.path else set(chain_file.chain.inputs)
    return found


def _collection_of(step: Step) -> str | None:
    match step:
        case EmbedStep():
            return step.into
        case RetrieveStep():
            return step.retrieve
        case _:
            return None


def _files_named(value: Any, files: Mapping[str, bytes]) -> list[str]:
    """Return the chain's files that a step's fields name: schemas, prompts, modules and what they import."""
    named = {text.rpartition(":")[0] or text for text in _texts(value)} | set(_texts(value))
    imported = {file for name in named & files.keys() for file in with_imports(name, files)}
    return sorted((named | imported) & files.keys())


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
