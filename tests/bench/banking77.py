"""Text classifiers and an embedder on BANKING77, each trained, published and used by a Headrace chain.

python tests/bench/banking77.py --data FOLDER [--only full lora] [--out figures.json]

FOLDER (or HEADRACE_DATA/banking77) holds `train.csv` and `test.csv` with `text,category`
(github.com/PolyAI-LDN/task-specific-datasets, CC BY 4.0); without it nothing is measured. The test split is
read once, by the evaluation. CPU minutes are those of the whole run with all its processes: reading, training
and asking the published model for each test question.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
SHOTS = 10
CLI = "from flows.cli import main; main()"
# The same for all examples and for ten of each label, but for the passes: fewer examples need more of them.
METHODS: dict[str, dict[str, Any]] = {
    "linear_probe": {},
    "full": {"per_device_train_batch_size": 32, "num_train_epochs": 1, "bf16": True},
    "lora": {"per_device_train_batch_size": 32, "num_train_epochs": 1, "bf16": True},
}
EPOCHS_OF_FEW = 5
PAIRS = {"per_device_train_batch_size": 32, "max_steps": 100, "bf16": True}


def main() -> None:
    """Measure what is asked for and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=_default_data())
    parser.add_argument("--only", nargs="*", default=[], help="such as full, lora-10, embedder-lora")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.data is None or not (given.data / "train.csv").is_file():
        sys.exit("BANKING77 is not here: give its folder with --data, or set HEADRACE_DATA.")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, measure in _cases(given.data, given.seed).items():
            if given.only and name not in given.only:
                continue
            work = Path(folder) / name
            work.mkdir()
            found[name] = measure(work)
            print(json.dumps({name: found[name]}), flush=True)
            if given.out:
                given.out.write_text(json.dumps(found, indent=2))
    print(_table(found))


def _default_data() -> Path | None:
    root = os.environ.get("HEADRACE_DATA")
    return Path(root) / "banking77" if root else None


def _cases(data: Path, seed: int) -> dict[str, Any]:
    cases: dict[str, Any] = {}
    for few in (False, True):
        for method, options in METHODS.items():
            cases[f"{method}-{SHOTS}" if few else method] = (
                lambda work, method=method, options=options, few=few: classified(
                    data, work, method, options, few=few, seed=seed
                )
            )
    for method in ("full", "lora"):
        cases[f"embedder-{method}"] = lambda work, method=method: embedded(data, work, method, seed=seed)
    return cases


def classified(
    data: Path, work: Path, method: str, options: dict[str, Any], *, few: bool, seed: int
) -> dict[str, Any]:
    """Train a classifier in a chain, and ask it for every test question."""
    rows = _rows(data / "train.csv")
    rows = _few(rows, seed) if few else rows
    _write(work / "train.jsonl", [{"text": text, "label": label} for text, label in rows])
    if few and "num_train_epochs" in options:
        options = {**options, "num_train_epochs": EPOCHS_OF_FEW}
    _write(work / "test.jsonl", [{"text": text, "intent": label} for text, label in _rows(data / "test.csv")])
    tune = {
        "finetune": method, "task": "classification", "base": "encoder", "data": {"train": "train.jsonl"},
        "seed": seed, "publish": "intents", **options,
    }  # fmt: skip
    chain = {
        "chain": "banking77",
        "inputs": {"text": {"type": "string"}},
        "models": {
            "encoder": {"provider": "local", "model": ENCODER},
            "intents": {"provider": "local", "model": "models:intents@latest"},
        },
        "steps": {
            "tune": tune,
            "intent": {
                "prompt": "{{ inputs.text }}",
                "model": "intents",
                "output": {"label": "string", "score": "number"},
            },
            "score": {
                "evaluate": {
                    "prediction": "{{ intent.label }}",
                    "reference": "{{ row.intent }}",
                    "confidence": "{{ intent.score }}",
                },
                "metrics": ["accuracy", "f1_macro"],
            },
        },
    }
    cpu = _run(chain, work, data="test.jsonl")
    tuned, score = _output(work, "tune"), _output(work, "score")
    return {
        "examples": len(rows),
        "accuracy": score["accuracy"],
        "f1_macro": score["f1_macro"],
        "calibration": score.get("calibration", {}).get("ece"),
        "steps": tuned["steps"],
        "trained": tuned["parameters_trained"],
        "training_s": tuned["seconds"],
        "cpu_min": cpu / 60,
    }


def embedded(data: Path, work: Path, method: str, *, seed: int) -> dict[str, Any]:
    """Tune the embedder on pairs of one intent, and look for each test question's nearest other one."""
    by_intent = defaultdict(list)
    for text, label in _rows(data / "train.csv"):
        by_intent[label].append(text)
    pairs = []
    for label, texts in by_intent.items():
        random.Random(f"{seed} {label}").shuffle(texts)
        pairs += [
            {"anchor": text, "positive": texts[at - 1], "group": label} for at, text in enumerate(texts)
        ]
    _write(work / "pairs.jsonl", pairs)
    test = _rows(data / "test.csv")
    _write(work / "test.jsonl", [{"text": text} for text, _ in test])
    embedder = {"provider": "local", "dtype": "float32"}
    chain = {
        "chain": "banking77-pairs",
        "inputs": {"text": {"type": "string"}},
        "models": {
            "encoder": {**embedder, "model": ENCODER},
            "tuned": {**embedder, "model": "models:questions@latest"},
        },
        "steps": {
            "tune": {
                "finetune": method, "task": "embedding", "base": "encoder", "data": {"train": "pairs.jsonl"},
                "seed": seed, "publish": "questions", **PAIRS,
            },
            "before": {"embed": "{{ inputs.text }}", "model": "encoder"},
            "after": {"embed": "{{ inputs.text }}", "model": "tuned"},
        },
    }  # fmt: skip
    cpu = _run(chain, work, data="test.jsonl")
    labels = [label for _, label in test]
    found: dict[str, Any] = {name: _recall_at_1(_vectors(work, name), labels) for name in ("before", "after")}
    tuned = _output(work, "tune")
    return {
        **found, "pairs": len(pairs), "steps": tuned["steps"], "trained": tuned["parameters_trained"],
        "training_s": tuned["seconds"], "cpu_min": cpu / 60,
    }  # fmt: skip


def _rows(path: Path) -> list[tuple[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["text"], row["category"]) for row in csv.DictReader(file)]


def _few(rows: list[tuple[str, str]], seed: int) -> list[tuple[str, str]]:
    """Draw ten questions of each intent."""
    by_intent = defaultdict(list)
    for row in rows:
        by_intent[row[1]].append(row)
    return [
        row
        for label, ours in sorted(by_intent.items())
        for row in random.Random(f"{seed} {label}").sample(ours, SHOTS)
    ]


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _run(chain: dict[str, Any], work: Path, *, data: str) -> float:
    """Run a chain without Prefect, and return the CPU seconds of it and of all its children."""
    (work / "chain.yaml").write_text(json.dumps(chain), encoding="utf-8")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [
            sys.executable, "-c", CLI, "run", str(work / "chain.yaml"), "--data", str(work / data),
            "--direct", "--json", "--store", str(work / "store"),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )  # fmt: skip
    if done.returncode != 0:
        sys.exit(f"The run failed:\n{done.stdout[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _output(work: Path, step: str) -> dict[str, Any]:
    from chains.store import open_store

    with open_store(work / "store") as store:
        run = store.runs()[0]
        record = store.record(run.id, step, -1)
        assert record is not None and record.output is not None
        output: dict[str, Any] = json.loads(record.output)
        return output


def _vectors(work: Path, step: str) -> Any:
    import numpy as np

    from chains.store import open_store

    with open_store(work / "store") as store:
        run = store.runs()[0]
        records = sorted(store.records(run.id, step), key=lambda record: record.row)
        return np.asarray([json.loads(record.output or b"{}")["vector"] for record in records])


def _recall_at_1(vectors: Any, labels: list[str]) -> dict[str, float]:
    """Return how often the nearest other question has the same intent, with its interval."""
    import numpy as np

    from tasks.metrics.estimate import wilson

    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    near = vectors @ vectors.T
    np.fill_diagonal(near, -1.0)
    right = sum(labels[int(one)] == own for one, own in zip(near.argmax(1), labels, strict=True))
    found = wilson(right, len(labels))
    return {"value": found.value, "low": found.low, "high": found.high}


def _table(found: dict[str, Any]) -> str:
    lines = []
    for name, one in found.items():
        if "accuracy" in one:
            figure = one["accuracy"]
            lines.append(
                f"{name:16} accuracy {figure['value']:.4f} ({figure['low']:.4f} to {figure['high']:.4f}), "
                f"{one['trained']:,} trained, {one['cpu_min']:.1f} CPU min"
            )
        else:
            both = " -> ".join(
                f"{one[at]['value']:.4f} ({one[at]['low']:.4f} to {one[at]['high']:.4f})"
                for at in ("before", "after")
            )
            lines.append(f"{name:16} recall@1 {both}, {one['cpu_min']:.1f} CPU min")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
