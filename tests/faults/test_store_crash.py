"""Kill -9 at every point of the store and at random moments; what is left is whole.

pytest tests/faults/test_store_crash.py
"""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from servers.s3_server import s3_server

from chains import failpoints
from chains.errors import StoreVersion
from chains.store import Store, open_store
from chains.store.migrations import MIGRATIONS

SCRIPT = Path(__file__).with_name("store_golden.py")
ROOT = Path(failpoints.__file__).parents[1]

# Which mode of the script reaches a point, and at which of its hits it is killed there.
KILLS = [
    ("write", "store.file.before_write", 1),
    ("write", "store.file.before_write", 4),
    ("write", "store.file.before_rename", 1),
    ("write", "store.file.before_rename", 3),
    ("write", "store.file.after_rename", 1),
    ("write", "store.file.after_rename", 5),
    ("write", "store.group.before_begin", 1),
    ("write", "store.group.before_begin", 3),
    ("write", "store.group.between_tables", 1),
    ("write", "store.group.between_tables", 4),
    ("write", "store.group.between_tables", 6),
    ("write", "store.group.before_commit", 1),
    ("write", "store.group.before_commit", 3),
    ("write", "store.group.after_commit", 1),
    ("write", "store.group.after_commit", 3),
    ("write", "store.folder.before_rename", 1),
    ("write", "store.folder.after_rename", 1),
    ("write", "store.migrate.before_commit", 1),
    ("write", "store.migrate.after_commit", 1),
    ("upgrade", "store.migrate.after_backup", 1),
    ("upgrade", "store.migrate.before_commit", 1),
    ("upgrade", "store.migrate.after_commit", 1),
    ("remote", "store.remote.before_upload", 1),
    ("remote", "store.remote.before_upload", 4),
    ("remote", "store.remote.after_upload", 1),
    ("remote", "store.remote.after_upload", 5),
    ("verify", "store.collect.before_unlink", 1),
    ("verify", "store.collect.before_unlink", 3),
    ("verify", "store.collect.before_commit", 1),
]


def golden(mode: str, path: Path, points: str = "") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), failpoints.VARIABLE: points}
    command = [sys.executable, str(SCRIPT), mode, str(path)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def kill_at(mode: str, path: Path, point: str, count: int) -> None:
    done = golden(mode, path, f"{point}=kill@{count}")
    assert done.returncode == -signal.SIGKILL, f"{point} was not reached: {done.stderr}"


def finish(path: Path) -> None:
    """Run the rest of the sequence; here and not in a process of its own, which would take a second more."""
    spec = importlib.util.spec_from_file_location("store_golden", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write(path)


def content(store: Store) -> object:
    """Everything that the sequence leaves, but for times that the store itself notes."""
    models = store.folder("models") / "tuned"
    files = {
        str(path.relative_to(models)): path.read_bytes()
        for path in sorted(models.rglob("*"))
        if path.is_file()
    }
    rows = (store.runs(), store.steps("run1"), store.records("run1"), store.attempts_of_run("run1"))
    return *(sorted(group, key=repr) for group in rows), store.models(), files


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A store that the sequence was written to without a fault."""
    path = tmp_path_factory.mktemp("golden") / "store"
    done = golden("write", path)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="module")
def wanted(finished) -> object:
    with open_store(finished) as store:
        return content(store)


def test_every_point_of_the_store_is_killed_at():
    assert {point for _, point, _ in KILLS} == {
        point for point in failpoints.POINTS if point.startswith("store.")
    }


@pytest.mark.parametrize(
    ("point", "count"), [(point, count) for mode, point, count in KILLS if mode == "write"]
)
def test_after_a_kill_the_store_is_whole_and_the_sequence_can_be_finished(tmp_path, wanted, point, count):
    path = tmp_path / "store"
    kill_at("write", path, point, count)
    with open_store(path) as store:
        assert store.verify() == []
        check_rows_are_whole(store)
    finish(path)
    with open_store(path) as store:
        report = store.verify_report(grace=0)
        assert report.problems == []
        assert content(store) == wanted
        assert [entry.name for entry in path.rglob(".tmp-*")] == []
        # With the orphans gone, only what rows refer to is left.
        assert len(list(store.blobs.listed())) == report.blobs_checked


@pytest.fixture(scope="module")
def s3():
    with s3_server("headrace") as environment:
        yield environment


@pytest.mark.parametrize(
    ("point", "count"), [(point, count) for mode, point, count in KILLS if mode == "remote"]
)
def test_after_a_kill_a_store_with_its_blobs_in_a_bucket_is_whole(
    tmp_path, wanted, s3, monkeypatch, point, count
):
    path = tmp_path / "store"
    for name, value in {**s3, "HEADRACE_BLOBS": f"s3://headrace/{point}-{count}"}.items():
        monkeypatch.setenv(name, value)
    kill_at("write", path, point, count)
    with open_store(path) as store:
        assert store.verify() == []
        check_rows_are_whole(store)
    finish(path)
    with open_store(path) as store:
        report = store.verify_report(grace=0)
        assert (report.problems, report.strangers) == ([], [])
        assert content(store) == wanted
        assert len(list(store.blobs.listed())) == report.blobs_checked


def check_rows_are_whole(store: Store) -> None:
    """A record that is there has all of its parts: those of one transaction came together."""
    attempts = {attempt.record_id: attempt for attempt in store.attempts_of_run("run1")}
    for record in store.records("run1"):
        attempt = attempts[record.id]
        if record.status == "ok":
            assert attempt.state == "ok" and attempt.response == record.output
    assert len(attempts) == len(store.records("run1"))


@pytest.mark.parametrize(
    ("point", "count"), [(point, count) for mode, point, count in KILLS if mode == "upgrade"]
)
def test_a_killed_upgrade_leaves_the_old_schema_or_the_new_one(tmp_path, finished, wanted, point, count):
    path = tmp_path / "store"
    shutil.copytree(finished, path)
    kill_at("upgrade", path, point, count)
    if point == "store.migrate.after_commit":
        with pytest.raises(StoreVersion):
            open_store(path)
    else:
        with open_store(path) as store:
            assert store.verify() == []
            assert content(store) == wanted
    assert golden("upgrade", path).returncode == 0
    connection = sqlite3.connect(path / "headrace.db")
    assert connection.execute("SELECT note FROM runs").fetchall() == [("golden",)]
    connection.close()
    before = sqlite3.connect(path / f"headrace.before-{len(MIGRATIONS) + 1}.db")
    assert "note" not in {row[1] for row in before.execute("PRAGMA table_info(runs)")}
    assert before.execute("SELECT count(*) FROM records").fetchone() == (12,)
    before.close()


@pytest.mark.parametrize(
    ("point", "count"), [(point, count) for mode, point, count in KILLS if mode == "verify"]
)
def test_a_killed_collection_removes_nothing_that_is_wanted(tmp_path, finished, wanted, point, count):
    path = tmp_path / "store"
    shutil.copytree(finished, path)
    with open_store(path) as store:
        for number in range(5):
            store.blobs.put(b"orphan %d" % number * 20_000)
    kill_at("verify", path, point, count)
    with open_store(path) as store:
        assert store.verify() == []
        assert content(store) == wanted
    assert golden("verify", path).stdout.startswith("[] ")
    with open_store(path) as store:
        assert len(list(store.blobs.listed())) == store.verify_report().blobs_checked
        assert content(store) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_what_was_acknowledged_before_a_kill_at_a_random_moment_is_there(tmp_path, seed):
    path = tmp_path / "store"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), "endless", str(path)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    acknowledged = {int(process.stdout.readline())}
    time.sleep(random.Random(seed).uniform(0.0, 0.05))
    process.kill()
    acknowledged.update(int(line) for line in process.stdout if line.endswith("\n"))
    process.stdout.close()
    process.wait()
    with open_store(path) as store:
        assert store.verify() == []
        records = store.records("run1")
        assert {record.row for record in records} >= acknowledged
        for record in records:
            size = 70_000 if record.row % 11 == 0 else 100
            assert record.output == (b"%d " % record.row * size)[:size]
