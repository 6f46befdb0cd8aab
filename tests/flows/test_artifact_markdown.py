"""Pages in the Prefect UI: what models, endpoints and documents wrote is shown, never rendered."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chains.settings import Settings
from chains.store import RecordRow, RunRow, StepRow, Store, open_store
from flows.artifacts import step_markdown

HOSTILE = (
    "</td><img src=x onerror=alert(1)> [click](javascript:alert(1)) ![x](http://h/p) | `a` **b** www.h.com"
)


class Rows:
    """The rows of a run as the pages ask for them."""

    first = SimpleNamespace(number=0)

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def shards(self, size: int) -> list[range]:
        return [range(start, min(start + size, self._count)) for start in range(0, self._count, size)]


@pytest.fixture
def make_run(tmp_path: Path) -> Any:
    stores: list[Store] = []

    def make(*records: RecordRow, **settings: Any) -> Any:
        store = open_store(tmp_path / "store")
        stores.append(store)
        store.put(
            RunRow(id="r1", chain="c", chain_hash="h", source=b"", started_at=1.0),
            StepRow(run_id="r1", id="s", kind="prompt", once=False, status="ok"),
        )
        store.put(*records)
        return SimpleNamespace(
            run_id="r1", once=frozenset(), rows=Rows(len(records)), store=store, settings=Settings(**settings)
        )

    yield make
    for store in stores:
        store.close()


def record(row: int, **fields: Any) -> RecordRow:
    whole = {"status": "ok", "started_at": 1.0, "finished_at": 2.5 + row} | fields
    return RecordRow(id=f"rec{row}", run_id="r1", step="s", row=row, **whole)


def outside_fences(page: str) -> str:
    """Return the part of a page that is rendered as Markdown."""
    kept, fence = [], ""
    for line in page.splitlines():
        if fence:
            fence = "" if line == fence else fence
        elif line.startswith("```"):
            fence = line.rstrip("json")
        else:
            kept.append(line)
    assert not fence, "a fence was left open"
    return "\n".join(kept)


def assert_harmless(rendered: str) -> None:
    for live in ("<", "](", "![", "**b**", "`a`", "http://", "www."):
        assert live not in rendered, rendered


def test_a_single_row_shows_messages_answer_and_output_in_fences(make_run: Any) -> None:
    messages = [{"role": "user", "content": f"```\n{HOSTILE}"}, {"role": "system", "content": "````"}]
    output = json.dumps({"text": HOSTILE, "n": 1}).encode()
    page = step_markdown(
        make_run(record(0, messages=json.dumps(messages).encode(), output=output)), "s", "ok"
    )
    assert HOSTILE in page and "### user" in page and "### response" in page
    assert_harmless(outside_fences(page).replace("`headrace show r1 --step s --row 0`", ""))


def test_measured_values_stand_in_a_table_with_their_intervals(make_run: Any) -> None:
    def estimate(value: float) -> dict[str, Any]:
        return {"value": value, "low": value - 0.05, "high": value + 0.05, "n": 200, "method": "wilson"}

    output = {
        "accuracy": estimate(0.935),
        "checks": {HOSTILE: estimate(0.5)},
        "rows": 200,
        "odd": {"value": 10**400, "low": 0, "high": 1, "n": 2},
    }
    page = step_markdown(make_run(record(0, output=json.dumps(output).encode())), "s", "ok")
    metrics = page.partition("### metrics")[2].partition("### output")[0]
    assert "| accuracy | 0.935 | 0.885 to 0.985 | 200 |" in metrics
    assert "checks." in metrics and "odd" not in metrics
    assert_harmless(metrics)


def test_a_record_without_measured_values_has_no_such_table(make_run: Any) -> None:
    page = step_markdown(make_run(record(0, output=b'{"text": "hi", "hits": {"a": 1}}')), "s", "ok")
    assert "### metrics" not in page


def test_the_error_of_a_row_is_fenced_too(make_run: Any) -> None:
    error = {"type": "CallRefused", "message": HOSTILE, "hint": None, "history": [f"attempt 1: {HOSTILE}"]}
    page = step_markdown(
        make_run(record(0, status="failed", error=json.dumps(error).encode())), "s", "failed"
    )
    assert f"CallRefused: {HOSTILE}" in page and f"attempt 1: {HOSTILE}" in page
    assert_harmless(outside_fences(page).replace("`headrace show r1 --step s --row 0`", ""))


def test_many_rows_show_counts_the_slowest_and_the_failed_with_harmless_cells(make_run: Any) -> None:
    error = json.dumps({"type": "CallRefused", "message": f"{HOSTILE}\nnext", "hint": None}).encode()
    records = [record(n, tokens_in=3, tokens_out=2) for n in range(12)]
    records.append(record(12, status="failed", error=error))
    page = step_markdown(make_run(*records), "s", "failed")
    slowest = page.partition("### Slowest rows")[2].partition("### Failed rows")[0]
    assert [line.split(" | ")[0] for line in slowest.splitlines() if line.startswith("| ")][1:4] == [
        "| 12",
        "| 11",
        "| 10",
    ]
    failed = page.partition("### Failed rows")[2]
    assert "onerror" in failed and "next" in failed
    assert_harmless(page.replace("`headrace show r1 --step s --row N`", ""))
    widths = {line.count("|") for line in failed.splitlines() if line.startswith("|")}
    assert len(widths) == 1, "a cell broke out of its column"


def test_pages_link_to_the_inspector_where_the_machine_says_where_it_is(make_run: Any) -> None:
    where = {"ui_url": "http://desk.example:4300/"}
    one = step_markdown(make_run(record(0), **where), "s", "ok")
    assert one.endswith("[Open in the inspector](http://desk.example:4300/runs/r1/steps/s/0)")
    many = step_markdown(make_run(record(0), record(1), **where), "s", "ok")
    assert many.endswith("[Open in the inspector](http://desk.example:4300/runs/r1/steps/s)")
    assert "inspector" not in step_markdown(make_run(record(0)), "s", "ok")
