"""The tables as they are now.

Owns column names, types, constraints and indexes, in types that SQLite and PostgreSQL share. How a store
gets here from an older one is told by chains.store.migrations; a test holds both to the same schema.
A payload `x` has two columns: `x` for bytes kept in the row, `x_blob` for the sha256 of a blob.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    and_,
    false,
)

metadata = MetaData()

BLOB_SUFFIX = "_blob"


def _payload(name: str) -> tuple[Column[Any], Column[Any]]:
    return Column(name, LargeBinary), Column(name + BLOB_SUFFIX, String(64))


runs = Table(
    "runs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("chain", Text, nullable=False),
    Column("chain_hash", String(64), nullable=False),
    *_payload("source"),
    *_payload("files"),
    *_payload("inputs"),
    Column("data_path", Text),
    Column("data_sha256", String(64)),
    Column("rows", BigInteger, nullable=False),
    Column("status", String(16), nullable=False),
    Column("started_at", Double, nullable=False),
    Column("finished_at", Double),
    *_payload("result"),
    Column("host", Text),
    Column("pid", BigInteger),
    Column("prefect_flow_run_id", Text),
    *_payload("options"),
    Column("heartbeat_at", Double),
    # No foreign key: a fork outlives the run that it was made from.
    Column("forked_from", String(64)),
    Index("runs_started_at", "started_at"),
    Index("runs_chain", "chain", "started_at"),
)

steps = Table(
    "steps",
    metadata,
    Column("run_id", String(64), ForeignKey("runs.id"), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("kind", String(32), nullable=False),
    Column("once", Boolean, nullable=False),
    Column("status", String(16), nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    *_payload("spec"),
    *_payload("counts"),
)

records = Table(
    "records",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("run_id", String(64), nullable=False),
    Column("step", String(64), nullable=False),
    Column("row", BigInteger, nullable=False),
    Column("item", Integer, nullable=False),
    Column("turn", Integer, nullable=False),
    Column("sample", Integer, nullable=False),
    Column("status", String(16), nullable=False),
    Column("value_key", String(64)),
    # No foreign key: a record stays readable when the run that it reused from has been removed.
    Column("reused_from", String(64)),
    *_payload("inputs"),
    *_payload("messages"),
    *_payload("output"),
    *_payload("error"),
    Column("tokens_in", BigInteger),
    Column("tokens_out", BigInteger),
    Column("cost_micro", BigInteger),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("attempts", Integer, nullable=False),
    Column("worker", Text),
    # Its payloads are those of `reused_from`, which is never linked itself.
    Column("linked", Boolean, nullable=False, server_default=false()),
    # Items and turns around the one of the step itself; see RecordRow.
    Column("path", Text, nullable=False, server_default=""),
    UniqueConstraint("run_id", "step", "row", "path", "item", "turn", "sample", name="records_position"),
    ForeignKeyConstraint(["run_id", "step"], ["steps.run_id", "steps.id"]),
    Index("records_value_key", "value_key"),
)


def of_whole_rows() -> ColumnElement[bool]:
    """Return the condition of the records that stand for a whole row: no item's, turn's or sample's."""
    inside = (records.c.item == -1, records.c.turn == -1, records.c.sample == 0)
    return and_(records.c.path == "", *inside)


attempts = Table(
    "attempts",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("record_id", String(64), ForeignKey("records.id"), nullable=False),
    Column("run_id", String(64), ForeignKey("runs.id"), nullable=False),
    Column("step", String(64), nullable=False),
    Column("number", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    *_payload("request"),
    *_payload("response"),
    Column("status", Integer),
    Column("error_type", Text),
    Column("error_message", Text),
    Column("tokens_in", BigInteger),
    Column("tokens_out", BigInteger),
    Column("cost_micro", BigInteger),
    Column("model", Text),
    Column("request_id", Text),
    Column("started_at", Double, nullable=False),
    Column("finished_at", Double),
    Column("wait_s", Double, nullable=False),
    Column("device_wait_s", Double, nullable=False, server_default="0"),
    Index("attempts_record", "record_id", "number"),
    Index("attempts_run", "run_id", "step"),
)

models = Table(
    "models",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("base", Text),
    *_payload("files"),
    Column("sha256", String(64), nullable=False),
    *_payload("metrics"),
    *_payload("lineage"),
    Column("created_at", Double, nullable=False),
    Column("is_latest", Boolean, nullable=False),
)

collections = Table(
    "collections",
    metadata,
    Column("name", String(64), primary_key=True),
    *_payload("embedder"),
    Column("dimension", Integer, nullable=False),
    Column("distance", String(16), nullable=False),
    Column("normalised", Boolean, nullable=False),
    Column("dtype", String(16), nullable=False),
    Column("points", BigInteger, nullable=False),
    Column("url", Text),
    Column("updated_at", Double, nullable=False),
)

blobs = Table(
    "blobs",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("size", BigInteger, nullable=False),
    # Pinned: put by itself (a file of a model or data set), so no payload column need refer to it.
    Column("pinned", Boolean, nullable=False),
    Column("touched_at", Double, nullable=False),
)

# Who works on a value key. No row is no claim.
claims = Table(
    "claims",
    metadata,
    Column("key", String(200), primary_key=True),
    Column("holder", String(64), nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("lease_until", Double, nullable=False),
)

# What calls have used of each budget, those under way with their estimates.
spend = Table(
    "spend",
    metadata,
    Column("scope", String(200), primary_key=True),
    Column("calls", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("cost_micro", BigInteger, nullable=False),
    Column("unknown_calls", BigInteger, nullable=False),
)

# A bucket of requests and tokens for each rate that processes share.
slots = Table(
    "slots",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("requests", Double, nullable=False),
    Column("tokens", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
)

# Apart from `runs`, which is written whole by whoever executes the run: others write here meanwhile.
leases = Table(
    "leases",
    metadata,
    Column("run_id", String(64), primary_key=True),
    Column("holder", String(64)),
    Column("fence", BigInteger, nullable=False),
    Column("lease_until", Double),
    Column("cancel_requested_at", Double),
)
