"""What a chain file may say: pydantic models for a chain and its parts.

Owns shapes, names, ranges and defaults. Knows nothing of YAML positions (chains.loading), of references
between steps (chains.references) or of files on disk (chains.check). Every model is frozen and rejects
unknown keys, so nothing that decides trust can be slipped into a file.
"""

from __future__ import annotations

from chains.spec.approving import ApproveStep
from chains.spec.chain import (
    Chain,
    Input,
)
from chains.spec.distilling import DistillKeys
from chains.spec.evaluating import (
    Check,
    Comparison,
    EvaluateStep,
    Judge,
    MetricName,
)
from chains.spec.finetuning import Architecture, FinetuneStep, TrainingFiles
from chains.spec.hosting import HostedKeys
from chains.spec.kinds import (
    KINDS,
    Step,
    kind_of,
    runs_once,
)
from chains.spec.models import (
    Budget,
    Collection,
    Defaults,
    Limits,
    Model,
    Price,
    Retry,
)
from chains.spec.nesting import ChainStep, Repeat, RepeatStep
from chains.spec.parts import (
    NAME_PATTERN,
    RESERVED,
    Duration,
    Expression,
    Name,
    Part,
    Template,
    parse_duration,
)
from chains.spec.preparing import (
    Clean,
    ExampleFormat,
    Leaks,
    PersonalData,
    PrepareStep,
    Split,
)
from chains.spec.schedules import Schedule
from chains.spec.steps import (
    CacheMode,
    CallingStep,
    Chunking,
    EmbedStep,
    KeptStep,
    MappedStep,
    PromptStep,
    PythonStep,
    RetrieveStep,
    StepBase,
    Vote,
)
from chains.spec.varying import Variant

__all__ = [
    "KINDS",
    "NAME_PATTERN",
    "RESERVED",
    "ApproveStep",
    "Architecture",
    "Budget",
    "CacheMode",
    "CallingStep",
    "Chain",
    "ChainStep",
    "Check",
    "Chunking",
    "Clean",
    "Collection",
    "Comparison",
    "Defaults",
    "DistillKeys",
    "Duration",
    "EmbedStep",
    "EvaluateStep",
    "ExampleFormat",
    "Expression",
    "FinetuneStep",
    "HostedKeys",
    "Input",
    "Judge",
    "KeptStep",
    "Leaks",
    "Limits",
    "MappedStep",
    "MetricName",
    "Model",
    "Name",
    "Part",
    "PersonalData",
    "PrepareStep",
    "Price",
    "PromptStep",
    "PythonStep",
    "Repeat",
    "RepeatStep",
    "RetrieveStep",
    "Retry",
    "Schedule",
    "Split",
    "Step",
    "StepBase",
    "Template",
    "TrainingFiles",
    "Variant",
    "Vote",
    "kind_of",
    "parse_duration",
    "runs_once",
]
