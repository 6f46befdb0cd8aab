"""Texts per second of the embed step beside `SentenceTransformer.encode` with its defaults.

    python tests/bench/embedding.py [--texts 1000] [--times 5] [--data rows.jsonl] [--write-docs]

All run in one process on the same threads, in turn, each `--times` times after a first round that is not
measured. The step is measured as a whole run: documents or rows read, texts cut, tokenised and embedded,
vectors written to a collection or a record, every call kept. `encode` gets a list of texts. Ratios are those
of each round, so that what else the machine does falls on both; the median is shown.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import report

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
WORDS = "docs/*.md"
"""Where the words of generated texts come from: at hand, and as uneven as texts are."""
LONGEST = 254
"""Tokens that MiniLM reads, without the special ones."""
NEIGHBOURS = 10


def mixed_texts(number: int, seed: int, counted: Callable[[str], int]) -> list[str]:
    """Return texts from three to some two hundred tokens, most of them short, none twice."""
    rng = random.Random(seed)
    pages = sorted(Path(__file__).parents[2].glob(WORDS))
    words = re.findall(r"[A-Za-z]+[,.;]?", " ".join(page.read_text() for page in pages))
    found: dict[str, None] = {}
    while len(found) < number:
        size = min(180, max(3, int(rng.lognormvariate(3.6, 0.9))))
        start = rng.randrange(len(words) - size)
        text = " ".join(words[start : start + size])
        if counted(text) <= LONGEST:
            found[text] = None
    return list(found)


class Contest:
    """The contenders, warm, and what each of them took."""

    def __init__(self, texts: list[str], folder: Path, model: str) -> None:
        from sentence_transformers import SentenceTransformer

        from tasks.embedders import load_embedder
        from tasks.providers.weights import find_weights

        weights = find_weights(model, revision=None, store=None)
        self.texts, self.folder, self.model = texts, folder, model
        self._whole = SentenceTransformer(str(weights.folder), device="cpu")
        # Held, so that each run finds them loaded: the load is not what is measured.
        self._loaded = [
            load_embedder(weights, name="mini", dtype=dtype, device="cpu")
            for dtype in ("bfloat16", "float32")
        ]
        self._runs = 0
        (folder / "texts").mkdir()
        for number, text in enumerate(texts):
            (folder / "texts" / f"{number:06}.txt").write_text(text)
        rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (folder / "rows.jsonl").write_text(rows)

    def encode(self) -> np.ndarray:
        """The library with its defaults."""
        vectors: np.ndarray = self._whole.encode(self.texts, show_progress_bar=False)
        return vectors

    def documents(self, dtype: str) -> None:
        """The step that fills a collection."""
        step = {"embed": "texts/*.txt", "into": "all", "chunk": {"tokens": LONGEST, "overlap": 0}}
        with self._ran(dtype, {"index": step}) as (store, run_id):
            output = json.loads(store.record(run_id, "index", -1).output)
        assert output["embedded"] == len(self.texts), output

    def rows(self, dtype: str) -> np.ndarray:
        """The step that gives each row its vector."""
        step = {"embed": "{{ inputs.text }}", "model": "mini"}
        with self._ran(dtype, {"vector": step}, data="rows.jsonl") as (store, run_id):
            records = sorted(store.records(run_id, "vector"), key=lambda record: record.row)
        return np.asarray([json.loads(record.output)["vector"] for record in records], dtype=np.float32)

    @contextlib.contextmanager
    def _ran(self, dtype: str, steps: dict[str, Any], data: str | None = None) -> Iterator[tuple[Any, str]]:
        """Run a chain in a store of its own, where nothing is found again."""
        from chains.settings import Settings
        from chains.store import open_store
        from flows.executor import execute
        from flows.prepared import RunRequest, prepare
        from flows.units import Direct

        self._runs += 1
        chain = {
            "chain": "throughput",
            "inputs": {"text": {"type": "string"}} if data else {},
            "models": {"mini": {"provider": "local", "model": self.model, "dtype": dtype}},
            "collections": {"all": {"embedder": "mini"}},
            "steps": steps,
        }
        path = self.folder / "chain.yaml"
        path.write_text(json.dumps(chain))
        request = RunRequest(chain=str(path), data=str(self.folder / data) if data else None)
        with open_store(self.folder / f"store{self._runs}") as store:
            prepared = prepare(request, store=store, settings=Settings())
            result = asyncio.run(execute(prepared, Direct()))
            assert result["status"] == "ok", result
            yield store, prepared.run_id


def measure(contest: Contest, times: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Run all contenders in turn and return the seconds and CPU seconds of each."""
    contenders: dict[str, Callable[[], Any]] = {
        "encode": contest.encode,
        "documents bfloat16": lambda: contest.documents("bfloat16"),
        "rows bfloat16": lambda: contest.rows("bfloat16"),
        "documents float32": lambda: contest.documents("float32"),
        "rows float32": lambda: contest.rows("float32"),
    }
    vectors: dict[str, Any] = {}
    for name, run in contenders.items():
        say(f"{name}: once, to be warm")
        vectors[name] = run()
    wall: dict[str, list[float]] = {name: [] for name in contenders}
    cpu: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(times):
        say(f"round {number + 1} of {times}")
        for name, run in contenders.items():
            began, began_cpu = time.perf_counter(), time.process_time()
            run()
            wall[name].append(time.perf_counter() - began)
            cpu[name].append(time.process_time() - began_cpu)
    return {
        "wall": wall,
        "cpu": cpu,
        "overlap": overlap(vectors["encode"], vectors["rows bfloat16"]),
        "apart": float(np.abs(vectors["encode"] - vectors["rows float32"]).max()),
    }


def overlap(wanted: np.ndarray, found: np.ndarray) -> float:
    """Return the share of each text's ten nearest that are the same by both."""
    near, other = _nearest(wanted), _nearest(found)
    return float(np.mean([len(set(a) & set(b)) / NEIGHBOURS for a, b in zip(near, other, strict=True)]))


def _nearest(vectors: np.ndarray) -> np.ndarray:
    alike = vectors @ vectors.T
    np.fill_diagonal(alike, -np.inf)
    return np.argsort(-alike, axis=1)[:, :NEIGHBOURS]


TITLES = {
    "encode": "`SentenceTransformer.encode`",
    "documents bfloat16": "`embed: documents`, bf16 (the default here)",
    "rows bfloat16": "`embed` for each row, bf16",
    "documents float32": "`embed: documents`, float32",
    "rows float32": "`embed` for each row, float32",
}


def table(found: dict[str, Any], number: int) -> list[list[str]]:
    """Return the table: texts per second, and how many times as fast as the library."""
    lines = [["", "texts/s", "times `encode`", "CPU per text", "times less CPU"]]
    for name, title in TITLES.items():
        wall, cpu = found["wall"], found["cpu"]
        faster = statistics.median(a / b for a, b in zip(wall["encode"], wall[name], strict=True))
        cheaper = statistics.median(a / b for a, b in zip(cpu["encode"], cpu[name], strict=True))
        lines.append(
            [
                title,
                f"{number / statistics.median(wall[name]):.0f}",
                f"{faster:.2f}",
                f"{1000 * statistics.median(cpu[name]) / number:.1f} ms",
                f"{cheaper:.2f}",
            ]
        )
    return lines


def main() -> None:
    """Measure, print the table, and write it into the page where that is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=1000, help="how many texts are made (1000)")
    parser.add_argument("--times", type=int, default=5, help="rounds that are measured (5)")
    parser.add_argument("--data", type=Path, help="JSONL with a column `text`, in place of made texts")
    parser.add_argument("--model", default=MINILM)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write-docs", action="store_true", help="write the table into docs/performance.md")
    given = parser.parse_args()
    from tokenizers import Tokenizer

    from tasks.providers.weights import find_weights

    weights = find_weights(given.model, revision=None, store=None)
    tokenizer = Tokenizer.from_file(str(weights.folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def counted(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    if given.data is None:
        texts = mixed_texts(given.texts, given.seed, counted)
    else:
        rows = [json.loads(line)["text"] for line in given.data.read_text().splitlines()]
        texts = [text for text in dict.fromkeys(rows) if counted(text) <= LONGEST][: given.texts]
    lengths = sorted(counted(text) for text in texts)
    with tempfile.TemporaryDirectory(prefix="embedding-") as name:
        busy = os.getloadavg()[0]
        found = measure(Contest(texts, Path(name), given.model), given.times, _say)
    how = (
        f"`embedding`: {len(texts):,} texts of {lengths[0]} to {lengths[-1]} tokens, half of them up to "
        f"{lengths[len(lengths) // 2]}, MiniLM, {given.times} rounds. {report.machine()}; load average "
        f"{busy:.1f} at the start; {datetime.datetime.now(datetime.UTC).date()}."
    )
    remark = (
        f"Of each text's ten nearest by `encode`, bf16 finds {found['overlap']:.3f}; in float32 no number of "
        f"a vector is further than {found['apart']:.1e} from the library's."
    )
    lines = table(found, len(texts))
    print("\n".join([how, "", report.as_text(lines), "", remark]), flush=True)
    if given.write_docs:
        report.write_block("embedding", f"\n{how}\n\n{report.as_markdown(lines)}\n\n{remark}\n")


def _say(text: str) -> None:
    print(f"… {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
