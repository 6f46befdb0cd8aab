"""The collections of one run: opened when first used, closed together.

Owns where a collection is kept: a folder of the store, or a server that the machine's settings allow.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from chains import spec
from chains.clock import Clock
from chains.errors import HeadraceError
from tasks.collection.collection import Collection
from tasks.collection.index import Index

if TYPE_CHECKING:
    from chains.settings import Settings
    from chains.store import Store
    from tasks.providers import Providers
    from tasks.providers.trust import Rendered


class Collections:
    """The collections of one run, by name."""

    def __init__(
        self,
        described: Mapping[str, spec.Collection],
        *,
        store: Store,
        providers: Providers,
        settings: Settings,
        env: Mapping[str, str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._described = described
        self._store = store
        self._providers = providers
        self._settings = settings
        self._env = os.environ if env is None else env
        self._clock = clock or Clock()
        self._open: dict[str, Collection] = {}

    def get(self, name: str) -> Collection:
        """Return the collection of this name; its folder or server is opened with the first use."""
        if name not in self._open:
            described = self._described[name]
            self._open[name] = Collection(
                name,
                described,
                embedder=self._providers.get(described.embedder).identity,
                store=self._store,
                clock=self._clock,
                open_index=self._opener(name, described),
            )
        return self._open[name]

    async def aclose(self) -> None:
        """Close every collection that was opened."""
        opened, self._open = list(self._open.values()), {}
        for collection in opened:
            await collection.close()

    def check(self, names: Iterable[str]) -> list[str]:
        """Return what keeps collections from being used: missing variables, hosts that are not allowed."""
        problems = []
        for name in dict.fromkeys(names):
            try:
                self._server(name, self._described[name])
            except HeadraceError as error:
                problems.append(str(error))
        return problems

    def _opener(self, name: str, described: spec.Collection) -> Callable[[], Index]:
        server = self._server(name, described)
        if server is None:
            return lambda: self._open_folder(name)
        url, key = server
        return lambda: self._open_server(name, url, key)

    def _server(self, name: str, described: spec.Collection) -> tuple[Rendered, str | None] | None:
        """Return the address and key of a collection's server, or None where a folder keeps it."""
        if described.url is None:
            return None
        from tasks.providers.hosts import check_host, split_url
        from tasks.providers.trust import Trust

        where, trust = f"collection '{name}'", Trust.of(self._settings, self._env)
        url = trust.address(described.url, where)
        host = split_url(url.text, where).hostname or ""
        check_host(host, self._settings.allowed_hosts, where)
        key = None if described.api_key is None else trust.key(described.api_key, where)
        trust.check_sending((*url.names, *(key.names if key is not None else ())), host, where)
        return url, None if key is None else key.text

    def _open_folder(self, name: str) -> Index:
        from tasks.collection.edge import open_edge

        return open_edge(self._store.folder("collections") / name, name=name, clock=self._clock)

    def _open_server(self, name: str, url: Rendered, key: str | None) -> Index:
        from tasks.collection.server import open_server
        from tasks.providers.hosts import check_addresses, split_url

        parts = split_url(url.text, f"collection '{name}'")
        check_addresses(parts.hostname or "", parts.port, f"collection '{name}'")
        return open_server(url.text, api_key=key, name=name)
