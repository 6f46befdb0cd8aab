"""Text classifiers in memory: texts in, labels with their probabilities out.

Owns the files that make a folder a classifier and the batches. Knows nothing of requests; runs in the worker
thread of tasks.providers.batching. An adapter is merged into its encoder where it can be.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chains.errors import ContextOverflow, EnvironmentLacks, InputInvalid

if TYPE_CHECKING:
    from tasks.providers.weights import Weights

CLASSIFIER = "classifier.json"
HEAD = "classifier.safetensors"


@dataclass(frozen=True, slots=True)
class ClassifierFile:
    """What `classifier.json` says: the labels in the order of the head's rows, and how texts are pooled."""

    labels: tuple[str, ...]
    pooling: str


def read_classifier(folder: Path) -> ClassifierFile:
    """Read a folder's `classifier.json`; raises InputInvalid where it is none of ours."""
    path = folder / CLASSIFIER
    try:
        said = json.loads(path.read_bytes())
        labels, pooling = said["labels"], said["pooling"]
        if pooling not in ("mean", "cls") or not all(isinstance(label, str) for label in labels):
            raise ValueError("labels are texts, and pooling is mean or cls")
    except (ValueError, KeyError, TypeError) as error:
        raise InputInvalid(f"{str(path)!r} does not describe a classifier: {error}") from error
    if not (folder / HEAD).is_file():
        raise EnvironmentLacks(f"There is no {HEAD} beside {str(path)!r}.", hint="Publish the model anew.")
    return ClassifierFile(tuple(labels), pooling)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The likeliest label of a text and its probability."""

    label: str
    score: float


class Classifier:
    """One classifier on one device in one number format."""

    def __init__(self, weights: Weights, *, name: str, dtype: str, device: str) -> None:
        from transformers.utils import logging

        from tasks.embedders import quantise
        from tasks.providers.device import torch_dtype
        from tasks.training.encoder import load_classifier

        logging.disable_progress_bar()
        self.name = name
        self._model, self._tokenizer = load_classifier(weights.folder, weights.base)
        if weights.base is not None:
            encoder = self._model.encoder
            bottleneck = encoder.peft_type == "BOTTLENECK"  # is not linear, so it stays where it is
            self._model.encoder = (
                encoder.get_base_model() if bottleneck else encoder.merge_and_unload(safe_merge=True)
            )
        # An adapter is merged in float32 and rounded once.
        self._model = self._model.to(torch_dtype(dtype))
        self._model = (quantise(self._model) if dtype == "int8" else self._model).to(device).eval()
        self._window = _window(self._model.encoder.config, self._tokenizer)

    def tokenize(self, text: str) -> list[int]:
        """Tokenize a text with special tokens around it; one that is too long is an error, never cut."""
        ids: list[int] = self._tokenizer(text, truncation=False, verbose=False)["input_ids"]
        if len(ids) > self._window:
            raise ContextOverflow(
                f"A text of {len(ids)} tokens is longer than the window of the classifier {self.name!r}, "
                f"{self._window} tokens: {text[:80]!r}.",
                hint="Shorten the text.",
            )
        return ids

    def classify(self, rows: Sequence[Sequence[int]]) -> list[Verdict]:
        """Give each row of tokens its likeliest label."""
        import torch

        width = max(len(row) for row in rows)
        padding = self._tokenizer.pad_token_id or 0
        tokens = torch.tensor([[*row, *[padding] * (width - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        device = self._model.device
        with torch.inference_mode():
            logits: Any = self._model(tokens.to(device), mask.to(device))["logits"]
            scores, chosen = logits.double().softmax(-1).max(-1)
        labels = self._model.labels
        return [
            Verdict(labels[index], round(score, 6))
            for index, score in zip(chosen.tolist(), scores.tolist(), strict=True)
        ]


_LOADED: weakref.WeakValueDictionary[tuple[str, str, str], Classifier] = weakref.WeakValueDictionary()


def load_classifier_of(weights: Weights, *, name: str, dtype: str, device: str) -> Classifier:
    """Load a classifier, or return the one in this process that has the same weights."""
    key = (weights.sha256, dtype, device)
    loaded = _LOADED.get(key)
    if loaded is None:
        loaded = _LOADED[key] = Classifier(weights, name=name, dtype=dtype, device=device)
    return loaded


def _window(config: Any, tokenizer: Any) -> int:
    stated = getattr(config, "max_position_embeddings", None) or 1 << 30
    return int(min(stated, tokenizer.model_max_length or stated))
