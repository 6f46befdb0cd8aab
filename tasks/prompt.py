"""The prompt step: ask a model, check the answer, ask again where it does not fit.

Owns what is asked (messages and schema), what counts as an answer, and reuse of answers that would be the
same. Knows nothing of how a call is retried (tasks.attempts) or of which bytes go out (tasks.providers).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chains.errors import HeadraceError, InputInvalid, OutputInvalid, OutputTruncated
from chains.keys import key_of
from chains.outputs import parse_output, schema_of, step_output
from chains.prompts import prompt_parts, render_messages
from chains.spec import PromptStep
from chains.templates import references
from tasks.attempts import Caller, call, caller_for
from tasks.context import Progress, RowJob, RowResult, StepContext
from tasks.python import load_object

if TYPE_CHECKING:
    from tasks.providers import Completion, Provider, Reply


async def run_row(ctx: StepContext, job: RowJob) -> RowResult:
    """Render the prompt for one row, ask, and return what the model said."""
    step = ctx.step
    assert isinstance(step, PromptStep)
    name = model_name(ctx, step)
    provider = ctx.providers.get(name)
    parts = prompt_parts(ctx.chain_file, ctx.step_id)
    inputs = variables_read([source for _, source in parts], job.scope)
    messages: list[dict[str, str]] | None = None
    try:
        messages = render_messages(parts, job.scope)
        form = await _form_of(ctx, step)
        key = _value_key(provider, messages, form)
        result = _reused(ctx, key) or await _ask(ctx, job, messages, form)
    except HeadraceError as error:
        error.inputs = inputs
        error.messages = error.messages or messages
        raise
    result.value_key, result.inputs = key, inputs
    result.messages = result.messages or messages
    return result


def model_name(ctx: StepContext, step: PromptStep) -> str:
    """Return the name under `models:` that the step asks: its own, else the chain's default."""
    name = step.model or ctx.chain_file.chain.defaults.model
    if name is None:
        raise InputInvalid(
            f"step {ctx.step_id!r} names no model, and the chain has no default.",
            hint="Add `model:` to the step or to `defaults:`.",
        )
    return name


def variables_read(sources: list[str], scope: Mapping[str, Any]) -> dict[str, Any]:
    """Return each variable that templates refer to and its value, by its dotted name."""
    found: dict[str, Any] = {}
    for source in sources:
        for reference in references(source):
            value: Any = scope
            for part in (reference.root, *reference.path):
                value = value.get(part, found) if isinstance(value, Mapping) else found
            if value is not found:  # what is not there was guarded, or the rendering says so
                found[".".join((reference.root, *reference.path))] = value
    return found


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


def _value_key(provider: Provider, messages: list[dict[str, str]], form: _Form | None) -> str | None:
    """Return the key under which the answer may be used again, or None where another try may differ."""
    if not provider.deterministic:
        return None
    schema = form.schema if form is not None else None
    return key_of("prompt", {"messages": messages, "model": provider.identity, "schema": schema, "sample": 0})


def _reused(ctx: StepContext, key: str | None) -> RowResult | None:
    found = ctx.store.reusable([key]).get(key) if key is not None else None
    if found is None or found.output is None:
        return None
    messages = json.loads(found.messages) if found.messages is not None else None
    return RowResult(output=json.loads(found.output), reused_from=found.id, messages=messages)


async def _ask(
    ctx: StepContext, job: RowJob, messages: list[dict[str, str]], form: _Form | None
) -> RowResult:
    """Ask, and ask again up to `reask` times with the reason why the answer does not fit."""
    step = ctx.step
    assert isinstance(step, PromptStep)
    name = model_name(ctx, step)
    caller = caller_for(ctx, job, name)
    question = _Question(ctx.providers.get(name), form)
    history: list[str] = []
    for asked in range(step.reask + 1):
        try:
            completion, parsed = await question.ask(caller, messages, granted=asked)
        except HeadraceError as error:
            error.messages = messages
            error.history = history = [*history, *error.history]
            if not isinstance(error, OutputInvalid) or asked == step.reask:
                raise
            messages = [*messages, *question.complaint(error)]
            ctx.report(Progress(ctx.step_id, "retry", row=job.row, text=f"asked again: {error.message}"))
        else:
            break
    _report_other_model(ctx, name, completion)
    result = RowResult(
        output=step_output(completion.text, completion.finish_reason, parsed), messages=messages
    )
    return caller.charge(result)


class _Question:
    """One question to one model, with the last answer that it got."""

    def __init__(self, provider: Provider, form: _Form | None) -> None:
        self._provider = provider
        self._form = form
        self._last: Completion | None = None

    async def ask(
        self, caller: Caller, messages: list[dict[str, str]], *, granted: int
    ) -> tuple[Completion, Any]:
        """Return the completion and, where the step has an `output:`, its value."""
        schema = self._form.schema if self._form is not None else None
        request = self._provider.chat_request(messages, schema=schema, sample=0)
        return await call(caller, request, self._provider.send_chat, self._read, granted=granted)

    def complaint(self, error: OutputInvalid) -> list[dict[str, str]]:
        """Return the messages that ask again: the answer as it was, and what is wrong with it."""
        text = self._last.text if self._last is not None else ""
        again = f"{error.message}\nAnswer again with JSON only, and nothing before or after it."
        return [{"role": "assistant", "content": text}, {"role": "user", "content": again}]

    def _read(self, reply: Reply) -> tuple[Completion, Any]:
        # Here and not after the call, so that the attempt itself says what was wrong with its answer.
        completion = self._last = self._provider.read_chat(reply)
        if completion.finish_reason == "length":
            count = completion.tokens_out or "an unknown number of"
            raise OutputTruncated(
                f"the answer stopped at the token limit, after {count} tokens.",
                hint="Raise `max_tokens` of the model, or ask for less.",
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
