"""Run with: pytest tests/tasks/test_prepare_splitting.py"""

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from chains.spec import Split
from tasks.preparing.seen import Seen
from tasks.splitting import PARTS, assign, leaks

SHARES = st.tuples(st.integers(0, 10), st.integers(0, 10)).filter(lambda two: sum(two) <= 10)


@st.composite
def splits(draw):
    train, validation = draw(SHARES)
    test = 10 - train - validation
    return Split(train=train / 10, validation=validation / 10, test=test / 10, seed=draw(st.integers(0, 9)))


@settings(deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=80), splits())
def test_every_example_is_in_one_part_and_no_unit_straddles(units, split):
    parts = assign(units, split)
    assert len(parts) == len(units)
    assert all(getattr(split, PARTS[part]) > 0 for part in parts)
    assert len({(unit, part) for unit, part in zip(units, parts, strict=True)}) == len(set(units))


@settings(deadline=None)
@given(st.integers(1, 300), splits())
def test_single_examples_meet_the_shares_to_within_one(count, split):
    sizes = Counter(assign(range(count), split))
    for number, part in enumerate(PARTS):
        assert abs(sizes[number] - getattr(split, part) * count) < 1 + 1e-6


@settings(deadline=None)
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


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), max_size=40))
def test_a_leak_is_found_exactly_when_a_question_is_in_two_parts(examples):
    questions = [question for question, _ in examples]
    parts = [part for _, part in examples]
    straddles = any(
        len({part for other, part in examples if other == question and part < len(PARTS)}) > 1
        for question in questions
    )
    found = leaks(questions, parts)
    assert bool(found) == straddles
    for one, other in found:
        assert questions[one] == questions[other]
        assert parts[one] != parts[other]
        assert max(parts[one], parts[other]) < len(PARTS), "what was dropped leaks nothing"


def plainly(units, split, strata=None):
    """The same assignment with dictionaries, as it is described."""
    sizes = Counter(units)
    stratum = dict.fromkeys(units, 0)
    for unit in sizes if strata is not None else ():
        stratum[unit] = Counter(s for u, s in zip(units, strata, strict=True) if u == unit).most_common(1)[0][
            0
        ]
    order = list(dict.fromkeys(units))
    random.Random(split.seed).shuffle(order)
    order.sort(key=lambda unit: -sizes[unit])
    shares = [getattr(split, part) for part in PARTS]
    held = Counter(stratum[unit] for unit in units)
    lacking = {name: [share * number for share in shares] for name, number in held.items()}
    place = {}
    for unit in order:
        lacks = lacking[stratum[unit]]
        place[unit] = max((part for part in range(3) if shares[part] > 0), key=lacks.__getitem__)
        lacks[place[unit]] -= sizes[unit]
    return [place[unit] for unit in units]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2**64 - 1) | st.integers(0, 9), st.integers(0, 3)), min_size=1),
    splits(),
)
def test_parts_are_those_of_the_plain_way(rows, split):
    units, strata = [unit for unit, _ in rows], [stratum for _, stratum in rows]
    assert list(assign(units, split)) == plainly(units, split)
    assert list(assign(units, split, strata)) == plainly(units, split, strata)


@settings(deadline=None)
@given(st.lists(st.integers(0, 600), max_size=3000), st.integers(0, 2**32))
def test_a_text_was_seen_first_where_it_came_first(texts, salt):
    # few different low halves, so that places collide and the table grows
    digests = [(text * 2**64 + (text ^ salt) % 7).to_bytes(16) for text in texts]
    seen, plain = Seen(), {}
    for row, digest in enumerate(digests):
        assert seen.first(digest, row) == plain.setdefault(digest, row)


def test_a_table_of_what_was_seen_grows_and_stays_small():
    seen = Seen()
    rng = random.Random(1)
    digests = [rng.randbytes(16) for _ in range(20_000)]
    assert all(seen.first(digest, row) == row for row, digest in enumerate(digests))
    assert all(seen.first(digest, 99_999) == row for row, digest in enumerate(digests))
    assert seen.size <= 75 * len(digests)
