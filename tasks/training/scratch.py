"""A model that is trained from nothing: a Llama of the shape that was asked for, and a tokenizer.

The tokenizer is learnt from the examples, or it is that of a teacher whose distributions are compared.

Knows nothing of loops, batches or processes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chains.errors import InputInvalid
from tasks.training.examples import read_rows, texts_of
from tasks.training.job import TrainingJob
from tasks.training.learner import Learner
from tasks.training.tokenizer import train_tokenizer


def learner_from_nothing(job: TrainingJob, work: Path) -> Learner:
    """Learn a tokenizer, or take the one that is there, and make a model with random weights."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    shape = job.architecture
    _check_shape(shape, job.hyperparameters.max_length)
    tokenizer = _tokenizer(job, work)
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


def _tokenizer(job: TrainingJob, work: Path) -> Any:
    from transformers import AutoTokenizer

    if job.teacher is not None:
        own = (Path(job.teacher) / "tokenizer_config.json").is_file()
        return AutoTokenizer.from_pretrained(
            job.teacher if own else job.teacher_base, trust_remote_code=False
        )
    folder = work / "tokenizer"
    if not (folder / "tokenizer_config.json").is_file():
        made = train_tokenizer(
            texts_of(read_rows(job.train)),
            vocab_size=job.architecture["vocab_size"],
            max_length=job.architecture["max_position_embeddings"],
        )
        made.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


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
