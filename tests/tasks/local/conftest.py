"""A tiny random Llama with its own tokenizer and chat template, and a store to open it from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from chains.settings import Settings
from chains.spec import Model
from chains.store import Store, open_store
from tasks.providers.local import LocalProvider, open_local

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
WORDS = [
    "the",
    "order",
    "was",
    "late",
    "and",
    "I",
    "want",
    "my",
    "money",
    "back",
    "please",
    "tell",
    "me",
    "when",
    "it",
    "ships",
    "thank",
    "you",
]


def build_chat_model(folder: Path, *, template: str | None = TEMPLATE, seed: int = 0) -> Path:
    """Write a random Llama of 0.1 M parameters whose greedy answers vary with the prompt."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<|bos|>", "<|eos|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    raw.train_from_iterator(
        [" ".join(WORDS)] * 20,
        trainers.BpeTrainer(
            vocab_size=320, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<|bos|>",
        eos_token="<|eos|>",
        additional_special_tokens=special[2:],
        model_max_length=256,
    )
    if template is not None:
        tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=320,
        max_position_embeddings=256,
        initializer_range=0.6,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def words() -> list[str]:
    """The words that the tokenizer was made from."""
    return WORDS


@pytest.fixture(scope="session")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_chat_model(tmp_path_factory.mktemp("chat"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def open_model(store: Store) -> Any:
    """Open a local model: `open_model(folder, temperature=0.7)`."""

    def opened(model: Path | str, **fields: Any) -> LocalProvider:
        described = Model(provider="local", model=str(model), **fields)
        return open_local("tiny", described, store=store, settings=Settings(torch_threads=1))

    return opened


@pytest.fixture
def build() -> Any:
    return build_chat_model
