"""The page of a run says which of its steps wait for a pool."""

from __future__ import annotations

from dataclasses import replace

from served import Served, write_run

from chains.clock import Clock
from chains.store import Store
from flows.pool_waits import note_wait


def test_a_step_that_waits_for_its_pool_says_so_on_the_page_of_its_run(store: Store, served: Served) -> None:
    write_run(store, "waits", [{"ticket": "t", "intent": "i", "reply": "r"}], status="running")
    reply = next(step for step in store.steps("waits") if step.id == "reply")
    store.put(replace(reply, status="running", finished_at=None))
    note_wait(store, "waits", {"reply"}, pool="gpu", since=Clock().now() - 60)
    run = store.run("waits")
    assert run is not None
    store.put(run)  # what was handed over before is written now
    page = served.ask("/runs/waits").text
    assert "waiting for pool &#39;gpu&#39; (6" in page
