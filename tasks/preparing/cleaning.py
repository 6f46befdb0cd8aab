"""Cleaning of texts: Unicode, HTML, whitespace, case, stop words, and patterns of personal data.

Owns the order (HTML, Unicode, whitespace, masks, case, stop words) and the patterns. They find what is
written in the usual ways, and are no proof that nothing personal is left. Knows nothing of files or splits.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from typing import Any

from chains.spec import Clean, PersonalData

_NOT_TEXT = frozenset({"role", "from"})
"""Keys of messages that name who speaks; cleaning them would break the form."""
_BLOCKS = frozenset(
    {"p", "div", "br", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "section", "article", "table", "ul"}
)
_HIDDEN = frozenset({"script", "style", "template", "noscript"})
_TAG = re.compile(r"<[a-zA-Z!/][^<>]*>|&#?\w+;")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b\u2060\ufeff]")
_SPACES = re.compile(r"[^\S\n]+")
_EMPTY_LINES = re.compile(r"\n[ \n]*\n")

_PATTERNS: Mapping[PersonalData, re.Pattern[str]] = {
    "email": re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,5}\b"),
    "url": re.compile(r"\bhttps?://[^\s<>\"']{1,2000}|\bwww\.[^\s<>\"']{1,2000}"),
    "iban": re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"),
    "card": re.compile(r"\b\d(?:[ -]?\d){12,18}\b"),
    "ip": re.compile(r"\b(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)\b"),
    "phone": re.compile(
        r"(?<![\w.])(?:\+\d{1,3}[ .-]?)?(?:\(\d{1,5}\)[ .-]?)?\d{2,5}(?:[ .-]?\d{2,5}){2,4}\b"
    ),
}
"""In the order in which they are masked: what is part of a URL or an IBAN is no phone number."""


class Cleaner:
    """Cleans the texts of rows as one prepare step says, and counts what it masked."""

    def __init__(self, clean: Clean) -> None:
        self._clean = clean
        self.masked: dict[str, int] = dict.fromkeys(clean.mask, 0)
        self._steps = self._chosen()

    def row(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the row with its texts cleaned, inside lists and objects too."""
        if not self._steps:
            return row
        wanted = self._clean.columns
        return {
            name: self._value(value) if wanted is None or name in wanted else value
            for name, value in row.items()
        }

    def text(self, text: str) -> str:
        """Return one text, cleaned."""
        for step in self._steps:
            text = step(text)
        return text

    def _value(self, value: Any) -> Any:
        match value:
            case str():
                return self.text(value)
            case list():
                return [self._value(item) for item in value]
            case dict():
                return {key: item if key in _NOT_TEXT else self._value(item) for key, item in value.items()}
            case _:
                return value

    def _chosen(self) -> list[Callable[[str], str]]:
        clean = self._clean
        steps: list[Callable[[str], str]] = []
        if clean.html:
            steps.append(without_html)
        if clean.unicode is not None:
            form = clean.unicode
            steps.append(lambda text: unicodedata.normalize(form, text))
        if clean.whitespace:
            steps.append(without_runs)
        steps += [self._masking(name, pattern) for name, pattern in _PATTERNS.items() if name in clean.mask]
        if clean.lowercase:
            steps.append(str.lower)
        if clean.stop_words:
            steps.append(_without_words(clean.stop_words))
        return steps

    def _masking(self, name: PersonalData, pattern: re.Pattern[str]) -> Callable[[str], str]:
        def mask(found: re.Match[str]) -> str:
            if name == "card" and not _luhn(found[0]):
                return found[0]
            self.masked[name] += 1
            return f"[{name.upper()}]"

        return lambda text: pattern.sub(mask, text)


def without_html(text: str) -> str:
    """Return a text without tags, scripts and styles, and with entities as their characters."""
    if not _TAG.search(text):
        return text
    parser = _Text()
    parser.feed(text)
    parser.close()
    return "".join(parser.parts).strip()


def without_runs(text: str) -> str:
    """Return a text with single spaces, at most one empty line in a row, and no control characters."""
    text = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    lines = (_SPACES.sub(" ", line).strip() for line in text.split("\n"))
    return _EMPTY_LINES.sub("\n\n", "\n".join(lines)).strip()


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _HIDDEN:
            self._hidden += 1
        elif tag in _BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in _HIDDEN:
            self._hidden = max(0, self._hidden - 1)
        elif tag in _BLOCKS and tag != "br":
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data)


def _without_words(words: list[str]) -> Callable[[str], str]:
    alternatives = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    pattern = re.compile(rf"\b(?:{alternatives})\b[^\S\n]?", re.IGNORECASE)
    return lambda text: pattern.sub("", text).strip()


def _luhn(number: str) -> bool:
    """Whether the digits are a card's: most long numbers in texts are not."""
    digits = [int(character) for character in number if character.isdigit()]
    doubled = [
        digit if place % 2 == 0 else sum(divmod(2 * digit, 10)) for place, digit in enumerate(digits[::-1])
    ]
    return sum(doubled) % 10 == 0
