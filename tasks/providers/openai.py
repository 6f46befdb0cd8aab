"""Any OpenAI-compatible endpoint: which bytes ask a question, and what an answer says.

Owns the request and answer formats of chat completions and embeddings, and how an endpoint is opened.
Knows nothing of addresses and keys (tasks.providers.routes), of HTTP (tasks.providers.http), of retries
(tasks.attempts) or of the store. Invariant: the key is in no request body, no identity, no message and no
repr.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from chains.errors import (
    ContentFiltered,
    EnvironmentLacks,
    HeadraceError,
    InputInvalid,
    InvalidBody,
)
from chains.outputs import strict_schema
from chains.spec import Model
from tasks.providers.faults import classify
from tasks.providers.http import Endpoint, Extras
from tasks.providers.reply import Completion, Reply
from tasks.providers.routes import route_of
from tasks.providers.streams import OnText
from tasks.providers.trust import Trust

if TYPE_CHECKING:
    import numpy as np

    from chains.settings import Settings

NEW_LIMIT_HOSTS = ("api.openai.com", ".openai.azure.com")
"""Hosts whose newer models take `max_completion_tokens` only; other servers know `max_tokens`."""


_STREAMED = {"stream": True, "stream_options": {"include_usage": True}}


class OpenAIProvider:
    """A chat model or embedder behind an OpenAI-compatible endpoint."""

    def __init__(self, name: str, model: Model, endpoint: Endpoint) -> None:
        self.name = name
        self.model = model
        self.concurrency = model.limits.concurrency
        self.deterministic = model.temperature == 0
        self.endpoint = endpoint
        self._limit_key = "max_completion_tokens" if _is_new(endpoint.host) else "max_tokens"
        self._form: tuple[dict[str, Any] | None, Any] = (None, None)
        self.identity: Mapping[str, Any] = {
            "provider": "openai",
            "model": model.model,
            "base_url": endpoint.identity,
            "temperature": model.temperature,
            "top_p": model.top_p,
            "max_tokens": model.max_tokens,
            "seed": model.seed,
            "stop": model.stop,
            # Only where there are any, so that keys of models without them stay what they are.
            **({"api_version": model.api_version} if model.api_version else {}),
            **({"headers": dict(model.headers)} if model.headers else {}),
        }

    def chat_request(
        self,
        messages: list[dict[str, str]],
        *,
        schema: dict[str, Any] | None = None,
        sample: int = 0,
        stream: bool = False,
    ) -> bytes:
        """Return exactly the bytes that ask for a completion; the order of keys is fixed."""
        model = self.model
        asked: dict[str, Any] = {"model": model.model, "messages": messages}
        optional = {
            "temperature": model.temperature,
            "top_p": model.top_p,
            self._limit_key: model.max_tokens,
            "seed": None if model.seed is None else model.seed + sample,
            "stop": model.stop,
            "response_format": None if schema is None else self._response_format(schema),
            **(_STREAMED if stream else {}),
        }
        asked.update({key: value for key, value in optional.items() if value is not None})
        return _dump(asked)

    async def send_chat(self, request: bytes, *, timeout: float) -> Reply:
        """Send a chat request once."""
        return await self.endpoint.post("/chat/completions", request, timeout=timeout)

    async def stream_chat(self, request: bytes, *, timeout: float, on_text: OnText) -> Reply:
        """Send a chat request once that asks for a stream, and tell its text while it comes."""
        return await self.endpoint.post("/chat/completions", request, timeout=timeout, on_text=on_text)

    def read_chat(self, reply: Reply) -> Completion:
        """Return what the model said; raise where the body is no answer or the model declined."""
        choice = _first_choice(reply)
        message = choice.get("message")
        if not isinstance(message, dict):
            raise InvalidBody("the completion has no message.")
        reason = choice.get("finish_reason")
        refusal = message.get("refusal")
        if refusal:
            raise ContentFiltered(f"the model declined to answer: {str(refusal)[:200]!r}.")
        if reason == "content_filter":
            raise ContentFiltered("the endpoint's content filter stopped the answer.")
        text = _text_of(message.get("content"))
        if text is None and reason == "length":
            text = ""  # a reasoning model that used up its limit before its first visible word
        if text is None:
            raise InvalidBody(f"the completion has no text (finish_reason {str(reason)[:40]!r}).")
        return Completion(
            text=text,
            finish_reason=str(reason) if reason else "stop",
            tokens_in=reply.tokens_in,
            tokens_out=reply.tokens_out,
            model=reply.model,
        )

    def embed_request(self, texts: Sequence[str]) -> bytes:
        """Return exactly the bytes that ask for vectors of texts."""
        return _dump({"model": self.model.model, "input": list(texts), "encoding_format": "float"})

    async def send_embed(self, request: bytes, *, timeout: float) -> Reply:
        """Send an embedding request once; what comes back are no tokens."""
        reply = await self.endpoint.post("/embeddings", request, timeout=timeout)
        return replace(reply, tokens_out=0) if reply.failure is None else reply

    def read_embed(self, reply: Reply) -> np.ndarray:
        """Return the vectors in the order of the texts, one row each."""
        import numpy as np

        document = _answer(reply)
        items = document.get("data")
        if not isinstance(items, list) or not items:
            raise InvalidBody("the answer holds no vectors.")
        rows = sorted(items, key=_index_of)
        if [_index_of(item) for item in rows] != list(range(len(rows))):
            raise InvalidBody("the answer's vectors are not numbered 0, 1, 2, ...")
        try:
            vectors = np.asarray([item.get("embedding") for item in rows], dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise InvalidBody("the answer's vectors are not lists of numbers of one length.") from error
        if vectors.ndim != 2 or vectors.shape[1] == 0 or not np.isfinite(vectors).all():
            raise InvalidBody("the answer's vectors are not lists of finite numbers of one length.")
        return vectors

    def count_tokens(self, text: str) -> int:
        """Estimate: one token for four bytes; the endpoint's tokenizer is not known here."""
        return math.ceil(len(text.encode("utf-8", "surrogatepass")) / 4)

    async def aclose(self) -> None:
        """Close the endpoint's connections."""
        await self.endpoint.aclose()

    def __repr__(self) -> str:
        return f"OpenAIProvider({self.name!r}, {self.model.model!r}, {self.endpoint!r})"

    def _response_format(self, schema: dict[str, Any]) -> Any:
        """Return a schema in the endpoint's form; a step asks with the same one for every row."""
        if self._form[0] is not schema:
            self._form = (schema, orjson.Fragment(_dump(_response_format(schema))))
        return self._form[1]


def open_endpoint(name: str, model: Model, *, settings: Settings, trust: Trust) -> Endpoint:
    """Return the endpoint of a model, not yet connected; raise what keeps it from being called."""
    where = f"model {name!r}"
    route = route_of(name, model, settings=settings, trust=trust)
    headers = {**route.payers, **route.headers}
    return Endpoint(
        route.address.text,
        route.key.text if route.key is not None else None,
        env=trust.env,
        max_bytes=settings.max_response_bytes,
        extras=Extras(
            headers={header: _header(header, part.text, where) for header, part in headers.items()},
            secrets=[secret for part in (route.address, *route.headers.values()) for secret in part.secrets],
            api_version=model.api_version,
            shown=route.address.shown,
        ),
    )


def _header(name: str, value: str, where: str) -> str:
    if not value.isascii() or not value.isprintable():
        raise EnvironmentLacks(f"{where}: the header {name!r} holds characters that no header may have.")
    return value


def _is_new(host: str) -> bool:
    return host.endswith(NEW_LIMIT_HOSTS)


def _dump(asked: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(asked)
    except TypeError as error:
        raise InputInvalid(
            f"a message cannot be sent as JSON ({error}).",
            hint="Half a surrogate pair (U+D800 to U+DFFF) is no character; clean the input.",
        ) from error


def _response_format(schema: dict[str, Any]) -> dict[str, Any]:
    strict = strict_schema(schema)
    # A schema without a strict form still guides; the answer is checked against all of it either way.
    form = {"name": "answer", "schema": strict or schema, "strict": strict is not None}
    return {"type": "json_schema", "json_schema": form}


def _answer(reply: Reply) -> dict[str, Any]:
    document = reply.document
    if not isinstance(document, dict):
        raise InvalidBody("the answer is JSON, but no object.")
    fault = document.get("error")
    if fault and not document.get("choices") and not document.get("data"):
        raise _fault_in_answer(fault, reply)
    return document


def _fault_in_answer(fault: Any, reply: Reply) -> HeadraceError:
    """Routers answer 200 with an error inside; its code is the status that counts."""
    code = fault.get("code") if isinstance(fault, dict) else None
    if isinstance(code, int) and 400 <= code < 600:
        return classify(code, {}, reply.body, now=0.0)
    return InvalidBody(f"the endpoint answered 200 with an error: {str(fault)[:200]!r}.")


def _first_choice(reply: Reply) -> dict[str, Any]:
    choices = _answer(reply).get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise InvalidBody("the completion has no choices.")
    choice: dict[str, Any] = choices[0]
    return choice


def _text_of(content: Any) -> str | None:
    """Return the text of a message: a string, or the text parts of a list."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part["text"] for part in content if _is_text(part)]
        return "".join(parts) if parts else None
    return None


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _index_of(item: Any) -> int:
    index = item.get("index") if isinstance(item, dict) else None
    return index if isinstance(index, int) else -1
