"""The methods that leave the base as it is and train something small beside it, all through PEFT.

Owns the PEFT configuration of each method and the loading of what they saved. Knows nothing of loops.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from chains.errors import InputInvalid
from tasks.training.job import Hyperparameters, TrainingJob
from tasks.training.learner import Learner

ADALORA_START = 2


def with_adapter(job: TrainingJob, learner: Learner, *, total_steps: int) -> Learner:
    """Put the method's adapter on the learner's model; only the adapter is trained."""
    from peft import get_peft_model

    config = _config(job, learner.body, total_steps)
    try:
        with warnings.catch_warnings():
            # peft 0.21 asks transformers 5 for a property under its old name.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            return learner.with_body(get_peft_model(learner.body, config))
    except (ValueError, TypeError) as error:
        raise InputInvalid(
            f"finetune: {job.method} does not fit the base model {job.base!r} "
            f"(target_modules {job.hyperparameters.target_modules!r}): {str(error)[:200]}"
        ) from error


def load_adapter(model: Any, folder: Path, *, name: str = "default") -> Any:
    """Load an adapter on top of its base; safetensors only."""
    from peft import PeftModel

    from tasks.training import bottleneck

    bottleneck.register()
    with warnings.catch_warnings():
        # peft 0.21 asks transformers 5 for an attribute under its old name.
        warnings.simplefilter("ignore", FutureWarning)
        # The ranks of AdaLoRA are looked up under other names than those that PEFT checks.
        warnings.filterwarnings("ignore", r"The following rank_pattern keys", RuntimeWarning)
        return PeftModel.from_pretrained(model, str(folder), adapter_name=name, use_safetensors=True)


def _config(job: TrainingJob, model: Any, total_steps: int) -> Any:
    given = job.hyperparameters
    match job.trains:
        case "lora":
            return _lora(given, total_steps, task_type=_task_type(job))
        case "ia3":
            return _ia3(given, task_type=_task_type(job))
        case "adapter":
            from tasks.training import bottleneck

            bottleneck.register()
            return bottleneck.config(
                size=given.bottleneck_size, placement=given.placement, task_type=_task_type(job)
            )
        case _:
            return _virtual_tokens(job, model)


def _task_type(job: TrainingJob) -> str:
    """What PEFT calls the task: of an encoder it wraps the states alone."""
    return "CAUSAL_LM" if job.task == "causal" else "FEATURE_EXTRACTION"


def _lora(given: Hyperparameters, total_steps: int, *, task_type: str) -> Any:
    from peft import AdaLoraConfig, LoraConfig

    shared: dict[str, Any] = {
        "lora_alpha": given.lora_alpha,
        "lora_dropout": given.lora_dropout,
        "target_modules": given.target_modules,
        "task_type": task_type,
    }
    if given.lora_variant == "adalora":
        # Ranks move in the middle of training: a tenth to warm up, the last third with ranks that stay.
        return AdaLoraConfig(
            **shared,
            init_r=ADALORA_START * given.r,
            target_r=given.r,
            tinit=total_steps // 10,
            tfinal=total_steps // 3,
            total_step=total_steps,
        )
    return LoraConfig(
        **shared,
        r=given.r,
        use_dora=given.lora_variant == "dora",
        use_rslora=given.lora_variant == "rslora",
    )


def _ia3(given: Hyperparameters, *, task_type: str) -> Any:
    from peft import IA3Config

    if given.target_modules == "all-linear":
        # PEFT knows, for each kind of model, which layers the paper means.
        return IA3Config(task_type=task_type)
    feedforward = [name for name in given.target_modules if name in _FEEDFORWARD]
    return IA3Config(
        task_type=task_type, target_modules=list(given.target_modules), feedforward_modules=feedforward
    )


_FEEDFORWARD = frozenset({"down_proj", "fc2", "mlp.c_proj", "c_proj", "wo", "output.dense", "dense_4h_to_h"})


def _virtual_tokens(job: TrainingJob, model: Any) -> Any:
    from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig

    given = job.hyperparameters
    window = getattr(model.config, "max_position_embeddings", None)
    if window is not None and given.max_length + given.num_virtual_tokens > window:
        raise InputInvalid(
            f"max_length ({given.max_length}) and num_virtual_tokens ({given.num_virtual_tokens}) are "
            f"together more than the base model's window ({window})."
        )
    shared: dict[str, Any] = {"task_type": "CAUSAL_LM", "num_virtual_tokens": given.num_virtual_tokens}
    width = given.encoder_hidden_size or model.config.hidden_size
    match job.trains:
        case "prefix":
            return PrefixTuningConfig(
                **shared, prefix_projection=given.prefix_projection, encoder_hidden_size=width
            )
        case "p_tuning":
            return PromptEncoderConfig(**shared, encoder_hidden_size=width)
        case _:
            return PromptTuningConfig(**shared)
