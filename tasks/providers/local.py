"""Models that run on this machine: chat models and sentence embedders behind an endpoint's protocol.

Owns the request and reply bytes, which have the form of OpenAI's so that records read alike, and the batching
of concurrent calls. Weights are found and hashed when the model is opened; torch and transformers are loaded
with the first call, so a run that reuses everything never pays for them. Knows nothing of retries or records.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from chains.clock import Clock
from chains.errors import HeadraceError, InputInvalid, InvalidBody, TimedOut
from chains.spec import Model
from tasks.providers.batching import Batcher, Job, by_length, worker
from tasks.providers.classifying import classifier_request, classify_jobs
from tasks.providers.decoding import Generation
from tasks.providers.device import device_of, dtype_of
from tasks.providers.reply import Completion, Reply, compact, reply_of
from tasks.providers.resident import resident
from tasks.providers.room import Room
from tasks.providers.shared_base import expect, forget
from tasks.providers.streams import OnText
from tasks.providers.telling import Telling, on_loop
from tasks.providers.weights import Reach, Weights, find_weights

if TYPE_CHECKING:
    import numpy as np

    from chains.settings import Settings
    from chains.store import Store
    from tasks.classifiers import Classifier
    from tasks.embedders import Embedder
    from tasks.providers.chat_model import ChatModel
    from tasks.providers.text_losses import TextLoss

# Padded bytes of requests in one chat batch: about 16,000 tokens, 64 prompts of 250 tokens.
CHAT_BATCH_BYTES = 65_536
CHAT_BATCH_ROWS = 64
EMBED_BATCH_TEXTS = 512


@dataclass(frozen=True, slots=True)
class Asked:
    """One request on its way to a batch: its size there, what it says, and how long it may run.

    The size of a chat is in bytes, four for each token of the answer; that of an embedding is in texts.
    """

    size: int
    request: Mapping[str, Any]
    timeout: float
    on_text: OnText | None = None


class LocalProvider:
    """A chat model or an embedder on this machine."""

    def __init__(self, name: str, model: Model, weights: Weights, *, settings: Settings) -> None:
        self.name = name
        self.concurrency = model.limits.concurrency
        self.deterministic = not model.temperature
        self._model = model
        self._weights = weights
        self._device = device_of(model)
        self._dtype = dtype_of(model, embedder=weights.is_embedder, device=self._device)
        self._threads = settings.torch_threads
        self._clock = Clock()
        self._room = Room(name)
        self._chat = Batcher(self._choose_chat, self._room.within(self._run_chat))
        self._embed = Batcher(self._choose_embed, self._room.within(self._run_embed))
        self._loaded: ChatModel | Embedder | Classifier | None = None
        expect(self, weights, dtype=self._dtype, device=self._device)

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """What decides an answer; the seed and top_p only where the model samples."""
        model = self._model
        who = {
            "provider": model.provider,
            "model": model.model,
            "weights": self._weights.sha256,
            "dtype": self._dtype,
        }
        if self._weights.is_embedder or self._weights.is_classifier:
            return who
        sampling = {} if self.deterministic else {"top_p": model.top_p, "seed": model.seed}
        return {
            **who,
            "temperature": model.temperature or 0.0,
            "max_tokens": model.max_tokens,
            "stop": model.stop,
            **sampling,
        }

    def chat_request(
        self,
        messages: list[dict[str, str]],
        *,
        schema: dict[str, Any] | None = None,
        sample: int = 0,
        stream: bool = False,
    ) -> bytes:
        """Return the bytes of a chat call; without the schema, since decoding is not constrained by it."""
        model = self._model
        if self._weights.is_classifier:
            return compact(classifier_request(model.model or "", messages, schema))
        parameters: dict[str, Any] = {"temperature": model.temperature or 0.0}
        if model.temperature:
            seed = secrets.randbits(48) if model.seed is None else model.seed
            parameters |= {"seed": seed + sample, "top_p": 1.0 if model.top_p is None else model.top_p}
        if model.max_tokens is not None:
            parameters["max_tokens"] = model.max_tokens
        if model.stop:
            parameters["stop"] = model.stop
        return compact(
            {"model": model.model or model.provider, "messages": messages, "parameters": parameters}
        )

    async def send_chat(self, request: bytes, *, timeout: float) -> Reply:
        """Answer one chat request; concurrent ones share a batch. `timeout` counts from its batch's start."""
        return await self._submit(request, timeout, None)

    async def stream_chat(self, request: bytes, *, timeout: float, on_text: OnText) -> Reply:
        """Answer one chat request, and tell the text as it is decoded."""
        return await self._submit(request, timeout, on_loop(on_text))

    async def _submit(self, request: bytes, timeout: float, on_text: OnText | None) -> Reply:
        asked = json.loads(request)
        size = len(request) + 4 * asked.get("parameters", {}).get("max_tokens", 0)
        reply, waited = await self._chat.submit_timed(Asked(size, asked, timeout, on_text))
        return replace(reply, waited_s=waited)

    def read_chat(self, reply: Reply) -> Completion:
        """Return what the model said."""
        document = _document(reply)
        choice = document["choices"][0]
        return Completion(
            text=choice["message"]["content"],
            finish_reason=choice["finish_reason"],
            tokens_in=document["usage"]["prompt_tokens"],
            tokens_out=document["usage"]["completion_tokens"],
            model=document["model"],
        )

    def embed_request(self, texts: Sequence[str]) -> bytes:
        """Return the bytes of an embedding call."""
        return compact(
            {
                "model": self._model.model or self._model.provider,
                "input": list(texts),
                "encoding_format": "base64",
            }
        )

    async def send_embed(self, request: bytes, *, timeout: float) -> Reply:
        """Embed the texts of one request; concurrent ones share a batch."""
        asked = json.loads(request)
        reply, waited = await self._embed.submit_timed(Asked(len(asked["input"]), asked, timeout))
        return replace(reply, waited_s=waited)

    def read_embed(self, reply: Reply) -> np.ndarray:
        """Return the vectors, one row per text."""
        import numpy as np

        items = sorted(_document(reply)["data"], key=lambda item: item["index"])
        return np.stack([np.frombuffer(base64.b64decode(item["embedding"]), dtype="<f4") for item in items])

    async def text_losses(self, texts: Sequence[str]) -> list[TextLoss]:
        """Return how surprised the chat model is by each text."""
        from tasks.providers.text_losses import text_losses

        work = worker().submit(lambda: text_losses(self._chat_model(), texts))
        return await asyncio.wrap_future(work)

    def count_tokens(self, text: str) -> int:
        """Count the tokens of a text, without special ones."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        """Return where each token of a text begins and ends, in characters."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).offsets)

    @property
    def window(self) -> int | None:
        """Tokens that an embedder takes at once, special ones not counted; None for chat models."""
        if not self._weights.is_embedder:
            return None
        from tasks.embedders import layout_of

        return layout_of(self._weights.model_folder).window - int(
            self._tokenizer.num_special_tokens_to_add(False)
        )

    async def aclose(self) -> None:
        """Withdraw waiting calls and let the weights go."""
        forget(self)
        self._chat.close()
        self._embed.close()
        self._loaded = None

    def __repr__(self) -> str:
        return f"LocalProvider({self.name!r}, {self._model.model or self._model.provider!r})"

    @cached_property
    def _tokenizer(self) -> Any:
        """The bare tokenizer: counting needs neither torch nor transformers."""
        from tokenizers import Tokenizer

        for folder in (self._weights.folder, self._weights.model_folder):
            if (folder / "tokenizer.json").is_file():
                tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
                tokenizer.no_truncation()
                tokenizer.no_padding()
                return tokenizer
        raise InputInvalid(
            f"The model of {self.name!r} has no tokenizer.json.", hint="Save it with a fast tokenizer."
        )

    def _choose_chat(self, waiting: Sequence[Asked]) -> list[int]:
        budget, rows = self._room.of(CHAT_BATCH_BYTES), self._room.of(CHAT_BATCH_ROWS)
        return by_length([asked.size for asked in waiting], budget=budget, rows=rows)

    def _run_chat(self, jobs: Sequence[Job[Asked, Reply]]) -> None:
        if self._weights.is_classifier:
            classify_jobs(self._classifier(), jobs)
            return
        model = self._chat_model()
        rows = []
        for job in jobs:
            try:
                rows.append(self._generation(model, job))
            except HeadraceError as error:
                job.fail(error)
        if rows:
            model.run(rows)

    def _generation(self, model: ChatModel, job: Job[Asked, Reply]) -> Generation:
        """Make the row of a batch for one request; it answers the request when it ends."""
        parameters = job.asked.request["parameters"]
        prompt = model.prompt_ids(job.asked.request["messages"])
        deadline = self._clock.monotonic() + job.asked.timeout
        stop = tuple(parameters.get("stop", ()))
        row = Generation(
            prompt=prompt,
            max_tokens=model.room(prompt, parameters.get("max_tokens")),
            temperature=parameters["temperature"],
            top_p=parameters.get("top_p", 1.0),
            seed=parameters.get("seed", 0),
            given_up=lambda: job.future.cancelled() or self._clock.monotonic() > deadline,
        )
        if stop:
            row.ended = lambda tokens: any(text in model.text(tokens) for text in stop)
        telling = Telling(model.text, stop, job.asked.on_text) if job.asked.on_text is not None else None
        if telling is not None:
            row.ended = telling.ended

        def end() -> None:
            if telling is not None:
                telling.finish(row.tokens)
            self._answer_chat(model, job, row, stop)

        row.on_end = end
        return row

    def _answer_chat(
        self, model: ChatModel, job: Job[Asked, Reply], row: Generation, stop: tuple[str, ...]
    ) -> None:
        if row.finish_reason == "given_up":
            job.fail(
                TimedOut(
                    f"The local model {self.name!r} did not finish within {job.asked.timeout:g} s "
                    f"({len(row.tokens)} tokens so far)."
                )
            )
            return
        text = model.text(row.tokens)
        for ending in stop:
            text = text.split(ending, 1)[0]
        counts = {
            "prompt_tokens": len(row.prompt),
            "completion_tokens": len(row.tokens),
            "total_tokens": len(row.prompt) + len(row.tokens),
        }
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": row.finish_reason,
        }
        document = {
            "object": "chat.completion",
            "model": job.asked.request["model"],
            "choices": [choice],
            "usage": counts,
        }
        job.answer(reply_of(document))

    def _choose_embed(self, waiting: Sequence[Asked]) -> list[int]:
        """Take the oldest calls, as many as a batch holds, and one in any case."""
        totals = accumulate(asked.size for asked in waiting)
        most = self._room.of(EMBED_BATCH_TEXTS)
        return [index for index, total in enumerate(totals) if total <= most] or [0]

    def _run_embed(self, jobs: Sequence[Job[Asked, Reply]]) -> None:
        embedder = self._embedder()
        taken: list[tuple[Job[Asked, Reply], list[list[int]]]] = []
        for job in jobs:
            try:
                taken.append((job, embedder.tokenize(job.asked.request["input"])))
            except HeadraceError as error:
                job.fail(error)
        if not taken:
            return
        texts = [text for job, _ in taken for text in job.asked.request["input"]]
        vectors = embedder.encode([ids for _, rows in taken for ids in rows], texts)
        start = 0
        for job, rows in taken:
            job.answer(
                reply_of(_embedding(job.asked.request["model"], vectors[start : start + len(rows)], rows))
            )
            start += len(rows)

    def _chat_model(self) -> ChatModel:
        from tasks.providers.chat_model import ChatModel, load_chat_model

        if self._weights.is_embedder:
            raise InputInvalid(
                f"Model {self.name!r} is an embedder and cannot answer prompts.",
                hint="Name a chat model.",
            )
        if not isinstance(self._loaded, ChatModel):
            self._use_threads()
            self._loaded = resident(
                self._residence("chat"),
                lambda: load_chat_model(
                    self._weights, name=self.name, dtype=self._dtype, device=self._device
                ),
                name=self.name,
            )
        return self._loaded

    def _classifier(self) -> Classifier:
        from tasks.classifiers import Classifier, load_classifier_of

        if not isinstance(self._loaded, Classifier):
            self._use_threads()
            self._loaded = resident(
                self._residence("classify"),
                lambda: load_classifier_of(
                    self._weights, name=self.name, dtype=self._dtype, device=self._device
                ),
                name=self.name,
            )
        return self._loaded

    def _embedder(self) -> Embedder:
        from tasks.embedders import Embedder, load_embedder

        if not self._weights.is_embedder:
            raise InputInvalid(
                f"Model {self.name!r} is no sentence embedder (its folder has no modules.json).",
                hint="Use an embedding model such as sentence-transformers/all-MiniLM-L6-v2.",
            )
        if not isinstance(self._loaded, Embedder):
            self._use_threads()
            self._loaded = resident(
                self._residence("embed"),
                lambda: load_embedder(self._weights, name=self.name, dtype=self._dtype, device=self._device),
                name=self.name,
            )
        return self._loaded

    def _residence(self, use: str) -> tuple[str, ...]:
        """What makes a loaded model the same as another."""
        return use, self._weights.sha256, str(self._dtype), str(self._device)

    def _use_threads(self) -> None:
        if self._threads is not None:
            import torch

            torch.set_num_threads(self._threads)


def open_local(
    name: str, model: Model, *, store: Store, settings: Settings, reach: Reach | None = None
) -> LocalProvider:
    """Find a local model's weights; nothing is loaded yet."""
    if model.model is None:
        raise InputInvalid(
            f"Model {name!r} names no model.",
            hint="Set `model:` to a hub id, a folder or models:NAME@latest.",
        )
    weights = find_weights(model.model, revision=model.revision, store=store, reach=reach)
    return LocalProvider(name, model, weights, settings=settings)


def _embedding(model: str, vectors: np.ndarray, ids: Sequence[Sequence[int]]) -> dict[str, Any]:
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(vector.astype("<f4").tobytes()).decode(),
        }
        for index, vector in enumerate(vectors)
    ]
    tokens = sum(len(row) for row in ids)
    return {
        "object": "list",
        "model": model,
        "data": data,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _document(reply: Reply) -> dict[str, Any]:
    document = reply.document if reply.document is not None else json.loads(reply.body)
    if not isinstance(document, dict):
        raise InvalidBody("the local reply is no object.")
    return document
