"""kill -9 in the middle of a batch, and what is asked twice when the same work is asked for again.

Headrace is resumed; a loop that keeps nothing is started again. A call is *finished* at a kill when its
answer is committed (Headrace: the attempt is `ok` in the store) or, where nothing is kept, when the endpoint
had answered it a while before.
"""

from __future__ import annotations

import dataclasses
import os
import random
import re
import signal
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from contenders import Bench, Contender, Started, start, start_command
from workload import write_rows

GRACE_S = 0.25
"""An answer this much older than the kill has surely reached its client."""
POLL_S = 0.01
MARK = re.compile(rb"\[call ([0-9a-z-]+)\]")


@dataclass(frozen=True)
class Kill:
    """One kill: when, which calls were finished by then, and how many were under way."""

    at: float
    finished: frozenset[str]
    under_way: int


@dataclass(frozen=True)
class Kills:
    """What a batch with kills came to."""

    kills: int
    finished: int
    repeated: int
    extra: int
    under_way: int

    def figures(self) -> dict[str, int]:
        return dataclasses.asdict(self)


def table(found: Kills) -> list[list[str]]:
    heads = ["kills", "calls finished at a kill", "of these asked again", "calls beyond rows x steps"]
    heads.append("calls under way at the kills")
    return [
        heads,
        [str(n) for n in (found.kills, found.finished, found.repeated, found.extra, found.under_way)],
    ]


def kill_and_finish(bench: Bench, who: Contender, *, rows: int, times: int, seed: int = 1) -> Kills:
    """Kill the contender at random moments of one batch, let it go on each time, and count."""
    folder = bench.new_folder(f"kill-{who.name}")
    data = write_rows(folder / "rows.jsonl", range(rows))
    logical = rows * bench.steps
    drawn = random.Random(seed).sample(range(logical // 50, logical * 49 // 50), times)
    bench.reset(ids=True)
    kills: list[Kill] = []
    begun = _begin(bench, who, folder, data)
    for target in sorted(drawn) if times > 1 else [logical // 2]:
        if not _until(bench, begun, len(kills), target):
            break
        os.kill(begun.process.pid, signal.SIGKILL)
        begun.process.wait()
        kills.append(_look(bench, who, folder))
        begun = _begin(bench, who, folder, data, again=True)
    if begun.process.wait(timeout=600) != 0:
        raise RuntimeError(f"{who.name} ended badly:\n{begun.errors.read_text()[-3000:]}")
    return _counted(bench, kills, logical)


def _begin(bench: Bench, who: Contender, folder: Path, data: Path, *, again: bool = False) -> Started:
    if who.command_line is None:
        return start(bench, who, folder, data)
    more = ("run", "--resume", _last_run(folder)) if again else ()
    return start_command(bench, who, folder, data, *more)


def _until(bench: Bench, begun: Started, kills: int, target: int) -> bool:
    """Wait until so many calls were answered; a process that is past it has made at least one call more."""
    base = bench.endpoint.stats()["answered"]
    while begun.process.poll() is None:
        answered = bench.endpoint.stats()["answered"]
        if answered >= target and (kills == 0 or answered > base):
            return True
        time.sleep(POLL_S)
    return False


def _look(bench: Bench, who: Contender, folder: Path) -> Kill:
    now = time.monotonic()
    ids = bench.endpoint.ids()
    if who.command_line is not None:
        return Kill(now, _in_store(folder, "ok"), len(_in_store(folder, "intent")))
    old = now - GRACE_S
    finished = {name for name, tries in ids.items() if any(end and end < old for _, end in tries)}
    return Kill(now, frozenset(finished), bench.endpoint.stats()["in_flight"])


def _counted(bench: Bench, kills: list[Kill], logical: int) -> Kills:
    ids = bench.endpoint.ids()
    repeated = {
        name for kill in kills for name in kill.finished if any(asked > kill.at for asked, _ in ids[name])
    }
    return Kills(
        kills=len(kills),
        finished=len(frozenset().union(*(kill.finished for kill in kills))),
        repeated=len(repeated),
        extra=sum(len(tries) for tries in ids.values()) - logical,
        under_way=sum(kill.under_way for kill in kills),
    )


def _last_run(folder: Path) -> str:
    with sqlite3.connect(folder / "store" / "headrace.db") as database:
        return database.execute("SELECT id FROM runs ORDER BY started_at DESC LIMIT 1").fetchone()[0]


def _in_store(folder: Path, state: str) -> frozenset[str]:
    """Return the marks of the calls whose attempts are in this state."""
    with sqlite3.connect(folder / "store" / "headrace.db") as database:
        found = database.execute("SELECT request FROM attempts WHERE state = ?", (state,)).fetchall()
    marks = (MARK.search(request) for (request,) in found)
    return frozenset(mark[1].decode() for mark in marks if mark)
