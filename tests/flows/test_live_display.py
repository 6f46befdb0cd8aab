"""Progress while a run goes on: plain lines in a pipe, a table on a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading

import pytest

from chains.clock import Clock
from flows.cli.live import shown
from flows.progress import Monitor, StepProgress
from tasks.context import Progress


def monitor(**totals: int) -> Monitor:
    return Monitor(Clock(), {name: StepProgress(total=total) for name, total in totals.items()})


def row(step: str, number: int, status: str = "ok", **fields: object) -> Progress:
    return Progress(step, "row", row=number, status=status, **fields)  # type: ignore[arg-type]


def test_a_pipe_gets_a_line_for_each_tenth_and_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with shown(monitor(triage=200, score=1)) as display:
        display.report(Progress("triage", "started"))
        for number in range(200):
            status = "failed" if number == 7 else "ok"
            display.report(row("triage", number, status, tokens_in=2, tokens_out=1, cost_micro=5))
        display.report(row("score", -1))
        display.report(Progress("", "message", text="Stopping\x1b[2J"))
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if line.startswith("triage: ")]) == 10
    assert lines[9].startswith("triage: 200/200 rows, 1 failed, 600 tokens, cost $0.0010 in ")
    assert lines[10].startswith("score: done")
    assert lines[11] == "Stopping\\u001b[2J"


def test_the_cost_of_calls_without_a_price_is_unknown_and_a_reused_row_costs_nothing() -> None:
    seen = monitor(a=2, b=1)
    seen(row("a", 0, tokens_in=1, cost_micro=None))
    seen(row("b", 0, reused=True, tokens_in=1, cost_micro=None))
    assert not seen.steps["a"].cost_known and seen.steps["b"].cost_known
    assert seen.steps["b"].reused == 1 and seen.steps["b"].finished


def test_a_pace_gives_the_time_that_is_left() -> None:
    step = StepProgress(total=10, done=4, started=100.0)
    assert step.eta(108.0) == pytest.approx(12.0)
    assert StepProgress(total=10).eta(108.0) is None


SCRIPT = """
from chains.clock import Clock
from flows.cli.live import shown
from flows.progress import Monitor, StepProgress
from tasks.context import Progress
monitor = Monitor(Clock(), {"triage": StepProgress(total=2), "reply": StepProgress(total=2)})
with shown(monitor) as display:
    display.say("said \\x1b]0;evil\\x07")
    display.report(Progress("triage", "started"))
    for number in range(2):
        display.report(Progress("triage", "row", row=number, status="ok", tokens_in=7))
    display.report(Progress("reply", "message", text="[red]model\\x9b31m text"))
"""


def test_a_terminal_gets_a_table_in_which_nothing_is_obeyed() -> None:
    leader, follower = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "160", "LINES": "40"}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], stderr=follower, env=environment)
    os.close(follower)
    seen = bytearray()

    def read() -> None:
        try:
            while part := os.read(leader, 4096):
                seen.extend(part)
        except OSError:  # the other end is closed
            return

    reader = threading.Thread(target=read)
    reader.start()
    assert process.wait(60) == 0
    reader.join()
    os.close(leader)
    text = seen.decode()
    assert "triage" in text and "2/2" in text and "✓" in text
    assert "\x1b]0;evil" not in text and "\\u001b]0;evil" in text
    assert "\x9b31m" not in text and "[red]model\\u009b31m text" in text
