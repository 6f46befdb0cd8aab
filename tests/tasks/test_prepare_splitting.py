"""Run with: pytest tests/tasks/test_prepare_splitting.py"""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from chains.spec import Split
from tasks.splitting import PARTS, assign, leaks

SHARES = st.tuples(st.integers(0, 10), st.integers(0, 10)).filter(lambda two: sum(two) <= 10)


@st.composite
def splits(draw):
    train, validation = draw(SHARES)
    test = 10 - train - validation
    return Split(train=train / 10, validation=validation / 10, test=test / 10, seed=draw(st.integers(0, 9)))


@given(st.lists(st.integers(0, 12), min_size=1, max_size=80), splits())
def test_every_example_is_in_one_part_and_no_unit_straddles(units, split):
    parts = assign(units, split)
    assert len(parts) == len(units)
    assert all(getattr(split, PARTS[part]) > 0 for part in parts)
    assert len({(unit, part) for unit, part in zip(units, parts, strict=True)}) == len(set(units))


@given(st.integers(1, 300), splits())
def test_single_examples_meet_the_shares_to_within_one(count, split):
    sizes = Counter(assign(range(count), split))
    for number, part in enumerate(PARTS):
        assert abs(sizes[number] - getattr(split, part) * count) < 1 + 1e-6


@given(st.lists(st.integers(0, 12), min_size=1, max_size=40), splits())
def test_equal_arguments_give_equal_parts(units, split):
    assert assign(units, split) == assign(units, split)


def test_another_seed_gives_another_split():
    units = range(100)
    assert assign(units, Split(seed=0)) != assign(units, Split(seed=1))


def test_the_parts_are_drawn_and_not_cut_from_the_ends():
    parts = assign(range(1000), Split(seed=3))
    positions = [row for row, part in enumerate(parts) if PARTS[part] == "test"]
    assert len(positions) == 100
    assert 400 < sum(positions) / 100 < 600


def test_one_large_group_does_not_swallow_a_small_part():
    units = [0] * 60 + list(range(1, 41))
    sizes = Counter(assign(units, Split(train=0.8, validation=0.1, test=0.1)))
    assert [sizes[part] for part in range(3)] == [80, 10, 10]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2)), max_size=40))
def test_a_leak_is_found_exactly_when_a_question_is_in_two_parts(examples):
    questions = [question for question, _ in examples]
    parts = [part for _, part in examples]
    straddles = any(
        len({part for other, part in examples if other == question}) > 1 for question in questions
    )
    found = leaks(questions, parts)
    assert bool(found) == straddles
    for one, other in found:
        assert questions[one] == questions[other]
        assert parts[one] != parts[other]
