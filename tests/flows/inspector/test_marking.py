"""Which part of a message came from which variable."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chains.templates import render
from flows.inspector.marking import marked


def parts(source: str, scope: dict, variables: dict) -> list[tuple[str, str | None]]:
    return [(found.text, found.variable) for found in marked(source, render(source, scope), variables)]


def test_plain_variables_are_found_where_they_stand_and_nowhere_else() -> None:
    scope = {"inputs": {"tone": "warm"}, "a": {"text": "warm"}}
    found = parts(
        "Be warm: {{ inputs.tone }}, {{ a.text }}!", scope, {"inputs.tone": "warm", "a.text": "warm"}
    )
    assert found == [
        ("Be warm: ", None),
        ("warm", "inputs.tone"),
        (", ", None),
        ("warm", "a.text"),
        ("!", None),
    ]


def test_a_filtered_variable_is_the_text_between_its_neighbours() -> None:
    found = parts("<{{ a.text | upper }}> end", {"a": {"text": "hi"}}, {"a.text": "hi"})
    assert found == [("<", None), ("HI", "a.text"), ("> end", None)]


def test_values_inside_a_loop_are_looked_for() -> None:
    source = "Notes:{% for hit in p.hits %} [{{ hit }}]{% endfor %} Q: {{ inputs.q }}"
    scope = {"p": {"hits": ["one", "two"]}, "inputs": {"q": "why"}}
    found = parts(source, scope, {"p.hits": ["one", "two"], "inputs.q": "why"})
    assert ("why", "inputs.q") in found and (" [one] [two]", "p.hits") in found


def test_a_text_that_does_not_fit_its_template_is_searched_for_the_values() -> None:
    found = [
        (part.text, part.variable) for part in marked("x {{ a.b }}", "other value here", {"a.b": "value"})
    ]
    assert found == [("other ", None), ("value", "a.b"), (" here", None)]
    assert [part.text for part in marked("{{ broken", "text", {})] == ["text"]


@pytest.mark.parametrize("value", ["", "a", "{{ a.b }}", "x" * 50_000])
def test_odd_values_lose_nothing(value: str) -> None:
    text = f"before {value} after"
    found = marked("before {{ a.b }} after", text, {"a.b": value})
    assert "".join(part.text for part in found) == text


PIECES = st.lists(
    st.sampled_from(["{{ a.x }}", "{{ a.y }}", "{{ a.x | upper }}", "lit", " ", "{% if a.x %}y{% endif %}"])
)


@given(PIECES, st.text(max_size=5), st.text(max_size=5))
@settings(deadline=None)
def test_the_stretches_are_the_text(pieces: list[str], x: str, y: str) -> None:
    text = render("".join(pieces), {"a": {"x": x, "y": y}})
    found = marked("".join(pieces), text, {"a.x": x, "a.y": y})
    assert "".join(part.text for part in found) == text
