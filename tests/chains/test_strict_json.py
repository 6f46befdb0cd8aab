"""The strict parser takes what JSON is, refuses what only Python takes, and never crashes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chains.strict_json import MAX_DEPTH, NotStrictJson, parse, whole

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda part: st.lists(part) | st.dictionaries(st.text(), part),
    max_leaves=10,
)


@given(VALUES, st.booleans())
def test_every_json_value_comes_back(value: Any, ascii_only: bool) -> None:
    assert parse(json.dumps(value, ensure_ascii=ascii_only)) == value


@given(st.text() | st.text(alphabet='{}[]",:\\ 0123456789eE+-.NaInfitrul\ud800'))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        value = parse(text)
    except NotStrictJson:
        return
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "a": 2}', "'a' occurs twice"),
        ('[{"b": {"a": 1, "a": 1}}]', "'a' occurs twice"),
        ("NaN", "NaN is not JSON"),
        ('{"a": -Infinity}', "-Infinity is not JSON"),
        ("1e999", "beyond what a double holds"),
        ("9" * 5000, "too many digits"),
        ("{} {}", "follows the JSON value at line 1, column 4"),
        ("", "empty"),
        (" \n", "empty"),
        ('{"a": }', "Expecting value at line 1, column 7"),
        ("[" * 100_000, "nested deeper"),
        ("[" * 150 + "]" * 150, "nested deeper"),
        ('{"a":' * 101 + "1" + "}" * 101, "nested deeper"),
        ('{"\\ud800": 1, "\\ud801": 2}', "occurs twice"),
    ],
    ids=range(14),
)
def test_surprises_are_refused(text: str, said: str) -> None:
    with pytest.raises(NotStrictJson, match=said):
        parse(text)


def test_the_deepest_allowed_nesting_is_read() -> None:
    assert parse("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert parse(json.dumps("[" * 500)) == "[" * 500


def test_lone_surrogates_become_replacement_characters_and_pairs_stay() -> None:
    assert parse('{"\\ud800": ["a\\udfff", "\\ud83d\\ude00"]}') == {"�": ["a�", "😀"]}
    assert parse('"\ud800"') == "�"
    assert whole("a\udc00b") == "a�b"
