"""An answer that comes in parts: server-sent events, and the whole that they make.

Owns the format of streamed chat completions. Knows nothing of HTTP. Invariant: a document that `assembled`
returns is the one that the endpoint would have sent at once; a stream that stops before the answer has ended
is never one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import orjson

from chains.errors import HeadraceError, InvalidBody
from tasks.providers.faults import preview

OnText = Callable[[str], None]
"""Told each part of an answer's text as it comes."""

EVENTS: Final = "text/event-stream"
REMOVED: Final = "[key removed]"
"""What stands in the place of a secret."""
_DONE: Final = b"[DONE]"


class Deltas:
    """Tells the text of a stream while its bytes come in."""

    def __init__(self, on_text: OnText) -> None:
        self._on_text = on_text
        self._rest = b""

    def feed(self, part: bytes) -> None:
        """Take the next bytes; what is no text of the first answer is left to `assembled`."""
        *lines, self._rest = (self._rest + part).split(b"\n")
        for line in lines:
            text = _text_of(line)
            if text:
                self._on_text(text)


class Veil:
    """Cuts secrets out of a text that comes in parts, also where one is split between two of them."""

    def __init__(self, secrets: Sequence[str], on_text: OnText) -> None:
        self._secrets = secrets
        self._on_text = on_text
        self._rest = ""
        self.has_cut = False

    def tell(self, text: str) -> None:
        """Tell a part, but what may be the beginning of a secret: that waits for what follows it."""
        self._rest += text
        for secret in self._secrets:
            if secret in self._rest:
                self._rest = self._rest.replace(secret, REMOVED)
                self.has_cut = True
        held = max((_begun(self._rest, secret) for secret in self._secrets), default=0)
        sure, self._rest = self._rest[: len(self._rest) - held], self._rest[len(self._rest) - held :]
        if sure:
            self._on_text(sure)

    def end(self) -> None:
        """Tell what was held back: no more comes."""
        if self._rest:
            self._on_text(self._rest)
            self._rest = ""


def _begun(text: str, secret: str) -> int:
    """Return how many characters at the end of a text are the beginning of a secret."""
    longest = min(len(text), len(secret) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(secret[:length])), 0)


def assembled(body: bytes) -> tuple[dict[str, Any] | None, HeadraceError | None]:
    """Return the completion that the events of a whole stream make, or the reason why they make none."""
    whole: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for data in _events(body):
        if data == _DONE:
            break
        try:
            event = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            words = f"a part of the streamed answer is not JSON ({error.msg}): {preview(data)!r}."
            return None, InvalidBody(words)
        if not isinstance(event, dict):
            return None, InvalidBody(f"a part of the streamed answer is no object: {preview(data)!r}.")
        if event.get("error"):
            return {"error": event["error"]}, None  # what a 200 with an error inside means is said elsewhere
        parts = event.pop("choices", None) or ()
        whole.update({name: value for name, value in event.items() if value is not None})
        for part in parts:
            if isinstance(part, dict):
                _add(choices.setdefault(part.get("index") or 0, {}), part)
    if not choices or any(choice.get("finish_reason") is None for choice in choices.values()):
        return None, InvalidBody(f"the streamed answer broke off after {len(body)} bytes, before its end.")
    whole["object"] = "chat.completion"
    whole["choices"] = [choices[index] for index in sorted(choices)]
    return whole, None


def _add(choice: dict[str, Any], part: dict[str, Any]) -> None:
    """Add one event's part of an answer to what there is of it."""
    delta = part.get("delta")
    choice.setdefault("index", part.get("index") or 0)
    message = choice.setdefault("message", {"role": "assistant", "content": None})
    for name, value in delta.items() if isinstance(delta, dict) else ():
        known = message.get(name)
        if name != "role" and isinstance(known, str) and isinstance(value, str):
            message[name] = known + value
        elif value is not None:
            message[name] = value
    if part.get("finish_reason") is not None:
        choice["finish_reason"] = part["finish_reason"]


def _events(body: bytes) -> Iterator[bytes]:
    """Yield the data of each event; one of several lines is joined by line breaks."""
    lines: list[bytes] = []
    for line in [*body.replace(b"\r\n", b"\n").split(b"\n"), b""]:
        if line.startswith(b"data:"):
            lines.append(line[5:].removeprefix(b" "))
        elif not line and lines:
            yield b"\n".join(lines)
            lines = []


def _text_of(line: bytes) -> str:
    """Return the text that one line of a stream adds to the first answer."""
    line = line.rstrip(b"\r")
    if not line.startswith(b"data:"):
        return ""
    try:
        event = orjson.loads(line[5:])
        [choice] = event.get("choices") or [{}]
        text = choice.get("delta", {}).get("content") if not choice.get("index") else None
    except (orjson.JSONDecodeError, AttributeError, ValueError):
        return ""  # the end, a comment, or what `assembled` complains of
    return text if isinstance(text, str) else ""
