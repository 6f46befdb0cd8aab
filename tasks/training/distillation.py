"""Learning from a teacher's distributions: the divergence, and a Trainer whose loss it is.

Owns the loss. Knows nothing of where the teacher was found: its folder is in the job. The teacher is no part
of the student's module, so that none of its weights is trained, stored or counted.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.training.examples import MASKED
from tasks.training.job import TrainingJob
from tasks.training.learner import load_base

if TYPE_CHECKING:
    import torch


def divergence(
    student: torch.Tensor, teacher: torch.Tensor, *, beta: float, temperature: float
) -> torch.Tensor:
    """Return for each position the generalised Jensen-Shannon divergence of two sets of logits, in nats.

    With M = beta * teacher + (1 - beta) * student it is
    beta * KL(teacher || M) + (1 - beta) * KL(student || M) (Agarwal et al. 2023, arXiv 2306.13649, eq. 1).
    At the ends, where that is 0, its limits per beta take its place: 0 is KL(teacher || student), 1 is
    KL(student || teacher). The square of the temperature keeps gradients as large as without it (Hinton et
    al. 2015, arXiv 1503.02531).
    """
    import torch

    ours = torch.log_softmax(student.float() / temperature, dim=-1)
    theirs = torch.log_softmax(teacher.float() / temperature, dim=-1)
    if beta == 0:
        apart = _kl(theirs, ours)
    elif beta == 1:
        apart = _kl(ours, theirs)
    else:
        weights = torch.tensor([beta, 1 - beta], device=ours.device).log()
        mixed = torch.logsumexp(torch.stack([theirs + weights[0], ours + weights[1]]), dim=0)
        apart = beta * _kl(theirs, mixed) + (1 - beta) * _kl(ours, mixed)
    return apart * temperature**2


def load_teacher(job: TrainingJob) -> Any:
    """Load the teacher, merged with its base where it is an adapter, for reading only."""
    import torch

    assert job.teacher is not None
    model: Any = load_base(job.teacher_base or job.teacher)[0]
    if job.teacher_base is not None:
        from tasks.training.adapters import load_adapter

        model = load_adapter(model, Path(job.teacher))
    model.requires_grad_(False)
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def distilling(base: Any, job: TrainingJob, *, vocabulary: int) -> Any:
    """Return a subclass of a Trainer whose loss is the divergence from the job's teacher.

    `vocabulary` is the number of tokens that both know: what a head has beyond it is padding.
    """
    given = job.hyperparameters
    teacher = load_teacher(job)

    # transformers is not followed by mypy, so its classes are Any there.
    class DistillingTrainer(base):  # type: ignore[misc]
        """Compares the student with the teacher wherever a label is."""

        def compute_loss(
            self,
            model: Any,
            inputs: Any,
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            import torch

            labels = inputs["labels"][:, 1:]
            asked = {name: value for name, value in inputs.items() if name != "labels"}
            outputs = model(**asked)
            with torch.no_grad():
                told = teacher(**asked).logits[:, :-1]
            said = outputs.logits[:, :-1]
            meant = labels != MASKED
            each = divergence(
                said[meant][:, :vocabulary],
                told[meant][:, :vocabulary],
                beta=given.jsd_beta,
                temperature=given.temperature,
            )
            if given.label_weight:
                plain = torch.nn.functional.cross_entropy(
                    said[meant].float(), labels[meant], reduction="none"
                )
                each = (1 - given.label_weight) * each + given.label_weight * plain
            count = num_items_in_batch if num_items_in_batch is not None else meant.sum()
            loss = each.sum() / count
            return (loss, outputs) if return_outputs else loss

    return DistillingTrainer


def _kl(of: torch.Tensor, from_: torch.Tensor) -> torch.Tensor:
    return (of.exp() * (of - from_)).sum(-1)
