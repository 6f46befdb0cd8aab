"""The child process: reads job.json in its folder, trains, and writes JSON lines to its parent.

Owns the protocol and the process: standard output carries events only, `stop` on standard input ends the
training at its next step, and a closed standard input means that the parent is gone. Started with
`python -m tasks.training.child FOLDER`.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from chains.errors import HeadraceError

REPORT_EVERY = 0.5


class Line:
    """The line to the parent."""

    def __init__(self, out: IO[str]) -> None:
        self.out = out
        self.stopped = threading.Event()
        self._next_step = 0.0

    def report(self, event: dict[str, Any]) -> None:
        """Send one event; of the steps only two a second and the last."""
        if event["event"] == "step" and 1 < event["step"] < event["total"]:
            if time.monotonic() < self._next_step:
                return
            self._next_step = time.monotonic() + REPORT_EVERY
        self.out.write(json.dumps(event) + "\n")
        self.out.flush()

    def listen(self) -> None:
        """Wait for `stop`; leave at once when the parent has gone."""
        for line in sys.stdin:
            if line.strip() == "stop":
                self.stopped.set()
        os._exit(3)


def main(folder: str) -> int:
    """Train what job.json in `folder` says."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # Whatever a library prints goes to standard error: the parent reads nothing but events.
    os.dup2(2, 1)
    line = Line(events)
    threading.Thread(target=line.listen, daemon=True).start()
    work = Path(folder)
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            line.report(
                _failure("StepFailed", f"Another process is training in {folder!r}.", "Wait for it to end.")
            )
            return 1
        return _train(work, line)


def _train(work: Path, line: Line) -> int:
    from chains.store.files import atomic_write
    from tasks.training.job import TrainingJob
    from tasks.training.loop import run
    from tasks.training.watching import Watch

    job = TrainingJob.from_json((work / "job.json").read_text(encoding="utf-8"))
    try:
        result = run(job, work, Watch(line.report, line.stopped.is_set))
    except HeadraceError as error:
        line.report(_failure(type(error).__name__, error.message, error.hint))
        return 1
    atomic_write(work / "result.json", result.to_json().encode())
    line.report({"event": "done"})
    return 0


def _failure(kind: str, message: str, hint: str | None) -> dict[str, Any]:
    return {"event": "failed", "type": kind, "message": message, "hint": hint}


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stderr.flush()
    # Threads of torch and of the listener need no farewell, and interpreter teardown costs a second.
    os._exit(code)
