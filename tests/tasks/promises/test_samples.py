"""A prompt step with `samples`: a record for each, a vote, and a resume that asks only what is missing."""

from __future__ import annotations

import json
from typing import Any

from tasks.context import Progress

SEEDED = ", seed: 40, temperature: 1"


def saying(*texts: str) -> list[dict[str, Any]]:
    """Return the rules by which sample N says the Nth text."""
    return [
        {"match": f'"seed":{40 + number}', "fault": "changed", "text": text}
        for number, text in enumerate(texts)
    ]


def samples_of(desk: Any) -> list[Any]:
    return [r for r in desk.store.records(desk.run_id, "triage", within=True) if r.sample]


async def test_each_sample_is_a_record_with_a_seed_of_its_own_and_the_row_has_the_vote(serve, desks):
    server = serve(*saying("Refund", "delivery", " refund\n", "question", "REFUND"))
    desk = desks(server, model=SEEDED, step="    samples: 5\n    quorum: 3")
    counts = await desk.run("where is it?")
    [record] = desk.records()
    output = json.loads(record.output)
    assert (output["text"], output["agreement"]) == ("Refund", 0.6)
    assert (record.tokens_in, record.cost_micro, record.attempts, record.value_key) == (None, None, 0, None)
    samples = samples_of(desk)
    assert [sample.sample for sample in samples] == [1, 2, 3, 4, 5]
    assert all(sample.attempts == 1 and sample.tokens_in for sample in samples)
    assert [json.loads(sample.output)["text"] for sample in samples][1] == "delivery"
    assert all(sample.messages == record.messages and sample.inputs == record.inputs for sample in samples)
    assert sorted(json.loads(line["raw"])["seed"] for line in server.ledger()) == [40, 41, 42, 43, 44]
    assert counts.statuses == {"ok": 1}
    numbers = desk.store.counts(desk.run_id)["triage"]
    assert (numbers["ok"], numbers["attempts"]) == (1, 5)
    told: list[Progress] = desk.progress
    assert sum(one.tokens_in for one in told) == numbers["tokens_in"] > 0


async def test_below_the_quorum_the_row_fails_with_the_counts_and_its_neighbours_go_on(serve, desks):
    rules = [{**rule, "match": rule["match"]} for rule in saying("a", "b", "c")]
    server = serve(*rules)
    desk = desks(server, model=SEEDED, step="    samples: 3\n    quorum: 2")
    counts = await desk.run("one")
    error = json.loads(desk.records()[0].error)
    assert counts.statuses == {"failed": 1}
    assert "no answer has the 2 votes" in error["message"] and "3 samples voted 1 : 1 : 1" in error["message"]


async def test_a_resume_asks_only_the_samples_that_are_missing(serve, desks):
    refused = {"match": '"seed":41', "fault": "status", "status": 500, "times": 3}
    server = serve(refused, *saying("a", "b", "c"))
    step = "    samples: 3\n    vote: all"
    desk = desks(server, model=SEEDED, step=step, run_id="same")
    await desk.run("one")
    [record] = desk.records()
    assert record.status == "failed"
    error = json.loads(record.error)
    assert "2 of 3 samples have an answer" in error["message"]
    assert error["history"][0].startswith("sample 2: ServerFault")
    sent = len(server.ledger())
    again = desks(server, model=SEEDED, step=step, run_id="same")
    await again.run("one")
    [record] = again.records()
    assert [answer["text"] for answer in json.loads(record.output)] == ["a", "b", "c"]
    assert len(server.ledger()) == sent + 1
    assert json.loads(server.ledger()[-1]["raw"])["seed"] == 41


async def test_a_sample_that_failed_does_not_fail_a_row_that_has_its_quorum(serve, desks):
    refused = {"match": '"seed":40', "fault": "status", "status": 400}
    desk = desks(serve(refused, *saying("x", "b", "c")), model=SEEDED, step="    samples: 3\n    vote: first")
    await desk.run("one")
    [record] = desk.records()
    assert record.status == "ok" and json.loads(record.output)["text"] == "b"
    assert [sample.status for sample in samples_of(desk)] == ["failed", "ok", "ok"]
    assert set(desk.store.counts(desk.run_id)["triage"]) >= {"ok"}
    assert "failed" not in desk.store.counts(desk.run_id)["triage"]


async def test_more_samples_ask_only_for_those_that_are_new(serve, desks):
    server = serve()
    first = desks(server, model=SEEDED, step="    cache: always")
    await first.run("one")
    second = desks(server, model=SEEDED, step="    cache: always\n    samples: 4")
    await second.run("one")
    assert len(server.ledger()) == 4
    assert [bool(sample.reused_from) for sample in samples_of(second)] == [True, False, False, False]


async def test_a_budget_counts_every_sample_and_leaves_the_others_for_a_resume(serve, desks):
    server = serve()
    step = "    samples: 4"
    desk = desks(server, model=SEEDED, step=step, chain="budget: {calls: 3}", run_id="same")
    await desk.run("one")
    assert desk.statuses() == ["cancelled"] and desk.over_budget
    assert len(server.ledger()) == 3
    more = desks(server, model=SEEDED, step=step, chain="budget: {calls: 9}", run_id="same")
    await more.run("one")
    assert more.statuses() == ["ok"] and len(server.ledger()) == 4


async def test_structured_samples_vote_with_their_values(serve, desks):
    texts = ['{"intent": "refund"}', '{"intent":"delivery"}', '{ "intent" : "delivery" }']
    step = "    samples: 3\n    output: {intent: {enum: [refund, delivery]}}"
    desk = desks(serve(*saying(*texts)), model=SEEDED, step=step)
    await desk.run("one")
    output = json.loads(desk.records()[0].output)
    assert output["intent"] == "delivery" and round(output["agreement"], 3) == 0.667
