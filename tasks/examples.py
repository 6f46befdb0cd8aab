"""Training examples: from a data set's row to the line of JSON that a finetune step reads.

Owns the three forms (prompt with completion, messages, text), what makes an example usable, and the text by
which two examples are the same. Knows nothing of files, splits or the store. Values of a row are variables
of templates and never templates; the messages of `like` are rendered without `row`, as they are in a run.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chains.errors import InputInvalid
from chains.inputs import bind_inputs
from chains.prompts import prompt_parts, render_messages
from chains.spec import PrepareStep, runs_once
from chains.templates import references, render_value

if TYPE_CHECKING:
    from chains.loading import ChainFile

_ROLES = frozenset({"system", "user", "assistant", "tool"})
_PART = "\x1f"
"""Stands between the parts of an example's text; whitespace normalisation leaves none inside a part."""


@dataclass(frozen=True, slots=True)
class Example:
    """One line of a training file, with the texts by which it is compared.

    `whole` is all of it; `asked` is what the model is given: two examples that ask the same and stand in two
    parts of a split are a leak, whatever their answers.
    """

    line: bytes
    whole: str
    asked: str

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to learn from."""
        return not self.whole


class Converter:
    """Turns the rows of one data set into examples, as one prepare step says."""

    def __init__(
        self, chain_file: ChainFile, step: PrepareStep, scope: Mapping[str, Any], *, from_text: bool
    ) -> None:
        self._step = step
        self._parts = prompt_parts(chain_file, step.like) if step.like is not None else []
        self._from_text = from_text
        sources = [source for _, source in self._parts]
        sources += [source for source in (step.completion, step.text) if source is not None]
        used = {(found.root, found.path[:1]) for source in sources for found in references(source)}
        chain = chain_file.chain
        names = {path[0] for root, path in used if root == "inputs" and path}
        if ("inputs", ()) in used:
            names = set(chain.inputs)
        kept = {name: spec for name, spec in chain.inputs.items() if name in names}
        self._chain = chain.model_copy(update={"inputs": kept})
        self._given = {name: scope.get("inputs", {}).get(name) for name in kept}
        # a list over rows would put every row's answer into each example: only once steps are in scope
        once = {name for name, other in chain.steps.items() if runs_once(other)}
        self._upstream = {name: scope[name] for name, _ in used if name in once and name in scope}
        self._form: tuple[str, ...] | None = None

    def identity(self) -> dict[str, Any]:
        """Return all that decides an example besides the row, for the step's value key."""
        return {
            "messages": [list(part) for part in self._parts],
            "completion": self._step.completion,
            "text": self._step.text,
            "inputs": {name: spec.model_dump(mode="json") for name, spec in self._chain.inputs.items()},
            "given": self._given,
            "upstream": self._upstream,
            "from_text": self._from_text,
        }

    def convert(self, row: Mapping[str, Any]) -> Example:
        """Return the row's example; InputInvalid says what the row lacks."""
        if self._step.like is not None:
            return _asked_and_answered(
                self._messages(row), _completion(self._render(self._step.completion, row))
            )
        if self._step.text is not None:
            return _plain(_text(self._render(self._step.text, row)))
        return self._ready(row)

    def _messages(self, row: Mapping[str, Any]) -> list[dict[str, str]]:
        return render_messages(self._parts, {"inputs": self._inputs(row), **self._upstream})

    def _render(self, template: str | None, row: Mapping[str, Any]) -> Any:
        return render_value(template, {"inputs": self._inputs(row), **self._upstream, "row": row})

    def _inputs(self, row: Mapping[str, Any]) -> dict[str, Any]:
        values = {name: row.get(name, given) for name, given in self._given.items()}
        return bind_inputs(self._chain, values, from_text=self._from_text)

    def _ready(self, row: Mapping[str, Any]) -> Example:
        """Pass a row through that is an example already; other columns are left out."""
        form = next((form for form in _READY if all(name in row for name in form)), None)
        if form is None:
            raise InputInvalid(
                "it has neither 'messages', nor 'prompt' with 'completion', nor 'text', "
                f"but {sorted(row)!r:.200}.",
                hint="Give the prepare step `like` with `completion`, or `text`.",
            )
        if self._form is None:
            self._form = form
        if form != self._form:
            raise InputInvalid(f"it is of the form {form}, and the rows before it are {self._form}.")
        if form == ("messages",):
            return _conversation(_checked_messages(row["messages"], "messages"))
        if form == ("text",):
            return _plain(_text(row["text"]))
        return _pair(row["prompt"], row["completion"])


_READY = (("messages",), ("prompt", "completion"), ("text",))


def normalised(text: str) -> str:
    """Return the text in Unicode NFC with single spaces; for comparing only, the example keeps its own."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _asked_and_answered(messages: list[dict[str, str]], completion: str) -> Example:
    answer = [{"role": "assistant", "content": completion}]
    return _example({"prompt": messages, "completion": answer}, messages, answer)


def _conversation(messages: list[dict[str, str]]) -> Example:
    if messages[-1]["role"] != "assistant":
        raise InputInvalid(
            "'messages' does not end with the assistant's answer, so there is nothing to learn."
        )
    return _example({"messages": messages}, messages[:-1], messages[-1:])


def _pair(prompt: Any, completion: Any) -> Example:
    if isinstance(prompt, str) and isinstance(completion, str):
        if not completion.strip():
            raise InputInvalid("'completion' is empty, so there is nothing to learn.")
        asked = [{"role": "", "content": prompt}]
        return _example(
            {"prompt": prompt, "completion": completion}, asked, [{"role": "", "content": completion}]
        )
    if isinstance(prompt, str) or isinstance(completion, str):
        raise InputInvalid("'prompt' and 'completion' must both be texts or both be lists of messages.")
    asked, answer = _checked_messages(prompt, "prompt"), _checked_messages(completion, "completion")
    if any(message["role"] != "assistant" for message in answer):
        raise InputInvalid("'completion' holds a message that is not the assistant's.")
    return _example({"prompt": asked, "completion": answer}, asked, answer)


def _plain(text: str) -> Example:
    return Example(_line({"text": text}), normalised(text), normalised(text))


def _example(
    content: Mapping[str, Any], asked: Sequence[Mapping[str, str]], answer: Iterable[Mapping[str, str]]
) -> Example:
    question = _comparable(asked)
    return Example(_line(content), f"{question}{_PART}{_PART}{_comparable(answer)}", question)


def _comparable(messages: Iterable[Mapping[str, str]]) -> str:
    return _PART.join(f"{message['role']}: {normalised(message['content'])}" for message in messages)


def _line(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError as error:
        raise InputInvalid("it holds half of a surrogate pair, which no text can.") from error


def _completion(value: Any) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise InputInvalid("its `completion` is empty, so there is nothing to learn.")
    return _text(value)


def _text(value: Any) -> str:
    """Return a rendered value as text: null is none, and what is no text is written as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)


def _checked_messages(value: Any, name: str) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise InputInvalid(f"{name!r} is no list of messages, but {value!r:.200}.")
    for message in value:
        fits = isinstance(message, dict) and message.keys() == {"role", "content"}
        if not fits or message["role"] not in _ROLES or not isinstance(message["content"], str):
            raise InputInvalid(
                f"{name!r} holds {message!r:.200}.",
                hint=f"A message is {{'role', 'content'}}, with a role of {sorted(_ROLES)} and a text.",
            )
    if value[-1]["role"] == "assistant" and not value[-1]["content"].strip():
        raise InputInvalid(f"{name!r} ends with an empty answer, so there is nothing to learn.")
    return value
