"""Rows turned into ids: only the assistant's words are targets, and a stop token ends them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chains.errors import InputInvalid
from tasks.training.batches import LengthGroupedOrder, PadToLongest
from tasks.training.examples import MASKED, Example, load_examples
from tasks.training.tokenizer import END, train_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(["Which colour is the ball? red green blue"] * 3, vocab_size=320, max_length=64)


def load(tokenizer: Any, folder: Path, *rows: dict[str, Any], max_length: int = 64) -> list[Example]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_examples(str(path), tokenizer, stop_ids=[], max_length=max_length)


def targets(tokenizer: Any, example: Example) -> str:
    return str(tokenizer.decode([label for label in example.labels.tolist() if label != MASKED]))


USER = {"role": "user", "content": "Which colour?"}
RED = {"role": "assistant", "content": "red"}


def test_the_prompt_is_masked_and_the_end_is_a_target(tokenizer: Any, tmp_path: Path) -> None:
    (example,) = load(tokenizer, tmp_path, {"prompt": [USER], "completion": [RED]})
    assert targets(tokenizer, example) == f"red{END}"
    assert tokenizer.decode(example.input_ids) == f"<|user|>Which colour?{END}<|assistant|>red{END}"


def test_every_turn_of_the_assistant_is_a_target_in_a_chat(tokenizer: Any, tmp_path: Path) -> None:
    blue = {"role": "assistant", "content": "blue"}
    (example,) = load(tokenizer, tmp_path, {"messages": [USER, RED, USER, blue]})
    assert targets(tokenizer, example) == f"red{END}blue{END}"


def test_earlier_answers_in_a_prompt_are_no_targets(tokenizer: Any, tmp_path: Path) -> None:
    blue = {"role": "assistant", "content": "blue"}
    (example,) = load(tokenizer, tmp_path, {"prompt": [USER, blue, USER], "completion": [RED]})
    assert targets(tokenizer, example) == f"red{END}"


def test_what_a_template_writes_after_the_stop_token_is_no_target(tokenizer: Any, tmp_path: Path) -> None:
    ours = tokenizer.chat_template
    tokenizer.chat_template = CHATML
    try:
        (example,) = load(tokenizer, tmp_path, {"prompt": [USER], "completion": [RED]})
    finally:
        tokenizer.chat_template = ours
    assert targets(tokenizer, example) == f"red{END}"
    assert tokenizer.decode(example.input_ids).endswith(f"red{END}\n")


def test_plain_texts_end_with_a_stop_token(tokenizer: Any, tmp_path: Path) -> None:
    pair, text = load(tokenizer, tmp_path, {"prompt": "ball: ", "completion": "red"}, {"text": "a red ball"})
    assert targets(tokenizer, pair) == f"red{END}"
    assert targets(tokenizer, text) == f"a red ball{END}"


def test_a_row_that_is_too_long_is_named_with_its_length_and_nothing_is_cut(
    tokenizer: Any, tmp_path: Path
) -> None:
    long = {"prompt": [USER], "completion": [{"role": "assistant", "content": "red " * 60}]}
    with pytest.raises(
        InputInvalid, match=r"1 of 2 examples .* max_length \(64 tokens\): line 2 \(\d+ tokens\)"
    ):
        load(tokenizer, tmp_path, {"prompt": [USER], "completion": [RED]}, long)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "a", "answer": "b"}, "line 1: a training example needs 'messages'"),
        ({"messages": [USER]}, "line 1: no turn of the assistant"),
        ({"text": "a", "label": "b"}, "line 1: this row has a 'label', which a causal model does not read"),
    ],
)
def test_a_row_of_another_form_is_named(
    tokenizer: Any, tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputInvalid, match=message):
        load(tokenizer, tmp_path, row)


def test_a_file_without_rows_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(InputInvalid, match="holds no training examples"):
        load(tokenizer, tmp_path)


def test_a_base_without_a_chat_template_is_named(tokenizer: Any, tmp_path: Path) -> None:
    ours = tokenizer.chat_template
    tokenizer.chat_template = None
    try:
        with pytest.raises(InputInvalid, match="no chat template"):
            load(tokenizer, tmp_path, {"prompt": [USER], "completion": [RED]})
    finally:
        tokenizer.chat_template = ours


def test_padding_is_neither_attended_to_nor_a_target(tokenizer: Any, tmp_path: Path) -> None:
    short, long = load(tokenizer, tmp_path, {"text": "red"}, {"text": "a red ball and a blue ball"})
    batch = PadToLongest(tokenizer.pad_token_id)([short, long])
    width = len(short.input_ids)
    assert batch["attention_mask"][0].tolist() == [1] * width + [0] * (len(long.input_ids) - width)
    assert set(batch["labels"][0, width:].tolist()) == {MASKED}
    assert batch["input_ids"].shape == batch["labels"].shape == (2, len(long.input_ids))


def test_an_epoch_has_every_example_once_and_its_own_order() -> None:
    order = LengthGroupedOrder([index % 17 for index in range(1000)], batch_size=8, seed=3)
    first = list(order)
    order.set_epoch(1)
    second = list(order)
    order.set_epoch(0)
    assert sorted(first) == list(range(1000)) == sorted(second)
    assert first == list(order) != second


def test_batches_hold_examples_of_similar_length() -> None:
    lengths = [(index * 37) % 200 for index in range(2000)]
    order = list(LengthGroupedOrder(lengths, batch_size=10, seed=0))
    batches = [[lengths[index] for index in order[at : at + 10]] for at in range(0, 2000, 10)]
    padded = sum(max(batch) * len(batch) for batch in batches)
    assert padded < 1.1 * sum(lengths)
