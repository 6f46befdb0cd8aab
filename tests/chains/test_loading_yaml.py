"""YAML to plain values with places: scalars, limits, refusals."""

# ruff: noqa: E501 - a case is one line, to be read beside its neighbours

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from chains.source.document import MAX_NODES, read_document
from chains.source.scalars import ScalarRefused, plain_value


def problems_of(source: str | bytes) -> list[str]:
    data = source.encode() if isinstance(source, str) else source
    return [str(problem) for problem in read_document(data, "c.yaml").problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("Off", "Off"), ("y", "y"), ("12:30:45", "12:30:45"),
        ("2024-01-31", "2024-01-31"), ("400_000", 400_000), ("-7", -7), ("+7", 7), ("0", 0), ("0x1F", 31), ("0o17", 15),
        ("1.5", 1.5), (".5", 0.5), ("1e3", 1000.0), ("3e-4", 3e-4), ("1.", 1.0), ("true", True), ("FALSE", False),
        ("null", None), ("~", None), ("", None), ("tRue", "tRue"), ("1_", "1_"), ("_1", "_1"), ("0b11", "0b11"),
        ("1.2.3", "1.2.3"), ("-", "-"), (".", "."), ("+", "+"), ("1e", "1e"), ("0o8", "0o8"), ("9223372036854775807", 2**63 - 1),
    ],
)  # fmt: skip
def test_plain_scalars_follow_the_core_schema(text, value):
    found = plain_value(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    ["0123", "-007", "9223372036854775808", "9" * 20_000, "1e999", ".inf", "-.INF", ".NaN", "0x" + "f" * 20],
)
def test_scalars_without_a_plain_meaning_are_refused_with_a_hint(text):
    with pytest.raises(ScalarRefused) as caught:
        plain_value(text)
    assert caught.value.hint and len(str(caught.value)) < 200


def test_quoted_scalars_are_text():
    document = read_document(b"a: '1'\nb: \"true\"\nc: ''\nd: |\n  5\n", "c.yaml")
    assert document.value == {"a": "1", "b": "true", "c": "", "d": "5\n"}


def test_every_key_and_value_has_its_place():
    marks = read_document("é: {x: 1, ü: [a, {b: c}]}\nlist:\n  - one\n  - two: 2\n".encode(), "c.yaml").marks
    assert marks.keys[("é", "ü")] == (1, 11)
    assert marks.value(("é", "ü", 1, "b")) == (1, 22)
    assert marks.value(("list", 1, "two")) == (4, 10)
    assert marks.key(("list", 1)) == (4, 5)
    assert marks.key(("list", 1, "missing", "deeper")) == (4, 5)
    assert marks.key(("nothing",)) == (1, 1)


@pytest.mark.parametrize(
    ("source", "inner", "place"),
    [
        ("a: x {{ y }}\n", (1, 6), (1, 9)),
        ('a: "x {{ y }}"\n', (1, 6), (1, 10)),
        ('a: "\\n\\u00e9 {{ y }}"\n', (1, 6), (1, 16)),
        ("a: 'it''s {{ y }}'\n", (1, 9), (1, 14)),
        ("a: |\n  one\n  {{ y }}\n", (2, 4), (3, 6)),
        ("a: |\n\n    one\n  \n", (2, 1), (3, 5)),
        ("a: >\n  one\n  two\n", (1, 7), (1, 4)),
        ("a: |2\n    one\n", (1, 3), (2, 1)),
    ],
)
def test_places_inside_texts_are_found_in_the_file(source, inner, place):
    assert read_document(source.encode(), "c.yaml").marks.inside(("a",), *inner) == place


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "c.yaml:1:1: the file is empty"),
        ("# only a comment\n", "c.yaml:1:1: the file is empty"),
        ("a: 1\na: 2\n", "c.yaml:2:1: the key 'a' is here twice; it was first at line 1, column 1. Keep one."),
        ("a: {b: 1, 'b': 2}\n", "c.yaml:1:11: the key 'b' is here twice"),
        ("a: &x [1]\n", "c.yaml:1:4: the anchor '&x' is not part of chain files"),
        ("a: *x\n", "c.yaml:1:4: the alias '*x' is not part of chain files"),
        ("a: &a [*a]\n", "c.yaml:1:8: the alias '*a'"),
        ("a: !!python/object:os.system x\n", "c.yaml:1:4: the tag 'tag:yaml.org,2002:python/object:os.system'"),
        ("a: !custom {b: 1}\n", "c.yaml:1:4: the tag '!custom'"),
        ("a: !!str 5\n", "Leave it out; quote what is text."),
        ("<<: {a: 1}\n", "c.yaml:1:1: merge keys"),
        ("1: a\n", "c.yaml:1:1: the key 1 is not text. Quote it."),
        ("true: a\n", "c.yaml:1:1: the key True is not text"),
        ("a: {? [x] : y}\n", "c.yaml:1:7: a key must be text"),
        ("q: {{ inputs.x }}\n", 'c.yaml:1:5: a key must be text, not a list, an object or an alias. Quote a value that starts with {{ or {: "{{ inputs.x }}".'),
        ("a: 1\n---\nb: 2\n", "c.yaml:2:1: a second document starts here"),
        ("a: 0123\n", "c.yaml:1:4: '0123' is ambiguous"),
        ("a: " + "9" * 20_000, "c.yaml:1:4: the integer is larger than 64 bits"),
        ("a: b: c\n", "c.yaml:1:5: this is not YAML: mapping values are not allowed in this context. Quote a text that contains ': '."),
        ("a:\n\t- b\n", "c.yaml:2:1: this is not YAML: found character that cannot start any token"),
        ("a: [1, 2\n", "c.yaml:2:1: this is not YAML"),
        ("a: 'x\n", "Close the quote."),
        ('a: "\\0"\n', "c.yaml:1:4: a text holds a NUL character"),
        ("a: \x00\n", "c.yaml:1:4: the character '\\x00' is not allowed"),
        ("a: \x1b[31m\n", "c.yaml:1:4: the character '\\x1b' is not allowed"),
        (b"a: 1\nb: \xff\n", "c.yaml:2:4: the byte 0xff is not UTF-8. Save the file as UTF-8."),
        ("a: 1".encode("utf-16"), "c.yaml:1:1: the file is UTF-16. Save it as UTF-8."),
        ("a: " + "[" * 5000 + "]" * 5000, "nested deeper than 50 levels"),
        ("a:\n" + "".join(" " * depth + "- \n" for depth in range(1, 200)), "nested deeper than 50 levels"),
        ("[" + "1," * MAX_NODES + "1]", f"the file has more than {MAX_NODES} values"),
        ("? [" + "1," * MAX_NODES + "1]\n: x", f"the file has more than {MAX_NODES} values"),
        (b"#" * 1_000_001, "c.yaml:1:1: the file has 1000001 bytes; at most 1000000 are read"),
    ],
    ids=lambda value: repr(value[:30]),
)  # fmt: skip
def test_what_is_left_out_of_yaml_is_refused_at_its_place(source, message):
    assert any(message in problem for problem in problems_of(source)), problems_of(source)


def test_a_byte_order_mark_moves_no_column():
    document = read_document("\ufeffa: {b: 1}".encode(), "c.yaml")
    assert document.value == {"a": {"b": 1}} and document.marks.key(("a", "b")) == (1, 5)


def test_an_alias_bomb_is_refused_before_it_grows():
    source = "a: &a [x,x]\n" + "".join(
        f"{b}: &{b} [*{a},*{a},*{a},*{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    assert len(problems_of(source)) > 8


def test_tags_import_nothing(tmp_path, monkeypatch):
    (tmp_path / "canary_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert problems_of("a: !!python/name:canary_module.x ''\nb: !!python/object/apply:canary_module.f []\n")


DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc é", min_size=1, max_size=4), inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(DOCUMENTS, st.booleans())
def test_the_c_parser_gives_the_marks_of_the_python_parser(value, flow):
    text = yaml.safe_dump(value, allow_unicode=True, default_flow_style=flow)

    def events(loader):
        return [
            (
                type(event).__name__,
                event.start_mark.line,
                event.start_mark.column,
                getattr(event, "value", None),
            )
            for event in yaml.parse(text, Loader=loader)
            if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        ]

    assert events(yaml.CSafeLoader) == events(yaml.SafeLoader)


PIECES = st.sampled_from(
    ["a", "b:", ": ", "- ", "\n", "  ", "    ", "{", "}", "[", "]", ",", "'", '"', "|", ">", "&x ", "*x", "!t ", "? ", "#", "---", "...",
     "%YAML 1.1\n", "<<: ", "1", "0o7", "~", "\t", "é", "\u2028", "\x85", "\ufeff", "\\", "@", "`", "\r\n", "\r", "{{ x }}", "|2", ">-"]
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(
    st.lists(PIECES, max_size=30).map(lambda pieces: "".join(pieces).encode())
    | st.binary(max_size=60)
    | st.text(max_size=40).map(lambda t: t.encode("utf-8", "surrogatepass"))
)
def test_any_bytes_give_values_or_problems_at_real_places(source):
    document = read_document(source, "c.yaml")
    for problem in document.problems:
        assert problem.location.line >= 1 and problem.location.column >= 1
    for path in document.marks.values:
        document.marks.inside(path, 1, 3)
        document.marks.inside(path, 3, 2)
    if document.value is None and not document.problems:
        assert yaml.safe_load(source) is None
