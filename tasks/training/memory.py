"""What a training does when its batch does not fit into the device's memory.

Owns the one smaller try: batches of a fraction of the size and as many more of them between two steps of the
optimizer, so that each step still sees the same number of examples. Knows nothing of how a training runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from chains.errors import StepFailed
from tasks.providers.device import free_unused, is_out_of_memory, memory_text
from tasks.training.job import TrainingJob, TrainingResult
from tasks.training.watching import Watch


def in_memory(
    job: TrainingJob, watch: Watch, train: Callable[[TrainingJob], TrainingResult]
) -> TrainingResult:
    """Return what `train` returns; where the memory is full, let it go on once with smaller batches.

    It goes on from its newest checkpoint. Raises StepFailed where the smaller batch does not fit either, or
    where there is none.
    """
    try:
        return train(job)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        smaller = _smaller(job)
        if smaller is None:
            raise _too_large(job) from error
    # Out here nothing holds the tensors of the failed try any more.
    free_unused()
    before, now = (given.hyperparameters.per_device_train_batch_size for given in (job, smaller))
    said = f"a batch of {before} did not fit into memory ({memory_text()}); halved to {now}"
    said = said if now * 2 == before else said.replace("halved", "made smaller")
    watch.report({"event": "phase", "text": said})
    try:
        result = train(smaller)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise _too_large(smaller) from error
    return replace(result, warnings=[*result.warnings, f"{said}."])


def _smaller(job: TrainingJob) -> TrainingJob | None:
    """Return the job with half the batch, an odd one's largest divisor; None for a batch of 1."""
    given = job.hyperparameters
    size = given.per_device_train_batch_size
    parts = next((parts for parts in range(2, size + 1) if size % parts == 0), None)
    if parts is None:
        return None
    fitting = replace(
        given,
        per_device_train_batch_size=size // parts,
        gradient_accumulation_steps=given.gradient_accumulation_steps * parts,
    )
    return replace(job, hyperparameters=fitting)


def _too_large(job: TrainingJob) -> StepFailed:
    size = job.hyperparameters.per_device_train_batch_size
    return StepFailed(
        f"The device has no memory for a training batch of {size} ({memory_text()}).",
        hint="Use a smaller `max_length`, `gradient_checkpointing: true`, a smaller base, or `lora`.",
    )
