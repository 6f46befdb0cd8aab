"""The rows of a run as a stream. Run with: pytest tests/tasks/test_row_source.py"""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from chains.data import open_dataset, validate_rows
from chains.errors import InputInvalid
from chains.spec import Chain
from tasks.row_source import RowSource


def source(path: Path, lines: list[str], *, limit: int | None = None) -> RowSource:
    path.write_text("".join(line + "\n" for line in lines))
    chain = Chain.model_validate(
        {"chain": "c", "inputs": {"n": {"type": "integer"}}, "steps": {"a": {"prompt": "{{ inputs.n }}"}}}
    )
    dataset = open_dataset(path, skip_bad=True)
    bound = validate_rows(chain, dataset, {"n": "n"}, skip_bad=True)
    return RowSource({"tone": "warm"}, bound, limit=limit)


def numbers(rows: RowSource, span: range | None = None) -> list[int]:
    return [row.number for row in rows.read(span or rows.span)]


def test_one_row_of_given_inputs_is_row_0() -> None:
    rows = RowSource({"ticket": "x"})
    assert (len(rows), rows.first.number, rows.first.inputs) == (1, 0, {"ticket": "x"})
    assert rows.first.columns is None
    assert rows.shards(256) == [range(1)]


def test_rows_that_are_left_out_keep_their_numbers_free(tmp_path: Path) -> None:
    rows = source(tmp_path / "d.jsonl", ['{"n": 0}', '{"n": "x"}', "{", '{"n": 3}', '{"n": 4}'])
    assert (len(rows), numbers(rows)) == (3, [0, 3, 4])
    assert [numbers(rows, shard) for shard in rows.shards(2)] == [[0], [3], [4]]
    assert rows.first.inputs == {"tone": "warm", "n": 0}


def test_a_limit_counts_the_rows_that_are_kept(tmp_path: Path) -> None:
    rows = source(tmp_path / "d.jsonl", ["{", '{"n": 1}', "{", '{"n": 3}', '{"n": 4}'], limit=2)
    assert (len(rows), numbers(rows), rows.span) == (2, [1, 3], range(4))
    assert len(source(tmp_path / "e.jsonl", ['{"n": 1}'], limit=9)) == 1


def test_a_file_that_changes_is_not_read_any_further(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    rows = source(path, [json.dumps({"n": n}) for n in range(600)])
    assert numbers(rows, range(300, 303)) == [300, 301, 302]
    path.write_text(path.read_text().replace("301", "999999"))
    with pytest.raises(InputInvalid, match="was changed"):
        numbers(rows, range(300, 303))
    path.unlink()
    with pytest.raises(InputInvalid, match="cannot be read any more"):
        numbers(rows, range(300, 303))


def test_memory_does_not_grow_with_the_number_of_rows(tmp_path: Path) -> None:
    lines = [json.dumps({"n": n, "text": "x" * 2000}) for n in range(4000)]  # 8 MB
    rows = source(tmp_path / "d.jsonl", lines)
    del lines
    tracemalloc.start()
    try:
        assert sum(1 for _ in rows.read(rows.span)) == 4000
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
