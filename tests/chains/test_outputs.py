"""`output:` becomes a JSON Schema, answers are parsed strictly, and every mistake names its place."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ConfigDict

from chains.errors import InputInvalid, OutputInvalid
from chains.outputs import parse_output, schema_of, schema_problems, step_output, strict_schema

TRIAGE: dict[str, Any] = {
    "intent": {"enum": ["refund", "delivery"]},
    "order": {"type": "string", "required": False},
    "score": {"type": "integer", "minimum": 0, "maximum": 10},
    "feedback": "string",
    "tags": ["string"],
    "address": {
        "type": "object",
        "properties": {"street": "string", "floor": {"type": "integer", "required": False}},
    },
}


def schema(output: Any = TRIAGE, **files: bytes) -> dict[str, Any]:
    found = schema_of(output, files)
    assert found is not None
    return found


def test_the_short_form_is_json_schema() -> None:
    assert schema() == {
        "type": "object",
        "properties": {
            "intent": {"type": "string", "enum": ["refund", "delivery"]},
            "order": {"type": ["string", "null"]},
            "score": {"type": "integer", "minimum": 0, "maximum": 10},
            "feedback": {"type": "string"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "address": {
                "type": "object",
                "properties": {"street": {"type": "string"}, "floor": {"type": ["integer", "null"]}},
                "required": ["street"],
                "additionalProperties": False,
            },
        },
        "required": ["intent", "score", "feedback", "tags", "address"],
        "additionalProperties": False,
    }
    Draft202012Validator.check_schema(schema())


def test_the_strict_form_requires_every_field() -> None:
    strict = strict_schema(schema())
    assert strict is not None
    assert strict["required"] == ["intent", "order", "score", "feedback", "tags", "address"]
    assert strict["properties"]["address"]["required"] == ["street", "floor"]
    assert strict["properties"]["order"] == {"type": ["string", "null"]}


def test_the_strict_form_of_a_schema_file_leaves_out_what_it_cannot_say() -> None:
    written = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "a": {"type": "string", "enum": ["x"], "minLength": 1},
            "b": {"$ref": "#/$defs/part"},
        },
        "additionalProperties": False,
        "$defs": {"part": {"type": "object", "properties": {}, "additionalProperties": False}},
    }
    assert strict_schema(written) == {
        "type": "object",
        "properties": {
            "a": {"type": ["string", "null"], "enum": ["x", None]},
            "b": {"anyOf": [{"$ref": "#/$defs/part"}, {"type": "null"}]},
        },
        "required": ["a", "b"],
        "additionalProperties": False,
        "$defs": {
            "part": {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
        },
    }


@pytest.mark.parametrize(
    "written",
    [
        {"type": "object", "properties": {"a": {"type": "string"}}},
        {"type": "array", "items": {"type": "string"}},
        {"type": "object", "properties": {}, "additionalProperties": False, "oneOf": [{}]},
        {"type": "object", "properties": {"a": True}, "additionalProperties": False},
    ],
)
def test_a_schema_without_a_strict_form_is_not_bent_into_one(written: dict[str, Any]) -> None:
    assert strict_schema(written) is None


def test_all_mistakes_of_the_short_form_come_with_their_paths() -> None:
    found = schema_problems(
        {
            "intent": {"enum": []},
            "score": {"type": "integer", "minimun": 0, "maximum": "ten"},
            "feedback": "strng",
            "tags": ["string", "string"],
            "address": {"street": "string"},
            "parts": {"type": "array"},
            "n": {"type": "integer", "minimum": 3, "maximum": 1},
            "mixed": {"enum": [1, True]},
            "twice": {"enum": ["a", "a"]},
            "code": {"type": "string", "pattern": "("},
            "bad name": "string",
            "inner": {"type": "object", "properties": {"a": [{"type": "text"}]}},
            "free": "object",
            "maybe": {"type": "string", "required": "no"},
        },
        {},
    )
    assert [str(problem) for problem in found] == [
        "intent.enum: the allowed values are not of one type. Give a list.",
        "score.minimun: a field of type integer has no key 'minimun'. Did you mean 'minimum'?",
        "score.maximum: 'ten' is not a number",
        "feedback: 'strng' is no type. Did you mean 'string'?",
        "tags: a list is written with the one type of its items. Write [string].",
        "address: the field has no type. Give it 'type', 'enum', 'items' or 'properties'.",
        "parts: an array needs 'items'. Write [string], or {type: array, items: string}.",
        "n: minimum (3) is above maximum (1)",
        "mixed.enum: the allowed values are not of one type. Give a list.",
        "twice.enum: an allowed value occurs twice",
        "code.pattern: '(' is not a regular expression",
        "bad name: 'bad name' is no name of a field. Use letters, digits, _ and -.",
        "inner.properties.a.0: 'text' is no type. "
        "Known here: array, boolean, integer, number, object, string.",
        "free: an object needs 'properties'. Write {properties: {name: string}}.",
        "maybe.required: 'no' is neither true nor false",
    ]
    with pytest.raises(InputInvalid, match=r"output: feedback: 'strng'.*output: tags"):
        schema_of({"feedback": "strng", "tags": []}, {})


def test_deep_nesting_is_a_problem_and_no_crash() -> None:
    form: Any = "string"
    for _ in range(500):
        form = [form]
    assert "nested deeper" in str(schema_problems({"a": form}, {})[0])


def test_other_forms_of_output() -> None:
    assert schema_of("answers.py:Triage", {}) is None
    assert schema_of("shop.answers:Triage", {}) is None
    assert "no form of output" in str(schema_problems("string", {})[0])
    written = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/n"}},
        "$defs": {"n": {"type": "integer"}},
    }
    files = {"schemas/a.json": b"\xef\xbb\xbf" + json.dumps(written).encode()}
    assert schema_of("schemas/a.json", files) == written
    assert parse_output('{"a": 1}', written) == {"a": 1}
    with pytest.raises(OutputInvalid, match=r"\$\.a must be of type integer"):
        parse_output('{"a": "1"}', written)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"type": "objct"}', "'objct' is not valid"),
        (b'{"a": 1, "a": 2}', "occurs twice"),
        (b"[]", "is an object"),
        (b"\xff", "not UTF-8"),
        (b'{"$schema": "https://example.com/mine"}', "is unknown"),
        (b'{"$ref": "https://example.com/other.json"}', "leads out of the file"),
        (b'{"properties": {"a": {"$ref": "other.json#/a"}}}', "leads out of the file"),
        (b'{"properties": {"a": {"$ref": "#/$defs/a"}}}', "leads nowhere"),
        (b'{"$ref": "#"}', "round in a circle"),
        (b'{"properties": {"a": {"$id": "https://example.com/x"}}}', "nested \\$id"),
        (b'{"type": "string", "pattern": "("}', "is no regular expression"),
    ],
)
def test_a_schema_file_is_checked_before_anything_runs(content: bytes, said: str) -> None:
    with pytest.raises(InputInvalid, match=said):
        schema_of("a.json", {"a.json": content})


def test_a_missing_schema_file_is_named_with_the_nearest_one() -> None:
    with pytest.raises(InputInvalid, match=r"no such file. Did you mean 'schemas/triage.json'"):
        schema_of("schemas/triag.json", {"schemas/triage.json": b"{}"})


GOOD = '{"intent": "refund", "score": 3, "feedback": "ok", "tags": [], "address": {"street": "A 1"}}'


def test_absent_optional_fields_come_out_as_null() -> None:
    value = parse_output(GOOD, schema())
    assert value["order"] is None
    assert value["address"] == {"street": "A 1", "floor": None}
    assert parse_output(GOOD.replace('"score"', '"order": null, "score"'), schema()) == value


OPTIONAL: dict[str, Any] = {
    "type": "object",
    "properties": {
        "intent": {"type": "string"},
        "order": {"type": "string"},
        "part": {"$ref": "#/$defs/part"},
        "kind": {"enum": ["a", "b"]},
        "either": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        "free": {},
        "maybe": {"type": ["string", "null"]},
        "parts": {"type": "array", "items": {"$ref": "#/$defs/part"}},
    },
    "required": ["intent"],
    "additionalProperties": False,
    "$defs": {
        "part": {
            "type": "object",
            "properties": {"size": {"type": "integer"}},
            "additionalProperties": False,
        }
    },
}


def test_nulls_that_the_strict_form_asks_for_are_left_out_where_the_schema_takes_none() -> None:
    strict = strict_schema(OPTIONAL)
    assert strict is not None
    answer = {name: None for name in strict["required"]} | {"intent": "x", "parts": [{"size": None}]}
    Draft202012Validator(strict).validate(answer)
    assert parse_output(json.dumps(answer), OPTIONAL) == {
        "intent": "x",
        "free": None,
        "maybe": None,
        "parts": [{}],
    }


def test_a_required_field_that_is_null_is_still_refused() -> None:
    with pytest.raises(OutputInvalid, match=r"\$\.intent must be of type string"):
        parse_output('{"intent": null}', OPTIONAL)


def test_an_optional_field_of_a_class_may_be_null_in_the_answer() -> None:
    class Triage(BaseModel):
        model_config = ConfigDict(extra="forbid")
        intent: str
        order: str = "none"

    value = parse_output('{"intent": "x", "order": null}', Triage.model_json_schema())
    assert value == {"intent": "x"}
    assert Triage.model_validate(value).order == "none"


@pytest.mark.parametrize(
    "text", [f"```json\n{GOOD}\n```", f"```\n{GOOD}```", f" \n{GOOD}\n", f"\ufeff{GOOD}"]
)
def test_one_fence_and_space_around_the_answer_are_taken_off(text: str) -> None:
    assert parse_output(text, schema())["intent"] == "refund"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("Sure! " + GOOD, "not a single valid JSON value"),
        (GOOD + " I hope this helps.", "something follows"),
        (f"```json\n{GOOD}\n```\n```json\n{GOOD}\n```", "not a single valid JSON value"),
        (GOOD.replace("3", "NaN"), "NaN is not JSON"),
        (GOOD.replace('"tags"', '"score": 4, "tags"'), "'score' occurs twice"),
        (GOOD.replace("3", "11"), r"\$\.score: 11 is greater than the maximum of 10"),
        (GOOD.replace("refund", "refnd"), r"\$\.intent must be one of 'refund', 'delivery', not 'refnd'"),
        (GOOD.replace("3", "3.5"), r"\$\.score must be of type integer, not 3\.5"),
        (GOOD.replace("3", "true"), "of type integer, not True"),
        (GOOD.replace('"feedback": "ok", ', ""), "'feedback' is a required property"),
        (GOOD.replace('"A 1"', '"A 1", "zip": 1'), r"\$\.address: .*'zip' was unexpected"),
        ("[]", "of type object"),
        ("[" * 5000, "nested deeper"),
        ('"' + "x" * 5_000_000 + '"', "longer than"),
    ],
    ids=range(15),
)
def test_answers_that_do_not_fit_are_refused_in_words_for_the_model(text: str, said: str) -> None:
    with pytest.raises(OutputInvalid, match=said) as caught:
        parse_output(text, schema())
    assert len(str(caught.value)) < 3000


def test_a_pattern_that_python_does_not_know_is_the_schemas_fault_and_not_the_answers() -> None:
    with pytest.raises(InputInvalid, match="no regular expression"):
        parse_output('"x"', {"type": "string", "pattern": "\\p{L}"})


def test_several_misfits_are_told_at_once() -> None:
    with pytest.raises(OutputInvalid, match=r"intent.*; .*score.*"):
        parse_output(GOOD.replace("refund", "x").replace("3", "11"), schema())


def test_lone_surrogates_in_an_answer_become_replacement_characters() -> None:
    assert parse_output(GOOD.replace("ok", "\\ud800"), schema())["feedback"] == "�"
    assert parse_output(GOOD.replace("ok", "\ud800"), schema())["feedback"] == "�"


def test_nothing_in_an_answer_is_revived_as_an_object() -> None:
    value = {"__class__": "os.system", "$type": "x", "lc": 1}
    assert parse_output(json.dumps(value), {"type": "object"}) == value


def test_a_field_of_the_schema_wins_over_the_steps_own_name() -> None:
    assert step_output("raw", "stop", {"text": "mine"}) == {
        "text": "mine",
        "finish_reason": "stop",
        "output": {"text": "mine"},
    }
    assert step_output("raw", None, None) == {"text": "raw", "finish_reason": None, "output": None}
    assert step_output("[1]", "stop", [1])["output"] == [1]


FIELDS = st.recursive(
    st.sampled_from(["string", "integer", "number", "boolean"])
    | st.fixed_dictionaries(
        {"enum": st.lists(st.text(min_size=1), min_size=1, unique=True)}, optional={"required": st.booleans()}
    )
    | st.fixed_dictionaries({"type": st.just("integer"), "minimum": st.integers(-5, 5)}),
    lambda part: (
        st.lists(part, min_size=1, max_size=1)
        | st.fixed_dictionaries(
            {"properties": st.dictionaries(st.sampled_from("abc"), part, min_size=1)},
            optional={"required": st.booleans()},
        )
    ),
    max_leaves=5,
)


def example(written: dict[str, Any]) -> Any:
    """The smallest value that a schema of the short form allows."""
    if "enum" in written:
        return written["enum"][0]
    kind = written["type"] if isinstance(written["type"], str) else written["type"][0]
    match kind:
        case "object":
            return {name: example(written["properties"][name]) for name in written["required"]}
        case "array":
            return [example(written["items"])]
        case "integer":
            return written.get("minimum", 0)
        case _:
            return {"string": "", "number": 0.5, "boolean": True}[kind]


def is_strict(part: Any) -> bool:
    if isinstance(part, dict) and "properties" in part:
        closed = part["additionalProperties"] is False and part["required"] == list(part["properties"])
        return closed and all(map(is_strict, part["properties"].values()))
    return is_strict(part["items"]) if isinstance(part, dict) and "items" in part else True


@given(st.dictionaries(st.sampled_from(["intent", "score", "tags"]), FIELDS, min_size=1))
def test_any_short_form_makes_a_valid_schema_with_a_strict_form(fields: dict[str, Any]) -> None:
    written = schema(fields)
    Draft202012Validator.check_schema(written)
    strict = strict_schema(written)
    assert strict is not None and is_strict(strict)
    Draft202012Validator.check_schema(strict)
    value = parse_output(json.dumps(example(written)), written)
    Draft202012Validator(written).validate(value)
    # With the nulls filled in, the value is what a strict endpoint would have answered.
    Draft202012Validator(strict).validate(value)


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda p: st.lists(p) | st.dictionaries(st.text(), p),
)


@given(st.dictionaries(st.text(), JSONISH) | st.text())
def test_any_output_is_a_schema_or_a_list_of_problems(output: Any) -> None:
    if not schema_problems(output, {}):
        schema_of(output, {})


@given(st.text() | JSONISH.map(json.dumps))
def test_any_answer_is_a_value_or_an_invalid_output(text: str) -> None:
    try:
        value = parse_output(text, schema())
    except OutputInvalid:
        return
    Draft202012Validator(schema()).validate(value)
