"""What is printed: nothing that a terminal would obey, and JSON that a program can read."""

from __future__ import annotations

import json
import unicodedata

import pytest

from chains.clock import iso
from flows.cli.text import duration, moment, money, print_json, safe, shorten, table

OBEYED = "\x1b[2J \x9b31m \x7f \r \u202e \u2066 \u200b \ud800 \x00"


def test_control_and_bidirectional_characters_are_written_out() -> None:
    shown = safe(OBEYED + "ä🙂\n\tz")
    assert not [char for char in shown if unicodedata.category(char)[0] == "C" and char not in "\n\t"]
    assert "\\u001b[2J" in shown and shown.endswith("ä🙂\n\tz")


def test_json_holds_them_escaped_and_means_the_same(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    print_json({OBEYED: [OBEYED, "ä🙂\n\u3000\U000e0001"], "n": [1, 0.5, True, None]})
    import sys

    sys.stdout.flush()
    out = capfdbinary.readouterr().out
    text = out.decode("utf-8")
    assert not [char for char in text if char != "\n" and not char.isprintable()]
    assert "ä🙂" in text
    assert json.loads(text) == {OBEYED: [OBEYED, "ä🙂\n\u3000\U000e0001"], "n": [1, 0.5, True, None]}


def test_an_unknown_cost_is_never_nothing() -> None:
    assert (money(None), money(0), money(1500)) == ("unknown", "$0", "$0.0015")


def test_durations_and_times_read_well() -> None:
    assert [duration(value) for value in (None, 0.25, 59.6, 200.0)] == ["-", "0.2 s", "60 s", "3 m 20 s"]
    assert iso(1769860800.1234) == "2026-01-31T12:00:00.123Z" and iso(None) is None
    assert moment("2026-01-31T12:00:00.123Z") == "2026-01-31 12:00:00" and moment(None) == "-"


def test_a_table_aligns_and_escapes_its_cells() -> None:
    text = table([{"step": "a", "rows": 1}, {"step": "b\x1b\nc", "rows": 200}], right=frozenset({"rows"}))
    assert text.splitlines() == ["step         rows", "a               1", "b\\u001b ⏎ c   200"]
    assert table([]) == ""
    assert shorten("abcdef", 4) == "abc…"
