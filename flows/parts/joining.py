"""Opens a run that another process has, to do a part of it.

Owns the checks that this process sees the same run: the same store, chain, data and models. Knows nothing of
how steps are run. Invariant: what `join` returns holds the lease of the part.
"""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from chains.clock import Clock
from chains.errors import EnvironmentLacks, HeadraceError, InputInvalid, StoreConflict
from flows.binding import bind_rows, open_data
from flows.lease import PartLease
from flows.overriding import inner_overrides, override_budget, override_models
from flows.prepared import PreparedRun, inner_services, services
from flows.request import request_of

if TYPE_CHECKING:
    from chains.settings import Settings
    from chains.store import RunRow, Store
    from flows.parts.part import Part


WORKER_NAME = "PREFECT__WORKER_NAME"
"""Where Prefect's workers tell their processes who started them."""


def open_store_of(part: Part, settings: Settings) -> Store:
    """Open the store that the part's run is in: by its folder where that is here, else as the settings say.

    Raises EnvironmentLacks where the run is in neither.
    """
    from chains.store import is_server, open_store, store_exists

    folder = part.folder if part.folder is not None and Path(part.folder).is_dir() else None
    if is_server(settings.store):
        store = open_store(settings.store, home=folder)
    elif folder is not None and store_exists(folder):
        store = open_store(folder)
    else:
        store = open_store(settings.store)
    if store.run(part.run_id) is None:
        label = store.database.label
        store.close()
        raise EnvironmentLacks(
            f"there is no run {part.run_id} in the store {label!r} of this worker.",
            hint="Set HEADRACE_STORE for the worker to the store that the run is in.",
        )
    return store


def join(part: Part, *, store: Store, settings: Settings) -> PreparedRun:
    """Take the part's lease and open its run; the caller gives the lease back.

    Raises StoreConflict where the run is no longer the one that the part was made for, or where another
    process has the part; InputInvalid where chain or data differ here; EnvironmentLacks for a missing key.
    """
    lease = PartLease(store, part, Clock())
    if not lease.take():
        raise StoreConflict(
            f"the part {part.title} of run {part.run_id} is being worked on by another process.",
            hint="Nothing is lost: that process goes on with it.",
        )
    try:
        store.close_part(part.run_id, part.steps, part.span)
        row = store.run(part.run_id)
        assert row is not None  # `open_store_of` has seen it
        return _opened(part, row, lease, store=store, settings=settings)
    except BaseException:
        with suppress(HeadraceError):
            lease.give_back()
        raise


def _opened(part: Part, row: RunRow, lease: PartLease, *, store: Store, settings: Settings) -> PreparedRun:
    from chains.changes import compare, step_hashes
    from chains.graph import graph_of_file
    from flows.recorded import chain_to_run

    request, options = request_of(row), json.loads(row.options)
    chain_file = chain_to_run(store, request, row, settings)
    chain = override_models(chain_file.chain, request.models, request.base_url)
    chain_file = inner_overrides(replace(chain_file, chain=override_budget(chain, request.budget)), request)
    changes = compare(options["steps"], step_hashes(chain_file))
    if changes:
        raise InputInvalid(
            f"the chain {request.chain!r} is not here what run {row.id} was started with: {changes}.",
            hint="Give the worker the same files.",
        )
    rows, _ = bind_rows(chain_file.chain, request, open_data(request, row, store))
    providers, collections = services(chain_file, request, store=store, settings=settings)
    return PreparedRun(
        run_id=row.id,
        lease=lease,
        row=row,
        request=request,
        chain_file=chain_file,
        graph=graph_of_file(chain_file),
        rows=rows,
        store=store,
        settings=settings,
        clock=Clock(),
        providers=providers,
        collections=collections,
        inner_services=inner_services(chain_file, request, store=store, settings=settings),
        worker=os.environ.get(WORKER_NAME) or f"{socket.gethostname()}-{os.getpid()}",
        resumed=True,
        anew=dict(options.get("anew", {})),
    )
