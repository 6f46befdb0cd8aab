"""Runs as a store has them, written without running anything."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from chains.diff import RecordedRun
from chains.loading import restore
from chains.store import RecordRow, RunRow, StepRow, Store

CHAIN = """chain: desk
inputs: {ticket: {type: string}}
models:
  writer: {provider: openai, model: m, base_url: "http://127.0.0.1:1/v1", temperature: 0}
collections: {book: {embedder: mini}}
defaults: {model: writer}
steps:
  triage: {prompt: "Sort {{ inputs.ticket }}", output: {intent: string}}
  passages: {retrieve: book, query: "{{ inputs.ticket }}"}
  reply: {prompt: "Answer {{ triage.intent }} with {{ passages.hits }}"}
  score:
    evaluate: {prediction: "{{ triage.intent }}", reference: "{{ row.intent }}"}
""".replace("models:\n", "models:\n  mini: {provider: local, model: x}\n")
KINDS = {"triage": "prompt", "passages": "retrieve", "reply": "prompt", "score": "evaluate"}


class Written:
    """Writes runs into a store; ids and times count up."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.runs = 0

    def run(
        self,
        rows: Sequence[Mapping[str, Mapping[str, Any]]],
        *,
        source: str = CHAIN,
        data: str | None = "d" * 64,
    ) -> RecordedRun:
        """Write a run; each row is {step: fields of its record}, with JSON values for payloads."""
        self.runs += 1
        run = RunRow(
            id=f"run{self.runs}",
            chain="desk",
            chain_hash="h",
            source=source.encode(),
            rows=len(rows),
            status="ok",
            started_at=float(self.runs),
            finished_at=self.runs + 0.5,
            data_sha256=data,
        )
        self.store.put(run)
        self.store.put(
            *(
                StepRow(run_id=run.id, id=name, kind=kind, once=name == "score", status="ok")
                for name, kind in KINDS.items()
            )
        )
        records = [
            self.record(run.id, step, number, fields)
            for number, row in enumerate(rows)
            for step, fields in row.items()
        ]
        for start in range(0, len(records), 1000):
            self.store.put(*records[start : start + 1000])
        return RecordedRun(run, restore(run.source, {}, "desk.yaml"))

    def record(self, run_id: str, step: str, row: int, fields: Mapping[str, Any]) -> RecordRow:
        payloads = {
            name: json.dumps(fields[name]).encode()
            for name in ("inputs", "messages", "output", "error")
            if name in fields
        }
        return RecordRow(
            id=f"{run_id}-{step}-{row}",
            run_id=run_id,
            step=step,
            row=row,
            status=fields.get("status", "ok"),
            value_key=fields.get("key"),
            reused_from=fields.get("reused_from"),
            started_at=1.0,
            finished_at=2.0,
            **payloads,
        )


def row_of(
    ticket: str,
    intent: str = "refund",
    text: str = "Yes.",
    hits: Sequence[str] = ("a", "b"),
    head: str = "Sort",
) -> dict[str, dict[str, Any]]:
    """Return one row's records: three steps that follow from the ticket and from what was answered."""
    return {
        "triage": {
            "inputs": {"inputs.ticket": ticket},
            "messages": [{"role": "user", "content": f"{head} {ticket}"}],
            "output": {"text": intent, "intent": intent},
        },
        "passages": {
            "inputs": {"query": ticket},
            "output": {"hits": [{"id": name, "text": name} for name in hits], "scores": [1] * len(hits)},
        },
        "reply": {
            "inputs": {"triage.intent": intent, "passages.hits": list(hits)},
            "messages": [{"role": "user", "content": f"Answer {intent} with {list(hits)}"}],
            "output": {"text": text},
        },
    }
