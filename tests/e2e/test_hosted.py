"""A hosted fine-tuning job: submitted once whatever happens, followed, cancelled, published, used by name.

Run with: pytest tests/e2e/test_hosted.py
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from chains.store import open_store

pytestmark = pytest.mark.e2e

SERVER = Path(__file__).parents[1] / "servers" / "finetuning_server.py"
CHAIN = """
chain: hosted
inputs: {{ticket: {{type: string}}}}
models:
  base: {{provider: openai, model: base-mini, base_url: "{url}", api_key: "{{{{ env.TUNING_KEY }}}}",
         price: {{input: 1, output: 2, training: 3}}}}
  tuned: {{provider: openai, model: "models:triage@latest", api_key: "{{{{ env.TUNING_KEY }}}}",
          temperature: 0}}
defaults: {{retry: {{attempts: 3, base: 1ms, cap: 2ms}}}}
steps:
  tune:
    finetune: openai
    base: base
    data: {{train: train.jsonl, validation: validation.jsonl}}
    n_epochs: 2
    suffix: triage
    publish: triage
    {keys}
  ask: {{prompt: "{{{{ inputs.ticket }}}}", model: tuned}}
outputs: {{answer: "{{{{ ask.text }}}}"}}
"""


@dataclass
class Shop:
    """A chain, a store and a service of its own."""

    folder: Path
    url: str
    process: subprocess.Popen[str]

    def environment(self, failpoint: str = "") -> dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "PREFECT_"))
        }
        return kept | {
            "HEADRACE_STORE": str(self.folder / "store"),
            "HEADRACE_FAILPOINTS": failpoint,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "TUNING_KEY": "a-key-for-tuning",
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-c", "from flows.cli import main; main()", *arguments]

    def headrace(self, *arguments: str, failpoint: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), cwd=self.folder, env=self.environment(failpoint),
            capture_output=True, text=True, timeout=200, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def run(self, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.headrace("run", "chain.yaml", "--direct", "-i", "ticket=Hello", **options)

    def ledger(self, what: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (self.folder / "ledger.jsonl").read_text().splitlines()]
        return [line for line in lines if line["what"] == what]

    def run_id(self) -> str:
        with open_store(self.folder / "store") as store:
            return next(iter(store.runs())).id

    def output(self) -> dict[str, Any]:
        with open_store(self.folder / "store") as store:
            record = store.record(next(iter(store.runs())).id, "tune", -1)
            assert record is not None and record.output is not None
            found: dict[str, Any] = json.loads(record.output)
            return found


def rows(count: int, word: str = "parcel") -> str:
    found = [
        {
            "prompt": [{"role": "user", "content": f"{word} {number}"}],
            "completion": [{"role": "assistant", "content": "delivery"}],
        }
        for number in range(count)
    ]
    return "".join(json.dumps(row) + "\n" for row in found)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Callable[..., Shop]]:
    started: list[subprocess.Popen[str]] = []

    def make(fault: str = "none", keys: str = "", looks: int = 2) -> Shop:
        command = [sys.executable, str(SERVER), "--ledger", str(tmp_path / "ledger.jsonl")]
        command += ["--fault", fault, "--looks", str(looks)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        (tmp_path / "ledger.jsonl").touch()
        (tmp_path / "chain.yaml").write_text(CHAIN.format(url=url, keys=keys))
        (tmp_path / "train.jsonl").write_text(rows(20))
        (tmp_path / "validation.jsonl").write_text(rows(10, "letter"))
        return Shop(tmp_path, url, process)

    yield make
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_a_job_is_submitted_followed_and_its_model_answers_by_its_name(shop: Callable[..., Shop]) -> None:
    here = shop("busy")
    done = here.run()
    assert done.returncode == 0, done.stderr
    (job,) = here.ledger("job")
    assert len(here.ledger("file")) == 2
    asked = job["asked"]
    assert asked["model"] == "base-mini" and asked["suffix"] == "triage" and asked["seed"] == 0
    assert asked["method"] == {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}}
    assert {"training_file", "validation_file", "metadata"} <= asked.keys()
    assert here.ledger("file")[0]["key"] == "Bearer a-key-for-tuning"
    output = here.output()
    assert output["model"] == "models:triage@1" and output["job"] == "ftjob-1"
    assert output["hosted_model"] == "ft:base-mini:org:triage:1"
    assert (output["train_loss"], output["validation_loss"], output["seconds"]) == (1.0, 1.25, 60)
    assert [entry["step"] for entry in output["history"]] == [1, 2]
    # The prompt step asked what was published, at the address where it was made.
    assert [line["model"] for line in here.ledger("chat")] == ["ft:base-mini:org:triage:1"]
    assert "answer: ft:base-mini:org:triage:1" in done.stdout
    assert "tune: succeeded: The job has successfully completed" in done.stderr
    with open_store(here.folder / "store") as store:
        row = store.model("triage")
        assert row is not None and row.kind == "hosted"
        record = store.record(next(iter(store.runs())).id, "tune", -1)
        assert record is not None and record.cost_micro == 3 * output["tokens"]
        assert "a-key-for-tuning" not in str(store.attempts(record.id))
        assert store.verify() == []
    listed = here.headrace("models")
    assert "hosted" in listed.stdout and "base-mini" in listed.stdout

    again = here.run()
    assert again.returncode == 0 and len(here.ledger("job")) == 1 and len(here.ledger("file")) == 2
    assert here.output()["model"] == "models:triage@1"


# The first attempt sends the training file, the second the other file, the third the job; then the job runs.
KILLS = [
    *(f"attempt.after_intent=kill@{number}" for number in (1, 2, 3)),
    *(f"attempt.before_outcome=kill@{number}" for number in (1, 2, 3)),
]


@pytest.mark.slow
@pytest.mark.parametrize("failpoint", KILLS)
def test_killed_anywhere_a_resume_makes_no_second_job(shop: Callable[..., Shop], failpoint: str) -> None:
    here = shop()
    assert here.run(failpoint=failpoint).returncode == -signal.SIGKILL
    done = here.headrace("resume", here.run_id())
    assert done.returncode == 0, done.stderr
    assert len(here.ledger("job")) == 1 and len(here.ledger("file")) == 2
    assert here.output()["model"] == "models:triage@1"
    if failpoint.startswith("attempt.before_outcome=kill@3"):
        assert "job ftjob-1 is there already" in done.stderr


def until(condition: Callable[[], bool]) -> None:
    for _ in range(15000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited for minutes")


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["no-filter", "none"])
def test_killed_while_the_job_runs_a_resume_finds_it(shop: Callable[..., Shop], fault: str) -> None:
    here = shop(fault, looks=4)
    running = subprocess.Popen(
        here.command("run", "chain.yaml", "--direct", "-i", "ticket=Hello"), cwd=here.folder,
        env=here.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until(lambda: bool(here.ledger("job")))
    running.kill()
    running.wait()
    done = here.headrace("resume", here.run_id())
    assert done.returncode == 0 and "is there already" in done.stderr, done.stderr
    assert len(here.ledger("job")) == 1 and here.ledger("cancel") == []


@pytest.mark.slow
def test_a_stopped_run_cancels_its_job_and_a_resume_makes_another(shop: Callable[..., Shop]) -> None:
    here = shop(looks=1000)
    running = subprocess.Popen(
        here.command("run", "chain.yaml", "--direct", "-i", "ticket=Hello"), cwd=here.folder,
        env=here.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until(lambda: bool(here.ledger("job")))
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    assert [line["id"] for line in here.ledger("cancel")] == ["ftjob-1"]
    resumed = subprocess.Popen(
        here.command("resume", here.run_id()), cwd=here.folder, env=here.environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until(lambda: len(here.ledger("job")) == 2)
    resumed.send_signal(signal.SIGINT)
    resumed.wait(timeout=60)
    assert len(here.ledger("file")) == 2


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["lose-files", "lose-jobs"])
def test_an_answer_that_is_lost_does_not_make_it_twice(shop: Callable[..., Shop], fault: str) -> None:
    here = shop(fault)
    done = here.run()
    assert done.returncode == 0, done.stderr
    assert len(here.ledger("job")) == 1 and len(here.ledger("file")) == 2


@pytest.mark.slow
def test_why_a_job_failed_is_told(shop: Callable[..., Shop]) -> None:
    here = shop()
    (here.folder / "train.jsonl").write_text(rows(20, "poison"))
    failed = here.run()
    assert failed.returncode == 1
    assert (
        "The job ftjob-1 ended as 'failed': invalid_training_file: training_file: The file was refused."
        in failed.stderr
    )
    assert "Job failed: the file was refused" in failed.stderr
    with open_store(here.folder / "store") as store:
        assert store.models() == []
    # The user's retry is a new job.
    assert here.headrace("retry", here.run_id()).returncode == 1
    assert len(here.ledger("job")) == 2 and len(here.ledger("file")) == 2


@pytest.mark.slow
def test_a_wrong_file_or_a_job_that_is_too_dear_is_not_submitted(
    shop: Callable[..., Shop],
) -> None:
    here = shop(keys="budget: {usd: 0.000001}")
    dear = here.run()
    assert dear.returncode != 0 and "the budget of step 'tune'" in dear.stderr, dear.stderr
    assert here.ledger("job") == []
    (here.folder / "train.jsonl").write_text(rows(12) + '{"prompt": "x"}\nnot json\n')
    wrong = here.run()
    assert wrong.returncode == 1
    assert "train.jsonl:13: 'method: supervised' learns from 'messages'" in wrong.stderr
    assert "train.jsonl:14:1: no JSON" in wrong.stderr and "Nothing was sent" in wrong.stderr


@pytest.mark.slow
def test_a_gate_that_says_no_publishes_nothing_and_pays_nothing_again(shop: Callable[..., Shop]) -> None:
    here = shop(keys="gate: validation_loss < 0.1")
    assert "The gate 'validation_loss < 0.1' is false" in here.run().stderr
    chain = here.folder / "chain.yaml"
    chain.write_text(chain.read_text().replace("< 0.1", "< 10"))
    done = here.run()
    assert done.returncode == 0, done.stderr
    assert len(here.ledger("job")) == 1 and here.output()["model"] == "models:triage@1"
