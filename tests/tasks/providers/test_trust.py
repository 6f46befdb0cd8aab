"""What of the environment a chain may use, and where it may go: the rule of docs/security.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chains.errors import EnvironmentLacks, HeadraceError, Refused
from chains.settings import Settings
from chains.spec import Collection, Model
from tasks.collection import Collections
from tasks.providers import Providers
from tasks.providers.trust import Granted, Trust

CANARY = "canary-7d1f0b99a2"
EVIL = "https://evil.example/v1"


def problems(
    env: dict[str, str], settings: dict[str, Any] | None = None, granted: Granted | None = None, **model: Any
) -> list[str]:
    part = Model(provider="openai", model="x", **model)
    chosen = Settings(**(settings or {}))
    return Providers({"m": part}, store=None, settings=chosen, env=env, granted=granted).check(["m"])


KEYS = ("OPENAI_API_KEY", "HF_TOKEN", "GITHUB_TOKEN", "AWS_BEARER_TOKEN_BEDROCK", "ANTHROPIC_API_KEY")


@pytest.mark.parametrize("name", KEYS)
def test_the_key_of_a_known_service_goes_to_no_other_host(name: str) -> None:
    key = f"{{{{ env.{name} }}}}"
    for model in (
        {"base_url": EVIL, "api_key": key},
        {"base_url": EVIL, "api_key": "{{ env.OWN_KEY }}", "headers": {"X-A": key}},
        {"base_url": f"https://evil.example/{key}/v1", "api_key": "{{ env.OWN_KEY }}"},
        {"base_url": EVIL, "api_key": "{{ env.OWN_KEY }}", "organization": key},
    ):
        (problem,) = problems({name: CANARY, "OWN_KEY": "own"}, **model)
        assert f"{name} belongs to" in problem and "'evil.example'" in problem
        assert "HEADRACE_ALLOWED_HOSTS" in problem and CANARY not in problem
        assert problems({name: CANARY, "OWN_KEY": "own"}, {"allowed_hosts": ("evil.example",)}, **model) == []


def test_the_usual_key_goes_where_machine_or_user_say_and_not_where_a_chain_says() -> None:
    env = {"OPENAI_API_KEY": CANARY}
    assert problems(env) == []
    assert "belongs to api.openai.com" in problems(env, base_url=EVIL)[0]
    assert problems(env | {"OPENAI_BASE_URL": EVIL}, base_url=EVIL) == []
    assert problems(env | {"OPENAI_BASE_URL": EVIL}) == []
    assert problems(env, granted=Granted(hosts=frozenset({"evil.example"})), base_url=EVIL) == []
    assert problems(env, base_url="https://evil.example/api.openai.com/v1") != []
    assert problems(env, base_url="https://api.openai.com.evil.example/v1") != []


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("VLLM_API_KEY", "https://llm.shop.example/v1"),
        ("MY_KEY", "http://10.0.0.5:8000/v1"),
        ("GATEWAY_TOKEN", "https://gw.shop.example/v1"),
        ("OPENROUTER_API_KEY", "https://openrouter.ai/api/v1"),
        ("AZURE_OPENAI_API_KEY", "https://desk.openai.azure.com/openai/v1"),
        ("OPENAI_API_KEY", "http://127.0.0.1:8000/v1"),
    ],
)
def test_an_endpoints_own_key_needs_no_settings(name: str, url: str) -> None:
    assert problems({name: CANARY}, base_url=url, api_key=f"{{{{ env.{name} }}}}") == []


def test_an_azure_deployment_needs_no_settings() -> None:
    url = "https://desk.openai.azure.com/openai/deployments/support"
    env = {"AZURE_OPENAI_API_KEY": CANARY}
    assert problems(env, base_url=url, api_version="2024-10-21") == []
    assert "belongs to" in problems(env, base_url=EVIL, api_version="2024-10-21")[0]


def test_a_server_on_this_machine_gets_a_key_only_where_it_is_named() -> None:
    from tasks.providers.openai import open_endpoint

    model = Model(provider="openai", model="x", base_url="http://127.0.0.1:8000/v1")
    settings, trust = Settings(), Trust.of(Settings(), {"OPENAI_API_KEY": CANARY})
    assert open_endpoint("m", model, settings=settings, trust=trust).key is None
    named = model.model_copy(update={"api_key": "{{ env.OPENAI_API_KEY }}"})
    assert open_endpoint("m", named, settings=settings, trust=trust).key == CANARY


@pytest.mark.parametrize(
    "name",
    [
        "AWS_SECRET_ACCESS_KEY",
        "SSH_PRIVATE_KEY",
        "PREFECT_API_KEY",
        "HEADRACE_STORE",
        "GH_TOKEN",
        "NPM_TOKEN",
        "DJANGO_SECRET_KEY",
        "HOME",
        "DATABASE_URL",
    ],
)
def test_variables_for_other_purposes_are_not_sent_anywhere(name: str) -> None:
    value = f"{{{{ env.{name} }}}}"
    for model in (
        {"base_url": EVIL, "api_key": value},
        {"base_url": "http://127.0.0.1:1/v1", "headers": {"X-A": value}},
        {"base_url": f"https://evil.example/{value}"},
        {"base_url": value},
        {"base_url": f"https://{value}.evil.example/v1"},
    ):
        (problem,) = problems({name: CANARY}, **model)
        assert name in problem and "HEADRACE_ALLOWED_ENV" in problem and CANARY not in problem


def test_a_variable_that_the_machine_allows_may_be_sent() -> None:
    env = {"TEAM": "desk", "OWN_KEY": CANARY}
    model: dict[str, Any] = {
        "base_url": EVIL,
        "api_key": "{{ env.OWN_KEY }}",
        "headers": {"X-Team": "{{ env.TEAM }}"},
    }
    assert "TEAM" in problems(env, **model)[0]
    assert problems(env, {"allowed_env": ("TEAM",)}, **model) == []


def test_a_secret_in_the_name_of_a_host_is_refused() -> None:
    (problem,) = problems({"OWN_KEY": "abc123"}, base_url="https://{{ env.OWN_KEY }}.evil.example/v1")
    assert "name of the host" in problem and "abc123" not in problem


@pytest.mark.parametrize(
    ("template", "env", "url", "shown"),
    [
        ("https://h.example/v1", {}, "https://h.example/v1", "https://h.example/v1"),
        (
            "https://h.example/{{ env.GW_TOKEN }}/v1",
            {"GW_TOKEN": CANARY},
            f"https://h.example/{CANARY}/v1",
            "https://h.example/{{ env.GW_TOKEN }}/v1",
        ),
        ("{{ env.LLM_URL }}", {"LLM_URL": "http://h:1/v1"}, "http://h:1/v1", "http://h:1/v1"),
        (
            "{{ env.LLM_URL }}",
            {"LLM_URL": f"http://h:1/{CANARY}/v1"},
            f"http://h:1/{CANARY}/v1",
            "http://h:1/...",
        ),
        ("http://{{ env.LLM_HOST }}:8000/v1", {"LLM_HOST": "gpu-1"}, "http://gpu-1:8000/v1", "http://gpu-1:8000/v1"),
        ("{{ env.LLM_URL | default('http://h/v1') }}", {}, "http://h/v1", "http://h/v1"),
    ],
)  # fmt: skip
def test_an_address_is_shown_without_its_secrets(template: str, env: Any, url: str, shown: str) -> None:
    rendered = Trust(env).address(template, "model 'm'")
    assert (rendered.text, rendered.shown) == (url, shown)
    assert CANARY not in repr(rendered)


async def test_a_token_in_the_path_is_in_no_error_and_no_identity_and_still_tells_endpoints_apart() -> None:
    def opened(token: str) -> Any:
        url = "http://127.0.0.1:9/{{ env.GW_TOKEN }}/v1"
        part = Model(provider="openai", model="x", base_url=url)
        env = {"GW_TOKEN": token}
        return Providers({"m": part}, store=None, settings=Settings(), env=env).get("m")

    provider = opened(CANARY)
    with pytest.raises(HeadraceError) as caught:
        await provider.send_chat(b"{}", timeout=2)
    await provider.aclose()
    assert "{{ env.GW_TOKEN }}" in str(caught.value)
    assert CANARY not in f"{caught.value} {provider!r} {provider.identity}"
    assert provider.identity != opened("another-token").identity


def collections(env: dict[str, str], settings: Settings | None = None, **fields: Any) -> Collections:
    described = {"book": Collection(embedder="e", **fields)}
    chosen = settings or Settings()
    providers = Providers({}, store=None, settings=chosen, env=env)
    return Collections(described, store=None, providers=providers, settings=chosen, env=env)


@pytest.mark.parametrize(
    ("fields", "env", "says"),
    [
        ({"url": "{{ env.QDRANT_URL }}"}, {}, "QDRANT_URL is not set"),
        ({"url": "http://q.example", "api_key": "{{ env.Q_KEY }}"}, {}, "Q_KEY is not set"),
        (
            {"url": "http://q.example", "api_key": "{{ env.OPENAI_API_KEY }}"},
            {"OPENAI_API_KEY": CANARY},
            "belongs",
        ),
        (
            {"url": "http://q.example", "api_key": "{{ env.AWS_SECRET_ACCESS_KEY }}"},
            {"AWS_SECRET_ACCESS_KEY": CANARY},
            "HEADRACE_ALLOWED_ENV",
        ),
        ({"url": "http://2852039166:6333"}, {}, "never called"),
    ],
)  # fmt: skip
def test_what_a_collection_lacks_is_told_before_it_is_opened(fields: Any, env: Any, says: str) -> None:
    (problem,) = collections(env, **fields).check(["book", "book"])
    assert "collection 'book'" in problem and says in problem and CANARY not in problem


def test_a_collection_that_lacks_nothing_has_no_problem() -> None:
    assert collections({}).check(["book"]) == []
    env = {"QDRANT_URL": "http://q.example:6333", "QDRANT_API_KEY": CANARY}
    fields = {"url": "{{ env.QDRANT_URL }}", "api_key": "{{ env.QDRANT_API_KEY }}"}
    assert collections(env, **fields).check(["book"]) == []
    refused = collections(env, Settings(allowed_hosts=("other.example",)), **fields).check(["book"])
    assert "HEADRACE_ALLOWED_HOSTS" in refused[0]


def test_a_local_model_is_looked_for_in_the_chains_folder_and_not_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.providers.weights import Reach, folder_of

    chain, elsewhere = tmp_path / "chain", tmp_path / "elsewhere"
    (chain / "model").mkdir(parents=True)
    (elsewhere / "model").mkdir(parents=True)
    (elsewhere / "other").mkdir()
    (chain / "link").symlink_to(elsewhere / "other")
    monkeypatch.chdir(elsewhere)
    reach = Reach(chain)
    assert folder_of("model", None, reach) == chain / "model"
    assert folder_of("./model", None, reach) == chain / "model"
    with pytest.raises(EnvironmentLacks, match="no model folder"):
        folder_of("./other", None, reach)
    for name in ("../elsewhere/other", str(elsewhere / "other"), "link"):
        with pytest.raises(Refused, match="HEADRACE_READ_OUTSIDE"):
            folder_of(name, None, reach)
        assert folder_of(name, None, Reach(chain, read_outside=True)) == elsewhere / "other"
        granted = Reach(chain, granted=frozenset({elsewhere / "other"}))
        assert folder_of(name, None, granted) == elsewhere / "other"


@pytest.mark.parametrize("revision", ["../../blobs", "a/../../b", "/etc", "", "-x", "a b"])
def test_a_revision_is_no_path(revision: str) -> None:
    from chains.errors import InputInvalid
    from tasks.providers.weights import folder_of

    with pytest.raises(InputInvalid, match="no revision"):
        folder_of("acme/model", revision)
