from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chains.errors import CallRefused, CollectionMismatch, ContextOverflow, InputInvalid, Refused
from chains.settings import Settings

STEP = {"embed": "handbook/*.md", "into": "handbook", "chunk": {"tokens": 40, "overlap": 8}}
RETURNS = "# Returns\n\nSend it back within 30 days. We pay for the parcel.\n"
SHIPPING = "# Shipping\n\nParcels leave the same day.\n\n## Abroad\n\nAllow two weeks for customs.\n"


def write(bench: Any, **files: str) -> None:
    (bench.folder / "handbook").mkdir(exist_ok=True)
    for name, text in files.items():
        (bench.folder / "handbook" / f"{name}.md").write_text(text)


def texts_sent(bench: Any, run: int) -> list[str]:
    attempts = bench.store.attempts(f"run{run}-0")
    assert all(attempt.state == "ok" for attempt in attempts)
    return [text for attempt in attempts for text in json.loads(attempt.request)["input"]]


async def test_documents_become_chunks_in_a_collection(bench: Any) -> None:
    write(bench, returns=RETURNS, shipping=SHIPPING)
    result = await bench.step(STEP)
    version = result.output.pop("version")
    assert result.output == {
        "collection": "handbook",
        "documents": 2,
        "chunks": 3,
        "embedded": 3,
        "reused": 0,
    }
    assert len(version) == 64 and result.value_key and result.reused_from is None
    assert [document["source"] for document in result.inputs["documents"]] == [
        "handbook/returns.md",
        "handbook/shipping.md",
    ]
    assert texts_sent(bench, 1)[0] == RETURNS.strip()
    assert result.tokens_in is not None and result.tokens_in > 20
    row = bench.store.collection("handbook")
    assert (row.points, row.dimension, row.normalised) == (3, 384, True)
    assert bench.reports[-1].total == 3


async def test_nothing_changed_is_reused_without_a_call(bench: Any) -> None:
    write(bench, returns=RETURNS)
    first = await bench.step(STEP)
    second = await bench.step(STEP)
    assert second.reused_from == "run1-0" and second.output == first.output
    assert bench.store.attempts("run2-0") == []


@pytest.mark.parametrize("mode", ["never", "refresh"])
async def test_documents_are_embedded_anew_where_the_step_says_so(bench: Any, mode: str) -> None:
    write(bench, returns=RETURNS)
    first = await bench.step(STEP)
    again = await bench.step({**STEP, "cache": mode})

    assert again.reused_from is None
    assert again.output["embedded"] == again.output["chunks"] == first.output["chunks"]
    assert (again.value_key is None) is (mode == "never")


async def test_only_what_changed_is_embedded_and_what_is_gone_is_removed(bench: Any) -> None:
    write(bench, returns=RETURNS, shipping=SHIPPING)
    await bench.step(STEP)
    write(bench, shipping=SHIPPING.replace("two weeks", "three weeks"), new="# New\n\nA new page.\n")
    (bench.folder / "handbook" / "returns.md").unlink()
    result = await bench.step(STEP)
    assert (result.output["chunks"], result.output["embedded"], result.output["reused"]) == (3, 2, 1)
    assert sorted(texts_sent(bench, 2)) == [
        "# New\n\nA new page.",
        "## Abroad\n\nAllow three weeks for customs.",
    ]
    assert bench.store.collection("handbook").points == 3
    [hits] = await bench.step({"retrieve": "handbook", "query": "send it back", "top_k": 9}, [{}])
    assert not any("30 days" in hit["text"] for hit in hits.output["hits"])


async def test_text_that_only_moved_is_described_anew_and_not_embedded(bench: Any) -> None:
    write(bench, shipping=SHIPPING)
    await bench.step(STEP)
    write(bench, shipping="# First\n\nSomething before.\n\n" + SHIPPING)
    result = await bench.step(STEP)
    assert (result.output["embedded"], result.output["reused"]) == (1, 2)
    again = await bench.step(STEP)
    assert again.reused_from == "run2-0"


async def test_a_collection_that_lost_points_is_filled_again(bench: Any) -> None:
    import shutil

    write(bench, returns=RETURNS)
    await bench.step(STEP)
    shutil.rmtree(bench.store.folder("collections") / "handbook")
    result = await bench.step(STEP)
    assert result.reused_from is None and result.output["embedded"] == 1


async def test_two_steps_fill_one_collection_without_removing_each_other(bench: Any) -> None:
    write(bench, returns=RETURNS)
    await bench.step(STEP)
    (bench.folder / "extra.txt").write_text("# Not a heading in plain text\n\nExtra words.")
    result = await bench.step({"embed": "extra.txt", "into": "handbook"}, chain="other")
    assert result.output["chunks"] == 1
    assert bench.store.collection("handbook").points == 2


async def test_many_chunks_go_out_in_batches(bench: Any) -> None:
    write(bench, long="\n\n".join(f"# Part {number}\n\nText number {number}." for number in range(70)))
    result = await bench.step(STEP)
    assert result.output["embedded"] == 70
    sizes = [len(json.loads(attempt.request)["input"]) for attempt in bench.store.attempts("run1-0")]
    assert sizes == [64, 6]
    assert [report.done for report in bench.reports if report.event == "message"] == [64, 70]


def many(count: int) -> str:
    return "\n\n".join(f"# Part {number}\n\nText number {number}." for number in range(count))


def use_server(bench: Any, url: str) -> None:
    bench.models = {"mini": {"provider": "openai", "model": "test-embedder", "base_url": url}}


async def test_after_a_failure_only_the_missing_chunks_are_asked_for(
    bench: Any, serve: Callable[..., Any], tmp_path: Path
) -> None:
    server = serve({"at": 2, "fault": "status", "status": 400})
    use_server(bench, server.url)
    write(bench, long=many(150))
    with pytest.raises(CallRefused):
        await bench.step(STEP)
    result = await bench.step(STEP)
    assert (result.output["embedded"], result.output["reused"]) == (86, 64)
    sizes = [len(json.loads(line["raw"])["input"]) for line in server.ledger()]
    assert sizes == [64, 64, 64, 22]
    third = await bench.step(STEP)
    assert third.reused_from == "run2-0" and len(server.ledger()) == 4


async def test_each_batch_has_its_own_tries(bench: Any, serve: Callable[..., Any]) -> None:
    server = serve({"every": 2, "fault": "status", "status": 500})
    use_server(bench, server.url)
    write(bench, long=many(400))
    step = {**STEP, "retry": {"attempts": 2, "base": "1ms"}}
    result = await bench.step(step)
    assert result.output["embedded"] == 400
    states = [attempt.state for attempt in bench.store.attempts("run1-0")]
    assert states.count("ok") == 7 and states.count("error") == 6
    assert [attempt.number for attempt in bench.store.attempts("run1-0")] == list(range(1, 14))


async def test_vectors_of_another_embedder_are_refused_before_any_call(
    bench: Any, serve: Callable[..., Any]
) -> None:
    write(bench, returns=RETURNS)
    await bench.step(STEP)
    server = serve()
    use_server(bench, server.url)
    with pytest.raises(CollectionMismatch, match="all-MiniLM-L6-v2', and this chain uses 'test-embedder'"):
        await bench.step(STEP)
    assert server.ledger() == []


@pytest.mark.parametrize(
    ("embed", "error", "says"),
    [
        ("none/*.md", InputInvalid, "No file fits 'none/\\*.md'"),
        ("handbook/picture.png", InputInvalid, "neither Markdown nor plain text"),
        ("handbook/latin.txt", InputInvalid, "not UTF-8 \\(byte 3\\)"),
        ("handbook/empty.md", InputInvalid, "hold no text"),
        ("../secret.md", Refused, "outside the chain's folder"),
        ("/etc/../{outside}", Refused, "outside the chain's folder"),
        ("handbook/link.md", Refused, "HEADRACE_READ_OUTSIDE"),
        ("handbook/folder/*.md", Refused, "outside the chain's folder"),
    ],
)
async def test_documents_that_cannot_be_taken_are_named(
    bench: Any, embed: str, error: type[Exception], says: str, tmp_path: Path
) -> None:
    write(bench, empty="\n \n")
    (tmp_path / "secret.md").write_text("secret")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "key.md").write_text("secret")
    (bench.folder / "handbook" / "picture.png").write_bytes(b"\x89PNG")
    (bench.folder / "handbook" / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    (bench.folder / "handbook" / "link.md").symlink_to(tmp_path / "secret.md")
    (bench.folder / "handbook" / "folder").symlink_to(tmp_path / "secrets")
    path = embed.replace("/etc/../{outside}", str(tmp_path / "secret.md"))
    with pytest.raises(error, match=says):
        await bench.step({"embed": path, "into": "handbook"})


async def test_settings_may_let_a_chain_read_elsewhere(bench: Any, tmp_path: Path) -> None:
    (tmp_path / "shared.md").write_text("Shared by all chains.")
    bench.settings = Settings(torch_threads=1, read_outside=True)
    result = await bench.step({"embed": "../shared.md", "into": "handbook"})
    assert result.output["chunks"] == 1


async def test_chunks_longer_than_the_embedder_reads_are_refused_before_any_call(bench: Any) -> None:
    write(bench, returns=RETURNS)
    with pytest.raises(InputInvalid, match="chunks of 300 tokens, and its embedder reads 254"):
        await bench.step({**STEP, "chunk": {"tokens": 300, "overlap": 0}})
    assert bench.store.attempts("run1-0") == []


async def test_one_text_per_row_becomes_a_vector_and_is_reused(bench: Any) -> None:
    step = {"embed": "Text: {{ inputs.text }}", "model": "mini"}
    rows = [{"inputs": {"text": f"number {number % 5}"}} for number in range(8)]
    results = await bench.step(step, rows)
    assert all(result.output["dimension"] == 384 == len(result.output["vector"]) for result in results)
    assert results[0].inputs == {"text": "Text: number 0"}
    vectors = np.array([result.output["vector"] for result in results])
    assert np.allclose(vectors[0], vectors[5], atol=1e-2) and not np.allclose(
        vectors[0], vectors[1], atol=1e-2
    )
    bench.keep(1, 0, results[0])
    again = await bench.step(step, rows[:2])
    assert again[0].reused_from == "run1-1" and again[0].output == results[0].output
    assert again[1].reused_from is None and again[1].tokens_in > 3
    assert len(bench.store.attempts("run2-1")) == 0 and len(bench.store.attempts("run2-2")) == 1


async def test_a_row_whose_text_is_too_long_fails_alone(bench: Any) -> None:
    rows = [{"inputs": {"text": "word " * 400}}, {"inputs": {"text": "short"}}]
    bad, good = await bench.step({"embed": "{{ inputs.text }}", "model": "mini"}, rows)
    assert isinstance(bad, ContextOverflow) and bad.inputs["text"].startswith("word")
    assert good.output["dimension"] == 384
