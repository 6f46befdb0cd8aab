"""Pictures of chains: boxes apart, lines downwards, every step and edge there, text escaped."""

import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chains.drawing import Mark, draw, draw_file, mermaid, svg
from chains.drawing.layout import Drawing
from chains.graph import Graph, graph_of, graph_of_file
from chains.loading import find_chain, load, load_source
from chains.spec import Chain

SVG = "{http://www.w3.org/2000/svg}"


@st.composite
def chains(draw):
    names = [f"s{number}" for number in range(draw(st.integers(1, 9)))]
    steps = {}
    for number, name in enumerate(names):
        reads = draw(st.sets(st.sampled_from(names[:number]))) if number else set()
        after = draw(st.sets(st.sampled_from(names[:number]))) if number else set()
        text = " ".join(f"{{{{ {other}.text }}}}" for other in sorted(reads))
        steps[name] = {"prompt": text or "x", "model": "m", "after": sorted(after)}
    chain = Chain.model_validate({"chain": "c", "models": {"m": {"provider": "starter"}}, "steps": steps})
    return chain, graph_of(chain, {name: [step["prompt"]] for name, step in steps.items()})


def edges(graph: Graph) -> set[tuple[str, str]]:
    return {(other, step) for step in graph.order for other in graph.needs[step]}


@given(chains())
@settings(deadline=None, max_examples=60)
def test_boxes_stand_apart_and_every_line_goes_down_inside_the_field(drawn):
    chain, graph = drawn
    found: Drawing = draw(chain, graph)
    assert [box.step for box in found.boxes] == list(graph.order)
    for number, box in enumerate(found.boxes):
        assert box.x - box.width / 2 >= 0 and box.x + box.width / 2 <= found.width
        assert box.y - box.height / 2 >= 0 and box.y + box.height / 2 <= found.height
        for other in found.boxes[number + 1 :]:
            beside = abs(box.x - other.x) >= (box.width + other.width) / 2 - 0.2
            assert beside or abs(box.y - other.y) >= (box.height + other.height) / 2
    assert {(line.start, line.end) for line in found.lines} == edges(graph)
    for line in found.lines:
        heights = [y for _, y in line.points]
        assert heights == sorted(heights) and heights[0] < heights[-1]
        assert line.reads == (line.start in graph.reads[line.end])


@given(chains())
@settings(deadline=None, max_examples=30)
def test_the_svg_is_well_formed_and_holds_every_step_and_line(drawn):
    chain, graph = drawn
    root = ElementTree.fromstring(svg(draw(chain, graph)))
    names = {text.text for text in root.iter(f"{SVG}text") if text.get("class") is None}
    assert names == set(graph.order)
    paths = [path for path in root.iter(f"{SVG}path") if path.get("class") in ("reads", "order")]
    assert len(paths) == len(edges(graph))


def test_a_mark_gives_a_state_a_note_and_a_link_and_stays_text():
    chain_file = load(find_chain("starter"))
    graph = graph_of_file(chain_file)
    first = graph.order[0]
    note = '<script>alert(1)</script> & "more"'
    marked = svg(draw(chain_file.chain, graph), {first: Mark("failed", note, '/x?a=1&b="><i>')}, styled=False)
    root = ElementTree.fromstring(marked)
    assert note in [text.text for text in root.iter(f"{SVG}text")]
    (link,) = root.iter(f"{SVG}a")
    assert link.get("href") == '/x?a=1&b="><i>'
    assert "step state-failed" in [group.get("class") for group in link]
    assert not list(root.iter(f"{SVG}style")) and not list(root.iter(f"{SVG}script"))


@pytest.mark.parametrize("name", ["starter", "support"])
def test_mermaid_names_every_step_by_number_and_draws_every_edge(name):
    chain_file = load(find_chain(name))
    graph = graph_of_file(chain_file)
    lines = mermaid(chain_file).splitlines()
    assert lines[0] == "flowchart TD"
    place = {step: f"s{number}" for number, step in enumerate(graph.order)}
    for step in graph.order:
        assert any(line.strip().startswith(place[step]) and f'"{step}<br/>' in line for line in lines)
        for other in graph.needs[step]:
            arrow = "-->" if other in graph.reads[step] else "-.->"
            assert f"  {place[other]} {arrow} {place[step]}" in lines


NESTED = """
chain: nested
models: {m: {provider: starter}}
defaults: {model: m}
steps:
  before: {prompt: x}
  draft:
    repeat: {until: "true", max: 2}
    steps:
      write: {prompt: "{{ before.text }}"}
      again: {repeat: {until: "true", max: 2}, steps: {end: {prompt: "{{ write.text }}"}}}
  after: {prompt: "{{ draft.write.text }}"}
"""


def test_steps_inside_a_step_are_drawn_inside_its_box(tmp_path):
    chain_file = load_source(NESTED.encode(), tmp_path / "c.yaml")
    found = draw_file(chain_file)

    def fits(drawing: Drawing) -> list[str]:
        names = []
        for box in drawing.boxes:
            names.append(box.step)
            if box.inside is not None:
                left, top = box.origin
                assert left >= box.x - box.width / 2 - 0.1
                assert left + box.inside.width <= box.x + box.width / 2 + 0.1
                assert top + box.inside.height <= box.y + box.height / 2 + 0.1
                names += fits(box.inside)
        return names

    assert fits(found) == ["before", "draft", "draft.write", "draft.again", "draft.again.end", "after"]
    picture = svg(found, {"draft.again.end": Mark("failed", "1 failed")})
    ElementTree.fromstring(picture)
    assert "state-failed" in picture and ">end</text>" in picture
    lines = mermaid(chain_file).splitlines()
    assert [line.strip() for line in lines if "subgraph" in line] == [
        'subgraph s1["draft<br/>repeat"]',
        'subgraph s1_1["again<br/>repeat"]',
    ]
    assert lines.count("  end") == 1 and "  s0 --> s1" in lines and "    s1_0 --> s1_1" in lines
