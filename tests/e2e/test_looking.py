"""Looking at real runs from the command line: `why` and `diff`."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

pytestmark = pytest.mark.e2e


@pytest.fixture
def three_runs(desk) -> list[str]:
    """A run, the same again, and one after an edit of the reply's prompt; oldest first."""
    data = desk.tickets(6)
    for edit in ("", "", "kindly"):
        text = desk.chain.read_text()
        desk.chain.write_text(
            text.replace("answer customers.", f"answer customers {edit}.") if edit else text
        )
        done = desk.headrace("run", str(desk.chain), "--data", str(data), "--direct")
        assert done.code == 0, done.err
    return [run["run"] for run in reversed(desk.headrace("runs", "--json").json())]


@pytest.mark.slow
def test_why_and_diff_name_the_edit_and_what_was_reused(desk, three_runs) -> None:
    first, second, third = three_runs
    reused = desk.headrace("why", second, "triage", "--row", "2", "--json").json()
    assert (reused["verdict"], reused["reused_run"], reused["row"]) == ("reused", first, 2)
    ran = desk.headrace("why", third, "reply", "--json").json()
    assert ran["verdict"] == "ran" and ran["rows"] == {"ok": 6}
    assert [change["cause"] for change in ran["compared_with"]["changed"]] == ["template"]
    text = desk.headrace("why", "last", "reply", "--row", "1")
    assert text.code == 0 and "Since run" in text.out and "template" in text.out

    same = desk.headrace("diff", first, second, "--json").json()
    assert same["diverged"] == 0 and same["rows"] == 6 and same["changed_steps"] == {}
    found = desk.headrace("diff", first, third, "--json", "--limit", "2").json()
    assert found["diverged"] == 6 and len(found["divergences"]) == 2
    assert {divergence["step"] for divergence in found["divergences"]} == {"reply"}
    added = [piece["text"] for piece in found["divergences"][0]["asked"] if piece["side"] == "after"]
    assert added == [" kindly"]
    (accuracy,) = [line for line in found["metrics"] if line["metric"] == "accuracy"]
    assert accuracy["before"] == accuracy["after"] == 1.0 and accuracy["paired"]["difference"] == 0
    text = desk.headrace("diff", first, third, "--step", "reply")
    assert text.code == 0 and "{+ kindly+}" in text.out and "template (6)" in text.out
    wrong = desk.headrace("diff", first, third, "--step", "nothing")
    assert wrong.code == 2 and "triage" in wrong.err
    assert desk.headrace("why", first, "nothing").code == 2
    assert desk.sent() == 6 * 2 + 6  # looking has called nobody


def pytest_of(desk, file) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(desk.folder),
        file,
    ]
    return subprocess.run(command, capture_output=True, text=True, cwd=desk.folder, env=desk.environment)


@pytest.mark.slow
def test_a_testcase_holds_until_the_chain_asks_or_gives_something_else(make_desk) -> None:
    unfit = {"at": 1, "fault": "changed", "text": "no JSON, and a ''' quote"}
    desk = make_desk(unfit)
    done = desk.headrace("run", str(desk.chain), "--data", str(desk.tickets(1)), "--direct")
    assert done.code == 0, done.err
    sent = desk.sent()
    written = desk.headrace("testcase", "last", "triage", "--out", "test_triage.py")
    assert written.code == 0, written.err
    assert desk.headrace("testcase", "last", "triage", "--out", "test_triage.py").code == 2
    found = pytest_of(desk, "test_triage.py")
    assert found.returncode == 0, found.stdout
    assert desk.headrace("testcase", "last", "score").code == 2
    shown = desk.headrace("testcase", "last", "reply").out
    assert "def test_reply_of_row_0" in shown and "[refund] TICKET 0" in shown

    prompt = desk.chain.parent / "prompts" / "triage.md"
    prompt.write_text("Other words. " + prompt.read_text())
    found = pytest_of(desk, "test_triage.py")
    assert found.returncode == 1 and "found.messages == CASE.messages" in found.stdout
    prompt.write_text(prompt.read_text().removeprefix("Other words. "))
    desk.chain.write_text(desk.chain.read_text().replace("reask: 1", "reask: 0"))
    found = pytest_of(desk, "test_triage.py")
    assert found.returncode == 1 and "OutputInvalid" in found.stdout
    assert desk.sent() == sent  # the endpoint of the chain was not called


def test_the_inspector_prints_its_address_answers_its_token_and_ends_on_ctrl_c(desk) -> None:
    assert desk.headrace("run", str(desk.chain), "-i", "ticket=my refund", "--direct").code == 0
    started = desk.start("ui", "--port", "0")
    assert started.stdout is not None
    address = started.stdout.readline().decode().strip()
    place, _, token = address.partition("/?token=")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", place) and len(token) >= 32
    asking = urllib.request.Request(f"{place}/runs.json", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(asking, timeout=30) as answer:
        (run,) = json.load(answer)["runs"]
    assert run["status"] == "ok" and run["chain"] == "desk"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{place}/runs", timeout=30)
    taken = desk.headrace("ui", "--port", place.rpartition(":")[2])
    assert taken.code == 3 and "--port" in taken.err
    started.send_signal(signal.SIGINT)
    out, err = started.communicate(timeout=60)
    assert started.returncode == 130 and b"Traceback" not in err and token.encode() not in out + err


def test_a_run_is_exported_as_one_page(desk) -> None:
    assert desk.headrace("run", str(desk.chain), "--data", str(desk.tickets(2)), "--direct").code == 0
    assert desk.headrace("export", "last", "--format", "html", "--out", "run.html").code == 0
    html = (desk.folder / "run.html").read_text()
    assert "TICKET 1: ABOUT MY DELIVERY" in html and str(desk.folder) not in html
    assert desk.headrace("export", "last", "--format", "html", "--step", "triage").code == 2
