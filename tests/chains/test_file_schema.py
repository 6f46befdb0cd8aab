"""The schema for editors takes every chain that loads, and refuses what a schema can refuse."""

# ruff: noqa: E501 - lists of names

import re
from pathlib import Path

import jsonschema
import pytest
from test_check import GOOD_CASES, HEAD, STEP_CASES, WHOLE_CASES

from chains.file_schema import file_schema
from chains.source.document import read_document
from chains.spec import KINDS

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = file_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CHAINS = [
    *(path.read_text() for path in sorted((ROOT / "chains/library").glob("*/chain.yaml"))),
    *(path.read_text() for path in sorted((ROOT / "tests/e2e/chains").glob("*/chain.yaml"))),
    *(
        text
        for page in PAGES
        for text in re.findall(r"^```yaml\n(chain:.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    ),
]
MISTAKES = {name: HEAD + lines + "\n" for name, (lines, _, _) in STEP_CASES.items()} | {
    name: source for name, (source, _, _) in WHOLE_CASES.items()
}

# The mistakes that a schema lets pass: it knows the shape of a file, and neither its names nor its folder.
BEYOND = {
    "references to names of the chain": """unknown output, misspelt field, misspelt field under default,
        misspelt deep field, field of all samples, approve with an unknown step, unknown output of an approve, unknown step, input without its prefix, unknown input, unknown after, unknown model,
        unknown collection, unknown target collection, item called like a step, key of a list over items, misspelt key of an item,
        name inside like one outside, after something outside, step inside that reads its repeat, step of the last turn,
        output of the last turn, step that a turn has not, output that a turn has not, until that reads nothing,
        model as a value, scalar read of a list over rows,
        judge with an unknown model, perplexity of an unknown model, like names no prompt, like reads other steps, embedder, default model, no model, output reads nothing,
        teacher that is not there, hosted base that is no model,
        gate of another step, gate on a whole metric, gate on an unknown part""",
    "cycles": "self loop, cycle, cycle inside, cycle through the inside",
    "what may be read where": """label in a prompt, label that is an input, label in a condition, label in a query,
        label in args, secret in a prompt, loop outside, loop of a repeat, item in the list, item in when, item without a map,
        item under another name, item called like inputs, row in a path, output reads a label, input in a model,
        input in a header""",
    "templates and expressions": """braces in a bare expression, broken expression, call in a template,
        map that is no list, private name, unknown filter, unknown test, include, literal block, broken gate, template as documents,
        secret without a name""",
    "files": """typo in a prompt file, unclosed prompt file, prompt file not UTF-8, missing prompt file,
        path out of the folder, absolute path, folder as a file, missing data, missing training data,
        glob without a match, glob out of the folder, missing python file, missing function,
        python that cannot be read, missing schema, schema that is no JSON, written-out key in a file""",
    "keys that need or exclude each other": """judge without its text, judge called like a metric, check of two kinds,
        timed step that runs once, step inside that runs once, once inside, approve inside, pool inside,
        name inside that a repeat has, similarity without an embedder, perplexity without a model, metric without a reference,
        tokens without a model, quorum of more than all, student made twice, temperature of answers,
        budget of logits, teacher of another method, key for training here, key for hosted jobs,
        general set of a hosted job, key of another task, packing of a classifier,
        steps of a probe, general data of a classifier""",
    "the meaning of a text or value": """check with a broken regex, written-out key in a text, key written out, secret in a header,
        header of the call, headers of a local model, password in an address, no address, store model,
        malformed store model, logits of an endpoint, hosted base on this machine, wrong short form, wrong field of an approve, default of a wrong type, default not allowed, schedule without a rule,
        schedule of two rules, cron, cron of six fields, variant of no step, variant of no field, missing prompt file of a variant, rrule, interval, time zone, schedule of an unknown input,
        schedule of a wrong input, schedule without an input, schedule of data outside""",
}
LET_PASS = {" ".join(name.split()) for names in BEYOND.values() for name in names.split(",")}


def accepts(source: str) -> bool:
    return VALIDATOR.is_valid(read_document(source.encode(), "c.yaml").value)


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert "gt" not in re.findall(r"'(\w+)':", str(SCHEMA))


@pytest.mark.parametrize("source", CHAINS, ids=lambda source: source.split("\n")[0].removeprefix("chain: "))
def test_every_chain_that_is_shipped_or_shown_is_accepted(source: str) -> None:
    document = read_document(source.encode(), "c.yaml").value
    assert [error.message for error in VALIDATOR.iter_errors(document)] == []


def test_chains_are_found_to_be_held_against_the_schema() -> None:
    assert len(CHAINS) >= len(KINDS) + 4


@pytest.mark.parametrize("case", GOOD_CASES)
def test_what_is_right_is_accepted(case: str) -> None:
    assert accepts(HEAD + GOOD_CASES[case] + "\n")


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_refused_or_known_to_be_beyond_a_schema(case: str) -> None:
    assert accepts(MISTAKES[case]) == (case in LET_PASS)


def test_durations_are_written_as_the_loader_reads_them() -> None:
    for text, right in {
        "60s": True,
        "1.5h": True,
        "90": True,
        "0": False,
        "60q": False,
        "'60'": False,
    }.items():
        assert accepts(HEAD + f"  a: {{prompt: x, timeout: {text}}}\n") == right, text
