"""Judges, checks, similarity, latency and cost of an evaluate step, against a server that counts its calls.

Run with: pytest tests/e2e/test_judges.py
"""

from __future__ import annotations

import json

import pytest

from chains.store import open_store

pytestmark = pytest.mark.e2e

CHAIN = """
chain: judged
inputs:
  ticket: {{type: string}}
models:
  writer: {{provider: openai, model: writer, base_url: "{url}", temperature: 0, price: {{input: 1}}}}
  grader: {{provider: openai, model: grader, base_url: "{url}", temperature: 0}}
  mini: {{provider: openai, model: embedder, base_url: "{url}"}}
defaults: {{model: writer, retry: {{attempts: 2, base: 1ms, cap: 2ms}}}}
{budget}
steps:
  reply: {{prompt: "{{{{ inputs.ticket }}}}"}}
  score:
    evaluate: {{prediction: "{{{{ reply.text }}}}", reference: "{{{{ row.intent }}}}"}}
    metrics: [accuracy, similarity, latency, latency_p95, cost]
    model: grader
    embedder: mini
    judges:
      polite: {{rubric: Is it polite?, human: "{{{{ row.stars }}}}"}}
      better: {{ask: pairwise, against: "An answer for {{{{ row.intent }}}}"}}
      faithful: {{ask: faithfulness, context: "{{{{ inputs.ticket }}}}"}}
      relevant: {{ask: answer_relevance, question: "{{{{ inputs.ticket }}}}", scale: [0, 10]}}
    checks:
      - contains: ticket
      - {{name: short, python: "checks.py:short"}}
      - {{rubric: It names an intent.}}
"""
GATED = """
chain: gated
inputs:
  ticket: {{type: string}}
models:
  writer: {{provider: openai, model: writer, base_url: "{url}", temperature: 0, limits: {{concurrency: 1}}}}
defaults: {{model: writer, retry: {{attempts: 1}}}}
steps:
  score:
    evaluate: {{prediction: "{{{{ inputs.ticket }}}}"}}
    judges:
      polite: {{rubric: Is it polite?}}
    gate: polite.low >= 0.74
"""
RETRIED = """
chain: retried
inputs:
  ticket: {{type: string}}
models:
  writer: {{provider: openai, model: writer, base_url: "{url}", temperature: 0}}
  grader: {{provider: openai, model: grader, base_url: "{url}"}}
defaults: {{model: writer, retry: {{attempts: 1}}}}
steps:
  reply: {{prompt: "{{{{ inputs.ticket }}}}"}}
  score:
    evaluate: {{prediction: "{{{{ reply.text }}}}"}}
    model: grader
    judges:
      polite: {{rubric: Is it polite?}}
"""
CHECK = "def short(prediction, reference):\n    return len(prediction) < 5000\n"
CALLS_PER_ROW = 1 + 5 + 1
"""A reply; polite, better twice, faithful, relevant; one rubric check. Embeddings are counted apart."""


@pytest.fixture
def judged(desk):
    def write(budget: str = "", rows: int = 4):
        folder = desk.folder / "judged"
        folder.mkdir(exist_ok=True)
        (folder / "checks.py").write_text(CHECK)
        (folder / "chain.yaml").write_text(CHAIN.format(url=desk.server.url, budget=budget))
        data = folder / "rows.jsonl"
        lines = [
            {
                "ticket": f"Ticket {n}: my parcel, please.",
                "intent": "delivery",
                "stars": 1 + n % 5 if n % 2 else None,
            }
            for n in range(rows)
        ]
        data.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return str(folder / "chain.yaml"), "--data", str(data), "--direct", "--json"

    return write


def chat_calls(desk) -> int:
    return sum(line["path"].endswith("/chat/completions") for line in desk.server.ledger())


def evaluation(desk):
    """The output of the step `score`, the records of its rows, and the verdicts by judge and row."""
    with open_store(desk.store) as store:
        run = store.runs(limit=1)[0]
        records = store.records(run.id, "score")
        steps = [step.id for step in store.steps(run.id) if step.id.startswith("score-")]
        verdicts = {
            step: {record.row: json.loads(record.output) for record in store.records(run.id, step)}
            for step in steps
        }
        assert all(step.status == "ok" for step in store.steps(run.id))
    (once,) = [record for record in records if record.row == -1]
    rows = {record.row: json.loads(record.output) for record in records if record.row >= 0}
    return json.loads(once.output), rows, verdicts


@pytest.mark.slow
def test_every_verdict_is_a_record_and_nobody_is_asked_twice(desk, judged) -> None:
    arguments = judged()
    assert desk.headrace("check", arguments[0]).code == 0
    done = desk.headrace("run", *arguments)
    assert done.code == 0, desk.headrace("show", "last", "--step", "score").out
    assert chat_calls(desk) == 4 * CALLS_PER_ROW
    output, rows, verdicts = evaluation(desk)

    for row, scored in rows.items():
        said = verdicts["score-polite"][row]["output"]
        assert scored["scores"]["polite"] == pytest.approx((said["score"] - 1) / 4)
        assert scored["verdicts"]["polite"]["reason"] == said["reason"]
        assert scored["scores"]["relevant"] == verdicts["score-relevant"][row]["output"]["score"] / 10
        statements = verdicts["score-faithful"][row]["output"]["statements"]
        supported = sum(item["supported"] for item in statements) / len(statements)
        assert scored["scores"]["faithful"] == supported
        holds = verdicts["score-check_3_rubric"][row]["output"]["holds"]
        assert scored["scores"]["passed"] == scored["scores"]["check_3_rubric"] == float(holds)
    mean = sum(scored["scores"]["polite"] for scored in rows.values()) / 4
    assert output["polite"]["value"] == pytest.approx(mean, abs=1e-6)
    assert output["polite"]["low"] <= mean <= output["polite"]["high"]
    assert output["polite"]["agreement"]["same"]["n"] == 2  # two rows have a person's score
    # this judge always prefers the first place, so both orders together are a tie
    assert {scored["scores"]["better"] for scored in rows.values()} == {0.5}
    assert output["better"]["same_when_swapped"]["value"] == 0
    assert output["checks"]["check_1_contains"]["value"] == output["checks"]["short"]["value"] == 1
    assert 0 <= output["similarity"]["value"] <= 1
    assert 0 < output["latency"]["value"] <= output["latency_p95"]["high"]
    assert output["cost"]["value"] > 0 and output["cost"]["unscored"] == 0

    shown = desk.headrace("show", "last", "--step", "score-polite", "--row", "1")
    assert "Is it polite?" in shown.out and "attempt 1" in shown.out
    again = desk.headrace("run", *arguments)
    assert again.code == 0, again.err
    assert chat_calls(desk) == 4 * CALLS_PER_ROW
    # what an answer cost and how long it took is known, though this run paid nothing
    assert evaluation(desk)[0]["cost"] == output["cost"]


def test_a_budget_stops_the_judges_and_a_resume_asks_only_what_is_missing(desk, judged) -> None:
    arguments = judged("budget: {calls: 12}")
    stopped = desk.headrace("run", *arguments)
    assert stopped.code != 0
    assert chat_calls(desk) <= 12
    done = desk.headrace("resume", "last", "--direct", "--budget", "calls=100")
    assert done.code == 0, done.err
    assert chat_calls(desk) == 4 * CALLS_PER_ROW
    output, rows, _ = evaluation(desk)
    assert output["polite"]["n"] == len(rows) == 4


def test_a_judge_that_fails_for_a_row_is_counted_and_cannot_pass_a_gate(make_desk) -> None:
    verdict = json.dumps({"reason": "kind", "score": 5})
    desk = make_desk(
        {"match": "Ticket 7", "fault": "status", "status": 400, "message": "no"},
        {"match": "Is it polite", "fault": "changed", "text": verdict},
    )
    folder = desk.folder / "judged"
    folder.mkdir()
    chain = folder / "chain.yaml"
    chain.write_text(GATED.format(url=desk.server.url))
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps({"ticket": f"Ticket {n}"}) + "\n" for n in range(12)))
    done = desk.headrace("run", str(chain), "--data", str(data), "--direct", "--json")
    shown = desk.headrace("show", "last", "--step", "score").out
    assert done.code == 1 and "the gate 'polite.low >= 0.74' is not met" in shown
    with open_store(desk.store) as store:
        run = store.runs(limit=1)[0]
        output = json.loads(store.record(run.id, "score", -1).output)["polite"]
        scores = [json.loads(record.output) for record in store.records(run.id, "score") if record.row >= 0]
    assert (output["value"], output["n"], output["unscored"]) == (1.0, 11, 1)
    assert output["low"] < 0.74 < 0.742  # eleven of eleven alone would have had a low end of 0.741
    assert [row for row, item in enumerate(scores) if "unscored" in item] == [7]


def test_a_retry_judges_the_rows_that_have_an_answer_now_and_leaves_the_others(make_desk) -> None:
    desk = make_desk({"match": "Ticket 2", "times": 1, "fault": "status", "status": 400, "message": "no"})
    folder = desk.folder / "judged"
    folder.mkdir()
    (folder / "chain.yaml").write_text(RETRIED.format(url=desk.server.url))
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps({"ticket": f"Ticket {n}"}) + "\n" for n in range(4)))
    first = desk.headrace("run", str(folder / "chain.yaml"), "--data", str(data), "--direct", "--json")
    assert first.code == 1  # a row failed
    assert chat_calls(desk) == 4 + 3  # the row without an answer scores 0 and is not asked about
    assert evaluation_of(desk)["missing"] == 1
    assert desk.headrace("retry", "last", "--direct").code == 0
    # this judge answers differently each time, so nothing is reused: only the new answer is judged
    assert chat_calls(desk) == 4 + 3 + 2
    output = evaluation_of(desk)
    assert (output["missing"], output["polite"]["n"], output["polite"]["unscored"]) == (0, 4, 0)


def test_a_retry_asks_the_judge_again_where_it_failed_and_nowhere_else(make_desk) -> None:
    desk = make_desk({"match": "Is it polite", "times": 1, "fault": "status", "status": 400, "message": "no"})
    folder = desk.folder / "judged"
    folder.mkdir()
    (folder / "chain.yaml").write_text(RETRIED.format(url=desk.server.url))
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps({"ticket": f"Ticket {n}"}) + "\n" for n in range(4)))
    first = desk.headrace("run", str(folder / "chain.yaml"), "--data", str(data), "--direct", "--json")
    assert first.code == 0, first.err  # no row failed and no gate was there to fail
    assert chat_calls(desk) == 4 + 4
    assert (evaluation_of(desk)["polite"]["n"], evaluation_of(desk)["polite"]["unscored"]) == (3, 1)
    again = desk.headrace("retry", "last", "--direct")
    assert again.code == 0, again.err
    assert chat_calls(desk) == 4 + 4 + 1
    assert (evaluation_of(desk)["polite"]["n"], evaluation_of(desk)["polite"]["unscored"]) == (4, 0)
    # now nothing has failed, and there is nothing to try again
    assert "has no failed rows" in desk.headrace("retry", "last", "--direct").err
    assert chat_calls(desk) == 4 + 4 + 1


def evaluation_of(desk):
    with open_store(desk.store) as store:
        return json.loads(store.record(store.runs(limit=1)[0].id, "score", -1).output)
