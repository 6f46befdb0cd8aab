"""What the variants of a chain make of its steps.

Owns which fields a variant may put in another form, and the steps in that form. Knows nothing of runs.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import ValidationError

from chains.source.marks import YamlPath
from chains.spec import Chain, Step, StepBase

SAMPLING = ("temperature", "top_p", "max_tokens", "seed", "stop")
"""Fields of a model that a variant may change for one step."""


def fields_of(step: StepBase) -> list[str]:
    """Return what a variant may say of a step."""
    names = {name: field.alias or name for name, field in type(step).model_fields.items()}
    sampling = SAMPLING if "model" in names else ()
    return [*names.values(), *(name for name in sampling if name not in names)]


def varied_steps(chain: Chain) -> Iterator[tuple[YamlPath, Step]]:
    """Yield each step that a variant changes, in the variant's form; what is wrong is left out."""
    for name, variant in chain.variants.items():
        for step_id, fields in variant.steps.items():
            step = chain.steps.get(step_id)
            if step is None:
                continue
            own = {key: value for key, value in fields.items() if key not in SAMPLING}
            try:
                kept = step.model_dump(by_alias=True, exclude_unset=True)
                yield (
                    ("variants", name, "steps", step_id),
                    type(step).model_validate({**kept, **own}, strict=True),
                )
            except ValidationError:
                continue  # told with all else that is wrong with the variant
