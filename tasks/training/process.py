"""The parent's side of a training: starts the child process, passes on what it says, and ends it.

Owns the child's life. Knows nothing of torch. A finished training is found again by its result.json, an
unfinished one goes on from its newest whole checkpoint; both live in the work folder.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import chains.errors
from chains.errors import HeadraceError, StepFailed
from chains.store.files import atomic_write
from tasks.training.job import TrainingJob, TrainingResult

STOP_GRACE = 30.0
LINE_LIMIT = 1024 * 1024
ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """What is known while a training runs. `text` is a line fit for showing.

    `milestone` says that an evaluation or a checkpoint has come; the figures are those of the last step.
    """

    text: str
    step: int = 0
    total: int = 0
    loss: float | None = None
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None
    grad_norm: float | None = None
    memory_mb: int | None = None
    validation_loss: float | None = None
    milestone: Literal["evaluation", "checkpoint"] | None = None


async def train(
    job: TrainingJob, work: Path, on_progress: Callable[[TrainingProgress], None] = lambda _: None
) -> TrainingResult:
    """Train in a child process; the model is in `work`/model when this returns."""
    if (done := finished(work)) is not None:
        return done
    work.mkdir(parents=True, exist_ok=True)
    atomic_write(work / "job.json", job.to_json().encode())
    with (work / "child.log").open("ab") as log:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tasks.training.child",
            str(work),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env=child_environment(os.environ),
            limit=LINE_LIMIT,
        )
    try:
        failure = await _follow(child, on_progress)
        code = await child.wait()
    finally:
        await _end(child)
    if failure is not None:
        raise failure
    result = finished(work)
    if code != 0 or result is None:
        raise StepFailed(
            f"The training process ended with code {code} and no result; "
            f"its last words: {_last_words(work)!r}.",
            hint=f"The whole log is {work / 'child.log'}. Run again to go on from the last checkpoint.",
        )
    return result


def finished(work: Path) -> TrainingResult | None:
    """Return the result of a training that has ended in this folder, if there is one."""
    try:
        text = (work / "result.json").read_text(encoding="utf-8")
    except OSError:
        return None
    return TrainingResult.from_json(text) if (work / "model").is_dir() else None


def child_environment(environment: Any) -> dict[str, str]:
    """Return the child's environment: no network, no telemetry, and this package importable."""
    path = os.pathsep.join(part for part in (str(ROOT), environment.get("PYTHONPATH", "")) if part)
    return {
        **environment,
        "PYTHONPATH": path,
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


async def _follow(
    child: asyncio.subprocess.Process, on_progress: Callable[[TrainingProgress], None]
) -> HeadraceError | None:
    assert child.stdout is not None
    pace = _Pace()
    failure: HeadraceError | None = None
    async for line in child.stdout:
        event = json.loads(line)
        if event["event"] == "failed":
            kind = getattr(chains.errors, event["type"], StepFailed)
            failure = kind(event["message"], hint=event["hint"])
        elif event["event"] != "done":
            on_progress(pace.progress(event))
    return failure


class _Pace:
    """Turns events into progress: tokens per second and time left since the first step seen."""

    def __init__(self) -> None:
        self.clock = asyncio.get_running_loop().time
        self.start: tuple[float, int, int] | None = None
        self.last = TrainingProgress("")

    def progress(self, event: dict[str, Any]) -> TrainingProgress:
        if event["event"] == "phase":
            return TrainingProgress(text=event["text"])
        if event["event"] == "validation":
            what, loss = f"validation loss {event['loss']:.4f}", event["loss"]
            return self._milestone(event, what, milestone="evaluation", validation_loss=loss)
        if event["event"] == "checkpoint":
            return self._milestone(event, "checkpoint", milestone="checkpoint")
        now, step, tokens = self.clock(), event["step"], event["tokens"]
        if self.start is None:
            self.start = (now, step, tokens)
        elapsed = now - self.start[0]
        rate = (tokens - self.start[2]) / elapsed if elapsed > 0 else None
        left = elapsed / (step - self.start[1]) * (event["total"] - step) if step > self.start[1] else None
        text = f"step {step}/{event['total']}, loss {event['loss']:.4f}, lr {event['learning_rate']:.2e}"
        if rate is not None and left is not None:
            text += f", {rate:,.0f} tokens/s, {left:.0f} s left"
        self.last = TrainingProgress(
            text=text,
            step=step,
            total=event["total"],
            loss=event["loss"],
            learning_rate=event["learning_rate"],
            tokens_per_second=rate,
            seconds_left=left,
            grad_norm=event["grad_norm"],
            memory_mb=event["memory_mb"],
        )
        return self.last

    def _milestone(self, event: dict[str, Any], what: str, **said: Any) -> TrainingProgress:
        text = f"{self.last.text or 'step ' + str(event['step'])}; {what}"
        return replace(self.last, text=text, step=event["step"], **said)


async def _end(child: asyncio.subprocess.Process) -> None:
    """Ask the child to stop with a checkpoint; kill it when it does not."""
    if child.returncode is not None:
        return
    assert child.stdin is not None
    try:
        child.stdin.write(b"stop\n")
        await child.stdin.drain()
        await asyncio.wait_for(child.wait(), STOP_GRACE)
    except (TimeoutError, ConnectionError, asyncio.CancelledError):
        if child.returncode is None:
            child.kill()
            await child.wait()


def _last_words(work: Path) -> str:
    lines = (work / "child.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else ""
