"""Sentence embedders in memory: texts in, vectors out.

Folders laid out by sentence-transformers as transformer, mean or CLS pooling and an optional normalisation
are run through transformers directly: measured on all-MiniLM-L6-v2 the vectors agree with
sentence-transformers to a cosine of 0.9999997, and a process is spared that library's import (2.7 s after
transformers' own). Any other layout goes through sentence-transformers. Batches are sorted by length and
bounded by padded tokens. Knows nothing of requests or collections; runs in the worker thread of
tasks.providers.batching.
"""

from __future__ import annotations

import json
import warnings
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chains.errors import ContextOverflow
from tasks.providers.device import torch_dtype
from tasks.providers.weights import Weights

if TYPE_CHECKING:
    import numpy as np

# Larger batches were no faster on CPUs: padding grows, caches do not.
BATCH_TOKENS = 4096
MOST_PADDING = 0.1
"""The share of a batch that may be padding on a CPU, where it costs what text costs. With batches filled to
their limit it was 41 % of 64 mixed texts, which then took half as long again."""
SPARED = 96
"""Tokens of padding that one batch less is worth on a CPU."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a folder turns token states into one vector."""

    transformer: Path
    pooling: str | None
    normalise: bool
    window: int

    @property
    def is_plain(self) -> bool:
        """Whether transformers alone can run it."""
        return self.pooling in ("mean", "cls")


def layout_of(folder: Path) -> Layout:
    """Read a sentence embedder's modules; needs no model library."""
    kinds = [
        (str(module["type"]).rsplit(".", 1)[-1], folder / str(module["path"]))
        for module in _json(folder / "modules.json", [])
    ]
    names = [kind for kind, _ in kinds]
    plain = names in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
    transformer = kinds[0][1] if kinds else folder
    stated = _json(transformer / "sentence_bert_config.json", {}).get("max_seq_length")
    positions = _json(transformer / "config.json", {}).get("max_position_embeddings")
    return Layout(
        transformer=transformer,
        pooling=_pooling(kinds[1][1]) if plain else None,
        normalise="Normalize" in names,
        window=int(min(stated or 1 << 30, positions or 1 << 30)),
    )


def _pooling(folder: Path) -> str | None:
    config = _json(folder / "config.json", {})
    named = config.get("pooling_mode")
    if isinstance(named, str):
        return named
    chosen = [
        key.removeprefix("pooling_mode_")
        for key, value in config.items()
        if key.startswith("pooling_mode_") and value is True
    ]
    return {"mean_tokens": "mean", "cls_token": "cls"}.get(chosen[0]) if len(chosen) == 1 else None


class Embedder:
    """One embedder on one device in one number format."""

    def __init__(self, weights: Weights, *, name: str, dtype: str, device: str) -> None:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.name = name
        self.layout = layout_of(weights.model_folder)
        self.tokenizer = AutoTokenizer.from_pretrained(
            self.layout.transformer, local_files_only=True, trust_remote_code=False
        )
        self._whole: Any = None
        if self.layout.is_plain:
            self._model = AutoModel.from_pretrained(
                self.layout.transformer,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                # An adapter is merged in float32 and rounded once.
                dtype=torch_dtype("float32" if weights.base else dtype),
            )
            if weights.base is not None:
                self._model = _adapted(self._model, weights.folder).to(torch_dtype(dtype))
            self._model = (quantise(self._model) if dtype == "int8" else self._model).to(device).eval()
        else:
            self._whole = _sentence_transformer(weights.folder, dtype, device)

    def encode(self, ids: Sequence[Sequence[int]], texts: Sequence[str]) -> np.ndarray:
        """Return one float32 vector per text."""
        import numpy as np

        if self._whole is not None:
            whole: np.ndarray = self._whole.encode(
                list(texts), batch_size=16, show_progress_bar=False, convert_to_numpy=True
            )
            return whole.astype(np.float32)
        vectors: list[np.ndarray] = [np.empty(0)] * len(ids)
        spared = SPARED if self._model.device.type == "cpu" else BATCH_TOKENS
        for batch in batches([len(tokens) for tokens in ids], spared=spared):
            for index, vector in zip(batch, self._forward([ids[index] for index in batch]), strict=True):
                vectors[index] = vector
        return np.stack(vectors)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenize texts with special tokens around them; one that is too long is an error, never cut."""
        ids: list[list[int]] = self.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        longest = max(range(len(ids)), key=lambda index: len(ids[index]))
        if len(ids[longest]) > self.layout.window:
            raise ContextOverflow(
                f"A text of {len(ids[longest])} tokens is longer than the window of the embedder "
                f"{self.name!r}, {self.layout.window} tokens: {texts[longest][:80]!r}.",
                hint="Shorten the text, or cut documents smaller with `chunk: {tokens: ...}`.",
            )
        return ids

    def _forward(self, ids: Sequence[Sequence[int]]) -> np.ndarray:
        import torch

        width = max(len(tokens) for tokens in ids)
        padding = self.tokenizer.pad_token_id or 0
        tokens = torch.tensor([[*row, *[padding] * (width - len(row))] for row in ids])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids])
        device = self._model.device
        with torch.inference_mode():
            states = (
                self._model(input_ids=tokens.to(device), attention_mask=mask.to(device))
                .last_hidden_state.float()
                .cpu()
            )
            if self.layout.pooling == "cls":
                pooled = states[:, 0]
            else:
                pooled = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            pooled = torch.nn.functional.normalize(pooled, dim=1) if self.layout.normalise else pooled
            result: np.ndarray = pooled.numpy()
        return result


def _adapted(model: Any, folder: Path) -> Any:
    """Put an adapter into its base: merged where it can be, which a bottleneck cannot."""
    from tasks.training.adapters import load_adapter

    adapted = load_adapter(model, folder)
    if adapted.peft_type == "BOTTLENECK":
        return adapted.get_base_model()
    return adapted.merge_and_unload(safe_merge=True)


_LOADED: weakref.WeakValueDictionary[tuple[str, str, str], Embedder] = weakref.WeakValueDictionary()


def load_embedder(weights: Weights, *, name: str, dtype: str, device: str) -> Embedder:
    """Load an embedder, or return the one in this process that has the same weights."""
    key = (weights.sha256, dtype, device)
    loaded = _LOADED.get(key)
    if loaded is None:
        loaded = _LOADED[key] = Embedder(weights, name=name, dtype=dtype, device=device)
    return loaded


def quantise(model: Any) -> Any:
    """Turn the linear layers of a float32 model into int8 ones, with activations quantised as they come."""
    import torch

    with warnings.catch_warnings():
        # torch points to another package that would be one more dependency for this one call.
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)


def _sentence_transformer(folder: Path, dtype: str, device: str) -> Any:
    from sentence_transformers import SentenceTransformer

    whole = SentenceTransformer(
        str(folder),
        device=device,
        trust_remote_code=False,
        local_files_only=True,
        model_kwargs={"use_safetensors": True, "dtype": torch_dtype(dtype)},
    )
    return quantise(whole) if dtype == "int8" else whole


def batches(lengths: Sequence[int], *, spared: int) -> list[list[int]]:
    """Cut the indexes, sorted by length, into batches of at most BATCH_TOKENS padded tokens.

    Of these no more are padding than a share of MOST_PADDING, or `spared` where that is more.
    """
    found: list[list[int]] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        tokens += lengths[index]
        padded = lengths[index] * (len(found[-1]) + 1) if found else 0
        if found and padded <= BATCH_TOKENS and padded - tokens <= max(MOST_PADDING * padded, spared):
            found[-1].append(index)
        else:
            found.append([index])
            tokens = lengths[index]
    return found


def _json(path: Path, default: Any) -> Any:
    return json.loads(path.read_bytes()) if path.is_file() else default
