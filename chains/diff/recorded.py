"""A run with the chain that it was made from, and what each step of it asks apart from the rows.

Owns the parts of a step's question that are the same for all rows, by the names that a diff uses. Knows
nothing of the store and of how models are overridden.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

from chains.errors import InputInvalid
from chains.graph import Graph, body_of, graph_of_file, models_of
from chains.keys import deciding
from chains.loading import ChainFile
from chains.outputs import schema_of
from chains.prompts import prompt_parts
from chains.source.imports import with_imports
from chains.spec import (
    ChainStep,
    EmbedStep,
    EvaluateStep,
    PromptStep,
    PythonStep,
    RepeatStep,
    RetrieveStep,
    Step,
    runs_once,
)
from chains.store import RunRow

Part: TypeAlias = Literal["template", "model", "parameters", "output form", "code", "collection", "settings"]
PARTS: tuple[Part, ...] = (
    "template",
    "model",
    "parameters",
    "output form",
    "code",
    "collection",
    "settings",
)
SAMPLING = ("temperature", "top_p", "max_tokens", "seed", "stop")


@dataclass(frozen=True)
class RecordedRun:
    """A run and its chain, as the run has kept it, with the models that were given in place of others."""

    run: RunRow
    chain_file: ChainFile

    @cached_property
    def graph(self) -> Graph:
        """The steps and what each needs."""
        return graph_of_file(self.chain_file)

    @cached_property
    def once(self) -> frozenset[str]:
        """The steps that run once over all rows."""
        return frozenset(name for name, step in self.chain_file.chain.steps.items() if runs_once(step))

    @cached_property
    def depth(self) -> Mapping[str, int]:
        """How many steps stand above each."""
        found: dict[str, int] = {}
        for step in self.graph.order:
            found[step] = max((found[other] + 1 for other in self.graph.needs[step]), default=0)
        return found

    @cached_property
    def parts(self) -> Mapping[str, Mapping[Part, Any]]:
        """For each step, what decides its answers besides the rows; of steps inside others too."""
        return {
            name: _parts(name.rpartition(".")[2], step, chain_file)
            for name, (step, chain_file) in self.every.items()
        }

    @cached_property
    def every(self) -> Mapping[str, tuple[Step, ChainFile]]:
        """Every step by its whole name, such as `draft.write`, with the chain that it stands in."""
        return dict(_every(self.chain_file))


def _every(chain_file: ChainFile, before: str = "") -> Iterator[tuple[str, tuple[Step, ChainFile]]]:
    for step_id, step in chain_file.chain.steps.items():
        yield before + step_id, (step, chain_file)
        if isinstance(step, RepeatStep):
            yield from _every(body_of(chain_file, step), f"{before}{step_id}.")
        elif isinstance(step, ChainStep) and step.chain in chain_file.chains:
            yield from _every(chain_file.chains[step.chain], f"{before}{step_id}.")


def _parts(step_id: str, step: Step, chain_file: ChainFile) -> dict[Part, Any]:
    chain = chain_file.chain
    models = {name: deciding(chain.models[name]) for name in models_of(step, chain) if name in chain.models}
    found: dict[Part, Any] = {}
    if models:
        (fields,) = models.values()
        found["model"] = {name: value for name, value in fields.items() if name not in SAMPLING}
        found["parameters"] = {name: value for name in SAMPLING if (value := fields.get(name)) is not None}
    match step:
        case PromptStep():
            found["template"] = [list(part) for part in prompt_parts(chain_file, step_id)]
            found["output form"] = _form(step, chain_file)
            found["settings"] = {"on_length": step.on_length}
        case RetrieveStep():
            found["template"] = step.query
            found["settings"] = {"top_k": step.top_k, "min_score": step.min_score}
            if (collection := chain.collections.get(step.retrieve)) is not None:
                found["collection"] = deciding(collection) | {"name": step.retrieve}
        case PythonStep():
            found["template"] = step.args
            found["code"] = _code(step.python, chain_file.files)
        case EmbedStep(into=None):
            found["template"] = step.embed
        case EvaluateStep():
            found["template"] = step.evaluate.model_dump(mode="json")
            found["settings"] = {name: value for name, value in deciding(step).items() if name != "evaluate"}
        case _:
            found["settings"] = deciding(step)
    return found


def _form(step: PromptStep, chain_file: ChainFile) -> Any:
    if step.output is None:
        return None
    try:
        schema = schema_of(step.output, chain_file.files)
    except InputInvalid:
        schema = None
    return schema if schema is not None else _code(str(step.output), chain_file.files)


def _code(target: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    """Name a function or class, and the content of the files that it may come from."""
    name = target.rpartition(":")[0] or target
    named = {name, *with_imports(name, files)} & files.keys()
    return {
        "name": target,
        "files": {file: hashlib.sha256(files[file]).hexdigest()[:12] for file in sorted(named)},
    }
