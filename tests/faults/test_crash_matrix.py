"""Kill -9 at every failpoint of a whole run: it ends as if nothing had been, and nothing is paid for twice.

pytest tests/faults/test_crash_matrix.py -m "not slow"     some of the points
"""

from __future__ import annotations

import queue
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from golden import CALLS, Crash, Golden
from servers.launch import Running, start

from chains import failpoints

pytestmark = pytest.mark.e2e

AT_ONCE = 2
"""Crashes that are caused at the same time; most of their time goes into starting processes."""

QUICK = (
    Crash("attempt.before_outcome", 6),
    Crash("store.group.before_commit", 4),
    Crash("store.file.after_rename", 3),
    Crash("store.collect.before_unlink", 2, command="verify"),
)
SLOW = (
    Crash("store.migrate.before_commit"),
    Crash("store.migrate.after_commit"),
    Crash("store.migrate.after_backup", store="old"),
    Crash("store.migrate.before_commit", store="old"),
    Crash("store.migrate.after_commit", store="old"),
    Crash("store.file.before_write", 1),
    Crash("store.file.before_write", 5),
    Crash("store.file.before_write", 10),
    Crash("store.file.before_rename", 4),
    Crash("store.file.before_rename", 7),
    Crash("store.file.before_rename", 8),
    Crash("store.file.before_rename", 9),
    Crash("store.file.before_rename", 10),
    Crash("store.file.after_rename", 1),
    Crash("store.file.after_rename", 8),
    Crash("store.remote.before_upload", 1, store="bucket"),
    Crash("store.remote.before_upload", 4, store="bucket"),
    Crash("store.remote.after_upload", 1, store="bucket"),
    Crash("store.remote.after_upload", 5, store="bucket"),
    Crash("store.folder.before_rename"),
    Crash("store.folder.after_rename"),
    Crash("store.group.before_begin", 1),
    Crash("store.group.before_begin", 5),
    Crash("store.group.before_begin", 10),
    Crash("store.group.between_tables", 2),
    Crash("store.group.between_tables", 9),
    Crash("store.group.before_commit", 1),
    Crash("store.group.before_commit", 9),
    Crash("store.group.after_commit", 1),
    Crash("store.group.after_commit", 3),
    Crash("store.group.after_commit", 8),
    Crash("attempt.after_intent", 1),
    Crash("attempt.after_intent", 6),
    Crash("attempt.after_intent", CALLS),
    Crash("attempt.before_outcome", 1),
    Crash("attempt.before_outcome", CALLS),
    Crash("store.collect.before_unlink", 1, command="verify"),
    Crash("store.collect.before_commit", command="verify"),
)
TWICE = (
    (Crash("attempt.before_outcome", 3), Crash("attempt.before_outcome", 2, command="resume")),
    (Crash("attempt.after_intent", 8), Crash("store.group.before_commit", 3, command="resume")),
    (Crash("store.group.after_commit", 6), Crash("store.file.before_rename", 1, command="resume")),
)
MATRIX = [
    *(pytest.param((crash,), id=str(crash)) for crash in QUICK),
    *(pytest.param((crash,), id=str(crash), marks=pytest.mark.slow) for crash in SLOW),
    *(pytest.param(pair, id=" and ".join(map(str, pair)), marks=pytest.mark.slow) for pair in TWICE),
]
Servers = queue.Queue[Running]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    found: list[Running] = [start(tmp_path_factory.mktemp("server")) for _ in range(AT_ONCE)]
    free: Servers = queue.Queue()
    for server in found:
        free.put(server)
    yield free
    for server in found:
        server.stop()


@pytest.fixture(scope="module")
def uncrashed(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the run leaves when nothing happens to it."""
    golden = finished(servers, tmp_path_factory.mktemp("uncrashed"), ())
    assert len(golden.asked()) == golden.asked().total() == CALLS
    return golden.hashes()


def finished(servers: Servers, folder: Path, crashes: tuple[Crash, ...]) -> Golden:
    """Crash in turn, each time on the way to the end, and then come to it."""
    server = servers.get()
    try:
        golden = Golden(
            folder, server.restarted(folder, latency=0.02), crashes[0].store if crashes else "new"
        )
        if any(crash.command == "verify" for crash in crashes):
            golden.finish()
            golden.add_orphans(3)
        for crash in crashes:
            golden.kill(crash)
        golden.finish()
    finally:
        servers.put(server)
    return golden


@pytest.fixture(scope="module")
def golden_of(
    request: pytest.FixtureRequest,
    servers: Servers,
    uncrashed: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[tuple[Crash, ...]], Golden]]:
    """Cause all crashes that are asked for, a few at a time; give the run that went through one.

    The uncrashed run comes first: while there are crashes to cause, no server is free for it.
    """
    wanted = [
        item.callspec.params["crashes"]
        for item in request.session.items
        if item.path == request.path and isinstance(item, pytest.Function) and hasattr(item, "callspec")
    ]
    pool = ThreadPoolExecutor(AT_ONCE)
    under_way: dict[tuple[Crash, ...], Future[Golden]] = {}
    for number, crashes in enumerate(wanted):
        folder = tmp_path_factory.mktemp(f"crash{number}")
        under_way[crashes] = pool.submit(finished, servers, folder, crashes)
    yield lambda crashes: under_way[crashes].result()
    pool.shutdown(cancel_futures=True)


def test_every_failpoint_is_killed_at() -> None:
    crashes = [*QUICK, *SLOW, *(crash for pair in TWICE for crash in pair)]
    assert {crash.point for crash in crashes} == failpoints.POINTS


@pytest.mark.parametrize("crashes", MATRIX)
def test_a_run_that_was_killed_ends_as_if_nothing_had_been(
    crashes: tuple[Crash, ...], golden_of: Callable[[tuple[Crash, ...]], Golden], uncrashed: dict[str, str]
) -> None:
    golden = golden_of(crashes)
    assert golden.hashes() == uncrashed
    # A call is repeated only where nobody knew what had become of it.
    asked = golden.asked()
    assert len(asked) == CALLS
    assert not {body: n for body, n in asked.items() if n > 1 + golden.in_flight[body]}
    with golden.opened() as store:
        (run,) = store.runs(payloads=False)
        assert run.status == "ok"
        states = Counter(attempt.state for attempt in store.attempts_of_run(run.id, payloads=False))
        assert states == Counter(ok=CALLS, ambiguous=golden.in_flight.total())
        # What a crash left behind is found and removed without a word of complaint.
        report = store.verify_report(grace=0)
    assert report.problems == [] and report.strangers == []
    assert [path for path in golden.folder.rglob("*") if path.name.startswith(".tmp-")] == []
    assert len(list(golden.folder.rglob(f"{run.id}.jsonl.zst"))) == 1
    with closing(sqlite3.connect(golden.folder / "store" / "headrace.db")) as connection:
        assert connection.execute("SELECT count(*) FROM claims").fetchone() == (0,)
