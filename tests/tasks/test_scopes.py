"""What once steps see of many rows. Run with: pytest tests/tasks/test_scopes.py"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chains.data import open_dataset, validate_rows
from chains.graph import graph_of
from chains.spec import Chain
from chains.store import RecordRow, RunRow, StepRow, Store, open_store
from tasks.row_source import RowSource
from tasks.scopes import CHUNK, Scopes

ROWS = 3 * CHUNK + 5
CHAIN = Chain.model_validate(
    {
        "chain": "c",
        "inputs": {"n": {"type": "integer"}},
        "steps": {
            "a": {"prompt": "{{ inputs.n }}"},
            "b": {"prompt": "{{ a.text }}", "once": True},
            "score": {"evaluate": {"prediction": "{{ a.text }}", "reference": "{{ row.n }}"}, "after": ["b"]},
        },
    }
)


@pytest.fixture
def store(tmp_path: Path):
    with open_store(tmp_path / "store") as opened:
        opened.put(RunRow(id="run", chain="c", chain_hash="h", source=b"", started_at=1.0))
        opened.put(StepRow(run_id="run", id="a", kind="prompt"))
        opened.put(*(record(row) for row in range(ROWS)))
        yield opened


def record(row: int, **values) -> RecordRow:
    values = {"status": "ok", "output": json.dumps({"text": str(row)}).encode(), "finished_at": 2.0, **values}
    return RecordRow(id=f"a-{row}", run_id="run", step="a", row=row, **values)


@pytest.fixture
def scopes(store: Store, tmp_path: Path) -> Scopes:
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps({"n": n}) + "\n" for n in range(ROWS)))
    bound = validate_rows(CHAIN, open_dataset(path), {"n": "n"})
    graph = graph_of(CHAIN, {"a": ["{{ inputs.n }}"], "b": ["{{ a.text }}"]})
    return Scopes(
        store=store, run_id="run", graph=graph, once=frozenset({"b", "score"}), rows=RowSource({}, bound)
    )


def test_views_give_every_row_in_order_and_may_be_read_twice(scopes: Scopes) -> None:
    views = scopes.views("score")
    assert len(views) == ROWS
    for _ in range(2):
        seen = [(view.row, view.scope["a"]["text"], view.scope["row"]["n"]) for view in views]
        assert seen == [(n, str(n), n) for n in range(ROWS)]


def test_views_read_no_further_than_asked(scopes: Scopes, store: Store) -> None:
    reading = iter(scopes.views("score"))
    assert next(reading).statuses["a"] == "ok"
    store.put(record(CHUNK - 1, status="failed", output=None), record(CHUNK, status="failed", output=None))
    seen = {view.row: view.statuses["a"] for view in reading}
    assert (seen[CHUNK - 1], seen[CHUNK]) == ("ok", "failed")


def test_a_list_over_rows_is_made_only_for_steps_that_read_it(scopes: Scopes, store: Store) -> None:
    store.put(record(7, status="failed", output=None))
    outputs = scopes.once("b", run_on_skip=False).scope["a"]
    assert [output["text"] for output in outputs] == [str(n) for n in range(ROWS) if n != 7]
    assert "a" not in scopes.once("score", run_on_skip=False, with_lists=False).scope


def test_the_newest_record_that_a_once_step_depends_on_is_found(scopes: Scopes, store: Store) -> None:
    assert scopes.newest_upstream("b") == 2.0
    store.put(record(ROWS - 1, finished_at=9.0))
    assert scopes.newest_upstream("b") == 9.0
