"""The collections of one run: opened when first used, closed together.

Owns where a collection is kept: a folder of the store, or a server that the machine's settings allow.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from chains import spec
from chains.clock import Clock
from chains.errors import EnvironmentLacks
from chains.templates import references, render
from tasks.collection.collection import Collection
from tasks.collection.index import Index

if TYPE_CHECKING:
    from chains.settings import Settings
    from chains.store import Store
    from tasks.providers import Providers


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

    def _opener(self, name: str, described: spec.Collection) -> Callable[[], Index]:
        if described.url is None:
            return lambda: self._open_folder(name)
        url = self._rendered(described.url, name)
        key = None if described.api_key is None else self._key(described.api_key, name)
        return lambda: self._open_server(name, url, key)

    def _open_folder(self, name: str) -> Index:
        from tasks.collection.edge import open_edge

        return open_edge(self._store.folder("collections") / name, name=name, clock=self._clock)

    def _open_server(self, name: str, url: str, key: str | None) -> Index:
        from tasks.collection.server import open_server
        from tasks.providers.network import check_host, split_url

        where = f"collection '{name}'"
        check_host(split_url(url, where).hostname or "", self._settings.allowed_hosts, where)
        return open_server(url, api_key=key, name=name)

    def _key(self, template: str, name: str) -> str:
        if not references(template):
            raise EnvironmentLacks(
                f"Collection '{name}': api_key is written out.",
                hint="Put the key into an environment variable and write api_key: '{{ env.NAME }}'.",
            )
        return self._rendered(template, name)

    def _rendered(self, template: str, name: str) -> str:
        """Render a template that may read `env` only."""
        for reference in references(template):
            if reference.root != "env" or len(reference.path) != 1:
                raise EnvironmentLacks(
                    f"Collection '{name}': only '{{{{ env.NAME }}}}' may stand in url and api_key."
                )
            if not self._env.get(reference.path[0]):
                raise EnvironmentLacks(
                    f"Collection '{name}': the environment variable {reference.path[0]} is not set."
                )
        return render(template, {"env": dict(self._env)})
