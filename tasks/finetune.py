"""The finetune step: train a model on prepared examples, and publish it.

Owns the way from a step to a training job, the value key, the gate and the publishing. Knows nothing of how
training works (tasks.training). A model that was trained from the same base, data and parameters is found
again and not trained anew; a training that was cut off goes on from its last whole checkpoint.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from chains.errors import EnvironmentLacks, GateNotMet, InputInvalid, Refused
from chains.keys import canonical, key_of
from chains.spec import FinetuneStep
from chains.spec.distilling import DISTILL_KEYS
from chains.spec.finetuning import CHOOSING, ONLY_FOR_TASK
from chains.store.files import atomic_write
from chains.templates import evaluate, render_value
from tasks.context import OnceJob, Progress, RowResult, StepContext
from tasks.providers.weights import Reach, Weights, find_weights, starter_weights
from tasks.publishing import finish_files, publish
from tasks.teaching import Taught, answers_of_teacher, check_vocabularies
from tasks.training import Hyperparameters, TrainingJob, TrainingProgress, TrainingResult, train
from tasks.training.card import Origin
from tasks.training.job import deciding_libraries
from tasks.training.licence import licence_of
from tasks.training.pictures import losses_svg

if TYPE_CHECKING:
    from chains.loading import ChainFile
    from chains.store import Store
    from tasks.training.counting import Counts

LEARNING_RATES = {
    "scratch": 3e-4,
    "full": 2e-5,
    "transfer": 1e-4,
    "lora": 2e-4,
    "adapter": 1e-3,
    "ia3": 3e-3,
    "prefix": 1e-2,
    "prompt_tuning": 1e-2,
    "p_tuning": 1e-2,
}
PREFERENCE_LEARNING_RATES = {"full": 1e-6, "lora": 1e-5}
CLASSIFICATION_LEARNING_RATES = {"full": 1e-4, "transfer": 2e-4, "lora": 1e-3}
MOST_KEPT = 200


@dataclass(frozen=True, slots=True)
class Base:
    """What an adapter is trained on: its files, what a model row says of it, and the hash of its weights."""

    folder: Path
    described: dict[str, Any]
    sha256: str


async def run_once(ctx: StepContext, job: OnceJob) -> RowResult:
    """Train what the step says, publish it, and return the model's name and how the training went."""
    step = cast(FinetuneStep, ctx.step)
    if step.finetune == "openai":
        from tasks.hosting.running import run_hosted

        return await run_hosted(ctx, step, job, _data_files(ctx, step, job))
    base = base_of(step, ctx.step_id, ctx.chain_file, store=ctx.store, reach=ctx.providers.reach)
    teacher = _teacher_of(ctx, step, base)
    files = _data_files(ctx, step, job)
    hashes = {part: _sha256(path) if path else None for part, path in files.items()}
    taught = await answers_of_teacher(ctx, step, files) if _asks_teacher(step) else {}
    hashes |= {part: one.sha256 for part, one in taught.items()}
    parameters = _parameters(step)
    weights_key = _weights_key(step, base, hashes, parameters, teacher=teacher)
    passing = {"gate": step.gate, "max_forgetting": step.max_forgetting}
    key = key_of("finetune", {"weights": weights_key, "publish": step.publish, **passing})
    inputs = {"data": {part: str(path) if path else None for part, path in files.items()}, "sha256": hashes}
    reused = _reusable(ctx, key)
    if reused is not None:
        return dataclasses.replace(reused, inputs=inputs)
    work = ctx.store.folder("work") / weights_key
    files |= _written(work, taught)
    order = TrainingJob(
        method=step.finetune,
        train=str(files["train"]),
        validation=str(files["validation"]) if files["validation"] else None,
        general=str(files["general"]) if files["general"] else None,
        base=str(base.folder) if base else None,
        task=step.task,
        architecture=step.architecture.model_dump() if base is None else {},
        teacher=str(teacher.folder) if teacher else None,
        teacher_base=str(teacher.base) if teacher and teacher.base else None,
        hyperparameters=Hyperparameters(**parameters),
        threads=ctx.settings.torch_threads,
    )
    result = await train(order, work, _reporter(ctx, job))
    _check_gate(step, result)
    described = base.described if base else None
    origin = Origin(
        base=canonical(described).decode() if described else "none: trained from nothing",
        data=hashes,
        chain=ctx.chain_file.chain.chain,
        step=ctx.step_id,
        parameters={
            **parameters,
            **({"architecture": order.architecture} if order.architecture else {}),
            **({"teacher": _described_teacher(ctx, step)} if step.teacher else {}),
        },
        licence=licence_of(base.folder) if base else None,
    )
    finish_files(work / "model", step=step, order=order, result=result, origin=origin, described=described)
    model, version = await publish(
        ctx, step, work, key=weights_key, described=described, result=result, origin=origin
    )
    output = {
        "model": model,
        "method": step.finetune,
        "task": step.task,
        "base": described,
        "version": version,
        **result.metrics(),
        "history": result.history,
        "curve": result.curve,
    }
    if taught:
        output["questions"] = sum(one.examples + one.unanswered for one in taught.values())
        output["unanswered"] = sum(one.unanswered for one in taught.values())
    if (drawn := losses_svg(result.curve, result.history)) is not None:
        output["files"] = {"losses.svg": await asyncio.to_thread(ctx.store.put_blob, drawn.encode())}
    # Training runs on this machine: it takes time and costs no money.
    return RowResult(output=output, value_key=key, inputs=inputs, tokens_in=result.tokens, cost_micro=0)


def count_parameters(
    step: FinetuneStep, step_id: str, chain_file: ChainFile, *, store: Store, reach: Reach
) -> Counts:
    """Count what the step would train and store; reads the base's configuration and none of its weights."""
    from tasks.training.counting import count

    base = base_of(step, step_id, chain_file, store=store, reach=reach)
    return count(
        TrainingJob(
            method=step.finetune,
            train=str(chain_file.folder / step.data.train),
            base=str(base.folder) if base else None,
            task=step.task,
            architecture=step.architecture.model_dump() if base is None else {},
            hyperparameters=Hyperparameters(**_parameters(step)),
        )
    )


def base_of(
    step: FinetuneStep, step_id: str, chain_file: ChainFile, *, store: Store, reach: Reach
) -> Base | None:
    """Find the model that a step starts from; None for a step that starts from nothing."""
    if step.base is None:
        return None
    model = chain_file.chain.models.get(step.base)
    if model is not None and model.provider == "openai":
        raise InputInvalid(
            f"step {step_id!r}: base {step.base!r} is behind an endpoint, so it cannot be tuned here.",
            hint="Name a model of provider local or starter.",
        )
    weights, described = _weights_of(step.base, chain_file, store=store, reach=reach)
    if weights.base is not None:
        raise InputInvalid(
            f"step {step_id!r}: base {step.base!r} is an adapter.",
            hint="Train on the model that it was made for.",
        )
    return Base(weights.folder, described, weights.sha256)


def _weights_of(
    named: str, chain_file: ChainFile, *, store: Store, reach: Reach
) -> tuple[Weights, dict[str, Any]]:
    """Find a model on this machine by what a step calls it, and how a model row says so."""
    model = chain_file.chain.models.get(named)
    if model is not None and model.provider == "starter":
        return starter_weights(), {"provider": "starter"}
    name = (model.model if model is not None else None) or named
    revision = model.revision if model is not None else None
    beside = chain_file.folder / str(name)
    name = _pinned(store, str(beside.resolve()) if beside.is_dir() else str(name))
    weights = find_weights(name, revision=revision, store=store, reach=reach)
    return weights, {"provider": "local", "model": name, **({"revision": revision} if revision else {})}


def _asks_teacher(step: FinetuneStep) -> bool:
    return step.finetune == "distill" and step.level == "sequence"


def _teacher_of(ctx: StepContext, step: FinetuneStep, base: Base | None) -> Weights | None:
    """Find the weights of a teacher whose distributions are learnt; check that they fit the student's."""
    if step.teacher is None or _asks_teacher(step):
        return None
    weights, _ = _weights_of(step.teacher, ctx.chain_file, store=ctx.store, reach=ctx.providers.reach)
    if base is not None:
        check_vocabularies(weights, base.folder, step)
    return weights


def _described_teacher(ctx: StepContext, step: FinetuneStep) -> dict[str, Any]:
    """Return what a card and a lineage say of the teacher; of one behind an endpoint never its address."""
    assert step.teacher is not None
    model = ctx.providers.described(step.teacher)
    return {
        "provider": model.provider,
        **({"model": model.model} if model.model else {}),
        "level": step.level,
    }


def _written(work: Path, taught: Mapping[str, Taught]) -> dict[str, Path]:
    """Write what the teacher answered beside what is trained on it; the folder's name has its hash."""
    paths = {part: work / f"taught-{part}.jsonl" for part in taught}
    for part, path in paths.items():
        work.mkdir(parents=True, exist_ok=True)
        atomic_write(path, taught[part].content)
    return paths


def _pinned(store: Store, name: str) -> str:
    """Turn `models:NAME@latest` into the version that it means now: an adapter fits no other one."""
    if not name.startswith("models:") or not (name.endswith("@latest") or "@" not in name):
        return name
    row = store.model(name.removeprefix("models:").split("@")[0])
    return f"models:{row.name}@{row.version}" if row else name


def _data_files(ctx: StepContext, step: FinetuneStep, job: OnceJob) -> dict[str, Path | None]:
    return {
        "train": _data_file(ctx, job, "train", step.data.train),
        "validation": _data_file(ctx, job, "validation", step.data.validation),
        "general": _data_file(ctx, job, "general", step.data.general),
    }


def _data_file(ctx: StepContext, job: OnceJob, part: str, source: str | None) -> Path | None:
    given = render_value(source, job.scope) if source is not None else None
    if given is None and part != "train":
        return None
    if not isinstance(given, str) or not given.strip():
        raise InputInvalid(
            f"step {ctx.step_id!r}: data.{part} came out as {given!r:.200}, not as the path of a file.",
            hint="A part that got no rows is null: give more rows, or another split.",
        )
    path = (ctx.chain_file.folder / given).resolve()
    if not _may_read(ctx, path):
        raise Refused(
            f"step {ctx.step_id!r}: data.{part} is {str(path)!r}, outside the chain's folder and the store.",
            hint="Move it there, or set HEADRACE_READ_OUTSIDE=true on this machine.",
        )
    if not path.is_file():
        raise EnvironmentLacks(f"step {ctx.step_id!r}: data.{part}: there is no file {str(path)!r}.")
    return path


def _may_read(ctx: StepContext, path: Path) -> bool:
    roots = (ctx.chain_file.folder.resolve(), Path(ctx.store.path).resolve())
    return ctx.settings.read_outside or any(path.is_relative_to(root) for root in roots)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parameters(step: FinetuneStep) -> dict[str, Any]:
    # Without those of a teacher where there is none, so that keys made before there were any still hold.
    taught = step.finetune == "distill"
    foreign = {*(() if taught else DISTILL_KEYS), *_foreign_to(step.task)}
    names = [field.name for field in dataclasses.fields(Hyperparameters) if field.name not in foreign]
    values = {name: getattr(step, name) for name in names}
    return {**values, "learning_rate": step.learning_rate or _usual_rate(step)}


def _foreign_to(task: str) -> set[str]:
    """Return the keys of other tasks than this one that causal models had none of."""
    return {name for name in ("head", "C", "scale") if task not in ONLY_FOR_TASK[name]}


def _usual_rate(step: FinetuneStep) -> float:
    what = step.trains if step.finetune in CHOOSING else step.finetune
    what = "scratch" if step.base is None else what
    if step.finetune == "preference":
        return PREFERENCE_LEARNING_RATES[what]
    if step.task == "classification" and what in CLASSIFICATION_LEARNING_RATES:
        return CLASSIFICATION_LEARNING_RATES[what]
    # A linear probe takes no steps.
    return LEARNING_RATES.get(what, 1.0)


def _weights_key(
    step: FinetuneStep,
    base: Base | None,
    hashes: Mapping[str, str | None],
    parameters: Mapping[str, Any],
    *,
    teacher: Weights | None,
) -> str:
    """Hash what decides the weights; a gate that said no does not make them worth training again."""
    from importlib.metadata import version

    return key_of(
        "weights",
        {
            "method": step.finetune,
            **({"task": step.task} if step.task != "causal" else {}),
            "base": base.sha256 if base else None,
            "described": base.described if base else None,
            "architecture": step.architecture.model_dump() if base is None else None,
            # Only where there is one, so that keys of what was trained without stay what they are.
            **({"teacher": teacher.sha256} if teacher else {}),
            "data": dict(hashes),
            "parameters": dict(parameters),
            "versions": {name: version(name) for name in deciding_libraries(step.task)},
        },
    )


def _reusable(ctx: StepContext, key: str) -> RowResult | None:
    record = ctx.store.reusable([key]).get(key)
    if record is None or record.output is None:
        return None
    output = json.loads(record.output)
    if not _is_there(ctx, str(output["model"]), output["version"]):
        return None
    return RowResult(output=output, value_key=key, reused_from=record.id)


def _is_there(ctx: StepContext, model: str, version: int | None) -> bool:
    if version is None:
        return Path(model).is_dir()
    return ctx.store.model(model.removeprefix("models:").split("@")[0], version) is not None


def _reporter(ctx: StepContext, job: OnceJob) -> Callable[[TrainingProgress], None]:
    """Pass progress on; every evaluation and checkpoint is in the step's record while training runs."""
    history: list[dict[str, Any]] = []

    def report(progress: TrainingProgress) -> None:
        ctx.report(
            Progress(ctx.step_id, "message", text=progress.text, done=progress.step, total=progress.total)
        )
        if progress.milestone is not None and job.opening is not None:
            said = dataclasses.asdict(progress)
            history.append({name: value for name, value in said.items() if name != "text"})
            output = canonical({"history": history[-MOST_KEPT:]})
            ctx.store.put(dataclasses.replace(job.opening, output=output))

    return report


def _check_gate(step: FinetuneStep, result: TrainingResult) -> None:
    forgotten = result.forgetting
    if step.max_forgetting is not None and forgotten and forgotten["high"] > step.max_forgetting:
        raise GateNotMet(
            f"The model may have forgotten too much: the loss on the general set rose by "
            f"{forgotten['value']:.3f} nats per token (95 % interval {forgotten['low']:.3f} to "
            f"{forgotten['high']:.3f}), max_forgetting is {step.max_forgetting:g}; nothing was published.",
            hint="Mix general data in (rehearsal: 0.1), lower learning_rate, or train fewer steps.",
        )
    if step.gate is None:
        return
    metrics = result.metrics()
    if not evaluate(step.gate, metrics):
        raise GateNotMet(
            f"The gate {step.gate!r} is false for {metrics}; nothing was published.",
            hint="Train longer, on more data, or lower the gate.",
        )
