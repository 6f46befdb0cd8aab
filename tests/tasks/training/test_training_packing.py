"""Several examples in one row: none sees another, and the loss is that of the rows alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.providers.weights import STARTER
from tasks.training import TrainingJob
from tasks.training.batches import PadToLongest, packed
from tasks.training.examples import MASKED, load_examples
from tasks.training.learner import load_base
from tasks.training.loop import run
from tasks.training.watching import Watch


def loss(model: Any, batch: dict[str, Any]) -> tuple[float, int]:
    labels = batch.pop("labels")[:, 1:]
    with torch.inference_mode():
        logits = model(**batch).logits[:, :-1]
    total = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), labels, ignore_index=MASKED, reduction="sum"
    )
    return float(total), int((labels != MASKED).sum())


@pytest.mark.parametrize("rows", [2, 3])
def test_packed_examples_have_the_loss_of_examples_alone(rows: int, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    texts = ["Where is my order?", "I want a refund, please, for the blue one.", "Hi", "Thanks a lot.", "No."]
    path.write_text("".join(f'{{"text": "{text}"}}\n' for text in texts))
    model, tokenizer = load_base(str(STARTER))
    model.eval()
    examples = load_examples(str(path), tokenizer, stop_ids=[], max_length=512)
    alone = [loss(model, PadToLongest(0)([example])) for example in examples]
    length = -(-sum(len(one.input_ids) for one in examples) // rows) + 8
    together = packed(examples, max_length=length)
    assert 1 < len(together) <= rows and all(len(one.input_ids) <= length for one in together)
    total, count = loss(model, PadToLongest(0)(together))
    assert count == sum(number for _, number in alone)
    assert total == pytest.approx(sum(one for one, _ in alone), rel=1e-5)


def test_a_training_on_packed_rows_learns_in_fewer_passes(
    scratch: Callable[..., TrainingJob], tmp_path: Path
) -> None:
    job = scratch(max_steps=150, save_steps=1000, per_device_train_batch_size=1)
    job = replace(job, hyperparameters=replace(job.hyperparameters, packing=True))
    (tmp_path / "work").mkdir()
    result = run(job, tmp_path / "work", Watch(lambda _: None, lambda: False))
    assert result.train_loss < 0.3
    per_step = result.tokens / result.steps
    assert per_step > 40  # the examples have about 20 tokens each
