"""Data sets are read as a stream, keep their rows' numbers, and tell every bad row before anything runs."""

import csv
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chains.data import Dataset, map_columns, open_dataset, validate_rows
from chains.errors import InputInvalid
from chains.spec import Chain


def chain_with(**inputs: dict[str, Any]) -> Chain:
    return Chain.model_validate(
        {
            "chain": "sample",
            "inputs": inputs,
            "models": {"small": {"provider": "starter"}},
            "steps": {"say": {"prompt": "Hi", "model": "small"}},
        }
    )


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows_of(dataset: Dataset, start: int = 0, stop: int | None = None) -> list[Any]:
    return [row for _, row in dataset.rows(start, stop)]


def test_json_lines_are_rows_with_all_keys_as_columns(tmp_path: Path) -> None:
    dataset = open_dataset(written(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n\n{"b": [2], "a": null}'))
    assert dataset.columns == ("a", "b")
    assert (dataset.count, dataset.bad_count, dataset.is_text) == (2, 0, False)
    assert list(dataset.rows()) == [(0, {"a": 1}), (1, {"b": [2], "a": None})]
    assert dataset.sha256 == __import__("hashlib").sha256((tmp_path / "a.jsonl").read_bytes()).hexdigest()


def test_csv_has_a_header_quotes_a_mark_and_any_line_ends(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbfa, b\r\n1,"x, ""y""\r\nz"\n2,\r3,e\xcc\x81\r\n\r\n4,"lone\rreturn"\n'
    dataset = open_dataset(written(tmp_path, "a.csv", content))
    assert dataset.columns == ("a", "b")
    assert dataset.is_text
    assert rows_of(dataset) == [
        {"a": "1", "b": 'x, "y"\r\nz'},
        {"a": "2", "b": ""},
        {"a": "3", "b": "e\u0301"},
        {"a": "4", "b": "lone\rreturn"},
    ]


def test_parquet_values_become_json(tmp_path: Path) -> None:
    import datetime
    import decimal

    import pyarrow as pa
    import pyarrow.parquet as pq

    moment = datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    columns = {
        "text": pa.array(["a", None]),
        "price": pa.array([decimal.Decimal("1.50"), decimal.Decimal("3.00")]),
        "at": pa.array([moment, None], pa.timestamp("ns", "UTC")),
        "day": pa.array([datetime.date(2024, 1, 2), None]),
        "tags": pa.array([["x", "x"], []]),
        "who": pa.array([{"name": "Ada", "age": 36}, None]),
        "kind": pa.array(["q", "q"]).dictionary_encode(),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    dataset = open_dataset(tmp_path / "a.parquet")
    assert dataset.columns == tuple(columns)
    assert rows_of(dataset)[0] == {
        "text": "a",
        "price": 1.5,
        "at": "2024-01-02T03:04:05+00:00",
        "day": "2024-01-02",
        "tags": ["x", "x"],
        "who": {"name": "Ada", "age": 36},
        "kind": "q",
    }
    assert rows_of(dataset)[1]["price"] == 3


def _write_numbers(folder: Path, kind: str, count: int) -> Path:
    path = folder / f"numbers.{kind}"
    if kind == "jsonl":
        path.write_text("".join(f'{{"n": {n}}}\n' for n in range(count)))
    elif kind == "csv":
        path.write_text("n\n" + "".join(f'"{n}"\r\n' for n in range(count)))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"n": list(range(count))}), path, row_group_size=700)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_rows_can_be_read_from_anywhere(tmp_path: Path, kind: str) -> None:
    dataset = open_dataset(_write_numbers(tmp_path, kind, 2000))
    assert dataset.count == 2000
    for start, stop in [
        (0, 1),
        (255, 257),
        (256, 512),
        (699, 701),
        (1400, 1401),
        (1999, 2000),
        (2000, 2005),
        (5, 5),
    ]:
        found = [(number, int(row["n"])) for number, row in dataset.rows(start, stop)]
        assert found == [(n, n) for n in range(start, min(stop, 2000))]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_reading_takes_no_more_memory_for_more_rows(tmp_path: Path, kind: str) -> None:
    path = _write_numbers(tmp_path, kind, 100)
    open_dataset(path)  # what is imported and cached by the first is not the rows' memory
    peaks = []
    for count in (3_000, 30_000):
        path = _write_numbers(tmp_path, kind, count)
        tracemalloc.start()
        for _ in open_dataset(path).rows():
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 300_000


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", "", "is empty"),
        ("a.jsonl", "\n \n", "has no rows"),
        ("a.csv", "", "is empty"),
        ("a.csv", "\n\n", "is empty"),
        ("a.csv", "a,b\n", "has no rows"),
        ("a.csv", "a,b,a\n1,2,3\n", "two columns 'a'"),
        ("a.csv", ",b\n1,2\n", "column 1 has no name"),
        ("a.csv", "a;b\n1;2\n", "Separate cells by commas"),
        ("a.csv", 'a,b\n1,"open\n2,3\n', "a quote is not closed, near line"),
        ("a.csv", b"\xff\xfea\x00,\x00", "UTF-16"),
        ("a.jsonl", b"\xfe\xff\x00{", "UTF-16"),
        ("a.parquet", b"PAR1 is not enough", "no readable Parquet"),
        ("a.parquet", b"\x00" * 100, "no readable Parquet"),
        ("a.json", "[]", "must end in .jsonl, .ndjson, .csv, .parquet"),
        ("a.csv.gz", b"\x1f\x8b", "Unpack it first"),
        ("a.xlsx", b"PK", "must end in"),
    ],
)
def test_files_that_are_no_data_set_are_refused(
    tmp_path: Path, name: str, content: str | bytes, said: str
) -> None:
    path = written(tmp_path, name, content)
    for skip_bad in (False, True):
        with pytest.raises(InputInvalid, match=said):
            open_dataset(path, skip_bad=skip_bad)


def test_a_missing_file_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    written(tmp_path, "tickets.jsonl", "{}")
    with pytest.raises(InputInvalid, match=r"does not exist.*'tickets.jsonl'"):
        open_dataset(tmp_path / "ticket.jsonl")
    with pytest.raises(InputInvalid, match="is no file"):
        (tmp_path / "folder.csv").mkdir()
        open_dataset(tmp_path / "folder.csv")


BAD_LINES = b"""{"a": 1}
{"a": 1, "a": 2}
not json

[1]
{"a": NaN}
{"a": "\xff"}
{"a": 3}
"""


def test_all_bad_lines_are_listed_with_row_and_line(tmp_path: Path) -> None:
    with pytest.raises(InputInvalid) as caught:
        open_dataset(written(tmp_path, "a.jsonl", BAD_LINES))
    lines = str(caught.value).splitlines()
    assert "bad rows; correct them, or leave them out with --skip-bad" in lines[0]
    assert lines[1:] == [
        "  row 1 (line 2): the key 'a' occurs twice in one object.",
        "  row 2 (line 3): Expecting value at column 1.",
        "  row 3 (line 5): a line must be one JSON object, not [1].",
        "  row 4 (line 6): NaN is not JSON.",
        "  row 5 (line 7): byte 8 of the line is not UTF-8.",
    ]


def test_skipped_rows_are_counted_and_the_others_keep_their_numbers(tmp_path: Path) -> None:
    dataset = open_dataset(written(tmp_path, "a.jsonl", BAD_LINES), skip_bad=True)
    assert list(dataset.rows()) == [(0, {"a": 1}), (6, {"a": 3})]
    assert (dataset.count, dataset.bad_count, [bad.row for bad in dataset.bad]) == (7, 5, [1, 2, 3, 4, 5])
    assert list(dataset.rows(1, 7)) == [(6, {"a": 3})]


def test_bad_csv_rows_are_listed_and_skipped(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", b'a,b\n1,2\n3\n4,5,6\n"x"y,7\n\xff,8\n\n9,"1\n0"\n11\n')
    with pytest.raises(InputInvalid) as caught:
        open_dataset(path)
    assert str(caught.value).splitlines()[1:] == [
        "  row 1 (line 3): the row has 1 cell, and the header has 2.",
        "  row 2 (line 4): the row has 3 cells, and the header has 2.",
        "  row 3 (line 5): ',' expected after '\"'; a quote inside a quoted cell is written twice.",
        "  row 4 (line 6): byte 1 of the line is not UTF-8.",
        "  row 6 (line 10): the row has 1 cell, and the header has 2.",
    ]
    dataset = open_dataset(path, skip_bad=True)
    assert list(dataset.rows()) == [(0, {"a": "1", "b": "2"}), (5, {"a": "9", "b": "1\n0"})]


def test_a_bad_quote_over_several_lines_stops_even_when_bad_rows_are_skipped(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", 'a,b\n1,"x\ny"z\n2,3\n')
    with pytest.raises(InputInvalid, match="several lines is wrong"):
        open_dataset(path, skip_bad=True)


def test_no_more_than_twenty_bad_rows_are_listed(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", '{"a": 1}\n' + "x\n" * 1000)
    with pytest.raises(InputInvalid) as caught:
        open_dataset(path)
    assert len(str(caught.value).splitlines()) == 22
    assert str(caught.value).endswith("and more")
    dataset = open_dataset(path, skip_bad=True)
    assert (len(dataset.bad), dataset.bad_count) == (20, 1000)


def test_a_data_set_of_bad_rows_only_is_an_error_although_they_are_skipped(tmp_path: Path) -> None:
    with pytest.raises(InputInvalid, match="row 0"):
        open_dataset(written(tmp_path, "a.jsonl", "x\ny\n"), skip_bad=True)


def test_large_cells_are_read_and_too_large_ones_refused(tmp_path: Path) -> None:
    large = "x" * 10_000_000
    dataset = open_dataset(written(tmp_path, "a.csv", f"a\n{large}\n"))
    assert rows_of(dataset) == [{"a": large}]
    with pytest.raises(InputInvalid, match="a cell is longer than"):
        open_dataset(written(tmp_path, "b.csv", f"a\n{'x' * 17_000_000}\n"))
    with pytest.raises(InputInvalid, match="a line is longer than"):
        open_dataset(written(tmp_path, "c.csv", f"a\n{'x' * 34_000_000}\n"))
    path = written(tmp_path, "a.jsonl", '{"a": "' + "x" * 34_000_000 + '"}\n{"a": 1}\n')
    with pytest.raises(InputInvalid, match=r"row 0 \(line 1\): the row is longer than"):
        open_dataset(path)
    assert list(open_dataset(path, skip_bad=True).rows()) == [(1, {"a": 1})]


def test_a_parquet_bomb_does_not_fill_the_memory(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), pa.array(["x" * 1_000_000]))
    path = tmp_path / "bomb.parquet"
    pq.write_table(pa.table({"text": texts}), path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 100_000
    before = pa.total_allocated_bytes()
    peak = 0
    for number, row in open_dataset(path).rows():
        assert len(row["text"]) == 1_000_000
        peak = max(peak, pa.total_allocated_bytes() - before)
        if number == 50:
            break
    assert peak < 50_000_000


def test_parquet_rows_that_are_too_large_or_not_json_are_bad(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    huge = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int32()), pa.array(["x", "y" * 34_000_000]))
    pq.write_table(pa.table({"text": huge}), tmp_path / "huge.parquet", store_schema=False)
    with pytest.raises(InputInvalid, match=r"row 1: the row has \d+ bytes, more than"):
        open_dataset(tmp_path / "huge.parquet")
    lists = pa.array([["x"], ["y" * 1_000_000] * 40])
    pq.write_table(pa.table({"texts": lists}), tmp_path / "lists.parquet")
    dataset = open_dataset(tmp_path / "lists.parquet", skip_bad=True)
    assert list(dataset.rows()) == [(0, {"texts": ["x"]})]
    pq.write_table(pa.table({"n": [1.0, float("nan")]}), tmp_path / "nan.parquet")
    with pytest.raises(InputInvalid, match="row 1: column 'n' holds nan"):
        open_dataset(tmp_path / "nan.parquet")
    pq.write_table(pa.table({"raw": [b"\x00"]}), tmp_path / "raw.parquet")
    with pytest.raises(InputInvalid, match="column 'raw' is of type binary"):
        open_dataset(tmp_path / "raw.parquet")
    pq.write_table(pa.table({"n": pa.array([], pa.int64())}), tmp_path / "none.parquet")
    with pytest.raises(InputInvalid, match="has no rows"):
        open_dataset(tmp_path / "none.parquet")


def test_a_truncated_parquet_file_is_an_error(tmp_path: Path) -> None:
    path = _write_numbers(tmp_path, "parquet", 5000)
    content = path.read_bytes()
    broken = content[:100] + bytes(byte ^ 0x5A for byte in content[100:600]) + content[600:]
    for damaged in (content[:-1000], broken):
        with pytest.raises(InputInvalid, match="no readable Parquet"):
            open_dataset(written(tmp_path, "cut.parquet", damaged))


def test_a_file_that_changes_between_reads_is_noticed(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", '{"a": 1}\n')
    dataset = open_dataset(path)
    path.write_text('{"a": 1}\n{"a": 2}\n')
    with pytest.raises(InputInvalid, match="was changed"):
        rows_of(dataset)


def test_columns_are_mapped_by_name_and_as_told() -> None:
    chain = chain_with(ticket={}, tone={"default": "warm"}, n={"type": "integer"})
    assert map_columns(chain, ["n", "text", "other"], {"ticket": "text"}) == {"n": "n", "ticket": "text"}
    with pytest.raises(InputInvalid) as caught:
        map_columns(chain, ["text"], {"tickets": "text", "n": "txt"})
    assert str(caught.value).splitlines() == [
        "--map tickets=text: the chain has no input 'tickets'. Did you mean 'ticket'?",
        "--map n=txt: the data set has no column 'txt'. Did you mean 'text'?",
    ]


CSV = "text,n,ok\nhello,3,true\n,x,maybe\nbye,,no\n"


def test_rows_are_bound_to_typed_inputs(tmp_path: Path) -> None:
    chain = chain_with(ticket={}, n={"type": "integer", "default": 7}, ok={"type": "boolean"})
    dataset = open_dataset(written(tmp_path, "a.csv", CSV))
    mapping = map_columns(chain, dataset.columns, {"ticket": "text"})
    with pytest.raises(InputInvalid) as caught:
        validate_rows(chain, dataset, mapping)
    assert str(caught.value).splitlines()[1:] == [
        "  row 1: input 'n' must be a whole number, not 'x'. input 'ok' must be true or false, not 'maybe'."
    ]
    bound = validate_rows(chain, dataset, mapping, skip_bad=True)
    assert [(row.row, row.inputs) for row in bound.rows] == [
        (0, {"n": 3, "ok": True, "ticket": "hello"}),
        (2, {"n": 7, "ok": False, "ticket": "bye"}),
    ]
    assert (bound.count, bound.bad_count, [bad.row for bad in bound.bad]) == (2, 1, [1])
    assert next(bound.rows).columns == {"text": "hello", "n": "3", "ok": "true"}


def test_the_column_is_named_where_it_differs_from_the_input(tmp_path: Path) -> None:
    dataset = open_dataset(written(tmp_path, "a.jsonl", '{"text": 3}\n'))
    with pytest.raises(InputInvalid, match=r"input 'ticket' \(column 'text'\) must be of type string"):
        validate_rows(chain_with(ticket={}), dataset, {"ticket": "text"})


def test_bad_rows_of_the_file_and_bad_values_are_told_together(tmp_path: Path) -> None:
    content = '{"n": "x"}\nnot json\n{"n": 1}\n{}\n'
    chain = chain_with(n={"type": "integer"})
    dataset = open_dataset(written(tmp_path, "a.jsonl", content), skip_bad=True)
    bound = validate_rows(chain, dataset, {"n": "n"}, skip_bad=True)
    assert [bad.row for bad in bound.bad] == [0, 1, 3]
    assert (bound.count, bound.bad_count) == (1, 3)


TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"))


@given(
    st.lists(st.lists(TEXT, min_size=2, max_size=2), min_size=1, max_size=8),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_every_csv_that_python_writes_is_read_back(
    tmp_path_factory: Any, rows: list[list[str]], end: str
) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([["a", "b"], *rows])
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_bytes(stream.getvalue().encode())
    assert rows_of(open_dataset(path)) == [dict(zip("ab", row, strict=True)) for row in rows]


@given(st.lists(st.dictionaries(TEXT, st.none() | st.integers() | TEXT), min_size=1, max_size=8))
def test_every_json_line_is_read_back(tmp_path_factory: Any, rows: list[dict[str, Any]]) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "a.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    assert rows_of(open_dataset(path)) == rows


@given(st.sampled_from(["a.csv", "a.jsonl", "a.parquet"]), st.binary(max_size=200), st.booleans())
def test_any_bytes_are_rows_or_an_error(
    tmp_path_factory: Any, name: str, content: bytes, skip_bad: bool
) -> None:
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(content)
    try:
        dataset = open_dataset(path, skip_bad=skip_bad)
    except InputInvalid:
        return
    assert len(rows_of(dataset)) == dataset.count - dataset.bad_count


def test_shards_of_a_large_row_group_are_read_on_from_where_the_last_one_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    count, shard = 5000, 256
    texts = [f"text {number}" for number in range(count)]
    pq.write_table(pa.table({"n": list(range(count)), "text": texts}), tmp_path / "a.parquet")
    dataset = open_dataset(tmp_path / "a.parquet")
    opened: list[Any] = []
    real = pq.ParquetFile
    monkeypatch.setattr(
        pq, "ParquetFile", lambda *given, **more: opened.append(given) or real(*given, **more)
    )
    found: list[list[int]] = [[], [], []]
    for start in range(0, count + 8 * shard, shard):
        for step in range(3):  # the steps of a run are at different rows of one data set
            at = start - 4 * step * shard
            if 0 <= at < count:
                found[step] += [row["n"] for row in rows_of(dataset, at, at + shard)]
    assert found == [list(range(count))] * 3
    assert len(opened) == 3


def test_a_place_in_a_parquet_file_serves_no_row_before_it(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"n": list(range(3000))}), tmp_path / "a.parquet", row_group_size=1500)
    dataset = open_dataset(tmp_path / "a.parquet")
    spans = [(1400, 1600), (0, 10), (2999, 3000), (1599, 1601), (1500, 1501), (5, 7), (2990, None), (0, 1)]
    for start, stop in spans:
        expected = list(range(start, 3000 if stop is None else stop))
        assert [row["n"] for row in rows_of(dataset, start, stop)] == expected
