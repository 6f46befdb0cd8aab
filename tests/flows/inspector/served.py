"""The inspector over a written store, behind a real socket; and a client that sends any header."""

# ruff: noqa: E501 - long rows and headers

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import uvicorn

from chains.settings import Settings
from chains.store import AttemptRow, RecordRow, RunRow, StepRow, Store
from flows.inspector.app import make_app
from flows.inspector.guard import allowed_hosts
from flows.inspector.looking import Looking
from flows.inspector.replay_running import Replays

TOKEN = "the-token-of-this-test"
CHAIN = """chain: desk
inputs: {ticket: {type: string}}
models: {writer: {provider: openai, model: m, base_url: "http://127.0.0.1:1/v1", api_key: "{{ env.DESK_API_KEY }}"}}
defaults: {model: writer}
steps:
  triage: {prompt: "Sort this: {{ inputs.ticket }}"}
  reply:
    prompt:
      - system: "Be kind."
      - user: "About {{ triage.text }}: {{ inputs.ticket }}"
"""
OPTIONS = {
    "chain": "desk.yaml",
    "mapping": {},
    "models": [],
    "base_url": None,
    "skip_bad": False,
    "limit": None,
}


def write_run(store: Store, run: str, rows: list[Mapping[str, Any]], *, status: str = "ok") -> None:
    """Write a run of the two steps; each row has a `ticket`, and an `intent` and a `reply` that were said."""
    number = store.number_of_runs()
    store.put(
        RunRow(
            id=run,
            chain="desk",
            chain_hash="h",
            source=CHAIN.encode(),
            rows=len(rows),
            status=status,
            started_at=1000.0 + number,
            finished_at=1001.0 + number,
            options=json.dumps(OPTIONS).encode(),
            inputs=json.dumps({"ticket": rows[0]["ticket"]}).encode(),
            result=json.dumps({"outputs": {"reply": rows[0]["reply"]}}).encode(),
        ),
        *(
            StepRow(run_id=run, id=step, kind="prompt", status="ok", started_at=1.0, finished_at=2.0)
            for step in ("triage", "reply")
        ),
    )
    for number, row in enumerate(rows):
        ticket, intent = row["ticket"], row["intent"]
        _write(
            store,
            run,
            "triage",
            number,
            {"inputs.ticket": ticket},
            [("user", f"Sort this: {ticket}")],
            intent,
        )
        asked = [("system", "Be kind."), ("user", f"About {intent}: {ticket}")]
        variables = {"triage.text": intent, "inputs.ticket": ticket}
        _write(store, run, "reply", number, variables, asked, row["reply"], error=row.get("error"))


def _write(store, run, step, row, variables, messages, said, error=None) -> None:
    sent = json.dumps([{"role": role, "content": content} for role, content in messages]).encode()
    name = f"{run}-{step}-{row}"
    record = RecordRow(
        id=name,
        run_id=run,
        step=step,
        row=row,
        status="failed" if error else "ok",
        value_key=f"key of {name}",
        inputs=json.dumps(variables).encode(),
        messages=sent,
        output=json.dumps({"text": said, "finish_reason": "stop"}).encode(),
        error=json.dumps({"type": "Refused", "message": error, "hint": error}).encode() if error else None,
        tokens_in=11,
        tokens_out=7,
        started_at=1.0,
        finished_at=3.0,
        attempts=2,
    )
    failed = AttemptRow(
        id=f"{name}-1",
        record_id=name,
        run_id=run,
        step=step,
        number=1,
        state="error",
        request=sent,
        response=b"busy",
        status=429,
        error_type="RateLimited",
        error_message=error or "try later",
        started_at=1.2,
        finished_at=1.5,
        wait_s=0.2,
    )
    answered = AttemptRow(
        id=f"{name}-2",
        record_id=name,
        run_id=run,
        step=step,
        number=2,
        state="ok",
        request=json.dumps({"model": "m", "messages": json.loads(sent)}).encode(),
        response=said.encode(),
        status=200,
        model=error or "m-2026",
        started_at=2.0,
        finished_at=3.0,
        wait_s=0.5,
    )
    store.put(record, failed, answered)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


class Served:
    """A running inspector."""

    def __init__(self, store: Store, *, settings: Settings | None = None) -> None:
        self.store = store
        self.replays = Replays(store, settings) if settings is not None else None
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(128)  # who asks before the server has come up waits
        self.port: int = self._socket.getsockname()[1]
        self.looking = Looking(store)
        app = make_app(
            self.looking,
            token=TOKEN,
            hosts=allowed_hosts("127.0.0.1", self.port),
            port=self.port,
            replays=self.replays,
        )
        config = uvicorn.Config(app, log_level="error", access_log=False, lifespan="off", ws="none")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]})
        self._thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self,
        path: str,
        *,
        method: str = "GET",
        token: str | None = TOKEN,
        body: bytes | None = None,
        **headers: str,
    ) -> Answer:
        """Send one request; `Host` and other headers as given, with `_` for `-`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with closing(connection):
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.putrequest(method, path, skip_host="Host" in given)
            if token is not None:
                connection.putheader("Authorization", f"Bearer {token}")
            for name, value in given.items():
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            with connection.getresponse() as answer:
                found = {name.lower(): value for name, value in answer.getheaders()}
                return Answer(answer.status, found, answer.read())

    def close(self) -> None:
        if self.replays is not None:
            self.replays.close()
        self._server.should_exit = True
        self._thread.join(20)
        self._socket.close()
