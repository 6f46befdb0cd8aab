"""Calls a deployed chain from another program: `outputs = call("support", {"ticket": "..."})`.

Owns how a call waits and what it raises. Knows Prefect's HTTP API and nothing of its library, of stores and
of how a run is run: importing this costs nothing, and a caller needs no more than an address.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote

from chains.clock import Clock
from chains.errors import (
    Cancelled,
    ConnectionFailed,
    EnvironmentLacks,
    HeadraceError,
    InputInvalid,
    RateLimited,
    ServerFault,
    StepFailed,
    TimedOut,
)
from flows.prefect_server import REFUSED_HINT, USUAL_URL, ask_api, configured_url, without_password

FLOW = "run-chain"
FINAL = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
_TRIES, _LONGEST_WAIT = 6, 60.0
_REQUEST_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Call:
    """A call that was begun: its flow run, which goes on whatever becomes of the caller."""

    chain: str
    flow_run_id: str
    api: str

    def result(self, *, timeout: float | None = None) -> dict[str, Any]:
        """Wait for the end and return the run's result, whether it went well or not.

        `outputs` holds those of a single row, `row_outputs` those of a data set. Raises TimedOut after
        `timeout` seconds, and StepFailed or Cancelled where the flow run ended before it had a run.
        """
        clock = Clock()
        begun, pause = clock.monotonic(), _FIRST_PAUSE
        while (state := self._state())["type"] not in FINAL:
            left = None if timeout is None else timeout - (clock.monotonic() - begun)
            if left is not None and left <= 0:
                raise TimedOut(
                    f"the chain {self.chain!r} has not answered after {timeout:g} s.",
                    hint=f"Its flow run {self.flow_run_id} goes on; it is {state['type'].lower()}.",
                )
            time.sleep(pause if left is None else min(pause, left))
            pause = min(pause * 1.5, _LONGEST_PAUSE)
        return self._artifact() or self._without_run(state)

    def outputs(self, *, timeout: float | None = None) -> Any:
        """Wait for the end and return the outputs: of the single row, or a list of those of each row.

        Raises StepFailed or Cancelled for a run that did not go well, TimedOut after `timeout` seconds, and
        EnvironmentLacks where the outputs are too long to travel.
        """
        result = self.result(timeout=timeout)
        if result["status"] != "ok":
            raise _failed(result)
        if result.get("note"):
            raise EnvironmentLacks(f"run {result['run_id']}: {result['note']}")
        return result["outputs"] if result["row_outputs"] is None else result["row_outputs"]

    def _state(self) -> dict[str, Any]:
        state = _ask(self.api, f"flow_runs/{self.flow_run_id}").get("state")
        return state or {"type": "PENDING", "message": None}

    def _artifact(self) -> dict[str, Any] | None:
        chosen = {"flow_run_id": {"any_": [self.flow_run_id]}, "type": {"any_": ["json"]}}
        found = _ask(self.api, "artifacts/filter", {"artifacts": chosen, "sort": "CREATED_DESC", "limit": 1})
        return found[0]["data"] if found else None

    def _without_run(self, state: Mapping[str, Any]) -> dict[str, Any]:
        said = f"the chain {self.chain!r} was not run: {state.get('message') or state['type'].lower()}"
        hint = f"See its flow run {self.flow_run_id}."
        raise Cancelled(said, hint=hint) if state["type"] == "CANCELLED" else StepFailed(said, hint=hint)


def call(
    chain: str,
    inputs: Mapping[str, Any] | None = None,
    *,
    data: str | None = None,
    options: Mapping[str, Any] | None = None,
    timeout: float | None = None,
    idempotency_key: str | None = None,
    api: str | None = None,
) -> Any:
    """Run a deployed chain and return its outputs.

    `inputs` and `data` are what its form takes. A second call with the same `idempotency_key` returns what
    the first one did. `timeout` ends the waiting, not the run. `api` is the address of the Prefect API;
    default: PREFECT_API_URL, else Prefect's usual port. Raises InputInvalid for values that do not fit and
    chains that are not deployed, EnvironmentLacks where the API is not there or refuses, TimedOut,
    StepFailed and Cancelled.
    """
    begun = begin_call(chain, inputs, data=data, options=options, idempotency_key=idempotency_key, api=api)
    return begun.outputs(timeout=timeout)


async def acall(chain: str, inputs: Mapping[str, Any] | None = None, **asked: Any) -> Any:
    """Run a deployed chain and return its outputs, without holding up the event loop; as `call`."""
    return await asyncio.to_thread(call, chain, inputs, **asked)


def begin_call(
    chain: str,
    inputs: Mapping[str, Any] | None = None,
    *,
    data: str | None = None,
    options: Mapping[str, Any] | None = None,
    idempotency_key: str | None = None,
    api: str | None = None,
) -> Call:
    """Begin a run of a deployed chain and return at once; raises as `call` does."""
    url = _address(api)
    parameters: dict[str, Any] = dict(inputs or {})
    parameters |= {"data": data} if data is not None else {}
    parameters |= {"options": dict(options)} if options else {}
    # A request is repeated where the server is busy, and may have done its work the first time.
    body = {"parameters": parameters, "idempotency_key": idempotency_key or Clock().new_id()}
    flow_run = _ask(url, f"deployments/{deployment_of(chain, api=api)['id']}/create_flow_run", body)
    return Call(chain, flow_run["id"], url)


def go_on(flow_run_id: str, answer: Mapping[str, Any]) -> bool:
    """Have a paused flow run go on whose rows have their answers; False where it is not paused.

    Raises as `call` does where the API is not there.
    """
    url = configured_url()
    if url is None:
        return False
    url = url.rstrip("/")
    if _ask(url, f"flow_runs/{flow_run_id}")["state"]["type"] != "PAUSED":
        return False
    # The form of a single row wants its answer, that of several lets each be left out.
    given: tuple[dict[str, Any], ...] = ({}, dict(answer))
    return any(
        _ask(url, f"flow_runs/{flow_run_id}/resume", {"run_input": one})["status"] == "ACCEPT"
        for one in given
    )


def deployment_of(chain: str, *, api: str | None = None) -> dict[str, Any]:
    """Return a chain's deployment as Prefect's API tells it; raises InputInvalid where there is none."""
    url = _address(api)
    try:
        found: dict[str, Any] = _ask(url, f"deployments/name/{FLOW}/{quote(chain, safe='')}")
    except InputInvalid as error:
        raise InputInvalid(
            f"there is no deployed chain {chain!r} at {without_password(url)}.",
            hint="`headrace deploy` registers chains, `headrace up` those of a folder.",
        ) from error
    return found


def _address(api: str | None) -> str:
    return (api or configured_url() or USUAL_URL).rstrip("/")


def _ask(url: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Ask the API; wait where it asks for patience. Raises in the words of this project."""
    for tried in range(1, _TRIES + 1):
        try:
            return json.loads(ask_api(f"{url}/{path}", body, timeout=_REQUEST_SECONDS))
        except HTTPError as error:
            refusal = _refusal(error, url)
            if not isinstance(refusal, RateLimited | ServerFault) or tried == _TRIES:
                raise refusal from error
            time.sleep(min(refusal.retry_after or 0.5 * 2**tried, _LONGEST_WAIT))
        except (OSError, ValueError, HTTPException) as error:
            raise ConnectionFailed(
                f"no Prefect API answers at {without_password(url)}: {error}.",
                hint="Start one with `headrace up`, or set PREFECT_API_URL.",
            ) from error
    raise AssertionError("the last try returns or raises")


def _refusal(error: HTTPError, url: str) -> HeadraceError:
    """Return what an answer that is no success means."""
    with error:
        said = error.read(65536).decode("utf-8", "replace")
    try:
        detail = json.loads(said)
        said = str(detail.get("detail") or detail.get("exception_detail") or said)
    except (ValueError, AttributeError):
        pass
    shown, after = without_password(url), error.headers.get("Retry-After", "")
    match error.code:
        case 401 | 403:
            return EnvironmentLacks(f"the Prefect API at {shown} refuses this user.", hint=f"{REFUSED_HINT}.")
        case 404 | 409 | 422:
            return InputInvalid(said[:1000].removeprefix("Error creating flow run: "))
        case 429:
            return RateLimited(
                f"the Prefect API at {shown} asks for patience (429).",
                retry_after=float(after) if after.replace(".", "", 1).isdigit() else None,
            )
        case _:
            return ServerFault(f"the Prefect API at {shown} answered {error.code}: {said[:300]}")


def _failed(result: Mapping[str, Any]) -> HeadraceError:
    run, status = result["run_id"], result["status"]
    if status == "cancelled":
        return Cancelled(f"run {run} was stopped.", hint=f"`headrace resume {run}` finishes it.")
    error = result.get("error") or {}
    row = "" if error.get("row") is None else f", row {error['row']}"
    why = f": step {error['step']!r}{row}: {error['message']}" if error else "."
    return StepFailed(f"run {run} is {status}{why}", hint=f"See `headrace show {run}`.")
