"""Canonical JSON tells equal from different values, and each field has its place in the keys."""

import json
import typing
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chains import spec
from chains.errors import InputInvalid
from chains.keys import IN_KEY, LEFT_OUT, canonical, deciding, key_of

TEXTS = st.text(st.characters(exclude_categories=()))  # lone surrogates too
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
VALUES = st.recursive(SCALARS, lambda part: st.lists(part) | st.dictionaries(TEXTS, part), max_leaves=12)
# Few leaves, close to each other, so that equal pairs and near misses are drawn often.
CLOSE = st.recursive(
    st.sampled_from([None, True, False, 0, 1, 0.0, -0.0, 1.0, "", "1", "true", "null", "\ud800", "\\ud800"]),
    lambda part: (
        st.lists(part, max_size=2) | st.dictionaries(st.sampled_from(["", "a", "1"]), part, max_size=2)
    ),
    max_leaves=3,
)


def same(a: Any, b: Any) -> bool:
    """The definition: equal JSON values, with integers, floats and booleans kept apart."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return bool(a == b)


@given(CLOSE, CLOSE)
def test_close_values_have_equal_bytes_exactly_when_they_are_the_same(a: Any, b: Any) -> None:
    assert (canonical(a) == canonical(b)) is same(a, b)


@given(VALUES, VALUES)
def test_any_values_have_equal_bytes_exactly_when_they_are_the_same(a: Any, b: Any) -> None:
    assert (canonical(a) == canonical(b)) is same(a, b)


@given(st.dictionaries(TEXTS, VALUES, min_size=2), st.randoms())
def test_the_order_of_keys_does_not_matter(value: dict[str, Any], random: Any) -> None:
    items = list(value.items())
    random.shuffle(items)
    assert canonical(dict(items)) == canonical(value)


@given(VALUES.filter(lambda value: not any(0xD800 <= ord(c) < 0xE000 for c in repr(value))))
def test_the_bytes_are_json_of_the_same_value(value: Any) -> None:
    assert canonical(json.loads(canonical(value))) == canonical(value)


def test_the_form_is_pinned_because_stored_keys_depend_on_it() -> None:
    assert canonical({"b": [1, 1.0, True, None], "a": "é\n\x00"}) == (
        '{"a":"é\\n\\u0000","b":[1,1.0,true,null]}'.encode()
    )
    assert canonical(-0.0) == b"0.0"
    assert canonical([1.0, -0.0, 1e300]) == b"[1.0,0.0,1e+300]", (
        "a vector goes a shorter way, to the same bytes"
    )
    assert canonical(1e22) == b"1e+22"
    assert canonical("\ud800") == b'"\\ud800"'
    assert key_of("prompt", {"a": 1}) == "e21d8bcde4a0671152d92083ba8c9d1cf1e3d178604fa5bdd6c3613f3be6401f"


def test_subclasses_are_written_as_what_they_are() -> None:
    class Colour(StrEnum):
        RED = "red"

    class Loud(float):
        def __repr__(self) -> str:
            return "loud"

    assert canonical([Colour.RED, Loud(0.5), (1, 2)]) == b'["red",0.5,[1,2]]'


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": [1.0, float("nan")]}, r"\$\.a\[1\] is nan"),
        (float("-inf"), r"\$ is -inf"),
        ({1: "a"}, "key 1"),
        ({"a": object()}, r"\$\.a is a object"),
        ({"a": b"bytes"}, r"\$\.a is a bytes"),
        ({"a": {1}}, r"\$\.a is a set"),
        (10**5000, "too many digits"),
    ],
    ids=["nan", "infinity", "key", "object", "bytes", "set", "digits"],
)
def test_what_is_not_json_is_refused_with_its_place(value: Any, said: str) -> None:
    with pytest.raises(InputInvalid, match=said):
        canonical(value)


def test_deep_nesting_is_an_error_and_no_crash() -> None:
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(InputInvalid, match="nested deeper"):
        canonical(deep)


def test_a_key_depends_on_kind_and_parts() -> None:
    keys = {
        key_of("prompt", {}),
        key_of("embed", {}),
        key_of("prompt", {"a": 1}),
        key_of("prompt", {"a": 1.0}),
    }
    assert len(keys) == 4
    assert all(len(key) == 64 for key in keys)


def test_parts_cannot_take_the_place_of_the_kind() -> None:
    with pytest.raises(ValueError, match="kind"):
        key_of("prompt", {"kind": "embed"})


def _parts_within(annotation: Any) -> set[type[spec.Part]]:
    if isinstance(annotation, type) and issubclass(annotation, spec.Part):
        return {annotation}
    return {found for inner in typing.get_args(annotation) for found in _parts_within(inner)}


def _all_keyed_parts() -> set[type[spec.Part]]:
    """Step models, Model and Collection, and what is inside the fields that enter a key."""
    found: set[type[spec.Part]] = set()
    todo: list[type[spec.Part]] = [*spec.KINDS.values(), spec.Model, spec.Collection]
    while todo:
        part = todo.pop()
        found.add(part)
        for name, field in part.model_fields.items():
            if name not in LEFT_OUT.get(part, {}):
                todo.extend(_parts_within(field.annotation) - found)
    return found


def test_every_field_of_the_language_is_in_the_key_or_left_out_on_purpose() -> None:
    assert _all_keyed_parts() == set(IN_KEY)
    assert set(LEFT_OUT) <= set(IN_KEY)
    for part in IN_KEY:
        inside, outside = set(IN_KEY[part]), set(LEFT_OUT.get(part, {}))
        assert inside & outside == set(), part
        assert inside | outside == set(part.model_fields), part


def test_no_secret_is_in_a_key() -> None:
    model = spec.Model(provider="openai", model="m", api_key="{{ env.KEY }}", temperature=0)
    assert deciding(model) == {
        "provider": "openai",
        "model": "m",
        "revision": None,
        "base_url": None,
        "api_version": None,
        "headers": {},
        "temperature": 0.0,
        "top_p": None,
        "max_tokens": None,
        "seed": None,
        "stop": None,
        "dtype": "auto",
    }
