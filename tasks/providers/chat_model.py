"""A causal language model in memory: chat template, tokenizer, weights, and how a batch is answered.

Adapters are merged into a copy of their base when they are loaded: the decode loop then costs the same as
without one, and in float32 the merged weights differ from base plus adapter by rounding only. Several LoRA
adapters on one base are not merged but share it (tasks.providers.shared_base). Bottlenecks,
which cannot be merged, stay in the model; virtual tokens become keys and values that each answer's cache
begins with (tasks.providers.prelude). The same
weights are loaded once per process, however many names of `models:` refer to them. Knows nothing of requests,
replies or batching windows. All of it runs in the worker thread of tasks.providers.batching.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from chains.errors import ContextOverflow, InputInvalid
from tasks.providers.decoding import Generation, decode
from tasks.providers.device import torch_dtype
from tasks.providers.prelude import Prelude, prelude_of
from tasks.providers.shared_base import BaseKey, base_key, is_shared, shared_base
from tasks.providers.weights import Weights

# Answers of models whose `max_tokens` is left open end here, or where the window ends.
DEFAULT_MAX_TOKENS = 1024


class ChatModel:
    """One set of weights on one device in one number format."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        prelude: Prelude | None = None,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        self.model = model
        self._ready = ready
        self.tokenizer = tokenizer
        self.name = name
        self.prelude = prelude
        self.window = _window(model.config, tokenizer) - (prelude.length if prelude else 0)
        self.stop_ids = _stop_ids(model, tokenizer)
        self._special = _special_texts(tokenizer)

    def prompt_ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Render messages with the model's chat template and tokenize the text as it stands."""
        from jinja2 import TemplateError

        if not self.tokenizer.chat_template:
            raise InputInvalid(
                f"The model {self.name!r} has no chat template, so there is no telling how it wants to be "
                "asked.",
                hint="Take its instruct or chat variant, or add a chat_template.jinja to its folder.",
            )
        disarmed = [{**message, "content": self._disarm(message["content"])} for message in messages]
        try:
            text = self.tokenizer.apply_chat_template(disarmed, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise InputInvalid(
                f"The chat template of {self.name!r} does not take these messages: {error}"
            ) from error
        # The rendered text has its special tokens already; adding them would double the first one.
        encoded = self.tokenizer(text, add_special_tokens=False, return_attention_mask=False)
        ids: list[int] = encoded["input_ids"]
        return ids

    def room(self, prompt: Sequence[int], max_tokens: int | None) -> int:
        """Return how many tokens the answer may have; raise ContextOverflow when they do not fit."""
        wanted = 1 if max_tokens is None else max_tokens
        if len(prompt) + wanted > self.window:
            asked = f"{max_tokens} for the answer" if max_tokens is not None else "at least 1 for the answer"
            raise ContextOverflow(
                f"The prompt has {len(prompt)} tokens and asks for {asked}, but the window of "
                f"{self.name!r} is {self.window} tokens.",
                hint="Shorten the prompt, retrieve fewer passages or lower max_tokens.",
            )
        return min(self.window - len(prompt), DEFAULT_MAX_TOKENS) if max_tokens is None else max_tokens

    def run(self, rows: Sequence[Generation]) -> None:
        """Answer a batch in place."""
        self._ready()
        pad = self.tokenizer.pad_token_id
        decode(
            self.model,
            rows,
            stop_ids=self.stop_ids,
            pad_id=pad if pad is not None else 0,
            prelude=self.prelude,
        )

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of an answer."""
        decoded: str = self.tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return decoded

    def _disarm(self, content: str) -> str:
        """Break up control tokens written out in a message, so that no text can open or close a role."""
        while self._special and self._special.search(content):
            content = self._special.sub(lambda match: f"{match[0][0]} {match[0][1:]}", content)
        return content


_LOADED: weakref.WeakValueDictionary[tuple[str, str, str], ChatModel] = weakref.WeakValueDictionary()


def load_chat_model(weights: Weights, *, name: str, dtype: str, device: str) -> ChatModel:
    """Load a chat model, or return the one in this process that has the same weights."""
    key = (weights.sha256, dtype, device)
    loaded = _LOADED.get(key)
    if loaded is None:
        loaded = _LOADED[key] = _load(weights, name, dtype, device)
    return loaded


def _load(weights: Weights, name: str, dtype: str, device: str) -> ChatModel:
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(
        _tokenizer_folder(weights), local_files_only=True, trust_remote_code=False
    )
    key = base_key(weights, dtype=dtype, device=device)
    if key is not None and is_shared(key):
        return _on_shared_base(weights, tokenizer, key, name=name)
    model, prelude = _model(weights, dtype)
    model = _quantised(model, dtype).to(device).eval()
    return ChatModel(model, tokenizer, name=name, prelude=prelude.to(device) if prelude else None)


def _on_shared_base(weights: Weights, tokenizer: Any, key: BaseKey, *, name: str) -> ChatModel:
    base, adapter = shared_base(key), weights.sha256
    _, dtype, device = key

    def first(called: str) -> Any:
        from tasks.training.adapters import load_adapter

        adapted = load_adapter(_base(weights, "float32"), weights.folder, name=called)
        return adapted.to(device=device, dtype=torch_dtype(dtype)).eval()

    base.add(adapter, weights.folder, first)
    return ChatModel(base.model, tokenizer, name=name, ready=partial(base.use, adapter))


def _base(weights: Weights, dtype: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        weights.model_folder,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        dtype=torch_dtype(dtype),
    )


def _model(weights: Weights, dtype: str) -> tuple[Any, Prelude | None]:
    # An adapter is merged in float32 and rounded once.
    model = _base(weights, "float32" if weights.base else dtype)
    if weights.base is None:
        return model, None
    from tasks.training.adapters import load_adapter

    adapted = load_adapter(model, weights.folder).eval()
    wanted = torch_dtype(dtype)
    if adapted.active_peft_config.is_prompt_learning:
        prelude = prelude_of(adapted)
        return adapted.get_base_model().to(wanted), prelude.to(wanted)
    if adapted.peft_type == "BOTTLENECK":
        return adapted.get_base_model().to(wanted), None
    return adapted.merge_and_unload(safe_merge=True).to(wanted), None


def _quantised(model: Any, dtype: str) -> Any:
    if dtype != "int8":
        return model
    from tasks.embedders import quantise

    return quantise(model)


def _tokenizer_folder(weights: Weights) -> Path:
    has_own = (weights.folder / "tokenizer.json").is_file() or (
        weights.folder / "tokenizer_config.json"
    ).is_file()
    return weights.folder if has_own else weights.model_folder


def _window(config: Any, tokenizer: Any) -> int:
    stated = getattr(config, "max_position_embeddings", None) or 1 << 30
    # Tokenizers without a limit say 1e30.
    return int(min(stated, tokenizer.model_max_length or stated))


def _stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    stated = model.generation_config.eos_token_id if model.generation_config else None
    ids = {tokenizer.eos_token_id, *(stated if isinstance(stated, list) else [stated])}
    return frozenset(int(token) for token in ids if token is not None)


def _special_texts(tokenizer: Any) -> re.Pattern[str] | None:
    texts = {
        *tokenizer.all_special_tokens,
        *(str(added) for added in tokenizer.added_tokens_decoder.values() if added.special),
    }
    # Longest first, so that no token hides in a longer one; a one-character token cannot be broken up.
    ordered = sorted((text for text in texts if len(text) > 1), key=len, reverse=True)
    return re.compile("|".join(re.escape(text) for text in ordered)) if ordered else None
