"""Steps that run for rows: the fields that all kinds share, `prompt`, `embed`, `retrieve` and `python`.

Knows nothing of how a kind does its work (tasks), nor of the kinds that make and judge models, which have
rooms of their own.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from chains.spec.models import Budget, Retry
from chains.spec.parts import Duration, Expression, Name, Part, Template


class StepBase(Part):
    """What every kind of step may say."""

    description: str = ""
    """Shown in plans and in the Prefect UI."""
    when: Expression | None = None
    """A bare expression; where it is false the step is skipped."""
    after: list[Name] = []
    """Steps that must have ended first, without handing on data."""
    on_skip: Literal["skip", "run"] = "skip"
    """What to do when a step that this one refers to was skipped."""
    once: bool | None = None
    """True: run once over all rows. There a reference to a per-row step is the list over rows."""
    retry: Retry | None = None
    """Tries per call."""
    timeout: Duration | None = None
    """Deadline of one attempt."""
    pool: Name | None = None
    """Work pool of this step."""


Vote: TypeAlias = Literal["majority", "first", "all"]
CacheMode: TypeAlias = Literal["run", "always", "never", "refresh"]


class KeptStep(StepBase):
    """What steps may say whose results can be used again."""

    cache: CacheMode | None = None
    """`always`: a result for the same question is used again, also from earlier runs; `run`: from this run
    only; `never`: every row is worked out for itself; `refresh`: anew, and later runs may use it. Default:
    `always` where the model answers the same each time, else `never`. A resumed run keeps what it has
    finished whatever this says."""


class CallingStep(KeptStep):
    """What steps may say that call a model."""

    deadline: Duration | None = None
    """For all tries of one row together, waits between them included."""
    on_ambiguous: Literal["retry", "fail"] = "retry"
    """What to do with a call that a crash interrupted, and that may have been paid: make it again, or fail
    the row."""
    budget: Budget | None = None
    """What this step may spend in a run."""


class MappedStep(StepBase):
    """What steps may say that can run for each item of a list."""

    map: Template | list[Any] | None = None
    """A list as one `{{ expression }}`, or written out, with templates as its texts. The step runs for each
    item, and what it gives is the list of what each gave, in order."""
    as_: Name = Field(default="item", alias="as")
    """What the step's own texts call the item."""
    max_concurrency: int | None = Field(default=None, ge=1, le=100_000)
    """How many items are at work at once, of all rows together. Left out: as many as the model takes."""
    on_error: Literal["fail", "skip", "collect"] = "fail"
    """What becomes of the step where an item fails. `fail`: it fails too, and items that have not begun are
    left for a resume; `skip`: the item is left out of the list; `collect`: it is null in the list."""

    @model_validator(mode="after")
    def _has_a_list(self) -> MappedStep:
        if self.map is None:
            names = {"as_": "as", "max_concurrency": "max_concurrency", "on_error": "on_error"}
            for name in names.keys() & self.model_fields_set:
                raise ValueError(f"{names[name]!r} is for a step with 'map'")
        elif self.once:
            raise ValueError("a step with 'once' has one run over all rows, and 'map' one for each item")
        return self


class PromptStep(CallingStep, MappedStep):
    """Ask a model."""

    prompt: str | list[dict[Literal["system", "user", "assistant"], Template]]
    """A file, inline text, or a list of `role: text or file`."""
    model: Name | None = None
    """A name under `models:`."""
    output: dict[str, Any] | str | None = None
    """What the answer must look like: a short form of JSON Schema, a JSON Schema file, or `module:Class`."""
    reask: int = Field(default=0, ge=0, le=10)
    """How often an answer that does not fit `output:` is asked for again, with the error."""
    on_length: Literal["fail", "accept"] = "fail"
    """What an answer is that stopped at the token limit: a failed row, or an answer whose
    `finish_reason` is `length`."""
    samples: int = Field(default=1, ge=1, le=100)
    """How often the same is asked for each row. Each sample is a record of its own."""
    vote: Vote = "majority"
    """What the samples come to. `majority`: the answer that most of them gave, the first seen of several with
    as many votes; `first`: the first sample that has an answer; `all`: the list of all answers, in order."""
    quorum: int | None = Field(default=None, ge=1)
    """How many samples must have given the same answer (`majority`), or any answer (`first`, `all`), or the
    row fails. Default: 1; with `all`, every sample."""

    @property
    def gives_list(self) -> bool:
        """Whether the step gives all answers in place of one."""
        return self.samples > 1 and self.vote == "all"

    @property
    def least_votes(self) -> int:
        """The quorum, or what it is when left out."""
        return self.quorum or (self.samples if self.vote == "all" else 1)

    @field_validator("prompt")
    @classmethod
    def _one_role_each(cls, value: Any) -> Any:
        if isinstance(value, list):
            if not value:
                raise ValueError("a prompt needs at least one message")
            for message in value:
                if len(message) != 1:
                    raise ValueError("each message is one `role: text`")
        return value


class Chunking(Part):
    """How documents are cut before embedding."""

    tokens: int = Field(default=200, ge=8, le=8192)
    """Longest chunk, in the embedder's tokens."""
    overlap: int = Field(default=40, ge=0)
    """Tokens that two neighbouring chunks share."""

    @model_validator(mode="after")
    def _overlap_is_smaller(self) -> Chunking:
        if self.overlap >= self.tokens:
            raise ValueError(f"overlap ({self.overlap}) must be smaller than tokens ({self.tokens})")
        return self


class EmbedStep(CallingStep, MappedStep):
    """Turn texts into vectors: documents into a collection (once), or one text per row."""

    embed: str | list[str]
    """Files by path or glob (with `into`), or a template whose text is embedded for each row."""
    into: Name | None = None
    """The collection that receives the chunks."""
    chunk: Chunking = Chunking()
    """How documents are cut."""
    model: Name | None = None
    """The embedder, where there is no `into`."""

    @model_validator(mode="after")
    def _has_embedder(self) -> EmbedStep:
        if self.into is None and self.model is None:
            raise ValueError("an embed step needs 'into' (a collection) or 'model' (an embedder)")
        if self.into is not None and self.map is not None:
            raise ValueError("'map' is for a step that runs for each row, and 'into' fills a collection once")
        return self


class RetrieveStep(CallingStep, MappedStep):
    """Find the nearest chunks of a collection."""

    retrieve: Name
    """The collection."""
    query: Template
    """The text to look for."""
    top_k: int = Field(default=5, ge=1, le=1000)
    """How many hits."""
    min_score: float | None = None
    """Hits below this score are left out."""


class PythonStep(MappedStep):
    """Call a Python function from the chain's folder or from an allowed module."""

    python: str = Field(pattern=r"^[A-Za-z_][\w./-]*:[A-Za-z_]\w*$")
    """`file.py:function` in the chain's folder, or `package.module:function` where settings allow it."""
    args: dict[str, Any] = {}
    """Keyword arguments; texts are templates."""
