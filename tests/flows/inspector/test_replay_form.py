"""The replay form: what it shows, what it starts, and what it does not let through."""

from __future__ import annotations

import html
import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from served import TOKEN, Served
from servers.browser import Browser, find
from servers.launch import Running, start

from chains.settings import Settings
from chains.store import Store, open_store
from flows.executor import execute
from flows.inspector.guard import MAX_BODY
from flows.prepared import prepare
from flows.request import RunRequest
from flows.units import Direct

CHAIN = Path(__file__).parents[2] / "e2e" / "chains" / "desk"
FORM = {"Content_Type": "application/x-www-form-urlencoded"}
OWN = {"Sec_Fetch_Site": "same-origin"}
EVIL = '</textarea><script>alert(1)</script>\n\nsecond "line" & {{ inputs.ticket }}'


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    binary = find()
    assert binary is not None
    opened = Browser(binary, tmp_path / "profile")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory) -> Iterator[Running]:
    running = start(tmp_path_factory.mktemp("endpoint"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def ran(tmp_path_factory, endpoint) -> Path:
    """A store with a run of two rows, and its chain gone."""
    import asyncio

    folder = tmp_path_factory.mktemp("ran")
    shutil.copytree(CHAIN, folder / "desk")
    path = folder / "desk" / "chain.yaml"
    path.write_text(path.read_text().replace("http://127.0.0.1:1/v1", endpoint.url))
    data = folder / "tickets.jsonl"
    data.write_text(
        "".join(json.dumps({"ticket": f"My refund {n}", "intent": "refund"}) + "\n" for n in (1, 2))
    )
    with open_store(folder / "store") as store:
        asked = RunRequest(chain=str(path), data=str(data))
        asyncio.run(execute(prepare(asked, store=store, settings=Settings()), Direct()))
    shutil.rmtree(folder / "desk")
    return folder


@pytest.fixture
def store(ran: Path) -> Iterator[Store]:
    with open_store(ran / "store") as opened:
        yield opened


@pytest.fixture
def served(store: Store) -> Iterator[Served]:
    running = Served(store, settings=Settings())
    yield running
    running.close()


@pytest.fixture
def source(store: Store) -> str:
    return store.runs(limit=50)[-1].id


def send(served: Served, path: str, fields: dict[str, str], **headers: str):
    body = urlencode(fields)
    return served.ask(path, method="POST", body=body.encode(), **{**FORM, **OWN, **headers})


def fields_of(text: str) -> dict[str, str]:
    """Return the fields of a page's form as a browser would send them."""
    found = {
        name: html.unescape(value).removeprefix("\n").replace("\n", "\r\n")
        for name, value in re.findall(r'<textarea name="([^"]+)"[^>]*>(.*?)</textarea>', text, re.DOTALL)
    }
    for name, value in re.findall(r'<input name="([^"]+)"[^>]*value="([^"]*)"', text):
        found[name] = html.unescape(value)
    checked = re.search(r'name="rows" value="(\w+)" checked', text)
    return found | ({"rows": checked[1]} if checked else {})


def ended(store: Store, run: str):
    for _ in range(600):
        row = store.run(run)
        if row is not None and row.status != "running":
            return row
        time.sleep(0.05)
    raise AssertionError("the fork did not end")


def test_the_form_shows_what_may_be_edited_and_sending_it_as_it_is_edits_nothing(
    served, store, source
) -> None:
    page = served.ask(f"/runs/{source}/steps/reply/1/replay")
    assert page.status == 200
    fields = fields_of(page.text)
    assert fields["prompt.0"] == "You answer customers. Tone: {{ inputs.tone }}."
    assert fields["inputs.tone"] == "warm" and fields["temperature"] == "0.0" and fields["max_tokens"] == ""
    assert not {"base_url", "api_key", "provider", "model"} & fields.keys()
    before = store.number_of_runs()
    shown = send(served, f"/runs/{source}/steps/reply/1/replay", fields | {"do": "preview"})
    assert shown.status == 200 and "Nothing is edited" in shown.text
    refused = send(served, f"/runs/{source}/steps/reply/1/replay", fields | {"do": "start"})
    assert refused.status == 400 and "nothing is edited" in refused.text
    assert store.number_of_runs() == before


def test_a_preview_says_what_would_run_and_its_ceiling_and_starts_nothing(
    served, store, source, endpoint
) -> None:
    path = f"/runs/{source}/steps/reply/1/replay"
    fields = fields_of(served.ask(path).text) | {"prompt.0": EVIL.replace("\n", "\r\n"), "temperature": "0.5"}
    before, sent = store.number_of_runs(), len(endpoint.ledger())
    shown = send(served, path, fields | {"do": "preview"})
    assert shown.status == 200
    assert (
        "edited: prompt, temperature" in html.unescape(shown.text)
        or "edited: temperature, prompt" in shown.text
    )
    assert "<script>alert" not in shown.text
    again = fields_of(shown.text)
    assert again["prompt.0"] == fields["prompt.0"]
    assert int(again["budget.tokens"]) > 1024
    assert store.number_of_runs() == before and len(endpoint.ledger()) == sent


@pytest.mark.parametrize("rows", ["one", "all"])
def test_the_fork_runs_with_the_edits_and_opens_when_it_starts(served, store, source, endpoint, rows) -> None:
    path = f"/runs/{source}/steps/reply/1/replay"
    edited = f"Answer as {rows}.\r\nBe brief."
    fields = fields_of(served.ask(path).text) | {"prompt.0": edited, "max_tokens": "9", "rows": rows}
    shown = send(served, path, fields | {"do": "preview"})
    sent = len(endpoint.ledger())
    started = send(served, path, fields_of(shown.text) | {"do": "start"})
    assert started.status == 303
    fork = started.headers["location"].removeprefix("/runs/")
    assert ended(store, fork).status == "ok"
    assert served.ask(f"/runs/{fork}").status == 200
    bodies = [json.loads(line["raw"]) for line in endpoint.ledger()][sent:]
    assert len(bodies) == (1 if rows == "one" else 2)
    assert {body["messages"][0]["content"] for body in bodies} == {edited.replace("\r\n", "\n")}
    assert {body["max_tokens"] for body in bodies} == {9}
    assert store.record(fork, "reply", 0).linked is (rows == "one")
    assert store.run(fork).forked_from == source
    budget = json.loads(store.run(fork).options)["budget"]
    assert budget["tokens"] == int(fields_of(shown.text)["budget.tokens"])
    assert served.ask(f"/diff?before={source}&after={fork}").status == 200


def test_a_row_has_its_own_value_of_an_input(served, source) -> None:
    fields = fields_of(served.ask(f"/runs/{source}/steps/triage/1/replay").text)
    assert fields["inputs.ticket"] == "My refund 2"
    shown = send(
        served, f"/runs/{source}/steps/triage/1/replay", fields | {"inputs.ticket": "Lost.", "do": "preview"}
    )
    assert "reads inputs.ticket" in html.unescape(shown.text)


def test_what_is_wrong_with_an_edit_is_said_on_the_form(served, store, source) -> None:
    path = f"/runs/{source}/steps/reply/replay"
    fields = fields_of(served.ask(path).text)
    before = store.number_of_runs()
    for edit, said in (
        ({"prompt.0": "{{ inputs.nothing }}"}, "inputs.nothing"),
        ({"temperature": "9"}, "temperature"),
        ({"inputs.tone": "loud"}, "must be one of"),
        ({"prompt.0": "x", "budget.tokens": "many"}, "is no number"),
        ({"prompt.0": "x", "budget.tokens": "-1"}, "more than 0"),
    ):
        for do in ("preview", "start"):
            answer = send(served, path, fields | edit | {"do": do})
            assert answer.status == 400 and said in html.unescape(answer.text)
    spent = send(served, path, fields | {"prompt.0": "x", "do": "start"})
    assert spent.status == 400 and "what the fork may spend" in spent.text
    assert store.number_of_runs() == before


def test_nothing_but_the_fields_of_the_form_can_be_edited(served, store, source) -> None:
    path = f"/runs/{source}/steps/reply/replay"
    fields = fields_of(served.ask(path).text) | {"budget.tokens": "99999", "do": "start"}
    before = store.number_of_runs()
    for name in (
        "model",
        "base_url",
        "api_key",
        "reply.model",
        "prompt",
        "prompt.9",
        "triage.prompt",
        "inputs.other",
        "cache",
    ):
        answer = send(served, path, fields | {name: "http://evil.example"})
        assert answer.status == 400 and "has no field" in html.unescape(answer.text)
    assert store.number_of_runs() == before


def test_only_a_form_of_this_page_is_let_through(served, store, source) -> None:
    path = f"/runs/{source}/steps/reply/replay"
    body = {"prompt.0": "x", "budget.tokens": "99999", "do": "start"}
    cookie = {"Cookie": f"headrace-{served.port}={TOKEN}"}
    before = store.number_of_runs()
    encoded = urlencode(body).encode()

    def post(token=None, **headers: str) -> int:
        return served.ask(path, method="POST", body=encoded, token=token, **{**FORM, **headers}).status

    assert post(**OWN) == 401
    assert post("guess", **OWN) == 401
    assert (
        served.ask(f"{path}?token={TOKEN}", method="POST", body=encoded, token=None, **FORM, **OWN).status
        == 401
    )
    assert post(**cookie) == 403, "neither header says where it comes from"
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "null", "Sec_Fetch_Site": "cross-site"},
        {"Origin": "https://evil.example", "Sec_Fetch_Site": "same-origin"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"},
        {"Sec_Fetch_Site": "same-site"},
        {"Host": "evil.example", "Sec_Fetch_Site": "same-origin"},
    ):
        assert post(**cookie, **headers) == 403, headers
    assert served.ask(path, method="POST", body=b"{}", Content_Type="application/json", **OWN).status == 400
    large = b"prompt.0=" + b"x" * MAX_BODY
    assert served.ask(path, method="POST", body=large, **FORM, **OWN).status == 413
    assert (
        served.ask(path, method="POST", body=None, Transfer_Encoding="chunked", **FORM, **OWN).status == 411
    )
    for other in (
        "/runs",
        f"/runs/{source}",
        f"/runs/{source}/replay",
        f"{path}/",
        f"/x{path}",
        f"{path}.json",
    ):
        assert served.ask(other, method="POST", body=encoded, **FORM, **OWN).status == 405
    for method in ("PUT", "DELETE", "PATCH"):
        assert served.ask(path, method=method, body=encoded, **FORM, **OWN).status == 405
    assert store.number_of_runs() == before
    assert served.ask(path, **cookie, token=None).status == 200
    # What a browser sends that was told to give no referrer; the form lacks nothing but a wish.
    empty = urlencode({"do": "preview"}).encode()
    own = {"Origin": "null", "Sec_Fetch_Site": "same-origin"}
    assert served.ask(path, method="POST", body=empty, token=None, **FORM, **cookie, **own).status == 200


def test_an_inspector_that_only_shows_has_no_form(store, source) -> None:
    shown = Served(store)
    try:
        assert shown.ask(f"/runs/{source}/steps/reply/1/replay").status == 404
        assert shown.ask(f"/runs/{source}/steps/reply/replay", method="POST", **OWN).status == 405
        assert "Replay from here" not in shown.ask(f"/runs/{source}/steps/reply/1").text
    finally:
        shown.close()


def test_the_pages_of_steps_and_records_lead_to_the_form(served, source) -> None:
    for path in (
        f"/runs/{source}/steps/reply",
        f"/runs/{source}/steps/reply/1",
        f"/runs/{source}/steps/score/once",
    ):
        page = served.ask(path).text
        link = re.search(r'class="replay" href="([^"]+)"', page)
        assert link and served.ask(html.unescape(link[1])).status == 200
    assert served.ask(f"/runs/{source}/steps/none/replay").status == 404
    assert served.ask("/runs/none/steps/reply/replay").status == 404


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(find() is None, reason="no chromium")
@pytest.mark.parametrize("scripts", [True, False])
def test_a_run_is_found_and_its_prompt_edited_previewed_replayed_and_compared_in_a_browser(
    served, store, source, endpoint, browser, scripts
) -> None:
    browser.open(f"{served.address}/?token={TOKEN}")
    browser.scripts(scripts)
    served.looking.search.refresh(60)
    browser.open(f"{served.address}/runs")
    browser.value("document.querySelector('input[name=text]').value = 'refund 2'")
    if scripts:
        browser.value("document.querySelector('form button').click()")
    else:
        browser.click("form button")
    browser.until("document.querySelector('a.found[href$=\"/steps/reply/1\"]') !== null")
    browser.click(f"a.found[href='/runs/{source}/steps/reply/1']")
    browser.click("a.mark[title='shout.value']")
    assert browser.value("location.pathname") == f"/runs/{source}/steps/shout/1"
    browser.open(f"{served.address}/runs/{source}/steps/reply/1")
    browser.click("a.replay")
    edited = f"Answer in one word.\nScripts: {scripts}."
    browser.value(f"document.querySelector('textarea[name=\"prompt.0\"]').value = {json.dumps(edited)}")
    sent = len(endpoint.ledger())
    browser.click("button[value=preview]")
    assert browser.value("document.querySelector('textarea[name=\"prompt.0\"]').value") == edited
    assert browser.value("document.querySelectorAll('tr.runs').length") == 1
    assert browser.value("document.querySelector('tr.runs td').textContent") == "reply"
    assert "At most 1 calls" in browser.value("document.querySelector('.ceiling').textContent")
    assert len(endpoint.ledger()) == sent
    browser.click("button[value=start]")
    fork = browser.value("location.pathname").removeprefix("/runs/")
    assert store.run(fork).forked_from == source
    assert ended(store, fork).status == "ok"
    browser.open(f"{served.address}/runs/{fork}")
    browser.click("a.differs")
    assert "1 of 2 rows differ" in browser.value("document.querySelector('h1').textContent")
    assert "Scripts" in browser.value("document.body.textContent")
    assert browser.said == []
