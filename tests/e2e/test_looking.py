"""Looking at real runs from the command line: `why` and `diff`."""

from __future__ import annotations

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
