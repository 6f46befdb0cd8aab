"""A tiny chat model, trained from nothing once, and files of examples for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tasks.training import Hyperparameters, TrainingJob

SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 320,
    "max_position_embeddings": 64,
}
COLOURS = ("red", "green", "blue", "black")


@pytest.fixture
def examples_file(tmp_path: Path) -> Callable[[str, Mapping[str, str]], Path]:
    """Write a file of examples from questions and answers, as a prepare step would."""

    def write(name: str, answers: Mapping[str, str]) -> Path:
        path = tmp_path / name
        with path.open("w") as out:
            for question, answer in answers.items():
                prompt = [{"role": "user", "content": question}]
                completion = [{"role": "assistant", "content": answer}]
                out.write(json.dumps({"prompt": prompt, "completion": completion}) + "\n")
        return path

    return write


@pytest.fixture
def colours(examples_file: Callable[[str, Mapping[str, str]], Path]) -> Path:
    """Forty examples: which colour is named?"""
    names = [COLOURS[number % 4] for number in range(40)]
    return examples_file(
        "colours.jsonl", {f"Ball {number} is {name}.": name for number, name in enumerate(names)}
    )


@pytest.fixture
def scratch(colours: Path) -> Callable[..., TrainingJob]:
    """Orders for a tiny model, with some values changed."""

    def make(*, train: Path = colours, validation: Path | None = None, **changed: Any) -> TrainingJob:
        values: dict[str, Any] = {
            "learning_rate": 0.01,
            "max_steps": 6,
            "per_device_train_batch_size": 4,
            "max_length": 64,
            "save_steps": 2,
            **changed,
        }
        return TrainingJob(
            method="scratch",
            train=str(train),
            validation=str(validation) if validation else None,
            architecture=SHAPE,
            hyperparameters=Hyperparameters(**values),
            threads=1,
        )

    return make
