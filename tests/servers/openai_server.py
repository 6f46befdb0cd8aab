"""A local OpenAI-compatible server with a ledger, to be run in a process of its own.

    python tests/servers/openai_server.py --port 0 --ledger ledger.jsonl --script faults.json

It prints its URL (up to and including `/v1`) on the first line. The ledger is one JSON line per POST,
on disk before the answer begins, so it is the oracle for "how many calls were made, and which bytes
came". Answers are functions of the request (tests/servers/answers.py). A script is a list of rules; the
first rule that fits a request decides its fault:

    {"at": 3} | {"from": 1, "to": 50} | {"every": 4}     number of the POST, from 1 (left out: every POST)
    {"match": "text"}    only when the raw body holds the text
    {"path": "/v1/embeddings"}    only on this path
    {"times": 2}         at most so often
    {"fault": NAME, ...}  see FAULTS at the end of this file for the names and their arguments
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import gzip
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from aiohttp import web

sys.path.insert(0, str(Path(__file__).parent))

import answers

Rule = dict[str, Any]


class Ledger:
    """Append-only file of requests; a line is on disk when `write` returns."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "ab")  # noqa: SIM115 - open as long as the server runs

    def write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


class Server:
    """Counts requests, picks faults, answers."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.ledger = Ledger(options.ledger)
        self.rules: list[Rule] = json.loads(Path(options.script).read_text()) if options.script else []
        self.used = [0] * len(self.rules)
        self.sequence = 0
        self.in_flight = 0

    def rule_for(self, path: str, body: bytes) -> Rule:
        for index, rule in enumerate(self.rules):
            if self._fits(rule, path, body) and self.used[index] < rule.get("times", 1 << 60):
                self.used[index] += 1
                return rule
        return {"fault": "none"}

    def _fits(self, rule: Rule, path: str, body: bytes) -> bool:
        number = self.sequence
        return (
            rule.get("at", number) == number
            and rule.get("from", 1) <= number <= rule.get("to", number)
            and number % rule.get("every", 1) == 0
            and rule.get("path", path) == path
            and rule.get("match", "").encode() in body
        )

    async def post(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.sequence += 1
        self.in_flight += 1
        try:
            rule = self.rule_for(request.path, body)
            if self._key_is_wrong(request):
                rule = {"fault": "unauthorized"}
            self.ledger.write(self._line(request, body, rule))
            await asyncio.sleep(self.options.latency)
            return await FAULTS[rule["fault"]](self, request, body, rule)
        finally:
            self.in_flight -= 1

    def _key_is_wrong(self, request: web.Request) -> bool:
        return bool(self.options.key) and request.headers.get("Authorization") != f"Bearer {self.options.key}"

    def _line(self, request: web.Request, body: bytes, rule: Rule) -> dict[str, Any]:
        try:
            text: dict[str, Any] = {"body": body.decode("utf-8")}
        except UnicodeDecodeError:
            text = {"base64": base64.b64encode(body).decode()}
        headers = {name.lower(): value for name, value in request.headers.items()}
        key = headers.pop("authorization", None) or headers.pop("api-key", None)
        return {
            "sequence": self.sequence,
            "path": request.path,
            "query": request.query_string,
            "at": time.monotonic(),
            "in_flight": self.in_flight,
            "status": STATUS.get(rule["fault"], rule.get("status", 200)),
            "fault": rule["fault"],
            # The key itself stays out, so that a search for it over a whole folder means something.
            "key_sha256": hashlib.sha256(key.encode()).hexdigest() if key else None,
            "headers": headers,
            **text,
        }


def completion(body: bytes, **changes: Any) -> dict[str, Any]:
    """Return a chat completion; `changes` overwrite text, finish_reason, message or usage."""
    asked = json.loads(body)
    last = asked["messages"][-1]["content"]
    user = next((m["content"] for m in reversed(asked["messages"]) if m["role"] == "user"), last)
    form = asked.get("response_format") or {}
    if form.get("type") == "json_schema":
        # The first user message holds the matter; later ones of a re-asked conversation hold complaints.
        first = next((m["content"] for m in asked["messages"] if m["role"] == "user"), user)
        text = json.dumps(answers.instance(form["json_schema"]["schema"], first))
    else:
        text = answers.echo(last)
    text = changes.get("text", text)
    tokens_in = sum(answers.count(m["content"]) for m in asked["messages"])
    tokens_out = answers.count(text or "")
    found = {
        "id": "chatcmpl-" + hashlib.sha256(body).hexdigest()[:24],
        "object": "chat.completion",
        "created": 1_750_000_000,
        "model": changes.get("model", asked["model"]),
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, **changes.get("message", {})},
                "finish_reason": changes.get("finish_reason", "stop"),
            }
        ],
        "usage": {
            "prompt_tokens": tokens_in,
            "completion_tokens": tokens_out,
            "total_tokens": tokens_in + tokens_out,
        },
    }
    return {**found, **changes.get("top", {})}


def embeddings(body: bytes) -> dict[str, Any]:
    asked = json.loads(body)
    texts = [asked["input"]] if isinstance(asked["input"], str) else asked["input"]
    size = asked.get("dimensions", answers.DIMENSION)
    tokens = sum(answers.count(text) for text in texts)
    return {
        "object": "list",
        "model": asked["model"],
        "data": [
            {"object": "embedding", "index": index, "embedding": answers.vector(text, size)}
            for index, text in enumerate(texts)
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def events(document: dict[str, Any], *, usage: bool) -> list[bytes]:
    """Return a completion as the events of a stream, a few characters in each."""
    [choice] = document["choices"]
    message = choice["message"]
    text = message["content"] or ""
    head = {**message, "content": None if message["content"] is None else ""}
    deltas: list[tuple[dict[str, Any], Any]] = [(head, None)]
    deltas += [({"content": text[start : start + 7]}, None) for start in range(0, len(text), 7)]
    deltas.append(({}, choice["finish_reason"]))
    rest = {name: value for name, value in document.items() if name not in ("choices", "usage")}
    rest["object"] = "chat.completion.chunk"
    parts: list[dict[str, Any]] = [
        {**rest, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        for delta, reason in deltas
    ]
    if usage and "usage" in document:
        parts.append({**rest, "choices": [], "usage": document["usage"]})
    lines = [json.dumps(part, ensure_ascii=False).encode() for part in parts]
    return [b"data: " + line + b"\n\n" for line in [*lines, b"[DONE]"]]


def parts_of(request: web.Request, body: bytes, **changes: Any) -> tuple[list[bytes], str]:
    """Return the right answer, as the events of a stream where one is asked for, and its content type."""
    found = answer(request, body, **changes)
    asked = json.loads(body)
    if not asked.get("stream"):
        return [json.dumps(found).encode()], "application/json"
    usage = bool((asked.get("stream_options") or {}).get("include_usage"))
    return events(found, usage=usage), "text/event-stream"


async def said(
    request: web.Request, body: bytes, headers: dict[str, str] | None = None, **changes: Any
) -> web.StreamResponse:
    """Send the right answer; a stream goes out event by event."""
    parts, kind = parts_of(request, body, **changes)
    response = web.StreamResponse(headers={**(headers or {}), "Content-Type": kind})
    if len(parts) == 1:
        response.content_length = len(parts[0])
    await response.prepare(request)
    for part in parts:
        await response.write(part)
    return response


def answer(request: web.Request, body: bytes, **changes: Any) -> dict[str, Any]:
    return embeddings(body) if request.path.endswith("/embeddings") else completion(body, **changes)


def complaint(status: int, message: str, *, code: str | None = None, **more: Any) -> web.Response:
    """Return an error in OpenAI's shape."""
    fault = {"message": message, "type": more.get("type", "error"), "param": more.get("param"), "code": code}
    return web.json_response({"error": fault}, status=status, headers=more.get("headers"))


async def none(server: Server, request: web.Request, body: bytes, rule: Rule) -> web.StreamResponse:
    """A right answer; `delay` seconds late."""
    await asyncio.sleep(rule.get("delay", 0))
    return await said(request, body, {"x-request-id": f"req-{server.sequence}"})


async def changed(server: Server, request: web.Request, body: bytes, rule: Rule) -> web.StreamResponse:
    """A completion with `text`, `finish_reason`, `message`, `model` or `top` changed."""
    return await said(request, body, **{k: v for k, v in rule.items() if k in CHANGES})


async def status(server: Server, request: web.Request, body: bytes, rule: Rule) -> web.StreamResponse:
    """`status` with `headers`, `message`, `code`, `param`."""
    more = {name: rule.get(name) for name in ("headers", "param")}
    return complaint(rule["status"], rule.get("message", "scripted"), code=rule.get("code"), **more)


async def hang(server: Server, request: web.Request, body: bytes, rule: Rule) -> web.StreamResponse:
    """Nothing, for `seconds` (an hour)."""
    await asyncio.sleep(rule.get("seconds", 3600))
    return web.json_response(answer(request, body))


async def drip(server: Server, request: web.Request, body: bytes, rule: Rule) -> web.StreamResponse:
    """Headers at once, then `size` bytes of the body every `seconds`."""
    whole = json.dumps(answer(request, body)).encode()
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.content_length = len(whole)
    await response.prepare(request)
    for start in range(0, len(whole), rule.get("size", 1)):
        await response.write(whole[start : start + rule.get("size", 1)])
        await asyncio.sleep(rule.get("seconds", 1.0))
    return response


async def cut(server: Server, request: web.Request, body: bytes, rule: Rule) -> web.StreamResponse:
    """The right length announced, `bytes` of the body sent, then the connection closed."""
    parts, kind = parts_of(request, body)
    whole = b"".join(parts)
    response = web.StreamResponse(headers={"Content-Type": kind})
    response.content_length = len(whole)
    await response.prepare(request)
    await response.write(whole[: rule["bytes"]])
    await asyncio.sleep(0.01)
    _drop(request)
    return response


async def ends_early(server: Server, request: web.Request, body: bytes, rule: Rule) -> web.StreamResponse:
    """The first `events` of a stream, with `error` as the last of them, and a proper end of the response."""
    parts, kind = parts_of(request, body)
    parts = parts[: rule["events"]]
    if "error" in rule:
        parts.append(b"data: " + json.dumps({"error": rule["error"]}).encode() + b"\n\n")
    return web.Response(body=b"".join(parts), headers={"Content-Type": kind})


async def short_length(server: Server, request: web.Request, body: bytes, rule: Rule) -> web.StreamResponse:
    """A Content-Length that is `missing` bytes too small."""
    whole = json.dumps(answer(request, body)).encode()
    length = len(whole) - rule.get("missing", 20)
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    assert request.transport is not None
    request.transport.write(head.encode() + whole[:length])  # type: ignore[attr-defined]
    await asyncio.sleep(0.02)
    return await _raw(request, whole[length:])


async def close(server: Server, request: web.Request, body: bytes, rule: Rule) -> web.StreamResponse:
    """The connection closed before any header."""
    return await _raw(request, b"")


async def no_http(server: Server, request: web.Request, body: bytes, rule: Rule) -> web.StreamResponse:
    """Bytes that are not HTTP."""
    return await _raw(request, b"\x00\x01 hello\r\n\r\n")


async def _raw(request: web.Request, data: bytes) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.write(data)  # type: ignore[attr-defined]
    await asyncio.sleep(0.01)
    _drop(request)
    raise asyncio.CancelledError


def _drop(request: web.Request) -> None:
    if request.transport is not None:  # else the client was faster
        request.transport.close()


async def body_of(server: Server, request: web.Request, body: bytes, rule: Rule) -> web.StreamResponse:
    """`text` or `base64` as the whole body, with `content_type` and `status` 200."""
    data = base64.b64decode(rule["base64"]) if "base64" in rule else rule["text"].encode()
    headers = {"Content-Type": rule.get("content_type", "application/json")}
    return web.Response(body=data, headers=headers, status=rule.get("status", 200))


async def gzipped(server: Server, request: web.Request, body: bytes, rule: Rule) -> web.StreamResponse:
    """The right answer, compressed with `encoding` (gzip)."""
    parts, kind = parts_of(request, body)
    data = gzip.compress(b"".join(parts))
    headers = {"Content-Type": kind, "Content-Encoding": rule.get("encoding", "gzip")}
    return web.Response(body=data, headers=headers)


async def gzip_bomb(server: Server, request: web.Request, body: bytes, rule: Rule) -> web.StreamResponse:
    """`megabytes` of spaces before the answer, compressed."""
    whole = b" " * (rule.get("megabytes", 64) << 20) + json.dumps(answer(request, body)).encode()
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    return web.Response(body=gzip.compress(whole, 6), headers=headers)


async def redirect(server: Server, request: web.Request, body: bytes, rule: Rule) -> web.StreamResponse:
    """307 to `location`."""
    return web.Response(status=307, headers={"Location": rule["location"]})


async def invalid_output(server: Server, request: web.Request, body: bytes, rule: Rule) -> web.StreamResponse:
    """An answer that fits no schema: prose, or `text`."""
    return await said(request, body, text=rule.get("text", "I would say: a refund."))


async def no_usage(server: Server, request: web.Request, body: bytes, rule: Rule) -> web.StreamResponse:
    """A completion without `usage`."""
    found = answer(request, body)
    del found["usage"]
    return web.json_response(found)


async def context_length(server: Server, request: web.Request, body: bytes, rule: Rule) -> web.StreamResponse:
    """400 context_length_exceeded."""
    message = (
        "This model's maximum context length is 128 tokens. However, your messages resulted in 4711 tokens."
    )
    return complaint(400, message, code="context_length_exceeded", param="messages")


async def unauthorized(server: Server, request: web.Request, body: bytes, rule: Rule) -> web.StreamResponse:
    """401; the message repeats the key, as some endpoints do."""
    key = request.headers.get("Authorization", "").removeprefix("Bearer ")
    return complaint(401, f"Incorrect API key provided: {key}.", code="invalid_api_key")


CHANGES = ("text", "finish_reason", "message", "model", "top")
FAULTS = {
    "none": none,
    "changed": changed,
    "status": status,
    "hang": hang,
    "drip": drip,
    "cut": cut,
    "ends_early": ends_early,
    "short_length": short_length,
    "close": close,
    "no_http": no_http,
    "body": body_of,
    "gzipped": gzipped,
    "gzip_bomb": gzip_bomb,
    "redirect": redirect,
    "invalid_output": invalid_output,
    "no_usage": no_usage,
    "context_length": context_length,
    "unauthorized": unauthorized,
}
STATUS: dict[str, int | None] = {
    "hang": None,
    "close": None,
    "no_http": None,
    "redirect": 307,
    "context_length": 400,
    "unauthorized": 401,
}


async def models(request: web.Request) -> web.Response:
    return web.json_response({"object": "list", "data": [{"id": "test-model", "object": "model"}]})


async def serve(options: argparse.Namespace) -> None:
    current = Server(options)

    async def post(request: web.Request) -> web.StreamResponse:
        return await current.post(request)

    async def restart(request: web.Request) -> web.Response:
        """Begin anew with other options, as a new process would, in a hundredth of the time."""
        nonlocal current
        current = Server(argparse.Namespace(**{**vars(options), **await request.json()}))
        return web.Response()

    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/v1/chat/completions", post)
    app.router.add_post("/v1/embeddings", post)
    # As Azure has it: the deployment in the path, the version in the query.
    app.router.add_post("/openai/deployments/{name}/chat/completions", post)
    app.router.add_post("/openai/deployments/{name}/embeddings", post)
    app.router.add_get("/v1/models", models)
    app.router.add_put("/restart", restart)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", options.port).start()
    port = runner.addresses[0][1]
    print(f"http://127.0.0.1:{port}/v1", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ledger", required=True)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--script")
    parser.add_argument("--key", help="the only key that is let in")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
