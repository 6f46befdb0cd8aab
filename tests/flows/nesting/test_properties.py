"""Random chains with maps, repeats, skips and inner chains do what a small interpreter of their plan says.

The steps are Python steps that add numbers. The interpreter knows the rules of the language and not the
program: it walks the plan in the order in which it was drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chains.graph import graph_of_file
from chains.loading import load

ADD = "def add(values, plus):\n    return {'sum': sum(values) + sum(plus)}\n"
ADDER = "adder.py:add"


@dataclass
class Node:
    """A step of the plan."""

    name: str
    kind: str
    reads: list[str] = field(default_factory=list)
    guarded: bool = False
    most: int | None = None
    """It is skipped where what it reads comes to more."""
    items: list[int] | None = None
    turns: int = 1
    inside: list[Node] = field(default_factory=list)


@st.composite
def plans(draw: Any, prefix: str = "s", depth: int = 0, around: tuple[str, ...] = ()) -> list[Node]:
    nodes: list[Node] = []
    for number in range(draw(st.integers(1, 3))):
        known = [*around, *(node.name for node in nodes)]
        kinds = ["add", "add", "repeat", "chain"] if depth < 2 else ["add"]
        node = Node(f"{prefix}{number}", draw(st.sampled_from(kinds)))
        node.reads = draw(st.lists(st.sampled_from(known), max_size=2, unique=True)) if known else []
        node.guarded = draw(st.booleans())
        node.most = draw(st.none() | st.integers(0, 9))
        node.items = draw(st.none() | st.lists(st.integers(0, 5), max_size=3))
        node.turns = draw(st.integers(1, 2))
        if node.kind != "add":
            seen = tuple(known) if node.kind == "repeat" else ()
            node.inside = draw(plans(f"{node.name}_", depth + 1, seen))
        nodes.append(node)
    return nodes


# What the language says. None stands for a step that was skipped.

Given = dict[str, list[int] | int | None]


def number(value: list[int] | int | None) -> int:
    return sum(value) if isinstance(value, list) else value or 0


def interpret(nodes: list[Node], around: Given, plus: int) -> Given:
    given: Given = {}
    for node in nodes:
        given[node.name] = what_it_gives(node, {**around, **given}, plus)
    return given


def what_it_gives(node: Node, seen: Given, plus: int) -> list[int] | int | None:
    if any(seen[name] is None for name in cannot_do_without(node)):
        return None
    read = sum(number(seen[name]) for name in node.reads)
    if node.most is not None and read > node.most:
        return None
    if node.items is not None:
        return [once(node, seen, read, plus, item) for item in node.items]
    return once(node, seen, read, plus, 0)


def cannot_do_without(node: Node) -> set[str]:
    found = set() if node.guarded else set(node.reads)
    if node.kind == "repeat":
        for inner in node.inside:
            found |= cannot_do_without(inner)
        found -= {inner.name for inner in node.inside}
        found |= set() if node.guarded else set(node.reads)
    return found


def once(node: Node, seen: Given, read: int, plus: int, item: int) -> int:
    match node.kind:
        case "add":
            return read + plus + item + 1
        case "chain":
            return sum(map(number, interpret(node.inside, {}, read + item).values()))
        case _:
            given: Given = {}
            for turn in range(node.turns):
                given = interpret(node.inside, seen, turn + item)
            return sum(map(number, given.values()))


# The same as chain files.


def read_of(node: Node, guarded: bool) -> str:
    """The expression for the number of a step."""
    missing = " | default([])" if guarded else ""
    if node.items is not None:
        total = f" | map(attribute='{node.name}_total')" if node.kind == "repeat" else ""
        return f"({node.name}{missing}{total} | map(attribute='sum') | sum)"
    path = f"{node.name}.{node.name}_total.sum" if node.kind == "repeat" else f"{node.name}.sum"
    return f"({path} | default(0))" if guarded else path


def steps_of(
    nodes: list[Node], plus: list[str], files: dict[str, Any], known: Mapping[str, Node]
) -> dict[str, Any]:
    steps: dict[str, Any] = {}
    for node in nodes:
        known = {**known, node.name: node}
        reads = [read_of(known[name], node.guarded) for name in node.reads]
        step: dict[str, Any] = {}
        own_item = [f"{node.name}_item"] if node.items is not None else []
        if node.items is not None:
            step |= {"map": node.items, "as": f"{node.name}_item"}
        if node.most is not None:
            step["when"] = f"{' + '.join(reads) or '0'} <= {node.most}"
        match node.kind:
            case "add":
                step |= {"python": ADDER, "args": arguments(reads, [*plus, *own_item, "1"])}
            case "chain":
                inner = steps_of(node.inside, ["inputs.base"], files, {})
                inner[f"{node.name}_total"] = total(node.inside)
                files[f"{node.name}.yaml"] = {
                    "chain": "inner",
                    "inputs": {"base": {"type": "integer"}},
                    "steps": inner,
                    "outputs": {"sum": f"{{{{ {node.name}_total.sum }}}}"},
                }
                base = " + ".join([*reads, *own_item]) or "0"
                step |= {"chain": f"{node.name}.yaml", "inputs": {"base": f"{{{{ {base} }}}}"}}
            case _:
                inner = steps_of(node.inside, ["loop.turn", *own_item], files, known)
                inner[f"{node.name}_total"] = total(node.inside)
                repeat = {"until": f"loop.turn == {node.turns - 1}", "max": 3}
                # What it reads decides whether it is skipped, as for every other step.
                reading = " + ".join(reads)
                step |= {"repeat": repeat, "steps": inner}
                if reading and node.most is None:
                    step["when"] = f"{reading} >= 0"
        steps[node.name] = step
    return steps


def total(nodes: list[Node]) -> dict[str, Any]:
    return {"python": ADDER, "args": arguments([read_of(node, True) for node in nodes], [])}


def arguments(values: list[str], plus: list[str]) -> dict[str, Any]:
    return {
        name: [f"{{{{ {text} }}}}" for text in texts] for name, texts in (("values", values), ("plus", plus))
    }


def check(workshop: Any, nodes: list[Node]) -> None:
    files: dict[str, Any] = {}
    steps = steps_of(nodes, [], files, {})
    outputs = {node.name: f"{{{{ {read_of(node, True)} }}}}" for node in nodes}
    for name, content in files.items():
        workshop.write(name, yaml.safe_dump(content, sort_keys=False))
    workshop.write("adder.py", ADD)
    text = yaml.safe_dump({"chain": "random", "steps": steps, "outputs": outputs}, sort_keys=False)
    done = workshop.run(text)
    wanted = interpret(nodes, {}, 0)
    assert done["status"] == "ok", (text, files, done)
    assert done["outputs"] == {name: number(value) for name, value in wanted.items()}, (text, files)
    for node in nodes:
        [own] = [record for record in workshop.records(done, node.name) if record.stands_for_row]
        assert (own.status == "skipped") == (wanted[node.name] is None), (node, text)
        items = [record for record in workshop.records(done, node.name) if record.item >= 0]
        assert len(items) == len(node.items or ()) * (own.status == "ok")
    graph = graph_of_file(load(workshop.folder / "chain.yaml"))
    place = {name: number for number, name in enumerate(graph.order)}
    assert all(place[upstream] < place[step] for step in place for upstream in graph.needs[step])
    before = [(record.id, record.finished_at) for record in workshop.records(done, nodes[-1].name)]
    again = workshop.resume(done["run_id"])
    assert again["outputs"] == done["outputs"]
    assert [(record.id, record.finished_at) for record in workshop.records(done, nodes[-1].name)] == before


reuse_folder = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@given(plans())
@settings(max_examples=12, deadline=None, suppress_health_check=reuse_folder)
def test_random_chains_give_what_the_language_says(workshop, nodes):
    check(workshop, nodes)


@pytest.mark.slow
@given(plans())
@settings(max_examples=40, deadline=None, suppress_health_check=reuse_folder)
def test_many_random_chains_give_what_the_language_says(workshop, nodes):
    check(workshop, nodes)
