"""The chain reference is up to date, complete, and every chain on it loads."""

import json
import re
from pathlib import Path

import pytest
import yaml

from chains import spec
from chains.loading import load
from chains.reference_page import blocks, main, parts, refreshed
from chains.spec import KINDS
from chains.step_outputs import declared_outputs

PAGE = Path(__file__).resolve().parents[2] / "docs/chain-reference.md"
TEXT = PAGE.read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)

LABELLED = json.dumps({"ticket": "Where is it?", "intent": "delivery"}) + "\n"
FILES = {
    "answer.yaml": "chain: answer\ninputs: {ticket: {type: string}}\nmodels: {m: {provider: starter}}\n"
    "steps: {reply: {prompt: '{{ inputs.ticket }}', model: m}}\noutputs: {reply: '{{ reply.text }}'}\n",
    "prompts/triage.md": "Sort this ticket: {{ inputs.ticket }}",
    "handbook/refunds.md": "Refunds take five days.",
    "schemas/triage.json": '{"type": "object", "properties": {"intent": {"type": "string"}}}',
    "answers.py": "from pydantic import BaseModel\n\n\nclass Triage(BaseModel):\n    intent: str\n",
    "work.py": "def clean(text, limit):\n    return {'text': text[:limit]}\n",
    "data/labelled.jsonl": LABELLED,
    "data/train.jsonl": '{"text": "a"}\n',
    "data/validation.jsonl": '{"text": "b"}\n',
}


def test_the_page_is_what_the_generator_writes() -> None:
    assert refreshed(TEXT) == TEXT, "run: python -m chains.reference_page"


def test_a_stale_page_is_refreshed_and_only_in_its_blocks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("By hand.\n<!-- keys: Limits -->\nold\n<!-- end -->\nBy hand, too.\n")
    main([str(page)])
    lines = page.read_text().splitlines()
    assert lines[0] == "By hand." and lines[-1] == "By hand, too."
    assert "| `concurrency` | whole number, from 1, up to 4096 | `64` |" in page.read_text()
    assert "old" not in lines


def test_every_model_of_the_language_has_its_table() -> None:
    assert sorted(blocks(TEXT)) == sorted(part.__name__ for part in parts())
    assert set(KINDS.values()) | {spec.Chain, spec.Model, spec.StepBase} <= set(parts())


def test_every_key_has_a_meaning() -> None:
    for part in parts():
        for name, field in part.model_fields.items():
            assert field.description, f"{part.__name__}.{name} has no docstring"


def test_every_kind_has_a_section_with_an_example_and_its_outputs() -> None:
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##[#]? \w|\Z)", TEXT, re.MULTILINE | re.DOTALL))
    for kind in KINDS:
        assert f"chain: {kind}_example" in sections[kind]
    examples = [
        spec.EmbedStep(embed="*.md", into="handbook"),
        spec.EmbedStep(embed="{{ inputs.x }}", model="m"),
        spec.RetrieveStep(retrieve="handbook", query="q"),
        spec.PromptStep(prompt="Hi"),
        spec.PrepareStep(prepare="a.jsonl"),
        spec.FinetuneStep(finetune="scratch", data=spec.TrainingFiles(train="a.jsonl")),
        spec.EvaluateStep(evaluate=spec.Comparison(prediction="a", reference="b")),
    ]
    for step in examples:
        for name in declared_outputs(step, {}) or ():
            assert f"`{name}`" in sections[spec.kind_of(step)], name


def test_every_link_within_the_page_leads_to_a_heading() -> None:
    headings = {heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)}
    assert set(re.findall(r"\(#([^)]*)\)", TEXT)) <= headings


@pytest.mark.parametrize("source", EXAMPLES, ids=lambda source: source.split("\n")[0].removeprefix("chain: "))
def test_every_chain_on_the_page_loads(source: str, tmp_path: Path) -> None:
    for name, content in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (tmp_path / "chain.yaml").write_text(source)
    chain_file = load(tmp_path / "chain.yaml")
    assert chain_file.chain.chain == yaml.safe_load(source)["chain"]


def test_the_page_has_examples() -> None:
    assert len(EXAMPLES) >= len(KINDS) + 2
