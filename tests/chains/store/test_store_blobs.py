"""pytest tests/chains/store/test_store_blobs.py"""

from __future__ import annotations

import hashlib
import os
import socket

import pytest

from chains.errors import EnvironmentLacks, InputInvalid, StoreConflict, StoreDamaged
from chains.store import atomic_write, open_store

EVERYWHERE = pytest.mark.parametrize(
    "backend", ["sqlite", "postgres", "sqlite-s3", "postgres-s3"], indirect=True
)
LOCAL = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
BIG = bytes(range(256)) * 1000


@EVERYWHERE
def test_a_blob_comes_back_and_is_named_by_its_content(store):
    sha = store.put_blob(BIG)
    assert sha == hashlib.sha256(BIG).hexdigest()
    assert store.get_blob(sha) == BIG
    assert store.get_blob(store.put_blob(b"")) == b""


@EVERYWHERE
def test_a_file_larger_than_a_chunk_is_kept_without_change(store, tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(3 << 20))
    sha = store.put_file(path)
    assert store.get_blob(sha) == path.read_bytes()
    assert store.put_blob(path.read_bytes()) == sha
    assert len(list(store.blobs.listed())) == 1


@pytest.mark.parametrize("missing", ["nothing", "."])
@EVERYWHERE
def test_a_file_that_cannot_be_read_is_named(store, tmp_path, missing):
    with pytest.raises(InputInvalid, match="cannot be read"):
        store.put_file(tmp_path / missing)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "foreign"])
@EVERYWHERE
def test_a_damaged_blob_is_an_error_and_never_data(store, damage, files):
    sha, other = store.put_blob(BIG), store.put_blob(BIG[1:])
    good = files.read(sha)
    middle = len(good) // 2
    files.write(
        sha,
        {
            "flip": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
            "cut": good[:middle],
            "empty": b"",
            "foreign": files.read(other),
        }[damage],
    )
    with pytest.raises(StoreDamaged, match=sha):
        store.get_blob(sha)
    assert [problem for problem in store.verify() if sha in problem]
    assert store.put_blob(BIG) == sha
    assert store.get_blob(sha) == BIG
    assert store.verify() == []


@EVERYWHERE
def test_a_missing_blob_is_an_error_that_names_it(store, record_row, files):
    store.put(record_row(output=BIG))
    [sha] = files.all()
    files.remove(sha)
    with pytest.raises(StoreDamaged, match=sha):
        store.records("run1")
    assert store.verify() == [f"records.output_blob: The blob {sha} is missing."]


@pytest.mark.parametrize("bad", ["../../etc/passwd", "A" * 64, "a" * 63, "", "a" * 63 + "/", None])
@EVERYWHERE
def test_what_is_no_hash_opens_no_file(store, bad):
    with pytest.raises(InputInvalid, match="sha256"):
        store.get_blob(bad)


@EVERYWHERE
def test_a_folder_is_made_from_blobs(store, tmp_path):
    files = {"adapter/model.bin": store.put_blob(BIG), "config.json": store.put_blob(b"{}")}
    into = tmp_path / "out" / "model"
    store.materialise(files, into)
    assert (into / "adapter" / "model.bin").read_bytes() == BIG
    assert sorted(path.name for path in into.parent.iterdir()) == ["model"]


@EVERYWHERE
def test_a_folder_that_holds_the_files_is_left_alone(store):
    into = store.folder("work") / "key"
    files = {"a": store.put_blob(b"a")}
    store.materialise(files, into)
    (into / "cache").write_text("made by a user")
    before = (into / "a").stat().st_ino
    store.materialise(files, into)
    assert (into / "cache").exists() and (into / "a").stat().st_ino == before


@EVERYWHERE
def test_a_changed_folder_of_the_store_is_made_anew(store):
    into = store.folder("work") / "key"
    files = {"a": store.put_blob(b"a")}
    store.materialise(files, into)
    (into / "a").write_text("changed")
    store.materialise(files, into)
    assert (into / "a").read_bytes() == b"a"
    assert [path.name for path in into.parent.iterdir()] == ["key"]


@EVERYWHERE
def test_a_folder_outside_the_store_that_holds_something_else_is_never_touched(store, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(StoreConflict, match="mine"):
        store.materialise({"a": store.put_blob(b"a")}, mine)
    assert [path.name for path in mine.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    "bad", ["../up", "/abs", "a/../../b", "a//b", "", ".", "a\0b", "a\\..\\b", "c:/x", "./a"]
)
@EVERYWHERE
def test_a_path_that_leaves_the_folder_is_refused(store, bad):
    into = store.folder("work") / "key"
    with pytest.raises(InputInvalid):
        store.materialise({"good": store.put_blob(b"a"), bad: store.put_blob(b"b")}, into)
    assert not into.exists()


@EVERYWHERE
def test_a_damaged_blob_leaves_no_half_made_folder(store, files):
    good, bad = store.put_blob(b"good"), store.put_blob(BIG)
    files.write(bad, b"junk")
    into = store.folder("work") / "key"
    with pytest.raises(StoreDamaged):
        store.materialise({"a": good, "b": bad}, into)
    assert list(into.parent.iterdir()) == []


@pytest.mark.parametrize("bad", ["..", "a/b", "", ".x", "A"])
@EVERYWHERE
def test_a_folder_name_stays_in_the_store(store, bad):
    with pytest.raises(InputInvalid):
        store.folder(bad)


@EVERYWHERE
def test_a_folder_is_made_once_and_found_again(store):
    assert store.folder("models") == store.folder("models") == store.path / "models"
    assert store.folder("models").is_dir()


def test_an_atomic_write_replaces_the_whole_file(tmp_path):
    path = tmp_path / "report.md"
    atomic_write(path, b"old and long")
    atomic_write(path, b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.md"]


def test_who_reads_during_an_atomic_write_reads_the_old_file_to_its_end(tmp_path):
    path = tmp_path / "report.md"
    atomic_write(path, b"old and long")
    with path.open("rb", buffering=0) as reader:
        assert reader.read(3) == b"old"
        atomic_write(path, b"new")
        assert reader.read() == b" and long"


def test_a_failed_atomic_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "report.md"
    atomic_write(path, b"old")
    with pytest.raises(TypeError):
        atomic_write(path, "text")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.md"]


@LOCAL
def test_a_blobs_folder_that_is_a_file_is_a_clear_error(store):
    blobs = store.path / "blobs"
    blobs.rmdir()
    blobs.write_text("in the way")
    with pytest.raises(EnvironmentLacks, match="cannot write below"):
        store.put_blob(BIG)


@pytest.mark.parametrize("backend", ["sqlite-s3"], indirect=True)
def test_a_bucket_that_is_not_there_is_one_sentence_without_keys(tmp_path, s3, blobs_at):
    store = open_store(tmp_path / "other", blobs="s3://key:secret@nowhere/blobs")
    with store, pytest.raises(EnvironmentLacks, match="s3://nowhere/blobs") as raised:
        store.put_blob(BIG)
    assert "secret" not in str(raised.value)


def test_blobs_at_an_address_that_nothing_serves_are_refused(tmp_path):
    with pytest.raises(InputInvalid, match="'nosuch' is no place for blobs"):
        open_store(tmp_path / "store", blobs="nosuch://bucket")


def test_blobs_may_lie_in_another_folder(tmp_path):
    with open_store(tmp_path / "store", blobs=tmp_path / "elsewhere") as store:
        sha = store.put_blob(BIG)
    assert (tmp_path / "elsewhere" / sha[:2] / sha).exists()
    with open_store(tmp_path / "store", blobs=str(tmp_path / "elsewhere")) as store:
        assert store.get_blob(sha) == BIG


@pytest.mark.parametrize("backend", ["sqlite-s3"], indirect=True)
def test_a_place_opened_later_is_on_the_server_configured_then(store, blobs_at, tmp_path, monkeypatch):
    store.put_blob(BIG)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        with pytest.raises(EnvironmentLacks, match="cannot be reached"):
            open_store(tmp_path / "other", blobs=f"{blobs_at}-other").put_blob(BIG)
