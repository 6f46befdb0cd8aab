"""The work that all contenders do: for each row a chain of dependent questions, in the same words.

A question carries a mark (`[call ROW-STEP]`) by which the endpoint's ledger knows it again.
"""

from __future__ import annotations

import json
from pathlib import Path
from string import ascii_lowercase

SYSTEM = (
    "You work in the support team of a mail-order house. Answer in plain words, name the order, promise "
    "nothing that the handbook does not promise, and keep to what the customer asked."
)
COMPLAINT = (
    "I ordered a kettle and two cups three weeks ago. The cups came on Friday, one of them with a crack "
    "along the handle, and of the kettle I have heard nothing since the mail that said it was packed. I "
    "wrote to you last week and got no answer. Please send the kettle, replace the cup, and tell me when I "
    "can expect both."
)


def step_names(steps: int) -> str:
    """Return one letter per step."""
    return ascii_lowercase[:steps]


def ticket(row: int) -> str:
    """Return what the customer of this row wrote."""
    return f"Order {100_000 + row}. {COMPLAINT}"


def question(step: str, number: object, ticket: str, before: str | None) -> str:
    """Return the user message of a step; `before` is the answer of the step before it."""
    if before is None:
        return f"[call {number}-{step}] Say in two sentences what this customer wants.\n\n{ticket}"
    return f"[call {number}-{step}] Improve this draft.\n\nDraft:\n{before}\n\nTicket:\n{ticket}"


def messages(step: str, number: object, ticket: str, before: str | None) -> list[dict[str, str]]:
    """Return the messages of one call."""
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": question(step, number, ticket, before)},
    ]


def write_rows(path: Path, rows: range) -> Path:
    """Write a data set in JSONL."""
    with path.open("w") as file:
        for row in rows:
            file.write(json.dumps({"number": row, "ticket": ticket(row)}) + "\n")
    return path


def read_rows(path: Path) -> list[dict[str, object]]:
    with path.open() as file:
        return [json.loads(line) for line in file]


def write_chain(
    path: Path, *, steps: int, url: str, concurrency: int, temperature: float | None = None
) -> Path:
    """Write the chain that asks exactly the questions above (JSON is YAML)."""
    model = {"provider": "openai", "model": "bench", "base_url": url, "limits": {"concurrency": concurrency}}
    if temperature is not None:
        model["temperature"] = temperature
    asked, before = {}, None
    for name in step_names(steps):
        user = question(name, "{{ inputs.number }}", "{{ inputs.ticket }}", before)
        asked[name] = {"prompt": [{"system": SYSTEM}, {"user": user}]}
        before = f"{{{{ {name}.text }}}}"
    chain = {
        "chain": "bench",
        "inputs": {"number": {"type": "integer"}, "ticket": {"type": "string"}},
        "models": {"endpoint": model},
        "defaults": {"model": "endpoint", "retry": {"attempts": 8}},
        "steps": asked,
        "outputs": {"reply": before},
    }
    path.write_text(json.dumps(chain, indent=1))
    return path
