"""The model that each method starts from, and how the trained one is stored.

Owns what differs between `scratch` and `lora`. Knows nothing of loops, batches or processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chains.errors import EnvironmentLacks, InputInvalid, StepFailed
from tasks.training.examples import read_rows, texts_of
from tasks.training.job import TrainingJob
from tasks.training.tokenizer import train_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(slots=True)
class Learner:
    """A model in its untrained state, with its tokenizer and the tokens that end an answer."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    stop_ids: list[int]

    def parameters(self) -> tuple[int, int]:
        """Count all parameters and those that are trained."""
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in self.model.parameters()]
        return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def prepare_learner(job: TrainingJob, work: Path) -> Learner:
    """Make the model and tokenizer that the job starts from."""
    return _scratch(job, work) if job.method == "scratch" else _lora(job)


def _scratch(job: TrainingJob, work: Path) -> Learner:
    from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

    shape = job.architecture
    _check_shape(shape, job.hyperparameters.max_length)
    folder = work / "tokenizer"
    if not (folder / "tokenizer_config.json").is_file():
        texts = texts_of(read_rows(job.train))
        made = train_tokenizer(
            texts, vocab_size=shape["vocab_size"], max_length=shape["max_position_embeddings"]
        )
        made.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = LlamaConfig(
        **{**shape, "vocab_size": len(tokenizer)},
        tie_word_embeddings=True,
        # Llama's 0.02 suits a width of thousands; a narrow model sits on a plateau with it for very long.
        initializer_range=shape["hidden_size"] ** -0.5,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    return Learner(model, tokenizer, [tokenizer.eos_token_id])


def _check_shape(shape: dict[str, int], max_length: int) -> None:
    hidden, heads, groups = shape["hidden_size"], shape["num_attention_heads"], shape["num_key_value_heads"]
    if hidden % heads or (hidden // heads) % 2:
        raise InputInvalid(
            f"hidden_size ({hidden}) must be an even multiple of num_attention_heads ({heads})."
        )
    if heads % groups:
        raise InputInvalid(
            f"num_attention_heads ({heads}) must be a multiple of num_key_value_heads ({groups})."
        )
    if max_length > shape["max_position_embeddings"]:
        raise InputInvalid(
            f"max_length ({max_length}) is more than max_position_embeddings "
            f"({shape['max_position_embeddings']})."
        )


def load_base(folder: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model in float32 from a folder; safetensors only, no remote code."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            folder, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
    except (OSError, ValueError) as error:
        raise EnvironmentLacks(
            f"The model in {folder!r} cannot be loaded: {str(error)[:200]}",
            hint="It needs config.json, tokenizer files and safetensors.",
        ) from error
    return model, tokenizer


def _lora(job: TrainingJob) -> Learner:
    from peft import LoraConfig, get_peft_model

    assert job.base is not None, "chains.spec asks for a base with lora"
    model, tokenizer = load_base(job.base)
    given = job.hyperparameters
    window = getattr(model.config, "max_position_embeddings", None)
    if window is not None and given.max_length > window:
        raise InputInvalid(
            f"max_length ({given.max_length}) is more than the base model's window ({window})."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    stop_ids = _stop_ids(model, tokenizer)
    config = LoraConfig(
        r=given.r,
        lora_alpha=given.lora_alpha,
        lora_dropout=given.lora_dropout,
        target_modules=given.target_modules,
        task_type="CAUSAL_LM",
    )
    try:
        return Learner(get_peft_model(model, config), tokenizer, stop_ids)
    except ValueError as error:
        raise InputInvalid(
            f"target_modules {given.target_modules!r} do not fit the base model {job.base!r}: "
            f"{str(error)[:200]}"
        ) from error


def _stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    configured = model.generation_config.eos_token_id if model.generation_config else None
    several = configured if isinstance(configured, list) else [configured]
    return sorted({one for one in [*several, tokenizer.eos_token_id] if one is not None})


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

    reloaded = _reload(job, folder)
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


def _reload(job: TrainingJob, folder: Path) -> Any:
    if job.method == "scratch":
        return load_base(str(folder))[0]
    from peft import PeftModel

    assert job.base is not None
    return PeftModel.from_pretrained(load_base(job.base)[0], str(folder))
