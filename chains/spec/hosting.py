"""The keys of `finetune: openai`: what a hosted job is asked to do.

Knows nothing of how it is asked. Names are those of the fine-tuning API; what is left out, the service
chooses.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from chains.spec.steps import CallingStep

HOSTED = frozenset({"openai"})
HOSTED_KEYS = ("method", "suffix", "n_epochs", "batch_size", "learning_rate_multiplier")
HOSTED_READS = frozenset(
    {
        *HOSTED_KEYS,
        *("finetune", "base", "data", "publish", "gate", "seed", "beta", "budget"),
        *("description", "when", "after", "on_skip", "once", "retry", "timeout", "pool"),
    }
)
"""All that a hosted job is given or goes by; the other keys of a finetune step are for training here."""


class HostedKeys(CallingStep):
    """What a finetune step says of a job at the endpoint of its base."""

    method: Literal["supervised", "dpo"] = "supervised"
    """`supervised` learns the assistant's answers, `dpo` what was chosen before what was rejected (see
    `beta`)."""
    suffix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | None = None
    """Becomes a part of the tuned model's name at the service."""
    n_epochs: int | None = Field(default=None, ge=1, le=50)
    """Passes over the examples."""
    batch_size: int | None = Field(default=None, ge=1)
    """Examples per step."""
    learning_rate_multiplier: float | None = Field(default=None, gt=0)
    """Scales the service's own learning rate."""
