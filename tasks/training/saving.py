"""What is kept of a training: that weights moved, the files, and that these answer like the model in memory.

Knows nothing of loops, batches or processes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from chains.errors import StepFailed
from tasks.training.job import TrainingJob
from tasks.training.learner import Learner, load_base

if TYPE_CHECKING:
    import torch


def snapshot(model: Any) -> dict[str, torch.Tensor]:
    """Copy the trained weights, to see later that they moved."""
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


def check_moved(model: Any, before: dict[str, torch.Tensor]) -> None:
    """Fail when no trained weight changed: a falling loss alone does not prove that anything was learnt."""
    import torch

    after = dict(model.named_parameters())
    if all(torch.equal(after[name].detach(), value) for name, value in before.items()):
        raise StepFailed(
            "Training ended, but no weight has changed.",
            hint="Raise learning_rate or the number of steps, or check target_modules.",
        )


def save(learner: Learner, folder: Path) -> None:
    """Write weights (safetensors) and tokenizer files."""
    learner.model.save_pretrained(folder)
    learner.tokenizer.save_pretrained(folder)


def check_saved(learner: Learner, job: TrainingJob, folder: Path, sample: list[int]) -> None:
    """Load what was saved and compare its logits with those of the model in memory."""
    import torch

    reloaded = reload(job, folder)
    ids = torch.tensor([sample])
    learner.model.eval()
    reloaded.eval()
    with torch.no_grad():
        ours = learner.model(input_ids=ids.to(learner.model.device)).logits.float().cpu()
        theirs = reloaded(input_ids=ids).logits.float().cpu()
    difference = float((ours - theirs).abs().max())
    if not difference < 1e-3:
        raise StepFailed(
            f"The saved model answers differently from the trained one (logits differ by {difference:.3g})."
        )


def reload(job: TrainingJob, folder: Path) -> Any:
    """Load what a job has left in a folder, on its base where it is an adapter."""
    if not job.is_adapter:
        return load_base(str(folder))[0]
    from tasks.training.adapters import load_adapter

    assert job.base is not None
    return load_adapter(load_base(job.base)[0], folder)
