"""The file of a hosted job: examples in the service's form, checked line by line before anything is sent.

Owns the form and what is wrong with a row. Knows nothing of HTTP. A job that dies of a bad line does so late,
and some services charge for what ran before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from chains.errors import InputInvalid

FEWEST = 10
"""A file with fewer examples is refused by OpenAI's service."""
SHOWN_PROBLEMS = 5
BYTES_PER_TOKEN = 4
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})

Method = Literal["supervised", "dpo"]


@dataclass(frozen=True, slots=True)
class Upload:
    """A file as it goes to the service; its name tells its content, so that it is found there again."""

    content: bytes
    examples: int

    @property
    def sha256(self) -> str:
        """The hash of the content."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def name(self) -> str:
        """The file's name at the service."""
        return f"headrace-{self.sha256[:40]}.jsonl"

    @property
    def tokens(self) -> int:
        """An estimate: a token for four bytes, the JSON around the texts included."""
        return -(-len(self.content) // BYTES_PER_TOKEN)


def upload_of(path: Path, method: Method) -> Upload:
    """Return the examples of a file in the service's form; raise InputInvalid with the bad lines."""
    problems: list[str] = []
    lines: list[str] = []
    for number, line in _lines(path):
        try:
            lines.append(json.dumps(_form(json.loads(line), method), ensure_ascii=False))
        except json.JSONDecodeError as error:
            problems.append(f"{path}:{number}:{error.colno}: no JSON: {error.msg}")
        except InputInvalid as error:
            problems.append(f"{path}:{number}: {error.message}")
    if problems:
        more = f" And {len(problems) - SHOWN_PROBLEMS} more." if len(problems) > SHOWN_PROBLEMS else ""
        raise InputInvalid(
            "\n".join(problems[:SHOWN_PROBLEMS]) + more,
            hint="Nothing was sent. Correct these lines, or the step that wrote them.",
        )
    if len(lines) < FEWEST:
        raise InputInvalid(
            f"{path} holds {len(lines)} examples; a fine-tuning job needs at least {FEWEST}.",
            hint="Nothing was sent. Give more rows.",
        )
    return Upload("".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"), len(lines))


def check_apart(train: Upload, validation: Upload) -> None:
    """Raise InputInvalid where an example is in both files: its validation loss would say nothing."""
    both = set(train.content.splitlines()) & set(validation.content.splitlines())
    if both:
        shown = min(both).decode("utf-8", "replace")
        raise InputInvalid(
            f"{len(both)} examples are in data.train and in data.validation, such as {shown!r:.200}.",
            hint="Nothing was sent. `prepare` splits so that no example is in two parts.",
        )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, line
    except UnicodeDecodeError as error:
        raise InputInvalid(f"{path} is not UTF-8: {error.reason} at byte {error.start}.") from error


def _form(row: Any, method: Method) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise InputInvalid(f"an example is an object, not {row!r:.200}")
    return _pair(row) if method == "dpo" else _chat(row)


def _chat(row: dict[str, Any]) -> dict[str, Any]:
    match row:
        case {"messages": list() as messages}:
            pass
        case {"prompt": list() as prompt, "completion": list() as completion}:
            messages = [*prompt, *completion]
        case {"prompt": str() as prompt, "completion": str() as completion}:
            messages = [
                {"role": "user", "content": prompt},
                {"role": "assistant", "content": completion},
            ]
        case _:
            raise InputInvalid(
                f"'method: supervised' learns from 'messages', or 'prompt' and 'completion'; "
                f"this example has {sorted(row)!r:.200}"
            )
    found = [_message(message, place) for place, message in enumerate(messages)]
    if not found or found[-1]["role"] != "assistant":
        raise InputInvalid("the last message is not the assistant's, so there is nothing to learn")
    return {"messages": found}


def _pair(row: dict[str, Any]) -> dict[str, Any]:
    if not {"prompt", "chosen", "rejected"} <= row.keys():
        raise InputInvalid(
            "'method: dpo' learns from 'prompt', 'chosen' and 'rejected'; "
            f"this example has {sorted(row)!r:.200}"
        )
    prompt = _as_messages(row["prompt"], "user")
    asked = [_message(message, place) for place, message in enumerate(prompt)]
    chosen, rejected = (_answer(row[name], name) for name in ("chosen", "rejected"))
    if not asked:
        raise InputInvalid("'prompt' has no message")
    if chosen == rejected:
        raise InputInvalid("'chosen' and 'rejected' are the same")
    return {"input": {"messages": asked}, "preferred_output": chosen, "non_preferred_output": rejected}


def _answer(value: Any, name: str) -> list[dict[str, Any]]:
    messages = [_message(message, place) for place, message in enumerate(_as_messages(value, "assistant"))]
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise InputInvalid(f"{name!r} is not one message of the assistant")
    return messages


def _as_messages(value: Any, role: str) -> list[Any]:
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if not isinstance(value, list):
        raise InputInvalid(f"{value!r:.200} is neither a text nor a list of messages")
    return value


def _message(message: Any, place: int) -> dict[str, Any]:
    if not isinstance(message, dict) or message.get("role") not in _ROLES:
        raise InputInvalid(
            f"messages[{place}] is {message!r:.200}: its 'role' must be one of {', '.join(sorted(_ROLES))}"
        )
    content = message.get("content")
    if not isinstance(content, str) and not (content is None and message.get("tool_calls")):
        raise InputInvalid(f"messages[{place}]: 'content' is {content!r:.200}, not a text")
    if message["role"] == "assistant" and content is not None and not content.strip():
        raise InputInvalid(f"messages[{place}]: the assistant says nothing")
    return dict(message)
