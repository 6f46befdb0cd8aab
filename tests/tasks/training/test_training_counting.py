"""Parameter counts without weights: published settings, and what a real training says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, RobertaConfig

from tasks.providers.weights import STARTER
from tasks.training import Hyperparameters, TrainingJob
from tasks.training.counting import count, count_on
from tasks.training.loop import run
from tasks.training.watching import Watch

GPT2_MEDIUM = GPT2Config(n_embd=1024, n_layer=24, n_head=16)
ROBERTA = RobertaConfig(vocab_size=50265, max_position_embeddings=514, is_decoder=True)
LLAMA_7B = LlamaConfig(
    hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, vocab_size=32000
)


def order(method: str, train: str = "none", **given: Any) -> TrainingJob:
    return TrainingJob(
        method=method,  # type: ignore[arg-type]
        train=train,
        base=str(STARTER),
        hyperparameters=Hyperparameters(**{"learning_rate": 1e-3, "max_length": 128, **given}),
        threads=1,
    )


@pytest.mark.parametrize(
    ("config", "method", "given", "trained"),
    [
        # LoRA paper (arXiv 2106.09685), table 3: FT 354.92M (with the untied head's bias), FT-Top2 25.19M
        (GPT2_MEDIUM, "full", {}, 354_823_168),
        (GPT2_MEDIUM, "transfer", {"train_last": 2}, 25_192_448 + 2 * 1024),
        # alpaca-lora: 4,194,304 of 6,742,609,920 with r=8 on q and v of LLaMA-7B
        (LLAMA_7B, "lora", {"r": 8, "target_modules": ["q_proj", "v_proj"]}, 4_194_304),
        (LLAMA_7B, "full", {}, 6_738_415_616),
        # LoRA paper, table 2: 0.3M with r=8 on query and value of RoBERTa base
        (ROBERTA, "lora", {"r": 8, "target_modules": ["query", "value"]}, 294_912),
        # arXiv 2104.08691: tokens times width; arXiv 2101.00190: tokens times layers times keys and values
        (LLAMA_7B, "prompt_tuning", {"num_virtual_tokens": 20}, 20 * 4096),
        (LLAMA_7B, "prefix", {"num_virtual_tokens": 10}, 10 * 32 * 2 * 4096),
        # arXiv 2205.05638: one factor per key, value and inner unit
        (LLAMA_7B, "ia3", {}, 32 * (2 * 4096 + 11008)),
        # arXiv 1902.00751: 2md + d + m per adapter, two adapters per layer
        (GPT2_MEDIUM, "adapter", {"bottleneck_size": 64}, 24 * 2 * (2 * 64 * 1024 + 1024 + 64)),
    ],
)
def test_published_settings_have_their_published_counts(
    config: Any, method: str, given: dict[str, Any], trained: int
) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert count_on(order(method, **given), model).trained == trained


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("full", {}),
        ("transfer", {"train_last": 1}),
        ("lora", {"r": 4}),
        ("adapter", {"bottleneck_size": 8}),
        ("p_tuning", {"num_virtual_tokens": 5, "encoder_hidden_size": 16}),
        ("prefix", {"num_virtual_tokens": 5, "prefix_projection": True, "encoder_hidden_size": 16}),
    ],
)
def test_counts_are_those_of_a_training(method: str, given: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "One refund, please."}\n{"text": "Where is it?"}\n')
    job = order(method, str(tmp_path / "train.jsonl"), max_steps=1, **given)
    found = count(job)
    (tmp_path / "work").mkdir()
    result = run(job, tmp_path / "work", Watch(lambda _: None, lambda: False))
    stored = load_file(next((tmp_path / "work" / "model").glob("*.safetensors")))
    assert (found.total, found.trained) == (result.parameters_total, result.parameters_trained)
    assert found.stored == sum(value.numel() for value in stored.values())
