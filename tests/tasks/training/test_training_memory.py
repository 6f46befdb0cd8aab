"""A device whose memory is too small for a batch: it is made smaller once, and the training says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from chains.errors import StepFailed
from tasks.training import TrainingJob
from tasks.training.loop import run
from tasks.training.watching import Watch


@pytest.fixture
def memory_for(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Let the model's forward pass find no memory for more rows than so many, from a pass on."""
    seen: list[int] = []

    def limit(rows: int, *, after: int = 0) -> list[int]:
        forward = LlamaForCausalLM.forward

        def within(model: Any, input_ids: torch.Tensor, **options: Any) -> Any:
            seen.append(len(input_ids))
            if len(input_ids) > rows and len(seen) > after:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return forward(model, input_ids=input_ids, **options)

        monkeypatch.setattr(LlamaForCausalLM, "forward", within)
        return seen

    return limit


def trained(job: TrainingJob, work: Path) -> tuple[Any, list[str]]:
    work.mkdir()
    told: list[str] = []
    watch = Watch(lambda event: told.append(event.get("text", "")), lambda: False)
    return run(job, work, watch), told


@pytest.mark.parametrize(("batch", "fits", "accumulation"), [(4, 2, 2), (9, 3, 3)])
def test_a_batch_that_does_not_fit_is_made_smaller_once_and_a_step_sees_as_many_examples(
    scratch: Callable[..., TrainingJob],
    memory_for: Callable[..., list[int]],
    tmp_path: Path,
    batch: int,
    fits: int,
    accumulation: int,
) -> None:
    seen = memory_for(fits)
    result, told = trained(scratch(max_steps=3, per_device_train_batch_size=batch), tmp_path / "work")
    assert result.steps == 3
    steps = [batch] + [fits] * 3 * accumulation
    assert seen[: len(steps)] == steps and max(seen[len(steps) :], default=0) <= 1  # what is saved is tried
    (said,) = [text for text in told if f"a batch of {batch} did not fit into memory" in text]
    assert f"to {fits}" in said and f"{said}." in result.warnings


def test_it_goes_on_from_the_newest_checkpoint(
    scratch: Callable[..., TrainingJob], memory_for: Callable[..., list[int]], tmp_path: Path
) -> None:
    memory_for(2, after=5)
    result, _ = trained(scratch(max_steps=6, save_steps=2), tmp_path / "work")
    assert (result.steps, result.resumed_from_step) == (6, 4)


@pytest.mark.parametrize("batch", [1, 4])
def test_what_does_not_fit_then_either_ends_the_training_with_the_size_and_what_to_do(
    scratch: Callable[..., TrainingJob], memory_for: Callable[..., list[int]], tmp_path: Path, batch: int
) -> None:
    seen = memory_for(0)
    with pytest.raises(StepFailed, match=f"no memory for a training batch of {max(batch // 2, 1)} ") as ended:
        trained(scratch(per_device_train_batch_size=batch), tmp_path / "work")
    assert "`max_length`" in (ended.value.hint or "")
    assert seen == ([4, 2] if batch == 4 else [1])


def test_another_error_of_the_model_is_not_taken_for_a_full_memory(
    scratch: Callable[..., TrainingJob], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the shapes do not agree")

    monkeypatch.setattr(LlamaForCausalLM, "forward", broken)
    with pytest.raises(RuntimeError, match="the shapes do not agree"):
        trained(scratch(), tmp_path / "work")
