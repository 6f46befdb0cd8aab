"""Training examples: from a data set's row to the line of JSON that a finetune step reads.

Owns what makes an example usable, and the text by which two examples are the same; the forms and the ways
between them are tasks.preparing.forms'. Knows nothing of files, splits or the store. Values of a row are
variables of templates and never templates; the messages of `like` are rendered without `row`, as in a run.
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
from chains.spec import ExampleFormat, PrepareStep, runs_once
from chains.templates import references, render_value
from tasks.preparing.forms import (
    CONVERSATIONS,
    FIELDS,
    OPTIONAL,
    Message,
    form_of,
    messages_of_alpaca,
    messages_of_sharegpt,
    written,
)

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
        sources += step.fields.values()
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
        self._form: ExampleFormat | None = None

    def identity(self) -> dict[str, Any]:
        """Return all that decides an example besides the row, for the step's value key."""
        return {
            "messages": [list(part) for part in self._parts],
            "completion": self._step.completion,
            "text": self._step.text,
            "fields": self._step.fields,
            "written_as": self._step.format,
            "inputs": {name: spec.model_dump(mode="json") for name, spec in self._chain.inputs.items()},
            "given": self._given,
            "upstream": self._upstream,
            "from_text": self._from_text,
        }

    def convert(self, row: Mapping[str, Any]) -> Example:
        """Return the row's example; InputInvalid says what the row lacks."""
        if self._step.like is not None:
            completion = _completion(self._render(self._step.completion, row))
            return self._conversation(self._messages(row), [{"role": "assistant", "content": completion}])
        if self._step.text is not None:
            return self._ready({"text": _text(self._render(self._step.text, row))})
        if self._step.fields:
            return self._ready(
                {name: self._render(source, row) for name, source in self._step.fields.items()}
            )
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
        wanted = self._step.format
        found = wanted if wanted is not None and _has(row, wanted) else form_of(row)
        if found is None:
            raise InputInvalid(
                "it has neither 'messages', nor 'prompt' with 'completion', nor 'text', nor the fields of "
                f"another form, but {sorted(row)!r:.200}.",
                hint="Give the prepare step `like` with `completion`, or `fields`, or `text`.",
            )
        self._form = self._form or found
        if found != self._form:
            raise InputInvalid(f"it is of the form {found!r}, and the rows before it are {self._form!r}.")
        if wanted not in (None, found) and not {wanted, found} <= CONVERSATIONS:
            raise InputInvalid(f"it is of the form {found!r}, which cannot be written as {wanted!r}.")
        match found:
            case "text":
                return _plain(_text(row["text"]))
            case "classification" | "pairs":
                return _texts(found, row)
            case "preference":
                return _preference(row)
            case "prompt_completion":
                return self._pair(row["prompt"], row["completion"])
            case "alpaca":
                return self._turns(messages_of_alpaca(row), "the answer")
            case "sharegpt":
                return self._turns(messages_of_sharegpt(row), "'conversations'")
            case _:
                return self._turns(_checked_messages(row["messages"], "messages"), "'messages'")

    def _turns(self, messages: list[Message], name: str) -> Example:
        if messages[-1]["role"] != "assistant":
            raise InputInvalid(
                f"{name} does not end with the assistant's answer, so there is nothing to learn."
            )
        if not messages[-1]["content"].strip():
            raise InputInvalid(f"{name} is empty at its end, so there is nothing to learn.")
        form = self._step.format or "messages"
        return _example(written(form, messages[:-1], messages[-1:]), messages[:-1], messages[-1:])

    def _conversation(self, asked: list[Message], answer: list[Message]) -> Example:
        return _example(written(self._step.format or "prompt_completion", asked, answer), asked, answer)

    def _pair(self, prompt: Any, completion: Any) -> Example:
        if isinstance(prompt, str) and isinstance(completion, str):
            if not completion.strip():
                raise InputInvalid("'completion' is empty, so there is nothing to learn.")
            if self._step.format in (None, "prompt_completion"):
                texts = [[{"role": "", "content": text}] for text in (prompt, completion)]
                return _example({"prompt": prompt, "completion": completion}, *texts)
            answer = [{"role": "assistant", "content": completion}]
            return self._conversation([{"role": "user", "content": prompt}], answer)
        if isinstance(prompt, str) or isinstance(completion, str):
            raise InputInvalid("'prompt' and 'completion' must both be texts or both be lists of messages.")
        asked, said = _checked_messages(prompt, "prompt"), _checked_messages(completion, "completion")
        if any(message["role"] != "assistant" for message in said):
            raise InputInvalid("'completion' holds a message that is not the assistant's.")
        return self._conversation(asked, said)


def _has(row: Mapping[str, Any], form: ExampleFormat) -> bool:
    return all(name in row for name in FIELDS[form])


def normalised(text: str) -> str:
    """Return the text in Unicode NFC with single spaces; for comparing only, the example keeps its own."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _preference(row: Mapping[str, Any]) -> Example:
    """Return a question with a better and a worse answer."""
    values = [row["prompt"], row["chosen"], row["rejected"]]
    if not all(isinstance(value, str) for value in values):
        values = [_checked_messages(row[name], name) for name in ("prompt", "chosen", "rejected")]
    asked, chosen, rejected = (_comparable_value(value) for value in values)
    if not chosen or chosen == rejected:
        raise InputInvalid("'chosen' is empty or the same as 'rejected', so there is nothing to prefer.")
    content = dict(zip(("prompt", "chosen", "rejected"), values, strict=True))
    return Example(_line(content), _PART.join((asked, chosen, rejected)), asked)


def _texts(form: ExampleFormat, row: Mapping[str, Any]) -> Example:
    """Return a labelled text, or texts that belong together."""
    names = [*FIELDS[form], *(name for name in OPTIONAL.get(form, ()) if row.get(name) not in (None, ""))]
    content = {name: row[name] for name in names}
    for name in names:
        if name == "label" and isinstance(content[name], int):  # true and false too
            continue
        if not isinstance(content[name], str) or (name != "text" and not content[name].strip()):
            raise InputInvalid(f"{name!r} is no text to learn from, but {content[name]!r:.200}.")
    first = content[names[0]]
    whole = [normalised(str(value)) for value in content.values()] if first.strip() else []
    return Example(_line(content), _PART.join(whole), normalised(first))


def _comparable_value(value: Any) -> str:
    return normalised(value) if isinstance(value, str) else _comparable(value)


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
