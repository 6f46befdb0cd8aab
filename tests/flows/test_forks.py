"""Random chains, replayed from any step: what is called, what runs, and what comes out."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers.launch import Running, start

from chains.errors import InputInvalid
from chains.settings import Settings
from chains.store import Store, open_store
from flows.executor import execute
from flows.fork_costs import planned_steps
from flows.forking import plan_fork
from flows.prepared import prepare
from flows.request import Replay, Resume, RunRequest
from flows.units import Direct


@dataclass(frozen=True)
class Step:
    """A step of a random chain: which earlier ones it reads, guarded or not, when it runs, and what it is.

    `items` of a map; `turns` of a repeat with two steps inside; `runs_chain`: one step of another chain.
    """

    reads: tuple[int, ...]
    guarded: bool = False
    when: int | None = None
    items: int | None = None
    turns: int | None = None
    runs_chain: bool = False

    def text(self, number: int, steps: list[Step]) -> str:
        said = f"Step {number} of {self.variables(steps)}"
        if self.turns is not None:
            inside = f'{{a: {{prompt: "{said} {{{{ loop.turn }}}}"}}, b: {{prompt: "{{{{ a.text }}}}"}}}}'
            lines = [f'repeat: {{until: "loop.turn == {self.turns}", max: 4}}', f"steps: {inside}"]
        elif self.runs_chain:
            lines = ["chain: inner.yaml", f'inputs: {{v: "{said}"}}']
        else:
            lines = [f'prompt: "{said}"']
        lines += [] if self.when is None else [f"when: inputs.n != {self.when}"]
        lines += [] if self.items is None else [f'map: "{{{{ {list(range(self.items))} }}}}"']
        return f"  s{number}:\n" + "".join(f"    {line}\n" for line in lines)

    def variables(self, steps: list[Step], *, guarded: bool | None = None) -> str:
        guard = " | default(1)" if (self.guarded if guarded is None else guarded) else ""
        names = [f"s{other}{steps[other].output}" for other in self.reads]
        own = ["{{ inputs.n }}"] + (["{{ item }}"] if self.items is not None else [])
        return " ".join(own + [f"{{{{ {name}{guard} }}}}" for name in names])

    @property
    def output(self) -> str:
        if self.items is not None:
            return ""
        return ".b.text" if self.turns is not None else ".text"

    @property
    def edited(self) -> str:
        if self.turns is not None:
            return "a.prompt"
        return "inputs.v" if self.runs_chain else "prompt"


@st.composite
def chains_of_steps(draw) -> list[Step]:
    steps: list[Step] = []
    for number in range(draw(st.integers(1, 6))):
        reads = draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set()
        guarded, when = draw(st.booleans()), draw(st.none() | st.integers(0, 2))
        items, turns = draw(st.none() | st.integers(0, 3)), draw(st.none() | st.integers(0, 2))
        runs_chain = turns is None and draw(st.booleans())
        steps.append(Step(tuple(sorted(reads)), guarded, when, items, turns, runs_chain))
    return steps


ONE = """chain: inner
inputs: {{v: {{type: string}}}}
models: {{m: {{provider: openai, model: m, base_url: "{url}", temperature: 1}}}}
steps: {{say: {{prompt: "{{{{ inputs.v }}}}", model: m}}}}
outputs: {{text: "{{{{ say.text }}}}"}}
"""


def below(steps: list[Step], first: int) -> set[str]:
    """Return a step and all that reads it, directly or through others."""
    found = {first}
    for number, step in enumerate(steps):
        if found & set(step.reads):
            found.add(number)
    return {f"s{number}" for number in found}


class Desk:
    """A store and an endpoint whose calls are counted."""

    def __init__(self, folder: Path, server: Running) -> None:
        self.folder, self.server = folder, server
        self.settings = Settings(store=str(folder / "store"))
        self.store: Store = open_store(folder / "store")
        self.made = 0

    def run(self, asked: RunRequest | Replay | Resume) -> str:
        prepared = prepare(asked, store=self.store, settings=self.settings)
        result = asyncio.run(execute(prepared, Direct()))
        assert result["status"] == "ok"
        return result["run_id"]

    def chain(self, steps: list[Step]) -> RunRequest:
        self.made += 1
        path, data = self.folder / f"c{self.made}.yaml", self.folder / "rows.jsonl"
        texts = "".join(step.text(number, steps) for number, step in enumerate(steps))
        path.write_text(
            f"chain: random{self.made}\ninputs: {{n: {{type: integer}}}}\n"
            f'models: {{m: {{provider: openai, model: m, base_url: "{self.server.url}", temperature: 1}}}}\n'
            f"defaults: {{model: m}}\nsteps:\n{texts}"
        )
        (self.folder / "inner.yaml").write_text(ONE.format(url=self.server.url))
        data.write_text("".join(f'{{"n": {row}}}\n' for row in range(3)))
        return RunRequest(chain=str(path), data=str(data))

    def records(self, run: str) -> dict[tuple[Any, ...], tuple[Any, ...]]:
        return {
            (record.step, record.row, record.path, record.item, record.turn, record.sample): (
                record.status,
                record.inputs,
                record.messages,
                record.output,
            )
            for record in self.store.records(run, within=True)
        }

    def sent(self) -> int:
        return len(self.server.ledger())


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("forks")
    server = start(folder)
    made = Desk(folder, server)
    yield made
    made.store.close()
    server.stop()


def top_of(step: str) -> str:
    """Return the step of the chain's own level that a step stands in."""
    return step.partition(".")[0]


def check(desk: Desk, steps: list[Step], first: int) -> None:
    source = desk.run(desk.chain(steps))
    before, sent = desk.records(source), desk.sent()
    fork = desk.run(Replay(source, start=f"s{first}"))
    assert desk.sent() == sent
    assert desk.records(fork) == before
    said = f"Edited. {steps[first].variables(steps, guarded=True)}"
    edited = desk.run(Replay(fork, edits={f"s{first}.{steps[first].edited}": said}))
    found = desk.store.records(edited, payloads=False, within=True)
    ran = {top_of(record.step) for record in found if not record.linked}
    assert ran == below(steps, first)
    called = desk.store.attempts_of_run(edited, payloads=False)
    assert {top_of(attempt.step) for attempt in called} <= ran
    assert desk.sent() == sent + len(called)
    after = desk.records(edited)
    for place, kept in before.items():
        if top_of(place[0]) not in ran:
            assert after[place] == kept
    assert desk.records(source) == before
    assert desk.store.verify() == []


quiet = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]


@settings(max_examples=8, deadline=None, suppress_health_check=quiet, database=None)
@given(steps=chains_of_steps(), data=st.data())
def test_a_replay_runs_exactly_what_the_graph_names(desk: Desk, steps, data) -> None:
    check(desk, steps, data.draw(st.integers(0, len(steps) - 1)))


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=quiet, database=None)
@given(steps=chains_of_steps(), data=st.data())
def test_many_chains_are_replayed_from_any_step(desk: Desk, steps, data) -> None:
    check(desk, steps, data.draw(st.integers(0, len(steps) - 1)))


MAPPED = """chain: mapped
inputs: {{words: {{type: array}}}}
models: {{m: {{provider: openai, model: m, base_url: "{url}", temperature: 1}}}}
defaults: {{model: m}}
steps:
  each: {{prompt: "Say {{{{ word }}}}", map: "{{{{ inputs.words }}}}", as: word}}
  all: {{prompt: "All: {{{{ each }}}}"}}
"""


def test_one_item_of_a_map_is_asked_again_and_the_others_are_linked(desk: Desk) -> None:
    path = desk.folder / "mapped.yaml"
    path.write_text(MAPPED.format(url=desk.server.url))
    source = desk.run(RunRequest(chain=str(path), inputs={"words": ["one", "two", "three"]}))
    sent = desk.sent()
    same = desk.run(Replay(source, start="each"))
    assert desk.sent() == sent

    def items(run: str) -> dict[int, tuple[bool, bytes | None]]:
        found = desk.store.records(run, "each", within=True)
        return {record.item: (record.linked, record.output) for record in found}

    assert {item: said for item, (_, said) in items(same).items()} == {
        item: said for item, (_, said) in items(source).items()
    }
    asked = Replay(source, start="each[row 0][item 1]", edits={"each.prompt": "Shout {{ word }}"})
    steps = planned_steps(desk.store, plan_fork(desk.store, asked, desk.settings), desk.settings)
    assert [(step.step, step.ceiling.calls) for step in steps] == [("each", 1), ("all", 1)]
    fork = desk.run(asked)
    assert desk.sent() == sent + 2  # the item, and what reads the list
    assert {item: linked for item, (linked, _) in items(fork).items()} == {
        -1: False,
        0: True,
        1: False,
        2: True,
    }
    assert items(fork)[0][1] == items(source)[0][1]
    with pytest.raises(InputInvalid, match="no item 3 there: the last one is item 2"):
        desk.run(Replay(source, start="each[item 3]", fresh=True))
    assert desk.store.verify() == []


def test_a_replay_reads_the_data_that_the_run_has_kept(desk: Desk) -> None:
    request = desk.chain([Step(()), Step((0,))])
    source = desk.run(request)
    chain = Path(request.chain).rename(desk.folder / "moved.yaml")
    data = Path(request.data or "")
    data.unlink()
    fork = desk.run(Replay(source, edits={"s1.prompt": "Edited: {{ inputs.n }}"}))
    asked = [row["messages"][0]["content"] for row in desk.store.export_rows(fork, "s1")]
    assert asked == ["Edited: 0", "Edited: 1", "Edited: 2"]
    data.write_text('{"n": 7}\n')
    again = desk.run(Replay(fork, edits={"s1.prompt": "Other: {{ inputs.n }}"}))
    assert len(desk.store.records(again, "s1")) == 3
    chain.rename(request.chain)
    with pytest.raises(InputInvalid, match="has changed since"):
        desk.run(Resume(source))
    data.unlink()
    desk.run(Resume(source))
    desk.store.prune(runs=[source, fork], grace=0)
    assert desk.run(Replay(again, edits={"s1.prompt": "Third: {{ inputs.n }}"}))
    assert desk.store.verify(grace=0) == []


def test_a_large_data_set_is_not_kept(desk: Desk) -> None:
    request = desk.chain([Step(())])
    prepared = prepare(request, store=desk.store, settings=Settings(keep_data_mb=0))
    source = asyncio.run(execute(prepared, Direct()))["run_id"]
    path = Path(prepared.row.data_path or "")
    path.rename(path.with_suffix(".moved"))
    with pytest.raises(InputInvalid, match="rows"):
        desk.run(Replay(source, start="s0", fresh=True))


LOOP = """chain: loop
inputs: {{goal: {{type: string, default: none}}}}
models: {{m: {{provider: openai, model: m, base_url: "{url}", temperature: 1}}}}
defaults: {{model: m}}
steps:
  first: {{prompt: "Begin"}}
  draft:
    repeat: {{until: "loop.turn == 2", max: 5}}
    steps:
      plan: {{prompt: "Plan {{{{ loop.turn }}}} of {{{{ first.text }}}} {{{{ loop.previous.write.text if loop.previous else 0 }}}}"}}
      write: {{prompt: "Write {{{{ plan.text }}}}"}}
  after: {{prompt: "After {{{{ draft.write.text }}}}"}}
"""  # noqa: E501


def test_a_loop_is_replayed_from_a_turn_and_from_a_step_inside(desk: Desk) -> None:
    path = desk.folder / "loop.yaml"
    path.write_text(LOOP.format(url=desk.server.url))
    source = desk.run(RunRequest(chain=str(path)))
    before, sent = desk.records(source), desk.sent()
    assert sent and len(before) == 9
    assert desk.records(desk.run(Replay(source, start="draft"))) == before
    assert desk.sent() == sent

    def ran(run: str) -> set[tuple[str, int]]:
        found = desk.store.records(run, payloads=False, within=True)
        return {(record.step, record.turn) for record in found if not record.linked}

    rest = {("draft", -1), ("after", -1)}
    third = {("draft.plan", 2), ("draft.write", 2)}
    edited = desk.run(Replay(source, edits={"draft.write.prompt": "Rewrite {{ plan.text }}"}))
    second = {("draft.plan", 1), ("draft.write", 1)}
    assert ran(edited) == rest | third | second | {("draft.write", 0)}
    assert desk.sent() == sent + 6
    late = desk.run(Replay(source, start="draft.write[turn 2]", edits={"draft.write.temperature": 0.5}))
    assert ran(late) == rest | {("draft.write", 2)}
    fresh = desk.run(Replay(source, start="draft[turn 2]", fresh=True))
    assert ran(fresh) == rest | third
    above = desk.run(Replay(source, edits={"first.prompt": "Go"}))
    assert ran(above) == rest | third | second | {("first", -1), ("draft.plan", 0), ("draft.write", 0)}
    assert desk.records(source) == before and desk.store.verify() == []
    for place, said in (("first[turn 1]", "no turns"), ("draft.wrote", "has no step 'wrote' inside")):
        with pytest.raises(InputInvalid, match=said):
            desk.run(Replay(source, start=place, fresh=True))


INNER = """chain: inner
inputs: {{word: {{type: string}}}}
models: {{m: {{provider: openai, model: m, base_url: "{url}", temperature: 1}}}}
defaults: {{model: m}}
steps:
  say: {{prompt: "Say {{{{ inputs.word }}}}"}}
  twice:
    repeat: {{until: "loop.turn == 1", max: 3}}
    steps: {{more: {{prompt: "More {{{{ say.text }}}}"}}}}
outputs: {{said: "{{{{ say.text }}}}"}}
"""
OUTER = """chain: outer
inputs: {{words: {{type: array}}}}
models: {{m: {{provider: openai, model: m, base_url: "{url}", temperature: 1}}}}
defaults: {{model: m}}
steps:
  list: {{prompt: "List"}}
  each: {{chain: inner.yaml, map: "{{{{ inputs.words }}}}", as: word, inputs: {{word: "{{{{ word }}}}"}}}}
  all: {{prompt: "All {{{{ each }}}} {{{{ list.text }}}}"}}
"""


def test_a_chain_in_a_chain_is_linked_whole_or_for_some_items(desk: Desk) -> None:
    path, inner = desk.folder / "outer.yaml", desk.folder / "inner.yaml"
    path.write_text(OUTER.format(url=desk.server.url))
    inner.write_text(INNER.format(url=desk.server.url))
    source = desk.run(RunRequest(chain=str(path), inputs={"words": ["one", "two"]}))
    before, sent = desk.records(source), desk.sent()
    path.unlink(), inner.unlink()
    same = desk.run(Replay(source, start="list"))
    assert desk.records(same) == before and desk.sent() == sent
    beside = desk.run(Replay(source, edits={"list.prompt": "List all"}))
    assert desk.sent() == sent + 2
    inside = [record for record in desk.store.records(beside, within=True) if record.step.startswith("each")]
    assert len(inside) == 11 and all(record.linked for record in inside)
    item = desk.run(Replay(source, start="each[item 1]", edits={"each.inputs.word": "{{ word }}!"}))
    ran = {
        (record.step, record.path[:12], record.item)
        for record in desk.store.records(item, within=True)
        if not record.linked
    }
    at = "each[item 1]"
    expected = {("each", "", -1), ("each", "", 1), ("all", "", -1), ("each.say", at, -1)}
    assert ran == expected | {("each.twice", at, -1), ("each.twice.more", at, -1)}
    with pytest.raises(InputInvalid, match="which is not edited from here"):
        desk.run(Replay(source, edits={"each.say.prompt": "x"}))
    assert desk.records(source) == before and desk.store.verify() == []


KINDS = """chain: kinds
inputs: {{n: {{type: integer}}}}
models:
  m: {{provider: openai, model: m, base_url: "{url}", temperature: 1}}
  e: {{provider: openai, model: e, base_url: "{url}"}}
collections: {{book: {{embedder: e}}}}
defaults: {{model: m}}
steps:
  index: {{embed: docs/*.md, into: book}}
  vector: {{embed: "About {{{{ inputs.n }}}}", model: e}}
  find: {{retrieve: book, query: "Page {{{{ inputs.n }}}}", top_k: 2, after: [index]}}
  answer: {{prompt: "{{{{ find.hits[0].text }}}} {{{{ vector.dimension }}}}"}}
  sorted: {{prepare: examples.jsonl, fields: {{text: "{{{{ row.text }}}}", label: "{{{{ row.label }}}}"}}, format: classification}}
  score: {{evaluate: {{prediction: "{{{{ answer.text }}}}", reference: "{{{{ inputs.n }}}}"}}, metrics: [accuracy]}}
"""  # noqa: E501


def test_steps_of_every_kind_are_linked_and_run_again(desk: Desk) -> None:
    path, data = desk.folder / "kinds.yaml", desk.folder / "kinds.jsonl"
    path.write_text(KINDS.format(url=desk.server.url))
    (desk.folder / "docs").mkdir()
    for page in range(3):
        (desk.folder / "docs" / f"{page}.md").write_text(f"# Page {page}\n\nWhat stands on page {page}.")
    (desk.folder / "examples.jsonl").write_text(
        "".join(json.dumps({"text": f"text {n}", "label": "ab"[n % 2]}) + "\n" for n in range(20))
    )
    data.write_text("".join(f'{{"n": {row}}}\n' for row in range(2)))
    source = desk.run(RunRequest(chain=str(path), data=str(data)))
    before, sent = desk.records(source), desk.sent()
    assert desk.records(desk.run(Replay(source, start="index"))) == before
    assert desk.sent() == sent

    def ran(**edits: Any) -> set[str]:
        named = {name.replace("__", "."): value for name, value in edits.items()}
        fork = desk.run(Replay(source, edits=named))
        assert desk.store.verify() == []
        return {record.step for record in desk.store.records(fork, payloads=False) if not record.linked}

    assert ran(find__top_k=1) == {"find", "answer", "score"}
    assert ran(vector__embed="Of {{ inputs.n }}") == {"vector", "answer", "score"}
    assert ran(sorted__split={"train": 0.5, "validation": 0.2, "test": 0.3}) == {"sorted"}
    assert ran(score__metrics=["accuracy", "f1_macro"]) == {"score"}
    assert ran(index__chunk__tokens=100) == {"index", "find", "answer", "score"}
    fresh = desk.run(Replay(source, start="find[row 1]", fresh=True))
    assert not desk.store.record(fresh, "find", 1).linked and desk.store.record(fresh, "find", 0).linked
    assert desk.records(source) == before


@pytest.mark.slow
def test_a_training_is_linked_and_trains_again_where_it_is_edited(desk: Desk, monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    tuned = Path(__file__).parents[1] / "e2e" / "chains" / "tuned"
    folder = desk.folder / "tuned"
    shutil.copytree(tuned, folder)
    path = folder / "chain.yaml"
    text = path.read_text().replace("http://127.0.0.1:1/v1", desk.server.url).replace(", pool: gpu", "")
    path.write_text(text.replace("    pool: gpu\n", ""))
    source = desk.run(RunRequest(chain=str(path), inputs={"ticket": "My refund, please"}))
    fork = desk.run(Replay(source, edits={"answer.max_tokens": 3}))
    assert desk.store.record(fork, "tune", -1).linked and not desk.store.record(fork, "answer", 0).linked
    assert [model.version for model in desk.store.models("tiny")] == [1]
    again = desk.run(Replay(source, edits={"tune.max_steps": 5}))
    ran = {record.step for record in desk.store.records(again) if not record.linked}
    assert ran == {"tune", "answer"}
    assert [model.version for model in desk.store.models("tiny")] == [2, 1]
