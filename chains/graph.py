"""The graph of a chain: which step needs which, found from references, collections and published models.

Owns edges, order and cycles, and the list of a step's templates. Knows nothing of whether names are right
(chains.check says that) or of how steps run.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from chains.errors import ChainInvalid, Location, Problem
from chains.source.files import is_prompt_file, prompt_texts
from chains.source.marks import YamlPath
from chains.spec import (
    Chain,
    EmbedStep,
    EvaluateStep,
    FinetuneStep,
    MappedStep,
    PrepareStep,
    PromptStep,
    PythonStep,
    RetrieveStep,
    Step,
)
from chains.templates import references

if TYPE_CHECKING:
    from chains.loading import ChainFile

_PUBLISHED = re.compile(r"models:([a-z0-9][a-z0-9_-]{0,63})(?:@.*)?")


@dataclass(frozen=True, slots=True)
class StepTemplate:
    """One template of a step: its place in the chain file, and the file of its text, if that is another."""

    path: YamlPath
    source: str
    bare: bool = False
    may_read_row: bool = False
    file: str | None = None
    may_read_item: bool = True
    """False: it is read before there is an item of the step's map."""


@dataclass(frozen=True, slots=True)
class Graph:
    """Steps in an order in which each comes after all that it needs.

    `needs`: direct upstream steps; `reads`: those whose output a template reads; `guarded`: those of `reads`
    whose absence every reference deals with.
    """

    order: tuple[str, ...]
    needs: Mapping[str, frozenset[str]]
    reads: Mapping[str, frozenset[str]]
    guarded: Mapping[str, frozenset[str]]


def graph_of(chain: Chain, prompt_sources: Mapping[str, Sequence[str]]) -> Graph:
    """Return the graph from the chain and each prompt step's texts; raise ChainInvalid for a cycle."""
    reads: dict[str, frozenset[str]] = {}
    guarded: dict[str, frozenset[str]] = {}
    needs: dict[str, frozenset[str]] = {}
    for step_id, step in chain.steps.items():
        templates = [
            *own_templates(step_id, step),
            *prompt_templates(step_id, prompt_sources.get(step_id, ())),
        ]
        found = [
            reference
            for template in templates
            for reference in references(template.source, bare=template.bare)
            if reference.root in chain.steps
        ]
        reads[step_id] = frozenset(reference.root for reference in found)
        guarded[step_id] = reads[step_id] - {reference.root for reference in found if not reference.guarded}
        needs[step_id] = reads[step_id] | unread_needs(step_id, chain)
    cycles = find_cycles(needs)
    if cycles:
        place = Location(chain.chain, 1, 1)
        raise ChainInvalid(
            [Problem(place, f"the steps need each other: {way_of(cycle)}") for cycle in cycles]
        )
    return Graph(in_order(needs), needs, reads, guarded)


def graph_of_file(chain_file: ChainFile) -> Graph:
    """Return the graph of a loaded chain."""
    return graph_of(chain_file.chain, prompt_sources(chain_file))


def prompt_sources(chain_file: ChainFile) -> dict[str, list[str]]:
    """Return each prompt step's texts, with files replaced by what is in them."""
    sources: dict[str, list[str]] = {}
    for step_id, step in chain_file.chain.steps.items():
        if isinstance(step, PromptStep):
            sources[step_id] = [
                template.source for template in file_templates(step_id, step, chain_file.files)
            ]
    return sources


def templates_of(step_id: str, chain_file: ChainFile) -> list[tuple[YamlPath, str, bool, bool]]:
    """Return every template of a step as (YAML path, source, bare, may read row), prompt files included."""
    step = chain_file.chain.steps[step_id]
    found = list(own_templates(step_id, step))
    if isinstance(step, PromptStep):
        found += file_templates(step_id, step, chain_file.files)
    return [(template.path, template.source, template.bare, template.may_read_row) for template in found]


def own_templates(step_id: str, step: Step) -> Iterator[StepTemplate]:
    """Yield a step's templates but its prompt and its gate, which reads the step's own results only."""
    at: YamlPath = ("steps", step_id)
    if step.when is not None:
        yield StepTemplate((*at, "when"), step.when, bare=True, may_read_item=False)
    if isinstance(step, MappedStep):
        for template in nested_templates((*at, "map"), step.map):
            yield replace(template, may_read_item=False)
    match step:
        case EmbedStep(embed=texts, into=None):
            yield from nested_templates((*at, "embed"), texts)
        case RetrieveStep():
            yield StepTemplate((*at, "query"), step.query)
        case PythonStep():
            yield from nested_templates((*at, "args"), step.args)
        case PrepareStep():
            yield StepTemplate((*at, "prepare"), step.prepare)
            for name, source in (("completion", step.completion), ("text", step.text)):
                if source is not None:
                    yield StepTemplate((*at, name), source, may_read_row=True)
            for name, source in step.fields.items():
                yield StepTemplate((*at, "fields", name), source, may_read_row=True)
        case FinetuneStep():
            for part, source in step.data:
                if source is not None:
                    yield StepTemplate((*at, "data", part), source)
        case EvaluateStep():
            for name, source in (
                ("prediction", step.evaluate.prediction),
                ("reference", step.evaluate.reference),
                ("confidence", step.evaluate.confidence),
            ):
                if source is not None:
                    yield StepTemplate((*at, "evaluate", name), source, may_read_row=True)
            for path, source in judging_texts(step):
                yield StepTemplate((*at, *path), source, may_read_row=True)


def judging_texts(step: EvaluateStep) -> Iterator[tuple[YamlPath, str]]:
    """Yield the place below an evaluate step and the source of each text that its judges and checks read."""
    for name, judge in step.judges.items():
        for key in ("rubric", "question", "context", "against", "human"):
            source = getattr(judge, key)
            if source is not None:
                yield ("judges", name, key), source
    for place, check in enumerate(step.checks):
        for key in ("contains", "equals", "rubric"):
            source = getattr(check, key)
            if source is not None:
                yield ("checks", place, key), source


def prompt_templates(step_id: str, sources: Sequence[str]) -> list[StepTemplate]:
    """Return templates for prompt texts whose places are not known."""
    return [StepTemplate(("steps", step_id, "prompt"), source) for source in sources]


def file_templates(step_id: str, step: PromptStep, files: Mapping[str, bytes]) -> list[StepTemplate]:
    """Return the prompt templates of a step, with the text of files where files are named."""
    found = []
    for path, _, text in prompt_texts(step, ("steps", step_id)):
        if not is_prompt_file(text):
            found.append(StepTemplate(path, text))
        elif text in files:
            source = files[text].decode("utf-8", "replace").removeprefix("\ufeff")
            found.append(StepTemplate(path, source, file=text))
    return found


def nested_templates(path: YamlPath, value: Any) -> Iterator[StepTemplate]:
    """Yield a template for every text inside a value."""
    if isinstance(value, str):
        yield StepTemplate(path, value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from nested_templates((*path, key), item)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from nested_templates((*path, index), item)


def unread_needs(step_id: str, chain: Chain) -> frozenset[str]:
    """Return the steps that come first without being read: `after`, a collection's, a trained model's."""
    step = chain.steps[step_id]
    found = {name for name in step.after if name in chain.steps}
    if isinstance(step, EvaluateStep):
        found |= {name for name in step.timed if name in chain.steps}
    trained = {name for model in models_of(step, chain) if (name := published_name(model, chain))}
    for other_id, other in chain.steps.items():
        if isinstance(other, EmbedStep) and isinstance(step, RetrieveStep) and other.into == step.retrieve:
            found.add(other_id)
        # A finetune step may start from the version that it published last time.
        if isinstance(other, FinetuneStep) and other.publish in trained and other_id != step_id:
            found.add(other_id)
    return frozenset(found)


def models_of(step: Step, chain: Chain) -> list[str]:
    """Return the names under `models:` (for finetune: the base as written) that a step uses."""
    match step:
        case PromptStep():
            names = [step.model or chain.defaults.model]
        case EmbedStep(into=str(name)) | RetrieveStep(retrieve=name):
            collection = chain.collections.get(name)
            names = [collection.embedder if collection else None]
        case EmbedStep():
            names = [step.model]
        case FinetuneStep():
            names = [step.base]
        case PrepareStep():
            names = [step.tokens]
        case EvaluateStep():
            names = [judge_model(step, name, chain) for name in judging_names(step)]
            names += [step.embedder] if "similarity" in step.measured else []
            names += [step.language_model] if "perplexity" in step.measured else []
        case _:
            names = []
    return [name for name in names if name is not None]


def judging_names(step: EvaluateStep) -> list[str]:
    """Return the names of all that a model judges: the judges, and the checks with a rubric."""
    return [*step.judges, *(step.check_names[place] for place in step.rubric_checks)]


def asking_steps(step_id: str, step: EvaluateStep) -> list[str]:
    """Return the ids of the steps of a run that hold what an evaluate step asked: verdicts and vectors."""
    names = judging_names(step)
    names += [f"{name}-swapped" for name, judge in step.judges.items() if judge.ask == "pairwise"]
    names += ["similarity"] if "similarity" in step.measured else []
    return [f"{step_id}-{name}" for name in names]


def judge_model(step: EvaluateStep, name: str, chain: Chain) -> str | None:
    """Return the model that a judge asks: its own, else the step's, else the chain's default."""
    own = step.judges[name].model if name in step.judges else None
    return own or step.model or chain.defaults.model


def published_name(model: str, chain: Chain) -> str | None:
    """Return NAME where a model is `models:NAME@...` from the store."""
    known = chain.models.get(model)
    match = _PUBLISHED.fullmatch((known.model or "") if known else model)
    return match[1] if match else None


def in_order(needs: Mapping[str, frozenset[str]]) -> tuple[str, ...]:
    """Return the steps so that each comes after what it needs, else in file order."""
    place = {step: index for index, step in enumerate(needs)}
    waiting = {step: len(upstream) for step, upstream in needs.items()}
    after: dict[str, list[str]] = {step: [] for step in needs}
    for step, upstream in needs.items():
        for name in upstream:
            after[name].append(step)
    ready = [place[step] for step, count in waiting.items() if count == 0]
    heapq.heapify(ready)
    steps = list(needs)
    order: list[str] = []
    while ready:
        step = steps[heapq.heappop(ready)]
        order.append(step)
        for name in after[step]:
            waiting[name] -= 1
            if waiting[name] == 0:
                heapq.heappush(ready, place[name])
    return tuple(order)


def find_cycles(needs: Mapping[str, frozenset[str]]) -> list[tuple[str, ...]]:
    """Return one shortest cycle for each group of steps that need each other, as `(a, b, a)`.

    A step that needs itself is a cycle of its own.
    """
    cycles: list[tuple[str, ...]] = [(step, step) for step in needs if step in needs[step]]
    others = {step: upstream - {step} for step, upstream in needs.items()}
    ordered = set(in_order(others))
    covered: set[str] = set()
    for step in others:
        if step in ordered or step in covered:
            continue
        cycle = _shortest_way(step, others)
        if cycle is not None:
            cycles.append(cycle)
            covered |= _group(step, others)
    return cycles


def way_of(cycle: Sequence[str]) -> str:
    """Return a cycle as `a -> b -> a`, with the middle of a long one left out."""
    names = [*cycle[:8], f"({len(cycle) - 12} more)", *cycle[-4:]] if len(cycle) > 16 else cycle
    return " -> ".join(names)


def _shortest_way(step: str, needs: Mapping[str, frozenset[str]]) -> tuple[str, ...] | None:
    """Return the shortest way from a step over what it needs back to itself."""
    place = {name: index for index, name in enumerate(needs)}
    came_from: dict[str, str] = {}
    queue = [step]
    for current in queue:
        for name in sorted(needs[current], key=place.__getitem__):
            if name == step:
                way = [current]
                while way[-1] != step:
                    way.append(came_from[way[-1]])
                return (*reversed(way), step)
            if name not in came_from and name != step:
                came_from[name] = current
                queue.append(name)
    return None


def _group(step: str, needs: Mapping[str, frozenset[str]]) -> set[str]:
    """Return the steps that reach `step` and are reached by it."""
    backwards: dict[str, set[str]] = {name: set() for name in needs}
    for name, upstream in needs.items():
        for other in upstream:
            backwards[other].add(name)
    return _reached(step, needs) & _reached(step, backwards)


def _reached(step: str, ways: Mapping[str, Collection[str]]) -> set[str]:
    found: set[str] = set()
    queue = [step]
    for current in queue:
        for name in ways[current]:
            if name not in found:
                found.add(name)
                queue.append(name)
    return found
