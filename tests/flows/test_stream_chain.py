"""A program hears a run while it goes on, and finds it in the store as any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers.launch import launch

from chains.errors import InputInvalid
from chains.store import open_store
from flows.streaming import StreamEvent, stream_chain

CHAIN = """
chain: desk
inputs: {{ticket: {{type: string}}}}
models: {{m: {{provider: openai, model: test-model, base_url: "{url}"}}}}
defaults: {{model: m, retry: {{attempts: 2, base: 1ms}}}}
steps:
  triage: {{prompt: "Sort {{{{ inputs.ticket }}}}"}}
  reply: {{prompt: "About {{{{ triage.text }}}}"}}
outputs: {{reply: "{{{{ reply.text }}}}"}}
"""


@pytest.fixture
def hear(tmp_path: Path) -> Callable[..., Any]:
    async def hear(*rules: dict[str, Any], inputs: Any = None, most: int = 1000) -> list[StreamEvent]:
        with launch(tmp_path, rules) as server:
            (tmp_path / "chain.yaml").write_text(CHAIN.format(url=server.url))
            found: list[StreamEvent] = []
            events = stream_chain(
                tmp_path / "chain.yaml", inputs or {"ticket": "late"}, store=str(tmp_path / "store")
            )
            async for event in events:
                found.append(event)
                if len(found) == most:
                    await events.aclose()
                    break
            return found

    return hear


async def test_the_answers_come_in_parts_and_the_result_last(hear, tmp_path):
    events = await hear()
    last = events[-1]
    assert last.event == "ended" and last.result["status"] == "ok"
    texts = {
        step: "".join(event.text for event in events if event.event == "text" and event.step == step)
        for step in ("triage", "reply")
    }
    assert texts["reply"] == last.result["outputs"]["reply"] and texts["triage"] in texts["reply"]
    assert [event.step for event in events if event.event == "said"] == ["triage", "reply"]
    with open_store(tmp_path / "store") as store:
        records = {r.id: r.step for r in store.records(last.result["run_id"])}
        assert {event.record: event.step for event in events if event.record} == records


async def test_a_row_that_fails_is_in_the_result(hear):
    events = await hear({"fault": "ends_early", "events": 3})
    assert [event.event for event in events if event.event != "text"] == ["again", "failed", "ended"]
    assert events[-1].result["status"] == "failed"


async def test_who_stops_listening_stops_the_run(hear, tmp_path):
    events = await hear(most=2)
    assert len(events) == 2
    with open_store(tmp_path / "store") as store:
        [run] = store.runs()
        assert run.status == "cancelled"


async def test_what_is_wrong_is_said_before_the_first_event(hear):
    with pytest.raises(InputInvalid, match="tickt"):
        await hear(inputs={"tickt": "late"})
