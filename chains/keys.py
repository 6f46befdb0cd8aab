"""Value keys: hashes over everything that decides an answer, and over nothing else.

Owns canonical JSON, `key_of`, and the table of which field of chains.spec enters a key and which is left out
on purpose. Knows nothing of how a kind renders its values or of the store that looks keys up.

Invariant: two values have equal bytes exactly when they are the same JSON value with the same number types.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, Final

from chains.errors import InputInvalid
from chains.spec import (
    ApproveStep,
    Architecture,
    ChainStep,
    Check,
    Chunking,
    Clean,
    Collection,
    Comparison,
    EmbedStep,
    EvaluateStep,
    FinetuneStep,
    Judge,
    Leaks,
    Model,
    Part,
    PrepareStep,
    PromptStep,
    PythonStep,
    RepeatStep,
    RetrieveStep,
    Split,
    TrainingFiles,
)

MAX_DEPTH = 200


def canonical(value: Any) -> bytes:
    """Return the canonical JSON of a value: sorted keys, no spaces, UTF-8.

    `1`, `1.0` and `true` are three values: a template prints them differently, so they ask a model different
    things. `-0.0` is `0.0`, its equal. A tuple is an array. A lone surrogate is written as its escape
    (`\\ud800`), which no other text produces. NaN, Infinity, keys that are no text and objects that are no
    JSON raise InputInvalid with the place, since equal ones could not be told from different ones.
    """
    plain = _plain(value, "$", 0)
    text = _CANONICAL.encode(plain)
    # Surrogates are all that UTF-8 cannot take, and the replacement is their JSON escape.
    return text.encode("utf-8", "backslashreplace")


_CANONICAL: Final = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
)


def key_of(kind: str, parts: Mapping[str, Any]) -> str:
    """Return the value key of one answer: the SHA-256, in hex, of its kind and of what decides it."""
    taken = {"v", "kind"} & parts.keys()
    if taken:
        raise ValueError(f"a key has its own {sorted(taken)}; name the part otherwise")
    return hashlib.sha256(canonical({"v": 1, "kind": kind, **parts})).hexdigest()


def deciding(part: Part) -> dict[str, Any]:
    """Return the fields of a step, model or collection that enter a key, as JSON values."""
    return part.model_dump(mode="json", include=set(IN_KEY[type(part)]))


def _plain(value: Any, path: str, depth: int) -> Any:
    """Copy a value into the exact JSON types, or say where it is not JSON."""
    if value is None or value is True or value is False or type(value) is str:
        return value
    if depth > MAX_DEPTH:
        raise InputInvalid(f"the value at {path[:200]} is nested deeper than {MAX_DEPTH} levels.")
    match value:
        case str():
            return str.__str__(value)
        case int():
            return _integer(value, path)
        case float():
            return _number(value, path)
        case list() | tuple() if set(map(type, value)) == {float} and all(map(math.isfinite, value)):
            # A vector: item by item, its way into a record took as long as making it.
            return [item or 0.0 for item in value]
        case list() | tuple():
            return [_plain(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
        case dict():
            return {_key(key, path): _plain(item, f"{path}.{key}", depth + 1) for key, item in value.items()}
        case _:
            raise InputInvalid(
                f"the value at {path[:200]} is a {type(value).__name__}, which is not JSON.",
                hint="Use text, numbers, true, false, null, lists and objects.",
            )


def _integer(value: int, path: str) -> int:
    if value.bit_length() > 14_000:  # Python prints up to 4,300 digits
        raise InputInvalid(f"the integer at {path[:200]} has too many digits.")
    return int(value)


def _number(value: float, path: str) -> float:
    if not math.isfinite(value):
        raise InputInvalid(f"the number at {path[:200]} is {float(value)!r}, which is not JSON.")
    return float(value) or 0.0


def _key(key: Any, path: str) -> str:
    if not isinstance(key, str):
        raise InputInvalid(f"the object at {path[:200]} has the key {key!r:.200}, which is no text.")
    return str.__str__(key)


_OUT_STEP = {
    "description": "shown only",
    "when": "decides whether the step runs, not what it answers",
    "after": "decides when the step runs",
    "on_skip": "decides whether the step runs",
    "once": "changes what references mean, and the values that they give are in the key",
    "retry": "how often a call is tried",
    "timeout": "how long a call may take",
    "pool": "where the step runs",
}
_OUT_KEPT = {**_OUT_STEP, "cache": "decides whether a result is used again; with `run` the run's id enters"}
_OUT_CALLING = {
    **_OUT_KEPT,
    "deadline": "how long all tries may take",
    "on_ambiguous": "whether a doubtful call is made again",
    "budget": "whether a call is made",
}

_OUT_MAPPED = {
    "map": "each item is asked for itself, and its value is in the key where it is read",
    "as_": "what the item is called",
    "max_concurrency": "how many items run at once",
    "on_error": "what becomes of the list",
}

IN_KEY: Mapping[type[Part], Mapping[str, str]] = {
    PromptStep: {
        "prompt": "as the rendered messages",
        "model": "as the provider's identity",
        "output": "as the JSON Schema that it stands for",
        "on_length": "decides whether half an answer is one",
    },
    EmbedStep: {
        "embed": "as the texts or the hashes of the documents",
        "into": "as the collection's own fields",
        "chunk": "decides what is embedded",
        "model": "as the provider's identity",
    },
    RetrieveStep: {
        "retrieve": "as the identity of the collection and of what it holds",
        "query": "as the rendered text",
        "top_k": "how many hits",
        "min_score": "which hits",
    },
    PythonStep: {
        "python": "as the function's file",
        "args": "as the rendered values",
    },
    RepeatStep: {},
    ChainStep: {},
    ApproveStep: {
        "approve": "as the question",
        "show": "as what is shown",
        "fields": "decides what an answer is",
    },
    PrepareStep: {
        "prepare": "as the hash of the file",
        "like": "as the sources of that step's messages",
        "completion": "as the template's source",
        "text": "as the template's source",
        "fields": "as the templates' sources",
        "format": "decides how an example is written",
        "clean": "decides the texts and which rows stay",
        "near_duplicates": "decides which rows stay",
        "tokens": "as the hash of the tokenizer",
        "leaks": "decides whether the step passes",
        "deduplicate": "decides which rows stay",
        "split": "decides which row goes where",
    },
    FinetuneStep: {
        "base": "as the hash of its weights",
        "data": "as the hashes of the files",
        "publish": "the name in the step's outputs",
        "gate": "decides whether anything is published",
        "max_forgetting": "decides whether anything is published",
        "save_steps": "the best checkpoint is one of those that were saved",
        "teacher": "as its answers, or as the hash of its weights",
        "max_unanswered": "decides whether anything is trained",
        **dict.fromkeys(
            (
                "finetune",
                "task",
                "architecture",
                "learning_rate",
                "num_train_epochs",
                "max_steps",
                "per_device_train_batch_size",
                "gradient_accumulation_steps",
                "packing",
                "gradient_checkpointing",
                "bf16",
                "warmup_steps",
                "weight_decay",
                "max_grad_norm",
                "lr_scheduler_type",
                "max_length",
                "seed",
                "eval_steps",
                "early_stopping_patience",
                "rehearsal",
                "trains",
                "head",
                "C",
                "scale",
                "beta",
                "freeze",
                "train_last",
                "r",
                "lora_alpha",
                "lora_dropout",
                "lora_variant",
                "target_modules",
                "num_virtual_tokens",
                "prefix_projection",
                "encoder_hidden_size",
                "bottleneck_size",
                "placement",
                "level",
                "temperature",
                "jsd_beta",
                "label_weight",
                "method",
                "n_epochs",
                "batch_size",
                "learning_rate_multiplier",
            ),
            "decides the weights",
        ),
        "suffix": "decides the hosted model's name",
    },
    EvaluateStep: {
        "evaluate": "as the rendered predictions and references",
        "metrics": "decides what is computed",
        "judges": "as the messages that each judge is sent",
        "checks": "decides what is computed; a rubric as the messages that the model is sent",
        "model": "as the provider's identity",
        "embedder": "as the provider's identity",
        "language_model": "as the provider's identity",
        "timed": "decides what is computed",
        "gate": "decides whether the step passes",
    },
    Judge: dict.fromkeys(
        ("ask", "rubric", "scale", "question", "context", "against", "human", "model"),
        "as the messages that the judge is sent, or as what it is compared with",
    ),
    Check: dict.fromkeys(
        ("name", "contains", "equals", "regex", "is_json", "rubric", "python"), "decides what is computed"
    ),
    Chunking: {"tokens": "decides the chunks", "overlap": "decides the chunks"},
    Split: dict.fromkeys(
        ("train", "validation", "test", "seed", "group", "stratify"), "decides which row goes where"
    ),
    Clean: dict.fromkeys(
        (
            "columns",
            "unicode",
            "html",
            "whitespace",
            "lowercase",
            "stop_words",
            "mask",
            "languages",
            "min_chars",
            "max_chars",
            "max_tokens",
        ),
        "decides the texts and which rows stay",
    ),
    Leaks: dict.fromkeys(("similarity", "max"), "decides whether the step passes"),
    TrainingFiles: dict.fromkeys(("train", "validation", "general"), "as the hash of the file"),
    Architecture: dict.fromkeys(
        (
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "vocab_size",
            "max_position_embeddings",
        ),
        "decides the weights",
    ),
    Comparison: dict.fromkeys(("prediction", "reference", "confidence"), "as the rendered values"),
    Model: {
        "provider": "who answers",
        "model": "who answers; a local one as the hash of its weights",
        "revision": "who answers",
        "base_url": "who answers",
        "api_version": "who answers",
        "headers": "who answers; as they are written, without what env gives",
        "temperature": "sampling",
        "top_p": "sampling",
        "max_tokens": "where an answer ends",
        "seed": "sampling",
        "stop": "where an answer ends",
        "dtype": "changes the weights",
    },
    Collection: {
        "embedder": "as the provider's identity",
        "distance": "decides the order of hits",
    },
}
"""Per model of chains.spec: each field that decides an answer, and in which form it enters the key."""

LEFT_OUT: Mapping[type[Part], Mapping[str, str]] = {
    PromptStep: {
        **_OUT_CALLING,
        **_OUT_MAPPED,
        "reask": "an answer that fits stays right however often one may ask",
        "samples": "each is asked for itself, with its number in the key",
        "vote": "decides what the samples come to, each of which has its own key",
        "quorum": "decides whether the samples come to anything",
    },
    EmbedStep: {**_OUT_CALLING, **_OUT_MAPPED},
    RetrieveStep: {**_OUT_CALLING, **_OUT_MAPPED},
    PythonStep: {**_OUT_STEP, **_OUT_MAPPED},
    RepeatStep: {
        **_OUT_STEP,
        **_OUT_MAPPED,
        "repeat": "each turn asks for itself",
        "steps": "each step inside has keys of its own",
    },
    ChainStep: {
        **_OUT_STEP,
        **_OUT_MAPPED,
        "chain": "each step inside has keys of its own",
        "inputs": "their values are in the keys of the steps that read them",
    },
    ApproveStep: {**_OUT_STEP, "on_timeout": "what happens where nobody answers"},
    PrepareStep: _OUT_KEPT,
    FinetuneStep: _OUT_CALLING,
    EvaluateStep: _OUT_CALLING,
    Model: {
        "api_key": "a secret, and it does not change the answer",
        "device": "where the model runs; its number format is in the key",
        "pool": "where the model runs",
        "limits": "how fast it is asked",
        "organization": "who pays",
        "project": "who pays",
        "price": "what it costs",
    },
    Collection: {
        "url": "where the vectors are kept; what they are is in the key",
        "api_key": "a secret, and it does not change the hits",
    },
}
"""Per model of chains.spec: each field that is in no key, and why."""
