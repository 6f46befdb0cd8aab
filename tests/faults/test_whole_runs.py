"""Faults around a whole run, each caused from outside: a lock, a full disk, a clock, signals, another run.

pytest tests/faults/test_whole_runs.py
"""

from __future__ import annotations

import json
import re
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from golden import CALLS, MAIN, ROWS, Golden
from servers.launch import launch

from chains.store import RunRow, open_store

pytestmark = pytest.mark.e2e

Make = Callable[..., Golden]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with ExitStack() as stack:
        yield lambda *rules, latency=0.0: Golden(
            tmp_path, stack.enter_context(launch(tmp_path, rules, latency=latency))
        )


def wait_for_calls(golden: Golden, number: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while golden.asked().total() < number:
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.02)


def each_row_is_paid_once(golden: Golden) -> bool:
    asked = golden.asked()
    return len(asked) == asked.total() == CALLS


def test_two_runs_that_begin_at_once_pay_for_each_answer_once(make: Make) -> None:
    golden = make(latency=1.0)
    arguments = [argument for argument in golden.command("run") if argument not in ("--out", "out.jsonl")]
    processes = [golden.start(*arguments) for _ in range(2)]
    ended = [process.communicate(timeout=90) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended
    assert each_row_is_paid_once(golden)
    assert [json.loads(out)["counts"]["reply"]["ok"] for out, _ in ended] == [ROWS, ROWS]
    reused = sum(json.loads(out)["counts"]["reply"]["reused"] for out, _ in ended)
    assert reused == ROWS


def test_a_database_that_is_locked_for_a_while_holds_a_run_up_and_no_reader(make: Make) -> None:
    golden = make(latency=0.5)
    process = golden.start(*golden.command("run"))
    wait_for_calls(golden, 2, process)
    with closing(sqlite3.connect(golden.folder / "store" / "headrace.db", isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        shown = golden.headrace("show", "last", "--json")
        assert shown.returncode == 0 and json.loads(shown.stdout)["status"] == "running", shown.stderr
        holder.execute("ROLLBACK")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert each_row_is_paid_once(golden)


FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (%d, resource.RLIM_INFINITY)); " + MAIN


@pytest.mark.parametrize("size", [300_000, 400_000])
def test_a_disk_that_fills_up_ends_the_run_and_with_space_it_goes_on(make: Make, size: int) -> None:
    golden = make()
    functions = golden.folder / "desk" / "functions.py"
    text = functions.read_text().replace("return text *", "return os.urandom(40_000).hex() + text *")
    functions.write_text("import os\n" + text)
    done = golden.headrace(*golden.command("run"), code=FULL % size)
    assert done.returncode == 3, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr and "Free some space" in done.stderr, done.stderr
    assert golden.headrace("verify").returncode == 0
    golden.finish()
    assert len(golden.asked()) == CALLS
    assert golden.asked().total() <= CALLS + 16  # those in flight when nothing more could be written


JUMP = """
import itertools
from chains import clock
numbers, now = itertools.count(), clock.Clock.now
clock.Clock.now = lambda self: now(self) + (%d if next(numbers) > 40 else 0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_jumps_in_a_run_changes_no_answer_and_shows_no_negative_time(
    make: Make, hours: int
) -> None:
    golden = make(latency=0.05)
    done = golden.headrace(*golden.command("run"), code=JUMP % (3600 * hours) + MAIN)
    assert done.returncode == 0, done.stderr
    assert each_row_is_paid_once(golden)
    shown = [golden.headrace(*arguments) for arguments in (("runs",), ("show", "last"), ("verify",))]
    assert [one.returncode for one in shown] == [0, 0, 0]
    for text in [done.stderr, *(one.stdout for one in shown)]:
        assert not re.search(r"(?<![\w.-])-\d", text), text
    golden.finish()
    assert each_row_is_paid_once(golden)


def test_sigterm_lets_calls_in_flight_end_and_no_new_one_begin(make: Make) -> None:
    golden = make(latency=0.5)
    process = golden.start(*golden.command("run"))
    wait_for_calls(golden, 2, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert golden.look("SELECT DISTINCT state FROM attempts WHERE state IN ('intent', 'ambiguous')") == []
    golden.finish()
    assert each_row_is_paid_once(golden)


def test_a_second_ctrl_c_drops_the_calls_in_flight(make: Make) -> None:
    golden = make({"fault": "hang", "times": 2})
    process = golden.start(*golden.command("run"))
    wait_for_calls(golden, 2, process)
    process.send_signal(signal.SIGINT)
    time.sleep(1.0)
    assert process.poll() is None  # those in flight have ten seconds
    process.send_signal(signal.SIGINT)
    asked_at = time.monotonic()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert time.monotonic() - asked_at < 5
    # What was sent may have been paid: nobody knows.
    assert golden.look("SELECT count(*) FROM attempts WHERE state = 'ambiguous'") == [2]
    assert golden.headrace("verify").returncode == 0
    golden.finish()
    assert golden.asked().total() == CALLS + 2


class Line:
    """A line to a server that can be cut, with all that goes over it, and mended."""

    def __init__(self, port: int) -> None:
        self._server = port
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._begin(self._accept, self._listener)

    def cut(self) -> None:
        for end in [self._listener, *self._open]:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in [self._listener, *self._open]:
            end.close()
        self._open, self._threads = [], []

    def mend(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._begin(self._accept, self._listener)

    def _begin(self, work: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self._server))
                self._open += [near, far]
                self._begin(self._pump, near, far)
                self._begin(self._pump, far, near)

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [2.0, None], ids=["for two seconds", "for good"])
def test_a_prefect_server_that_goes_away_in_a_run_costs_no_answer(
    make: Make, prefect_url: str, seconds: float | None
) -> None:
    golden = make(latency=4.0)
    line = Line(urlsplit(prefect_url).port or 0)
    golden.environment["PREFECT_API_URL"] = f"http://127.0.0.1:{line.port}/api"
    golden.environment["PREFECT_HOME"] = str(golden.folder / "prefect")
    golden.environment["PREFECT_CLIENT_MAX_RETRIES"] = "3"  # 14 s in all for each request, and not a minute
    arguments = [argument for argument in golden.command("run") if argument != "--direct"]
    process = golden.start(*arguments)
    try:
        wait_for_calls(golden, 2, process)
        line.cut()
        if seconds is not None:
            time.sleep(seconds)
            line.mend()
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
        line.cut()
    assert process.returncode in (0, 3), err
    assert "Traceback" not in err, err
    assert golden.headrace("verify").returncode == 0
    before = golden.asked()
    golden.finish()
    assert len(golden.asked()) == CALLS
    if process.returncode == 0:
        assert golden.asked() == before and each_row_is_paid_once(golden)
    else:
        assert f"http://127.0.0.1:{line.port}/api" in err, err
        repeated = golden.asked().total() - CALLS
        assert golden.look("SELECT count(*) FROM attempts WHERE state = 'ambiguous'")[0] >= repeated


@pytest.mark.slow
def test_a_hundred_thousand_runs_are_listed_and_pruned_in_bounded_time(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        first = RunRow(id="first", chain="c", chain_hash="h", source=b"x", status="ok", started_at=1.0)
        store.put(first)
        many = {"id": "printf('run%06d', n)", "started_at": "n", "finished_at": "n + 0.5"}
        with closing(sqlite3.connect(tmp_path / "headrace.db")) as connection, connection:
            names = [column for _, column, *_ in connection.execute("PRAGMA table_info(runs)")]
            numbers = "WITH RECURSIVE c(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM c WHERE n < 100000)"
            values = ", ".join(many.get(name, name) for name in names)
            connection.execute(
                f"{numbers} INSERT INTO runs ({', '.join(names)}) SELECT {values} FROM runs, c"
            )
        began = time.monotonic()
        assert [run.id for run in store.runs(limit=2)] == ["run100000", "run099999"]
        assert store.lost_runs() == []
        assert time.monotonic() - began < 2
        began = time.monotonic()
        assert len(store.prune(before=200.0).runs) == 199
        assert time.monotonic() - began < 20
        assert len(store.runs(limit=200_000, payloads=False)) == 100_000 - 199
