"""Between a run and Prefect: what goes there, what does not, and what happens when Prefect says no."""

from __future__ import annotations

import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from servers.prefect_api import ask, flow_run

pytestmark = pytest.mark.e2e
CANARY = "sk-canary-5Zq9"


def test_inputs_stay_here_however_long_they_are(prefect_desk, prefect_url: str) -> None:
    desk = prefect_desk()
    (desk.folder / "long.txt").write_text("my refund, please. " * 40_000)  # Prefect takes no more than 512 KB
    functions = desk.chain.parent / "functions.py"
    functions.write_text(functions.read_text().replace("    return", '    print("said")\n    return'))
    done = desk.headrace("run", str(desk.chain), "-i", "ticket=@long.txt", "--json")
    assert done.code == 0, done.err
    assert done.json()["status"] == "ok"  # and not what the step prints
    carried = flow_run(prefect_url, done.json()["run_id"])
    set_there = {name for name, value in carried["parameters"].items() if value not in (None, False)}
    assert set_there == {"chain", "run_id"}


def test_failed_rows_are_told_once_and_without_a_traceback(prefect_desk) -> None:
    desk = prefect_desk({"match": "Ticket 1:", "fault": "status", "status": 400})
    done = desk.headrace("run", str(desk.chain), "--data", str(desk.tickets(3)))
    assert done.code == 1
    assert "1 failed; the first: step 'triage', row 1" in done.err
    assert "Traceback" not in done.err and "RowsFailed" not in done.err, done.err


@pytest.fixture
def strict_prefect(prefect_url: str) -> Iterator[str]:
    """The same API behind a proxy that refuses to have flow runs tagged."""
    target = prefect_url.removesuffix("/api")

    class Proxy(BaseHTTPRequestHandler):
        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.command == "PATCH" and b'"chain:desk"' in body:
                self._reply(403, b'{"detail": "no tags here"}')
                return
            request = urllib.request.Request(target + self.path, data=body or None, method=self.command)
            for name in ("Content-Type", "Accept", "X-PREFECT-API-VERSION"):
                if name in self.headers:
                    request.add_header(name, self.headers[name])
            try:
                with urllib.request.urlopen(request, timeout=20) as reply:
                    self._reply(reply.status, reply.read())
            except urllib.error.HTTPError as error:
                self._reply(error.code, error.read())

        def _reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            if status != 204:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _pass_on

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/api"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
def test_what_stops_the_flow_itself_is_said_and_closes_the_run(desk, strict_prefect: str) -> None:
    desk.environment["PREFECT_API_URL"] = strict_prefect
    done = desk.headrace("run", str(desk.chain), "-i", "ticket=my refund", "--json")
    assert done.code == 3, (done.code, done.err)
    assert "403" in done.err and strict_prefect in done.err and "Traceback" not in done.err, done.err
    (run,) = desk.headrace("runs", "--json").json()
    assert run["status"] == "failed"
    sent = desk.sent()  # the flow run is described beside the calls, and what was answered is kept
    again = desk.headrace("resume", run["run"], "--direct")
    assert again.code == 0 and desk.sent() == sent, again.err


@pytest.mark.slow
def test_a_key_is_nowhere_in_the_store_the_output_or_prefect(make_desk: Callable, prefect_url: str) -> None:
    desk = make_desk({"match": "Ticket 1:", "fault": "status", "status": 400}, key=CANARY)
    text = desk.chain.read_text().replace("temperature: 0", 'temperature: 0, api_key: "{{ env.DESK_KEY }}"')
    desk.chain.write_text(text)
    desk.environment |= {"PREFECT_API_URL": prefect_url, "DESK_KEY": CANARY, "OPENAI_API_KEY": CANARY}
    out = desk.folder / "out.jsonl"
    runs = [
        desk.headrace("run", str(desk.chain), "--data", str(desk.tickets(4)), "--out", str(out)),
        desk.headrace("retry", "last", "--direct"),
    ]
    assert [run.code for run in runs] == [1, 1]
    assert {line["status"] for line in desk.server.ledger()} == {200, 400}  # so the key was sent
    shown = [
        desk.headrace("show", "last", "--step", "triage", "--row", str(row), "--json") for row in range(4)
    ]
    shown += [desk.headrace("show", "last"), desk.headrace("doctor"), desk.headrace("plan", str(desk.chain))]
    for finished in [*runs, *shown]:
        assert CANARY not in finished.out + finished.err
    assert _holding(desk.folder, CANARY) == []
    run_id = desk.headrace("runs", "--json").json()[0]["run"]
    carried = flow_run(prefect_url, run_id)
    told = [
        carried,
        ask(prefect_url, "artifacts/filter", {"flow_runs": {"id": {"any_": [carried["id"]]}}}),
        ask(prefect_url, "logs/filter", {"logs": {"flow_run_id": {"any_": [carried["id"]]}}}),
    ]
    assert CANARY not in json.dumps(told)


def _holding(folder: Path, text: str) -> list[str]:
    """Return the files of a folder that hold a text, also inside compressed blobs."""
    import zstandard

    found = []
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        content = path.read_bytes()
        if content[:4] == b"\x28\xb5\x2f\xfd":
            content += zstandard.ZstdDecompressor().decompressobj().decompress(content)
        if text.encode() in content:
            found.append(str(path.relative_to(folder)))
    return found


@pytest.mark.slow
def test_a_run_that_is_alive_elsewhere_is_not_taken(make_desk: Callable) -> None:
    desk = make_desk(latency=15.0)
    process = desk.start("run", str(desk.chain), "--data", str(desk.tickets(8)), "--direct")
    try:
        while desk.sent() < 4:
            assert process.poll() is None
        for command in (("resume", "last"), ("run", "--resume", "last")):
            refused = desk.headrace(*command, "--direct")
            assert refused.code == 2, refused.err
            assert f"process {process.pid}" in refused.err and socket.gethostname() in refused.err
        assert desk.sent() <= 16
    finally:
        process.kill()
        process.communicate()
