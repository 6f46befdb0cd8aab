"""The `prepare` step: from a data set to training files, cleaned, deduplicated, split, and free of leaks.

Knows nothing of how rows are read or compared (tasks.prepare).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from chains.spec.parts import Name, Part, Template
from chains.spec.steps import KeptStep


class Split(Part):
    """Shares of rows, cut with a seed."""

    train: float = Field(default=0.8, ge=0, le=1)
    """Share for training."""
    validation: float = Field(default=0.1, ge=0, le=1)
    """Share for choosing."""
    test: float = Field(default=0.1, ge=0, le=1)
    """Share for the last measurement."""
    seed: int = 0
    """Seed of the shuffle."""
    group: str | None = None
    """A column; rows with one value of it stay in one part."""
    stratify: str | None = None
    """A column; each of its values is split by the same shares."""

    @model_validator(mode="after")
    def _sums_to_one(self) -> Split:
        if abs(self.train + self.validation + self.test - 1) > 1e-9:
            raise ValueError("train, validation and test must add up to 1")
        return self


PersonalData = Literal["email", "phone", "url", "ip", "iban", "card"]


class Clean(Part):
    """What is done to the texts of each row before anything else; nothing unless it is said."""

    columns: list[str] | None = Field(default=None, min_length=1)
    """The columns that are cleaned. Default: all."""
    unicode: Literal["NFC", "NFKC"] | None = None
    """A Unicode normal form."""
    html: bool = False
    """Tags, scripts and styles are taken out, and entities written as their characters."""
    whitespace: bool = False
    """Runs of spaces become one, runs of empty lines one; control characters go."""
    lowercase: bool = False
    """Lower case."""
    stop_words: list[str] = []
    """Words that are taken out."""
    mask: list[PersonalData] = []
    """Patterns of personal data that become `[EMAIL]`, `[PHONE]` and so on."""
    languages: list[str] = []
    """Rows in other languages are dropped (codes such as `en`; by the whole example's text)."""
    min_chars: int | None = Field(default=None, ge=1)
    """Shorter examples are dropped."""
    max_chars: int | None = Field(default=None, ge=1)
    """Longer examples are dropped."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Examples of more tokens are dropped; needs `tokens`."""


class Leaks(Part):
    """Which rows of two parts are too much alike, and how many of them may be."""

    similarity: float | None = Field(default=0.8, gt=0, le=1)
    """The share of three-word sequences (Jaccard) from which two questions are near duplicates. Null: only
    equal ones are looked for."""
    max: int = Field(default=0, ge=0)
    """Rows that may leak before the step fails."""


ExampleFormat = Literal[
    "messages",
    "prompt_completion",
    "alpaca",
    "sharegpt",
    "preference",
    "classification",
    "pairs",
    "text",
]


class PrepareStep(KeptStep):
    """Read rows, clean, deduplicate and split them, and write them as training examples (once)."""

    prepare: str
    """A JSONL, CSV, Parquet, text or Markdown file, or a template that gives its path."""
    like: Name | None = None
    """A prompt step: each example asks what that step would send for the row."""
    completion: Template | None = None
    """With `like`: the answer that the model should learn, from `row`."""
    text: Template | None = None
    """For plain language modelling: the text of an example, from `row`."""
    fields: dict[Name, Template] = {}
    """The fields of an example, each from `row`, such as `text` and `label`, or `anchor` and `positive`."""
    format: ExampleFormat | None = None
    """The form in which examples are written. Default: conversations as `messages` or `prompt` with
    `completion`, everything else as it is."""
    clean: Clean = Clean()
    """What is done to the texts of each row."""
    deduplicate: bool = True
    """Drop rows whose text was seen before (after Unicode and whitespace normalisation)."""
    near_duplicates: float | None = Field(default=None, gt=0, le=1)
    """Drop rows whose text shares this much of its three-word sequences (Jaccard) with an earlier row's."""
    tokens: Name | None = None
    """A local model whose tokenizer counts the tokens."""
    leaks: Leaks = Leaks()
    """When rows of two parts are too much alike."""
    split: Split = Split()
    """How the rows are cut."""

    @model_validator(mode="after")
    def _one_form(self) -> PrepareStep:
        if (self.like is None) != (self.completion is None):
            raise ValueError("'like' and 'completion' belong together")
        if sum(bool(given) for given in (self.like, self.text, self.fields)) > 1:
            raise ValueError("give either 'like' with 'completion', or 'text', or 'fields'")
        if self.clean.max_tokens is not None and self.tokens is None:
            raise ValueError("'max_tokens' needs 'tokens', the model whose tokenizer counts")
        return self
