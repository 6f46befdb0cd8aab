"""A full disk, a folder that cannot be written, a database that is none.

pytest tests/faults/test_store_disk.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chains import failpoints
from chains.errors import EnvironmentLacks, StoreDamaged
from chains.store import ModelRow, RecordRow, RunRow, StepRow, open_store

ROOT = Path(failpoints.__file__).parents[1]

# Files may not grow over the limit: a payload of 10 kB fills the log, one of 1 MB is refused as a blob.
FULL = """
import asyncio, os, resource, signal, sys
from chains.errors import EnvironmentLacks
from chains.store import *
store = open_store(sys.argv[1])
store.put(RunRow(id="run1", chain="c", chain_hash="h", source=b"x", started_at=1.0),
          StepRow(run_id="run1", id="a", kind="prompt"))
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
size = int(sys.argv[2])
def row(n):
    return RecordRow(id=f"r{n}", run_id="run1", step="a", row=n, status="ok", output=os.urandom(size))
written, errors = [], []
async def main():
    async def one(n):
        try:
            await store.aput(row(n))
            written.append(n)
        except EnvironmentLacks as error:
            errors.append(str(error))
    for start in range(0, 80, 8):
        await asyncio.gather(*(one(n) for n in range(start, start + 8)))
asyncio.run(main())
assert errors, "the limit was never met"
assert all("cannot" in error and "pace" in error for error in errors), errors[0]
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.put(row(1000))                     # the writer is alive, and there is space again
assert store.verify() == []
print(*written, 1000)
store.close()
"""
AS_NOBODY = """
import os, sys, tempfile
from chains.errors import EnvironmentLacks
from chains.store import open_store
with tempfile.TemporaryDirectory() as folder:
    open_store(folder).close()           # all is imported before the rights are gone
os.setgid(65534); os.setuid(65534)
try:
    open_store(sys.argv[1])
except EnvironmentLacks as error:
    print(error)
"""


def python(code: str, *arguments: object) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("size", [10_000, 1_000_000])
def test_a_full_disk_is_a_clean_error_and_the_store_goes_on_when_there_is_space(tmp_path, size):
    printed = python(FULL, tmp_path / "store", size)
    with open_store(tmp_path / "store") as store:
        assert store.verify() == []
        assert {record.row for record in store.records("run1")} == {int(row) for row in printed.split()}


WRITE_POINTS = sorted(
    point for point in failpoints.POINTS if point.startswith(("store.file", "store.group", "store.folder"))
)


@pytest.mark.parametrize("point", WRITE_POINTS)
def test_no_space_at_any_point_is_a_clean_error_and_nothing_is_half_written(tmp_path, monkeypatch, point):
    with open_store(tmp_path / "store") as store:
        run = RunRow(id="run1", chain="c", chain_hash="h", source=b"x", started_at=1.0)
        store.put(run, StepRow(run_id="run1", id="a", kind="prompt"))
        sha = store.put_blob(b"weights")
        record = RecordRow(id="r1", run_id="run1", step="a", row=1, status="ok", output=b"x" * 100_000)
        into = store.folder("models") / "tuned"

        def work() -> None:
            store.put(record)
            store.materialise({"weights": sha}, into)

        monkeypatch.setattr(failpoints, "_actions", failpoints.parse(f"{point}=enospc@1"))
        with pytest.raises(EnvironmentLacks, match="No space left on device"):
            work()
        assert store.verify() == []
        found = store.record("run1", "a", 1)
        assert found is None or found == record
        work()
        assert store.record("run1", "a", 1) == record
        assert (into / "weights").read_bytes() == b"weights"
        assert store.verify() == []
        assert list(tmp_path.rglob(".tmp-*")) == []


@pytest.mark.parametrize("point", [point for point in WRITE_POINTS if point.startswith("store.group")])
def test_any_other_error_in_the_writer_reaches_its_caller_and_the_thread_lives(tmp_path, monkeypatch, point):
    with open_store(tmp_path / "store") as store:
        monkeypatch.setattr(failpoints, "_actions", failpoints.parse(f"{point}=raise@1"))
        run = RunRow(id="run1", chain="c", chain_hash="h", source=b"x", started_at=1.0)
        with pytest.raises(failpoints.FailpointHit):
            store.put(run)
        store.put(run)
        assert store.run("run1") == run
        assert (
            store.publish(ModelRow(name="m", kind="full", files=b"{}", sha256="s", created_at=1.0)).version
            == 1
        )


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("locked", ["folder", "parent", "database"])
def test_a_folder_that_this_user_may_not_write_is_named(tmp_path, locked):
    path = tmp_path / "store"
    for parent in (tmp_path, *tmp_path.parents):
        if parent.owner() == "root" and parent.name.startswith(("pytest-", "test_")):
            parent.chmod(0o755)
    if locked != "parent":
        open_store(path).close()
    if locked == "database":
        path.chmod(0o777)
        (path / "blobs").chmod(0o777)
    printed = python(AS_NOBODY, path)
    assert "cannot" in printed and str(path) in printed and "HEADRACE_STORE" in printed


def test_a_file_where_the_folder_should_be_is_a_clear_error(tmp_path):
    (tmp_path / "store").write_text("in the way")
    with pytest.raises(EnvironmentLacks, match="store"):
        open_store(tmp_path / "store")


def test_a_database_that_is_none_is_a_clear_error(tmp_path):
    (tmp_path / "headrace.db").write_bytes(b"not a database, and longer than a page header " * 100)
    with pytest.raises(StoreDamaged, match="damaged"):
        open_store(tmp_path)
