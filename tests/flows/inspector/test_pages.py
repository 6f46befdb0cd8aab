"""What the pages say, and that nothing which was said on them is ever more than text."""

# ruff: noqa: E501 - a line of HTML is one

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import quote

import pytest
from served import CHAIN, Served, write_run

from chains.store import StepRow, Store
from flows.inspector.exporting import exported

EVIL = [
    "<script>window.pwned=1</script>",
    '"><img src=x onerror=window.pwned=1>',
    "'><svg onload=window.pwned=1>",
    "javascript:window.pwned=1",
    "<a href='javascript:window.pwned=1'>x</a>",
    "</pre></textarea></title></style><iframe src=//evil.example></iframe>",
    "{{ 7*7 }} {% for x in y %} {{ self.__class__ }}",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "&lt;script&gt;window.pwned=1&lt;/script&gt;",
    "<math><mtext><table><mglyph><style><img src=x onerror=window.pwned=1>",
    "\u202egnp.exe \u200b\x00\x1b[2J",
    "]]><script>window.pwned=1</script>",
]
PAGES = ["/runs", "/runs?text=pwned", "/runs/evil", "/runs/evil/steps/reply", "/runs/evil/steps/triage"]


class Reader(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.scripts: list[str | None] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.scripts += [dict(attrs).get("src")] if tag == "script" else []
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "action")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    return reader


@pytest.fixture
def evil(served: Served) -> Served:
    rows = [{"ticket": text, "intent": text, "reply": text, "error": text} for text in EVIL]
    write_run(served.store, "evil", rows)
    write_run(served.store, "other", [row | {"reply": "tame"} for row in rows])
    return served


def test_what_models_and_documents_said_is_inert_on_every_page(evil: Served) -> None:
    records = [f"/runs/evil/steps/{step}/{row}" for step in ("triage", "reply") for row in range(len(EVIL))]
    odd = [f"/runs?text={quote(text)}&chain={quote(text)}&status={quote(text)}" for text in EVIL]
    missing = [f"/runs/{quote(text, safe='')}" for text in EVIL if "\x00" not in text]
    missing += [f"/runs/evil/steps/{quote(text, safe='')}" for text in EVIL]
    for path in [*PAGES, *records, *odd, *missing, "/diff?before=evil&after=other"]:
        answer = evil.ask(path)
        assert answer.status in (200, 404), path
        assert answer.headers["content-type"].startswith("text/html")
        seen = read(answer.text)
        assert seen.scripts == ["/htmx.js"], path
        assert not seen.tags & {"iframe", "img", "object", "embed", "base", "math", "style"}, path
        live = ("on", "hx-", "data-hx-on", "data-hx-vals", "data-hx-headers")
        assert not [name for name in seen.attributes if name.startswith(live) or name == "style"], path
        assert all(link.startswith("/") and not link.startswith("//") for link in seen.links), path
        assert "\u202e" not in answer.text and "\x1b" not in answer.text, path
    for row, text in enumerate(EVIL[:10]):
        shown = "".join(read(evil.ask(f"/runs/evil/steps/reply/{row}").text).text)
        assert text in shown
    assert (
        "49" not in "".join(read(evil.ask("/runs/evil/steps/reply/6").text).text).split("Time of this row")[0]
    )


def test_twins_are_json_and_files_are_files(evil: Served) -> None:
    for path in ("/runs.json?text=pwned", "/runs/evil.json", "/runs/evil/steps/reply.json",
                 "/runs/evil/steps/reply/0.json", "/diff.json?before=evil&after=other", "/runs/none.json"):  # fmt: skip
        answer = evil.ask(path)
        assert answer.headers["content-type"] == "application/json"
        assert isinstance(answer.json(), dict)
    raw = evil.ask("/runs/evil/steps/reply/0/raw/response-2")
    assert raw.body == EVIL[0].encode()
    assert (
        raw.headers["content-disposition"].startswith("attachment")
        and raw.headers["x-content-type-options"] == "nosniff"
    )
    assert evil.ask("/runs/evil/steps/reply/0/raw/messages").json()[0]["role"] == "system"
    assert evil.ask("/runs/evil/steps/reply/0/raw/id").status == 404


def test_the_page_of_a_record_marks_each_variable_and_leads_to_where_it_came_from(served: Served) -> None:
    write_run(
        served.store, "run1", [{"ticket": "Where is it?", "intent": "delivery", "reply": "On its way."}] * 3
    )
    answer = served.ask("/runs/run1/steps/reply/1")
    assert '<a class="mark" title="triage.text" href="/runs/run1/steps/triage/1">delivery</a>' in answer.text
    assert '<a class="mark" title="inputs.ticket" href="/runs/run1">Where is it?</a>' in answer.text
    view = served.ask("/runs/run1/steps/reply/1.json").json()
    assert [part["text"] for part in view["messages"][1]["stretches"]] == [
        "About ",
        "delivery",
        ": ",
        "Where is it?",
    ]
    assert view["neighbours"] == {"before": 0, "after": 2}
    assert [(a["state"], a["error_type"], a["waited"]) for a in view["attempts"]] == [
        ("error", "RateLimited", 0.2), ("ok", None, 0.5)
    ]  # fmt: skip
    assert "$DESK_API_KEY" in view["copies"]["curl"] and "environ['DESK_API_KEY']" in view["copies"]["Python"]
    compile(view["copies"]["Python"], "copied", "exec")
    assert view["why"]["verdict"] == "ran"
    assert view["template"][1] == {"role": "user", "text": "About {{ triage.text }}: {{ inputs.ticket }}"}


def test_the_page_of_a_record_lists_its_samples_and_each_has_a_page(served: Served, store: Store) -> None:
    write_run(store, "votes", [{"ticket": "late", "intent": EVIL[0], "reply": "x"}])
    own = store.record("votes", "triage", 0)
    store.put(*(replace(own, id=f"s{number}", sample=number) for number in (1, 2)))
    page = served.ask("/runs/votes/steps/triage/0").text
    assert "<h2>Samples</h2>" in page and read(page).scripts == ["/htmx.js"]
    assert "/runs/votes/steps/triage/0?sample=2" in read(page).links
    one = read(served.ask("/runs/votes/steps/triage/0?sample=2").text)
    assert "/runs/votes/steps/triage/0" in one.links and "sample 2" in one.text
    assert "sample 2" not in read(served.ask("/runs/votes/steps/triage").text).text


def test_runs_are_found_by_words_chain_and_status_and_turned_by_page(served: Served) -> None:
    row = {"ticket": "My parcel is late", "intent": "delivery", "reply": "Sorry for the delay."}
    for number in range(60):
        write_run(served.store, f"run{number:02d}", [row | {"reply": f"Sorry, number{number}."}], status="ok")
    write_run(served.store, "lost", [row], status="interrupted")
    first = served.ask("/runs.json").json()
    assert (first["number"], first["pages"], len(first["runs"]), first["runs"][0]["id"]) == (
        61,
        2,
        50,
        "lost",
    )
    second = served.ask("/runs.json?page=2").json()
    assert [run["id"] for run in second["runs"]][-1] == "run00" and len(second["runs"]) == 11
    assert [run["id"] for run in served.ask("/runs.json?status=interrupted").json()["runs"]] == ["lost"]
    served.looking.search.refresh(60)
    found = served.ask("/runs.json?text=number42").json()
    assert [run["id"] for run in found["runs"]] == ["run42"] and found["records"][0]["step"] == "reply"
    assert "number42" in found["records"][0]["excerpt"] and found["runs_not_searched"] == 0
    assert found["runs"][0]["tokens_in"] == 22
    for odd in ('"', "*", "NEAR(", "a OR b", "number42 AND", "-x", "text:parcel", "(", "';--", "\x00"):
        assert served.ask(f"/runs?text={quote(odd)}").status == 200


def test_sums_are_those_that_a_run_wrote_at_its_end_unless_it_went_on(served: Served, store: Store) -> None:
    write_run(served.store, "told", [{"ticket": "a", "intent": "b", "reply": "c"}])
    counts = {"triage": {"ok": 1, "tokens_in": 5, "attempts": 1}, "reply": {"failed": 2, "tokens_in": 6}}
    told = {"status": "ok", "counts": counts, "outputs": {}}
    run = store.run("told")
    for name, status, result in (
        ("told", "ok", told),
        ("swept", "interrupted", told),
        ("again", "failed", told),
        ("silent", "ok", {"outputs": {}}),
    ):
        write_run(served.store, name, [{"ticket": "a", "intent": "b", "reply": "c"}])
        store.put(replace(run, id=name, status=status, result=json.dumps(result).encode()))
    lines = {line["id"]: line for line in served.ask("/runs.json").json()["runs"]}
    assert (lines["told"]["tokens_in"], lines["told"]["failed"], lines["told"]["attempts"]) == (11, 2, 1)
    for name in ("swept", "again", "silent"):
        assert (lines[name]["tokens_in"], lines[name]["failed"]) == (22, 0), name


def test_a_run_that_changes_is_searched_anew_and_a_removed_one_is_not_shown(served: Served) -> None:
    row = {"ticket": "first words", "intent": "x", "reply": "said"}
    write_run(served.store, "run1", [row])
    write_run(served.store, "run2", [row | {"ticket": "second words"}])
    search = served.looking.search
    search.refresh(60)
    assert search.find("words").runs == ["run1", "run2"] or search.find("words").runs == ["run2", "run1"]
    served.store.prune(runs=["run1"])
    search.refresh(60)
    found = served.ask("/runs.json?text=words").json()
    assert [run["id"] for run in found["runs"]] == ["run2"]
    assert {record["run"] for record in found["records"]} == {"run2"}


def test_a_long_answer_sends_little_until_asked(served: Served) -> None:
    long = "word " * 1_000_000
    write_run(served.store, "run1", [{"ticket": long, "intent": long, "reply": long}])
    page = served.ask("/runs/run1/steps/reply/0")
    assert page.status == 200 and len(page.body) < 200_000
    for path in (
        "/runs",
        "/runs/run1",
        "/runs/run1/steps/reply",
        "/runs/run1/steps/reply/0.json",
        "/runs?text=word",
    ):
        assert len(served.ask(path).body) < 200_000, path
    assert len(served.ask("/runs/run1/steps/reply/0?whole=1").body) > len(long)
    assert len(served.ask("/runs/run1/steps/reply/0/raw/response-2").body) == len(long)


def test_an_exported_page_needs_nothing_else_and_holds_no_keys(evil: Served) -> None:
    key = "sk-" + "a1b2c3d4" * 4
    write_run(evil.store, "keyed", [{"ticket": f"my key is {key}", "intent": "x", "reply": key}])
    html = exported(evil.store, evil.looking.run("keyed"))
    assert key not in html and "cut out" in html
    html = exported(evil.store, evil.looking.run("evil"), most=5)
    seen = read(html)
    assert not seen.tags & {"script", "iframe", "img", "link", "form", "a"}
    assert seen.links == [] and not [name for name in seen.attributes if name.startswith("on")]
    assert f"{2 * len(EVIL) - 5} more records" in html
    assert EVIL[0] in "".join(seen.text)


def test_a_run_whose_chain_is_not_read_is_still_shown(served: Served) -> None:
    write_run(served.store, "run1", [{"ticket": "a", "intent": "b", "reply": "c"}])
    run = served.store.run("run1")
    assert run is not None
    import dataclasses

    served.store.put(dataclasses.replace(run, source=b"chain: desk\nsteps: {a: {later: x}}\n"))
    for path in ("/runs/run1", "/runs/run1/steps/reply", "/runs/run1/steps/reply/0"):
        assert served.ask(path).status == 200
    assert "no picture" in served.ask("/runs/run1").text
    view = served.ask("/runs/run1/steps/reply/0.json").json()
    assert view["template"] is None and json.dumps(view["messages"]).count("kind") == 1
    assert served.ask("/diff?before=run1&after=run1").status == 200


def test_a_damaged_blob_is_said_and_not_shown(served: Served) -> None:
    long = "word " * 40_000
    row = {"ticket": "a", "intent": "b", "reply": "c"}
    write_run(served.store, "run1", [row, row | {"reply": long}])
    for path in (served.store.path / "blobs").rglob("*"):
        if path.is_file():
            path.chmod(0o600)
            path.write_bytes(b"spoiled")
    answer = served.ask("/runs/run1/steps/reply/1")
    assert answer.status == 500 and "Nothing to show" in answer.text
    assert served.ask("/runs/run1/steps/reply/1.json").json()["error"]
    for path in ("/runs", "/runs/run1", "/runs/run1/steps/reply", "/runs/run1/steps/reply/0"):
        assert served.ask(path).status == 200


def test_items_of_a_row_are_listed_inside_it_and_lead_back_to_where_their_list_came_from(
    served: Served, store: Store
) -> None:
    mapped = CHAIN.replace(
        '{prompt: "Sort this: {{ inputs.ticket }}"}', '{prompt: "List {{ inputs.ticket }}"}'
    )
    mapped += '  each: {prompt: "Look at {{ part.name }}", map: "{{ triage.text }}", as: part}\n'
    write_run(store, "maps", [{"ticket": "late", "intent": "x", "reply": "y"}])
    run, own = store.run("maps"), store.record("maps", "triage", 0)
    said = [EVIL[0], "plain", "third"]
    messages = json.dumps([{"role": "user", "content": "Look at bolt"}]).encode()
    store.put(
        replace(run, source=mapped.encode()),
        StepRow(run_id="maps", id="each", kind="prompt", status="ok", started_at=1.0, finished_at=2.0),
        replace(own, id="each", step="each", output=json.dumps(said).encode(), attempts=0),
        *(
            replace(
                own, id=f"each{item}", step="each", item=item, messages=messages,
                inputs=json.dumps({"part.name": "bolt"}).encode(), output=json.dumps({"text": text}).encode(),
            )
            for item, text in enumerate(said)
        ),
    )  # fmt: skip
    page = served.ask("/runs/maps/steps/each/0").text
    assert re.findall('<a class="within" href="([^"]+)">([^<]+)<', page) == [
        (f"/runs/maps/steps/each/0?item={item}", f"item {item}") for item in range(3)
    ]
    assert read(page).scripts == ["/htmx.js"]
    item = served.ask("/runs/maps/steps/each/0?item=1")
    assert '<a class="mark" title="part.name" href="/runs/maps/steps/triage/0">bolt</a>' in item.text
    assert (
        "<h1>each · row 0 · item 1</h1>" in item.text
        and '<a href="/runs/maps/steps/each/0">row 0</a>' in item.text
    )
    twin = served.ask("/runs/maps/steps/each/0.json?item=2").json()
    assert twin["response"]["text"] == "third" and twin["within"] == []
    assert served.ask("/runs/maps/steps/each/0?item=7").status == 404
    assert ">1/1, 3 inside</text>" in served.ask("/runs/maps").text
    served.looking.search.refresh(60)
    found = served.ask("/runs.json?text=third").json()["records"]
    assert "/runs/maps/steps/each/0?item=2" in [record["href"] for record in found]


REPEATED = """  draft:
    repeat: {until: "loop.turn >= 1", max: 2}
    steps:
      write: {prompt: "Write of {{ inputs.ticket }} for {{ triage.text }}"}
      each: {prompt: "Look at {{ part }} of {{ write.text }}", map: "{{ [write.text] }}", as: part}
"""


@pytest.fixture
def repeated(served: Served, store: Store) -> Served:
    """A run with two turns of a repeat, in each of which one step is mapped."""
    write_run(store, "turns", [{"ticket": "late", "intent": "x", "reply": "y"}])
    run, own = store.run("turns"), store.record("turns", "triage", 0)
    said = json.dumps({"text": "said in a turn"}).encode()
    asked = json.dumps([{"role": "user", "content": "Look at bolt of said in a turn"}]).encode()
    read_there = json.dumps({"part": "bolt", "write.text": "said in a turn"}).encode()
    names = ("draft", "draft.write", "draft.each")
    rows = []
    for turn in (0, 1):
        at = 10.0 + turn
        inside = replace(own, turn=turn, output=said, started_at=at, finished_at=at + 0.5)
        rows += [
            replace(inside, id=f"write{turn}", step="draft.write", inputs=b"{}"),
            replace(inside, id=f"each{turn}", step="draft.each", started_at=at + 0.6, attempts=0),
            replace(
                inside,
                id=f"each{turn}i",
                step="draft.each",
                item=0,
                started_at=at + 0.7,
                messages=asked,
                inputs=read_there,
            ),
        ]
    store.put(
        replace(run, source=(CHAIN + REPEATED).encode()),
        *(
            StepRow(run_id="turns", id=name, kind="repeat" if name == "draft" else "prompt", status="ok",
                    started_at=9.0, finished_at=12.0)
            for name in names
        ),
        replace(own, id="draft", step="draft", attempts=0),
        *rows,
    )  # fmt: skip
    return served


def test_what_stands_in_the_turns_of_a_repeat_is_listed_and_has_pages(repeated: Served) -> None:
    inside = repeated.ask("/runs/turns/steps/draft/0.json").json()["within"]
    assert [(one["place"], one["href"]) for one in inside] == [
        ("turn 0 · write", "/runs/turns/steps/draft.write/0?turn=0"),
        ("turn 0 · each", "/runs/turns/steps/draft.each/0?turn=0"),
        ("turn 0 · each · item 0", "/runs/turns/steps/draft.each/0?item=0&turn=0"),
        ("turn 1 · write", "/runs/turns/steps/draft.write/0?turn=1"),
        ("turn 1 · each", "/runs/turns/steps/draft.each/0?turn=1"),
        ("turn 1 · each · item 0", "/runs/turns/steps/draft.each/0?item=0&turn=1"),
    ]
    of_step = repeated.ask("/runs/turns/steps/draft.write.json").json()
    assert [(record["row"], record["place"]) for record in of_step["records"]] == [
        (0, "turn 0"),
        (0, "turn 1"),
    ]
    assert of_step["number"] == 2
    item = repeated.ask("/runs/turns/steps/draft.each/0.json?turn=1&item=0").json()
    assert item["template"] == [{"role": "user", "text": "Look at {{ part }} of {{ write.text }}"}]
    assert item["sources"] == {
        name: "/runs/turns/steps/draft.write/0?turn=1" for name in ("part", "write.text")
    }
    mapped = repeated.ask("/runs/turns/steps/draft.each/0.json?turn=1").json()["within"]
    assert [one["place"] for one in mapped] == ["turn 1 · item 0"]
    write = repeated.ask("/runs/turns/steps/draft.write/0?turn=1")
    assert "<h1>draft.write · row 0 · turn 1</h1>" in write.text
    assert '<a href="/runs/turns/steps/draft/0">row 0</a>' in write.text
    page = repeated.ask("/runs/turns")
    assert ">1/1, 6 inside</text>" in page.text
    assert ">2 inside</text>" in page.text and ">4 inside</text>" in page.text and ">0/1" not in page.text
    html = exported(repeated.store, repeated.looking.run("turns"))
    assert html.count("said in a turn") >= 6 and "draft.write · row 0 · turn 1 · ok" in html


def test_an_address_of_nothing_inside_a_row_is_not_found(repeated: Served) -> None:
    for odd in (
        "turn=7",
        "item=0",
        "path=draft%5Bturn+0%5D&turn=0",
        "path=%00",
        "path=" + "x" * 900,
        "turn=x",
    ):
        assert repeated.ask(f"/runs/turns/steps/draft.write/0?{odd}").status == 404, odd


def test_rows_that_wait_for_somebody_are_listed_and_counted(served: Served, store: Store) -> None:
    write_run(store, "asked", [{"ticket": "a", "intent": "b", "reply": "c"}] * 2)
    own = store.record("asked", "triage", 0)
    store.put(replace(own, status="waiting", output=None))
    view = served.ask("/runs/asked/steps/triage.json").json()
    assert view["number"] == 2 and "waiting" in view["statuses"]
    listed = served.ask("/runs/asked/steps/triage.json?status=waiting").json()
    assert [record["row"] for record in listed["records"]] == [0] and listed["number"] == 1
