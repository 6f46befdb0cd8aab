"""The graph of a chain: which step needs which, found from references, collections and published models.

Owns edges, order and cycles, and the list of a step's templates. Knows nothing of whether names are right
(chains.check says that) or of how steps run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from chains.errors import ChainInvalid, Location, Problem
from chains.inside import Placed, every_step, placed, steps_inside
from chains.order import find_cycles, in_order, way_of
from chains.source.files import is_prompt_file, prompt_texts
from chains.source.marks import YamlPath
from chains.spec import (
    ApproveStep,
    Chain,
    ChainStep,
    EmbedStep,
    EvaluateStep,
    FinetuneStep,
    MappedStep,
    PrepareStep,
    PromptStep,
    PythonStep,
    RepeatStep,
    RetrieveStep,
    Step,
)
from chains.templates import Reference, references

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
    outside: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """What a step cannot do without that is none of the steps: names of steps around, `inputs`, `loop`."""


def graph_of(chain: Chain, prompt_sources: Mapping[str, Sequence[str]]) -> Graph:
    """Return the graph from the chain and each prompt step's texts; raise ChainInvalid for a cycle.

    The texts are by the whole names of the steps. A step that holds others reads what they read outside it.
    """
    reads: dict[str, frozenset[str]] = {}
    guarded: dict[str, frozenset[str]] = {}
    needs: dict[str, frozenset[str]] = {}
    outside: dict[str, frozenset[str]] = {}
    for step_id in chain.steps:
        read = _read_outside(placed(chain, step_id), prompt_sources)
        found = [reference for reference in read if reference.root in chain.steps]
        others = (reference for reference in read if reference.root not in chain.steps)
        outside[step_id] = frozenset(reference.root for reference in others if not reference.guarded)
        reads[step_id] = frozenset(reference.root for reference in found)
        guarded[step_id] = reads[step_id] - {reference.root for reference in found if not reference.guarded}
        needs[step_id] = reads[step_id] | unread_needs(step_id, chain)
    cycles = find_cycles(needs)
    if cycles:
        place = Location(chain.chain, 1, 1)
        raise ChainInvalid(
            [Problem(place, f"the steps need each other: {way_of(cycle)}") for cycle in cycles]
        )
    return Graph(in_order(needs), needs, reads, guarded, outside)


def _read_outside(found: Placed, sources: Mapping[str, Sequence[str]]) -> list[Reference]:
    """Return the references of a step and of all inside it to what stands outside."""
    templates = [
        *own_templates(found.id, found.step, found.path),
        *turn_templates(found),
        *prompt_templates(found.id, sources.get(found.name, ())),
    ]
    read = [
        reference for template in templates for reference in references(template.source, bare=template.bare)
    ]
    for inner in steps_inside(found):
        read += [
            replace(reference, guarded=reference.guarded or inner.step.on_skip == "run")
            for reference in _read_outside(inner, sources)
        ]
    within = {"loop", *found.step.steps} if isinstance(found.step, RepeatStep) else set()
    if isinstance(found.step, MappedStep) and found.step.map is not None:
        within |= {found.step.as_}
    return [reference for reference in read if reference.root not in within]


def graph_of_file(chain_file: ChainFile) -> Graph:
    """Return the graph of a loaded chain."""
    return graph_of(chain_file.chain, prompt_sources(chain_file))


def body_of(chain_file: ChainFile, step: RepeatStep) -> ChainFile:
    """Return the steps inside a step as a chain of their own, with the same models and files."""
    steps = {"steps": step.steps, "outputs": {}}
    return replace(chain_file, chain=chain_file.chain.model_copy(update=steps))


def prompt_sources(chain_file: ChainFile) -> dict[str, list[str]]:
    """Return each prompt step's texts, with files replaced by what is in them, by its whole name."""
    return {
        found.name: [
            template.source for template in file_templates(found.id, found.step, chain_file.files, found.path)
        ]
        for found in every_step(chain_file.chain)
        if isinstance(found.step, PromptStep)
    }


def templates_of(step_id: str, chain_file: ChainFile) -> list[tuple[YamlPath, str, bool, bool]]:
    """Return every template of a step as (YAML path, source, bare, may read row), prompt files included.

    Those of the steps inside it are among them.
    """
    found = _templates_of(placed(chain_file.chain, step_id), chain_file.files)
    return [(template.path, template.source, template.bare, template.may_read_row) for template in found]


def _templates_of(found: Placed, files: Mapping[str, bytes]) -> Iterator[StepTemplate]:
    yield from own_templates(found.id, found.step, found.path)
    yield from turn_templates(found)
    if isinstance(found.step, PromptStep):
        yield from file_templates(found.id, found.step, files, found.path)
    for inner in steps_inside(found):
        yield from _templates_of(inner, files)


def turn_templates(found: Placed) -> Iterator[StepTemplate]:
    """Yield the expressions of a repeat that see what its steps have given."""
    if isinstance(found.step, RepeatStep):
        at, repeat = (*found.path, "repeat"), found.step.repeat
        yield StepTemplate((*at, "until"), repeat.until, bare=True)
        if repeat.best is not None:
            yield StepTemplate((*at, "on_exhausted"), repeat.best, bare=True)


def own_templates(step_id: str, step: Step, at: YamlPath | None = None) -> Iterator[StepTemplate]:
    """Yield a step's templates but its prompt and its gate, which reads the step's own results only."""
    at = at or ("steps", step_id)
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
        case ChainStep():
            yield from nested_templates((*at, "inputs"), step.inputs)
        case ApproveStep():
            yield StepTemplate((*at, "approve"), step.approve)
            for place, expression in enumerate(step.show):
                yield StepTemplate((*at, "show", place), expression, bare=True)
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


def file_templates(
    step_id: str, step: PromptStep, files: Mapping[str, bytes], at: YamlPath | None = None
) -> list[StepTemplate]:
    """Return the prompt templates of a step, with the text of files where files are named."""
    found = []
    for path, _, text in prompt_texts(step, at or ("steps", step_id)):
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
    read = collections_of(step)
    for other_id, other in chain.steps.items():
        if isinstance(other, EmbedStep) and other.into in read and other_id != step_id:
            found.add(other_id)
        # A finetune step may start from the version that it published last time.
        if isinstance(other, FinetuneStep) and other.publish in trained and other_id != step_id:
            found.add(other_id)
    return frozenset(found)


def collections_of(step: Step) -> frozenset[str]:
    """Return the collections that a step, or one inside it, looks something up in."""
    match step:
        case RetrieveStep():
            return frozenset({step.retrieve})
        case RepeatStep():
            return frozenset().union(*map(collections_of, step.steps.values()))
        case _:
            return frozenset()


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
            names = [step.base, step.teacher]
        case RepeatStep():
            names = [name for inner in step.steps.values() for name in models_of(inner, chain)]
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
