"""What took how long: which stretch of time is shown as what."""

from __future__ import annotations

import re
from dataclasses import replace

from chains.store import AttemptRow, RecordRow, StepRow
from chains.store.browsing import StepTimes
from flows.inspector.waterfall import attempt_bars, pool_waits, step_bars, waterfall

STEP = StepRow(run_id="r", id="ask", kind="prompt", status="ok", started_at=10.0, finished_at=20.0)
RECORD = RecordRow(
    id="rec", run_id="r", step="ask", row=0, status="ok", started_at=12.0, finished_at=20.0, worker="gpu-1"
)
FAILED = AttemptRow(
    id="a1", record_id="rec", run_id="r", step="ask", number=1, state="error", error_type="RateLimited",
    started_at=13.0, finished_at=14.0, wait_s=1.0,
)  # fmt: skip
ANSWERED = AttemptRow(
    id="a2", record_id="rec", run_id="r", step="ask", number=2, state="ok", started_at=16.0, finished_at=20.0,
    wait_s=2.0, device_wait_s=3.0,
)  # fmt: skip


def stretches(bars) -> list[tuple[str, float, float]]:
    return [(bar.kind, bar.start, bar.end) for bar in bars]


def test_a_row_shows_its_waits_for_pool_place_device_and_next_try_apart_from_its_calls() -> None:
    [lane] = attempt_bars([RECORD], [FAILED, ANSWERED], {"ask": STEP})
    assert stretches(lane.bars) == [
        ("pool", 10.0, 12.0),
        ("work", 12.0, 20.0),
        ("wait", 12.0, 13.0),
        ("error", 13.0, 14.0),
        ("pause", 14.0, 16.0),
        ("device", 16.0, 19.0),
        ("call", 19.0, 20.0),
    ]
    [here] = attempt_bars([replace(RECORD, worker=None)], [], {"ask": STEP})
    assert [bar.kind for bar in here.bars] == ["work"]


def test_a_step_of_many_rows_is_cut_into_the_shares_of_its_rows_time() -> None:
    times = StepTimes(queue=10.0, device=0.0, call=20.0, failed=5.0, pause=5.0)
    [lane] = step_bars([STEP], {"ask": times}, {"ask": 12.0})
    assert stretches(lane.bars) == [
        ("pool", 10.0, 12.0),
        ("work", 12.0, 20.0),
        ("wait", 12.0, 14.0),
        ("call", 14.0, 18.0),
        ("error", 18.0, 19.0),
        ("pause", 19.0, 20.0),
    ]
    assert stretches(step_bars([STEP], {}, {})[0].bars) == [("work", 10.0, 20.0)]
    assert stretches(step_bars([STEP], {"ask": StepTimes()}, {})[0].bars) == [("work", 10.0, 20.0)]


def test_waiting_for_what_a_step_needs_is_not_waiting_for_its_pool() -> None:
    before = replace(STEP, id="tune", finished_at=15.0)
    assert pool_waits([before, STEP], {"ask": 15.0}, {"ask": ["tune"]}) == {}
    assert pool_waits([before, STEP], {"ask": 17.0}, {"ask": ["tune"]}) == {"ask": 17.0}
    assert pool_waits([STEP], {"ask": 12.0}, {}) == {"ask": 12.0}


def test_a_picture_says_how_long_and_shares_say_what_they_are() -> None:
    picture = waterfall(step_bars([STEP], {"ask": StepTimes(call=120.0)}, {})) or ""
    assert "<title>calls: 2 m 00 s of all rows</title>" in picture and "<title>ask · 10 s</title>" in picture
    assert all(float(width) > 0 for width in re.findall(r'<rect [^>]*width="([\d.]+)"', picture))
    assert waterfall([]) is None
