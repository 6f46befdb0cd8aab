"""One training, from the job to the saved model: runs in the child process.

Owns the order of things and the use of transformers' Trainer. Knows nothing of pipes: it reports through a
function and asks another one whether to stop. What is in the work folder decides where it goes on.
"""

from __future__ import annotations

import math
import os
import shutil
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chains.errors import Cancelled
from tasks.providers.device import accelerators
from tasks.training import forgetting
from tasks.training.batches import packed
from tasks.training.checkpoints import newest_whole, step_of
from tasks.training.classification import Classification
from tasks.training.distillation import distilling
from tasks.training.fitting import (
    VALIDATION_ACCURACY,
    VALIDATION_LOSS,
    curve_of,
    gap_of,
    history_of,
    warnings_of,
)
from tasks.training.job import TrainingJob, TrainingResult, deciding_libraries
from tasks.training.learner import Learner
from tasks.training.memory import in_memory
from tasks.training.methods import prepared
from tasks.training.objective import Objective, objective_of
from tasks.training.preference import forget_reference, preference_trainer
from tasks.training.probe import probed
from tasks.training.rank_allocation import rank_allocation
from tasks.training.saving import check_moved, check_saved, snapshot
from tasks.training.trainer import trainer_class
from tasks.training.watching import Watch, watcher

if TYPE_CHECKING:
    from transformers import Trainer

SMALL_MODEL = 20_000_000


def run(job: TrainingJob, work: Path, watch: Watch) -> TrainingResult:
    """Train what the job says in the folder `work` and leave the model in `work`/model.

    A batch that does not fit into the device's memory is halved, once, and the training says so; StepFailed
    where that does not help.
    """
    return in_memory(job, watch, lambda fitting: _quietly(fitting, work, watch))


def _quietly(job: TrainingJob, work: Path, watch: Watch) -> TrainingResult:
    with warnings.catch_warnings():
        # peft 0.21 asks transformers 5 for a property under its old name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        # AdaLoRA takes all rank from layers that do not need it; PEFT thinks of a lost shard then.
        warnings.filterwarnings("ignore", r".*LoRA tensor\(s\) have invalid shape")
        return _run(job, work, watch)


def _run(job: TrainingJob, work: Path, watch: Watch) -> TrainingResult:
    from transformers import set_seed
    from transformers.utils import logging

    started = time.monotonic()
    watch.report({"event": "phase", "text": "reading the examples"})
    logging.disable_progress_bar()
    set_seed(job.hyperparameters.seed)
    objective = objective_of(job)
    learner = objective.untrained(work)
    train, validation, general = objective.examples(learner)
    examples = len(train)
    if general and job.hyperparameters.rehearsal:
        share, seed = job.hyperparameters.rehearsal, job.hyperparameters.seed
        again, general = forgetting.cut(general, rehearses=True, seed=seed)
        train = forgetting.rehearsed(train, again, share=share, seed=seed)
    if job.hyperparameters.packing:
        train = packed(train, max_length=job.hyperparameters.max_length)
    before = _measure(objective, learner, general, watch, what="what the base knows")
    learner = prepared(job, learner, total_steps=steps_of(job, len(train)))
    total, trained = learner.parameters()
    set_threads(job, total)
    found = newest_whole(work / "checkpoints")
    checkpoint = found.whole
    for name in found.damaged:
        going_on = f"going on from {checkpoint.name}" if checkpoint else "beginning anew"
        watch.report({"event": "phase", "text": f"{name} is damaged or half-written: {going_on}"})
    watch.report({"event": "phase", "text": f"training {trained:,} of {total:,} parameters"})
    untouched = snapshot(learner.model)
    if job.method == "linear_probe":
        assert isinstance(objective, Classification), "chains.spec lets nothing else be probed"
        state = probed(objective, learner, watch, train=train, validation=validation)
    else:
        if checkpoint is None:
            objective.begin(learner, train, watch.should_stop)
        trainer = _trainer(objective, job, learner, work, watch, train=train, validation=validation)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        # What is measured and compared from here on is the model itself, without training's mixed precision.
        trainer.accelerator.unwrap_model(learner.model, keep_fp32_wrapper=False)
        state = trainer.state
    if watch.should_stop():
        raise Cancelled(f"Training was stopped at step {state.global_step}.", hint="Its checkpoint is kept.")
    check_moved(learner.model, untouched)
    forget_reference(learner.model)
    after = _measure(objective, learner, general, watch, what="what the model still knows")
    _save(objective, learner, work, train[0])
    log = state.log_history
    gap = gap_of(log)
    best = state.best_global_step if stops_early(job) else None
    return TrainingResult(
        steps=state.global_step,
        train_loss=_last(log, "loss"),
        validation_loss=_validated(log, VALIDATION_LOSS, best),
        validation_accuracy=_validated(log, VALIDATION_ACCURACY, best),
        tokens=int(state.num_input_tokens_seen),
        seconds=round(time.monotonic() - started, 3),
        parameters_total=total,
        parameters_trained=trained,
        resumed_from_step=step_of(checkpoint) if checkpoint else None,
        stop_reason="steps" if state.global_step >= state.max_steps else "early_stop",
        best_step=state.best_global_step,
        gap=gap.value if gap else None,
        gap_opened_at_step=gap.opened_at_step if gap else None,
        **_forgotten(before, after, seed=job.hyperparameters.seed),
        warnings=[
            *warnings_of(
                examples=examples, validation=len(validation) if validation is not None else None, gap=gap
            ),
            *objective.warnings(train),
        ],
        history=history_of(log),
        curve=curve_of(log),
        versions=versions(job),
    )


def _measure(objective: Objective, learner: Learner, general: list[Any], watch: Watch, *, what: str) -> Any:
    if not general:
        return None
    watch.report({"event": "phase", "text": f"measuring {what} on {len(general)} general examples"})
    return objective.losses(learner, general)


def _forgotten(before: Any, after: Any, *, seed: int) -> dict[str, Any]:
    if before is None or after is None:
        return {}
    return {
        "general_before": asdict(forgetting.mean(before, seed=seed)),
        "general_after": asdict(forgetting.mean(after, seed=seed)),
        "forgetting": asdict(forgetting.difference(before, after, seed=seed)),
    }


def versions(job: TrainingJob) -> dict[str, str]:
    """Return the versions of the libraries that decide the weights."""
    from importlib.metadata import version

    return {name: version(name) for name in deciding_libraries(job.task)}


def set_threads(job: TrainingJob, parameters: int) -> None:
    """Use the threads that were asked for; a small model is many times slower with more than one."""
    import torch

    if job.threads is not None:
        torch.set_num_threads(job.threads)
    elif parameters < SMALL_MODEL:
        torch.set_num_threads(1)


def steps_of(job: TrainingJob, examples: int) -> int:
    """Return how many optimizer steps the job will take over so many examples, as the Trainer counts."""
    given = job.hyperparameters
    batches = math.ceil(examples / given.per_device_train_batch_size)
    per_epoch = max(math.ceil(batches / given.gradient_accumulation_steps), 1)
    return given.max_steps or math.ceil(given.num_train_epochs * per_epoch)


def _trainer(  # noqa: PLR0917 - the job and all that it works on
    objective: Objective,
    job: TrainingJob,
    learner: Learner,
    work: Path,
    watch: Watch,
    *,
    train: list[Any],
    validation: list[Any] | None,
) -> Trainer:
    from transformers import Trainer, TrainingArguments

    watching = watcher(watch, guessing=objective.guessing(learner))
    if job.method == "preference":
        trainer = preference_trainer(job, learner, _arguments(job, work, validates=validation is not None))
        trainer.add_callback(watching)
        return _with_callbacks(trainer, job, learner, validates=validation is not None)
    kind = Trainer if job.teacher is None else distilling(Trainer, job, vocabulary=len(learner.tokenizer))
    trainer = trainer_class(kind, order=objective.order(train))(
        model=learner.model,
        args=TrainingArguments(**_arguments(job, work, validates=validation is not None)),
        train_dataset=train,
        # The training loss that validation is compared with is measured in the same mode, at the same step.
        eval_dataset=None
        if validation is None
        else {"validation": validation, "train": sample_of(train, len(validation))},
        data_collator=objective.collator(learner),
        callbacks=[watching],
        **objective.trainer_options(),
    )
    return _with_callbacks(trainer, job, learner, validates=validation is not None)


def _with_callbacks(trainer: Trainer, job: TrainingJob, learner: Learner, *, validates: bool) -> Trainer:
    from transformers import EarlyStoppingCallback, PrinterCallback

    trainer.remove_callback(PrinterCallback)
    if (allocation := rank_allocation(learner.model)) is not None:
        trainer.add_callback(allocation)
    patience = job.hyperparameters.early_stopping_patience
    if validates and patience is not None:
        trainer.add_callback(EarlyStoppingCallback(patience))
    return trainer


def sample_of(train: list[Any], size: int) -> list[Any]:
    """Take training examples from all over the file, as many as there are to validate with."""
    return train[:: max(len(train) // size, 1)][:size]


def _arguments(job: TrainingJob, work: Path, *, validates: bool) -> dict[str, Any]:
    given, devices = job.hyperparameters, accelerators()
    # transformers' own "constant" passes over warmup_steps in silence.
    warms_up = given.lr_scheduler_type == "constant" and given.warmup_steps
    schedule = "constant_with_warmup" if warms_up else given.lr_scheduler_type
    return {
        "output_dir": str(work / "checkpoints"),
        "use_cpu": not devices,
        "seed": given.seed,
        "data_seed": given.seed,
        "num_train_epochs": given.num_train_epochs,
        "max_steps": given.max_steps or -1,
        "per_device_train_batch_size": given.per_device_train_batch_size,
        "per_device_eval_batch_size": given.per_device_train_batch_size,
        "gradient_accumulation_steps": given.gradient_accumulation_steps,
        "learning_rate": given.learning_rate,
        "warmup_steps": given.warmup_steps,
        "weight_decay": given.weight_decay,
        "max_grad_norm": given.max_grad_norm,
        "bf16": "cuda" in devices if given.bf16 is None else given.bf16,
        "activation_checkpointing": given.gradient_checkpointing,
        "lr_scheduler_type": schedule,
        "eval_strategy": "steps" if validates else "no",
        "eval_steps": given.eval_steps if validates else None,
        "save_strategy": "steps",
        # The best model can only be kept where a checkpoint is written at each evaluation.
        "save_steps": given.eval_steps if stops_early(job) else given.save_steps,
        "save_total_limit": 2,
        "load_best_model_at_end": stops_early(job),
        "metric_for_best_model": VALIDATION_LOSS if validates else None,
        "logging_steps": 1,
        # Without this a NaN is logged as the last good loss, and nobody sees it.
        "logging_nan_inf_filter": False,
        "include_num_input_tokens_seen": "non_padding",
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        "log_level": "error",
    }


def _last(log: list[dict[str, Any]], name: str) -> float:
    values = [float(entry[name]) for entry in log if name in entry]
    # One batch says little: the mean over the last ones is what the training came to.
    tail = values[-20:]
    return round(sum(tail) / len(tail), 6)


def stops_early(job: TrainingJob) -> bool:
    """Whether the model that validated best is kept."""
    return job.validation is not None and job.hyperparameters.early_stopping_patience is not None


def _validated(log: list[dict[str, Any]], name: str, best: int | None) -> float | None:
    """Return a figure of the best evaluation where the best model was kept, else of the last one."""
    found = {int(entry["step"]): float(entry[name]) for entry in log if name in entry}
    if not found:
        return None
    return round(found.get(best or max(found), found[max(found)]), 6)


def _save(objective: Objective, learner: Learner, work: Path, sample: Any) -> None:
    unfinished = work / f"model.{os.getpid()}"
    objective.save(learner, unfinished)
    check_saved(learner, objective, unfinished, sample)
    target = work / "model"
    if target.exists():
        shutil.rmtree(target)
    unfinished.rename(target)
