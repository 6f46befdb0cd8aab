"""Kill -9 during a mapped step inside a loop inside a sub-chain: no call that had its answer is made again.

pytest tests/faults/test_nested_crash.py -k outcome
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.launch import Running, start

from chains.store import open_store

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
OUTER = """
chain: outer
inputs: {topic: {type: string}}
steps:
  article: {chain: inner/chain.yaml, inputs: {about: "{{ inputs.topic }}"}}
outputs: {article: "{{ article }}"}
"""
INNER = """
chain: inner
inputs: {about: {type: string}}
models:
  writer: {provider: openai, model: m, base_url: "%s", temperature: 0.7, limits: {concurrency: 2}}
defaults: {model: writer}
steps:
  draft:
    repeat: {until: "loop.turn == 1", max: 3}
    steps:
      parts:
        map: [beginning, middle, end]
        as: part
        prompt: "Write the {{ part }} about {{ inputs.about }}, try {{ loop.turn }}."
      whole:
        prompt: "Try {{ loop.turn }} of {{ inputs.about }}: {{ parts | map(attribute='text') | join }}"
outputs: {text: "{{ draft.whole.text }}", first: "{{ draft[0].parts[2].text }}"}
"""
ROWS = 2
CALLS = ROWS * 2 * (3 + 1)
POINTS = (
    "attempt.after_intent=kill@11",
    "attempt.before_outcome=kill@1",
    "attempt.before_outcome=kill@6",
    "attempt.before_outcome=kill@16",
    "store.group.after_commit=kill@12",
)


class Desk:
    """A folder with the chains, a store and a server of its own."""

    def __init__(self, folder: Path, server: Running) -> None:
        self.folder, self.server = folder, server
        (folder / "inner").mkdir(parents=True)
        (folder / "chain.yaml").write_text(OUTER)
        (folder / "inner/chain.yaml").write_text(INNER % server.url)
        rows = [json.dumps({"topic": f"topic {number}"}) for number in range(ROWS)]
        (folder / "rows.jsonl").write_text("\n".join(rows) + "\n")

    def headrace(self, *arguments: str, failpoint: str = "") -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
        environment |= {"HEADRACE_STORE": str(self.folder / "store"), "PYTHONPATH": str(ROOT)}
        environment |= {"HEADRACE_FAILPOINTS": failpoint} if failpoint else {}
        code = [sys.executable, "-c", "from flows.cli import main; main()"]
        return subprocess.run(
            [*code, *arguments], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300
        )

    def run(self, failpoint: str = "") -> subprocess.CompletedProcess[str]:
        return self.headrace("run", "chain.yaml", "--data", "rows.jsonl", "--direct", failpoint=failpoint)

    def outputs(self) -> list[dict[str, str]]:
        found = json.loads(self.headrace("result", "last", "--json").stdout)
        assert found["status"] == "ok"
        return [row["outputs"] for row in found["row_outputs"]]

    def asked(self) -> Counter[bytes]:
        return Counter(line["raw"] for line in self.server.ledger())

    def answered(self) -> set[bytes]:
        """Return the questions whose answers are in the store."""
        with open_store(self.folder / "store") as store:
            runs = store.runs(limit=1)
            attempts = store.attempts_of_run(runs[0].id) if runs else []
            return {attempt.request or b"" for attempt in attempts if attempt.state == "ok"}

    def doubtful(self) -> int:
        with open_store(self.folder / "store") as store:
            attempts = store.attempts_of_run(store.runs(limit=1)[0].id)
            return sum(attempt.state == "ambiguous" for attempt in attempts)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    found = start(tmp_path_factory.mktemp("server"))
    yield found
    found.stop()


@pytest.fixture(scope="module")
def uncrashed(server: Running, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    folder = tmp_path_factory.mktemp("uncrashed")
    desk = Desk(folder / "desk", server.restarted(folder))
    done = desk.run()
    assert done.returncode == 0, done.stderr
    assert desk.asked().total() == len(desk.asked()) == CALLS
    return desk.outputs()


@pytest.mark.parametrize("point", POINTS)
def test_a_run_that_is_killed_deep_inside_repeats_no_finished_call(
    point: str, server: Running, uncrashed: list[dict[str, str]], tmp_path: Path
) -> None:
    desk = Desk(tmp_path / "desk", server.restarted(tmp_path, latency=0.02))
    killed = desk.run(point)
    assert killed.returncode == -9, killed.stderr
    answered = desk.answered()
    resumed = desk.headrace("resume", "last", "--direct")
    assert resumed.returncode == 0, resumed.stderr
    asked = desk.asked()
    assert {asked[question] for question in answered} <= {1}
    assert len(asked) == CALLS
    assert asked.total() - CALLS <= desk.doubtful()  # calls that were under way
    assert desk.outputs() == uncrashed
    assert desk.headrace("verify").returncode == 0
