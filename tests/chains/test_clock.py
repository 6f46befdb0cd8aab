"""pytest tests/chains/test_clock.py"""

from __future__ import annotations

import time

from chains.clock import Clock


def test_times_after_a_later_one_of_another_machine_still_go_forward():
    clock, ahead = Clock(), time.time() + 3600
    clock.not_before(ahead)
    times = [clock.now() for _ in range(1000)]
    assert ahead < times[0] and times == sorted(set(times)) and times[-1] < ahead + 1


def test_a_time_that_has_passed_changes_nothing():
    clock = Clock()
    clock.not_before(time.time() - 3600)
    assert abs(clock.now() - time.time()) < 60
