"""A student that learns from a teacher behind an endpoint: what is asked and paid, and what it is trained on.

Run with: pytest tests/e2e/test_distill.py
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chains.questions import answered, question_of, read_questions
from chains.store import open_store

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

CHAIN = """
chain: taught
models:
  big: {{provider: openai, model: big, base_url: "{url}", max_tokens: 50, price: {{input: 1, output: 4}},
        limits: {{concurrency: {concurrency}}}}}
defaults: {{retry: {{attempts: 2, base: 1ms, cap: 2ms}}}}
{more}
steps:
  tune:
    finetune: distill
    teacher: big
    data: {{train: questions.jsonl}}
    architecture: {{hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2,
                   num_key_value_heads: 1, vocab_size: 320, max_position_embeddings: 512}}
    max_steps: 2
    {keys}
"""
ROWS: list[dict[str, Any]] = [
    *({"prompt": f"What is {number} plus one?"} for number in range(4)),
    *(
        {
            "prompt": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": f"Say {number}."},
            ],
            "completion": [{"role": "assistant", "content": "never read"}],
        }
        for number in range(4)
    ),
    {
        "messages": [
            {"role": "user", "content": "Hello."},
            {"role": "assistant", "content": "Hello!"},
            {"role": "user", "content": "Who are you? {{ 7 * 7 }}"},
            {"role": "assistant", "content": "never read"},
        ]
    },
]


@pytest.fixture
def taught(make_desk: Callable[..., Any]) -> Callable[..., Any]:
    def write(
        *script: dict[str, Any], keys: str = "", more: str = "", concurrency: int = 4, **options: Any
    ) -> Any:
        desk = make_desk(*script, **options)
        folder = desk.folder / "taught"
        folder.mkdir()
        (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        text = CHAIN.format(url=desk.server.url, keys=keys, more=more, concurrency=concurrency)
        (folder / "chain.yaml").write_text(text)
        return desk

    return write


def run_id(desk: Any) -> str:
    store = open_store(desk.store)
    try:
        return next(iter(store.runs())).id
    finally:
        store.close()


def examples(desk: Any) -> list[dict[str, Any]]:
    (path,) = desk.store.glob("work/*/taught-train.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_question_is_asked_once_and_its_answer_is_what_is_trained_on(
    taught: Callable[..., Any],
) -> None:
    desk = taught()
    planned = desk.headrace("plan", "taught/chain.yaml", "--json").json()
    (step,) = planned["steps"]
    assert step["calls"] == len(ROWS) and step["tokens_in_estimate"] > 0
    assert any(
        "asks its teacher 'big' 9 questions for up to about 0.00 USD" in note for note in planned["notes"]
    )

    first = desk.headrace("run", "taught/chain.yaml", "--direct", "--json")
    assert first.code == 0, first.err
    asked = [json.loads(line["raw"])["messages"] for line in desk.server.ledger()]
    assert sorted(map(str, asked)) == sorted(str(question_of(row)) for row in ROWS)
    answers = {str(messages): messages[-1]["content"] for messages in asked}
    learnt = examples(desk)
    for row, example in zip(ROWS, learnt, strict=True):
        given = example["completion"]
        text = given if isinstance(given, str) else given[0]["content"]
        # The server echoes the question; a text that looks like a template is not rendered.
        assert answers[str(question_of(row))] in text
        assert example == answered(row, text)
    store = open_store(desk.store)
    try:
        rows = store.records(run_id(desk), "tune-teacher")
        assert [one.status for one in rows] == ["ok"] * len(ROWS)
        assert all(one.cost_micro for one in rows)
        record = store.record(run_id(desk), "tune", -1)
        assert record is not None and record.output is not None
        output = json.loads(record.output)
        assert (output["questions"], output["unanswered"], output["base"]) == (9, 0, None)
        assert (Path(output["model"]) / "model.safetensors").is_file()
    finally:
        store.close()

    # Another run pays for nothing and trains nothing, though the teacher samples.
    again = desk.headrace("run", "taught/chain.yaml", "--direct", "--json")
    assert again.code == 0 and desk.sent() == len(ROWS)


def test_after_a_kill_only_what_is_missing_is_asked(taught: Callable[..., Any]) -> None:
    desk = taught(latency=0.3, concurrency=2)
    running = desk.start("run", "taught/chain.yaml", "--direct")
    try:
        for _ in range(3000):
            if desk.sent() >= 5:
                break
            time.sleep(0.02)
        running.send_signal(signal.SIGKILL)
    finally:
        running.kill()
        running.communicate()
    resumed = desk.headrace("resume", run_id(desk))
    assert resumed.code == 0, resumed.err
    # Two were in flight at most.
    assert len(ROWS) <= desk.sent() <= len(ROWS) + 2
    assert len(examples(desk)) == len(ROWS)


def test_a_budget_stops_the_questions_and_more_of_it_goes_on(taught: Callable[..., Any]) -> None:
    desk = taught(more="budget: {calls: 4}")
    stopped = desk.headrace("run", "taught/chain.yaml", "--direct")
    assert stopped.code != 0 and desk.sent() == 4
    assert "budget of the run is 4 calls" in stopped.err
    done = desk.headrace("resume", run_id(desk), "--budget", "calls=20")
    assert done.code == 0, done.err
    assert desk.sent() == len(ROWS)


def test_questions_without_an_answer_fail_the_step_unless_they_are_allowed(
    taught: Callable[..., Any],
) -> None:
    refused = {"match": "Say 2.", "fault": "changed", "finish_reason": "content_filter"}
    desk = taught(refused)
    failed = desk.headrace("run", "taught/chain.yaml", "--direct")
    assert failed.code == 1 and "did not answer 1 of 9 questions (row 6:" in failed.err
    chain = desk.folder / "taught" / "chain.yaml"
    chain.write_text(chain.read_text() + "max_unanswered: 0.2\n".rjust(24))
    done = desk.headrace("run", "taught/chain.yaml", "--direct")
    assert done.code == 0, done.err
    assert len(examples(desk)) == 8
    # The eight answers of the failed run were not paid for again.
    assert desk.sent() == 9 + 1


def test_what_is_no_question_is_named_before_anything_is_asked(
    taught: Callable[..., Any], tmp_path: Path
) -> None:
    desk = taught()
    data = desk.folder / "taught" / "questions.jsonl"
    data.write_text('{"prompt": "Who?"}\n{"text": "no question"}\n')
    failed = desk.headrace("run", "taught/chain.yaml", "--direct")
    assert failed.code == 1 and "line 2: a question to a teacher is a 'prompt' or 'messages'" in failed.err
    assert desk.sent() == 0
    (tmp_path / "bad.jsonl").write_text('{"messages": [{"role": "tool", "content": "x"}]}\n')
    with pytest.raises(Exception, match="line 1: a question to a teacher ends with a message of the user"):
        list(read_questions(tmp_path / "bad.jsonl"))
