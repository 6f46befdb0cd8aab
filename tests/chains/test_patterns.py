"""Patterns of a schema find what `re` finds, and never hang the process."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chains.errors import InputInvalid, OutputInvalid
from chains.outputs import parse_output, schema_problems
from chains.patterns import TooSlow, is_quick, search

EVIL = [
    (r"^(a+)+$", "a" * 40 + "!"),
    (r"^(a|aa)+$", "a" * 60 + "!"),
    (r"^([a-zA-Z0-9])(([\-.]|[_]+)?([a-zA-Z0-9]+))*(@){1}", "a" * 60),
    (r"(?x)^(a+) # why not" + "\n*$", "a" * 40 + "!"),
    ("a?" * 40 + "a" * 40, "a" * 39 + "b" * 2),
    (r"a*a*a*a*a*a*b", "a" * 2_000),
]


@pytest.mark.parametrize(("pattern", "text"), EVIL, ids=range(len(EVIL)))
def test_what_python_would_not_finish_ends_within_seconds(pattern: str, text: str) -> None:
    began = time.monotonic()
    assert not is_quick(pattern, len(text))
    with pytest.raises(TooSlow, match="needs too long"):
        search(pattern, text)
    assert time.monotonic() - began < 20
    assert search(r"^(a+)+$", "aaa"), "the next search has a helper again"


QUICK = [
    (r"^[A-Z]{2}-\d+$", 1_000),
    (r"^\d{4}-\d{2}-\d{2}$", 30),
    (r"\S", 1_000_000),
    (r"^\w+@\w+$", 1_000),
]


@pytest.mark.parametrize(("pattern", "length"), QUICK)
def test_usual_patterns_are_searched_without_a_helper(pattern: str, length: int) -> None:
    assert is_quick(pattern, length)


PARTS = st.sampled_from(
    ["a", "b", ".", "a+", "(a|b)", "(a+b)*", "(ab)+", "[ab]", "^", "$", "b?", "a{1,2}", "|"]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(PARTS, max_size=5).map("".join), st.text("ab", max_size=8))
def test_a_search_finds_what_re_finds(pattern: str, text: str) -> None:
    assert search(pattern, text) is (re.search(pattern, text) is not None)


def test_a_wrong_pattern_is_the_error_that_re_raises() -> None:
    with pytest.raises(re.error):
        search("(a+)+(", "a")


def field(pattern: str) -> dict[str, Any]:
    return {"type": "object", "properties": {"code": {"type": "string", "pattern": pattern}}}


def test_an_answer_that_a_pattern_cannot_be_tried_on_does_not_fit() -> None:
    with pytest.raises(OutputInvalid, match=r"cannot be checked: the pattern .* needs too long"):
        parse_output(json.dumps({"code": "a" * 40 + "!"}), field("^(a+)+$"))
    assert parse_output('{"code": "aa"}', field("^(a+)+$")) == {"code": "aa"}
    with pytest.raises(OutputInvalid, match="does not match"):
        parse_output('{"code": "b"}', field("^(a+)+$"))


def test_patterns_for_names_of_fields_are_kept_quick() -> None:
    evil = {"type": "object", "patternProperties": {"^(a+)+$": {}}, "additionalProperties": False}
    (problem,) = schema_problems("s.json", {"s.json": json.dumps(evil).encode()})
    assert "patternProperties can take very long" in problem.message
    with pytest.raises(InputInvalid, match="patternProperties"):
        parse_output(json.dumps({"a" * 40 + "!": 1}), evil)
    plain = {"type": "object", "patternProperties": {"^x-[a-z]+$": {"type": "integer"}}}
    assert parse_output('{"x-a": 1}', plain) == {"x-a": 1}
    with pytest.raises(OutputInvalid, match="name of 500 characters"):
        parse_output(json.dumps({"x" * 500: 1}), plain)
