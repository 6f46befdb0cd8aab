"""Order, edges and cycles."""

# ruff: noqa: E501 - a case is one line, to be read beside its neighbours

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chains.errors import ChainInvalid
from chains.graph import graph_of
from chains.loading import load_source, to_yaml
from chains.order import find_cycles, in_order
from chains.spec import Chain


def chain_of(steps, **more):
    return Chain.model_validate(
        {"chain": "c", "models": {"m": {"provider": "starter"}}, "steps": steps, **more}
    )


def prompt(text, **more):
    return {"prompt": text, "model": "m", **more}


def graph(steps, sources=None, **more):
    return graph_of(
        chain_of(steps, **more),
        sources or {name: [step["prompt"]] for name, step in steps.items() if "prompt" in step},
    )


def test_references_make_edges_and_the_file_order_breaks_ties():
    found = graph({"c": prompt("{{ a.text }}"), "b": prompt("x"), "a": prompt("x")})
    assert found.order == ("b", "a", "c")
    assert found.needs == {"c": {"a"}, "b": set(), "a": set()}
    assert found.reads["c"] == {"a"} and found.guarded["c"] == set()


def test_texts_of_prompt_files_make_edges():
    found = graph(
        {"a": prompt("x"), "b": prompt("prompts/b.md")},
        {"a": ["x"], "b": ["y", "{{ a.text | default('-') }}"]},
    )
    assert found.needs["b"] == {"a"}
    assert found.guarded["b"] == {"a"}


def test_one_unguarded_reference_is_enough_to_be_unguarded():
    found = graph({"a": prompt("x"), "b": prompt("{{ a.text | default('') }}{{ a.text }}")})
    assert found.reads["b"] == {"a"} and found.guarded["b"] == set()


def test_after_orders_without_reading():
    found = graph({"a": prompt("x", after=["b"]), "b": prompt("x")})
    assert found.order == ("b", "a")
    assert found.needs["a"] == {"b"} and found.reads["a"] == set()


def test_a_retrieve_waits_for_each_embed_into_its_collection():
    steps = {
        "find": {"retrieve": "book", "query": "{{ inputs.q }}"},
        "one": {"embed": "a/*.md", "into": "book"},
        "two": {"embed": "b/*.md", "into": "book"},
        "other": {"embed": "c/*.md", "into": "shelf"},
    }
    collections = {"book": {"embedder": "m"}, "shelf": {"embedder": "m"}}
    found = graph(steps, collections=collections)
    assert found.needs["find"] == {"one", "two"} and found.reads["find"] == set()


def test_a_step_waits_for_the_training_of_its_model_but_not_for_its_example_prompt():
    steps = {
        "ask": {"prompt": "x", "model": "tuned"},
        "examples": {"prepare": "d.jsonl", "like": "ask", "completion": "{{ row.x }}"},
        "tune": {"finetune": "lora", "base": "models:mine@latest", "data": {"train": "{{ examples.train }}"}, "publish": "mine"},
    }  # fmt: skip
    models = {"m": {"provider": "starter"}, "tuned": {"provider": "local", "model": "models:mine@latest"}}
    found = graph(steps, models=models)
    assert found.needs == {"ask": {"tune"}, "examples": set(), "tune": {"examples"}}


def test_an_embedder_from_the_store_makes_an_edge():
    steps = {
        "index": {"embed": "a.md", "into": "book"},
        "tune": {"finetune": "lora", "base": "x", "data": {"train": "t.jsonl"}, "publish": "emb"},
    }
    models = {"e": {"provider": "local", "model": "models:emb"}}
    found = graph(steps, models=models, collections={"book": {"embedder": "e"}})
    assert found.needs["index"] == {"tune"}


@pytest.mark.parametrize(
    ("steps", "way"),
    [
        ({"a": prompt("{{ b.text }}"), "b": prompt("{{ a.text }}")}, "a -> b -> a"),
        ({"a": prompt("{{ a.text }}")}, "a -> a"),
        ({"x": prompt("-"), "a": prompt("-", after=["c"]), "b": prompt("{{ a.text }}"), "c": prompt("{{ b.text }} {{ x.text }}")}, "a -> c -> b -> a"),
    ],
)  # fmt: skip
def test_cycles_are_named_by_their_path(steps, way):
    with pytest.raises(ChainInvalid, match=way):
        graph(steps)


def test_each_group_of_steps_gives_one_cycle():
    needs = {
        "a": {"b"},
        "b": {"a", "c"},
        "c": {"b"},
        "d": {"e"},
        "e": {"d", "a"},
        "f": {"f"},
        "g": {"f", "a"},
    }
    assert find_cycles({name: frozenset(up) for name, up in needs.items()}) == [
        ("f", "f"),
        ("a", "b", "a"),
        ("d", "e", "d"),
    ]


@st.composite
def edges(draw):
    count = draw(st.integers(1, 9))
    names = [f"s{index}" for index in range(count)]
    return {name: frozenset(draw(st.sets(st.sampled_from(names), max_size=3))) for name in names}


@settings(max_examples=200, deadline=None)
@given(edges())
def test_the_order_respects_every_edge_and_misses_a_step_only_when_there_is_a_cycle(needs):
    order = in_order(needs)
    place = {name: index for index, name in enumerate(order)}
    cycles = find_cycles(needs)
    assert (len(order) == len(needs)) == (not cycles)
    for name in order:
        assert all(place[up] < place[name] for up in needs[name])
    for cycle in cycles:
        assert cycle[0] == cycle[-1] and len(cycle) >= 2
        assert all(after in needs[before] for before, after in pairwise(cycle))
    assert order == in_order(dict(needs.items()))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_random_acyclic_chain_loads_orders_and_is_written_back(data):
    count = data.draw(st.integers(1, 8))
    rank = data.draw(st.permutations(range(count)))
    text = st.text(
        st.characters(codec="utf-8", exclude_characters="{}\x00", exclude_categories=("Cs", "Cc")),
        max_size=30,
    )
    steps = {}
    for index in range(count):
        earlier = [f"s{other}" for other in range(count) if rank[other] < rank[index]]
        reads = data.draw(st.lists(st.sampled_from(earlier), max_size=3)) if earlier else []
        after = data.draw(st.lists(st.sampled_from(earlier), max_size=2, unique=True)) if earlier else []
        body = "x " + data.draw(text) + " y" + "".join(f"{{{{ {name}.text }}}}" for name in reads)
        steps[f"s{index}"] = (prompt(body, after=after, description=data.draw(text)), {*reads, *after})
    chain = chain_of(
        {name: step for name, (step, _) in steps.items()}, outputs={"o": data.draw(st.integers(-9, 9))}
    )
    read = load_source(to_yaml(chain).encode(), "made.yaml")
    assert read.chain == chain
    found = graph_of(read.chain, {name: [step["prompt"]] for name, (step, _) in steps.items()})
    assert {name: set(up) for name, up in found.needs.items()} == {
        name: up for name, (_, up) in steps.items()
    }
    assert all(
        found.order.index(up) < found.order.index(name) for name, (_, ups) in steps.items() for up in ups
    )
