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
from tasks.training.batches import PadToLongest, packed
from tasks.training.checkpoints import newest_whole, step_of
from tasks.training.distillation import distilling
from tasks.training.examples import Example, load_examples
from tasks.training.fitting import VALIDATION_LOSS, curve_of, gap_of, history_of, warnings_of
from tasks.training.job import TrainingJob, TrainingResult
from tasks.training.learner import Learner
from tasks.training.memory import in_memory
from tasks.training.methods import prepared, untrained
from tasks.training.preference import forget_reference, preference_trainer
from tasks.training.rank_allocation import rank_allocation
from tasks.training.saving import check_moved, check_saved, save, snapshot
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
    learner = untrained(job, work)
    train, validation, general = _examples(job, learner)
    examples = len(train)
    if general and job.hyperparameters.rehearsal:
        share, seed = job.hyperparameters.rehearsal, job.hyperparameters.seed
        again, general = forgetting.cut(general, rehearses=True, seed=seed)
        train = forgetting.rehearsed(train, again, share=share, seed=seed)
    if job.hyperparameters.packing:
        train = packed(train, max_length=job.hyperparameters.max_length)
    before = _measure(learner, general, watch, "what the base knows")
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
    trainer = _trainer(job, learner, work, watch, train=train, validation=validation)
    output = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if watch.should_stop():
        raise Cancelled(
            f"Training was stopped at step {trainer.state.global_step}.", hint="Its checkpoint is kept."
        )
    check_moved(learner.model, untouched)
    forget_reference(learner.model)
    after = _measure(learner, general, watch, "what the model still knows")
    _save(job, learner, work, train[0])
    gap = gap_of(trainer.state.log_history)
    return TrainingResult(
        steps=trainer.state.global_step,
        train_loss=_last(trainer, "loss", output.training_loss),
        validation_loss=_best_validation(trainer),
        tokens=int(trainer.state.num_input_tokens_seen),
        seconds=round(time.monotonic() - started, 3),
        parameters_total=total,
        parameters_trained=trained,
        resumed_from_step=step_of(checkpoint) if checkpoint else None,
        stop_reason="steps" if trainer.state.global_step >= trainer.state.max_steps else "early_stop",
        best_step=trainer.state.best_global_step,
        gap=gap.value if gap else None,
        gap_opened_at_step=gap.opened_at_step if gap else None,
        **_forgotten(before, after, seed=job.hyperparameters.seed),
        warnings=warnings_of(
            examples=examples, validation=len(validation) if validation is not None else None, gap=gap
        ),
        history=history_of(trainer.state.log_history),
        curve=curve_of(trainer.state.log_history),
        versions=versions(),
    )


def _measure(learner: Learner, general: list[Example], watch: Watch, what: str) -> Any:
    if not general:
        return None
    watch.report({"event": "phase", "text": f"measuring {what} on {len(general)} general examples"})
    return forgetting.losses(learner.model, general, pad_id=learner.tokenizer.pad_token_id)


def _forgotten(before: Any, after: Any, *, seed: int) -> dict[str, Any]:
    if before is None or after is None:
        return {}
    return {
        "general_before": asdict(forgetting.mean(before, seed=seed)),
        "general_after": asdict(forgetting.mean(after, seed=seed)),
        "forgetting": asdict(forgetting.difference(before, after, seed=seed)),
    }


def versions() -> dict[str, str]:
    """Return the versions of the libraries that decide the weights."""
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "peft", "trl", "tokenizers")}


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


def _examples(
    job: TrainingJob, learner: Learner
) -> tuple[list[Example], list[Example] | None, list[Example]]:
    pairs = job.method == "preference"

    def load(path: str, *, chats_only: bool, completion: str | None = None) -> list[Example]:
        return load_examples(
            path,
            learner.tokenizer,
            stop_ids=learner.stop_ids,
            max_length=job.hyperparameters.max_length,
            chats_only=chats_only,
            completion=completion or "completion",
        )

    if job.method == "preference":
        # Of each pair both answers are checked; the better one stands for it where one is measured.
        for part in filter(None, (job.train, job.validation)):
            load(part, chats_only=False, completion="rejected")
    chats = job.method == "instruction"
    return (
        load(job.train, chats_only=chats, completion="chosen" if pairs else None),
        load(job.validation, chats_only=chats, completion="chosen" if pairs else None)
        if job.validation
        else None,
        load(job.general, chats_only=False) if job.general else [],
    )


def _trainer(
    job: TrainingJob,
    learner: Learner,
    work: Path,
    watch: Watch,
    *,
    train: list[Example],
    validation: list[Example] | None,
) -> Trainer:
    from transformers import Trainer, TrainingArguments

    watching = watcher(watch, guessing=math.log(len(learner.tokenizer)))
    if job.method == "preference":
        trainer = preference_trainer(job, learner, _arguments(job, work, validates=validation is not None))
        trainer.add_callback(watching)
        return _with_callbacks(trainer, job, learner, validates=validation is not None)
    lengths = [len(example.input_ids) for example in train]
    kind = Trainer if job.teacher is None else distilling(Trainer, job, vocabulary=len(learner.tokenizer))
    trainer = trainer_class(kind, lengths=lengths)(
        model=learner.model,
        args=TrainingArguments(**_arguments(job, work, validates=validation is not None)),
        train_dataset=train,
        # The training loss that validation is compared with is measured in the same mode, at the same step.
        eval_dataset=None
        if validation is None
        else {"validation": validation, "train": _sample(train, len(validation))},
        data_collator=PadToLongest(learner.tokenizer.pad_token_id),
        callbacks=[watching],
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


def _sample(train: list[Example], size: int) -> list[Example]:
    """Take training examples from all over the file, as many as there are to validate with."""
    return train[:: max(len(train) // size, 1)][:size]


def _arguments(job: TrainingJob, work: Path, *, validates: bool) -> dict[str, Any]:
    given, devices = job.hyperparameters, accelerators()
    # transformers' own "constant" passes over warmup_steps in silence.
    warms_up = given.lr_scheduler_type == "constant" and given.warmup_steps
    schedule = "constant_with_warmup" if warms_up else given.lr_scheduler_type
    stops_early = validates and given.early_stopping_patience is not None
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
        "save_steps": given.eval_steps if stops_early else given.save_steps,
        "save_total_limit": 2,
        "load_best_model_at_end": stops_early,
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


def _last(trainer: Trainer, name: str, otherwise: float) -> float:
    values = [float(entry[name]) for entry in trainer.state.log_history if name in entry]
    # One batch says little: the mean over the last ones is what the training came to.
    tail = values[-20:]
    return round(sum(tail) / len(tail), 6) if tail else round(float(otherwise), 6)


def _best_validation(trainer: Trainer) -> float | None:
    losses = [
        float(entry[VALIDATION_LOSS]) for entry in trainer.state.log_history if VALIDATION_LOSS in entry
    ]
    if not losses:
        return None
    return round(min(losses) if trainer.args.load_best_model_at_end else losses[-1], 6)


def _save(job: TrainingJob, learner: Learner, work: Path, sample: Example) -> None:
    unfinished = work / f"model.{os.getpid()}"
    save(learner, unfinished)
    check_saved(learner, job, unfinished, sample.input_ids.tolist())
    target = work / "model"
    if target.exists():
        shutil.rmtree(target)
    unfinished.rename(target)
