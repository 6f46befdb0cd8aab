"""The inspector in a real browser: find a run by text, open a record, follow a mark, compare, light and dark."""

# ruff: noqa: E501 - a line of script is one

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import TOKEN, Served, write_run
from servers.browser import Browser, find
from test_pages import EVIL

from chains.settings import Settings
from chains.store import Store
from flows.inspector.exporting import exported

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.skipif(find() is None, reason="no chromium")]


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    binary = find()
    assert binary is not None
    opened = Browser(binary, tmp_path / "profile")
    yield opened
    opened.close()


def test_a_run_is_found_by_text_and_a_mark_leads_to_the_record_that_it_came_from(
    served: Served, browser: Browser
) -> None:
    row = {"ticket": "Where is my zebra parcel?", "intent": "delivery", "reply": "On its way."}
    write_run(served.store, "run1", [row | {"ticket": "Something else"}])
    write_run(served.store, "run2", [row] * 2)
    browser.open(f"{served.address}/?token={TOKEN}")
    assert TOKEN not in browser.value("location.href")
    browser.value("document.querySelector('input[name=text]').value = 'zebra'")
    browser.value("document.querySelector('form button').click()")
    browser.until("document.querySelectorAll('a.found').length == 4")
    assert browser.value("location.search") == "?text=zebra&chain=&status="
    assert "run2" in browser.value("document.querySelector('a.found').href")
    browser.open(f"{served.address}/runs/run2")
    assert browser.value("document.querySelectorAll('svg.dag g.step').length") == 2
    step = browser.value("document.querySelector('svg.dag a[href$=\"/steps/reply\"]').getAttribute('href')")
    browser.open(served.address + step)
    browser.click("a.record[href$='/1']")
    assert browser.value("document.querySelector('a.mark').textContent") == "delivery"
    browser.click("a.mark")
    assert browser.value("location.pathname") == "/runs/run2/steps/triage/1"
    assert browser.value("document.querySelector('pre.response').textContent") == "delivery"
    browser.open(f"{served.address}/diff?before=run1&after=run2")
    assert "1 of 1 rows differ" in browser.value("document.querySelector('h1').textContent")
    assert browser.said == []


def test_without_javascript_forms_lead_to_pages_and_a_run_under_way_is_loaded_again(
    served: Served, browser: Browser
) -> None:
    row = {"ticket": "Where is my zebra parcel?", "intent": "delivery", "reply": "On its way."}
    write_run(served.store, "run1", [row], status="running")
    browser.scripts(False)
    browser.open(f"{served.address}/?token={TOKEN}")
    browser.value("document.querySelector('input[name=text]').value = 'zebra'")
    browser.click("form button")
    assert browser.value("document.querySelectorAll('a.found').length") == 2
    browser.open(f"{served.address}/runs/run1")
    begun = browser.value("performance.timeOrigin")
    browser.until(f"performance.timeOrigin > {begun} && document.querySelector('h1') !== null")


def test_a_run_under_way_is_renewed_in_place_until_it_ends(served: Served, browser: Browser) -> None:
    row = {"ticket": "Where is it?", "intent": "delivery", "reply": "On its way."}
    write_run(served.store, "run1", [row] * 2, status="running")
    browser.open(f"{served.address}/?token={TOKEN}")
    browser.open(f"{served.address}/runs/run1/steps/reply")
    browser.value("window.same = true")
    assert browser.value("document.querySelectorAll('a.record').length") == 2
    write_run(served.store, "run1", [row] * 3, status="running")
    browser.until("document.querySelectorAll('a.record').length == 3")
    browser.open(f"{served.address}/runs/run1/steps/reply/1")
    browser.open(f"{served.address}/runs/run1")
    browser.value("window.same = true")
    write_run(served.store, "run1", [row] * 3)
    browser.until("document.querySelector('.facts .state').textContent == 'ok'")
    assert browser.value("window.same"), "the page was not loaded again"
    assert browser.value("document.querySelector('[data-hx-get]') === null")
    asked = "performance.getEntriesByType('resource').filter(one => one.initiatorType == 'fetch').length"
    before = browser.value(asked)
    time.sleep(2.5)
    assert browser.value(asked) == before > 0, "a run that has ended is not asked for again"
    assert browser.said == []


def test_nothing_that_was_said_runs_and_nothing_is_fetched_from_elsewhere(
    store: Store, browser: Browser, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    served = Served(store, settings=Settings())
    request.addfinalizer(served.close)
    rows = [{"ticket": text, "intent": text, "reply": text, "error": text} for text in EVIL]
    write_run(served.store, "evil", rows)
    write_run(served.store, "other", [row | {"reply": "tame"} for row in rows])
    browser.open(f"{served.address}/?token={TOKEN}")
    pages = ["/runs?text=pwned", "/runs/evil", "/runs/evil/steps/reply", "/diff?before=evil&after=other"]
    pages += [f"/runs/evil/steps/reply/{row}/replay" for row in range(len(EVIL))]
    for path in [*pages, *(f"/runs/evil/steps/reply/{row}?whole=1" for row in range(len(EVIL)))]:
        browser.open(served.address + path)
        assert browser.value("window.pwned === undefined"), path
        own = (
            "performance.getEntriesByType('resource').every(entry => entry.name.startsWith(location.origin))"
        )
        assert browser.value(own), path
        assert (
            browser.value("[...document.scripts].map(script => script.getAttribute('src')).join()")
            == "/htmx.js"
        ), path
    for row, text in enumerate(EVIL[:4]):
        browser.open(f"{served.address}/runs/evil/steps/reply/{row}")
        assert text in browser.value("document.querySelector('pre.response').textContent")
    one_file = tmp_path / "evil.html"
    one_file.write_text(exported(store, store.run("evil")))
    browser.open(one_file.as_uri())
    assert browser.value("window.pwned === undefined && document.scripts.length == 0")
    assert browser.value("performance.getEntriesByType('resource').length") == 0
    assert browser.said == []


def test_the_pages_are_light_or_dark_as_the_system_is(served: Served, browser: Browser) -> None:
    write_run(
        served.store, "run1", [{"ticket": "Where is it?", "intent": "delivery", "reply": "On its way."}]
    )
    browser.open(f"{served.address}/?token={TOKEN}")
    pictures = {}
    for dark in (False, True):
        browser.dark(dark)
        for path in ("/runs", "/runs/run1", "/runs/run1/steps/reply/0"):
            browser.open(served.address + path)
            red, green, blue = browser.value(
                "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
            )
            assert (max(red, green, blue) < 60) is dark
            assert browser.value("document.documentElement.scrollWidth <= innerWidth"), path
            pictures[path, dark] = browser.picture()
    assert all(picture.startswith(b"\x89PNG") and len(picture) > 10_000 for picture in pictures.values())
    assert len(set(pictures.values())) == len(pictures)
