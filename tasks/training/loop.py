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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chains.errors import Cancelled, TrainingDiverged
from tasks.training.batches import PadToLongest
from tasks.training.checkpoints import newest_whole, step_of
from tasks.training.examples import Example, load_examples
from tasks.training.job import TrainingJob, TrainingResult
from tasks.training.learner import Learner
from tasks.training.methods import prepared, untrained
from tasks.training.rank_allocation import rank_allocation
from tasks.training.saving import check_moved, check_saved, save, snapshot
from tasks.training.trainer import trainer_class

if TYPE_CHECKING:
    from transformers import Trainer

SMALL_MODEL = 20_000_000
EXPLODED = 3.0
FIRST_LOSSES = 5


@dataclass(frozen=True, slots=True)
class Watch:
    """How the loop talks to whoever started it."""

    report: Callable[[dict[str, Any]], None]
    should_stop: Callable[[], bool]


def run(job: TrainingJob, work: Path, watch: Watch) -> TrainingResult:
    """Train what the job says in the folder `work` and leave the model in `work`/model."""
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
    train, validation = _examples(job, learner)
    learner = prepared(job, learner, total_steps=steps_of(job, len(train)))
    total, trained = learner.parameters()
    set_threads(job, total)
    found = newest_whole(work / "checkpoints")
    checkpoint = found.whole
    for name in found.damaged:
        going_on = f"going on from {checkpoint.name}" if checkpoint else "beginning anew"
        watch.report({"event": "phase", "text": f"{name} is damaged or half-written: {going_on}"})
    watch.report({"event": "phase", "text": f"training {trained:,} of {total:,} parameters"})
    before = snapshot(learner.model)
    trainer = _trainer(job, learner, work, watch, train=train, validation=validation)
    output = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if watch.should_stop():
        raise Cancelled(
            f"Training was stopped at step {trainer.state.global_step}.", hint="Its checkpoint is kept."
        )
    check_moved(learner.model, before)
    _save(job, learner, work, train[0])
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
        versions=versions(),
    )


def versions() -> dict[str, str]:
    """Return the versions of the libraries that decide the weights."""
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "peft", "tokenizers")}


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


def _examples(job: TrainingJob, learner: Learner) -> tuple[list[Example], list[Example] | None]:
    def load(path: str) -> list[Example]:
        return load_examples(
            path,
            learner.tokenizer,
            stop_ids=learner.stop_ids,
            max_length=job.hyperparameters.max_length,
            chats_only=job.method == "instruction",
        )

    return load(job.train), load(job.validation) if job.validation else None


def _trainer(
    job: TrainingJob,
    learner: Learner,
    work: Path,
    watch: Watch,
    *,
    train: list[Example],
    validation: list[Example] | None,
) -> Trainer:
    from transformers import EarlyStoppingCallback, PrinterCallback, Trainer

    given = job.hyperparameters
    lengths = [len(example.input_ids) for example in train]
    trainer = trainer_class(Trainer, lengths=lengths)(
        model=learner.model,
        args=_arguments(job, work, validates=validation is not None),
        train_dataset=train,
        eval_dataset=validation,
        data_collator=PadToLongest(learner.tokenizer.pad_token_id),
        callbacks=[_watcher(watch, guessing=math.log(len(learner.tokenizer)))],
    )
    trainer.remove_callback(PrinterCallback)
    if (allocation := rank_allocation(learner.model)) is not None:
        trainer.add_callback(allocation)
    if validation is not None and given.early_stopping_patience is not None:
        trainer.add_callback(EarlyStoppingCallback(given.early_stopping_patience))
    return trainer


def _arguments(job: TrainingJob, work: Path, *, validates: bool) -> Any:
    import torch
    from transformers import TrainingArguments

    given = job.hyperparameters
    stops_early = validates and given.early_stopping_patience is not None
    return TrainingArguments(
        output_dir=str(work / "checkpoints"),
        use_cpu=not torch.cuda.is_available(),
        seed=given.seed,
        data_seed=given.seed,
        num_train_epochs=given.num_train_epochs,
        max_steps=given.max_steps or -1,
        per_device_train_batch_size=given.per_device_train_batch_size,
        per_device_eval_batch_size=given.per_device_train_batch_size,
        gradient_accumulation_steps=given.gradient_accumulation_steps,
        learning_rate=given.learning_rate,
        warmup_steps=given.warmup_steps,
        weight_decay=given.weight_decay,
        max_grad_norm=given.max_grad_norm,
        bf16=torch.cuda.is_available() if given.bf16 is None else given.bf16,
        activation_checkpointing=given.gradient_checkpointing,
        lr_scheduler_type=given.lr_scheduler_type,
        eval_strategy="steps" if validates else "no",
        eval_steps=given.eval_steps if validates else None,
        save_strategy="steps",
        # The best model can only be kept where a checkpoint is written at each evaluation.
        save_steps=given.eval_steps if stops_early else given.save_steps,
        save_total_limit=2,
        load_best_model_at_end=stops_early,
        metric_for_best_model="eval_loss" if validates else None,
        logging_steps=1,
        # Without this a NaN is logged as the last good loss, and nobody sees it.
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="non_padding",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        log_level="error",
    )


def _watcher(watch: Watch, *, guessing: float) -> Any:
    """Make the callback; `guessing` is the loss of a model that finds every token equally likely."""
    from transformers import TrainerCallback

    # transformers is not followed by mypy, so its classes are Any there.
    class Watcher(TrainerCallback):  # type: ignore[misc]
        """Reports each step, stops when asked to, and raises when the loss runs away."""

        def __init__(self) -> None:
            self.first: list[float] = []

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" in (logs or {}):
                self._check(state.global_step, logs)
                watch.report(
                    {
                        "event": "step",
                        "step": state.global_step,
                        "total": state.max_steps,
                        "loss": float(logs["loss"]),
                        "learning_rate": float(logs.get("learning_rate", 0.0)),
                        "tokens": int(state.num_input_tokens_seen),
                    }
                )
            elif "eval_loss" in (logs or {}):
                watch.report(
                    {"event": "validation", "step": state.global_step, "loss": float(logs["eval_loss"])}
                )

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if watch.should_stop():
                control.should_training_stop = True
                control.should_save = True

        def _check(self, step: int, logs: dict[str, Any]) -> None:
            loss, rate = float(logs["loss"]), float(logs.get("learning_rate", 0.0))
            norm = float(logs.get("grad_norm", 0.0))
            self.first = self.first if len(self.first) >= FIRST_LOSSES else [*self.first, loss]
            # A base that knows the task starts near zero: only what is worse than guessing has run away.
            exploded = loss > max(EXPLODED * max(self.first), guessing)
            if not math.isfinite(loss) or not math.isfinite(norm) or exploded:
                raise TrainingDiverged(
                    f"Training diverged at step {step}: loss {loss:.4g}, gradient norm {norm:.4g}, "
                    f"learning rate {rate:.3g}.",
                    hint="Lower learning_rate, raise warmup_steps, or look for broken rows in the data.",
                )

    return Watcher()


def _last(trainer: Trainer, name: str, otherwise: float) -> float:
    values = [float(entry[name]) for entry in trainer.state.log_history if name in entry]
    # One batch says little: the mean over the last ones is what the training came to.
    tail = values[-20:]
    return round(sum(tail) / len(tail), 6) if tail else round(float(otherwise), 6)


def _best_validation(trainer: Trainer) -> float | None:
    losses = [float(entry["eval_loss"]) for entry in trainer.state.log_history if "eval_loss" in entry]
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
