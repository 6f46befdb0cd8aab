"""`headrace doctor`: one line for each thing, exit 3 where runs would not work, never a key's value."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def doctor(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "OPENAI_"))}
    return subprocess.run(
        [sys.executable, "-c", "from flows.cli import main; main()", "doctor", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=kept | {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(folder)} | environment,
    )


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    folder = tmp_path_factory.mktemp("doctor")
    url = "http://admin:s3cret@127.0.0.1:9/api"
    return doctor(folder, "--json", OPENAI_API_KEY="sk-canary-1", PREFECT_API_URL=url)


def test_every_thing_is_looked_at(seen: subprocess.CompletedProcess[str]) -> None:
    found = {finding["what"]: finding for finding in json.loads(seen.stdout)}
    assert found["python"]["state"] == "ok"
    for name in ("prefect", "torch", "openai", "device", "embedder MiniLM", "starter model", "store"):
        assert found[name]["state"] in ("ok", "note", "lacks") and found[name]["text"]
    assert found["store"] == {"what": "store", "state": "ok", "text": ".headrace (made by the first run)"}


def test_an_api_that_is_configured_and_silent_is_a_lack(seen: subprocess.CompletedProcess[str]) -> None:
    found = {finding["what"]: finding for finding in json.loads(seen.stdout)}
    assert seen.returncode == 3
    assert found["Prefect API"]["state"] == "lacks" and "127.0.0.1:9" in found["Prefect API"]["text"]


def test_neither_a_key_nor_a_password_is_printed(seen: subprocess.CompletedProcess[str]) -> None:
    assert "canary" not in seen.stdout + seen.stderr and "s3cret" not in seen.stdout + seen.stderr
    assert {"what": "OPENAI_API_KEY", "state": "ok", "text": "present"} in json.loads(seen.stdout)
