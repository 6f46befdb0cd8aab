"""Live progress on a terminal, plain lines in a pipe; both on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from flows.cli.text import duration, money, safe, shorten

if TYPE_CHECKING:
    from flows.progress import Monitor, StepProgress
    from tasks.context import Progress


class Display(Protocol):
    """Shows a run while it goes on."""

    def report(self, progress: Progress) -> None:
        """Take one report of the run."""

    def say(self, text: str) -> None:
        """Show one line about the run as a whole."""


@contextmanager
def shown(monitor: Monitor, *, stream: bool = False) -> Iterator[Display]:
    """Show a monitor while the block runs; with `stream` the answers themselves, and no table."""
    if stream:
        from flows.cli.streamed import Streamed

        yield Streamed(_Lines(monitor))
    elif sys.stderr.isatty():
        with _Live(monitor) as live:
            yield live
    else:
        yield _Lines(monitor)


class _Lines:
    """One line when a step ends, when a tenth of its rows is done, and for each message of a long step."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._tenths: dict[str, int] = {}
        self._noted: dict[str, float] = {}

    def report(self, progress: Progress) -> None:
        """Count a report and print what is worth a line."""
        self._monitor(progress)
        step = self._monitor.steps.get(progress.step)
        if step is None:
            if progress.text:
                self.say(progress.text)
        elif progress.event == "row":
            tenth = step.done * 10 // max(step.total, 1)
            if step.finished or (step.total >= 100 and tenth > self._tenths.get(progress.step, 0)):
                self._tenths[progress.step] = tenth
                self.say(_line(progress.step, step, self._now()))
        elif progress.event == "message" and self._now() - self._noted.get(progress.step, -9.0) > 5:
            self._noted[progress.step] = self._now()
            self.say(f"{progress.step}: {progress.text}")

    def say(self, text: str) -> None:
        """Print one line."""
        # Not `print`: inside a flow run Prefect takes that for its logs.
        sys.stderr.write(f"{safe(text)}\n")
        sys.stderr.flush()

    def _now(self) -> float:
        return self._monitor.clock.monotonic()


class _Live:
    """A table that is drawn anew four times a second."""

    def __init__(self, monitor: Monitor) -> None:
        from rich.console import Console
        from rich.live import Live

        self._monitor = monitor
        self._console = Console(stderr=True)
        self._live = Live(get_renderable=self._table, console=self._console, refresh_per_second=4)

    def __enter__(self) -> _Live:
        self._live.__enter__()
        return self

    def __exit__(self, *exit_info: Any) -> None:
        self._live.__exit__(*exit_info)

    def report(self, progress: Progress) -> None:
        """Count a report; the table shows it at the next refresh."""
        self._monitor(progress)
        if progress.step not in self._monitor.steps and progress.text:
            self.say(progress.text)

    def say(self, text: str) -> None:
        """Print one line above the table."""
        from rich.text import Text

        self._console.print(Text(safe(text)))

    def _table(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        now = self._monitor.clock.monotonic()
        table = Table(box=None, pad_edge=False)
        for head in ("", "step", "rows", "failed", "reused", "retried", "tokens", "cost", "time", "left", ""):
            table.add_column(head, justify="left" if head in ("", "step") else "right", no_wrap=True)
        for name, step in self._monitor.steps.items():
            eta = step.eta(now)
            table.add_row(
                _mark(step),
                name,
                _progress(step),
                Text(str(step.failed or ""), style="red"),
                str(step.reused or ""),
                str(step.retried or ""),
                str(step.tokens_in + step.tokens_out or ""),
                money(step.cost_micro if step.cost_known else None) if step.tokens_in else "",
                duration(step.seconds(now)) if step.started is not None else "",
                duration(eta) if eta is not None else "",
                Text(shorten(safe(step.note), 60), style="dim"),
            )
        return table


def _progress(step: StepProgress) -> str:
    rows = f"{step.done}/{step.total}"
    return f"{rows} ({step.items_done}/{step.items} items)" if step.items else rows


def _mark(step: StepProgress) -> str:
    if step.finished:
        return "[red]✗[/]" if step.failed else "[green]✓[/]"
    return "[cyan]▸[/]" if step.started is not None else "·"


def _line(name: str, step: StepProgress, now: float) -> str:
    parts = [f"{step.done}/{step.total} rows" if step.total > 1 else ("done" if step.done else "…")]
    parts += [f"{step.items_done} items"] if step.items_done else []
    parts += [
        f"{number} {word}"
        for word in ("failed", "skipped", "waiting", "reused", "retried")
        if (number := getattr(step, word))
    ]
    if step.tokens_in or step.tokens_out:
        parts.append(f"{step.tokens_in + step.tokens_out} tokens")
        parts.append(f"cost {money(step.cost_micro if step.cost_known else None)}")
    return f"{name}: {', '.join(parts)} in {duration(step.seconds(now))}"
