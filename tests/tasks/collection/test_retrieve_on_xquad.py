"""Retrieval on real text: 240 Wikipedia paragraphs and questions about them (XQuAD, English)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

DATA = Path(os.environ.get("HEADRACE_DATA", Path(__file__).parents[4] / "shared" / "data"))
FILE = DATA / "xquad-en" / "xquad.en.json"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FILE.is_file(), reason=f"needs {FILE} (HEADRACE_DATA)"),
]


async def test_most_questions_find_their_paragraph(bench: Any) -> None:
    paragraphs = [
        entry for article in json.loads(FILE.read_text())["data"] for entry in article["paragraphs"]
    ]
    for number, paragraph in enumerate(paragraphs):
        (bench.folder / f"p{number:03}.txt").write_text(paragraph["context"])
    filled = await bench.step({"embed": "*.txt", "into": "handbook"})
    assert filled.output["documents"] == 240
    asked = [(number, qa["question"]) for number, entry in enumerate(paragraphs) for qa in entry["qas"]][::4]
    step = {"retrieve": "handbook", "query": "{{ inputs.question }}", "top_k": 10}
    results = await bench.step(step, [{"inputs": {"question": question}} for _, question in asked])
    ranks = [
        [hit["source"] for hit in result.output["hits"]].index(f"p{number:03}.txt") + 1
        if any(hit["source"] == f"p{number:03}.txt" for hit in result.output["hits"])
        else 99
        for (number, _), result in zip(asked, results, strict=True)
    ]
    assert sum(rank == 1 for rank in ranks) / len(ranks) > 0.85
    assert sum(rank <= 5 for rank in ranks) / len(ranks) > 0.95
