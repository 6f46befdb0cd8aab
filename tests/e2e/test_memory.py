"""Many rows in bounded memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

CHAIN = """\
chain: long
inputs: {text: {type: string}}
steps:
  first: {python: "functions.py:same", args: {text: "{{ inputs.text }}"}}
  second: {python: "functions.py:same", args: {text: "{{ first.value }}"}}
  third: {python: "functions.py:same", args: {text: "{{ second.value }}"}}
  score: {evaluate: {prediction: "{{ third.value | length }}", reference: "{{ row.size }}"}}
outputs: {text: "{{ third.value }}"}
"""

# The process says its own peak: what a parent is told of a child counts the parent's memory at the fork.
MEASURED = """
import re
from pathlib import Path
from flows.cli import main
try:
    main()
finally:
    Path("peak").write_text(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def peak_of_a_run(folder: Path, rows: int) -> int:
    """Run the chain over so many rows of 2 KB, and return the largest size of its process, in MB."""
    folder.mkdir()
    (folder / "chain.yaml").write_text(CHAIN)
    (folder / "functions.py").write_text("def same(text):\n    return text\n")
    with (folder / "rows.jsonl").open("w") as file:
        for n in range(rows):
            text = f"{n} " + "x" * 2000
            file.write(json.dumps({"text": text, "size": len(text)}) + "\n")
    arguments = ["run", "chain.yaml", "--data", "rows.jsonl", "--direct", "--out", "out.jsonl", "--json"]
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "HEADRACE_STORE": str(folder / "store")}
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *arguments],
        cwd=folder,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert done.returncode == 0
    assert len((folder / "out.jsonl").read_text().splitlines()) == rows
    return int((folder / "peak").read_text()) // 1024


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    few = peak_of_a_run(tmp_path / "few", 1500)
    many = peak_of_a_run(tmp_path / "many", 6000)
    # 4500 rows more are 9 MB of data, and 54 MB of records; what may grow is a number or two per row.
    assert many < few + 25, (few, many)
    assert many < 400
