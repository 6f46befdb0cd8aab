"""What a fork may cost at most: calls, tokens and money of the steps that run in it.

Owns the ceiling. It is worked out from what the source asked, how much longer a template has become, and how
long answers may be. Tries that fail are not in it: most are not paid. Knows nothing of what is sent.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from chains.errors import InputInvalid
from chains.graph import models_of
from chains.outputs import schema_of
from chains.plan import BYTES_PER_TOKEN, items_of, most_calls
from chains.prompts import prompt_parts
from chains.spec import EmbedStep, EvaluateStep, FinetuneStep, Model, PromptStep, RetrieveStep, kind_of
from tasks.budgets import DEFAULT_ANSWER_TOKENS
from tasks.prices import cost_micro, prices_of

if TYPE_CHECKING:
    from chains.loading import ChainFile
    from chains.settings import Settings
    from chains.spec import Price
    from chains.store import Store
    from flows.forking import Fork

_AT_ONCE = 500
_FRAME = 300
"""Bytes of a request that are neither messages nor a schema, at most."""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The most that something may take; None: not known before it runs."""

    calls: int | None = 0
    tokens: int | None = 0
    cost_micro: int | None = 0

    def __add__(self, other: Ceiling) -> Ceiling:
        return Ceiling(
            _sum(self.calls, other.calls),
            _sum(self.tokens, other.tokens),
            _sum(self.cost_micro, other.cost_micro),
        )

    def to_dict(self) -> dict[str, int | None]:
        """Return the ceiling as JSON values."""
        return {"calls": self.calls, "tokens": self.tokens, "cost_micro": self.cost_micro}


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """A step of a fork: the rows that run and those that are linked, why, and what it may take."""

    step: str
    kind: str
    runs: int
    linked: int
    reason: str
    ceiling: Ceiling

    def to_dict(self) -> dict[str, Any]:
        """Return the step as JSON values."""
        return {
            "step": self.step,
            "kind": self.kind,
            "runs": self.runs,
            "linked": self.linked,
            "reason": self.reason,
            **self.ceiling.to_dict(),
        }


def planned_steps(store: Store, fork: Fork, settings: Settings) -> list[PlannedStep]:
    """Return every step of a fork with what it may take, in order."""
    ended = store.counts(fork.source.id)
    found = []
    for step in fork.graph.order:
        total = 1 if step in fork.once else fork.source.rows
        reach = fork.reach.get(step)
        there = sum(ended.get(step, {}).get(word, 0) for word in ("ok", "skipped", "failed", "blocked"))
        if step in fork.once:
            there = min(there, 1)
        again = 0 if reach is None else total if reach.rows is None else len(reach.rows)
        linked = min(there, total - again) if reach is None or reach.rows is not None else 0
        missing = total - again - linked
        reason = reach.reason if reach is not None else "nothing that it reads changes"
        if missing:
            reason += f"; {missing} had not ended in run {fork.source.id}"
        rows = None if reach is None else reach.rows
        ceiling = _ceiling(store, fork, step, rows, again + missing, settings)
        kind = kind_of(fork.chain_file.chain.steps[step])
        found.append(PlannedStep(step, kind, again + missing, linked, reason, ceiling))
    return found


def total_of(steps: Collection[PlannedStep]) -> Ceiling:
    """Return what all steps together may take."""
    return sum((step.ceiling for step in steps), Ceiling())


def _ceiling(  # noqa: PLR0917 - a step, its rows, and what they are priced by
    store: Store, fork: Fork, step_id: str, rows: Collection[int] | None, number: int, settings: Settings
) -> Ceiling:
    chain = fork.chain_file.chain
    step = chain.steps[step_id]
    if not number:
        return Ceiling()
    if isinstance(step, FinetuneStep):  # a job at an endpoint is paid by what it trains on
        return Ceiling(None, None, None) if step.finetune == "openai" else Ceiling()
    asked = [chain.models[name] for name in models_of(step, chain) if name in chain.models]
    prices = [_price(model, settings) for model in asked]
    calls = most_calls(step, fork.source.rows if isinstance(step, EvaluateStep) else number)
    sizes: list[int] = []
    if isinstance(step, PromptStep | EmbedStep | RetrieveStep) and calls != 0:
        sizes = _sizes(store, fork, step_id, rows)
        if items_of(step) is None and sizes and _same_list(fork, step_id):
            number = len(sizes)
            calls = most_calls(step.model_copy(update={"map": None}), number)
    if calls == 0:
        return Ceiling()
    if calls is None or not isinstance(step, PromptStep | EmbedStep | RetrieveStep) or len(asked) != 1:
        free = all(cost_micro(price, None, None) == 0 for price in prices)
        return Ceiling(calls, None, 0 if free else None)
    answer, reask = 0, 0
    if isinstance(step, PromptStep):
        answer, reask = asked[0].max_tokens or DEFAULT_ANSWER_TOKENS, step.reask
    sent = _asked_tokens(fork, step_id, sizes, number) * (calls // number)
    # Whoever is asked again is told what was wrong with the answer: it goes out again, too.
    sent += answer * (calls - calls // (1 + reask)) * max(reask, 1)
    return Ceiling(calls, sent + answer * calls, cost_micro(prices[0], sent, answer * calls))


def _same_list(fork: Fork, step_id: str) -> bool:
    """Whether a step maps the list that it mapped in the source."""
    edited = fork.edited.get(step_id, ()) if step_id not in fork.changed_by_file.changed else ("map",)
    return not (fork.graph.needs[step_id] & fork.reach.keys() or "map" in edited or fork.inputs)


def _sizes(store: Store, fork: Fork, step_id: str, rows: Collection[int] | None) -> list[int]:
    """Return how long each question was that the source asked in these rows, in bytes."""
    step = fork.chain_file.chain.steps[step_id]
    mapped = items_of(step) != 1
    chosen = fork.start.items if fork.start is not None and fork.start.step == step_id else None
    sizes = []
    for start in range(-1, store.last_row(fork.source.id) + 1, _AT_ONCE):
        chunk = range(start, start + _AT_ONCE)
        for record in store.records(fork.source.id, step_id, rows=chunk, within=mapped):
            if rows is not None and record.row not in rows:
                continue
            if mapped and (record.item < 0 or record.sample or (chosen and record.item not in chosen)):
                continue
            asked = record.messages if isinstance(step, PromptStep) else record.inputs
            sizes.append(len(asked or b""))
    return sizes


def _asked_tokens(fork: Fork, step_id: str, sizes: Sequence[int], number: int) -> int:
    """Return the most tokens that the first questions have."""
    is_prompt = isinstance(fork.chain_file.chain.steps[step_id], PromptStep)
    around = _around(fork.chain_file, step_id) if is_prompt else 0
    longest = max(sizes, default=0) or (_length(fork.chain_file, step_id) if is_prompt else 0)
    known = sum(size or longest for size in sizes) + max(number - len(sizes), 0) * longest
    known += number * around
    return -(-known // BYTES_PER_TOKEN) + number * (_growth(fork, step_id) + _answers_above(fork, step_id))


def _growth(fork: Fork, step_id: str) -> int:
    """Return the tokens by which a template has become longer, and what longer inputs add."""
    inputs = len(json.dumps(dict(fork.inputs), ensure_ascii=False).encode("utf-8", "surrogatepass"))
    size = inputs if fork.inputs else 0
    if isinstance(fork.chain_file.chain.steps[step_id], PromptStep):
        before = fork.before.chain.steps.get(step_id)
        old = _length(fork.before, step_id) if isinstance(before, PromptStep) else 0
        size += max(_length(fork.chain_file, step_id) - old, 0)
    return -(-size // BYTES_PER_TOKEN)


def _answers_above(fork: Fork, step_id: str) -> int:
    """Return the tokens of the longest answers of the steps above that are asked again."""
    chain = fork.chain_file.chain
    found = 0
    for name in fork.graph.reads[step_id] & fork.reach.keys():
        if isinstance(chain.steps[name], PromptStep):
            model = chain.models.get(next(iter(models_of(chain.steps[name], chain)), ""))
            found += (model.max_tokens if model is not None else None) or DEFAULT_ANSWER_TOKENS
    return found


def _around(chain_file: ChainFile, step_id: str) -> int:
    """Return the bytes of a request beside its messages: model, parameters, the form of the answer."""
    step = chain_file.chain.steps[step_id]
    output = step.output if isinstance(step, PromptStep) else None
    try:
        schema = schema_of(output, chain_file.files) if output is not None else None
    except InputInvalid:
        schema = None
    # A class of pydantic is not imported here; its schema is rarely longer than this.
    size = _FRAME if output is None else 2 * len(json.dumps(schema)) if schema is not None else 4096
    return _FRAME + size


def _length(chain_file: ChainFile, step_id: str) -> int:
    return sum(len(text.encode("utf-8", "replace")) for _, text in prompt_parts(chain_file, step_id))


def _price(model: Model, settings: Settings) -> Price | None:
    return prices_of(settings.prices).of(model, urlsplit(model.base_url or "").hostname or "api.openai.com")


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other
