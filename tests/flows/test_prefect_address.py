"""Finding a Prefect API: who asks, what a refusal is, and what a damaged profile says."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from chains.errors import EnvironmentLacks
from flows.prefect_server import PrefectApi, find, look, without_password

BASIC = "Basic " + base64.b64encode(b"admin:s3cret").decode()


class Guarded(BaseHTTPRequestHandler):
    """An API that wants a user; under /cloud it is like Prefect Cloud, which tells no version."""

    def _answer(self, found: object) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        allowed = self.headers.get("Authorization") in (BASIC, "Bearer pnu_key")
        status = (404 if found is None else 200) if allowed else 401
        body = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self._answer(None if self.path.startswith("/cloud") else "3.8.8")

    def do_POST(self) -> None:
        self._answer([] if self.path.endswith("/flow_runs/filter") else 0)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    for name in ("KEY", "AUTH_STRING", "URL"):
        monkeypatch.delenv(f"PREFECT_API_{name}", raising=False)
    for name in ("PROFILE", "PROFILES_PATH"):
        monkeypatch.delenv(f"PREFECT_{name}", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Guarded)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_api_that_refuses_says_what_to_set(guarded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://{guarded}/api"
    with pytest.raises(EnvironmentLacks, match="answers, but refuses") as refused:
        PrefectApi(url).wait(print)
    assert "PREFECT_API_KEY" in str(refused.value) and "PREFECT_API_AUTH_STRING" in str(refused.value)
    monkeypatch.setenv("PREFECT_API_URL", url)
    assert look().state == "refuses"


@pytest.mark.parametrize(
    ("name", "value"), [("PREFECT_API_AUTH_STRING", "admin:s3cret"), ("PREFECT_API_KEY", "pnu_key")]
)
@pytest.mark.parametrize("path", ["api", "cloud"])
def test_the_users_name_is_sent_from_the_environment(
    guarded: str, monkeypatch: pytest.MonkeyPatch, name: str, value: str, path: str
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"http://{guarded}/{path}")
    monkeypatch.setenv(name, value)
    assert look().state == "ok"
    found = find()
    assert found is not None
    monkeypatch.setenv("PREFECT_API_URL", "")  # `wait` sets it, and this puts it back at the end
    found.wait(print)


def test_the_active_profile_counts_where_its_file_is(
    guarded: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    profiles = tmp_path / "elsewhere.toml"
    profiles.write_text(
        f'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "http://{guarded}/api"\n'
        'PREFECT_API_AUTH_STRING = "admin:s3cret"\n'
    )
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(profiles))
    assert look().state == "ok" and look().configured


@pytest.mark.parametrize("content", [b"active = ", b"\xff\xfe", b'active = "a"\nprofiles = 3\n'])
def test_a_damaged_profile_is_named(
    guarded: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "profiles.toml").write_bytes(content)
    with pytest.raises(EnvironmentLacks, match=r"profiles\.toml"):
        look()
    monkeypatch.setenv("PREFECT_API_URL", f"http://{guarded}/api")
    monkeypatch.setenv("PREFECT_API_KEY", "pnu_key")
    assert look().state == "ok"  # the environment goes before


def test_a_password_in_an_address_is_used_and_never_shown(
    guarded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"http://admin:s3cret@{guarded}/api")
    found = look()
    assert found.state == "ok" and found.url == f"http://{guarded}/api"
    with pytest.raises(EnvironmentLacks) as silent:
        PrefectApi("http://admin:s3cret@127.0.0.1:9/api").wait(print)
    assert "s3cret" not in str(silent.value) and "http://127.0.0.1:9/api" in str(silent.value)
    assert without_password("https://h/a@b") == "https://h/a@b"
