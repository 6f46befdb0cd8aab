"""Which answer has the terminal when several come at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chains.clock import Clock
from flows.cli.live import shown
from flows.progress import Monitor
from tasks.context import Progress


@given(st.lists(st.integers(0, 2), max_size=40))
def test_answers_that_come_mixed_are_printed_one_after_the_other(order) -> None:
    import contextlib
    import io

    said = {record: [f"<{record}.{number}>" for number in range(order.count(record))] for record in range(3)}
    left = {record: list(parts) for record, parts in said.items()}
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed), shown(Monitor(Clock()), stream=True) as display:
        for record in order:
            display.report(Progress("step", "text", text=left[record].pop(0), record=str(record)))
            if not left[record]:
                display.report(Progress("step", "said", record=str(record)))
    text = printed.getvalue()
    for parts in said.values():
        assert "".join(parts) in text
    assert text.count("[step]") == sum(bool(parts) for parts in said.values())
