"""Headless Chromium, driven over its own protocol: open a page, ask it something, take its picture.

Needs the binary `chromium` and nothing else; `find()` is None where there is none.
"""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

from websockets.sync.client import connect


def find() -> str | None:
    """Return the browser's binary."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Browser:
    """One page of one browser. `said` holds what the page asked or complained of: dialogs and errors."""

    def __init__(self, binary: str, folder: Path) -> None:
        self._process = subprocess.Popen(
            [binary, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
             "--hide-scrollbars", "--window-size=1280,1100", f"--user-data-dir={folder}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        port = self._port(folder / "DevToolsActivePort")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=30) as answer:
            pages = [page for page in json.load(answer) if page["type"] == "page"]
        self._socket = connect(pages[0]["webSocketDebuggerUrl"], max_size=None, open_timeout=60)
        self._numbers = itertools.count(1)
        self._seen: list[str] = []
        self.said: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self.tell(f"{domain}.enable")

    def tell(self, method: str, **given: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": given}))
        while True:
            message = json.loads(self._socket.recv(timeout=90))
            if message.get("id") == number:
                assert "error" not in message, message
                found: dict[str, Any] = message["result"]
                return found
            self._note(message)

    def open(self, address: str) -> None:
        """Go to an address and wait until it is there."""
        self._seen.clear()
        self.tell("Page.navigate", url=address)
        self.wait()

    def wait(self) -> None:
        """Wait for the end of a page's loading."""
        while "Page.loadEventFired" not in self._seen:
            self._note(json.loads(self._socket.recv(timeout=90)))

    def click(self, selector: str) -> None:
        """Click an element that leads to another page, and wait for it."""
        self._seen.clear()
        self.value(f"document.querySelector({json.dumps(selector)}).click()")
        self.wait()

    def until(self, expression: str, seconds: float = 60) -> None:
        """Wait until an expression is true in the page, which may change meanwhile."""
        deadline = time.monotonic() + seconds
        while not self.value(expression):
            assert time.monotonic() < deadline, expression
            time.sleep(0.05)

    def scripts(self, on: bool) -> None:
        """Let pages have JavaScript, or not; what a test asks is evaluated all the same."""
        self.tell("Emulation.setScriptExecutionDisabled", value=not on)

    def value(self, expression: str) -> Any:
        """Return what an expression is in the page."""
        result = self.tell("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def dark(self, on: bool) -> None:
        """Let the system be dark, or light."""
        feature = {"name": "prefers-color-scheme", "value": "dark" if on else "light"}
        self.tell("Emulation.setEmulatedMedia", features=[feature])

    def picture(self) -> bytes:
        """Return what is seen, as PNG."""
        return base64.b64decode(self.tell("Page.captureScreenshot", format="png")["data"])

    def close(self) -> None:
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def _note(self, message: dict[str, Any]) -> None:
        method = message.get("method", "")
        self._seen.append(method)
        if method in ("Page.javascriptDialogOpening", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.said.append(json.dumps(message["params"]))

    def _port(self, path: Path) -> int:
        for _ in range(600):
            assert self._process.poll() is None, "the browser ended"
            if path.exists() and (lines := path.read_text().split()):
                return int(lines[0])
            time.sleep(0.1)
        raise AssertionError("the browser did not come up")
