"""How a call takes what an API answers: patience where it is asked for, one sentence where it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from chains.errors import Cancelled, ConnectionFailed, EnvironmentLacks, InputInvalid, StepFailed
from flows.client import begin_call, call

DEPLOYMENT = {"id": "d1"}
ENDED = {"state": {"type": "COMPLETED", "message": None}}


class Api:
    """An HTTP server that gives prepared answers, one per request, and keeps the requests."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str], Any]] = []
        self.asked: list[tuple[str, Any]] = []
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(None)

            def do_POST(self) -> None:
                self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _answer(self, body: Any) -> None:
                api.asked.append((self.path, body))
                status, headers, content = api.answers.pop(0)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(json.dumps(content).encode())

            def log_message(self, *_: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/api"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def will(self, *answers: Any) -> None:
        """Answer with these, each a body or `(status, headers, body)`."""
        self.answers += [one if isinstance(one, tuple) else (200, {}, one) for one in answers]


@pytest.fixture
def api() -> Iterator[Api]:
    made = Api()
    yield made
    made.server.shutdown()
    made.server.server_close()


def result(status: str = "ok", **more: Any) -> list[dict[str, Any]]:
    found = {"run_id": "r1", "status": status, "outputs": {"a": 1}, "row_outputs": None, "error": None}
    return [{"data": found | more}]


def test_429_is_waited_for_and_asked_again(api: Api) -> None:
    busy = (429, {"Retry-After": "0.01"}, {})
    api.will(busy, busy, DEPLOYMENT, busy, {"id": "f1"}, busy, ENDED, busy, result())
    assert call("c", {"x": 1}, api=api.url, idempotency_key="k") == {"a": 1}
    bodies = [body for path, body in api.asked if path.endswith("create_flow_run")]
    assert bodies == [{"parameters": {"x": 1}, "idempotency_key": "k"}] * 2
    assert api.answers == []


def test_a_call_that_names_no_key_makes_one_run_however_often_it_is_asked(api: Api) -> None:
    busy = (503, {"Retry-After": "0.01"}, {})
    api.will(DEPLOYMENT, busy, busy, {"id": "f1"}, DEPLOYMENT, {"id": "f2"})
    begin_call("c", {"x": 1}, api=api.url)
    begin_call("c", {"x": 1}, api=api.url)
    *first, second = [body["idempotency_key"] for path, body in api.asked if path.endswith("flow_run")]
    assert len(first) == 3 and len(set(first)) == 1 and second != first[0]


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        ((401, {}, {}), EnvironmentLacks, "refuses this user. Set PREFECT_API_KEY"),
        ((404, {}, {"detail": "Not Found"}), InputInvalid, "no deployed chain 'c'"),
    ],
)
def test_a_refusal_is_one_sentence(api: Api, answer: Any, error: type[Exception], words: str) -> None:
    api.will(answer)
    with pytest.raises(error, match=words):
        call("c", api=api.url)
    assert len(api.asked) == 1


def test_what_the_form_refuses_is_told_in_the_servers_words(api: Api) -> None:
    said = (
        "Error creating flow run: Validation failed for field 'tone'. Failure reason: 'x' is not one of [1]"
    )
    api.will(DEPLOYMENT, (409, {}, {"detail": said}))
    with pytest.raises(InputInvalid, match=r"^Validation failed for field 'tone'"):
        call("c", {"tone": "x"}, api=api.url)


def test_a_run_that_did_not_go_well_is_raised(api: Api) -> None:
    error = {"step": "reply", "row": 3, "message": "no such thing."}
    api.will(DEPLOYMENT, {"id": "f1"}, ENDED, result("failed", error=error))
    with pytest.raises(StepFailed, match=r"run r1 is failed: step 'reply', row 3: no such thing"):
        call("c", api=api.url)
    api.will(DEPLOYMENT, {"id": "f1"}, ENDED, result("cancelled"))
    with pytest.raises(Cancelled, match="run r1 was stopped"):
        call("c", api=api.url)
    crashed = {"state": {"type": "CRASHED", "message": "the worker is gone"}}
    api.will(DEPLOYMENT, {"id": "f1"}, crashed, [])
    with pytest.raises(StepFailed, match="was not run: the worker is gone"):
        call("c", api=api.url)


def test_the_outputs_of_a_data_set_are_a_list(api: Api) -> None:
    rows = [{"row": 0, "status": "ok", "outputs": {"a": 1}, "errors": {}}]
    api.will(DEPLOYMENT, {"id": "f1"}, ENDED, result(outputs=None, row_outputs=rows))
    assert call("c", data="d.csv", options={"limit": 1}, api=api.url) == rows
    assert api.asked[1][1]["parameters"] == {"data": "d.csv", "options": {"limit": 1}}


def test_an_address_where_nothing_answers_is_told_without_its_password() -> None:
    with pytest.raises(ConnectionFailed, match=r"no Prefect API answers at http://127.0.0.1:9/api: ") as told:
        begin_call("c", api="http://me:hunter2@127.0.0.1:9/api")
    assert "hunter2" not in str(told.value)


def test_the_client_loads_neither_prefect_nor_a_store() -> None:
    code = "import sys, flows.client; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "flows.client" in loaded
    assert not loaded & {"prefect", "sqlalchemy", "pydantic", "httpx", "torch", "typer"}
