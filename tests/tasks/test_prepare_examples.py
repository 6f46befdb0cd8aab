"""Run with: pytest tests/tasks/test_prepare_examples.py"""

import json
from types import SimpleNamespace

import pytest

from chains.errors import InputInvalid, TemplateFailed
from chains.spec import Chain
from tasks.examples import Converter, normalised

CHAIN = {
    "chain": "support",
    "inputs": {
        "ticket": {"type": "string"},
        "tone": {"type": "string", "default": "warm"},
        "age": {"type": "integer", "required": False},
        "unused": {"type": "string"},
    },
    "models": {"m": {"provider": "starter"}},
    "steps": {
        "guide": {"python": "guide.py:make", "once": True},
        "first": {"prompt": "{{ inputs.ticket }}", "model": "m"},
        "triage": {
            "prompt": [{"system": "Tone: {{ inputs.tone }}."}, {"user": "prompts/triage.md"}],
            "model": "m",
        },
    },
}
FILES = {"prompts/triage.md": b"Ticket: {{ inputs.ticket }}\nAge: {{ inputs.age }}"}


def converter(prepare=None, scope=None, *, from_text=False, steps=None):
    step = {"prepare": "data.jsonl", **(prepare or {})}
    content = {**CHAIN, "steps": {**CHAIN["steps"], **(steps or {}), "make": step}}
    chain = Chain.model_validate(content)
    file = SimpleNamespace(chain=chain, files=FILES)
    return Converter(file, chain.steps["make"], {"inputs": {}, **(scope or {})}, from_text=from_text)


def line(example):
    return json.loads(example.line)


LIKE = {"like": "triage", "completion": "{{ row.intent }}"}


def test_like_gives_the_messages_that_the_step_would_send():
    example = converter(LIKE).convert({"ticket": "Where is it?", "age": 3, "intent": "delivery", "extra": 1})
    assert line(example) == {
        "prompt": [
            {"role": "system", "content": "Tone: warm."},
            {"role": "user", "content": "Ticket: Where is it?\nAge: 3"},
        ],
        "completion": [{"role": "assistant", "content": "delivery"}],
    }


def test_a_columns_value_wins_over_the_runs_and_the_runs_over_the_default():
    row = {"ticket": "t", "intent": "i"}
    asked = converter(LIKE, {"inputs": {"tone": "brief"}})
    assert line(asked.convert(row))["prompt"][0]["content"] == "Tone: brief."
    assert line(asked.convert({**row, "tone": "curt"}))["prompt"][0]["content"] == "Tone: curt."


def test_texts_of_a_csv_file_are_read_as_the_inputs_type():
    with pytest.raises(InputInvalid, match="input 'age' must be a whole number"):
        converter(LIKE, from_text=True).convert({"ticket": "t", "age": "three", "intent": "i"})
    example = converter(LIKE, from_text=True).convert({"ticket": "t", "age": "03", "intent": "i"})
    assert line(example)["prompt"][1]["content"].endswith("Age: 3")


def test_an_input_that_no_template_reads_need_not_be_there():
    assert "unused" not in converter(LIKE).identity()["inputs"]
    with pytest.raises(InputInvalid, match="input 'ticket' is required"):
        converter(LIKE).convert({"intent": "i"})


def test_a_prompt_never_sees_the_labels():
    steps = {"peek": {"prompt": "{{ row.intent }}", "model": "m"}}
    peeking = converter({"like": "peek", "completion": "{{ row.intent }}"}, steps=steps)
    with pytest.raises(TemplateFailed, match="row"):
        peeking.convert({"ticket": "t", "intent": "refund"})


def test_outputs_of_once_steps_reach_the_prompt_and_lists_over_rows_do_not():
    steps = {
        "a": {"prompt": "{{ guide.text }} {{ inputs.ticket }}", "model": "m"},
        "b": {"prompt": "{{ first | length }}", "model": "m"},
    }
    scope = {"guide": {"text": "Rules."}, "first": [{"text": "x"}]}
    using = converter({"like": "a", "completion": "{{ row.intent }}"}, scope, steps=steps)
    assert line(using.convert({"ticket": "t", "intent": "i"}))["prompt"][0]["content"] == "Rules. t"
    assert using.identity()["upstream"] == {"guide": {"text": "Rules."}}
    with pytest.raises(TemplateFailed, match="first"):
        converter({"like": "b", "completion": "c"}, scope, steps=steps).convert({})


def test_a_value_is_never_read_as_a_template():
    example = converter(LIKE).convert({"ticket": "{{ inputs.tone }}{% for x in y %}", "intent": "{{ row }}"})
    assert "{{ inputs.tone }}{% for x in y %}" in line(example)["prompt"][1]["content"]
    assert line(example)["completion"][0]["content"] == "{{ row }}"


def test_a_completion_that_is_no_text_is_written_as_json():
    step = {"like": "triage", "completion": "{{ row.answer }}"}
    row = {"ticket": "t", "answer": {"intent": "refund", "order": None}}
    assert (
        line(converter(step).convert(row))["completion"][0]["content"]
        == '{"intent": "refund", "order": null}'
    )


@pytest.mark.parametrize("intent", [None, "", "  "])
def test_an_empty_completion_is_a_bad_row(intent):
    with pytest.raises(InputInvalid, match="nothing to learn"):
        converter(LIKE).convert({"ticket": "t", "intent": intent})


def test_text_gives_plain_examples_and_empty_ones_say_so():
    plain = converter({"text": "{{ row.body }}"})
    assert line(plain.convert({"body": "Once  upon"})) == {"text": "Once  upon"}
    assert plain.convert({"body": " \n"}).is_empty
    assert plain.convert({"body": None}).is_empty


@pytest.mark.parametrize(
    "ready",
    [
        {"text": "t"},
        {"prompt": "Q:", "completion": " A"},
        {
            "prompt": [{"role": "user", "content": "q"}],
            "completion": [{"role": "assistant", "content": "a"}],
        },
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
    ],
)
def test_a_row_that_is_an_example_is_passed_through_without_its_other_columns(ready):
    assert line(converter().convert({**ready, "id": 7})) == ready


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "q"}, "neither 'messages'"),
        ({"messages": []}, "no list of messages"),
        ({"messages": "hello"}, "no list of messages"),
        ({"messages": [{"role": "user", "content": "q"}]}, "does not end with the assistant"),
        ({"messages": [{"role": "human", "content": "q"}]}, "'human'"),
        ({"messages": [{"from": "user", "value": "q"}]}, "A message is"),
        ({"messages": [{"role": "assistant", "content": ""}]}, "empty answer"),
        ({"prompt": "q", "completion": ""}, "nothing to learn"),
        ({"prompt": "q", "completion": [{"role": "assistant", "content": "a"}]}, "must both be"),
        (
            {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "user", "content": "a"}]},
            "not the assistant's",
        ),
    ],
)
def test_a_row_that_makes_no_example_says_what_it_lacks(row, said):
    with pytest.raises(InputInvalid, match=said):
        converter().convert(row)


def test_all_ready_rows_have_one_form():
    ready = converter()
    ready.convert({"text": "t"})
    with pytest.raises(InputInvalid, match="the rows before it"):
        ready.convert({"messages": [{"role": "assistant", "content": "a"}]})


def test_sameness_looks_past_spaces_and_unicode_forms_and_not_past_case():
    assert normalised("cafe\u0301  au\n\tlait ") == "caf\u00e9 au lait"
    one, two, three = (
        converter({"text": "{{ row.t }}"}).convert({"t": text}) for text in ("a  b", "a b", "A b")
    )
    assert one.whole == two.whole != three.whole
    assert line(one) == {"text": "a  b"}


def test_what_is_asked_leaves_the_answer_out():
    ready = converter()
    one, two = (ready.convert({"prompt": "q", "completion": answer}) for answer in ("a", "b"))
    assert one.asked == two.asked
    assert one.whole != two.whole


def test_two_parts_do_not_run_together():
    one = converter().convert({"prompt": "a b", "completion": "c"})
    two = converter().convert({"prompt": "a", "completion": "b c"})
    assert one.whole != two.whole


def test_all_that_decides_an_example_is_in_its_identity():
    base = converter(LIKE).identity()
    for other in (
        converter({**LIKE, "completion": "{{ row.label }}"}),
        converter({**LIKE, "like": "first"}),
        converter(LIKE, {"inputs": {"tone": "brief"}}),
        converter(LIKE, from_text=True),
        converter({"text": "{{ row.t }}"}),
    ):
        assert other.identity() != base
