"""What every part of the suite may use: `servers` on the path, and one real Prefect server per session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from servers.prefect_server import prefect_server


@pytest.fixture(scope="session")
def prefect_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Prefect server on a database of its own."""
    with prefect_server(tmp_path_factory.mktemp("prefect")) as url:
        yield url
