"""The finetune step at an endpoint: a job is submitted once, followed, and its model published by name.

Owns the order of things. Everything that costs something is an attempt (tasks.attempts): its intent is in the
store before it is sent. What a crash leaves in doubt is looked for at the service and adopted: a job by the
value key in its metadata, a file by the hash in its name. Knows nothing of training here.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from chains.errors import EnvironmentLacks, GateNotMet, HeadraceError, InputInvalid, StepFailed
from chains.keys import canonical, key_of
from chains.spec import FinetuneStep, Price
from chains.store import Claim, Usage
from chains.templates import evaluate
from tasks.attempts import Caller, call, caller_for
from tasks.context import OnceJob, Progress, RowResult, StepContext
from tasks.hosting.api import ENDED, JobsApi, events_as_history, file_request, job_request, made
from tasks.hosting.examples import Upload, check_apart, upload_of
from tasks.prices import FREE
from tasks.providers.reply import Reply
from tasks.publishing import publish_hosted
from tasks.reuse import Question, answer

if TYPE_CHECKING:
    from tasks.providers.openai import OpenAIProvider

FIRST_LOOK_S, LAST_LOOK_S = 0.5, 30.0
"""How soon, and at the latest how often, a job is looked at."""
CANCEL_S = 8.0
"""How long the wish to cancel may take when the run is stopped."""
ASSUMED_EPOCHS = 3
"""Passes over the data that an estimate reckons with, where the service chooses."""


@dataclass(frozen=True, slots=True)
class _Order:
    """What is asked for: the request without its files, the files, and the key that names all of it."""

    asked: dict[str, Any]
    uploads: dict[str, Upload]
    key: str
    described: dict[str, Any]


async def run_hosted(
    ctx: StepContext, step: FinetuneStep, job: OnceJob, files: Mapping[str, Path | None]
) -> RowResult:
    """Have the endpoint of `base` train on the files; return the model's name and how it went."""
    provider = _provider(ctx, step)
    order = await asyncio.to_thread(_order, step, provider, files)
    key = key_of("finetune", {"weights": order.key, "publish": step.publish, "gate": step.gate})
    hosted = _Hosted(ctx, job, provider, order)
    result = await answer(ctx, Question(key), hosted.train)
    result.inputs = {
        "data": {part: str(path) if path else None for part, path in files.items()},
        "sha256": {part: upload.sha256 for part, upload in order.uploads.items()},
    }
    return result


class _Hosted:
    """One step's job."""

    def __init__(self, ctx: StepContext, job: OnceJob, provider: OpenAIProvider, order: _Order) -> None:
        self._ctx = ctx
        self._step = cast(FinetuneStep, ctx.step)
        self._job = job
        self._order = order
        self._provider = provider
        self._done = 0

    async def train(self, claim: Claim | None) -> RowResult:
        """Submit the job or find the one that is there, follow it and publish its model."""
        ctx, step, order = self._ctx, self._step, self._order
        assert step.base is not None
        self._api = JobsApi(self._provider.endpoint, timeout=ctx.timeout, clock=ctx.clock)
        # A file or job that was made does not count against the tries of the next call.
        earlier = ctx.store.attempts(self._job.record_id, payloads=False)[self._job.attempts_granted :]
        self._done = sum(attempt.state == "ok" for attempt in earlier)
        price = ctx.providers.price(step.base)
        caller = self._caller(claim, price)
        found = await self._api.find_job(order.key)
        if found is not None:
            self._say(f"job {found['id']} is there already ({found.get('status')}): it is not made again")
        else:
            found = await self._submit(caller)
        ended = await self._follow(str(found["id"]))
        history = events_as_history(await self._api.events(str(found["id"])))
        metrics = _metrics(ended, history)
        _check_gate(step, metrics)
        model, version = publish_hosted(
            ctx, step, str(ended["fine_tuned_model"]), key=order.key, described=order.described,
            metrics=metrics, data={part: upload.sha256 for part, upload in order.uploads.items()},
        )  # fmt: skip
        output = {
            "model": model,
            "method": step.finetune,
            "base": order.described,
            "version": version,
            "job": ended["id"],
            "hosted_model": ended["fine_tuned_model"],
            **metrics,
            "history": history,
        }
        result = caller.charge(RowResult(output=output))
        result.tokens_in, result.tokens_out = metrics["tokens"], 0
        result.cost_micro = _cost(price, metrics["tokens"])
        return result

    def _caller(self, claim: Claim | None, price: Price | None) -> Caller:
        """Return who pays; the whole training counts as one call, with the most that it may use."""
        step = self._step
        assert step.base is not None
        caller = caller_for(self._ctx, self._job, step.base, claim=claim)
        if any(limit.usd_micro is not None for limit in caller.limits) and (
            price is None or price.training is None
        ):
            raise EnvironmentLacks(
                f"a budget in US dollars is set, and what training {step.base!r} costs is not known.",
                hint="Add `training:` to `price:` of the model, in US dollars per million tokens.",
            )
        tokens = self._order.uploads["train"].tokens * (step.n_epochs or ASSUMED_EPOCHS)
        self._estimate = Usage(1, tokens, _cost(price, tokens))
        return dataclasses.replace(caller, rates=None, ahead=False)

    async def _submit(self, caller: Caller) -> dict[str, Any]:
        files: dict[str, str] = {}
        for part, upload in self._order.uploads.items():
            there = await self._api.find_file(upload)
            if there is None:
                self._say(f"sending {upload.examples:,} examples ({len(upload.content):,} bytes)")
                there = await self._call(
                    dataclasses.replace(caller, estimate=Usage(1, 0, 0), price=FREE),
                    file_request(upload),
                    _Careful(self._api.send_file, partial(self._api.find_file, upload)),
                )
            files[part] = str(there["id"])
        request = job_request(self._order.asked, files, self._order.key)
        job = await self._call(
            dataclasses.replace(caller, estimate=self._estimate, price=None),
            request,
            _Careful(self._api.send_job, partial(self._api.find_job, self._order.key)),
        )
        self._say(f"job {job['id']} is submitted")
        return job

    async def _call(self, caller: Caller, request: bytes, send: _Careful) -> dict[str, Any]:
        document = await call(caller, request, send.send, made, granted=self._done)
        self._done += 1
        return document

    async def _follow(self, job_id: str) -> dict[str, Any]:
        """Wait for the job's end and tell what happens; a stop of the run ends the job too."""
        seen: set[str] = set()
        pause = FIRST_LOOK_S
        try:
            while True:
                state = await self._api.job(job_id)
                events = await self._api.events(job_id)
                self._tell(state, [event for event in events if str(event.get("id")) not in seen], events)
                seen |= {str(event.get("id")) for event in events}
                if state.get("status") in ENDED:
                    break
                await asyncio.sleep(pause)
                pause = min(1.5 * pause, LAST_LOOK_S)
        except asyncio.CancelledError:
            await self._cancel(job_id)
            raise
        _check_succeeded(state, events)
        return state

    async def _cancel(self, job_id: str) -> None:
        try:
            async with asyncio.timeout(CANCEL_S):
                await self._api.cancel(job_id)
            self._say(f"job {job_id} is cancelled")
        except (HeadraceError, TimeoutError) as error:
            self._say(f"job {job_id} could not be cancelled ({error}): it goes on, and a resume finds it")

    def _tell(self, state: dict[str, Any], fresh: list[dict[str, Any]], events: list[dict[str, Any]]) -> None:
        """Show new events, and keep what is known in the record while the job runs."""
        for event in fresh:
            data = event.get("data") if isinstance(event.get("data"), dict) else {}
            step, total = (data or {}).get("step"), (data or {}).get("total_steps")
            self._say(
                f"{state.get('status')}: {str(event.get('message') or event.get('type'))[:200]}",
                done=step if isinstance(step, int) else 0,
                total=total if isinstance(total, int) else 0,
            )
        if fresh and self._job.opening is not None:
            known = {"job": state["id"], "status": state.get("status"), "history": events_as_history(events)}
            self._ctx.store.put(dataclasses.replace(self._job.opening, output=canonical(known)))

    def _say(self, text: str, *, done: int = 0, total: int = 0) -> None:
        self._ctx.report(Progress(self._ctx.step_id, "message", text=text, done=done, total=total))


class _Careful:
    """Sends once; before it sends again, it looks whether the first time was enough after all."""

    def __init__(
        self,
        send: Callable[..., Awaitable[Reply]],
        look: Callable[[], Awaitable[dict[str, Any] | None]],
    ) -> None:
        self._send = send
        self._look = look
        self._sent = False

    async def send(self, request: bytes, *, timeout: float) -> Reply:
        """Send the request, or answer with what it has made already."""
        there = await self._look() if self._sent else None
        if there is not None:
            return Reply(body=canonical(there), status=200, document=there)
        self._sent = True
        return await self._send(request, timeout=timeout)


def _provider(ctx: StepContext, step: FinetuneStep) -> OpenAIProvider:
    from tasks.providers.openai import OpenAIProvider

    assert step.base is not None
    provider = ctx.providers.get(step.base)
    if not isinstance(provider, OpenAIProvider):
        raise InputInvalid(
            f"step {ctx.step_id!r}: base {step.base!r} is on this machine, and finetune: openai tunes at an "
            "endpoint.",
            hint="Name a model of provider openai, or take another method.",
        )
    return provider


def _order(step: FinetuneStep, provider: OpenAIProvider, files: Mapping[str, Path | None]) -> _Order:
    uploads = {part: upload_of(path, step.method) for part, path in files.items() if path is not None}
    if "validation" in uploads:
        check_apart(uploads["train"], uploads["validation"])
    given = {
        "n_epochs": step.n_epochs,
        "batch_size": step.batch_size,
        "learning_rate_multiplier": step.learning_rate_multiplier,
        "beta": step.beta if step.method == "dpo" else None,
    }
    hyperparameters = {name: value for name, value in given.items() if value is not None}
    asked = {
        "model": provider.model.model,
        "method": {"type": step.method, step.method: {"hyperparameters": hyperparameters}},
        "seed": step.seed,
        **({"suffix": step.suffix} if step.suffix else {}),
    }
    model = provider.model
    described = {
        "provider": "openai",
        "model": model.model,
        **({"base_url": model.base_url} if model.base_url else {}),
        **({"api_version": model.api_version} if model.api_version else {}),
    }
    data = {part: upload.sha256 for part, upload in uploads.items()}
    key = key_of("hosted", {"asked": asked, "data": data, "at": provider.endpoint.identity})
    return _Order(asked, uploads, key, described)


def _metrics(ended: Mapping[str, Any], history: list[dict[str, Any]]) -> dict[str, Any]:
    trained, began, finished = (ended.get(name) for name in ("trained_tokens", "created_at", "finished_at"))
    last = history[-1] if history else {}
    timed = isinstance(began, int | float) and isinstance(finished, int | float)
    return {
        "tokens": trained if isinstance(trained, int) else None,
        "train_loss": last.get("train_loss"),
        "validation_loss": last.get("validation_loss"),
        "seconds": finished - began if timed and began and finished else None,
    }


def _cost(price: Price | None, tokens: int | None) -> int | None:
    """Return micro-dollars; a service counts each pass over a token."""
    known = price is not None and price.training is not None and tokens is not None
    return round(price.training * tokens) if known else None  # type: ignore[operator, union-attr]


def _check_succeeded(state: Mapping[str, Any], events: list[dict[str, Any]]) -> None:
    if state.get("status") == "succeeded" and state.get("fine_tuned_model"):
        return
    fault = state.get("error") or {}
    said = [str(fault.get(name)) for name in ("code", "param", "message") if fault.get(name)]
    last = [str(event.get("message"))[:200] for event in events[-3:] if event.get("message")]
    raise StepFailed(
        f"The job {state.get('id')} ended as {state.get('status')!r}: {': '.join(said) or 'no reason'}. "
        f"Its last events: {'; '.join(last) or 'none'}.",
        hint="Correct what it names; `headrace retry` submits a new job.",
    )


def _check_gate(step: FinetuneStep, metrics: Mapping[str, Any]) -> None:
    if step.gate is not None and not evaluate(step.gate, metrics):
        raise GateNotMet(
            f"The gate {step.gate!r} is false for {dict(metrics)}; nothing was published.",
            hint="Train longer, on more data, or lower the gate; the job is found again and not paid twice.",
        )
