"""pytest tests/flows/test_garbage.py"""

from __future__ import annotations

import gc

import pytest

from flows.garbage import NEW_OBJECTS, rare_collections


@pytest.fixture(autouse=True)
def threshold():
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def test_the_threshold_is_higher_until_the_last_run_has_ended():
    gc.set_threshold(700, 10, 5)
    first, second = rare_collections(), rare_collections()
    first.__enter__()
    second.__enter__()
    assert gc.get_threshold() == (NEW_OBJECTS, 10, 5)
    first.__exit__(None, None, None)
    assert gc.get_threshold() == (NEW_OBJECTS, 10, 5)
    second.__exit__(None, None, None)
    assert gc.get_threshold() == (700, 10, 5)


@pytest.mark.parametrize("mine", [(0, 10, 10), (50_000, 10, 10)])
def test_a_process_that_looks_less_often_or_never_is_left_as_it_is(mine):
    gc.set_threshold(*mine)
    with rare_collections():
        assert gc.get_threshold() == mine
    assert gc.get_threshold() == mine
