"""Retrieval quality of the embed and retrieve steps beside sentence-transformers and brute force.

    python tests/bench/retrieval.py FILE [--write-docs]

FILE is in the format of SQuAD, such as the English part of XQuAD (github.com/google-deepmind/xquad); without
it `$HEADRACE_DATA/xquad-en/xquad.en.json` is taken. Its paragraphs fill a collection, its questions look for
theirs. The library gets the passages that the step cut and compares every question with all of them. Both
rankings are of paragraphs, the best ten; the steps' figures are those of an evaluate step.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import report

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
CHUNK = 254
LOOKED_AT = 10
HITS = 20
"""Passages that are asked for: of a paragraph that was cut several may be among the best."""
FIGURES = {"recall_at_1": "recall@1", "recall_at_5": "recall@5", "mrr": "MRR@10", "ndcg_at_10": "nDCG@10"}
RANKED = f"{{{{ (passages.hits | map(attribute='source') | unique | list)[:{LOOKED_AT}] }}}}"


def read(path: Path) -> tuple[list[str], list[tuple[str, int]]]:
    """Return the paragraphs, and each question with the number of its paragraph."""
    entries = [entry for article in json.loads(path.read_text())["data"] for entry in article["paragraphs"]]
    asked = [(qa["question"], number) for number, entry in enumerate(entries) for qa in entry["qas"]]
    return [entry["context"] for entry in entries], asked


def name_of(number: int) -> str:
    """Return the source of a paragraph as its hits have it."""
    return f"texts/{number:04}.txt"


def by_the_steps(
    folder: Path, paragraphs: Sequence[str], asked: Sequence[tuple[str, int]], dtype: str
) -> Any:
    """Run a chain that embeds, retrieves and evaluates; return the evaluate step's output."""
    from chains.settings import Settings
    from chains.store import open_store
    from flows.executor import execute
    from flows.prepared import RunRequest, prepare
    from flows.units import Direct

    (folder / "texts").mkdir(exist_ok=True)
    for number, text in enumerate(paragraphs):
        (folder / name_of(number)).write_text(text)
    rows = ({"question": question, "paragraph": name_of(number)} for question, number in asked)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chain = {
        "chain": "retrieval",
        "inputs": {"question": {"type": "string"}},
        "models": {"mini": {"provider": "local", "model": MINILM, "dtype": dtype}},
        "collections": {"all": {"embedder": "mini"}},
        "steps": {
            "index": {"embed": "texts/*.txt", "into": "all", "chunk": {"tokens": CHUNK, "overlap": 0}},
            "passages": {"retrieve": "all", "query": "{{ inputs.question }}", "top_k": HITS},
            "score": {
                "evaluate": {"prediction": RANKED, "reference": "{{ row.paragraph }}"},
                "metrics": list(FIGURES),
            },
        },
    }
    (folder / "chain.yaml").write_text(json.dumps(chain))
    request = RunRequest(chain=str(folder / "chain.yaml"), data=str(folder / "rows.jsonl"))
    with open_store(folder / f"store-{dtype}") as store:
        prepared = prepare(request, store=store, settings=Settings())
        result = asyncio.run(execute(prepared, Direct()))
        assert result["status"] == "ok", result
        record = store.record(prepared.run_id, "score", -1)
        assert record is not None and record.output is not None
        return json.loads(record.output)


def by_the_library(paragraphs: Sequence[str], asked: Sequence[tuple[str, int]]) -> dict[str, float]:
    """Embed with sentence-transformers' defaults, compare all with all, and compute the figures."""
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer

    from tasks.collection.cutting import cut
    from tasks.providers.weights import find_weights

    folder = find_weights(MINILM, revision=None, store=None).folder  # type: ignore[arg-type]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def spans(text: str) -> list[tuple[int, int]]:
        return list(tokenizer.encode(text, add_special_tokens=False).offsets)

    passages = [
        (number, passage.text)
        for number, text in enumerate(paragraphs)
        for passage in cut(text, markdown=False, tokens=CHUNK, overlap=0, spans=spans)
    ]
    model = SentenceTransformer(str(folder), device="cpu")
    kept = model.encode([text for _, text in passages], show_progress_bar=False)
    questions = model.encode([question for question, _ in asked], show_progress_bar=False)
    ranks = []
    for scores, (_, right) in zip(questions @ kept.T, asked, strict=True):
        best = dict.fromkeys(passages[place][0] for place in np.argsort(-scores, kind="stable")[:HITS])
        found = list(best)[:LOOKED_AT]
        ranks.append(found.index(right) + 1 if right in found else None)
    return {
        "recall_at_1": _mean(float(rank == 1) for rank in ranks),
        "recall_at_5": _mean(float(rank is not None and rank <= 5) for rank in ranks),
        "mrr": _mean(1 / rank if rank else 0.0 for rank in ranks),
        "ndcg_at_10": _mean(1 / math.log2(rank + 1) if rank else 0.0 for rank in ranks),
    }


def _mean(values: Any) -> float:
    found = list(values)
    return math.fsum(found) / len(found)


def main() -> None:
    """Measure, print the table, and write it into the page where that is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    data = Path(os.environ.get("HEADRACE_DATA", "."))
    parser.add_argument("file", type=Path, nargs="?", default=data / "xquad-en" / "xquad.en.json")
    parser.add_argument("--limit", type=int, help="only so many questions")
    parser.add_argument("--write-docs", action="store_true", help="write the table into docs/performance.md")
    given = parser.parse_args()
    if not given.file.is_file():
        parser.error(f"there is no file {str(given.file)!r}: name one, or set HEADRACE_DATA")
    paragraphs, asked = read(given.file)
    asked = asked[: given.limit]
    columns: dict[str, dict[str, Any]] = {"sentence-transformers": by_the_library(paragraphs, asked)}
    with tempfile.TemporaryDirectory(prefix="retrieval-") as name:
        for dtype, title in (("float32", "Headrace, float32"), ("auto", "Headrace, as it comes")):
            columns[title] = by_the_steps(Path(name), paragraphs, asked, dtype)
    lines = [["", *columns, "95 % interval"]]
    for figure, title in FIGURES.items():
        values = [column[figure] for column in columns.values()]
        shown = [f"{value['value'] if isinstance(value, dict) else value:.3f}" for value in values]
        lines.append([title, *shown, f"{values[-1]['low']:.3f} to {values[-1]['high']:.3f}"])
    how = (
        f"`retrieval`: {len(paragraphs)} paragraphs, {len(asked):,} questions ({given.file.name}), MiniLM. "
        f"{report.machine()}; {datetime.datetime.now(datetime.UTC).date()}."
    )
    print("\n".join([how, "", report.as_text(lines)]), flush=True)
    if given.write_docs:
        report.write_block("retrieval", f"\n{how}\n\n{report.as_markdown(lines)}\n")


if __name__ == "__main__":
    main()
