"""Training in this process: what is learnt, resumed, refused and stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from chains.errors import Cancelled, InputInvalid, StepFailed, TrainingDiverged
from tasks.training import TrainingJob, TrainingResult
from tasks.training.loop import run
from tasks.training.saving import check_moved, snapshot
from tasks.training.watching import Watch

# PEFT 0.21 asks transformers 5.23 for a property by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

Order = Callable[..., TrainingJob]
COLOURS = ("red", "green", "blue", "black")


def quiet(report: Callable[[dict[str, Any]], None] = lambda _: None) -> Watch:
    return Watch(report, lambda: False)


def trained(job: TrainingJob, work: Path, watch: Watch | None = None) -> TrainingResult:
    work.mkdir(exist_ok=True)
    return run(job, work, watch or quiet())


def weights(work: Path) -> dict[str, torch.Tensor]:
    (path,) = (work / "model").glob("*.safetensors")
    return load_file(path)


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_tiny_model_learns_to_answer_and_loads_like_any_other(scratch: Order, tmp_path: Path) -> None:
    result = trained(scratch(max_steps=150, save_steps=1000), tmp_path / "work")
    assert result.steps == 150
    assert result.train_loss < 0.2
    assert result.parameters_trained == result.parameters_total > 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "work" / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "work" / "model")
    for colour in COLOURS:
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": f"Ball 3 is {colour}."}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        answer = model.generate(**asked, max_new_tokens=8)[0, asked["input_ids"].shape[1] :]
        assert tokenizer.decode(answer) == f"{colour}<|end|>"


def test_the_same_job_gives_the_same_weights_and_another_seed_others(scratch: Order, tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        trained(scratch(seed=seed), tmp_path / name)
    assert same(weights(tmp_path / "one"), weights(tmp_path / "two"))
    assert not same(weights(tmp_path / "one"), weights(tmp_path / "three"))


@pytest.mark.parametrize("method", ["scratch", "lora"])
def test_resumed_weights_equal_uninterrupted_ones(method: str, scratch: Order, tmp_path: Path) -> None:
    # 40 rows in batches of 4: the stop falls into the second epoch, whose order must come back too.
    changed = {"max_steps": 25, "save_steps": 5, "lora_dropout": 0.1, "r": 4}
    if method == "lora":
        trained(scratch(), tmp_path / "base")
        base = str(tmp_path / "base" / "model")
        job = replace(scratch(**changed), method="lora", base=base, architecture={})
    else:
        job = scratch(**changed)
    whole = trained(job, tmp_path / "whole")
    stopped_at: list[int] = []
    # A step is reported after its end, so the stop that is asked for at 12 comes at the end of 13.
    watch = Watch(lambda event: stopped_at.append(event.get("step", 0)), lambda: max(stopped_at) >= 12)
    with pytest.raises(Cancelled, match="step 13"):
        trained(job, tmp_path / "cut", watch)
    resumed = trained(job, tmp_path / "cut")
    assert resumed.resumed_from_step == 13
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    assert (resumed.steps, resumed.tokens) == (whole.steps, whole.tokens)
    assert resumed.train_loss == whole.train_loss


def test_a_half_written_checkpoint_is_set_aside_and_an_older_one_taken(
    scratch: Order, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    trained(scratch(max_steps=6, save_steps=2), work)
    shutil.rmtree(work / "model")
    newest = work / "checkpoints" / "checkpoint-6"
    (newest / "model.safetensors").write_bytes(b"\x10\x00")
    told: list[str] = []
    watch = quiet(lambda event: told.append(event.get("text", "")))
    result = trained(scratch(max_steps=6, save_steps=2), work, watch)
    assert "checkpoint-6 is damaged or half-written: going on from checkpoint-4" in told
    assert result.resumed_from_step == 4
    assert [path.name for path in (work / "checkpoints").glob("broken-*")] == ["broken-checkpoint-6-1"]


def test_a_checkpoint_with_one_changed_bit_is_not_gone_on_from(scratch: Order, tmp_path: Path) -> None:
    work = tmp_path / "work"
    trained(scratch(max_steps=6, save_steps=2), work)
    shutil.rmtree(work / "model")
    path = work / "checkpoints" / "checkpoint-6" / "optimizer.pt"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    assert trained(scratch(max_steps=6, save_steps=2), work).resumed_from_step == 4


def test_a_loss_that_runs_away_names_step_and_learning_rate(scratch: Order, tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match=r"at step \d+: loss .*, learning rate 1e\+03"):
        trained(scratch(learning_rate=1e3, max_steps=40, lr_scheduler_type="constant"), tmp_path / "work")
    assert not (tmp_path / "work" / "model").exists()


def test_weights_that_are_not_numbers_are_noticed_at_the_first_step(scratch: Order, tmp_path: Path) -> None:
    trained(scratch(), tmp_path / "base")
    path = tmp_path / "base" / "model" / "model.safetensors"
    broken = {name: torch.full_like(value, float("nan")) for name, value in load_file(path).items()}
    save_file(broken, path, metadata={"format": "pt"})
    job = replace(scratch(r=2), method="lora", base=str(path.parent), architecture={})
    with pytest.raises(TrainingDiverged, match="at step 1: loss nan"):
        trained(job, tmp_path / "work")


def test_an_adapter_leaves_the_base_as_it_was_and_names_its_size(scratch: Order, tmp_path: Path) -> None:
    trained(scratch(), tmp_path / "base")
    before = weights(tmp_path / "base")
    job = replace(scratch(r=4), method="lora", base=str(tmp_path / "base" / "model"), architecture={})
    result = trained(job, tmp_path / "work")
    assert same(before, weights(tmp_path / "base"))
    assert sum(value.numel() for value in weights(tmp_path / "work").values()) == result.parameters_trained
    config = json.loads((tmp_path / "work" / "model" / "adapter_config.json").read_text())
    assert config["r"] == 4


def test_training_stops_when_validation_gets_no_better_and_keeps_the_best(
    scratch: Order, examples_file: Callable[..., Path], tmp_path: Path
) -> None:
    wrong = {f"Ball {number} is {COLOURS[number % 4]}.": "no ball" for number in range(8)}
    validation = examples_file("validation.jsonl", wrong)
    job = scratch(validation=validation, max_steps=200, eval_steps=5, early_stopping_patience=2)
    result = trained(job, tmp_path / "work")
    assert result.stop_reason == "early_stop"
    assert result.best_step is not None and result.best_step < result.steps < 200
    assert result.validation_loss is not None


def test_a_rank_that_never_learns_is_refused(scratch: Order, tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    before = snapshot(model)
    with pytest.raises(StepFailed, match="no weight has changed"):
        check_moved(model, before)
    with torch.no_grad():
        model.bias[0] += 1
    check_moved(model, before)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"num_attention_heads": 3}, "even multiple of num_attention_heads"),
        ({"num_attention_heads": 4, "num_key_value_heads": 3}, "multiple of num_key_value_heads"),
        ({"max_position_embeddings": 32}, "more than max_position_embeddings"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(
    scratch: Order, tmp_path: Path, shape: dict[str, int], message: str
) -> None:
    job = scratch()
    with pytest.raises(InputInvalid, match=message):
        trained(replace(job, architecture={**job.architecture, **shape}), tmp_path / "work")


def test_layers_that_are_not_there_are_named(scratch: Order, tmp_path: Path) -> None:
    trained(scratch(), tmp_path / "base")
    job = replace(
        scratch(target_modules=["nowhere"]),
        method="lora",
        base=str(tmp_path / "base" / "model"),
        architecture={},
    )
    with pytest.raises(InputInvalid, match="target_modules"):
        trained(job, tmp_path / "work")
