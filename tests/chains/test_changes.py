"""Which steps of a chain have changed. Run with: pytest tests/chains/test_changes.py"""

from __future__ import annotations

from pathlib import Path

import pytest

from chains.changes import compare, step_hashes, with_dependents
from chains.graph import graph_of_file
from chains.loading import load

CHAIN = """\
chain: c
inputs:
  ticket: {type: string}
  tone: {type: string, default: warm}
models:
  writer: {provider: openai, model: m, base_url: "http://127.0.0.1:1/v1"}
  other: {provider: openai, model: n, base_url: "http://127.0.0.1:1/v1"}
steps:
  triage: {prompt: triage.md, model: writer, output: schema.json}
  work: {python: "functions.py:work", args: {text: "{{ triage.text }}"}}
  reply: {prompt: "{{ work.value }} {{ inputs.tone }}", model: other}
  aside: {prompt: "{{ inputs.ticket }}", model: other}
outputs: {reply: "{{ reply.text }}"}
"""


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    (tmp_path / "triage.md").write_text("Sort {{ inputs.ticket }}")
    (tmp_path / "schema.json").write_text('{"type": "object", "properties": {"intent": {"type": "string"}}}')
    (tmp_path / "functions.py").write_text("def work(text):\n    return text\n")
    path = tmp_path / "chain.yaml"
    path.write_text(CHAIN)
    return path


@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        ("triage.md", "Sort", "Judge", ("triage",)),
        ("schema.json", "string", "integer", ("triage",)),
        ("functions.py", "return text", "return text + text", ("work",)),
        ("chain.yaml", "model: n", "model: p", ("reply", "aside")),
        ("chain.yaml", "default: warm", "default: brief", ("reply",)),
        ("chain.yaml", "{{ work.value }} {{", "{{ work.value }}, {{", ("reply",)),
        ("chain.yaml", "model: writer, output", "when: inputs.tone, model: writer, output", ("triage",)),
        ("chain.yaml", "chain: c", "# a comment\nchain: c", ()),
        ("chain.yaml", "{{ reply.text }}", "{{ aside.text }}", ()),
        (
            "chain.yaml",
            "model: writer, output",
            "retry: {attempts: 9}, timeout: 5s, model: writer, output",
            (),
        ),
        ("chain.yaml", "{type: string}", "{type: string, description: Words.}", ()),
    ],
)
def test_a_change_is_a_change_of_the_steps_that_it_may_touch(
    chain: Path, file: str, old: str, new: str, changed: tuple[str, ...]
) -> None:
    before = step_hashes(load(chain))
    path = chain.parent / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    found = compare(before, step_hashes(load(chain)))
    assert (found.changed, found.added, found.removed) == (changed, (), ())


def test_a_change_of_what_a_function_imports_is_a_change_of_its_step(chain: Path) -> None:
    functions, words = chain.parent / "functions.py", chain.parent / "words.py"
    functions.write_text("from .words import clean\ndef work(text):\n    return clean(text)\n")
    words.write_text("from .more import strip as clean\n")
    (chain.parent / "more.py").write_text("strip = str.strip\n")
    before = step_hashes(load(chain))
    (chain.parent / "more.py").write_text("strip = str.lower\n")
    assert compare(before, step_hashes(load(chain))).changed == ("work",)


def test_added_and_removed_steps_are_named_as_such(chain: Path) -> None:
    before = step_hashes(load(chain))
    chain.write_text(CHAIN.replace("aside:", "beside:"))
    found = compare(before, step_hashes(load(chain)))
    assert str(found) == "added: beside; removed: aside" and found
    assert not compare(before, before)


def test_what_needs_a_changed_step_changes_with_it(chain: Path) -> None:
    graph = graph_of_file(load(chain))
    assert with_dependents(frozenset({"work"}), graph) == {"work", "reply"}
    assert with_dependents(frozenset({"triage"}), graph) == {"triage", "work", "reply"}
