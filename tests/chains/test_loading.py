"""Chain files as a whole: what is read, found and written back."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import chains
from chains.errors import ChainInvalid, InputInvalid, Location
from chains.loading import find_chain, load, load_source, to_yaml
from chains.settings import Settings

GOOD = """chain: small
inputs:
  ticket: {type: string}
models:
  writer: {provider: starter}
defaults: {model: writer, timeout: 90s}
steps:
  triage:
    prompt: prompts/triage.md
    output: {intent: {enum: [refund, question]}}
  reply:
    prompt:
      - system: Be kind.
      - user: "{{ triage.intent }}: {{ inputs.ticket }}"
  work:
    python: work.py:run
    args: {n: 400_000, time: 12:30:45, no: no}
outputs: {reply: "{{ reply.text }}"}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts/triage.md").write_text("Sort this:\n{{ inputs.ticket }}\n")
    (tmp_path / "work.py").write_text(
        "def run(n, time, no):\n    raise SystemExit('never run while checking')\n"
    )
    (tmp_path / "chain.yaml").write_text(GOOD)
    return tmp_path


def test_a_chain_is_read_with_its_files_and_places(folder):
    read = load(folder / "chain.yaml")
    assert read.chain.chain == "small"
    assert set(read.files) == {"prompts/triage.md", "work.py"}
    assert read.folder == folder and read.source == GOOD.encode()
    assert read.positions[("steps", "triage", "prompt")] == (9, 5)
    assert read.where("steps", "reply", "nothing") == Location(str(folder / "chain.yaml"), 11, 3)
    assert read.chain.steps["work"].args == {"n": 400_000, "time": "12:30:45", "no": "no"}
    assert read.chain.defaults.timeout == 90


def test_the_hash_changes_with_the_chain_and_with_each_file(folder):
    first = load(folder / "chain.yaml").hash
    assert load(folder / "chain.yaml").hash == first
    (folder / "prompts/triage.md").write_text("Other words: {{ inputs.ticket }}")
    second = load(folder / "chain.yaml").hash
    (folder / "chain.yaml").write_text(GOOD + "# a comment\n")
    third = load(folder / "chain.yaml").hash
    assert len({first, second, third}) == 3


def test_what_a_python_file_imports_from_beside_it_belongs_to_the_chain(folder):
    (folder / "lib/deep").mkdir(parents=True)
    (folder / "work.py").write_text(
        "from .lib.words import clean\nfrom . import shared\nimport json\nfrom .gone import nothing\n"
        "def run(n, time, no):\n    from .late import more\n"
    )
    (folder / "lib/__init__.py").write_text("")
    words = "from .deep import *\nfrom ..work import run\nfrom ...out import x\n"
    (folder / "lib/words.py").write_text(words)
    (folder / "lib/deep/__init__.py").write_text("END = 1\n")
    (folder / "shared.py").write_text("")
    (folder / "late.py").write_text("more = 1\n")
    (folder / "unused.py").write_text("raise SystemExit\n")
    read = load(folder / "chain.yaml")
    helpers = {"lib/__init__.py", "lib/words.py", "lib/deep/__init__.py", "shared.py", "late.py"}
    assert set(read.files) == {"prompts/triage.md", "work.py"} | helpers
    for name in sorted(helpers):
        before = load(folder / "chain.yaml").hash
        (folder / name).write_text((folder / name).read_text() + "# changed\n")
        assert load(folder / "chain.yaml").hash != before, name


def test_an_import_that_leads_out_of_the_folder_by_a_link_is_a_problem(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "words.py"
    outside.write_text("clean = str\n")
    (folder / "words.py").symlink_to(outside)
    (folder / "work.py").write_text("from .words import clean\ndef run(n, time, no): pass\n")
    with pytest.raises(ChainInvalid, match=r"step 'work': 'words.py' leads out of the chain's folder"):
        load(folder / "chain.yaml")


def test_writing_and_reading_gives_the_same_chain(folder):
    chain = load(folder / "chain.yaml").chain
    assert load_source(chain.to_yaml().encode(), folder / "chain.yaml").chain == chain


@pytest.mark.parametrize("name", ["support", "starter"])
def test_shipped_chains_are_found_by_name_and_have_no_problems(name):
    path = find_chain(name)
    read = load(path)
    assert read.chain.chain == name
    assert load_source(to_yaml(read.chain).encode(), path).chain == read.chain


def test_chains_are_found_by_path_folder_and_name(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert find_chain("chain.yaml") == Path("chain.yaml")
    assert find_chain(str(folder)) == folder / "chain.yaml"
    for wrong, hint in (("suport", "Did you mean 'support'?"), ("chian.yaml", "Did you mean 'chain.yaml'?")):
        with pytest.raises(InputInvalid) as caught:
            find_chain(wrong)
        assert hint in str(caught.value)


@pytest.mark.parametrize("name", ["", "\x00", "../../etc", "a" * 5000, "support/../starter/none"])
def test_odd_chain_names_are_our_error(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputInvalid):
        find_chain(name)


def test_a_file_that_is_not_there_is_our_error(tmp_path):
    with pytest.raises(InputInvalid, match="No such file"):
        load(tmp_path / "none.yaml")
    with pytest.raises(InputInvalid, match="directory"):
        load(tmp_path)


def test_all_problems_of_all_kinds_come_at_once_in_file_order(folder):
    (folder / "prompts/triage.md").write_text("{{ inputs.tiket }}")
    (folder / "chain.yaml").write_text(
        """chain: small
chain: twice
inputs: {ticket: {type: strng}}
models: {writer: {provider: starter, tempature: 1}}
steps:
  triage: {prompt: prompts/triage.md, model: writr}
  missing: {prompt: prompts/none.md, model: writer}
  a: {prompt: "{{ b.text }}", model: writer}
  b: {prompt: "{{ a.text }}", model: writer, reask: many}
  c: {prompt: "{{ d.text }}", model: writer}
  d: {prompt: "{{ c.text }}", model: writer}
outputs: {x: "{{ tirage.text }}"}
"""
    )
    with pytest.raises(ChainInvalid) as caught:
        load(folder / "chain.yaml")
    found = [(Path(p.location.file).name, p.location.line, p.message) for p in caught.value.problems]
    lines = [line for name, line, _ in found if name == "chain.yaml"]
    assert lines == [2, 3, 4, 6, 7, 9, 10, 12]
    assert found[-1][:2] == ("triage.md", 1)
    assert len({str(problem) for problem in caught.value.problems}) == len(found)


def test_files_outside_the_folder_are_read_only_where_the_machine_allows_it(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "secret.md"
    outside.write_text("{{ inputs.ticket }}")
    (folder / "link.md").symlink_to(outside)
    (folder / "linked").symlink_to(outside.parent)
    names = [str(outside), "../" * 30 + str(outside)[1:], "link.md", "linked/secret.md", "prompts/../../x.md"]
    for name in names:
        text = GOOD.replace("prompts/triage.md", name)
        with pytest.raises(ChainInvalid, match="leads out of the chain's folder"):
            load_source(text.encode(), folder / "chain.yaml")
    text = GOOD.replace("prompts/triage.md", str(outside))
    read = load_source(text.encode(), folder / "chain.yaml", settings=Settings(read_outside=True))
    assert read.files[str(outside)] == b"{{ inputs.ticket }}"


def test_no_key_of_a_chain_file_sets_trust(folder):
    for key in ("read_outside", "allowed_modules", "allow_code", "_trusted", "settings"):
        with pytest.raises(ChainInvalid, match=f"unknown key '{key}'"):
            load_source(f"{GOOD}{key}: true\n".encode(), folder / "chain.yaml")


def test_the_package_offers_loading(folder):
    assert chains.load(folder / "chain.yaml").chain.chain == "small"


LINES = GOOD.splitlines(keepends=True)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_chain_files_give_our_errors_only(folder, data):
    lines = list(LINES)
    for _ in range(data.draw(st.integers(1, 3))):
        index = data.draw(st.integers(0, len(lines) - 1))
        line = lines[index]
        match data.draw(st.sampled_from(["drop", "double", "cut", "insert", "indent", "swap"])):
            case "drop":
                lines[index] = ""
            case "double":
                lines[index] = line * 2
            case "cut":
                lines[index] = line[: data.draw(st.integers(0, len(line)))] + "\n"
            case "insert":
                at = data.draw(st.integers(0, len(line)))
                piece = data.draw(
                    st.sampled_from(["{", "}", "[", ":", " ", "'", "*a", "5", "null", "- ", "{{ x }}", "é"])
                )
                lines[index] = line[:at] + piece + line[at:]
            case "indent":
                lines[index] = "  " + line
            case "swap":
                other = data.draw(st.integers(0, len(lines) - 1))
                lines[index], lines[other] = lines[other], lines[index]
    try:
        load_source("".join(lines).encode(), folder / "chain.yaml")
    except ChainInvalid as error:
        assert error.problems
        assert all(problem.location.line <= "".join(lines).count("\n") + 2 for problem in error.problems)
        assert all(len(problem.message) < 700 for problem in error.problems)
