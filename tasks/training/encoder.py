"""Encoders: token states pooled into one vector per text, alone or under a classifier.

Owns how an encoder is loaded and pooled, the two models that are trained on it, and how a saved one is put
together again, for training and for serving. Knows nothing of examples, methods or loops.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from chains.errors import EnvironmentLacks, InputInvalid
from tasks.classifiers import CLASSIFIER, HEAD, ClassifierFile, read_classifier
from tasks.embedders import layout_of

BETWEEN = 0.1
"""Dropout before a classifier, as in BERT."""


@dataclass(slots=True)
class Encoder:
    """An encoder as it was loaded, with its tokenizer; what it does not need for pooling is set aside."""

    model: Any
    tokenizer: Any
    pooling: str
    normalise: bool
    pooler: Any = None

    @property
    def window(self) -> int:
        """Tokens that it takes at once, special ones counted."""
        stated = getattr(self.model.config, "max_position_embeddings", None) or 1 << 30
        return int(min(stated, self.tokenizer.model_max_length or stated))


# torch is not followed by mypy, so its classes are Any there.
class Pooled(nn.Module):  # type: ignore[misc]
    """An encoder and its pooling. `encoder` is what a method changes or puts an adapter on."""

    wraps_encoder = True
    main_input_name = "input_ids"

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder.model
        self.pooling = encoder.pooling
        self.pooler = [encoder.pooler]  # in a list: no part of the model that is trained

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def base_model(self) -> Any:
        """PEFT's tuner, where there is an adapter."""
        return getattr(self.encoder, "base_model", None)

    def vectors(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return one vector per text."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.pooling == "cls":
            return states[:, 0]
        mask = attention_mask[..., None].to(states.dtype)
        return (states * mask).sum(1) / mask.sum(1)

    def save_encoder(self, folder: Path) -> None:
        """Write the encoder as transformers reads it, with what was set aside; of an adapter only itself."""
        aside = self.pooler[0]
        if aside is not None:
            self.encoder.pooler = aside
        try:
            self.encoder.save_pretrained(folder)
        finally:
            if aside is not None:
                self.encoder.pooler = None


class TextClassifier(Pooled):
    """A linear layer over the vector of a text."""

    def __init__(self, encoder: Encoder, labels: list[str]) -> None:
        super().__init__(encoder)
        self.labels = labels
        self.dropout = nn.Dropout(BETWEEN)
        self.classifier = nn.Linear(encoder.model.config.hidden_size, len(labels))
        nn.init.normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return logits, and the mean loss where labels are given."""
        logits = self.classifier(self.dropout(self.vectors(input_ids, attention_mask))).float()
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    def save(self, folder: Path) -> None:
        """Write encoder or adapter, head and labels."""
        from safetensors.torch import save_file

        self.save_encoder(folder)
        head = {name: value.detach().cpu() for name, value in self.classifier.state_dict().items()}
        save_file(head, folder / HEAD)
        (folder / CLASSIFIER).write_text(
            json.dumps({"labels": self.labels, "pooling": self.pooling}, ensure_ascii=False, indent=2)
        )


def load_encoder(folder: Path, *, dtype: torch.dtype = torch.float32) -> Encoder:
    """Load an encoder: of a sentence embedder, of a classifier made here, or a plain one (mean pooling).

    Raises EnvironmentLacks where files are missing and InputInvalid where it is pooled in another way.
    """
    pooling, normalise, transformer = _pooling_of(folder)
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(transformer, trust_remote_code=False, local_files_only=True)
        model = AutoModel.from_pretrained(
            transformer, trust_remote_code=False, local_files_only=True, use_safetensors=True, dtype=dtype
        )
    except (OSError, ValueError) as error:
        raise EnvironmentLacks(
            f"The encoder in {str(folder)!r} cannot be loaded: {str(error)[:200]}",
            hint="It needs config.json, tokenizer files and safetensors.",
        ) from error
    if model.config.is_encoder_decoder or getattr(model.config, "is_decoder", False):
        raise InputInvalid(
            f"The model in {str(folder)!r} is no encoder.", hint="Take one such as BERT or MiniLM."
        )
    return encoder_of(model, tokenizer, pooling=pooling, normalise=normalise)


def encoder_of(model: Any, tokenizer: Any, *, pooling: str, normalise: bool = False) -> Encoder:
    """Set aside the layer over the first token that BERT and its kin have and no pooling here reads."""
    aside = getattr(model, "pooler", None)
    if aside is not None:
        model.pooler = None
    return Encoder(model, tokenizer, pooling, normalise, aside)


def load_classifier(folder: Path, base: Path | None) -> tuple[TextClassifier, Any]:
    """Load a classifier that was saved here, with its adapter where it is one, and its tokenizer."""
    from safetensors.torch import load_file

    said = read_classifier(folder)
    encoder = load_encoder(base or folder)
    encoder.pooling = said.pooling
    model = TextClassifier(encoder, list(said.labels))
    if base is not None:
        from tasks.training.adapters import load_adapter

        model.encoder = load_adapter(model.encoder, folder)
    model.classifier.load_state_dict(load_file(folder / HEAD))
    return model.eval(), encoder.tokenizer


def _pooling_of(folder: Path) -> tuple[str, bool, Path]:
    """Return how the encoder in a folder is pooled, whether it normalises, and where its weights are."""
    if (folder / CLASSIFIER).is_file():
        said: ClassifierFile = read_classifier(folder)
        return said.pooling, False, folder
    if not (folder / "modules.json").is_file():
        return "mean", False, folder
    layout = layout_of(folder)
    if layout.pooling not in ("mean", "cls"):
        raise InputInvalid(
            f"The sentence embedder in {str(folder)!r} is more than a transformer with mean or CLS pooling.",
            hint="Take one with these layers, such as sentence-transformers/all-MiniLM-L6-v2.",
        )
    return layout.pooling, layout.normalise, layout.transformer
