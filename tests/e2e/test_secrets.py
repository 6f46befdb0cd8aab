"""Secrets of the environment reach the endpoint and nothing else."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest

from chains.store import open_store

pytestmark = pytest.mark.e2e

KEY, TOKEN, HEADER = "canary-key-OPALKITE", "canary/path+RUBYKITE", "canary-header-JADEKITE"
PARTS = tuple(value[-8:] for value in (KEY, TOKEN, HEADER))


def everything_in(folder: Path) -> bytes:
    """Return what all files of a store hold: as they lie there, and the blobs unpacked."""
    with open_store(folder) as store:
        blobs = [path.name for path in (folder / "blobs").rglob("*") if path.is_file()]
        unpacked = [store.get_blob(name[:64]) for name in blobs]
    assert unpacked
    return b"".join([path.read_bytes() for path in folder.rglob("*") if path.is_file()] + unpacked)


def test_secrets_are_nowhere_in_store_output_and_errors(make_desk) -> None:
    told = f"{KEY} {TOKEN} {quote(TOKEN, safe='')} {HEADER} are wrong"
    desk = make_desk(
        {"at": 1, "fault": "status", "status": 500, "message": told},
        {"at": 2, "fault": "close"},
        {"at": 4, "fault": "redirect", "location": f"http://127.0.0.1:1/{TOKEN}/{quote(TOKEN)}"},
        {"at": 5, "fault": "status", "status": 400, "message": told},
        {"at": 6, "fault": "body", "text": told},
    )
    address = desk.server.url.removesuffix("/v1") + "/openai/deployments/{{ env.GATEWAY_TOKEN }}"
    secret = 'api_key: "{{ env.DESK_KEY }}", headers: {X-Team: "{{ env.TEAM_KEY }}"}, temperature: 0'
    text = desk.chain.read_text().replace(desk.server.url, address).replace("temperature: 0", secret)
    desk.chain.write_text(text)
    desk.environment |= {"DESK_KEY": KEY, "TEAM_KEY": HEADER, "GATEWAY_TOKEN": quote(TOKEN, safe="")}

    done = desk.headrace("run", str(desk.chain), "--data", str(desk.tickets(8)), "--direct", "--json")
    shown = desk.headrace("show", "last", "--json")
    raw = desk.headrace("show", "last", "--step", "triage", "--row", "0", "--json")

    paths = {line["path"] for line in desk.server.ledger()}
    assert any(quote(TOKEN, safe="") in path or TOKEN in path for path in paths), "the token was sent"
    assert {line["headers"].get("x-team") for line in desk.server.ledger()} == {HEADER}
    assert done.code == 1, "some rows have failed"
    said = "".join((*(part for one in (done, shown, raw) for part in (one.out, one.err)),))
    assert "[key removed]" in said or "env.GATEWAY_TOKEN" in said
    kept = everything_in(desk.store)
    assert b"env.GATEWAY_TOKEN" in kept and b"[key removed]" in kept
    for part in PARTS:
        assert part not in said
        at = kept.find(part.encode())
        assert at < 0, kept[max(0, at - 200) : at + 100]


def test_a_missing_variable_of_a_collection_is_named_before_any_call(desk) -> None:
    book = '{embedder: writer, url: "{{ env.QDRANT_URL }}", api_key: "{{ env.Q_KEY }}"}'
    look = '{retrieve: book, query: "{{ reply.text }}"}'
    text = desk.chain.read_text().replace("defaults:", f"collections:\n  book: {book}\n\ndefaults:", 1)
    desk.chain.write_text(text.replace("  score:", f"  look: {look}\n  score:"))

    done = desk.headrace("run", str(desk.chain), "-i", "ticket=x", "--direct")
    assert done.code == 3, done.err
    assert "QDRANT_URL" in done.err and desk.sent() == 0

    desk.environment["QDRANT_URL"] = "http://127.0.0.1:9"
    done = desk.headrace("run", str(desk.chain), "-i", "ticket=x", "--direct")
    assert done.code == 3 and "Q_KEY" in done.err and desk.sent() == 0


def test_a_key_does_not_follow_a_chain_to_another_host(desk) -> None:
    desk.chain.write_text(desk.chain.read_text().replace(desk.server.url, "https://evil.example/v1"))
    desk.environment["OPENAI_API_KEY"] = KEY
    done = desk.headrace("run", str(desk.chain), "-i", "ticket=x", "--direct")
    assert done.code == 3
    assert "OPENAI_API_KEY belongs to api.openai.com" in done.err and KEY not in done.err
