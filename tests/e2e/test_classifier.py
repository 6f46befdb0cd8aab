"""A chain that trains a classifier, publishes it, and asks it in the same run.

Run with: pytest tests/e2e/test_classifier.py
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from chains.store import open_store

# Two trainings in processes of their own, each of which imports the libraries anew.
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

CHAIN = """
chain: sorter
inputs:
  text: {type: string}
models:
  encoder: {provider: local, model: ./encoder}
  sorter: {provider: local, model: "models:sorter@latest"}
  finder: {provider: local, model: "models:finder@latest"}
collections:
  topics: {embedder: finder}
steps:
  examples:
    prepare: rows.jsonl
    fields: {text: "{{ row.text }}", label: "{{ row.topic }}"}
    format: classification
    leaks: {similarity: null}
    split: {train: 0.8, validation: 0.2, test: 0, stratify: topic}
  tune:
    finetune: lora
    task: classification
    base: encoder
    data: {train: "{{ examples.train }}", validation: "{{ examples.validation }}"}
    max_steps: 20
    eval_steps: 10
    learning_rate: 0.01
    max_length: 32
    gate: validation_accuracy > 0.5
    publish: sorter
  pull:
    finetune: lora
    task: embedding
    base: encoder
    data: {train: pairs.jsonl}
    max_steps: 5
    learning_rate: 0.001
    max_length: 32
    publish: finder
  fill: {embed: "topics/*.md", into: topics, chunk: {tokens: 20, overlap: 2}}
  near: {retrieve: topics, query: "{{ inputs.text }}", top_k: 1}
  topic:
    prompt: "{{ inputs.text }}"
    model: sorter
    output: {label: {enum: [refund, delivery]}, score: number}
  score:
    evaluate: {prediction: "{{ topic.label }}", reference: "{{ row.topic }}", confidence: "{{ topic.score }}"}
    metrics: [accuracy]
    gate: accuracy.value > 0.9
"""


def test_a_tuned_classifier_and_embedder_are_used_by_the_chain_that_made_them(
    tiny_encoder: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_encoder, tmp_path / "encoder")
    (tmp_path / "chain.yaml").write_text(CHAIN)
    words = (
        "my parcel",
        "the card",
        "money please",
        "help now",
        "late again",
        "lost today",
        "app",
        "where is my",
    )
    rows = [{"text": f"{some} {topic}", "topic": topic} for topic in ("refund", "delivery") for some in words]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = [{"anchor": row["text"], "positive": row["topic"], "group": row["topic"]} for row in rows]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    (tmp_path / "topics").mkdir()
    for topic in ("refund", "delivery"):
        (tmp_path / "topics" / f"{topic}.md").write_text(f"my {topic}")
    done = subprocess.run(
        [
            sys.executable, "-c", "from flows.cli import main; main()", "run", "chain.yaml",
            "--data", "rows.jsonl", "--direct", "--store", "store",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=550, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    with open_store(tmp_path / "store") as store:
        [run] = store.runs()
        made = {row.name: row for row in store.models()}
        assert made["sorter"].kind == made["finder"].kind == "adapter"
        tune = json.loads(store.record(run.id, "tune", -1).output)  # type: ignore[union-attr,arg-type]
        assert tune["task"] == "classification" and tune["validation_accuracy"] > 0.5
        assert [one["step"] for one in tune["history"]] == [10, 20]
        assert tune["history"][-1]["validation_accuracy"] == tune["validation_accuracy"]
        assert {"step", "train_loss", "validation_loss", "validation_accuracy"} <= tune["history"][
            -1
        ].keys() or (tune["history"] == [])
        score = json.loads(store.record(run.id, "score", -1).output)  # type: ignore[union-attr,arg-type]
        assert score["accuracy"]["n"] == 16 and "calibration" in score
        answer = json.loads(store.record(run.id, "topic", 0).output)  # type: ignore[union-attr,arg-type]
        assert answer["label"] == "refund" and 0.5 < answer["score"] <= 1
        near = json.loads(store.record(run.id, "near", 0).output)  # type: ignore[union-attr,arg-type]
        assert len(near["hits"]) == 1
