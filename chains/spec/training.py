"""The `prepare` step, which runs once over all rows to make data for a model.

Knows nothing of how rows are cleaned (tasks.prepare).
"""

from __future__ import annotations

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

    @model_validator(mode="after")
    def _sums_to_one(self) -> Split:
        if abs(self.train + self.validation + self.test - 1) > 1e-9:
            raise ValueError("train, validation and test must add up to 1")
        return self


class PrepareStep(KeptStep):
    """Read rows, clean, deduplicate and split them, and write them as training examples (once)."""

    prepare: str
    """A JSONL, CSV or Parquet file, or a template that gives its path."""
    like: Name | None = None
    """A prompt step: each example asks what that step would send for the row."""
    completion: Template | None = None
    """With `like`: the answer that the model should learn, from `row`."""
    text: Template | None = None
    """For plain language modelling: the text of an example, from `row`."""
    deduplicate: bool = True
    """Drop rows whose text was seen before (after Unicode and whitespace normalisation)."""
    split: Split = Split()
    """How the rows are cut."""

    @model_validator(mode="after")
    def _one_form(self) -> PrepareStep:
        if (self.like is None) != (self.completion is None):
            raise ValueError("'like' and 'completion' belong together")
        if self.like and self.text:
            raise ValueError("give either 'like' with 'completion', or 'text'")
        return self
