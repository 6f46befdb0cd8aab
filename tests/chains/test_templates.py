"""Templates over JSON data: rendering, references and their places, and what is refused."""

# ruff: noqa: E501 - a case is one line, to be read beside its neighbours

import contextlib
import functools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chains.errors import TemplateFailed
from chains.metering import Budget
from chains.templates import Reference, evaluate, references, render, render_value, syntax_error

SCOPE = {
    "inputs": {"ticket": "My order\nis late", "tone": "warm"},
    "triage": {"intent": "refund", "order": None, "items": [1, 2], "deep": {"x": [{"y": 3}]}},
    "passages": {"hits": [{"text": "a"}, {"text": "b"}]},
}


def test_text_with_expressions_is_rendered():
    assert render("Tone: {{ inputs.tone }}. {{ triage.intent | upper }}", SCOPE) == "Tone: warm. REFUND"


def test_values_print_as_json():
    assert render("{{ triage.items }} {{ triage.deep }} {{ true }} {{ triage.order }}", SCOPE) == (
        '[1, 2] {"x": [{"y": 3}]} true null'
    )
    assert render("{{ x }}", {"x": {"name": "Zoë", "ok": False}}) == '{"name": "Zoë", "ok": false}'


def test_concatenation_and_join_print_values_the_same_way():
    assert render("{{ 'x: ' ~ triage.items ~ none }}", SCOPE) == "x: [1, 2]null"
    assert render("{{ [1, 'a', [2]] | join(' / ') }}", {}) == "1 / a / [2]"


def test_loops_number_their_turns():
    text = "{% for hit in passages.hits %}{{ loop.index }}/{{ loop.length }}:{{ hit.text }} {% endfor %}"
    assert render(text, SCOPE) == "1/2:a 2/2:b "


def test_a_key_that_is_also_a_method_name_reads_the_key():
    assert (
        render(
            "{{ triage.items | length }} {{ x.keys }}{{ x.count }}", {**SCOPE, "x": {"keys": 1, "count": 2}}
        )
        == "2 12"
    )


def test_what_looks_like_a_template_in_a_value_stays_text():
    evil = "{{ 7 * 7 }}{% for x in y %}"
    assert render("{{ inputs.ticket }}", {"inputs": {"ticket": evil}}) == evil
    assert render_value({"q": "{{ inputs.ticket }}"}, {"inputs": {"ticket": evil}}) == {"q": evil}


def test_a_whole_expression_keeps_its_type():
    value = {
        "a": "{{ triage.items }}",
        "b": ["{{ triage.order }}", "n={{ triage.items | length }}", 7],
        "c": "{{ 1 }}\n",
    }
    assert render_value(value, SCOPE) == {"a": [1, 2], "b": [None, "n=2", 7], "c": 1}


def test_expressions_give_plain_json_values():
    assert evaluate("triage.intent != 'refund'", SCOPE) is False
    assert evaluate("passages.hits | map(attribute='text')", SCOPE) == ["a", "b"]
    assert evaluate("(1, 2)", SCOPE) == [1, 2]
    assert evaluate("triage.items | sum / 2", SCOPE) == 1.5


def test_a_default_covers_a_step_that_is_not_there():
    assert evaluate("draft.text | default('none')", SCOPE) == "none"
    assert evaluate("draft.hits[0].text is defined", SCOPE) is False
    assert render("{% if draft is defined %}{{ draft.text }}{% else %}-{% endif %}", SCOPE) == "-"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ triage.intnt }}", "reads 'triage.intnt', but 'triage' has no 'intnt'. Did you mean 'intent'?"),
        ("{{ trige.intent }}", "there is no 'trige' here. Did you mean 'triage'?"),
        ("{{ triage.deep.x[3].y }}", "'triage.deep.x' has no '3'"),
        ("{{ triage.items + 'x' }}", "'+' does not work between a list and text"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{% for x in 5 %}{% endfor %}", "a loop needs a list, not a number"),
    ],
)
def test_failures_name_what_is_missing(source, words):
    with pytest.raises(TemplateFailed) as caught:
        render(source, SCOPE)
    assert words in str(caught.value)


def test_missing_values_inside_a_list_are_not_passed_on():
    with pytest.raises(TemplateFailed, match=r"triage\.nothing"):
        evaluate("[1, triage.nothing]", SCOPE)


def test_references_have_the_place_of_their_name():
    source = "Hi {{ triage.intent }}\n  {%- for h in passages.hits | default([]) %}\n{{ h.text ~ inputs['tone'] }}{% endfor %}"
    assert references(source) == [
        Reference("triage", ("intent",), 1, 7, False),
        Reference("passages", ("hits",), 2, 16, True),
        Reference("inputs", ("tone",), 3, 13, False),
    ]


def test_references_keep_their_place_after_windows_line_ends_and_comments():
    assert references("a\r\n{# {{ no.no }} #}{{ b.c }}\r\n\r\n  {{- d }}")[1:] == [
        Reference("d", (), 4, 7, False)
    ]


def test_references_of_expressions_are_found_in_every_position():
    found = references("a.b[c.d].e if f is defined and f.g else h | default(i)", bare=True)
    assert {(str(reference), reference.guarded) for reference in found} == {
        ("a.b", False), ("c.d", False), ("f", True), ("f.g", True), ("h", True), ("i", False),
    }  # fmt: skip


def test_a_templates_own_names_are_no_references():
    source = "{% set t = triage %}{% for a, b in t.items | items %}{{ a }}{{ loop.index }}{% endfor %}{% with q = x %}{{ q }}{% endwith %}{{ a }}"
    assert [str(reference) for reference in references(source)] == ["triage", "x", "a"]


def test_an_if_guards_only_its_own_branch():
    source = "{% if a is defined %}{{ a.x }}{% else %}{{ a.y }}{% endif %}{% if b is not defined %}-{% else %}{{ b.z }}{% endif %}"
    guards = {str(reference): reference.guarded for reference in references(source)}
    assert guards == {"a": True, "a.x": True, "a.y": False, "b": True, "b.z": True}


ESCAPES = [
    "{{ cycler.__init__.__globals__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ inputs['__class__'] }}",
    "{{ inputs.__class__ }}",
    "{{ ''|attr('__class__') }}",
    "{{ ['__class__']|map('attr', 'x')|list }}",
    "{{ inputs.get('x') }}",
    "{{ inputs.update({'x': 1}) }}",
    "{{ '{0.__class__}'.format(inputs) }}",
    "{{ self._TemplateReference__context }}",
    "{{ self }}",
    "{{ lipsum() }}",
    "{{ range(10) }}",
    "{{ dict(a=1) }}",
    "{{ namespace(a=1) }}",
    "{{ joiner() }}",
    "{{ loop.changed() }}",
    "{% import 'os' as os %}",
    "{% from 'os' import system %}",
    "{% include '/etc/passwd' %}",
    "{% extends 'x' %}",
    "{% block x %}{% endblock %}",
    "{% macro m() %}{% endmacro %}",
    "{% call x() %}{% endcall %}",
    "{% filter upper %}x{% endfilter %}",
    "{% set x %}y{% endset %}",
    "{% set ns.x = 1 %}",
    "{% do inputs.clear() %}",
    "{% for x in y recursive %}{{ loop(x) }}{% endfor %}",
    "{{ x is callable }}",
    "{{ x | pprint }}",
    "{{ x | random }}",
    "{{ x | xmlattr }}",
    "{{ 2 ** 9 }}",
    "{{ _budget }}",
    "{% set _budget = 1 %}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_escapes_are_refused_at_check_time_with_a_place(source):
    problem = syntax_error(source)
    assert problem is not None
    assert (problem.line, problem.column) >= (1, 1)
    with pytest.raises(TemplateFailed):
        render(source, SCOPE)


ODD = [
    "{{ x.y | map(attribute='__class__') | list }}",
    "{{ x.y | map(attribute='a.__class__') | list }}",
    "{{ x.y | selectattr('__class__') | list }}",
    "{{ x.y | sort(attribute='__class__') }}",
    "{{ x.y | join(', ', '__class__') }}",
    "{{ x[x.k] }}",
    "{{ 'abc'[x.k] }}",
    "{{ x.y | map(x.k) | list }}",
    "{{ x.y | map('counted') | list }}",
    "{{ ('a' | string).upper }}",
    "{{ x.f | string | length }}{{ x.y.append }}",
]


@pytest.mark.parametrize("source", ODD)
def test_names_that_are_built_at_run_time_reach_no_attribute(source):
    scope = {"x": {"y": [{"a": "s"}, {"a": "t"}], "k": "__class__", "f": 1.5}}
    try:
        text = render(source, scope)
    except TemplateFailed:
        return
    assert "class" not in text and "method" not in text and "object at" not in text


BOMBS = [
    "{{ 'a' * 100000000 }}",
    "{{ 'a' * 10 ** 8 }}",
    "{{ 99999999999 ** 99999999 }}",
    "{{ [0] * 100000000 }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ 'a' | indent(1000000000, true) }}",
    "{{ 1 | round(-1000000000) }}",
    "{{ 1 | round(1000000000, 'ceil') }}",
    "{{ [1] | batch(1000000000, 'x') | list }}",
    "{{ {'a': 1} | tojson(1000000000) }}",
    "{{ big | replace('a', big) }}",
    "{{ big | join(big) }}",
    "{% for a in l %}{% for b in l %}{% for c in l %}{% endfor %}{% endfor %}{% endfor %}",
    "{% for a in l %}{% for b in l %}{{ big }}{% endfor %}{% endfor %}",
    "{% for a in l %}{% for b in l %}{{ big | upper | length }}{% endfor %}{% endfor %}",
    "{% set a = big ~ big %}" + "{% set a = a ~ a %}" * 20 + "{{ a | length }}",
    "{% set a = big + big %}" + "{% set a = a + a %}" * 20 + "{{ a | length }}",
    "{% set a = [1, 1] %}" + "{% set a = [a, a] %}" * 22 + "{{ a }}",
    "{% set a = [1, 1] %}" + "{% set a = [a, a] %}" * 40 + "{{ a == a }}",
    "{% set a = 9999999999 %}" + "{% set a = a * a %}" * 22 + "{{ a }}",
    "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "{{ " + "[" * 200 + "]" * 200 + " }}",
    "{{ " + " + ".join(["1"] * 5000) + " }}",
    "{{ " + "not " * 5000 + "x }}",
    "{{ " + "9" * 5000 + " }}",
    "{% if x %}" * 200 + "{% endif %}" * 200,
    "{% for x in y %}" * 30 + "{% endfor %}" * 30,
    "{{ a" + ".b" * 20000 + " }}",
]


@pytest.mark.parametrize("source", BOMBS, ids=lambda source: source[:40])
def test_resource_bombs_are_refused_or_capped(source):
    start = time.process_time()
    with pytest.raises(TemplateFailed):
        render(source, {"big": "a" * 200_000, "l": list(range(1000)), "x": 1, "y": [1], "a": {}})
    assert time.process_time() - start < 5


def test_an_empty_template_is_empty_text():
    assert render("", {}) == ""


PIECES = st.sampled_from(
    ["{{", "}}", "{%", "%}", "{#", "#}", "-", " ", "\n", "\r\n", "x", ".y", "|", "default", "(", ")", "[", "]", "'", '"',
     "for", " in ", "if", "endif", "endfor", "set", "=", "1", "e5", "0x", "é", "\x00", "__", "~", "**", "is ", ":", ",", "{", "\\u0"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=25).map("".join) | st.text(max_size=60))
def test_any_text_is_rendered_or_refused_with_our_error(source):
    for bare in (False, True):
        problem = syntax_error(source, bare=bare)
        references(source, bare=bare)
        if problem is not None:
            lines = source.replace("\r\n", "\n").replace("\r", "\n").split("\n")
            assert 1 <= problem.line <= len(lines) + 1
            assert problem.column >= 1
    for run in (render, render_value, evaluate):
        with contextlib.suppress(TemplateFailed):
            run(source, {"x": {"y": [1]}})


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(JSON)
def test_a_value_passes_through_an_expression_unchanged(value):
    assert evaluate("x.v", {"x": {"v": value}}) == value
    assert render_value("{{ x.v }}", {"x": {"v": value}}) == value


BIG = [f"item {number}" for number in range(100_000)]
LONG = "words and more words " * 40_000
NESTED = {"a": {"b": [[number] for number in range(300_000)]}}


@pytest.mark.slow
@pytest.mark.parametrize(
    "source",
    [
        "{% for a in big %}{% for b in big %}{% endfor %}{% endfor %}",
        "{% for a in big %}{% if 'nothing' in big %}x{% endif %}{% endfor %}",
        "{% for a in big %}{% if 'nothing' in long %}x{% endif %}{% endfor %}",
        "{% for a in big %}{% set y = big | sort %}{% endfor %}",
        "{% for a in big %}{% set y = nested | length ~ long | wordcount %}{% endfor %}",
        "{{ big | select('in', big) | list | length }}",
        "{{ ['a'] | batch(10000, fill_with=long) | first | map('upper') | list | length }}",
        "{{ ['a'] | batch(10000, fill_with=long) | first | map('wordcount') | list | length }}",
        "{{ ['a'] | batch(10000, fill_with=big) | first | map('map', 'upper') | map('list') | list }}",
    ],
)
def test_work_that_would_take_minutes_is_refused(source: str):
    with pytest.raises(TemplateFailed, match="too much work"):
        render(source, {"big": BIG, "long": LONG, "nested": NESTED})


def test_what_counting_does_not_see_ends_by_the_processor_s_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("chains.templates.Budget", functools.partial(Budget, seconds=0.2))
    # Each comparison goes through 300,000 lists, and counts as one of two short values.
    scope = {"big": BIG, "nested": NESTED, "other": {"a": {"b": [[n] for n in range(300_000)]}}}
    with pytest.raises(TemplateFailed, match="too long"):
        render("{% for a in big %}{% if nested == other %}{% endif %}{% endfor %}", scope)


def test_long_data_is_no_reason_to_refuse_honest_work():
    scope = {"big": BIG, "rows": [{"n": number, "text": "x" * 100} for number in range(20_000)]}
    assert render("{{ big | map('upper') | list | length }} {{ big | sort | first }}", scope)[:6] == "100000"
    assert (
        evaluate("rows | selectattr('n', '>', 10) | map(attribute='text') | list | length", scope) == 19_989
    )
    known = "{% for row in rows %}{% if row.n in [1, 2, 3] %}{{ row.n }}{% endif %}{% endfor %}"
    assert render(known, scope) == "123"
