"""No password of a store reaches Prefect."""

from __future__ import annotations

import pytest
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, temporary_settings

from chains.errors import InputInvalid
from flows.pools import ensure_deployment, ensure_pool
from flows.run_chain import run_chain
from flows.store_parameter import refuse_password
from flows.sweep import sweep

CANARY = "canary-91f3"
SECRET = (
    f"postgresql://headrace:{CANARY}@db.example:5432/headrace",
    f"postgres://:{CANARY}@db.example/headrace",
    f"postgresql+psycopg://headrace@db.example/headrace?sslmode=require&password={CANARY}",
)
PLAIN = ("postgresql://headrace@db.example/headrace?sslmode=require", "/srv/a:b@c/store", ".headrace")


@pytest.mark.parametrize("flow", [run_chain, sweep])
async def test_the_api_refuses_a_password_before_a_flow_run_exists(flow, prefect_url: str) -> None:
    with temporary_settings({PREFECT_API_URL: prefect_url}):
        async with get_client() as client:
            await ensure_pool(client, "no-passwords")
            made = await ensure_deployment(client, flow, "no-passwords", pool="no-passwords")
            chain = {"chain": "support"} if flow is run_chain else {}
            for store in SECRET:
                with pytest.raises(PrefectHTTPStatusError) as refused:
                    await client.create_flow_run_from_deployment(made, parameters={**chain, "store": store})
                assert refused.value.response.status_code == 409
            for store in (*PLAIN, None):
                await client.create_flow_run_from_deployment(made, parameters={**chain, "store": store})


@pytest.mark.parametrize("store", SECRET)
def test_a_flow_that_is_called_with_a_password_says_what_to_do(store: str) -> None:
    with pytest.raises(InputInvalid, match="Prefect keeps and shows parameters") as refused:
        refuse_password(store)
    assert CANARY not in str(refused.value) and "HEADRACE_STORE" in str(refused.value)


@pytest.mark.parametrize("store", [*PLAIN, None])
def test_a_store_without_a_password_is_taken(store: str | None) -> None:
    refuse_password(store)
