"""The plan of a run: order, shards, how many calls and tokens at most, and what may be reused, and why.

Owns the estimates and their words. Asks no model and runs nothing; reads the store only for an earlier run
of the same chain. Estimates are upper bounds for calls and rough for tokens (four bytes each).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from chains.graph import Graph, graph_of_file, models_of
from chains.inside import every_step
from chains.plan_teacher import Questions, asks_teacher, cost_note, questions_of
from chains.prompts import prompt_parts
from chains.spec import (
    ApproveStep,
    Budget,
    Chain,
    ChainStep,
    EmbedStep,
    EvaluateStep,
    FinetuneStep,
    KeptStep,
    MappedStep,
    Model,
    PrepareStep,
    PromptStep,
    PythonStep,
    RepeatStep,
    RetrieveStep,
    Step,
    kind_of,
    runs_once,
)
from chains.templates import references
from chains.textform import text_of

if TYPE_CHECKING:
    from chains.loading import ChainFile
    from chains.settings import Settings
    from chains.store import Store

BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step of a plan. `calls` and `tokens_in_estimate` are for all rows; None: not known before a run."""

    id: str
    kind: str
    once: bool
    pool: str | None
    needs: tuple[str, ...]
    calls: int | None
    tokens_in_estimate: int | None
    model: str | None
    reuse: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do."""

    chain: str
    hash: str
    rows: int
    shards: list[range]
    steps: list[PlannedStep]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values; a shard is its first row and the row after its last."""
        steps = [{**asdict(step), "needs": list(step.needs)} for step in self.steps]
        shards = [[shard.start, shard.stop] for shard in self.shards]
        return {
            "chain": self.chain,
            "hash": self.hash,
            "rows": self.rows,
            "shards": shards,
            "steps": steps,
            "notes": list(self.notes),
        }


def make_plan(
    chain_file: ChainFile,
    *,
    rows: int,
    inputs_sample: Mapping[str, Any] | None,
    settings: Settings,
    store: Store | None,
    data_sha256: str | None = None,
) -> Plan:
    """Return the plan of a run over `rows` rows; `inputs_sample` (one row's) is for the token estimate."""
    graph = graph_of_file(chain_file)
    steps = [
        _planned(step_id, chain_file, graph, rows=rows, sample=inputs_sample or {}) for step_id in graph.order
    ]
    taught = _taught(chain_file, graph, read_outside=settings.read_outside)
    steps = [_with_questions(step, taught[step.id]) if step.id in taught else step for step in steps]
    shards = [
        range(start, min(start + settings.shard_rows, rows)) for start in range(0, rows, settings.shard_rows)
    ]
    notes = [
        *_earlier_notes(chain_file, store, data_sha256),
        *_notes(chain_file.chain, graph, steps, shards),
        *_teacher_notes(chain_file.chain, taught),
    ]
    return Plan(chain_file.chain.chain, chain_file.hash, rows, shards, steps, notes)


def pool_of(step: Step, chain: Chain) -> str | None:
    """Return the work pool that a step asks for: its own, else that of its model."""
    model = chain.models.get(next(iter(models_of(step, chain)), ""))
    return step.pool or (model.pool if model is not None else None)


def _planned(
    step_id: str, chain_file: ChainFile, graph: Graph, *, rows: int, sample: Mapping[str, Any]
) -> PlannedStep:
    chain = chain_file.chain
    step = chain.steps[step_id]
    once = runs_once(step)
    times = 1 if once else rows
    items = items_of(step)
    name = next(iter(models_of(step, chain)), None)
    model = chain.models.get(name) if name is not None else None
    sources = _sources(step_id, step, chain_file)
    return PlannedStep(
        id=step_id,
        kind=kind_of(step),
        once=once,
        pool=pool_of(step, chain),
        needs=tuple(other for other in graph.order if other in graph.needs[step_id]),
        calls=most_calls(step, rows if isinstance(step, EvaluateStep) else times),
        tokens_in_estimate=None
        if sources is None
        else _if_known(times * (items or 1) * _asked(step) * _tokens(sources, sample), items),
        model=_described(step, name, model),
        reuse=_reuse(step, model),
    )


def most_calls(step: Step, rows: int) -> int | None:
    """Return the most calls that a step makes for so many rows, failed tries left out; None: not known."""
    if isinstance(step, EvaluateStep):
        return _judgements(step, rows)
    items = items_of(step)
    return _if_known(_calls(step, rows * (items or 1)), items)


def items_of(step: Step) -> int | None:
    """Return how often a step runs for a row: the length of its list, None where only a run can tell."""
    if not isinstance(step, MappedStep) or step.map is None:
        return 1
    return len(step.map) if isinstance(step.map, list) else None


def _if_known(number: int | None, items: int | None) -> int | None:
    return number if items is not None else (number and None)


def _taught(chain_file: ChainFile, graph: Graph, *, read_outside: bool) -> dict[str, Questions | None]:
    """Return what each distill step asks its teacher."""
    steps = {step_id: chain_file.chain.steps[step_id] for step_id in graph.order}
    return {
        step_id: questions_of(step, chain_file, read_outside=read_outside)
        for step_id, step in steps.items()
        if isinstance(step, FinetuneStep) and asks_teacher(step)
    }


def _with_questions(step: PlannedStep, questions: Questions | None) -> PlannedStep:
    calls, tokens = (None, None) if questions is None else (questions.number, questions.tokens)
    return replace(step, calls=calls, tokens_in_estimate=tokens)


def _teacher_notes(chain: Chain, taught: Mapping[str, Questions | None]) -> list[str]:
    notes = []
    for step_id, questions in taught.items():
        step = chain.steps[step_id]
        assert isinstance(step, FinetuneStep)
        notes.append(cost_note(step_id, step, questions, chain.models.get(step.teacher or "")))
    return notes


def _calls(step: Step, times: int) -> int | None:
    match step:
        case PromptStep():
            return times * _asked(step) * (1 + step.reask)
        case EmbedStep(into=str()):
            return None
        case EmbedStep() | RetrieveStep():
            return times
        case ChainStep():
            return None
        case RepeatStep():
            inside = [most_calls(inner, times * step.repeat.max) for inner in step.steps.values()]
            return None if None in inside else sum(calls or 0 for calls in inside)
        case _:
            return 0


def _asked(step: Step) -> int:
    """Return how often the same is asked for a row."""
    return step.samples if isinstance(step, PromptStep) else 1


def _judgements(step: EvaluateStep, rows: int) -> int:
    """Return the most calls that judges and rubric checks make: a bad verdict is asked for once more."""
    asked = sum(2 if judge.ask == "pairwise" else 1 for judge in step.judges.values())
    judged = 2 * rows * (asked + len(step.rubric_checks))
    return judged + (2 * rows if "similarity" in step.measured else 0)


def _sources(step_id: str, step: Step, chain_file: ChainFile) -> list[str] | None:
    """Return the templates whose text goes to a model; None where the text cannot be known before a run."""
    match step:
        case PromptStep():
            return [source for _, source in prompt_parts(chain_file, step_id)]
        case EmbedStep(into=str()) | FinetuneStep() | RepeatStep() | ChainStep():
            return None
        case EmbedStep():
            return [step.embed] if isinstance(step.embed, str) else step.embed
        case RetrieveStep():
            return [step.query]
        case _:
            return []


def _tokens(sources: Iterable[str], sample: Mapping[str, Any]) -> int:
    """Estimate tokens from the templates' own text and the inputs that they print."""
    size = 0
    for source in sources:
        size += len(source.encode("utf-8", "replace"))
        for reference in references(source):
            if reference.root == "inputs":
                value = sample.get(reference.path[0]) if reference.path else dict(sample)
                size += len(text_of(value).encode("utf-8", "replace")) if value is not None else 0
    return math.ceil(size / BYTES_PER_TOKEN)


def _described(step: Step, name: str | None, model: Model | None) -> str | None:
    if isinstance(step, FinetuneStep) and step.base is None:
        return "from nothing" if step.teacher is None else f"from nothing, taught by {step.teacher}"
    if model is None:
        return name
    return f"{name} ({model.provider} {model.model})" if model.model else f"{name} ({model.provider})"


def _reuse(step: Step, model: Model | None) -> str:
    """Say whether earlier answers may be used again, and why."""
    if isinstance(step, KeptStep) and step.cache is not None:
        return _CACHE_WORDS[step.cache]
    match step:
        case PromptStep():
            return _prompt_reuse(model)
        case EmbedStep(into=str()):
            return "chunks that were embedded before are reused"
        case EmbedStep():
            return "deterministic: reused when the same text was embedded before"
        case RetrieveStep():
            return "deterministic: reused when the collection and the query are the same"
        case PrepareStep():
            return "deterministic: reused when the data and the step are the same"
        case FinetuneStep(finetune="openai"):
            return "submitted once: a job for the same data and settings is found again"
        case FinetuneStep():
            return "seeded: reused when the data, the base and the parameters are the same"
        case EvaluateStep():
            asks = bool(step.judges or step.rubric_checks)
            return _prompt_reuse(model) if asks else "computed anew: it costs nothing"
        case RepeatStep() | ChainStep():
            return "see its steps: each asks for itself"
        case PythonStep():
            return "called anew: what a function reads is not known"
        case ApproveStep():
            return "a person is asked anew in each run"


_CACHE_WORDS = {
    "always": "`cache: always`: reused when the same was asked before, in any run",
    "run": "`cache: run`: what is asked twice in this run is asked once",
    "never": "asked anew: `cache: never`",
    "refresh": "asked anew, and later runs may use it: `cache: refresh`",
}


def _prompt_reuse(model: Model | None) -> str:
    if model is None:
        return "asked anew"
    if model.temperature == 0 or (model.temperature is None and model.provider != "openai"):
        return "deterministic: reused when the same request was answered before"
    if model.temperature is None:
        return "asked anew: the endpoint samples unless the model has `temperature: 0`"
    return f"asked anew: sampled at temperature {model.temperature:g}"


def _earlier_notes(chain_file: ChainFile, store: Store | None, data_sha256: str | None) -> list[str]:
    """Name the latest finished run of the same chain over the same data."""
    if store is None:
        return []
    for run in store.runs(chain=chain_file.chain.chain, payloads=False):
        same = run.chain_hash == chain_file.hash and run.data_sha256 == data_sha256
        if same and run.status in ("ok", "failed"):
            what = "the same chain and data" if data_sha256 is not None else "the same chain"
            return [f"run {run.id} ({run.status}) had {what}; see each step for what is reused from it"]
    return []


def _notes(chain: Chain, graph: Graph, steps: list[PlannedStep], shards: list[range]) -> list[str]:
    notes = [] if chain.budget is None else [f"the run stops before it uses more than {_most(chain.budget)}"]
    if len(shards) > 1:
        notes.append(f"the rows run in {len(shards)} shards of up to {len(shards[0])}")
    per_row = {step.id for step in steps if not step.once}
    for step in steps:
        waits_for = [name for name in step.needs if name in per_row]
        if step.once and waits_for:
            notes.append(f"{step.id} runs once, when {_listed(waits_for)} ended for all rows")
    in_pools: dict[str, list[str]] = defaultdict(list)
    for step in steps:
        if step.pool is not None:
            in_pools[step.pool].append(step.id)
    for pool, names in sorted(in_pools.items()):
        notes.append(
            f"{_listed(names)} {'names' if len(names) == 1 else 'name'} pool {pool!r}: runs on its workers "
            "where Prefect has such a pool, else in this process"
        )
    if mapped := [name for name in graph.order if items_of(chain.steps[name]) is None]:
        notes.append(
            f"{_listed(mapped)}: once for each item of `map`; how many items there are, only a run can tell"
        )
    notes += [
        _repeating(name, around)
        for name in graph.order
        if isinstance(around := chain.steps[name], RepeatStep)
    ]
    if any(isinstance(found.step, PromptStep) and found.step.reask for found in every_step(chain)):
        notes.append("calls are upper bounds: a model is asked again only when its answer does not fit")
    for name in graph.order:
        if isinstance(asking := chain.steps[name], PromptStep) and asking.samples > 1:
            notes.append(f"{name} asks {asking.samples} times for each row: {_voting(asking)}")
    if people := [name for name in graph.order if isinstance(chain.steps[name], ApproveStep)]:
        notes.append(
            f"{_listed(people)} {'asks' if len(people) == 1 else 'ask'} a person: "
            "the run waits until there is an answer"
        )
    if conditional := [name for name in graph.order if chain.steps[name].when is not None]:
        notes.append(f"{_listed(conditional)}: only for rows where `when` holds")
    if any(step.tokens_in_estimate for step in steps):
        notes.append("tokens are estimated from templates and inputs, without what earlier steps answer")
    return notes


def _repeating(name: str, step: RepeatStep) -> str:
    inside = _listed(list(step.steps))
    return f"{name} runs {inside} in turns, {step.repeat.max} at most, until {step.repeat.until}"


def _voting(step: PromptStep) -> str:
    least = step.least_votes
    match step.vote:
        case "majority":
            return "the answer that most gave" + (f", at least {least} of them" if least > 1 else "")
        case "first":
            return "the first that has an answer" + (f", if at least {least} have one" if least > 1 else "")
        case "all":
            return f"the list of all answers, of which there must be {least}"


def _most(budget: Budget) -> str:
    usd = [f"{budget.usd:.2f} USD"] if budget.usd is not None else []
    counts = [(budget.tokens, "tokens"), (budget.calls, "calls")]
    return " or ".join([*usd, *(f"{number:,} {unit}" for number, unit in counts if number is not None)])


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
