"""A value put into a chain file's text: the file then says that, and nothing else has changed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chains.source.document import read_document
from chains.source.rewriting import with_value

FILE = """# about this file
chain: a
models:
  w: {provider: openai, model: m}   # the writer
steps:
  # sorts
  t:
    prompt: |
      hello
      world

  # answers
  r:
    prompt:
    - system: "a"
    - user: >
        folded
        text
    model: w # keep
  e:
    python: f.py:x
    args:
      a: 1
      b: [1,
         2]
  empty:
outputs: {x: "{{ t.text }}"}
"""
PLACES = [
    ("steps", "t", "prompt"),
    ("steps", "r", "prompt"),
    ("steps", "r", "prompt", 1, "user"),
    ("steps", "r", "model"),
    ("steps", "t", "model"),
    ("steps", "e", "args"),
    ("steps", "e", "args", "a"),
    ("steps", "e", "args", "b", 1),
    ("steps", "empty", "x"),
    ("models", "w", "temperature"),
    ("models", "q"),
    ("inputs", "a", "default"),
    ("outputs",),
    ("outputs", "y"),
]
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.from_regex("[a-z][a-z_-]{0,5}", fullmatch=True), inner, max_size=3)
    ),
    max_leaves=6,
)


def value_of(text: str) -> Any:
    found = read_document(text.encode(), "chain.yaml")
    assert found.problems == []
    return found.value


def put(value: Any, path: tuple[str | int, ...], new: Any) -> Any:
    value = at = copy.deepcopy(value)
    for name in path[:-1]:
        if isinstance(at, dict) and at.get(name) is None:
            at[name] = {}
        at = at[name]
    at[path[-1]] = new
    return value


@given(path=st.sampled_from(PLACES), new=json_values.filter(lambda value: "\0" not in repr(value)))
def test_the_file_says_the_new_value_and_everything_else_as_before(path, new) -> None:
    if "\\x00" in repr(new):
        return  # a chain file holds no NUL
    assert value_of(with_value(FILE, path, new)) == put(value_of(FILE), path, new)


def test_comments_and_lines_below_stay() -> None:
    text = with_value(FILE, ("steps", "r", "prompt"), "one\nline")
    assert '    prompt: "one\\nline"\n    model: w # keep\n' in text
    assert text.startswith("# about this file\n") and "  # answers\n" in text


@pytest.mark.parametrize(
    "path", [("chain", "x"), ("steps", "e", "args", "b", 7), ("models", "w", "model", "x")]
)
def test_a_place_that_cannot_be_is_a_key_error(path) -> None:
    with pytest.raises(KeyError):
        with_value(FILE, path, 1)
