"""Learning from a teacher's distributions: the loss against a computation of its own, and real students."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from scipy.special import rel_entr, softmax

from tasks.training import TrainingJob, TrainingResult
from tasks.training.batches import PadToLongest
from tasks.training.distillation import divergence
from tasks.training.examples import MASKED, load_examples
from tasks.training.learner import load_base
from tasks.training.loop import run
from tasks.training.watching import Watch

Order = Callable[..., TrainingJob]
SMALLER = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
           "num_key_value_heads": 1, "vocab_size": 320, "max_position_embeddings": 64}  # fmt: skip


def trained(job: TrainingJob, work: Path) -> TrainingResult:
    work.mkdir(exist_ok=True)
    return run(job, work, Watch(lambda _: None, lambda: False))


def reference(student: Any, teacher: Any, beta: float, temperature: float) -> Any:
    """The definition, in probabilities and float64, by scipy."""
    ours, theirs = (
        softmax(logits.astype(np.float64) / temperature, axis=-1) for logits in (student, teacher)
    )
    if beta == 0:
        return temperature**2 * rel_entr(theirs, ours).sum(-1)
    if beta == 1:
        return temperature**2 * rel_entr(ours, theirs).sum(-1)
    mixed = beta * theirs + (1 - beta) * ours
    apart = beta * rel_entr(theirs, mixed).sum(-1) + (1 - beta) * rel_entr(ours, mixed).sum(-1)
    return temperature**2 * apart


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    beta=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
    temperature=st.floats(0.5, 8),
    spread=st.floats(0.1, 6),
)
def test_the_divergence_is_the_one_that_its_definition_gives(
    seed: int, beta: float, temperature: float, spread: float
) -> None:
    rng = np.random.default_rng(seed)
    student, teacher = (rng.normal(0, spread, (3, 11)).astype(np.float32) for _ in range(2))
    found = divergence(
        torch.from_numpy(student), torch.from_numpy(teacher), beta=beta, temperature=temperature
    )
    assert np.allclose(found.numpy(), reference(student, teacher, beta, temperature), rtol=1e-3, atol=1e-4)
    assert (found > -1e-5).all()
    same = divergence(
        torch.from_numpy(teacher), torch.from_numpy(teacher), beta=beta, temperature=temperature
    )
    assert same.abs().max() < 1e-4


def test_the_divergence_is_that_of_trl() -> None:
    gkd = pytest.importorskip("trl.experimental.gkd")
    rng = torch.Generator().manual_seed(3)
    student, teacher = (torch.randn(2, 5, 13, generator=rng) for _ in range(2))
    for beta in (0.0, 0.3, 0.5, 1.0):
        theirs = gkd.GKDTrainer.generalized_jsd_loss(student, teacher, beta=beta, temperature=2.0)
        ours = divergence(student, teacher, beta=beta, temperature=2.0).sum() / 2 / 4
        # TRL leaves out the square of the temperature and divides by the number of sequences.
        assert float(theirs) == pytest.approx(float(ours), rel=1e-4)


@pytest.fixture
def teacher(scratch: Order, tmp_path: Path) -> str:
    """A model that answers which colour a ball has."""
    trained(scratch(max_steps=120, save_steps=1000), tmp_path / "teacher")
    return str(tmp_path / "teacher" / "model")


def apart(student: str | Path, teacher: str, colours: Path) -> float:
    """How far a student is from its teacher where answers stand, in nats per token."""
    ours, tokenizer = load_base(str(student))
    theirs, _ = load_base(teacher)
    found = load_examples(str(colours), tokenizer, stop_ids=[], max_length=64)
    batch = PadToLongest(tokenizer.pad_token_id)(found)
    meant = batch.pop("labels")[:, 1:] != MASKED
    with torch.no_grad():
        logits = [model.eval()(**batch).logits[:, :-1][meant] for model in (ours, theirs)]
    return float(divergence(logits[0], logits[1], beta=0.0, temperature=1.0).mean())


@pytest.mark.slow
def test_a_student_from_nothing_learns_its_teachers_distributions(
    scratch: Order, teacher: str, colours: Path, tmp_path: Path
) -> None:
    job = replace(
        scratch(max_steps=2, save_steps=1000, jsd_beta=0.0),
        method="distill", architecture=SMALLER, teacher=teacher, validation=str(colours),
    )  # fmt: skip
    begun = trained(job, tmp_path / "begun")
    more = replace(job, hyperparameters=replace(job.hyperparameters, max_steps=150, eval_steps=50))
    result = trained(more, tmp_path / "student")
    before, after = (apart(tmp_path / name / "model", teacher, colours) for name in ("begun", "student"))
    assert after < before / 4
    # What the guard calls validation loss is the divergence itself.
    assert result.validation_loss == pytest.approx(after, abs=0.02)
    assert begun.validation_loss == pytest.approx(before, abs=0.02)
    # Half as wide, with its teacher's vocabulary, and nothing of the teacher in its file.
    stored = load_file(tmp_path / "student" / "model" / "model.safetensors")
    theirs = load_file(f"{teacher}/model.safetensors")
    assert stored["model.embed_tokens.weight"].shape[0] == theirs["model.embed_tokens.weight"].shape[0]
    assert result.parameters_total == sum(value.numel() for value in stored.values())
    assert result.parameters_total < sum(value.numel() for value in theirs.values())


@pytest.mark.slow
@pytest.mark.parametrize("changed", [{"packing": True}, {"gradient_accumulation_steps": 2}])
def test_the_loss_is_the_same_however_the_examples_are_batched(
    scratch: Order, teacher: str, tmp_path: Path, changed: dict[str, Any]
) -> None:
    given = {"max_steps": 1, "per_device_train_batch_size": 40, "temperature": 2.0, "label_weight": 0.3}
    job = replace(scratch(**given), method="distill", architecture=SMALLER, teacher=teacher)
    batch = {"per_device_train_batch_size": 20} if "packing" not in changed else {}
    other = replace(job, hyperparameters=replace(job.hyperparameters, **changed, **batch))
    one, two = trained(job, tmp_path / "one"), trained(other, tmp_path / "two")
    assert one.train_loss == pytest.approx(two.train_loss, rel=1e-3)


@pytest.mark.slow
def test_weights_and_loss_go_on_from_a_checkpoint_as_if_nothing_had_happened(
    scratch: Order, teacher: str, tmp_path: Path
) -> None:
    job = replace(scratch(max_steps=6, save_steps=2), method="distill", architecture=SMALLER, teacher=teacher)
    whole = trained(job, tmp_path / "whole")

    class Killed(Exception):
        pass

    def kill(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 5:
            raise Killed

    (tmp_path / "cut").mkdir()
    with pytest.raises(Killed):
        run(job, tmp_path / "cut", Watch(kill, lambda: False))
    resumed = trained(job, tmp_path / "cut")
    assert resumed.resumed_from_step == 4 and resumed.train_loss == whole.train_loss
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_a_lora_student_learns_and_its_base_stays(
    scratch: Order, teacher: str, colours: Path, tmp_path: Path
) -> None:
    trained(scratch(max_steps=1, seed=5), tmp_path / "base")
    base = str(tmp_path / "base" / "model")
    tokenizer = Path(base) / "tokenizer.json"
    assert tokenizer.read_bytes() == (Path(teacher) / "tokenizer.json").read_bytes()
    job = replace(
        scratch(max_steps=80, trains="lora", r=4, learning_rate=0.03, validation=colours, eval_steps=40),
        method="distill", base=base, architecture={}, teacher=teacher,
    )  # fmt: skip
    result = trained(job, tmp_path / "student")
    assert (tmp_path / "student" / "model" / "adapter_config.json").is_file()
    assert result.parameters_trained < result.parameters_total
    losses = [entry["validation_loss"] for entry in result.history]
    assert losses[-1] < apart(base, teacher, colours)
