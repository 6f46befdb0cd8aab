"""The forms in which training examples are written, and the ways between them.

Owns how each form is recognised and what it becomes as `messages`, `prompt` with `completion`, Alpaca or
ShareGPT. A conversation of many turns fits only `messages` and ShareGPT. Roles are mapped as other tools do:
`human` is the user, `gpt` the assistant. Knows nothing of templates or files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chains.errors import InputInvalid
from chains.spec import ExampleFormat

FIELDS: Mapping[ExampleFormat, tuple[str, ...]] = {
    "messages": ("messages",),
    "preference": ("prompt", "chosen", "rejected"),
    "prompt_completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
    "sharegpt": ("conversations",),
    "classification": ("text", "label"),
    "pairs": ("anchor", "positive"),
    "text": ("text",),
}
"""What a row of each form must have, in the order in which forms are looked for."""
OPTIONAL: Mapping[ExampleFormat, tuple[str, ...]] = {
    "alpaca": ("input", "system", "history"),
    "sharegpt": ("system",),
    "pairs": ("negative",),
}
CONVERSATIONS = frozenset({"messages", "prompt_completion", "alpaca", "sharegpt"})

_FROM_SHAREGPT = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_call": "assistant",
}
_TO_SHAREGPT = {"user": "human", "assistant": "gpt", "system": "system", "tool": "observation"}

Message = dict[str, str]


def form_of(row: Mapping[str, Any]) -> ExampleFormat | None:
    """Return the form that a row has, or None; a text with a label is one for those who ask for it only."""
    forms = (form for form in FIELDS if form != "classification")
    return next((form for form in forms if all(name in row for name in FIELDS[form])), None)


def messages_of_alpaca(row: Mapping[str, Any]) -> list[Message]:
    """Return an Alpaca row as messages: the instruction, a line break and the input are the question."""
    messages = [{"role": "system", "content": _text(row, "system")}] if row.get("system") else []
    for turn in row.get("history") or []:
        if not isinstance(turn, Sequence) or isinstance(turn, str) or len(turn) != 2:
            raise InputInvalid(f"'history' holds {turn!r:.200}, which is no [question, answer].")
        messages += [
            {"role": "user", "content": str(turn[0])},
            {"role": "assistant", "content": str(turn[1])},
        ]
    asked = _text(row, "instruction")
    if row.get("input"):
        asked = f"{asked}\n{_text(row, 'input')}"
    return [
        *messages,
        {"role": "user", "content": asked},
        {"role": "assistant", "content": _text(row, "output")},
    ]


def messages_of_sharegpt(row: Mapping[str, Any]) -> list[Message]:
    """Return a ShareGPT row as messages."""
    turns = row["conversations"]
    if not isinstance(turns, list) or not turns:
        raise InputInvalid(f"'conversations' is no list of turns, but {turns!r:.200}.")
    messages = [{"role": "system", "content": _text(row, "system")}] if row.get("system") else []
    for turn in turns:
        role = _FROM_SHAREGPT.get(str(turn.get("from"))) if isinstance(turn, Mapping) else None
        if role is None or not isinstance(turn.get("value"), str):
            known = sorted(_FROM_SHAREGPT)
            raise InputInvalid(
                f"'conversations' holds {turn!r:.200}.", hint=f"A turn is {{'from', 'value'}}, from {known}."
            )
        messages.append({"role": role, "content": turn["value"]})
    return messages


def written(form: ExampleFormat, asked: Sequence[Message], answer: Sequence[Message]) -> dict[str, Any]:
    """Return a conversation in another form; InputInvalid says what does not fit in it."""
    match form:
        case "messages":
            return {"messages": [*asked, *answer]}
        case "prompt_completion":
            return {"prompt": list(asked), "completion": list(answer)}
        case "sharegpt":
            turns = [*asked, *answer]
            return {
                "conversations": [
                    {"from": _TO_SHAREGPT[turn["role"]], "value": turn["content"]} for turn in turns
                ]
            }
        case "alpaca":
            return _alpaca(asked, answer)
        case _:
            raise InputInvalid(
                f"a conversation cannot be written as {form!r}.", hint="Give the step `fields`."
            )


def _alpaca(asked: Sequence[Message], answer: Sequence[Message]) -> dict[str, Any]:
    system = [turn["content"] for turn in asked if turn["role"] == "system"]
    turns = [turn for turn in asked if turn["role"] != "system"]
    roles = [turn["role"] for turn in turns]
    if len(answer) != 1 or len(system) > 1 or roles != ["user", "assistant"] * (len(turns) // 2) + ["user"]:
        raise InputInvalid("its turns do not alternate between user and assistant, as 'alpaca' needs.")
    found: dict[str, Any] = {
        "instruction": turns[-1]["content"],
        "input": "",
        "output": answer[0]["content"],
    }
    if system:
        found["system"] = system[0]
    if len(turns) > 1:
        found["history"] = [
            [question["content"], said["content"]]
            for question, said in zip(turns[:-1:2], turns[1::2], strict=True)
        ]
    return found


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row[name]
    if not isinstance(value, str):
        raise InputInvalid(f"{name!r} is no text, but {value!r:.200}.")
    return value
