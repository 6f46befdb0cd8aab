from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chains import spec
from chains.errors import ConnectionFailed, EnvironmentLacks, HeadraceError, Refused
from chains.settings import Settings
from chains.store import Store
from tasks.collection import Collections
from tasks.providers import Providers

MINI = spec.Model(provider="local", model="sentence-transformers/all-MiniLM-L6-v2")


@pytest.fixture
def opened(store: Store) -> Iterator[Any]:
    def make(
        env: dict[str, str] | None = None, settings: Settings | None = None, **fields: Any
    ) -> Collections:
        chosen = settings or Settings()
        providers = Providers({"mini": MINI}, store=store, settings=chosen, env={})
        described = {"handbook": spec.Collection(embedder="mini", **fields)}
        return Collections(described, store=store, providers=providers, settings=chosen, env=env or {})

    yield make


async def test_a_collection_is_opened_once_and_closed_with_the_run(opened: Any, store: Store) -> None:
    collections = opened()
    first = collections.get("handbook")
    assert collections.get("handbook") is first
    assert not (store.folder("collections") / "handbook.lock").exists(), "nothing is opened before it is used"
    assert await first.count() == 0
    lock: Path = store.folder("collections") / "handbook.lock"
    assert lock.stat().st_size > 0
    await collections.aclose()
    assert lock.stat().st_size == 0


@pytest.mark.parametrize(
    ("fields", "env", "error", "says"),
    [
        ({"url": "http://127.0.0.1:9"}, {}, ConnectionFailed, "cannot be reached"),
        ({"url": "http://169.254.169.254:6333"}, {}, Refused, "never called"),
        ({"url": "http://user:pass@127.0.0.1:6333"}, {}, EnvironmentLacks, "carries a user name"),
        ({"url": "{{ env.QDRANT_URL }}"}, {}, EnvironmentLacks, "variable QDRANT_URL is not set"),
        (
            {"url": "{{ env.QDRANT_URL }}"},
            {"QDRANT_URL": "http://127.0.0.1:9"},
            ConnectionFailed,
            "cannot be reached",
        ),
        ({"url": "{{ inputs.x }}"}, {}, EnvironmentLacks, "only '{{ env.NAME }}'"),
        ({"url": "http://127.0.0.1:9", "api_key": "open"}, {}, EnvironmentLacks, "api_key is written out"),
    ],
)
async def test_where_a_collection_is_kept_is_checked(
    opened: Any, fields: dict[str, str], env: dict[str, str], error: type[HeadraceError], says: str
) -> None:
    collections = opened(env, **fields)
    with pytest.raises(error, match=says):
        await collections.get("handbook").count()
    await collections.aclose()


async def test_a_server_that_settings_do_not_allow_is_refused(opened: Any) -> None:
    collections = opened(
        settings=Settings(allowed_hosts=("api.openai.com",)), url="http://qdrant.acme.test:6333"
    )
    with pytest.raises(Refused, match="HEADRACE_ALLOWED_HOSTS"):
        await collections.get("handbook").count()


async def test_a_name_that_leads_to_a_metadata_address_is_not_connected_to(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 6333))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    collections = opened(url="http://qdrant.acme.test:6333")
    with pytest.raises(Refused, match="leads to a link-local or metadata address"):
        await collections.get("handbook").count()
