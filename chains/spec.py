"""What a chain file may say: pydantic models for a chain and its parts.

Owns shapes, names, ranges and defaults. Knows nothing of YAML positions (chains.loading), of references
between steps (chains.references) or of files on disk (chains.check). Every model is frozen and rejects
unknown keys, so nothing that decides trust can be slipped into a file.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

NAME_PATTERN = r"^[a-z][a-z0-9_]{0,63}$"
RESERVED = frozenset(
    (
        *("inputs", "row", "env", "secret", "loop", "item", "run"),
        *("true", "false", "none", "not", "and", "or", "in", "is", "if", "else"),
    )
)

Name: TypeAlias = Annotated[str, Field(pattern=NAME_PATTERN)]
Template: TypeAlias = str
Expression: TypeAlias = str

_DURATION = re.compile(r"^(\d+(?:\.\d+)?)(ms|s|m|h|d)$")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(value: object) -> object:
    """Turn `500ms`, `60s`, `2m`, `1h` or a number of seconds into seconds."""
    if isinstance(value, str):
        match = _DURATION.match(value.strip())
        if not match:
            raise ValueError(
                f"{value!r} is not a duration; write a number with ms, s, m, h or d, such as 60s"
            )
        return float(match[1]) * _UNITS[match[2]]
    return value


Duration: TypeAlias = Annotated[float, BeforeValidator(parse_duration), Field(gt=0, le=30 * 86400)]


class Part(BaseModel):
    """Common rules: frozen, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Input(Part):
    """One typed input of a chain."""

    type: Literal["string", "integer", "number", "boolean", "array", "object"] = "string"
    """JSON type of the value."""
    description: str = ""
    """What the value means; shown in forms and in `headrace check`."""
    enum: list[Any] | None = None
    """The allowed values."""
    default: Any = None
    """Used when no value is given; an input with neither a default nor `required: false` is required."""
    required: bool | None = None
    """Whether a value must be given. Left out: true where there is no default."""
    minimum: float | None = None
    """Smallest allowed number."""
    maximum: float | None = None
    """Largest allowed number."""
    max_length: int | None = Field(default=None, ge=1)
    """Longest allowed text, in characters."""

    @property
    def is_required(self) -> bool:
        """Whether a run must bring a value."""
        return self.required if self.required is not None else "default" not in self.model_fields_set


class Limits(Part):
    """What one model may be asked for at once."""

    concurrency: int = Field(default=64, ge=1, le=4096)
    """Calls in flight at once, over all shards of a process."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    """Calls in any minute, over all processes on the store."""
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Tokens in any minute, over all processes on the store: what is sent, and what may come back at most."""


class Price(Part):
    """What a model costs, in US dollars per million tokens."""

    input: float = Field(ge=0)
    """What is sent."""
    output: float = Field(default=0.0, ge=0)
    """What comes back."""


class Budget(Part):
    """What may be spent; the call that would go beyond it is not made."""

    usd: float | None = Field(default=None, gt=0)
    """US dollars. Every model that is called needs a known price."""
    tokens: int | None = Field(default=None, ge=1)
    """Tokens, sent and received."""
    calls: int | None = Field(default=None, ge=1)
    """Calls, repeated ones included."""

    @model_validator(mode="after")
    def _limits_something(self) -> Budget:
        if self.usd is None and self.tokens is None and self.calls is None:
            raise ValueError("a budget needs at least one of 'usd', 'tokens' and 'calls'")
        return self


_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_OWN_HEADERS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "host",
        "transfer-encoding",
    }
)
_ENDPOINT_KEYS = ("headers", "api_version", "organization", "project")


class Model(Part):
    """A model that steps refer to by its name under `models:`."""

    provider: Literal["openai", "local", "starter"]
    """`openai`: any OpenAI-compatible endpoint; `local`: transformers on this machine; `starter`: the
    small model that ships with Headrace."""
    model: str | None = None
    """The provider's name of the model, a hub id, a folder, or `models:NAME@latest` from the store. Not
    needed for `starter`."""
    revision: str | None = None
    """Commit or tag of a hub model."""
    base_url: str | None = None
    """Address of an OpenAI-compatible endpoint, up to and including `/v1`."""
    api_key: str | None = None
    """A `{{ env.NAME }}` template. Default: `{{ env.OPENAI_API_KEY }}`, with `api_version`
    `{{ env.AZURE_OPENAI_API_KEY }}`, where `base_url` is that service's own."""
    api_version: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | None = None
    """For an Azure deployment, whose `base_url` ends in `/openai/deployments/NAME`: its API version,
    such as `2024-10-21`."""
    organization: str | None = None
    """Organisation that pays. Default: the environment variable OPENAI_ORG_ID."""
    project: str | None = None
    """Project that pays. Default: the environment variable OPENAI_PROJECT_ID."""
    headers: dict[str, str] = {}
    """More headers of each call. Values may be `{{ env.NAME }}` templates; what they become is never
    stored."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """Sampling temperature. Local models default to 0 (greedy)."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Nucleus sampling."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest answer, in tokens."""
    seed: int | None = None
    """Sampling seed."""
    stop: list[str] | None = None
    """Texts that end an answer."""
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] = "auto"
    """Number format of a local model's weights. `auto`: bfloat16 for embedding where it keeps the
    neighbours, else float32 on CPU."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where a local model runs."""
    pool: Name | None = None
    """Work pool for every step that uses this model."""
    limits: Limits = Limits()
    """What this model may be asked for at once, and in a minute."""
    price: Price | None = None
    """What it costs. Default: from the table of prices; a local model costs nothing."""

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not _HEADER_NAME.fullmatch(name):
                raise ValueError(f"{name!r:.80} is no name of a header")
            if name.lower() in _OWN_HEADERS:
                raise ValueError(f"the header {name!r} is set by the call itself")
            if any(ord(character) < 32 or ord(character) == 127 for character in text):
                raise ValueError(f"the header {name!r} holds a line break or control character")
        return value

    @model_validator(mode="after")
    def _named(self) -> Model:
        if self.provider != "starter" and not self.model:
            raise ValueError(f"a model of provider '{self.provider}' needs the key 'model'")
        return self

    @model_validator(mode="after")
    def _fits_provider(self) -> Model:
        for name in _ENDPOINT_KEYS if self.provider != "openai" else ():
            if getattr(self, name):
                raise ValueError(f"'{name}' is for provider 'openai', not for '{self.provider}'")
        return self


class Collection(Part):
    """A set of vectors with one embedder, one dimension and one distance."""

    embedder: Name
    """The model under `models:` that makes the vectors."""
    distance: Literal["cosine", "dot", "euclid"] = "cosine"
    """How nearness is measured."""
    url: str | None = None
    """Address of a Qdrant server. Left out: an embedded collection in the store's folder."""
    api_key: str | None = None
    """A `{{ env.NAME }}` template for the Qdrant server."""


class Retry(Part):
    """How often and how patiently a call is tried."""

    attempts: int = Field(default=4, ge=1, le=20)
    """Tries per call, the first one included."""
    base: Duration = 0.5
    """First back-off; doubled each time, with full jitter."""
    cap: Duration = 30.0
    """Longest back-off."""


class Defaults(Part):
    """Values for every step that does not set its own."""

    model: Name | None = None
    """The model of prompt steps."""
    timeout: Duration = 60.0
    """Deadline of one attempt."""
    retry: Retry = Retry()
    """Tries per call."""


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


class PromptStep(CallingStep):
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


class EmbedStep(CallingStep):
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
        return self


class RetrieveStep(CallingStep):
    """Find the nearest chunks of a collection."""

    retrieve: Name
    """The collection."""
    query: Template
    """The text to look for."""
    top_k: int = Field(default=5, ge=1, le=1000)
    """How many hits."""
    min_score: float | None = None
    """Hits below this score are left out."""


class PythonStep(StepBase):
    """Call a Python function from the chain's folder or from an allowed module."""

    python: str = Field(pattern=r"^[A-Za-z_][\w./-]*:[A-Za-z_]\w*$")
    """`file.py:function` in the chain's folder, or `package.module:function` where settings allow it."""
    args: dict[str, Any] = {}
    """Keyword arguments; texts are templates."""


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


class TrainingFiles(Part):
    """The files that a finetune step reads."""

    train: Template
    """Training examples (JSONL: `messages`, `prompt`/`completion` or `text`)."""
    validation: Template | None = None
    """Examples for early stopping."""


class Architecture(Part):
    """Shape of a model that is trained from nothing (Llama)."""

    hidden_size: int = Field(default=128, ge=8)
    """Width of the residual stream."""
    intermediate_size: int = Field(default=384, ge=8)
    """Width of the MLP."""
    num_hidden_layers: int = Field(default=4, ge=1)
    """Decoder layers."""
    num_attention_heads: int = Field(default=4, ge=1)
    """Query heads."""
    num_key_value_heads: int = Field(default=2, ge=1)
    """Key and value heads."""
    vocab_size: int = Field(default=1024, ge=300)
    """Size of the byte-level BPE vocabulary."""
    max_position_embeddings: int = Field(default=512, ge=16)
    """Longest context, in tokens."""


class FinetuneStep(StepBase):
    """Train a model (once) and publish it."""

    finetune: Literal["scratch", "lora"]
    """The method: `scratch` (own tokenizer and weights) or `lora` (low-rank adapter on `base`)."""
    base: str | None = None
    """A name under `models:`, a hub id or a folder. Not for `scratch`."""
    data: TrainingFiles
    """What to learn from."""
    publish: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")] | None = None
    """Name of the model in the store; each run of the step adds a version."""
    gate: Expression | None = None
    """A bare expression over the step's own metrics; where it is false nothing is published."""
    architecture: Architecture = Architecture()
    """For `scratch`: the model's shape."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Default: 2e-4 for lora, 3e-4 for scratch."""
    num_train_epochs: float = Field(default=3.0, gt=0)
    """Passes over the training examples."""
    max_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps; takes the place of epochs."""
    per_device_train_batch_size: int = Field(default=8, ge=1)
    """Examples per forward pass."""
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """Forward passes per optimizer step."""
    warmup_steps: int = Field(default=0, ge=0)
    """Optimizer steps until the learning rate is full."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW weight decay."""
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = "cosine"
    """Shape of the learning rate."""
    max_length: int = Field(default=512, ge=8)
    """Longest example, in tokens; longer ones fail the step."""
    seed: int = 0
    """Seed of weights, order and dropout."""
    save_steps: int = Field(default=500, ge=1)
    """Optimizer steps between checkpoints."""
    eval_steps: int = Field(default=200, ge=1)
    """Optimizer steps between evaluations, where there is validation data."""
    early_stopping_patience: int | None = Field(default=None, ge=1)
    """Evaluations without a better validation loss before training stops."""
    r: int = Field(default=16, ge=1)
    """Rank of a LoRA adapter (Hu et al. 2021, arXiv 2106.09685)."""
    lora_alpha: float = Field(default=32.0, gt=0)
    """LoRA scale: the update is multiplied by alpha / r."""
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the adapter."""
    target_modules: list[str] | Literal["all-linear"] = "all-linear"
    """Layers that get an adapter."""

    @model_validator(mode="after")
    def _base_fits_method(self) -> FinetuneStep:
        if self.finetune == "scratch" and self.base is not None:
            raise ValueError("finetune: scratch starts from nothing and takes no 'base'")
        if self.finetune == "lora" and self.base is None:
            raise ValueError("finetune: lora needs 'base'")
        return self


class Comparison(Part):
    """What is scored against what."""

    prediction: Template
    """What the chain said."""
    reference: Template
    """What is right; the only place, with finetune and prepare, that may read `row`."""


MetricName = Literal["accuracy", "exact_match", "f1_macro", "token_f1", "contains"]


class EvaluateStep(StepBase):
    """Score predictions against references (once), each metric with its 95 % interval."""

    evaluate: Comparison
    """What is scored."""
    metrics: list[MetricName] = Field(default=["accuracy"], min_length=1)
    """Which metrics."""
    gate: Expression | None = None
    """A bare expression over the metrics, such as `accuracy.low >= 0.9`; where it is false the run fails."""


Step: TypeAlias = (
    PromptStep | RetrieveStep | EmbedStep | PythonStep | PrepareStep | FinetuneStep | EvaluateStep
)

KINDS: dict[str, type[StepBase]] = {
    "embed": EmbedStep,
    "retrieve": RetrieveStep,
    "prompt": PromptStep,
    "python": PythonStep,
    "prepare": PrepareStep,
    "finetune": FinetuneStep,
    "evaluate": EvaluateStep,
}


def kind_of(step: StepBase) -> str:
    """Return the verb that a step is written with."""
    for kind, cls in KINDS.items():
        if type(step) is cls:
            return kind
    raise TypeError(f"{type(step).__name__} is no kind of step")


def runs_once(step: StepBase) -> bool:
    """Whether a step runs once over all rows, or once for each row."""
    if step.once is not None:
        return step.once
    if isinstance(step, EmbedStep):
        return step.into is not None
    return isinstance(step, PrepareStep | FinetuneStep | EvaluateStep)


class Chain(Part):
    """A whole chain file."""

    chain: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
    """The chain's name."""
    description: str = ""
    """What the chain does."""
    inputs: dict[Name, Input] = {}
    """Typed inputs."""
    models: dict[Name, Model] = {}
    """Models by name."""
    collections: dict[Name, Collection] = {}
    """Collections by name."""
    defaults: Defaults = Defaults()
    """Values for every step that does not set its own."""
    on_error: Literal["fail", "skip", "collect"] = "collect"
    """`collect`: other rows go on and failed rows are counted; `skip`: failed rows are left out and do
    not fail the run; `fail`: the first failed row stops the run."""
    max_failed_rows: int = Field(default=0, ge=0)
    """With `collect`: how many rows may fail before the run counts as failed."""
    budget: Budget | None = None
    """What a run may spend."""
    steps: dict[Name, Step] = Field(min_length=1)
    """The steps, by id. Their order in the file does not matter."""
    outputs: dict[Name, Any] = {}
    """What a run returns for each row."""

    def to_yaml(self) -> str:
        """Write the chain as YAML that loads as the same chain."""
        # chains.loading builds on this module.
        from chains.loading.writing import to_yaml

        return to_yaml(self)
