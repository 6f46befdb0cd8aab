"""What is kept of a training: that weights moved, the files, and that these answer like the model in memory.

Knows nothing of loops, batches or processes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from chains.errors import StepFailed
from tasks.training.job import TrainingJob
from tasks.training.learner import Learner
from tasks.training.objective import Objective, objective_of

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


def check_saved(learner: Learner, objective: Objective, folder: Path, sample: Any) -> None:
    """Load what was saved and compare its answer to an example with that of the model in memory."""
    import torch

    reloaded = objective.reload(folder)
    learner.model.eval()
    reloaded.eval()
    with torch.no_grad():
        ours = objective.answers(learner.model, sample).float().cpu()
        theirs = objective.answers(reloaded, sample).float().cpu()
    difference = float((ours - theirs).abs().max())
    if not difference < 1e-3:
        raise StepFailed(
            f"The saved model answers differently from the trained one (by up to {difference:.3g})."
        )


def reload(job: TrainingJob, folder: Path) -> Any:
    """Load what a job has left in a folder, on its base where it is an adapter."""
    return objective_of(job).reload(folder)
