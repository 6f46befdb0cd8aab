"""A step that runs another chain, in whole runs of this process."""

from __future__ import annotations

import json

import pytest

from flows.recorded import kept_chain

INNER = """
chain: inner
inputs: {word: {type: string}, times: {type: integer, default: 2}}
steps:
  up: {python: "code.py:up", args: {value: "{{ inputs.word }}"}}
  twice: {python: "code.py:same", args: {value: "{{ up.text }}{{ inputs.times }}"}}
outputs: {said: "{{ twice.value }}", plain: "{{ inputs.word }}"}
"""
OUTER = """
chain: outer
inputs: {words: {type: array, default: [a, b]}}
steps:
  list: {python: "code.py:same", args: {value: "{{ inputs.words }}"}}
  one: {chain: %s, inputs: {word: "{{ list.value[0] }}"}}
  each: {chain: %s, map: "{{ list.value }}", as: word, inputs: {word: "{{ word }}", times: 3}}
outputs: {one: "{{ one.said }}", each: "{{ each | map(attribute='said') | list }}"}
"""


@pytest.fixture(params=["inner.yaml", "sub/inner.yaml"])
def outer(request, workshop) -> str:
    name = request.param
    workshop.write(name, INNER)
    workshop.write(name.replace("inner.yaml", "code.py"), (workshop.folder / "code.py").read_text())
    return OUTER % (name, name)


def test_a_chain_is_run_for_a_row_and_for_items_with_records_below_the_steps(workshop, outer):
    done = workshop.run(outer)
    assert done["status"] == "ok", done
    assert done["outputs"] == {"one": "A2", "each": ["A3", "B3"]}
    assert workshop.output(done, "one") == {"said": "A2", "plain": "a"}
    [own] = workshop.records(done, "one")
    assert json.loads(own.inputs) == {"word": "a"}
    assert [json.loads(record.output) for record in workshop.records(done, "one.up")] == [{"text": "A"}]
    places = [record.path for record in workshop.records(done, "each.twice")]
    assert places == ["each[item 0]", "each[item 1]"]
    steps = {step.id: step.status for step in workshop.store.steps(done["run_id"])}
    assert steps == dict.fromkeys(
        ("list", "one", "one.up", "one.twice", "each", "each.up", "each.twice"), "ok"
    )


def test_a_failed_step_inside_fails_the_step_and_a_resume_runs_only_what_is_missing(workshop, outer):
    name = "sub/code.py" if "sub/" in outer else "code.py"
    flags = (workshop.folder / name).parent
    (flags / "fail-same-B3").touch()
    done = workshop.run(outer)
    assert done["status"] == "failed"
    assert workshop.error(done, "each").startswith("item 1 of 2: step 'twice': ")
    (flags / "fail-same-B3").unlink()
    again = workshop.resume(done["run_id"])
    assert again["outputs"]["each"] == ["A3", "B3"]
    calls = [json.loads(line) for line in (flags / "calls.jsonl").read_text().splitlines()]
    assert calls.count(["up", "b"]) == 1 and calls.count(["same", "B3"]) == 2
    assert calls.count(["up", "a"]) == 2  # of `one`, and of the first item


def test_what_a_run_keeps_is_enough_to_read_its_inner_chains_back(workshop, outer):
    done = workshop.run(outer)
    run = workshop.store.run(done["run_id"])
    for path in [*workshop.folder.rglob("*.yaml"), *workshop.folder.rglob("*.py")]:
        path.unlink()
    kept = kept_chain(workshop.store, run)
    [inner] = kept.chains.values()
    assert inner.chain.chain == "inner" and inner.source == INNER.encode()
    assert inner.files["code.py"] == kept.files["sub/code.py" if "sub/" in outer else "code.py"]


def test_a_change_inside_is_a_change_of_the_step(workshop, outer):
    from chains.changes import compare, step_hashes
    from chains.loading import load

    path = workshop.write("chain.yaml", outer)
    before = step_hashes(load(path))
    name = "sub/inner.yaml" if "sub/" in outer else "inner.yaml"
    workshop.write(name, INNER.replace("{{ up.text }}", "{{ up.text }}!"))
    assert compare(before, step_hashes(load(path))).changed == ("one", "each")


def test_wrong_values_fail_the_row_with_the_name_of_the_input(workshop, outer):
    done = workshop.run(outer, words=["a", 7])
    assert done["status"] == "failed"
    assert "item 1 of 2: input 'word' must be of type string" in workshop.error(done, "each")


REFUSED = {
    "a file that is not there": ("{chain: none.yaml}", "there is no file 'none.yaml'"),
    "no shipped chain": ("{chain: suport}", "there is no shipped chain 'suport'. Did you mean 'support'?"),
    "a chain with a once step": ("{chain: once.yaml}", "has the step 'all', which runs once for a run"),
    "a chain that asks a person": ("{chain: asks.yaml}", "asks a person in its step 'ask'"),
    "an unknown input": (
        "{chain: inner.yaml, inputs: {wrod: a, word: b}}",
        "has no input 'wrod'. Did you mean",
    ),
    "a missing input": ("{chain: inner.yaml}", "gives no value for 'word' of the chain 'inner'"),
    "a wrong value": ("{chain: inner.yaml, inputs: {word: 3}}", "input 'word' must be of type string"),
    "a chain that runs itself": ("{chain: chain.yaml}", "the chain runs itself: "),
    "a circle of chains": ("{chain: back.yaml}", "the chain runs itself: "),
    "a file outside": ("{chain: ../other.yaml}", "leads out of the chain's folder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_step_that_cannot_run_its_chain_is_told_before_anything_runs(case, problems):
    step, words = REFUSED[case]
    found = problems(
        f"chain: outer\nsteps:\n  s: {step}\n",
        inner__yaml=INNER,
        once__yaml='chain: once\nsteps:\n  all: {python: "code.py:same", once: true, args: {value: 1}}\n',
        asks__yaml='chain: asks\nsteps:\n  ask: {approve: "Go on?"}\n',
        back__yaml="chain: back\nsteps:\n  s: {chain: chain.yaml}\n",
    )
    assert len(found) == 1 and words in found[0], found
    assert "yaml:3:" in found[0], found


def test_the_problems_of_an_inner_chain_are_told_with_their_own_places(problems):
    found = problems(
        "chain: outer\nsteps:\n  s: {chain: inner.yaml, inputs: {word: a}}\n  t: {prompt: x}\n",
        inner__yaml=INNER.replace("up.text", "up2.text"),
    )
    assert len(found) == 2
    assert any(problem.startswith("inner.yaml:6:") for problem in found)


def test_outputs_of_an_inner_chain_are_known_to_who_reads_them(problems):
    found = problems(
        'chain: outer\nsteps:\n  s: {chain: inner.yaml, inputs: {word: a}}\noutputs: {a: "{{ s.sayd }}"}\n',
        inner__yaml=INNER,
    )
    assert len(found) == 1 and "has outputs ['said', 'plain']. Did you mean 's.said'?" in found[0]
