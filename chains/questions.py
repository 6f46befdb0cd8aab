"""What a teacher is asked: the question in a row of training examples, and the row with its answer.

Owns which part of an example is the question. Knows nothing of models; an answer that stands in a row
already is left out of the question.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chains.errors import InputInvalid

_ROLES = ("system", "user", "assistant")


def question_of(row: dict[str, Any]) -> list[dict[str, str]]:
    """Return the messages that ask what the row asks; raise InputInvalid where it asks nothing."""
    match row:
        case {"prompt": str() as text}:
            messages: list[Any] = [{"role": "user", "content": text}]
        case {"prompt": list() as messages}:
            pass
        case {"messages": list() as messages}:
            messages = messages[:-1] if _role(messages) == "assistant" else messages
        case _:
            raise InputInvalid(
                f"a question to a teacher is a 'prompt' or 'messages'; this row has {sorted(row)!r:.200}"
            )
    if _role(messages) != "user":
        raise InputInvalid("a question to a teacher ends with a message of the user")
    return [_message(message) for message in messages]


def answered(row: dict[str, Any], answer: str) -> dict[str, Any]:
    """Return the row as a training example whose answer is the teacher's."""
    if isinstance(row.get("prompt"), str):
        return {"prompt": row["prompt"], "completion": answer}
    return {"prompt": question_of(row), "completion": [{"role": "assistant", "content": answer}]}


def read_questions(path: Path) -> Iterator[tuple[int, dict[str, Any], list[dict[str, str]]]]:
    """Yield line number (from 1), row and question for each line of a JSONL file of examples."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise InputInvalid(f"{row!r:.200} is no object")
                yield number, row, question_of(row)
            except ValueError as error:
                raise InputInvalid(f"{path}: line {number} is not JSON: {error}.") from error
            except InputInvalid as error:
                raise InputInvalid(f"{path}: line {number}: {error.message}", hint=error.hint) from error


def _role(messages: list[Any]) -> Any:
    last = messages[-1] if messages else None
    return last.get("role") if isinstance(last, dict) else None


def _message(message: Any) -> dict[str, str]:
    match message:
        case {"role": str() as role, "content": str() as content} if role in _ROLES:
            return {"role": role, "content": content}
    raise InputInvalid(
        f"a message to a teacher is a role ({', '.join(_ROLES)}) and a content; here is {message!r:.200}"
    )
