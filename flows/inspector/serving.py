"""The inspector's process: an address of this machine, a token, and the server until Ctrl-C.

Owns the socket and the token, which is new at each start. Knows nothing of pages.
"""

from __future__ import annotations

import secrets
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import quote

from chains.errors import EnvironmentLacks, HeadraceError
from flows.inspector.app import make_app
from flows.inspector.guard import allowed_hosts
from flows.inspector.looking import Looking
from flows.inspector.replay_running import Replays

if TYPE_CHECKING:
    from chains.settings import Settings
    from chains.store import Store

INDEX_S = 2.0
"""How long the index of words is made at a time, when nobody searches."""


def serve(
    store: Store, *, host: str, port: int, ready: Callable[[str], None], settings: Settings | None = None
) -> None:
    """Serve the pages of a store; `ready` gets the address with its token. Returns after Ctrl-C.

    With `settings` runs can be replayed there, as this machine allows.
    """
    import uvicorn

    bound = _bound(host, port)
    port = bound.getsockname()[1]
    token = secrets.token_urlsafe(24)
    looking = Looking(store)
    replays = Replays(store, settings) if settings is not None else None
    app = make_app(looking, token=token, hosts=allowed_hosts(host, port), port=port, replays=replays)
    # No access log: the token stands in the first address.
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, ws="none", lifespan="off"
    )
    ended = threading.Event()
    indexer = threading.Thread(target=_index, args=(looking, ended), name="headrace-index", daemon=True)
    indexer.start()
    named = f"[{host}]" if ":" in host else host
    ready(f"http://{named}:{port}/?token={quote(token)}")
    try:
        uvicorn.Server(config).run(sockets=[bound])
    finally:
        ended.set()
        if replays is not None:
            replays.close()
        indexer.join(INDEX_S + 5)
        bound.close()


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host.strip("[]"), port))
        bound.listen(128)  # whoever reads the address may ask at once, and waits
    except OSError as error:
        bound.close()
        raise EnvironmentLacks(
            f"the inspector cannot listen at {host}:{port}: {error.strerror or error}.",
            hint="Name another port with --port; 0 takes a free one.",
        ) from error
    return bound


def _index(looking: Looking, ended: threading.Event) -> None:
    """Keep the index near what is in the store, a little at a time."""
    while not ended.is_set():
        left = 0
        with suppress(HeadraceError, OSError):
            left = looking.search.refresh(INDEX_S)
        ended.wait(0.2 if left else 5.0)
