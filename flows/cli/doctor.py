"""`headrace doctor`: what is installed here, what can be reached, and what is missing for which use."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import typer

from chains.errors import HeadraceError
from flows.cli.options import JsonOption, StoreOption

PACKAGES = (
    "prefect",
    "fastapi",
    "torch",
    "transformers",
    "peft",
    "sentence-transformers",
    "qdrant-client",
    "qdrant-edge-py",
    "openai",
    "aiohttp",
    "pydantic",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `lacks` stops runs; `note` limits some of them."""

    what: str
    state: Literal["ok", "note", "lacks"]
    text: str


def doctor(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Look at this machine: packages, device, models, Prefect, the store, keys (never their values)."""
    from chains.settings import get_settings

    found = [
        Finding("python", "ok", sys.version.split()[0]),
        *_packages(),
        _device(),
        _embedder(),
        _starter(),
        _prefect(),
        *_pools(),
        _store(store or get_settings().store),
        _key("OPENAI_API_KEY"),
    ]
    if as_json:
        from flows.cli.text import print_json

        print_json([asdict(finding) for finding in found])
    else:
        from flows.cli.text import safe

        marks = {"ok": "ok   ", "note": "note ", "lacks": "LACKS"}
        for finding in found:
            print(f"{marks[finding.state]}  {finding.what:<22} {safe(finding.text)}")
    if any(finding.state == "lacks" for finding in found):
        raise typer.Exit(3)


def _packages() -> list[Finding]:
    from importlib import metadata

    found = []
    for name in PACKAGES:
        try:
            found.append(Finding(name, "ok", metadata.version(name)))
        except metadata.PackageNotFoundError:
            found.append(Finding(name, "lacks", "not installed; run `pip install -c constraints.txt .`"))
    return found


def _device() -> Finding:
    try:
        import torch
    except ImportError:
        return Finding("device", "lacks", "torch cannot be imported")
    from tasks.providers.device import accelerators

    found = accelerators()
    if "cuda" in found:
        return Finding("device", "ok", f"CUDA: {torch.cuda.get_device_name(0)}")
    if "mps" in found:
        return Finding("device", "ok", "Apple MPS")
    return Finding("device", "ok", f"CPU, {torch.get_num_threads()} threads; no GPU was found")


def _embedder() -> Finding:
    from chains.errors import EnvironmentLacks
    from tasks.providers.weights import folder_of

    name = "sentence-transformers/all-MiniLM-L6-v2"
    try:
        return Finding("embedder MiniLM", "ok", str(folder_of(name, None)))
    except EnvironmentLacks as lacking:
        return Finding("embedder MiniLM", "note", str(lacking))


def _starter() -> Finding:
    from chains.errors import EnvironmentLacks
    from tasks.providers.weights import starter_weights

    try:
        return Finding("starter model", "ok", str(starter_weights().folder))
    except EnvironmentLacks as lacking:
        return Finding("starter model", "lacks", str(lacking))


def _prefect() -> Finding:
    from flows.prefect_server import REFUSED_HINT, look

    try:
        found = look()
    except HeadraceError as error:
        return Finding("Prefect API", "lacks", str(error))
    if found.state == "ok":
        return Finding("Prefect API", "ok", found.url)
    if found.state == "refuses":
        return Finding("Prefect API", "lacks", f"{found.url} refuses this user. {REFUSED_HINT}")
    if found.configured:
        return Finding("Prefect API", "lacks", f"{found.url} is configured, and nothing answers there")
    return Finding(
        "Prefect API", "note", "none is running: each run starts its own (5 to 20 s), or use --direct"
    )


def _pools() -> list[Finding]:
    """Say who serves each work pool: what is sent to one that nobody serves waits."""
    from http.client import HTTPException
    from urllib.parse import quote

    from flows.prefect_server import find

    found: list[Finding] = []
    try:
        api = find()
    except (HeadraceError, OSError, ValueError, HTTPException):
        return found  # `_prefect` says what is wrong with it
    if api is None:
        return found
    url = f"{api.url}/work_pools"
    try:
        for pool in _patiently_asked(f"{url}/filter"):
            name = pool["name"]
            workers = _patiently_asked(f"{url}/{quote(name, safe='')}/workers/filter")
            online = sorted(worker["name"] for worker in workers if worker["status"] == "ONLINE")
            found.append(_pool(name, online, paused=pool["is_paused"]))
    except (OSError, ValueError, KeyError, HTTPException) as error:
        found.append(Finding("work pools", "note", f"the Prefect API does not tell them: {error}"))
    return found


def _patiently_asked(url: str) -> Any:
    """POST an empty filter; a server on SQLite that is busy answers 503, or late, and is asked again."""
    import json

    from flows.prefect_server import ask_api

    for tries_left in (2, 1, 0):
        try:
            return json.loads(ask_api(url, {}, timeout=10))
        except OSError:
            if not tries_left:
                raise
            time.sleep(0.5)
    raise AssertionError("the last try returns or raises")


def _pool(name: str, workers: list[str], *, paused: bool) -> Finding:
    if workers and not paused:
        return Finding(f"pool {name}", "ok", f"served by {', '.join(workers)}")
    why = "it is paused" if paused else f"no worker; start one: `headrace worker --pool {name}`"
    return Finding(f"pool {name}", "note", f"what is sent there waits: {why}")


def _store(location: str) -> Finding:
    from chains.store import is_server, open_store

    if is_server(location):
        try:
            with open_store(location) as opened:
                return Finding("store", "ok", opened.database.label)
        except HeadraceError as error:
            return Finding("store", "lacks", str(error))
    folder = Path(location).expanduser()
    if folder.exists() and not folder.is_dir():
        return Finding("store", "lacks", f"{folder} is a file, not a folder")
    if not folder.exists():
        parent = next(parent for parent in folder.absolute().parents if parent.exists())
        if not parent.is_dir():
            return Finding("store", "lacks", f"{parent} is a file, so {folder} cannot be made")
        writable = os.access(parent, os.W_OK)
        return Finding(
            "store",
            "ok" if writable else "lacks",
            f"{folder} (made by the first run)" if writable else f"{parent} cannot be written to",
        )
    if not os.access(folder, os.W_OK):
        return Finding("store", "lacks", f"{folder} cannot be written to")
    import shutil

    return Finding("store", "ok", f"{folder}, {shutil.disk_usage(folder).free / 1e9:.0f} GB free")


def _key(name: str) -> Finding:
    if os.environ.get(name):
        return Finding(name, "ok", "present")
    return Finding(name, "note", "absent; only models of provider openai without another key need it")
