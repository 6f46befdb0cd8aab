"""Who is answered: the host, where a request comes from, its method, the token; and what every answer says."""

# ruff: noqa: E501 - lists of addresses

from __future__ import annotations

import hashlib
import sqlite3

import pytest
from served import TOKEN, Served, write_run

from flows.inspector.guard import HEADERS, allowed_hosts, is_loopback

ROW = {"ticket": "Where is it?", "intent": "delivery", "reply": "On its way."}
PATHS = [
    "/", "/runs", "/runs.json", "/runs?text=way", "/runs?page=2&chain=x&status=failed", "/runs/run1", "/runs/run1.json",
    "/runs/last", "/runs/run1/steps/reply", "/runs/run1/steps/reply.json", "/runs/run1/steps/reply/0",
    "/runs/run1/steps/reply/0.json", "/runs/run1/steps/reply/0?whole=1", "/runs/run1/steps/reply/0/raw/response-2",
    "/diff?before=run1&after=run2", "/diff.json?before=run1&after=run2", "/style.css", "/htmx.js", "/nothing", "/runs/none",
    "/runs/run1/steps/reply/99", "/runs/run1/steps/none", "/x/health", "/runs/..%2f..%2fetc", "/diff",
]  # fmt: skip


@pytest.fixture
def desk(served: Served) -> Served:
    write_run(served.store, "run1", [ROW])
    write_run(served.store, "run2", [ROW | {"intent": "refund"}])
    return served


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_answered_without_the_token(desk: Served, path: str) -> None:
    assert desk.ask(path, token=None).status == 401
    assert desk.ask(path, token="guess").status == 401
    assert desk.ask(path, token="").status == 401


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_has_the_headers_that_keep_a_browser_in_bounds(desk: Served, path: str) -> None:
    for answer in (desk.ask(path), desk.ask(path, token=None), desk.ask(path, Host="evil.example")):
        for name, value in HEADERS.items():
            assert answer.headers[name.lower()] == value
        assert not [name for name in answer.headers if name.startswith("access-control-")]
    policy = HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy and "script-src 'self';" in policy


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "localhost", "127.0.0.1:1", "127.0.0.1.evil.example:{port}",
     "localhost:{port}@evil.example", "", "0.0.0.0:{port}", "localhost:{port}/x"],
)  # fmt: skip
def test_a_foreign_host_is_refused(desk: Served, host: str) -> None:
    assert desk.ask("/runs", Host=host.format(port=desk.port)).status == 403


def test_the_names_of_this_machine_are_answered(desk: Served) -> None:
    for name in ("localhost", "127.0.0.1", "[::1]", "LOCALHOST"):
        assert desk.ask("/runs", Host=f"{name}:{desk.port}").status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "{own}"}, 200),
        ({"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"}, 403),
        ({"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "cors"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}, 200),
        ({"Sec_Fetch_Site": "same-origin", "Sec_Fetch_Mode": "cors"}, 200),
        ({"Sec_Fetch_Site": "none", "Sec_Fetch_Mode": "navigate"}, 200),
    ],
)
def test_other_sites_may_link_here_and_nothing_else(
    desk: Served, headers: dict[str, str], status: int
) -> None:
    given = {name: value.format(own=desk.address) for name, value in headers.items()}
    assert desk.ask("/runs", **given).status == status


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_only_reading_methods_are_answered(desk: Served, method: str) -> None:
    for path in ("/runs", "/runs/run1", "/nothing"):
        assert desk.ask(path, method=method).status == 405
        assert desk.ask(path, method=method, Origin="https://evil.example").status == 403
        navigated = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
        assert desk.ask(path, method=method, **navigated).status == 403


def test_the_token_of_the_address_becomes_a_cookie_that_scripts_and_other_sites_do_not_get(
    desk: Served,
) -> None:
    first = desk.ask(f"/runs/run1?x=1&token={TOKEN}", token=None)
    assert first.status == 303 and first.headers["location"] == "/runs/run1?x=1"
    cookie = first.headers["set-cookie"]
    assert "httponly" in cookie.lower() and "samesite=strict" in cookie.lower()
    kept = cookie.split(";")[0]
    assert desk.ask("/runs", token=None, Cookie=kept).status == 200
    assert desk.ask("/runs", token=None, Cookie=kept.replace(TOKEN, "guess")).status == 401
    assert desk.ask("/runs", token=None, Cookie=kept.replace("headrace-", "other-")).status == 401
    assert desk.ask("/runs", token=None, Host="evil.example", Cookie=kept).status == 403
    assert desk.ask(f"/runs?token={TOKEN}&token={TOKEN}", token=None).status == 401


@pytest.mark.parametrize("path", ["//evil.example/x", "/\\evil.example", "///evil.example"])
def test_the_way_on_never_leads_to_another_host(desk: Served, path: str) -> None:
    answer = desk.ask(f"{path}?token={TOKEN}", token=None)
    assert answer.status == 303
    location = answer.headers["location"]
    assert location.startswith("/") and location[1:2] not in ("/", "\\") and "://" not in location


def test_reading_changes_nothing_in_the_store(desk: Served) -> None:
    def state() -> str:
        with sqlite3.connect(desk.store.path / "headrace.db") as connection:
            return hashlib.sha256("\n".join(connection.iterdump()).encode()).hexdigest()

    before, transactions = state(), desk.store.transactions
    for path in PATHS:
        desk.ask(path)
    assert (state(), desk.store.transactions) == (before, transactions)


def test_hosts_and_loopback() -> None:
    assert allowed_hosts("0.0.0.0", 5) == {"localhost:5", "127.0.0.1:5", "[::1]:5"}
    assert "box.example:80" in allowed_hosts("box.example", 80) and "box.example" in allowed_hosts(
        "box.example", 80
    )
    assert is_loopback("127.0.0.1") and is_loopback("::1") and not is_loopback("0.0.0.0")
