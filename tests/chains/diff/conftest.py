"""A store to write runs into."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from written_runs import Written

from chains.store import open_store


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Written]:
    store = open_store(tmp_path / "store")
    yield Written(store)
    store.close()
