"""The prompt step: ask a model, check the answer, ask again where it does not fit.

Owns what is asked (messages and schema), what counts as an answer, and reuse of answers that would be the
same. Knows nothing of how a call is retried (tasks.attempts) or of which bytes go out (tasks.providers).
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from chains.errors import HeadraceError, InputInvalid, OutputInvalid, OutputTruncated
from chains.outputs import parse_output, schema_of, step_output
from chains.prompts import prompt_parts, render_messages
from chains.spec import PromptStep
from chains.store import Claim
from chains.templates import references
from tasks.attempts import Caller, call, caller_for
from tasks.context import Progress, RowJob, RowResult, StepContext
from tasks.python import load_object
from tasks.reuse import Question, answer, question
from tasks.sampling import run_samples
from tasks.speaking import Voice

if TYPE_CHECKING:
    from tasks.providers import Completion, Provider, Reply


async def run_row(ctx: StepContext, job: RowJob) -> RowResult:
    """Render the prompt for one row, ask, and return what the model said."""
    step = ctx.step
    assert isinstance(step, PromptStep)
    prepared = await _prepared(ctx)
    inputs = variables_of(prepared.variables, job.scope)
    try:
        messages = render_messages(prepared.parts, job.scope)
    except HeadraceError as error:
        error.inputs = inputs
        raise

    async def ask(of: RowJob, sample: int) -> RowResult:
        return await _noted(inputs, messages, _answer(ctx, of, prepared, messages, sample=sample))

    if step.samples == 1:
        return await ask(job, 0)
    return await _noted(inputs, messages, run_samples(ctx, job, ask))


async def _noted(
    inputs: Mapping[str, Any], messages: list[dict[str, str]], work: Awaitable[RowResult]
) -> RowResult:
    """Write on what comes of the work what was asked, and with which values."""
    try:
        result = await work
    except HeadraceError as error:
        error.inputs = inputs
        error.messages = error.messages or messages
        raise
    result.inputs = inputs
    result.messages = result.messages or messages
    return result


async def _answer(
    ctx: StepContext, job: RowJob, prepared: _Prepared, messages: list[dict[str, str]], *, sample: int
) -> RowResult:
    asked = _question(ctx, prepared, messages, sample)
    voice = Voice(ctx, job) if ctx.stream else None
    asking = _Asking(prepared, messages, sample, voice)
    try:
        result = await answer(ctx, asked, lambda claim: _ask(ctx, job, asking, claim))
    except HeadraceError:
        if voice is not None:
            voice.failed()
        raise
    if voice is not None:
        voice.said(result.output)
    return result


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What is the same for all rows of the step."""

    model: str
    provider: Provider
    parts: list[tuple[str, str]]
    variables: list[tuple[str, ...]]
    form: _Form | None
    accepts_length: bool


async def _prepared(ctx: StepContext) -> _Prepared:
    found: asyncio.Task[_Prepared] | None = ctx.memo.get("prompt")
    if found is None:
        # A task, for the rows that come while the first is at it.
        found = ctx.memo["prompt"] = asyncio.ensure_future(_prepare(ctx))
    try:
        return found.result() if found.done() else await asyncio.shield(found)
    except HeadraceError as error:
        raise copy.copy(error) from error  # each row notes its own inputs on it


async def _prepare(ctx: StepContext) -> _Prepared:
    step = ctx.step
    assert isinstance(step, PromptStep)
    name = model_name(ctx, step)
    parts = prompt_parts(ctx.chain_file, ctx.id_in_chain)
    return _Prepared(
        model=name,
        provider=ctx.providers.get(name),
        parts=parts,
        variables=variables_in([source for _, source in parts]),
        form=await _form_of(ctx, step),
        accepts_length=step.on_length == "accept",
    )


def model_name(ctx: StepContext, step: PromptStep) -> str:
    """Return the name under `models:` that the step asks: its own, else the chain's default."""
    name = step.model or ctx.chain_file.chain.defaults.model
    if name is None:
        raise InputInvalid(
            f"step {ctx.step_id!r} names no model, and the chain has no default.",
            hint="Add `model:` to the step or to `defaults:`.",
        )
    return name


def variables_in(sources: list[str]) -> list[tuple[str, ...]]:
    """Return each variable that templates refer to, as its root and path."""
    return list(
        dict.fromkeys((found.root, *found.path) for source in sources for found in references(source))
    )


def variables_of(variables: list[tuple[str, ...]], scope: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of each variable by its dotted name; what is not there was guarded, or fails later."""
    found: dict[str, Any] = {}
    for variable in variables:
        value: Any = scope
        for part in variable:
            # A dict is told at once; the question whether something is a mapping takes longer.
            known = type(value) is dict or isinstance(value, Mapping)
            value = value.get(part, _ABSENT) if known else _ABSENT
        if value is not _ABSENT:
            found[".".join(variable)] = value
    return found


_ABSENT: Any = object()


@dataclass(frozen=True, slots=True)
class _Form:
    """What an answer must look like: a JSON Schema, and what a class adds to it."""

    schema: dict[str, Any]
    check: Callable[[Any], None] = lambda _: None


async def _form_of(ctx: StepContext, step: PromptStep) -> _Form | None:
    if step.output is None:
        return None
    schema = schema_of(step.output, ctx.chain_file.files)
    if schema is not None:
        return _Form(schema)
    assert isinstance(step.output, str)
    # In a thread: an import may take its time, and calls are in flight.
    model = await asyncio.to_thread(load_object, ctx.chain_file, step.output, ctx.settings)
    if not hasattr(model, "model_json_schema"):
        raise InputInvalid(f"output: {step.output!r} is no pydantic model class.")
    return _Form(model.model_json_schema(), lambda value: _check_class(model, value))


def _check_class(model: Any, value: Any) -> None:
    """Let a pydantic class's own validators speak; the answer itself stays as it was given."""
    from pydantic import ValidationError

    try:
        model.model_validate(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in found)
        raise OutputInvalid(f"The answer does not fit {model.__name__}: {problems[:1000]}.") from error


def _question(ctx: StepContext, prepared: _Prepared, messages: list[dict[str, str]], sample: int) -> Question:
    """Return what decides the answer."""
    provider, form = prepared.provider, prepared.form
    schema = form.schema if form is not None else None
    parts: dict[str, Any] = {
        "messages": messages,
        "model": provider.identity,
        "schema": schema,
        "sample": sample,
    }
    if prepared.accepts_length:  # half an answer is none to a step that does not say so
        parts["on_length"] = "accept"
    return question(ctx, "prompt", parts, same=provider.deterministic)


async def _ask(ctx: StepContext, job: RowJob, asking: _Asking, claim: Claim | None) -> RowResult:
    """Ask, and ask again up to `reask` times with the reason why the answer does not fit."""
    step = ctx.step
    assert isinstance(step, PromptStep)
    caller, messages = caller_for(ctx, job, asking.model, claim=claim), asking.messages
    history: list[str] = []
    for asked in range(step.reask + 1):
        try:
            completion, parsed = await asking.ask(caller, messages, granted=asked)
        except HeadraceError as error:
            error.messages = messages
            error.history = history = [*history, *error.history]
            if not isinstance(error, OutputInvalid) or asked == step.reask:
                raise
            messages = [*messages, *asking.complaint(error)]
            ctx.report(Progress(ctx.step_id, "retry", row=job.row, text=f"asked again: {error.message}"))
        else:
            break
    _report_other_model(ctx, asking.model, completion)
    result = RowResult(
        output=step_output(completion.text, completion.finish_reason, parsed), messages=messages
    )
    return caller.charge(result)


class _Asking:
    """One question to one model, with the last answer that it got."""

    def __init__(
        self, prepared: _Prepared, messages: list[dict[str, str]], sample: int, voice: Voice | None
    ) -> None:
        self.model = prepared.model
        self.messages = messages
        self._sample = sample
        self._voice = voice
        self._provider = prepared.provider
        self._form = prepared.form
        self._accepts_length = prepared.accepts_length
        self._last: Completion | None = None

    async def ask(
        self, caller: Caller, messages: list[dict[str, str]], *, granted: int
    ) -> tuple[Completion, Any]:
        """Return the completion and, where the step has an `output:`, its value."""
        schema = self._form.schema if self._form is not None else None
        ask = partial(self._provider.chat_request, messages, schema=schema, sample=self._sample)
        if self._voice is None:
            return await call(caller, ask(), self._provider.send_chat, self._read, granted=granted)
        send = partial(self._voice.send, self._provider)
        return await call(caller, ask(stream=True), send, self._read, granted=granted)

    def complaint(self, error: OutputInvalid) -> list[dict[str, str]]:
        """Return the messages that ask again: the answer as it was, and what is wrong with it."""
        text = self._last.text if self._last is not None else ""
        again = f"{error.message}\nAnswer again with JSON only, and nothing before or after it."
        return [{"role": "assistant", "content": text}, {"role": "user", "content": again}]

    def _read(self, reply: Reply) -> tuple[Completion, Any]:
        # Here and not after the call, so that the attempt itself says what was wrong with its answer.
        completion = self._last = self._provider.read_chat(reply)
        if completion.finish_reason == "length" and not self._accepts_length:
            count = completion.tokens_out or "an unknown number of"
            raise OutputTruncated(
                f"the answer stopped at the token limit, after {count} tokens.",
                hint="Raise `max_tokens` of the model, ask for less, or say `on_length: accept`.",
            )
        if self._form is None:
            return completion, None
        value = parse_output(completion.text, self._form.schema)
        self._form.check(value)
        return completion, value


def _report_other_model(ctx: StepContext, name: str, completion: Completion) -> None:
    if completion.model is not None and ctx.providers.is_news(name, completion.model):
        text = f"the endpoint answers for model {name!r} as {completion.model!r}"
        ctx.report(Progress(ctx.step_id, "message", text=text))
