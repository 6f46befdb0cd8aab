"""pytest tests/chains/store/test_store_portability.py"""

from __future__ import annotations

import subprocess
import sys

import pytest
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from chains.store import reading, run_life
from chains.store.connecting import upsert
from chains.store.schema import metadata

DIALECT = postgresql.dialect()


@pytest.mark.parametrize("table", metadata.sorted_tables, ids=lambda table: table.name)
def test_each_table_and_its_upsert_can_be_said_to_postgresql(table):
    assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=DIALECT))
    for index in table.indexes:
        assert "CREATE INDEX" in str(CreateIndex(index).compile(dialect=DIALECT))
    assert "ON CONFLICT" in str(upsert(table, "postgresql").compile(dialect=DIALECT))


@pytest.mark.parametrize("query", [reading._newest_per_key(), run_life.sums_of_run(), reading._at_position()])
def test_the_longer_queries_can_be_said_to_postgresql(query):
    assert "SELECT" in str(query.compile(dialect=DIALECT))


def test_the_database_library_is_loaded_with_the_store_and_not_before():
    code = "import sys, chains, chains.failpoints, chains.spec; print('sqlalchemy' in sys.modules);"
    code += "import chains.store; print('sqlalchemy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
