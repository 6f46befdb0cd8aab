"""The GPU pool with Prefect's server on PostgreSQL: what holds on SQLite holds there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from servers.postgres_server import temporary_postgres
from servers.prefect_server import prefect_server
from test_gpu_pool import (
    serve_runs,
    test_a_deployed_run_stays_on_its_pool_and_its_gpu_steps_load_one_model_for_all_parts,
)
from test_gpu_pool_kills import (
    test_a_training_goes_on_from_its_checkpoint_on_a_new_worker_when_its_own_was_killed,
)

psycopg = pytest.importorskip("psycopg")
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

__all__ = [
    "serve_runs",
    "test_a_deployed_run_stays_on_its_pool_and_its_gpu_steps_load_one_model_for_all_parts",
    "test_a_training_goes_on_from_its_checkpoint_on_a_new_worker_when_its_own_was_killed",
]


@pytest.fixture(scope="module")
def prefect_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server on PostgreSQL, in place of the one of all tests."""
    with temporary_postgres() as url:
        with psycopg.connect(f"{url}/postgres", autocommit=True) as connection:
            connection.execute("CREATE DATABASE prefect")
        database = url.replace("postgresql:", "postgresql+asyncpg:") + "/prefect"
        home = tmp_path_factory.mktemp("prefect-on-postgres")
        with prefect_server(home, PREFECT_SERVER_DATABASE_CONNECTION_URL=database) as api:
            yield api
