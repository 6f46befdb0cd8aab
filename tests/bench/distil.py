"""Distillation in figures: what a student half its teacher's size learns from it, and from labels alone.

    python tests/bench/distil.py FOLDER [--questions 12000] [--steps 500]

Works in FOLDER, where a second call goes on. The teacher is the starter, tuned on the labelled tickets of the
`support` chain. The student is cut out of it: its first and last block with the half of their inner units
that weigh most. Two students begin from these weights: one learns from the teacher's answers to tickets
without labels, the other from a tenth of the labels. All of it are ordinary chains; teacher and students are
measured on the same held-out tickets, of which no phrase occurs in any that they learnt from.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SUPPORT = ROOT / "chains" / "library" / "support"
ANSWER = '{"intent": {{ row.intent | tojson }}, "order": {{ row.order | tojson }}}'
FORM = """
      intent: {enum: [refund, delivery, damaged, wrong_item, cancel, warranty, invoice, address, question]}
      order: {type: string, required: false}"""
HELD_OUT_SEED = 31

TEACH = f"""
chain: teach
inputs: {{ticket: {{type: string}}}}
models: {{starter: {{provider: starter}}}}
steps:
  ask: {{prompt: triage.md, model: starter, when: "false"}}
  tickets:
    prepare: labelled.jsonl
    like: ask
    completion: '{ANSWER}'
    split: {{train: 0.9, validation: 0.1, test: 0, seed: 1}}
  tune:
    finetune: full
    base: starter
    data: {{train: "{{{{ tickets.train }}}}", validation: "{{{{ tickets.validation }}}}"}}
    learning_rate: 0.001
    num_train_epochs: 3
    per_device_train_batch_size: 4
    warmup_steps: 20
    max_length: 384
    eval_steps: 338
    seed: 1
    publish: teacher
"""

LEARN = """
chain: learn
inputs: {{ticket: {{type: string}}}}
models:
  teacher: {{provider: local, model: "models:teacher@1", max_tokens: 40}}
  half: {{provider: local, model: half}}
steps:
  ask: {{prompt: triage.md, model: teacher, when: "false"}}
  questions:
    prepare: questions.jsonl
    like: ask
    completion: '{{{{ row.intent | tojson }}}}'
    deduplicate: false
    split: {{train: 1, validation: 0, test: 0, seed: 1}}
  tenth:
    prepare: tenth.jsonl
    like: ask
    completion: '{answer}'
    split: {{train: 0.9, validation: 0.1, test: 0, seed: 1}}
  from_teacher:
    finetune: distill
    teacher: teacher
    base: half
    trains: full
    data: {{train: "{{{{ questions.train }}}}"}}
    max_unanswered: 0.02
    publish: from_teacher
    max_steps: {steps}
    {same}
  from_tenth:
    finetune: full
    base: half
    data: {{train: "{{{{ tenth.train }}}}", validation: "{{{{ tenth.validation }}}}"}}
    publish: from_tenth
    max_steps: {few}
    early_stopping_patience: 3
    eval_steps: 25
    {same}
"""
SAME = """learning_rate: 0.0015
    per_device_train_batch_size: 16
    warmup_steps: 50
    max_length: 384
    seed: 1"""
STUDENTS = ("from_teacher", "from_tenth")

ASKED = """
  {name}:
    prompt: triage.md
    model: {name}
    output:{form}
  score_{name}:
    evaluate: {{prediction: "{{{{ {name}.intent }}}}", reference: "{{{{ row.intent }}}}"}}
    metrics: [accuracy]
"""


def halve(teacher: Path, target: Path) -> int:
    """Cut a student out of a teacher: the first and the last block, each with half of its inner units."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(teacher)
    blocks = model.model.layers
    model.model.layers = torch.nn.ModuleList([blocks[0], blocks[len(blocks) - 1]])
    # One unit less than half: the embeddings are as large as before.
    kept = model.config.intermediate_size // 2 - 1
    for place, block in enumerate(model.model.layers):
        mlp = block.mlp
        weight = mlp.down_proj.weight.norm(dim=0) * mlp.up_proj.weight.norm(dim=1)
        units = weight.topk(kept).indices.sort().values
        for name, dim in (("gate_proj", 0), ("up_proj", 0), ("down_proj", 1)):
            layer = getattr(mlp, name)
            layer.weight = torch.nn.Parameter(layer.weight.detach().index_select(dim, units).clone())
        block.self_attn.layer_idx = place
    model.config.num_hidden_layers = len(model.model.layers)
    model.config.intermediate_size = kept
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[: len(model.model.layers)]
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(teacher).save_pretrained(target)
    size: int = sum(value.numel() for value in model.parameters())
    return size


def write_tickets(folder: Path, questions: int, held_out: int) -> None:
    """Write the tickets: those with labels, those without, and those to measure on."""
    from chains.library.starter.generate import tickets

    def write(name: str, rows: list[dict[str, Any]]) -> None:
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def made(which: Any, seed: int, count: int) -> list[dict[str, Any]]:
        found = tickets(which, seed, count)
        return [{"ticket": one.text, "intent": one.intent, "order": one.order} for one in found]

    labelled = (SUPPORT / "data" / "labelled.jsonl").read_text(encoding="utf-8").splitlines()
    write("labelled.jsonl", [json.loads(line) for line in labelled])
    write("tenth.jsonl", [json.loads(line) for line in labelled[: len(labelled) // 10]])
    # What the customer wanted is in no question: the label is taken away.
    unlabelled = [*made("a", 77, questions // 2), *made("b", 77, questions - questions // 2)]
    write("questions.jsonl", [{**row, "intent": None, "order": None} for row in unlabelled])
    write("heldout.jsonl", made("c", HELD_OUT_SEED, held_out))
    (folder / "triage.md").write_bytes((SUPPORT / "prompts" / "triage.md").read_bytes())


def headrace(folder: Path, *arguments: str) -> dict[str, Any]:
    """Run a chain without Prefect and return what it printed as JSON."""
    done = subprocess.run(
        [
            *(sys.executable, "-c", "from flows.cli import main; main()", "run", *arguments),
            *("--direct", "--store", str(folder / "store"), "--json"),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HEADRACE_TORCH_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"headrace {' '.join(arguments)} ended with {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measured(folder: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """Ask each published model about every held-out ticket and return its accuracy with its interval."""
    models = "".join(
        f'  {name}: {{provider: local, model: "models:{name}@latest", max_tokens: 40}}\n' for name in names
    )
    steps = "".join(ASKED.format(name=name, form=FORM) for name in names)
    chain = f"chain: measure\ninputs: {{ticket: {{type: string}}}}\nmodels:\n{models}steps:{steps}"
    (folder / "measure.yaml").write_text(f"{chain}max_failed_rows: 1000000\n")
    headrace(folder, "measure.yaml", "--data", "heldout.jsonl")
    return accuracies(folder, names)


def accuracies(folder: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """Read the figures of the newest measuring run from the store."""
    from chains.store import open_store

    store = open_store(folder / "store")
    try:
        run = next(row for row in store.runs() if row.chain == "measure")
        found = {}
        for name in names:
            record = store.record(run.id, f"score_{name}", -1)
            assert record is not None and record.output is not None
            found[name] = json.loads(record.output)["accuracy"]
        return found
    finally:
        store.close()


def published(folder: Path, name: str) -> Path:
    """Return a published model as a folder."""
    from chains.store import open_store
    from tasks.providers.weights import find_weights

    store = open_store(folder / "store")
    try:
        return find_weights(f"models:{name}@1", revision=None, store=store).folder
    finally:
        store.close()


def main() -> None:
    """Make what is not there yet, measure, and print a table."""
    sys.path.insert(0, str(ROOT))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--questions", type=int, default=12_000)
    parser.add_argument("--held-out", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=500)
    given = parser.parse_args()
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    write_tickets(folder, given.questions, given.held_out)
    (folder / "teach.yaml").write_text(TEACH)
    headrace(folder, "teach.yaml", "-i", "ticket=none")
    size = halve(published(folder, "teacher"), folder / "half")
    few = max(200, given.steps // 10)
    (folder / "learn.yaml").write_text(LEARN.format(answer=ANSWER, steps=given.steps, few=few, same=SAME))
    headrace(folder, "learn.yaml", "-i", "ticket=none")
    found = measured(folder, ("teacher", *STUDENTS))
    print(f"student: {size:,} parameters; {given.held_out} held-out tickets")
    for name, figure in found.items():
        share = figure["value"] / found["teacher"]["value"]
        print(
            f"{name:14} {figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]  "
            f"{share:.1%} of the teacher's"
        )


if __name__ == "__main__":
    main()
