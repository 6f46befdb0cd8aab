"""Cut documents into passages: by heading, then into stretches of at most so many tokens of the embedder.

A cut falls where it hurts least within the second half of a stretch: between paragraphs, else after a
sentence, else between words. Every passage is an exact slice of the document. Knows nothing of files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tasks.collection.chunk import Passage

Span = tuple[int, int]
Spans = Callable[[str], Sequence[Span]]

_HEADING = re.compile(r"^ {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
_PARAGRAPH_END = re.compile(r"\n[ \t]*\n\s*")
_SENTENCE_END = re.compile(r"[.!?…]['\")\]]*\s+|[。！？]|\n")
_WORD_END = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a document under one heading; the heading's own line belongs to it."""

    heading: str | None
    start: int
    end: int


def cut(text: str, *, markdown: bool, tokens: int, overlap: int, spans: Spans) -> list[Passage]:
    """Return a document's passages of at most `tokens` tokens; neighbours share up to `overlap`."""
    passages = []
    for section in _sections(text) if markdown else [Section(None, 0, len(text))]:
        body = text[section.start : section.end]
        for start, end in _stretches(body, tokens=tokens, overlap=overlap, spans=spans):
            start, end = _trimmed(body, start, end)
            if _says_something(body[start:end], section):
                passages.append(
                    Passage(body[start:end], section.heading, section.start + start, section.start + end)
                )
    return passages


def estimated_spans(text: str) -> list[Span]:
    """Stand in for a tokenizer that is not known here: words, cut into pieces of at most four characters."""
    return [
        (at, min(at + 4, word.end()))
        for word in re.finditer(r"\w+|[^\w\s]", text)
        for at in range(word.start(), word.end(), 4)
    ]


def _sections(text: str) -> Iterator[Section]:
    """Split Markdown at its headings; a # line inside a fenced block is no heading."""
    start, at, heading, fence = 0, 0, None, ""
    for line in text.splitlines(keepends=True):
        mark = _FENCE.match(line)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1][0] == fence[0] and len(mark[1]) >= len(fence):
            fence = ""
        found = None if fence or mark else _HEADING.match(line.rstrip("\r\n"))
        if found:
            if at > start:
                yield Section(heading, start, at)
            start, heading = at, (found[2] or "").strip() or None
        at += len(line)
    if at > start:
        yield Section(heading, start, at)


def _stretches(body: str, *, tokens: int, overlap: int, spans: Spans) -> Iterator[Span]:
    """Yield where the stretches of one section begin and end, in characters."""
    pieces = [span for span in (_bare(body, span) for span in spans(body)) if span[1] > span[0]]
    if len(pieces) <= tokens:
        yield 0, len(body)
        return
    ranks = _boundary_ranks(body)
    first = 0
    while True:
        limit = first + tokens
        if limit >= len(pieces):
            yield pieces[first][0], len(body)
            return
        after = _best_cut(pieces, ranks, first + tokens // 2, limit)
        yield pieces[first][0], pieces[after - 1][1]
        first = _overlapped(pieces, ranks, max(after - overlap, first + 1), after)


def _bare(body: str, span: Span) -> Span:
    """Leave out the white space that some tokenizers count to the word behind it."""
    piece = body[span[0] : span[1]]
    return span[1] - len(piece.lstrip()), span[1]


def _best_cut(pieces: Sequence[Span], ranks: Mapping[int, int], low: int, high: int) -> int:
    """Return the token in [low, high] before which a stretch ends: the best boundary, of equals the last."""
    return max(min(range(low, high + 1), key=lambda index: (_rank(pieces, ranks, index), -index)), 1)


def _overlapped(pieces: Sequence[Span], ranks: Mapping[int, int], low: int, after: int) -> int:
    """Return the token with which the next stretch begins: the best boundary, of equals the first.

    With an overlap to keep it lies before `after`, so that something is shared.
    """
    return min(range(low, max(after, low + 1)), key=lambda index: (_rank(pieces, ranks, index), index))


def _rank(pieces: Sequence[Span], ranks: Mapping[int, int], index: int) -> int:
    return ranks.get(pieces[index][0], 3) if index < len(pieces) else 0


def _boundary_ranks(body: str) -> dict[int, int]:
    """Return, for each position where something begins, what begins: 0 paragraph, 1 sentence, 2 word."""
    ranks: dict[int, int] = {}
    for rank, pattern in ((2, _WORD_END), (1, _SENTENCE_END), (0, _PARAGRAPH_END)):
        ranks.update({match.end(): rank for match in pattern.finditer(body)})
    return ranks


def _trimmed(body: str, start: int, end: int) -> Span:
    """Leave out white space at both ends, keeping the offsets exact."""
    stretch = body[start:end]
    lead = len(stretch) - len(stretch.lstrip())
    return start + lead, start + max(lead, len(stretch.rstrip()))


def _says_something(text: str, section: Section) -> bool:
    """Whether a passage holds more than white space and its section's heading line."""
    if section.heading is None:
        return bool(text.strip("# \t\r\n"))
    return text.strip() != "" and not (
        "\n" not in text and _HEADING.match(text) is not None and text.lstrip().startswith("#")
    )
