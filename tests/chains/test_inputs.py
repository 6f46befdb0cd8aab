"""Inputs get their types, defaults and limits, and every mistake is told at once."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chains.errors import InputInvalid
from chains.inputs import WrongValue, bind_inputs, value_of
from chains.spec import Chain, Input


def chain_with(**inputs: dict[str, Any]) -> Chain:
    return Chain.model_validate(
        {
            "chain": "sample",
            "inputs": inputs,
            "models": {"small": {"provider": "starter"}},
            "steps": {"say": {"prompt": "Hi", "model": "small"}},
        }
    )


def test_values_defaults_and_optional_inputs_are_bound() -> None:
    chain = chain_with(
        ticket={},
        tone={"enum": ["warm", "brief"], "default": "warm"},
        order={"required": False},
        n={"type": "integer"},
    )
    assert bind_inputs(chain, {"ticket": "Hello", "n": 3}, from_text=False) == {
        "ticket": "Hello",
        "tone": "warm",
        "order": None,
        "n": 3,
    }


def test_all_mistakes_are_told_at_once() -> None:
    chain = chain_with(
        ticket={"description": "What they wrote."}, tone={"enum": ["warm", "brief"]}, n={"type": "integer"}
    )
    with pytest.raises(InputInvalid) as caught:
        bind_inputs(chain, {"tickets": "Hello", "tone": "warn", "n": True}, from_text=False)
    assert str(caught.value).splitlines() == [
        "the chain has no input 'tickets'. Did you mean 'ticket'?",
        "input 'ticket' is required and has no value (string: What they wrote.).",
        "input 'tone' must be one of 'warm', 'brief', not 'warn'. Did you mean 'warm'?",
        "input 'n' must be of type integer, not True.",
    ]


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("string", " 3 ", " 3 "),
        ("string", "", ""),
        ("integer", " -12", -12),
        ("number", "3", 3),
        ("number", "2.5e1", 25.0),
        ("number", ".5", 0.5),
        ("boolean", "TRUE", True),
        ("boolean", "no", False),
        ("boolean", "0", False),
        ("array", '["a", 1]', ["a", 1]),
        ("object", '{"a": null}', {"a": None}),
    ],
)
def test_texts_are_read_as_the_type_of_the_input(kind: Any, text: str, value: Any) -> None:
    bound = value_of(Input(type=kind), text, from_text=True)
    assert bound == value
    assert type(bound) is type(value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("integer", "3.5"),
        ("integer", "٣"),
        ("integer", "1_000"),
        ("integer", "9" * 5000),
        ("number", "nan"),
        ("number", "inf"),
        ("number", "1e999"),
        ("number", "0x10"),
        ("boolean", "maybe"),
        ("array", '{"a": 1}'),
        ("object", '{"a": 1, "a": 2}'),
        ("object", "{'a': 1}"),
    ],
    ids=range(12),
)
def test_texts_that_are_not_of_the_type_are_refused(kind: Any, text: str) -> None:
    with pytest.raises(WrongValue) as caught:
        value_of(Input(type=kind), text, from_text=True)
    assert len(str(caught.value)) < 500


def test_an_empty_text_is_no_value_except_for_a_string() -> None:
    assert value_of(Input(type="integer", default=7), "", from_text=True) == 7
    assert value_of(Input(default="x"), "", from_text=True) == ""
    with pytest.raises(WrongValue, match="required"):
        value_of(Input(type="boolean"), " ", from_text=True)


@pytest.mark.parametrize(
    ("spec", "value", "said"),
    [
        (Input(type="integer", minimum=1), 0, "at least 1"),
        (Input(type="number", maximum=2.5), 2.6, "at most 2.5"),
        (Input(max_length=3), "long", "has 4 characters"),
        (Input(type="array", max_length=1), [1, 2], "has 2 items"),
        (Input(type="number"), float("nan"), "type number"),
        (Input(type="integer", enum=[1, 2]), 3, r"one of 1, 2, not 3\.$"),
        (Input(type="number", maximum=5), 10**400, "at most 5"),
        (Input(type="boolean", enum=[True]), False, "one of True"),
        (Input(type="array"), [1, {"a": [float("inf")]}], "not inf"),
        (Input(type="object"), {"a": float("nan")}, "not nan"),
        (Input(), 3, "type string"),
        (Input(type="integer"), "3", "type integer"),
    ],
)
def test_limits_are_checked(spec: Input, value: Any, said: str) -> None:
    with pytest.raises(WrongValue, match=said):
        value_of(spec, value)


def test_a_whole_float_is_an_integer_because_data_files_write_it_so() -> None:
    assert type(value_of(Input(type="integer"), 3.0)) is int


@given(
    st.sampled_from(["string", "integer", "number", "boolean", "array", "object"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda part: st.lists(part) | st.dictionaries(st.text(), part),
        max_leaves=5,
    ),
    st.booleans(),
)
def test_a_bound_value_fits_its_type_and_binding_it_again_changes_nothing(
    kind: Any, value: Any, text: bool
) -> None:
    spec = Input(type=kind)
    try:
        bound = value_of(spec, value, from_text=text)
    except WrongValue:
        return
    assert value_of(spec, bound) == bound
    json.dumps(bound, allow_nan=False)


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_survives_its_own_text(number: float) -> None:
    bound = value_of(Input(type="number"), repr(number), from_text=True)
    assert bound == number and type(bound) is type(number)
