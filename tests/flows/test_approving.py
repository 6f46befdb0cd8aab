"""Runs that wait for a person: what waits with them, how they are answered, that nothing is done twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chains.approvals import read_answer
from chains.clock import Clock
from chains.errors import InputInvalid
from chains.settings import Settings
from chains.spec import ApproveStep
from chains.store import Store, open_store
from flows.approving import answer, asked_about, rows_that_wait
from flows.executor import execute
from flows.prepared import prepare
from flows.request import Resume, RunRequest
from flows.results import chain_of, result_of
from flows.units import Direct

CHAIN = """
chain: mail
inputs: {ticket: {type: string}}
steps:
  draft: {python: "work.py:draft", args: {text: "{{ inputs.ticket }}"}}
  sign_off:
    approve: "Send this to {{ inputs.ticket }}?"
    show: [draft.value]
    when: '"skip" not in inputs.ticket'
    MORE
  send:
    python: "work.py:send"
    args: {text: "{{ draft.value }}", note: "{{ sign_off.note }}"}
    when: sign_off.approved
  count: {python: "work.py:count", once: true, args: {sent: "{{ send | map(attribute='value') | list }}"}}
outputs: {sent: "{{ send.value | default('nothing') }}", by: "{{ sign_off.by | default('nobody') }}"}
"""
WORK = """
from pathlib import Path

def note(what):
    with (Path(__file__).parent / "done.txt").open("a") as file:
        file.write(what + "\\n")

def draft(text):
    note(f"draft {text}")
    return f"Dear {text}"

def send(text, note):
    globals()["note"](f"send {text}")
    return f"{text}: {note}"

def count(sent):
    return len(sent)
"""


class Desk:
    """A chain with an approve step, run in this process without Prefect."""

    def __init__(self, folder: Path, store: Store, more: str) -> None:
        self.folder, self.store = folder, store
        (folder / "chain.yaml").write_text(CHAIN.replace("MORE", more))
        (folder / "work.py").write_text(WORK)
        (folder / "rows.jsonl").write_text(
            "".join(json.dumps({"ticket": name}) + "\n" for name in ("Ann", "Bob", "skip"))
        )

    async def run(self, **asked: Any) -> dict[str, Any]:
        return await self._execute(RunRequest(chain=str(self.folder / "chain.yaml"), **asked))

    async def resume(self, run: str) -> dict[str, Any]:
        return await self._execute(Resume(run))

    async def _execute(self, asked: Any) -> dict[str, Any]:
        return await execute(prepare(asked, store=self.store, settings=Settings()), Direct())

    async def answer(self, run: str, given: Any, row: int | None = None) -> None:
        found = self.store.run(run)
        asked = asked_about(self.store, found, chain_of(found), "sign_off", row=row)
        await answer(self.store, asked, given, by="ann@desk", clock=Clock())

    def statuses(self, run: str) -> dict[str, list[str]]:
        records = self.store.records(run)
        steps = sorted({record.step for record in records})
        return {step: [r.status for r in records if r.step == step] for step in steps}

    def done(self) -> list[str]:
        return (self.folder / "done.txt").read_text().splitlines()


@pytest.fixture
def desk(tmp_path: Path) -> Any:
    opened = open_store(tmp_path / "store")
    yield lambda more="fields: {note: string}": Desk(tmp_path, opened, more)
    opened.close()


async def test_rows_wait_and_their_neighbours_and_what_is_before_them_do_not(desk: Callable[..., Desk]):
    at = desk()
    first = await at.run(data=str(at.folder / "rows.jsonl"))
    run = first["run_id"]
    assert first["status"] == "waiting" == at.store.run(run).status
    assert at.statuses(run) == {
        "draft": ["ok"] * 3,
        "sign_off": ["waiting", "waiting", "skipped"],
        "send": ["waiting", "waiting", "skipped"],
        "count": ["waiting"],
    }
    found = at.store.run(run)
    asked = rows_that_wait(at.store, found, chain_of(found))
    assert [(one.place, one.question, one.shown) for one in asked] == [
        ("sign_off · row 0", "Send this to Ann?", {"draft.value": "Dear Ann"}),
        ("sign_off · row 1", "Send this to Bob?", {"draft.value": "Dear Bob"}),
    ]
    assert {line["status"] for line in result_of(at.store, found)["row_outputs"]} == {"waiting", "ok"}

    await at.answer(run, {"approved": True, "note": "fine"}, row=1)
    with pytest.raises(InputInvalid, match="asks about row 1 now"):
        await at.answer(run, True, row=1)
    second = await at.resume(run)
    assert second["status"] == "waiting"
    assert at.statuses(run)["send"] == ["waiting", "ok", "skipped"]

    await at.answer(run, "no")
    last = await at.resume(run)
    assert last["status"] == "ok" and at.statuses(run)["count"] == ["ok"]
    rows = [line["outputs"] for line in result_of(at.store, at.store.run(run))["row_outputs"]]
    assert [row["sent"] for row in rows] == ["nothing", "Dear Bob: fine", "nothing"]
    assert [row["by"] for row in rows] == ["ann@desk", "ann@desk", "nobody"]
    assert sorted(at.done()) == ["draft Ann", "draft Bob", "draft skip", "send Dear Bob"]
    record = at.store.record(run, "sign_off", 1)
    kept = json.loads(record.output)
    assert (kept["approved"], kept["note"], kept["by"]) == (True, "fine", "ann@desk") and kept["at"].endswith(
        "Z"
    )
    assert json.loads(record.inputs)["question"] == "Send this to Bob?"


async def test_an_answer_that_is_given_beforehand_lets_nothing_wait(desk: Callable[..., Desk]):
    at = desk()
    result = await at.run(inputs={"ticket": "Ann"}, approve={"sign_off": {"approved": True, "note": "x"}})
    assert result["status"] == "ok" and result["outputs"]["sent"] == "Dear Ann: x"
    with pytest.raises(InputInvalid, match="'note' is a required property"):
        await at.run(inputs={"ticket": "Ann"}, approve={"sign_off": "yes"})
    with pytest.raises(InputInvalid, match="step 'draft' asks for no approval"):
        await at.run(inputs={"ticket": "Ann"}, approve={"draft": "yes"})


@pytest.mark.parametrize(
    ("late", "status", "sent"),
    [
        ("fail", "failed", None),
        ("skip", "ok", "nothing"),
        ("approve", "ok", "Dear Ann: None"),
        ("reject", "ok", "nothing"),
    ],
)
async def test_a_question_that_stands_too_long_ends_as_the_chain_says(desk, late, status, sent):
    at = desk(
        f"fields: {{note: {{type: string, required: false}}}}\n    timeout: 1ms\n    on_timeout: {late}"
    )
    first = await at.run(inputs={"ticket": "Ann"})
    assert first["status"] == "waiting"
    asked = json.loads(at.store.record(first["run_id"], "sign_off", 0).inputs)["asked_at"]
    last = await at.resume(first["run_id"])
    assert last["status"] == status
    record = at.store.record(first["run_id"], "sign_off", 0)
    if status == "ok":
        assert last["outputs"]["sent"] == sent
    else:
        assert "nobody answered within 0.001 s" in json.loads(record.error)["message"]
    if late in ("approve", "reject"):
        assert json.loads(record.output)["by"] == "the timeout"
        assert json.loads(record.inputs)["asked_at"] == asked


async def test_a_run_that_has_not_come_to_its_end_takes_no_answers(desk: Callable[..., Desk]):
    at = desk()
    first = await at.run(inputs={"ticket": "Ann"})
    prepared = prepare(Resume(first["run_id"]), store=at.store, settings=Settings())
    with pytest.raises(InputInvalid, match="still running"):
        await at.answer(first["run_id"], "yes")
    await execute(prepared, Direct())


STEP = ApproveStep(approve="?", fields={"note": "string", "stars": {"type": "integer", "required": False}})


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("no", {"approved": False, "note": None, "stars": None}),
        (False, {"approved": False, "note": None, "stars": None}),
        ({"approved": True, "note": "a"}, {"approved": True, "note": "a", "stars": None}),
        ({"approved": False, "stars": 2}, {"approved": False, "note": None, "stars": 2}),
    ],
)
def test_answers_are_read(given, read):
    assert read_answer("s", STEP, given) == read


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("perhaps", "is no answer for step 's'"),
        ("yes", "'note' is a required property"),
        ({"note": "a"}, "says neither yes nor no"),
        ({"approved": "yes", "note": "a"}, "says neither yes nor no"),
        ({"approved": True, "note": 5}, "must be of type string, not 5"),
        ({"approved": True, "nte": "a"}, "asks for no field 'nte'. Did you mean 'note'?"),
        (["yes"], "is no answer"),
    ],
)
def test_answers_that_do_not_fit_are_refused(given, words):
    with pytest.raises(InputInvalid) as refused:
        read_answer("s", STEP, given)
    assert words in str(refused.value)
