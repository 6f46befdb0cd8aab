"""The part of AdaLoRA that no trainer calls: after each step, ranks move to where they count.

Owns that call, and what it must remember across a checkpoint to go on in the same way. Without the call the
rank stays as it began. Knows nothing of files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_MEANS = ("ipt", "exp_avg_ipt", "exp_avg_unc")
_PATTERN = "rank_pattern"


def rank_allocation(model: Any) -> Any | None:
    """Return the callback for an AdaLoRA model, or None for any other."""
    from transformers import TrainerCallback

    tuner = _tuner(model)
    if tuner is None:
        return None

    # transformers is not followed by mypy, so its classes are Any there.
    class RankAllocation(TrainerCallback):  # type: ignore[misc]
        """Moves ranks after each optimizer step, while the gradients are there."""

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            tuner.update_and_allocate(state.global_step)

    return RankAllocation()


def remembered(model: Any) -> dict[str, torch.Tensor]:
    """Return what the allocation knows after a step; nothing for other models."""
    import torch

    tuner = _tuner(model)
    if tuner is None:
        return {}
    means = {
        f"{part}:{name}": value.detach().contiguous()
        for part in _MEANS
        for name, value in getattr(tuner.rankallocator, part).items()
    }
    pattern = tuner.peft_config[tuner.trainable_adapter_name].rank_pattern or {}
    return means | {
        f"{_PATTERN}:{name}": torch.tensor(kept, dtype=torch.uint8) for name, kept in pattern.items()
    }


def recall(model: Any, tensors: dict[str, torch.Tensor]) -> None:
    """Put back what `remembered` gave."""
    tuner = _tuner(model)
    if tuner is None:
        return
    pattern: dict[str, list[bool]] = {}
    for key, value in tensors.items():
        part, name = key.split(":", 1)
        if part == _PATTERN:
            pattern[name] = value.bool().tolist()
        else:
            getattr(tuner.rankallocator, part)[name] = value
    if pattern:
        tuner.peft_config[tuner.trainable_adapter_name].rank_pattern = pattern


def _tuner(model: Any) -> Any:
    tuner = getattr(model, "base_model", None)
    return tuner if getattr(tuner, "rankallocator", None) is not None else None
