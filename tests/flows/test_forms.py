"""A chain's inputs as a form, and a filled-in form as arguments of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chains.errors import InputInvalid, Refused
from chains.loading import ChainFile, load
from chains.settings import Settings
from chains.spec import Chain, Input, PromptStep
from flows.forms import asked_for, form_of

SOURCE = """chain: desk
inputs:
  ticket: {type: string, description: What they wrote., max_length: 400}
  tone: {type: string, enum: [warm, brief], default: warm}
  stars: {type: integer, minimum: 1, maximum: 5, required: false}
models: {writer: {provider: starter}}
defaults: {model: writer}
steps: {reply: {prompt: "{{ inputs.ticket }} {{ inputs.tone }} {{ inputs.stars }}"}}
"""


@pytest.fixture
def desk(tmp_path: Path) -> ChainFile:
    (tmp_path / "desk.yaml").write_text(SOURCE)
    return load(tmp_path / "desk.yaml")


def refusals(form: dict[str, object], parameters: dict[str, object]) -> list[str]:
    """Return what Prefect's server says against parameters."""
    from prefect.utilities.schema_tools.validation import validate

    return [error.message for error in validate(json.loads(json.dumps(parameters)), form)]


def test_each_input_is_a_field_with_its_type_words_and_bounds(desk: ChainFile) -> None:
    fields = form_of(desk.chain)["properties"]
    assert list(fields) == ["ticket", "tone", "stars", "data", "options"]
    assert [field["position"] for field in fields.values()] == [0, 1, 2, 3, 4]
    assert fields["ticket"] == {
        "title": "ticket",
        "type": "string",
        "description": "What they wrote. Required, unless `data` is given.",
        "maxLength": 400,
        "position": 0,
    }
    assert fields["tone"]["enum"] == ["warm", "brief"] and fields["tone"]["default"] == "warm"
    assert (fields["stars"]["minimum"], fields["stars"]["maximum"]) == (1, 5)


def test_a_chain_with_variants_lets_its_form_choose_some(tmp_path: Path) -> None:
    varied = f"{SOURCE}variants: {{short: {{steps: {{reply: {{prompt: Be short.}}}}}}}}\n"
    (tmp_path / "desk.yaml").write_text(varied)
    form = form_of(load(tmp_path / "desk.yaml").chain)
    assert list(form["properties"])[3:] == ["data", "variants", "options"]
    assert refusals(form, {"ticket": "x", "variants": ["short"]}) == []
    assert refusals(form, {"ticket": "x", "variants": ["long"]}) == ["'long' is not one of ['short']"]


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({}, "'ticket' is a required property"),
        ({"ticket": None}, "None should not be valid"),
        ({"ticket": 3}, "3 is not valid under any of the given schemas"),
        ({"ticket": "x", "tone": "loud"}, "'loud' is not one of"),
        ({"ticket": "x", "stars": 6}, "6 is greater than the maximum of 5"),
        ({"ticket": "x", "colour": 1}, "'colour' was unexpected"),
        ({"ticket": "x", "options": {"base_url": "http://elsewhere"}}, "'base_url' was unexpected"),
        ({"ticket": "x", "options": {"limit": 0}}, "0 is less than the minimum"),
    ],
)
def test_the_server_refuses_what_the_chain_would(
    desk: ChainFile, parameters: dict[str, object], words: str
) -> None:
    found = refusals(form_of(desk.chain), parameters)
    assert any(words in message for message in found), found


@pytest.mark.parametrize(
    "parameters",
    [
        {"ticket": "x"},
        {"ticket": "x", "tone": "brief", "stars": 3, "options": {}},
        {"data": "tickets.jsonl"},
        {"data": "tickets.jsonl", "options": {"limit": 3, "map": {"ticket": "body"}, "budget_usd": 0.5}},
    ],
)
def test_what_is_right_passes(desk: ChainFile, parameters: dict[str, object]) -> None:
    assert refusals(form_of(desk.chain), parameters) == []


def test_an_input_cannot_have_the_name_of_a_field_of_every_form() -> None:
    chain = Chain(chain="c", inputs={"data": Input()}, steps={"a": PromptStep(prompt="x")})
    with pytest.raises(InputInvalid, match="an input 'data', which is a field of every deployed chain"):
        form_of(chain)


def test_a_filled_in_form_becomes_arguments_of_a_run(desk: ChainFile) -> None:
    asked = asked_for(
        desk,
        {
            "ticket": "x",
            "tone": "warm",
            "stars": None,
            "data": None,
            "options": {"budget_calls": 3, "models": ["starter"]},
        },
        settings=Settings(),
    )
    assert asked == {
        "inputs": {"ticket": "x", "tone": "warm"},
        "data": None,
        "budget": {"calls": 3},
        "limit": None,
        "skip_bad": False,
        "map": None,
        "models": ["starter"],
    }


def test_over_a_data_set_a_default_that_a_form_sends_gives_way_to_the_column(desk: ChainFile) -> None:
    asked = asked_for(desk, {"tone": "warm", "stars": 4, "data": "t.jsonl"}, settings=Settings())
    assert asked["inputs"] == {"stars": 4}
    assert asked["data"] == str(desk.folder.resolve() / "t.jsonl")


@pytest.mark.parametrize("data", ["../secrets.csv", "/etc/passwd"])
def test_a_form_does_not_reach_files_outside_the_chains_folder(desk: ChainFile, data: str) -> None:
    with pytest.raises(Refused, match="data: "):
        asked_for(desk, {"data": data}, settings=Settings())
    asked = asked_for(desk, {"data": data}, settings=Settings(read_outside=True))
    assert Path(asked["data"]) == (desk.folder / data).resolve()


def test_an_option_that_is_none_is_refused_also_where_no_server_looked(desk: ChainFile) -> None:
    with pytest.raises(InputInvalid, match="no option 'base_url'"):
        asked_for(desk, {"ticket": "x", "options": {"base_url": "http://x"}}, settings=Settings())


def test_a_form_does_not_reach_models_outside_the_chains_folder(desk: ChainFile, tmp_path: Path) -> None:
    elsewhere = str(Path(__file__).parent)
    parameters = {"ticket": "x", "options": {"models": [f"writer=local:{elsewhere}"]}}
    with pytest.raises(Refused, match=r"options\.models: "):
        asked_for(desk, parameters, settings=Settings())
    assert asked_for(desk, parameters, settings=Settings(read_outside=True))["models"]
    named = {"ticket": "x", "options": {"models": ["writer=local:some/hub-id"]}}
    assert asked_for(desk, named, settings=Settings())["models"] == ["writer=local:some/hub-id"]
