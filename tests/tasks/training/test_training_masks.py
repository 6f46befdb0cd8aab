"""Which tokens carry loss: for real chat templates, exactly the assistant's words and their ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.training.examples import MASKED, load_examples
from tasks.training.tokenizer import train_tokenizer

# name: template, what begins an answer, what ends it
TEMPLATES = {
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        "<|im_start|>assistant\n",
        "<|im_end|>",
    ),
    "llama 3": (
        "{{ '<|begin_of_text|>' }}{% for m in messages %}"
        "<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
        "{{ m['content'] }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|>",
    ),
    "zephyr": (
        "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}</s>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        "<|assistant|>\n",
        "</s>",
    ),
}
SPECIAL = sorted(
    {"<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"}
    | {"<|eot_id|>", "</s>", "<|system|>", "<|user|>", "<|assistant|>"}
)
LETTERS = st.characters(codec="utf-8", exclude_characters="<|>", categories=["L", "N", "P", "Zs"])
WORDS = st.text(LETTERS, max_size=30)


@pytest.fixture(scope="module", params=TEMPLATES)
def asked(request: pytest.FixtureRequest) -> tuple[Any, str, str]:
    """A tokenizer under one of the templates, and what begins and ends an answer there."""
    template, begin, end = TEMPLATES[request.param]
    tokenizer = train_tokenizer(["Where is it? Here, user 12."] * 3, vocab_size=320, max_length=4096)
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL, "eos_token": end})
    tokenizer.chat_template = template
    return tokenizer, begin, end


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, str]]:
    """Turns of user and assistant, perhaps after a system message, ending anywhere after one answer."""
    turns = [{"role": "system", "content": draw(WORDS)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 4))):
        turns += [{"role": "user", "content": draw(WORDS)}, {"role": "assistant", "content": draw(WORDS)}]
    return turns


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=conversations())
def test_the_tokens_with_loss_are_the_assistants_and_their_ends(
    asked: tuple[Any, str, str], tmp_path: Path, messages: list[dict[str, str]]
) -> None:
    tokenizer, begin, end = asked
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"messages": messages}) + "\n", encoding="utf-8")
    (example,) = load_examples(str(path), tokenizer, stop_ids=[], max_length=4096)
    ids, labels = example.input_ids.tolist(), example.labels.tolist()

    rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    last = max(index for index, message in enumerate(messages) if message["role"] == "assistant")
    assert tokenizer.decode(ids) == rendered and last == len(messages) - 1
    assert all(label in (token, MASKED) for token, label in zip(ids, labels, strict=True))
    # The oracle knows nothing of pieces: it looks for where answers begin and end in the token ids.
    opening = tokenizer.encode(begin, add_special_tokens=False)
    closing = tokenizer.convert_tokens_to_ids(end)
    expected, inside, at = [MASKED] * len(ids), False, 0
    while at < len(ids):
        if not inside and ids[at : at + len(opening)] == opening:
            inside, at = True, at + len(opening)
            continue
        if inside:
            expected[at] = ids[at]
            inside = ids[at] != closing
        at += 1
    assert labels == expected
    answers = [message["content"] + end for message in messages if message["role"] == "assistant"]
    assert tokenizer.decode([label for label in labels if label != MASKED]) == "".join(answers)
