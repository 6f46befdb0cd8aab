"""pytest tests/chains/store/test_store_rows.py"""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import inspect

from chains.errors import InputInvalid, StoreConflict
from chains.store import UNREAD, CollectionRow, ModelRow, RunRow, StepRow
from chains.store.schema import metadata
from chains.store.shapes import SHAPES, SPILL_OVER

PAYLOAD_FIELDS = ("inputs", "messages", "output", "error")
SIZES = (0, 1, SPILL_OVER - 1, SPILL_OVER, SPILL_OVER + 1, 3 * SPILL_OVER)
reuse_store = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def payloads():
    small = st.one_of(
        st.none(), st.binary(max_size=80), st.sampled_from([b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\0\0a"])
    )
    sized = st.builds(
        lambda size, seed: (seed * (size // len(seed) + 1))[:size],
        st.sampled_from(SIZES),
        st.binary(min_size=1, max_size=9),
    )
    return st.one_of(small, sized)


@reuse_store
@given(values=st.fixed_dictionaries({name: payloads() for name in PAYLOAD_FIELDS}), row=st.integers(0, 50))
def test_a_record_comes_back_byte_for_byte(store, record_row, values, row):
    written = record_row(row, **values)
    store.put(written)
    assert store.record("run1", "triage", row) == written


counts = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))
times = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False))


@reuse_store
@given(
    tokens=counts,
    cost=counts,
    started=times,
    finished=times,
    key=st.none() | st.text("0123456789abcdef", max_size=64),
)
def test_numbers_and_keys_of_a_record_come_back_as_given(
    store, record_row, tokens, cost, started, finished, key
):
    fields = {"tokens_in": tokens, "cost_micro": cost, "started_at": started, "finished_at": finished}
    written = record_row(1, value_key=key, **fields)
    store.put(written)
    assert store.record("run1", "triage", 1) == written


@reuse_store
@given(
    writes=st.lists(
        st.tuples(st.integers(0, 4), payloads(), st.sampled_from(["running", "ok", "failed"])), max_size=12
    )
)
def test_of_several_writes_of_one_row_the_last_one_stays(store, record_row, writes):
    store.put(*(record_row(row) for row in range(5)))
    rows = [record_row(row, output=output, status=status) for row, output, status in writes]
    store.put(*rows)
    last = {row.row: row for row in rows}
    found = {record.row: record for record in store.records("run1", "triage")}
    assert found == {row: last.get(row, record_row(row)) for row in range(5)}


@pytest.mark.parametrize("size", SIZES)
def test_only_a_payload_over_64_kib_becomes_a_blob(store, record_row, size):
    store.put(record_row(output=b"x" * size))
    assert len(list(store.blobs.listed())) == (1 if size > SPILL_OVER else 0)


def test_every_kind_of_row_comes_back_as_written(store, record_row, attempt_row):
    big = bytes(range(256)) * 400
    run = RunRow(
        id="run2", chain="c", chain_hash="h", source=big, files=b'{"a": "b"}', rows=3, data_path="/x/y.csv",
        status="ok", started_at=1.5, finished_at=2.5, result=big[1:], host="h", pid=7, heartbeat_at=2.0,
    )  # fmt: skip
    attempt = attempt_row(
        request=big, response=big[2:], state="error", status=503, error_type="ServerFault", error_message="e",
        tokens_in=1, tokens_out=2, cost_micro=3, model="m", request_id="q", finished_at=9.0, wait_s=0.5,
    )  # fmt: skip
    model = ModelRow(name="m", version=1, kind="adapter", files=b"{}", sha256="s", created_at=1.0, base="b")
    collection = CollectionRow(
        name="handbook",
        embedder=b"{}",
        dimension=384,
        distance="cosine",
        normalised=True,
        dtype="bf16",
        updated_at=1.0,
    )
    store.put(run, record_row(), attempt, model, collection)
    assert store.run("run2") == run
    assert store.attempts("record-0") == [attempt]
    assert store.model("m", 1) == model
    assert store.collection("handbook") == collection == store.collections()[0]


def test_fields_and_columns_are_the_same_names():
    for shape in SHAPES.values():
        assert {column.name.removesuffix("_blob") for column in shape.table.columns} == set(shape.names)
        assert set(shape.ids) <= set(shape.plain)


def test_every_bytes_field_is_a_payload_and_no_other():
    for shape in SHAPES.values():
        hints = {field.name: str(field.type) for field in dataclasses.fields(shape.row_type)}
        assert set(shape.payloads) == {name for name, hint in hints.items() if "bytes" in hint}


def test_the_database_has_the_schema_of_the_program(store):
    inspector = inspect(store._reading_engine())
    assert set(inspector.get_table_names()) == {*metadata.tables, "migrations"}
    for table in metadata.tables.values():
        found = {c["name"]: (str(c["type"]), c["nullable"]) for c in inspector.get_columns(table.name)}
        dialect = store._reading_engine().dialect
        wanted = {c.name: (c.type.compile(dialect), bool(c.nullable)) for c in table.columns}
        assert found == wanted, table.name
        assert {i["name"] for i in inspector.get_indexes(table.name)} >= {i.name for i in table.indexes}
        assert len(inspector.get_foreign_keys(table.name)) == len(table.foreign_key_constraints)


@pytest.mark.parametrize(
    "bad", ["../up", "/abs", "a/b", "", "A", "a.b", "a\0b", "-a", "%2e%2e", "a" * 65, "é", "run1\n", None, 7]
)
def test_an_id_that_could_leave_the_folder_is_refused(store, record_row, bad):
    for field in ("id", "run_id", "step"):
        if (field, bad) == ("step", "a.b"):
            continue  # a step inside a step
        with pytest.raises(InputInvalid):
            store.put(record_row(**{field: bad}))
    assert store.records("run1") == []


@pytest.mark.parametrize("bad", ["a..b", ".a", "a.", "a./b", "a.-b", "a.B", f"a.{'b' * 63}", "a.b\n"])
def test_the_name_of_a_step_inside_a_step_has_names_between_its_dots(store, record_row, bad):
    with pytest.raises(InputInvalid, match="no valid"):
        store.put(record_row(step=bad))


def test_records_inside_a_record_have_positions_of_their_own_and_are_read_when_asked_for(store, record_row):
    store.put(StepRow(run_id="run1", id="triage.inner", kind="prompt"))
    own = record_row(0, status="ok")
    inside = [
        record_row(0, id="r1", item=1, status="failed"),
        record_row(0, id="r2", turn=1, status="ok"),
        record_row(0, id="r3", path="draft[item 2]", status="ok"),
        record_row(0, id="r4", step="triage.inner", path="triage[item 2]", status="ok"),
    ]
    store.put(own, *inside)
    assert [record.id for record in store.records("run1")] == [own.id]
    assert {record.id for record in store.records("run1", within=True)} == {own.id, *(r.id for r in inside)}
    assert store.outputs("run1", "triage", range(1)).keys() == {0}
    assert store.record("run1", "triage", 0, path="draft[item 2]").id == inside[2].id
    with pytest.raises(StoreConflict):
        store.put(dataclasses.replace(inside[2], id="another"))
    counts = store.counts("run1")["triage"]
    assert (counts["ok"], counts["within_ok"], counts["within_failed"]) == (1, 2, 1)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"started_at": math.nan}, "records.started_at"),
        ({"status": "done"}, "records.status"),
        ({"output": "text"}, "records.output"),
        ({"output": bytearray(b"x")}, "records.output"),
        ({"value_key": "k" * 65}, "records.value_key"),
        ({"tokens_in": 2**63}, "records.tokens_in"),
        ({"tokens_in": True}, "records.tokens_in"),
        ({"tokens_in": 1.0}, "records.tokens_in"),
        ({"attempts": 2**31}, "records.attempts"),
        ({"attempts": None}, "records.attempts"),
        ({"started_at": "noon"}, "records.started_at"),
        ({"started_at": math.inf}, "records.started_at"),
        ({"value_key": b"k"}, "records.value_key"),
    ],
)
def test_a_value_that_does_not_fit_its_column_is_refused_by_name(store, record_row, fields, named):
    with pytest.raises(InputInvalid, match=named):
        store.put(record_row(**fields))


def test_a_required_payload_cannot_be_none(store, run_row):
    with pytest.raises(InputInvalid, match=r"runs\.source"):
        store.put(dataclasses.replace(run_row, source=None))


def test_what_is_no_row_is_refused(store):
    with pytest.raises(InputInvalid, match="dict"):
        store.put({})


def test_text_that_no_database_holds_is_marked_and_not_an_error(store, record_row, attempt_row):
    store.put(record_row(), attempt_row(error_message="a\ud800b\0c é", model="😀"))
    [attempt] = store.attempts("record-0")
    assert (attempt.error_message, attempt.model) == ("a\ufffdb\ufffdc é", "😀")


def test_a_row_read_without_payloads_cannot_wipe_them(store, record_row):
    store.put(record_row(output=b"kept"))
    [light] = store.records("run1", payloads=False)
    assert light.output is UNREAD
    with pytest.raises(StoreConflict, match="payloads=False"):
        store.put(dataclasses.replace(light, status="failed"))
    assert store.record("run1", "triage", 0).output == b"kept"


def test_put_of_nothing_is_no_transaction(store):
    before = store.transactions
    store.put()
    assert store.transactions == before


def test_the_newest_end_of_a_run_is_that_of_its_last_record(store, record_row):
    assert store.newest_end("run1") == 0.0
    store.put(record_row(0, finished_at=104.5), record_row(1, finished_at=103.0), record_row(2))
    assert store.newest_end("run1") == 104.5
    assert store.newest_end("run1", ["triage"]) == 104.5
    assert store.newest_end("run1", ["draft"]) == store.newest_end("run2") == 0.0
