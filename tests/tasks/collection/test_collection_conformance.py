"""One suite for every place that keeps vectors.

There is no Qdrant server to test against: the server's class runs over qdrant-client's own in-memory mode,
which takes the same requests (from one thread: it is not made for more). What a server does with them over
the wire is not shown here.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chains import spec
from chains.clock import Clock
from chains.errors import CollectionBusy, CollectionMismatch, ConnectionFailed, StepFailed, StoreDamaged
from chains.store import Store
from tasks.collection import Chunk, Collection
from tasks.collection.edge import open_edge
from tasks.collection.index import Index
from tasks.collection.server import ServerIndex, open_server

EMBEDDER = {"provider": "local", "model": "acme/one", "weights": "a" * 64, "dtype": "float32"}
Make = Callable[..., Collection]


class Kept:
    """qdrant-client's in-memory mode loses everything when it is closed; a server does not."""

    def __init__(self) -> None:
        from qdrant_client import QdrantClient

        self.client = QdrantClient(":memory:")

    def open(self, name: str) -> Index:
        index = ServerIndex(self.client, name)
        index.close = lambda: None  # type: ignore[method-assign]
        return index


@pytest.fixture(params=["edge", "server"])
def make(request: pytest.FixtureRequest, store: Store, tmp_path: Path) -> Iterator[Make]:
    kept = Kept() if request.param == "server" else None

    def made(embedder: dict[str, Any] | None = None, **fields: Any) -> Collection:
        def open_index() -> Index:
            if kept is not None:
                return kept.open("things")
            return open_edge(tmp_path / "collections" / "things", name="things", clock=Clock())

        return Collection(
            "things",
            spec.Collection(embedder="mini", **fields),
            embedder=embedder or EMBEDDER,
            store=store,
            clock=Clock(),
            open_index=open_index,
        )

    yield made
    if kept is not None:
        kept.client.close()


def chunks(count: int, *, source: str = "a.md", first: int = 0) -> list[Chunk]:
    return [
        Chunk(
            id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{source}{number}")),
            text=f"text {number}",
            source=source,
            heading=None if number % 2 else "Odd {{ inputs.x }}",
            start=number,
            end=number + 1,
            sha256="0" * 64,
            origin="chain/step",
        )
        for number in range(first, first + count)
    ]


def vectors(count: int, *, seed: int = 0, dimension: int = 8) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


async def test_what_is_added_is_found_again_after_reopening(make: Make, store: Store) -> None:
    collection, given, rows = make(), chunks(20), vectors(20)
    await collection.upsert(given, rows)
    await collection.settle()
    await collection.close()
    reopened = make()
    assert await reopened.count() == 20
    hits = await reopened.search(rows[4], top_k=3)
    assert [hit.rank for hit in hits] == [1, 2, 3]
    assert (hits[0].id, hits[0].text, hits[0].source) == (given[4].id, "text 4", "a.md")
    assert hits[0].heading == "Odd {{ inputs.x }}", "data is data, whatever it looks like"
    assert hits[0].score == pytest.approx(1.0, abs=1e-5) and hits[0].score > hits[1].score
    assert (await reopened.places())[given[4].id] == {
        "source": "a.md",
        "heading": "Odd {{ inputs.x }}",
        "start": 4,
        "end": 5,
        "origin": "chain/step",
    }
    row = store.collection("things")
    assert row is not None
    assert (row.dimension, row.distance, row.normalised, row.dtype, row.points) == (
        8,
        "cosine",
        True,
        "float32",
        20,
    )
    assert json.loads(row.embedder) == EMBEDDER
    await reopened.close()


async def test_hits_are_those_of_an_exact_search(make: Make) -> None:
    collection, rows = make(), vectors(200)
    given = chunks(200)
    await collection.upsert(given, rows)
    for query in vectors(10, seed=1):
        hits = await collection.search(query, top_k=10)
        wanted = np.argsort(-(rows @ query))[:10]
        assert [hit.id for hit in hits] == [given[at].id for at in wanted]
    await collection.close()


async def test_hits_below_min_score_are_left_out(make: Make) -> None:
    collection, rows = make(), vectors(50)
    await collection.upsert(chunks(50), rows)
    scores = [hit.score for hit in await collection.search(rows[0], top_k=50)]
    limit = (scores[4] + scores[5]) / 2
    assert len(await collection.search(rows[0], top_k=50, min_score=limit)) == 5
    await collection.close()


async def test_the_same_ids_replace_and_deleted_ones_go(make: Make) -> None:
    collection, rows = make(), vectors(10)
    await collection.upsert(chunks(10), rows)
    await collection.upsert(chunks(1), rows[9:10])
    assert await collection.count() == 10
    await collection.delete({chunk.id for chunk in chunks(3)} | {str(uuid.UUID(int=1))})
    assert await collection.count() == 7
    assert all(
        hit.text not in ("text 0", "text 1", "text 2") for hit in await collection.search(rows[0], top_k=10)
    )
    await collection.close()


async def test_the_version_follows_the_content(make: Make) -> None:
    collection, rows = make(), vectors(6)
    empty = await collection.version()
    await collection.upsert(chunks(4), rows[:4])
    four = await collection.version()
    await collection.upsert(chunks(1, first=5), rows[5:])
    five = await collection.version()
    await collection.delete([chunks(1, first=5)[0].id])
    assert await collection.version() == four
    moved = [Chunk(**{**{f: getattr(chunk, f) for f in Chunk.__slots__}, "start": 99}) for chunk in chunks(1)]
    await collection.describe(moved)
    assert (await collection.places())[moved[0].id]["start"] == 99
    assert len({empty, four, five, await collection.version()}) == 4
    assert (await collection.search(rows[0], top_k=1))[0].text == "text 0", "its vector stayed"
    await collection.close()


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (np.full((1, 8), np.nan, np.float32), "Vector 0 .* NaN or infinity"),
        (np.full((1, 8), np.inf, np.float32), "NaN or infinity"),
        (np.zeros((1, 8), np.float32), "all zeros"),
        (vectors(1, dimension=7), "vectors of 8 numbers, and the embedder made 7"),
        (vectors(1) * 3, "length 1, and one of length 3"),
        (vectors(1)[0], "not an array of 1 dimensions"),
    ],
)
async def test_vectors_that_do_not_fit_are_refused(make: Make, bad: np.ndarray, says: str) -> None:
    collection = make()
    await collection.upsert(chunks(2), vectors(2))
    before = await collection.version()
    with pytest.raises(CollectionMismatch, match=says):
        await collection.upsert(chunks(len(bad) if bad.ndim > 1 else 8, first=5), bad)
    if bad.ndim > 1:
        with pytest.raises(CollectionMismatch, match=says):
            await collection.search(bad[0], top_k=1)
    assert await collection.version() == before
    await collection.close()


@pytest.mark.parametrize(
    ("embedder", "fields", "says"),
    [
        (
            {**EMBEDDER, "weights": "b" * 64, "model": "acme/two"},
            {},
            "'acme/one', and this chain uses 'acme/two'.*bbbb",
        ),
        ({**EMBEDDER, "dtype": "int8"}, {}, "dtype 'float32' there, 'int8' here"),
        (
            {"provider": "openai", "model": "text-embedding-3-small"},
            {},
            "'acme/one', and this chain uses 'text-emb",
        ),
        (None, {"distance": "dot"}, "distance as 'cosine', this chain as 'dot'"),
    ],
)
async def test_another_embedder_or_distance_is_refused_with_both_values(
    make: Make, embedder: dict[str, Any] | None, fields: dict[str, Any], says: str
) -> None:
    first = make()
    await first.upsert(chunks(2), vectors(2))
    await first.settle()
    await first.close()
    other = make(embedder, **fields)
    with pytest.raises(CollectionMismatch, match=says):
        await other.search(vectors(1)[0], top_k=1)
    again = make({**EMBEDDER, "model": "/copied/to/a/folder"})
    assert await again.count() == 2, "the same weights under another name fit"
    await again.close()


async def test_distances_order_by_nearness(make: Make) -> None:
    collection = make(distance="euclid")
    rows = vectors(30) * np.linspace(0.5, 3, 30, dtype=np.float32)[:, None]
    await collection.upsert(chunks(30), rows)
    hits = await collection.search(rows[3] * 1.01, top_k=5)
    wanted = np.argsort(np.linalg.norm(rows - rows[3] * 1.01, axis=1))[:5]
    assert [hit.text for hit in hits] == [f"text {at}" for at in wanted]
    assert hits[0].score < hits[1].score, "a distance, not a similarity"
    assert len(await collection.search(rows[3], top_k=30, min_score=0.5)) < 30
    await collection.close()


async def test_searching_an_empty_collection_names_what_to_do(make: Make) -> None:
    collection = make()
    assert await collection.count() == 0
    with pytest.raises(StepFailed, match=r"is empty.*embed step"):
        await collection.search(vectors(1)[0], top_k=1)
    await collection.close()


# What only a folder has


def edge(folder: Path, store: Store) -> Collection:
    return Collection(
        "things",
        spec.Collection(embedder="mini"),
        embedder=EMBEDDER,
        store=store,
        clock=Clock(),
        open_index=lambda: open_edge(folder, name="things", clock=Clock()),
    )


HOLDER = """
import sys, numpy as np
from pathlib import Path
from chains.clock import Clock
from tasks.collection.edge import open_edge
from tasks.collection.identity import Identity
index = open_edge(Path(sys.argv[1]), name="things", clock=Clock())
if index.identity is None:
    index.create(Identity(embedder={"weights": "a" * 64, "dtype": "float32"}, dimension=8, distance="cosine",
                          normalised=True, dtype="float32"))
rows = np.eye(8, dtype=np.float32)
index.upsert([(f"00000000-0000-0000-0000-00000000000{i}", {"text": str(i)}) for i in range(8)], rows)
print("open", flush=True)
sys.stdin.readline()
"""


def start_holder(folder: Path) -> subprocess.Popen[str]:
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "open\n"
    return holder


async def test_a_second_process_is_told_who_holds_the_folder_and_gets_it_after_a_kill(
    tmp_path: Path, store: Store
) -> None:
    folder = tmp_path / "collections" / "things"
    holder = start_holder(folder)
    try:
        collection = edge(folder, store)
        with pytest.raises(CollectionBusy, match=f"process {holder.pid} on .*, since 20") as caught:
            await collection.count()
        assert "`url:`" in str(caught.value)
    finally:
        holder.kill()
        holder.communicate()
    assert await collection.count() == 8, "what was added survives kill -9, and the lock does not"
    await collection.close()
    second = start_holder(folder)
    assert second.communicate("\n")[0] == "" and second.returncode == 0


async def test_two_users_in_one_process_share_the_folder(tmp_path: Path, store: Store) -> None:
    folder = tmp_path / "things"
    one, other = edge(folder, store), edge(folder, store)
    assert await other.count() == 0
    await one.upsert(chunks(3), vectors(3))
    assert await other.count() == 3
    await one.close()
    assert len(await other.search(vectors(1)[0], top_k=9)) == 3
    await other.close()
    assert os.stat(folder.with_name("things.lock")).st_size == 0


async def test_a_folder_that_was_left_half_made_is_made_anew(tmp_path: Path, store: Store) -> None:
    folder = tmp_path / "things"
    (folder / "shard" / "segments").mkdir(parents=True)
    (folder / "shard" / "edge_config.json").write_text("{")
    collection = edge(folder, store)
    await collection.upsert(chunks(3), vectors(3))
    assert await collection.count() == 3
    await collection.close()


async def test_a_damaged_folder_says_so_and_leaves_no_lock(tmp_path: Path, store: Store) -> None:
    folder = tmp_path / "things"
    collection = edge(folder, store)
    await collection.upsert(chunks(3), vectors(3))
    await collection.settle()
    await collection.close()
    manifest = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").write_bytes(b"{")
    for _ in range(2):
        with pytest.raises(StoreDamaged, match="is not JSON"):
            await edge(folder, store).count()
    (folder / "manifest.json").write_bytes(manifest.replace(b'"format": 1', b'"format": 7'))
    with pytest.raises(StoreDamaged, match="format 7"):
        await edge(folder, store).count()
    (folder / "manifest.json").write_bytes(manifest)
    for path in (folder / "shard").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(StoreDamaged, match="Cannot open the collection 'things'"):
        await edge(folder, store).count()


async def test_searches_and_writes_at_the_same_time_give_whole_hits(tmp_path: Path, store: Store) -> None:
    collection, rows = edge(tmp_path / "things", store), vectors(400)
    await collection.upsert(chunks(100), rows[:100])

    async def write(first: int) -> None:
        await collection.upsert(chunks(100, first=first), rows[first : first + 100])

    async def search(at: int) -> bool:
        hits = await collection.search(rows[at], top_k=3)
        return hits[0].text == f"text {at}"

    done = await asyncio.gather(
        *(search(at) for at in range(50)), *(write(first) for first in (100, 200, 300))
    )
    assert done[:50] == [True] * 50
    assert await collection.count() == 400
    await collection.close()


@pytest.mark.slow
async def test_a_large_collection_gets_an_index_and_still_finds(tmp_path: Path, store: Store) -> None:
    collection = edge(tmp_path / "things", store)
    rows = vectors(1500, dimension=2048)
    await collection.upsert(chunks(1500), rows)
    await collection.settle()
    index = collection._index
    assert index is not None and index._shard.info().indexed_vectors_count == 1500  # type: ignore[attr-defined]
    found = [
        (await collection.search(rows[at], top_k=1))[0].text == f"text {at}" for at in range(0, 1500, 50)
    ]
    assert sum(found) >= 29
    await collection.close()


# What only a server has


def test_a_server_that_is_down_is_a_failed_connection() -> None:
    with pytest.raises(ConnectionFailed, match="cannot be reached"):
        open_server("http://127.0.0.1:9", api_key=None, name="things")


def test_a_collection_of_somebody_else_is_refused() -> None:
    from qdrant_client import models

    kept = Kept()
    kept.client.create_collection(
        "things", vectors_config=models.VectorParams(size=8, distance=models.Distance.COSINE)
    )
    with pytest.raises(CollectionMismatch, match="does not say which embedder"):
        kept.open("things")
    kept.client.close()
