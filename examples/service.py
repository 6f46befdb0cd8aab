"""A web service that answers with a deployed chain, through Prefect's `run_deployment`.

    pip install fastapi uvicorn prefect
    PREFECT_API_URL=http://127.0.0.1:4200/api uvicorn service:app --port 8000
    curl -d '{"ticket": "Where is my parcel?"}' -H 'content-type: application/json' localhost:8000/run/support

The service holds no run: when it is restarted, a client that repeats its request with the same
`Idempotency-Key` gets the run that is under way.
"""

from typing import Annotated, Any

import httpx
from fastapi import FastAPI, Header, HTTPException
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
)
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

app = FastAPI(title="Chains")
TIMEOUT = 120


@app.post("/run/{chain}")
async def run(
    chain: str, inputs: dict[str, Any], idempotency_key: Annotated[str | None, Header()] = None
) -> dict[str, Any]:
    """Run a chain over one row and return its outputs."""
    try:
        flow_run = await run_deployment(
            f"run-chain/{chain}",
            parameters=inputs,
            timeout=TIMEOUT,
            poll_interval=0.5,
            idempotency_key=idempotency_key,
            as_subflow=False,
        )
    except ObjectNotFound as error:
        raise HTTPException(404, f"there is no chain {chain!r}") from error
    except (PrefectHTTPStatusError, httpx.HTTPStatusError) as error:
        if error.response.status_code in (409, 422):  # a value that does not fit the form
            raise HTTPException(422, error.response.json()) from error
        raise HTTPException(503, "Prefect does not answer as it should") from error
    if flow_run.state is None or not flow_run.state.is_final():
        raise HTTPException(504, f"not done after {TIMEOUT} s; flow run {flow_run.id} goes on")
    result = await _result(chain, flow_run)
    if result["status"] != "ok":
        raise HTTPException(502, result["error"])
    return result["outputs"]


async def _result(chain: str, flow_run: Any) -> dict[str, Any]:
    """Return the result that the run left as an artifact."""
    chosen = ArtifactFilter(
        flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run.id]),
        key=ArtifactFilterKey(any_=[f"{chain}-result".replace("_", "-")]),
    )
    async with get_client() as client:
        found = await client.read_artifacts(artifact_filter=chosen)
    if not found:
        raise HTTPException(502, f"{flow_run.state.type.value}: {flow_run.state.message}")
    return found[0].data
