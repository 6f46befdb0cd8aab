from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.collection.chunk import chunks_of
from tasks.collection.cutting import cut, estimated_spans


def words(text: str) -> list[tuple[int, int]]:
    return [match.span() for match in re.finditer(r"\S+", text)]


HANDBOOK = """Preface without a heading.

# Returns

Send it back within 30 days.

```sh
# not a heading
```

## Damaged goods ##

Take a photo.
"""


def test_sections_follow_headings_and_not_fenced_code() -> None:
    passages = cut(HANDBOOK, markdown=True, tokens=50, overlap=0, spans=words)
    assert [passage.heading for passage in passages] == [None, "Returns", "Damaged goods"]
    assert passages[0].text == "Preface without a heading."
    assert passages[1].text.startswith("# Returns\n\nSend it") and "# not a heading" in passages[1].text
    assert passages[2].text == "## Damaged goods ##\n\nTake a photo."


def test_a_heading_alone_is_no_passage() -> None:
    passages = cut("# Title\n\n## Part\n\nText.\n", markdown=True, tokens=50, overlap=0, spans=words)
    assert [(passage.heading, passage.text) for passage in passages] == [("Part", "## Part\n\nText.")]


def test_plain_text_has_no_headings() -> None:
    [passage] = cut("# Not Markdown\n\nText.\n", markdown=False, tokens=50, overlap=0, spans=words)
    assert passage.heading is None and passage.text == "# Not Markdown\n\nText."


def test_a_cut_prefers_paragraphs_to_sentences_to_words() -> None:
    text = "one two three. four five six\n\nseven eight nine. ten eleven"
    passages = cut(text, markdown=False, tokens=8, overlap=0, spans=words)
    assert [passage.text for passage in passages] == [
        "one two three. four five six",
        "seven eight nine. ten eleven",
    ]
    sentences = "one two three. four five six seven eight nine ten"
    passages = cut(sentences, markdown=False, tokens=5, overlap=0, spans=words)
    assert passages[0].text == "one two three."


def test_neighbours_share_the_overlap_and_begin_at_a_sentence_where_there_is_one() -> None:
    text = "a b c d e f g h i j. k l m n o p q r s t u v w x y z"
    passages = cut(text, markdown=False, tokens=14, overlap=5, spans=words)
    assert passages[0].text == "a b c d e f g h i j."
    assert passages[1].text.startswith("f g h i j. k l"), (
        "no sentence begins in the overlap, so all of it is kept"
    )
    sentences = "a b. c d. e f. g h. i j. k l. m n. o p."
    passages = cut(sentences, markdown=False, tokens=8, overlap=3, spans=words)
    assert passages[0].text.endswith("g h.") and passages[1].text.startswith("g h. i j.")


@settings(max_examples=150, deadline=None)
@given(
    st.text(alphabet="abcdef .\n#é", max_size=400),
    st.integers(min_value=8, max_value=20),
    st.integers(min_value=0, max_value=7),
    st.booleans(),
)
def test_passages_are_exact_slices_within_the_limit_and_lose_nothing(
    text: str, tokens: int, overlap: int, markdown: bool
) -> None:
    for spans in (words, estimated_spans):
        passages = cut(text, markdown=markdown, tokens=tokens, overlap=overlap, spans=spans)
        covered: set[int] = set()
        for passage in passages:
            assert text[passage.start : passage.end] == passage.text
            assert len(list(spans(passage.text))) <= tokens
            covered.update(range(passage.start, passage.end))
        left = {at for at, char in enumerate(text) if char not in " \n#"} - covered
        if not markdown:
            assert not left
        else:
            lines = {text[:at].count("\n") for at in left}
            assert all(re.match(r" {0,3}#", text.split("\n")[line]) for line in lines), (
                "only headings alone go"
            )


def test_ids_stay_when_other_parts_change_and_differ_between_equal_texts() -> None:
    def ids(text: str) -> list[str]:
        passages = cut(text, markdown=True, tokens=20, overlap=0, spans=words)
        return [chunk.id for chunk in chunks_of("a.md", passages, origin="c/s")]

    before = ids("# A\n\nfirst\n\n# B\n\nsecond\n")
    after = ids("# New\n\nzeroth\n\n# A\n\nfirst\n\n# B\n\nsecond\n")
    assert after[1:] == before
    twice = ids("# A\n\nsame\n\n# A\n\nsame\n")
    assert len(set(twice)) == 2
