"""Migration 1: runs, steps, records, attempts, models, collections and blobs.

Owns the first schema as it was released, frozen here; chains.store.schema says what the schema is now.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
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
)

_metadata = MetaData()


def _payload(name: str) -> tuple[Column[Any], Column[Any]]:
    return Column(name, LargeBinary), Column(name + "_blob", String(64))


Table(
    "runs",
    _metadata,
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
    Index("runs_started_at", "started_at"),
    Index("runs_chain", "chain", "started_at"),
)

Table(
    "steps",
    _metadata,
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

Table(
    "records",
    _metadata,
    Column("id", String(64), primary_key=True),
    Column("run_id", String(64), nullable=False),
    Column("step", String(64), nullable=False),
    Column("row", BigInteger, nullable=False),
    Column("item", Integer, nullable=False),
    Column("turn", Integer, nullable=False),
    Column("sample", Integer, nullable=False),
    Column("status", String(16), nullable=False),
    Column("value_key", String(64)),
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
    UniqueConstraint("run_id", "step", "row", "item", "turn", "sample", name="records_position"),
    ForeignKeyConstraint(["run_id", "step"], ["steps.run_id", "steps.id"]),
    Index("records_value_key", "value_key"),
)

Table(
    "attempts",
    _metadata,
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
    Index("attempts_record", "record_id", "number"),
    Index("attempts_run", "run_id", "step"),
)

Table(
    "models",
    _metadata,
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

Table(
    "collections",
    _metadata,
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

Table(
    "blobs",
    _metadata,
    Column("sha256", String(64), primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("pinned", Boolean, nullable=False),
    Column("touched_at", Double, nullable=False),
)


def apply(connection: Connection) -> None:
    """Create the tables."""
    _metadata.create_all(connection, checkfirst=False)
