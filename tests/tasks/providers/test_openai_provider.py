"""The OpenAI-compatible provider against a real server: what goes out, what comes back."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from chains.errors import (
    CallRefused,
    ConnectionFailed,
    ContentFiltered,
    EnvironmentLacks,
    HeadraceError,
    InputInvalid,
    InvalidBody,
    Refused,
    TimedOut,
)
from chains.settings import Settings
from chains.spec import Model
from tasks.providers import Provider, Providers, Reply
from tasks.providers.http import Deadlines, Endpoint

KEY = "sk-canary-5f1c0b7a9e"
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Grüße, 世界 🌍"}]
SCHEMA = {
    "type": "object",
    "properties": {"intent": {"enum": ["refund", "delivery"]}},
    "required": ["intent"],
    "additionalProperties": False,
}

Open = Callable[..., Provider]


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    """Open a provider: `opened(url, temperature=0, env={...}, max_response_bytes=...)`."""
    made: list[Providers] = []

    def begin(
        url: str, *, env: dict[str, str] | None = None, settings: dict[str, Any] | None = None, **model: Any
    ):
        if env is None:
            env = {"SHOP_API_KEY": KEY}
            model.setdefault("api_key", "{{ env.SHOP_API_KEY }}")
        part = Model(provider="openai", model=model.pop("model", "test-model"), base_url=url, **model)
        made.append(Providers({"m": part}, store=None, settings=Settings(**(settings or {})), env=env))
        return made[-1].get("m")

    yield begin
    for providers in made:
        await providers.aclose()


async def ask(provider: Provider, timeout: float = 5.0, **options: Any) -> Reply:
    return await provider.send_chat(
        provider.chat_request(MESSAGES, schema=options.get("schema"), sample=options.get("sample", 0)),
        timeout=timeout,
    )


async def test_a_question_gets_its_answer_with_tokens_model_and_request_id(serve: Any, opened: Open) -> None:
    server = serve()
    provider = opened(server.url)

    reply = await ask(provider)
    completion = provider.read_chat(reply)

    assert completion.text.endswith("Grüße, 世界 🌍")
    assert completion.finish_reason == "stop"
    assert (completion.tokens_in, completion.tokens_out) == (reply.tokens_in, reply.tokens_out)
    assert completion.tokens_in and completion.tokens_out
    assert (reply.model, reply.status, reply.request_id) == ("test-model", 200, "req-1")
    assert json.loads(reply.body)["choices"][0]["message"]["content"] == completion.text


async def test_the_bytes_of_the_request_are_those_that_the_server_gets(serve: Any, opened: Open) -> None:
    server = serve()
    provider = opened(server.url, temperature=0.2, top_p=0.9, max_tokens=50, seed=3, stop=["END"])
    request = provider.chat_request(MESSAGES, schema=SCHEMA, sample=2)

    await provider.send_chat(request, timeout=5)

    assert server.ledger()[0]["raw"] == request
    head = (
        '{"model":"test-model","messages":[{"role":"system","content":"Be brief."},'
        '{"role":"user","content":"Grüße, 世界 🌍"}],"temperature":0.2,"top_p":0.9,"max_tokens":50,'
        '"seed":5,"stop":["END"],"response_format":{"type":"json_schema","json_schema":{"name":"answer",'
    )
    assert request.startswith(head.encode())
    assert json.loads(request)["response_format"]["json_schema"]["schema"] == SCHEMA


async def test_parameters_that_are_not_set_are_not_sent(opened: Open) -> None:
    assert set(json.loads(opened("http://127.0.0.1:9/v1").chat_request(MESSAGES, schema=None, sample=0))) == {
        "model",
        "messages",
    }


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("https://api.openai.com/v1", "max_completion_tokens"),
        ("https://desk.openai.azure.com/openai/v1", "max_completion_tokens"),
        ("http://127.0.0.1:8000/v1", "max_tokens"),
        ("https://openrouter.ai/api/v1", "max_tokens"),
    ],
)
async def test_the_token_limit_has_the_name_that_the_host_knows(opened: Open, url: str, key: str) -> None:
    request = json.loads(opened(url, max_tokens=7).chat_request(MESSAGES, schema=None, sample=0))

    assert {name: value for name, value in request.items() if "tokens" in name} == {key: 7}


async def test_a_schema_with_optional_fields_is_sent_in_the_strict_form(opened: Open) -> None:
    schema = {**SCHEMA, "properties": {**SCHEMA["properties"], "order": {"type": "string"}}}
    request = opened("http://127.0.0.1:9/v1").chat_request(MESSAGES, schema=schema, sample=0)
    form = json.loads(request)["response_format"]["json_schema"]

    assert form["strict"] is True
    assert form["schema"]["required"] == ["intent", "order"]
    assert form["schema"]["properties"]["order"]["type"] == ["string", "null"]


async def test_half_a_character_is_named_before_anything_is_sent(opened: Open) -> None:
    with pytest.raises(InputInvalid, match="surrogate"):
        opened("http://127.0.0.1:9/v1").chat_request(
            [{"role": "user", "content": "\ud800"}], schema=None, sample=0
        )


async def test_vectors_come_back_in_the_order_of_the_texts(serve: Any, opened: Open) -> None:
    server = serve({"at": 2, "fault": "body", "text": json.dumps({"data": [
        {"index": 1, "embedding": [0, 1]}, {"index": 0, "embedding": [1, 0]}]})})  # fmt: skip
    provider = opened(server.url)
    texts = ["late parcel", "money back", "late parcel"]

    request = provider.embed_request(texts)
    vectors = provider.read_embed(await provider.send_embed(request, timeout=5))
    assert server.ledger()[0]["raw"] == request
    assert (vectors.shape, str(vectors.dtype)) == ((3, 64), "float32")
    assert (vectors[0] == vectors[2]).all() and not (vectors[0] == vectors[1]).all()

    shuffled = provider.read_embed(await provider.send_embed(request, timeout=5))
    assert shuffled.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    "data",
    [
        [],
        None,
        [{"index": 0}],
        [{"index": 1, "embedding": [1.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [1.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [1.0, 2.0]}],
        [{"index": 0, "embedding": ["a"]}],
        [{"index": 0, "embedding": []}],
        [{"index": 0, "embedding": [1e999]}],
        ["x"],
    ],
)
async def test_vectors_that_are_none_are_an_invalid_body(opened: Open, data: Any) -> None:
    with pytest.raises(InvalidBody):
        opened("http://127.0.0.1:9/v1").read_embed(Reply(b"", 200, document={"data": data}))


FAILURES: list[tuple[dict[str, Any], type[HeadraceError], str]] = [
    ({"fault": "status", "status": 429, "headers": {"Retry-After": "3"}}, HeadraceError, "429"),
    ({"fault": "status", "status": 500, "message": "boom"}, HeadraceError, "500: 'boom'"),
    ({"fault": "redirect", "location": "http://169.254.169.254/latest?x=1"}, CallRefused, "not followed"),
    ({"fault": "cut", "bytes": 40}, InvalidBody, "broke off after 40 bytes"),
    ({"fault": "short_length"}, InvalidBody, "not JSON"),
    ({"fault": "body", "text": "<html>Sign in", "content_type": "text/html"}, InvalidBody, "text/html"),
    ({"fault": "body", "base64": base64.b64encode(b'{"a": "\xff"}').decode()}, InvalidBody, "not JSON"),
    ({"fault": "body", "text": '{"choices": NaN}'}, InvalidBody, "not JSON"),
    ({"fault": "body", "text": ""}, InvalidBody, "not JSON"),
    ({"fault": "body", "text": "[" * 100_000}, InvalidBody, "not JSON"),
    ({"fault": "gzipped", "encoding": "br"}, InvalidBody, "'br'"),
    ({"fault": "gzip_bomb", "megabytes": 3}, CallRefused, "longer than 1048576 bytes"),
    ({"fault": "context_length"}, CallRefused, "4711 tokens"),
    ({"fault": "unauthorized"}, CallRefused, "401"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "expected", "text"), FAILURES, ids=lambda value: str(value)[:40])
async def test_a_reply_that_is_no_answer_keeps_its_bytes_and_says_why(
    serve: Any, opened: Open, rule: dict[str, Any], expected: type[HeadraceError], text: str
) -> None:
    provider = opened(serve(rule).url, settings={"max_response_bytes": 1 << 20})

    reply = await ask(provider)

    assert isinstance(reply.failure, expected)
    assert text in reply.failure.message
    assert reply.status is not None
    assert len(reply.body) <= (1 << 20) + 1
    assert KEY.encode() not in reply.body and KEY not in str(reply.failure) + repr(reply) + repr(provider)


async def test_what_arrived_of_a_cut_answer_is_kept(serve: Any, opened: Open) -> None:
    reply = await ask(opened(serve({"fault": "cut", "bytes": 40}).url))

    assert len(reply.body) == 40
    assert reply.body.startswith(b'{"id": "chatcmpl-')


async def test_packed_answers_are_unpacked(serve: Any, opened: Open) -> None:
    provider = opened(serve({"fault": "gzipped"}).url)

    assert "世界" in provider.read_chat(await ask(provider)).text


async def test_a_byte_order_mark_does_not_spoil_an_answer(serve: Any, opened: Open) -> None:
    answer = {"choices": [{"message": {"content": "a\x00b"}, "finish_reason": "stop"}]}
    provider = opened(serve({"fault": "body", "text": "\ufeff" + json.dumps(answer)}).url)

    completion = provider.read_chat(await ask(provider))

    assert completion.text == "a\x00b"
    assert (completion.tokens_in, completion.tokens_out) == (None, None)


@pytest.mark.parametrize("rule", [{"fault": "close"}, {"fault": "no_http"}])
async def test_a_connection_without_an_answer_is_a_failed_connection(
    serve: Any, opened: Open, rule: dict[str, Any]
) -> None:
    with pytest.raises(ConnectionFailed):
        await ask(opened(serve(rule).url))


async def test_a_closed_port_and_an_unknown_name_are_failed_connections(opened: Open) -> None:
    with pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1:9/v1"):
        await ask(opened("http://127.0.0.1:9/v1"))
    with pytest.raises(ConnectionFailed, match=r"nowhere\.invalid"):
        await ask(opened("http://nowhere.invalid/v1"))


async def test_a_server_that_says_nothing_is_left_after_the_timeout(serve: Any, opened: Open) -> None:
    with pytest.raises(TimedOut, match=r"began no answer within 0\.1 s"):
        await ask(opened(serve({"fault": "hang"}).url), timeout=0.1)


async def test_an_answer_that_drips_is_cut_at_the_timeout_and_kept(serve: Any, opened: Open) -> None:
    reply = await ask(opened(serve({"fault": "drip", "seconds": 0.02}).url), timeout=0.2)

    assert isinstance(reply.failure, TimedOut)
    assert b'{"id"'.startswith(reply.body[:5]) and reply.body


async def test_an_answer_that_stops_is_left_after_the_pause_between_parts(serve: Any) -> None:
    server = serve({"fault": "drip", "seconds": 60, "size": 10})
    endpoint = Endpoint(server.url, None, env={}, max_bytes=1 << 20, deadlines=Deadlines(between_chunks=0.1))
    reply = await endpoint.post(
        "/chat/completions", b'{"model":"m","messages":[{"role":"user","content":"x"}]}', timeout=30
    )
    await endpoint.aclose()

    assert isinstance(reply.failure, TimedOut)
    assert "stopped after 10 bytes" in reply.failure.message


CHOICE = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ([], InvalidBody),
        ({}, InvalidBody),
        ({"choices": []}, InvalidBody),
        ({"choices": None}, InvalidBody),
        ({"choices": ["x"]}, InvalidBody),
        ({"choices": [{"finish_reason": "stop"}]}, InvalidBody),
        ({"choices": [{**CHOICE, "message": {"content": None}}]}, InvalidBody),
        ({"choices": [{**CHOICE, "message": {"content": 3}}]}, InvalidBody),
        ({"choices": [{**CHOICE, "message": {"content": None}, "finish_reason": "tool_calls"}]}, InvalidBody),
        ({"choices": [{**CHOICE, "message": {"content": None, "refusal": "I cannot."}}]}, ContentFiltered),
        ({"choices": [{**CHOICE, "finish_reason": "content_filter"}]}, ContentFiltered),
        ({"error": {"message": "upstream is down", "code": 502}}, HeadraceError),
        ({"error": "odd"}, InvalidBody),
    ],
)
async def test_a_document_that_is_no_completion_is_named(
    opened: Open, document: Any, expected: type[HeadraceError]
) -> None:
    with pytest.raises(expected):
        opened("http://127.0.0.1:9/v1").read_chat(
            Reply(json.dumps(document).encode(), 200, document=document)
        )


@pytest.mark.parametrize(
    ("choice", "text", "reason"),
    [
        (CHOICE, "hi", "stop"),
        ({**CHOICE, "finish_reason": None}, "hi", "stop"),
        ({**CHOICE, "message": {"content": ""}}, "", "stop"),
        ({**CHOICE, "message": {"content": None}, "finish_reason": "length"}, "", "length"),
        ({**CHOICE, "message": {"content": [{"type": "text", "text": part} for part in "ab"]}}, "ab", "stop"),
    ],
)  # fmt: skip
async def test_the_text_of_a_completion_is_read(opened: Open, choice: Any, text: str, reason: str) -> None:
    completion = opened("http://127.0.0.1:9/v1").read_chat(Reply(b"", 200, document={"choices": [choice]}))

    assert (completion.text, completion.finish_reason) == (text, reason)


async def test_key_organisation_and_project_go_into_headers_only(serve: Any, opened: Open) -> None:
    server = serve()
    env = {"MY_KEY": KEY, "OPENAI_ORG_ID": "org-1", "OPENAI_PROJECT_ID": "proj-2"}
    settings = {"allowed_hosts": ("127.0.0.1",)}
    provider = opened(server.url, env=env, settings=settings, api_key="{{ env.MY_KEY }}")

    await ask(provider)

    line = server.ledger()[0]
    assert line["key_sha256"] == hashlib.sha256(f"Bearer {KEY}".encode()).hexdigest()
    assert (line["headers"]["openai-organization"], line["headers"]["openai-project"]) == ("org-1", "proj-2")
    assert KEY not in str(line) + repr(provider) + str(provider.identity)


async def test_organisation_and_project_of_the_model_go_before_those_of_the_environment(
    serve: Any, opened: Open
) -> None:
    server = serve()
    env = {"OPENAI_ORG_ID": "org-env", "OPENAI_PROJECT_ID": "proj-env", "ORG": "org-2", "OPENAI_API_KEY": KEY}

    settings = {"allowed_hosts": ("127.0.0.1",)}
    await ask(opened(server.url, env=env, settings=settings, organization="{{ env.ORG }}"))

    headers = server.ledger()[0]["headers"]
    assert (headers["openai-organization"], headers["openai-project"]) == ("org-2", "proj-env")


async def test_headers_of_a_model_are_sent_and_their_secrets_never_come_back(
    serve: Any, opened: Open
) -> None:
    server = serve({"fault": "status", "status": 400, "message": "token gw-canary-0815 is unknown"})
    headers = {"X-Team": "support", "X-Token": "{{ env.TOKEN }}", "user-agent": "shop/1"}
    provider = opened(server.url, env={"TOKEN": "gw-canary-0815"}, headers=headers)

    reply = await ask(provider)

    sent = server.ledger()[0]["headers"]
    assert (sent["x-team"], sent["x-token"], sent["user-agent"]) == ("support", "gw-canary-0815", "shop/1")
    assert b"gw-canary" not in reply.body and b"[key removed]" in reply.body
    assert "gw-canary" not in f"{reply!r} {provider!r} {provider.identity} {reply.failure}"
    assert provider.identity["headers"] == headers


async def test_an_azure_deployment_gets_its_version_and_key_where_azure_wants_them(
    serve: Any, opened: Open
) -> None:
    server = serve()
    url = server.url.removesuffix("/v1") + "/openai/deployments/support"
    env, key = {"AZURE_OPENAI_API_KEY": KEY}, "{{ env.AZURE_OPENAI_API_KEY }}"
    provider = opened(url, env=env, api_key=key, api_version="2024-10-21")

    completion = provider.read_chat(await ask(provider))
    await provider.send_embed(provider.embed_request(["a"]), timeout=5)

    chat, embed = server.ledger()
    assert completion.text.endswith("Grüße, 世界 🌍")
    assert chat["path"] == "/openai/deployments/support/chat/completions"
    assert embed["path"] == "/openai/deployments/support/embeddings"
    assert chat["query"] == embed["query"] == "api-version=2024-10-21"
    # The key by itself, not as `Bearer KEY`.
    assert chat["key_sha256"] == hashlib.sha256(KEY.encode()).hexdigest()
    assert provider.identity["api_version"] == "2024-10-21"


async def test_identities_without_headers_or_version_are_what_they_were(opened: Open) -> None:
    assert {"headers", "api_version"}.isdisjoint(opened("http://127.0.0.1:9/v1").identity)


async def test_a_proxy_of_the_environment_is_used_except_for_this_machine(
    serve: Any, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    proxy = server.url.removesuffix("/v1")
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)

    await ask(opened("http://llm.invalid/v1"))
    assert server.ledger()[0]["headers"]["host"] == "llm.invalid"

    await ask(opened(server.url))
    assert server.ledger()[1]["headers"]["host"] == proxy.removeprefix("http://")


async def test_a_server_on_this_machine_needs_no_key(serve: Any, opened: Open) -> None:
    server = serve()

    await ask(opened(server.url, env={}))

    assert server.ledger()[0]["key_sha256"] is None


@pytest.mark.parametrize(
    ("model", "env", "text"),
    [
        ({"base_url": "https://llm.example/v1"}, {}, "belongs to api.openai.com and is not sent"),
        ({}, {"OPENAI_API_KEY": ""}, "OPENAI_API_KEY is not set"),
        ({"api_key": "{{ env.OTHER_KEY }}", "base_url": "http://127.0.0.1:1/v1"}, {}, "OTHER_KEY is not set"),
        ({"api_key": "sk-written-out"}, {}, "api_key is written out"),
        ({"api_key": "{{ inputs.key }}"}, {}, r"only '{{ env.NAME }}'"),
        ({}, {"OPENAI_API_KEY": KEY + "\nX-Evil: 1"}, "no key has"),
        ({"base_url": "{{ env.HOST_URL }}"}, {"OPENAI_API_KEY": KEY}, "HOST_URL is not set"),
        ({"headers": {"X-A": "{{ env.A_TOKEN }}"}}, {"OPENAI_API_KEY": KEY}, "A_TOKEN is not set"),
        ({"headers": {"X": "{{ env.A_KEY }}"}}, {"OPENAI_API_KEY": KEY, "A_KEY": "a\nX: 1"}, "no header may"),
        (
            {"api_version": "1", "base_url": "https://a.openai.azure.com/d"},
            {},
            "AZURE_OPENAI_API_KEY is not set",
        ),
        ({"base_url": "ftp://x"}, {"OPENAI_API_KEY": KEY}, "base_url"),
        ({"base_url": "http://169.254.169.254/v1"}, {"OPENAI_API_KEY": KEY}, "never called"),
    ],
)  # fmt: skip
async def test_what_a_model_lacks_is_told_before_any_call(model: dict, env: dict, text: str) -> None:
    part = Model(provider="openai", model="x", **model)
    providers = Providers({"m": part}, store=None, settings=Settings(), env=env)

    problems = providers.check(["m", "m"])

    assert len(problems) == 1
    assert text in problems[0]
    assert KEY not in problems[0] and "sk-written-out" not in problems[0]
    with pytest.raises((EnvironmentLacks, Refused)):
        providers.get("m")


async def test_a_name_that_is_no_model_gets_a_suggestion() -> None:
    part = Model(provider="openai", model="x", base_url="http://127.0.0.1:1/v1")
    providers = Providers({"writer": part}, store=None, settings=Settings(), env={})

    assert providers.check(["writer"]) == []
    assert providers.check(["writr"]) == ["no model is named 'writr'. Did you mean 'writer'?"]


async def test_weights_that_are_not_there_are_told_and_a_model_of_the_store_is_not_looked_for() -> None:
    models = {
        "gone": Model(provider="local", model="/no/such/folder"),
        "tuned": Model(provider="local", model="models:tuned@latest"),
    }
    providers = Providers(models, store=None, settings=Settings(), env={})

    (problem,) = providers.check(models)
    assert "/no/such/folder" in problem


async def test_models_with_one_address_and_key_share_their_connections() -> None:
    part = Model(provider="openai", model="x", base_url="http://127.0.0.1:1/v1")
    providers = Providers(
        {
            "a": part,
            "b": part.model_copy(update={"model": "y"}),
            "c": part.model_copy(update={"headers": {"X-Team": "c"}}),
        },
        store=None,
        settings=Settings(),
        env={},
    )

    assert providers.get("a").endpoint is providers.get("b").endpoint
    assert providers.get("a").endpoint is not providers.get("c").endpoint
    assert providers.gate("a") is not providers.gate("b")
    assert providers.get("a").identity != providers.get("b").identity


async def test_only_a_temperature_of_zero_is_deterministic(opened: Open) -> None:
    url = "http://127.0.0.1:9/v1"

    assert opened(url, temperature=0).deterministic
    assert not opened(url).deterministic
    assert not opened(url, temperature=0.1).deterministic


async def test_another_model_behind_a_name_is_news_once() -> None:
    part = Model(provider="openai", model="gpt-5-mini", base_url="http://127.0.0.1:1/v1")
    providers = Providers({"m": part}, store=None, settings=Settings(), env={})

    assert not providers.is_news("m", "gpt-5-mini-2025-08-07")
    assert providers.is_news("m", "gpt-4o")
    assert not providers.is_news("m", "gpt-4o")
