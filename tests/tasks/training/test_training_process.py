"""Training in a child process: progress, stopping, and what a kill leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from chains.errors import InputInvalid, StepFailed, TrainingDiverged
from tasks.training import TrainingJob, TrainingProgress, train
from tasks.training.process import child_environment

pytestmark = pytest.mark.slow
Order = Callable[..., TrainingJob]


def children() -> list[int]:
    """Process ids of the training processes that this one has."""
    found = subprocess.run(
        ["pgrep", "-P", str(os.getpid()), "-f", "tasks.training.child"], capture_output=True
    )
    return [int(number) for number in found.stdout.split()]


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("waited for a minute")


async def test_progress_is_told_and_a_finished_training_is_not_repeated(
    scratch: Order, tmp_path: Path
) -> None:
    told: list[TrainingProgress] = []
    result = await train(scratch(), tmp_path / "work", told.append)
    assert result.steps == 6 and result.versions["torch"] == torch.__version__
    assert told[-1].step == told[-1].total == 6
    assert [one.step for one in told if one.milestone == "checkpoint"] == [2, 4, 6]
    step = [one for one in told if one.milestone is None][-1]
    assert step.text.startswith("step 6/6, loss ")
    assert step.loss is not None and step.learning_rate is not None
    again: list[TrainingProgress] = []
    assert await train(scratch(), tmp_path / "work", again.append) == result
    assert again == []


async def test_errors_of_the_child_arrive_as_they_are(scratch: Order, tmp_path: Path) -> None:
    with pytest.raises(InputInvalid, match="longer than max_length") as caught:
        await train(scratch(max_length=8), tmp_path / "long")
    assert caught.value.hint is not None and "Raise max_length" in caught.value.hint
    with pytest.raises(TrainingDiverged, match="learning rate"):
        await train(
            scratch(learning_rate=1e3, max_steps=40, lr_scheduler_type="constant"), tmp_path / "diverged"
        )


async def test_after_a_kill_training_goes_on_and_ends_with_the_same_weights(
    scratch: Order, tmp_path: Path
) -> None:
    job = scratch(max_steps=400, save_steps=20)
    await train(job, tmp_path / "whole")
    work = tmp_path / "killed"
    running = asyncio.create_task(train(job, work))
    await until(lambda: (work / "checkpoints" / "checkpoint-40").is_dir())
    (child,) = children()
    os.kill(child, signal.SIGKILL)
    with pytest.raises(StepFailed, match="ended with code -9"):
        await running
    resumed = await train(job, work)
    assert resumed.resumed_from_step is not None and 20 <= resumed.resumed_from_step < 400
    whole, killed = (load_file(path / "model" / "model.safetensors") for path in (tmp_path / "whole", work))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


@pytest.mark.timeout(400)
async def test_killed_at_five_random_steps_a_training_ends_with_the_metrics_of_one_that_was_not(
    scratch: Order, colours: Path, tmp_path: Path
) -> None:
    job = scratch(max_steps=120, save_steps=7, eval_steps=20, validation=colours)
    whole = await train(job, tmp_path / "whole")
    work = tmp_path / "killed"
    kills = sorted(random.Random(5).sample(range(5, 110), 5))
    for step in kills:
        seen = [0]
        running = asyncio.create_task(train(job, work, lambda now, seen=seen: seen.append(now.step)))
        await until(lambda step=step, seen=seen, running=running: max(seen) >= step or running.done())
        for child in children():
            os.kill(child, signal.SIGKILL)
        with pytest.raises(StepFailed, match="ended with code -9"):
            await running
    ended = await train(job, work)
    assert ended.resumed_from_step is not None and ended.resumed_from_step > 0
    for name in ("steps", "train_loss", "validation_loss", "gap", "gap_opened_at_step", "tokens", "history"):
        assert getattr(ended, name) == getattr(whole, name), name
    one, two = (load_file(path / "model" / "model.safetensors") for path in (tmp_path / "whole", work))
    assert all(torch.equal(one[name], two[name]) for name in one)


async def test_cancelling_stops_the_child_and_keeps_a_checkpoint(scratch: Order, tmp_path: Path) -> None:
    work = tmp_path / "work"
    steps: list[int] = []
    running = asyncio.create_task(
        train(scratch(max_steps=100_000, save_steps=50_000), work, lambda now: steps.append(now.step))
    )
    await until(lambda: max(steps, default=0) > 0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert children() == []
    assert list((work / "checkpoints").glob("checkpoint-*/trainer_state.json"))


async def test_the_child_leaves_when_its_parent_is_gone(scratch: Order, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(scratch(max_steps=100_000, save_steps=50_000).to_json())
    child = subprocess.Popen(
        [sys.executable, "-m", "tasks.training.child", str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=child_environment(os.environ),
    )
    assert child.stdin and child.stdout
    with contextlib.closing(child.stdout):
        child.stdout.readline()
        child.stdin.close()
        assert await asyncio.to_thread(child.wait, 30) == 3


async def test_two_trainings_in_one_folder_are_one_too_many(scratch: Order, tmp_path: Path) -> None:
    steps: list[int] = []
    work = tmp_path / "work"
    first = asyncio.create_task(
        train(scratch(max_steps=100_000, save_steps=50_000), work, lambda now: steps.append(now.step))
    )
    await until(lambda: max(steps, default=0) > 0)
    with pytest.raises(StepFailed, match="Another process is training"):
        await train(scratch(max_steps=100_000, save_steps=50_000), work)
    assert not first.done()
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await first


def test_the_child_sends_no_telemetry_and_stays_offline() -> None:
    given = child_environment({"PYTHONPATH": "/elsewhere", "HOME": "/h"})
    assert given["HF_HUB_OFFLINE"] == given["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert given["PYTHONPATH"].split(os.pathsep)[-1] == "/elsewhere" and given["HOME"] == "/h"
