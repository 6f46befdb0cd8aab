"""Training rows turned into token ids, with only the model's own words as targets.

Owns the forms that a row may have (`messages`, `prompt`/`completion`, `text`), the loss mask and the checks
before training. Knows nothing of models. Invariant: every trained turn ends with a stop token, also a target.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chains.errors import InputInvalid, StepFailed

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

MASKED = -100
SHOWN_ROWS = 5


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of one row; `labels` repeat the ids that are trained and are -100 elsewhere.

    `positions` begin at 0 anew for each example that is packed into the row; None for a row of one.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    positions: np.ndarray | None = None


def read_rows(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line numbers (from 1) and rows of a JSONL file of training examples."""
    with Path(path).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputInvalid(f"{path}: line {number} is not JSON: {error}.") from error
            if not isinstance(row, dict):
                raise InputInvalid(f"{path}: line {number} is {row!r:.200}, not an object.")
            yield number, row


def texts_of(rows: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[str]:
    """Yield every text in the rows, for the training of a tokenizer."""
    for _, row in rows:
        for value in row.values():
            if isinstance(value, str):
                yield value
            elif isinstance(value, list):
                yield from (turn["content"] for turn in value if isinstance(turn, dict) and "content" in turn)


def load_examples(
    path: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    stop_ids: Sequence[int],
    max_length: int,
    chats_only: bool = False,
    completion: str = "completion",
) -> list[Example]:
    """Encode every row of a file. Rows that are too long fail all of it, before any training.

    `completion` is the key under which the rows have their answers: `chosen` and `rejected` in pairs.
    """
    encoder = _Encoder(tokenizer, stop_ids)
    examples: list[Example] = []
    longer: list[tuple[int, int]] = []
    for number, row in read_rows(path):
        try:
            if chats_only and not _is_chat(row):
                raise InputInvalid(
                    "finetune: instruction learns from chats, and this row is none",
                    hint="Give 'messages', or 'prompt' and 'completion' as lists of messages.",
                )
            example = encoder.encode(row if completion == "completion" else _answered(row, completion))
        except InputInvalid as error:
            raise InputInvalid(f"{path}: line {number}: {error.message}", hint=error.hint) from error
        if len(example.input_ids) > max_length:
            longer.append((number, len(example.input_ids)))
        examples.append(example)
    if longer:
        raise too_long(path, longer, count=len(examples), max_length=max_length)
    if not examples:
        raise InputInvalid(f"{path} holds no training examples.", hint="Check the step that wrote it.")
    return examples


def _answered(row: dict[str, Any], key: str) -> dict[str, Any]:
    """Return one side of a pair as an example."""
    if not {"prompt", "chosen", "rejected"} <= row.keys():
        raise InputInvalid(
            f"a pair needs 'prompt', 'chosen' and 'rejected'; this row has {sorted(row)!r:.200}"
        )
    return {"prompt": row["prompt"], "completion": row[key]}


def _is_chat(row: dict[str, Any]) -> bool:
    return isinstance(row.get("messages"), list) or isinstance(row.get("prompt"), list)


def too_long(path: str, rows: list[tuple[int, int]], *, count: int, max_length: int) -> InputInvalid:
    """Return the error that names the lines of a file with more tokens than an example may have."""
    shown = ", ".join(f"line {number} ({tokens} tokens)" for number, tokens in rows[:SHOWN_ROWS])
    more = f" and {len(rows) - SHOWN_ROWS} more" if len(rows) > SHOWN_ROWS else ""
    longest = max(tokens for _, tokens in rows)
    return InputInvalid(
        f"{path}: {len(rows)} of {count} examples are longer than max_length ({max_length} tokens): "
        f"{shown}{more}.",
        hint=f"Raise max_length to {longest}, or shorten these rows; nothing is cut off.",
    )


class _Encoder:
    """Encodes rows for one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int]) -> None:
        if tokenizer.eos_token_id is None:
            raise InputInvalid(
                "the base model's tokenizer has no end-of-text token, so it cannot learn to stop"
            )
        self.tokenizer = tokenizer
        self.stop_ids = frozenset(stop_ids) | {tokenizer.eos_token_id}

    def encode(self, row: dict[str, Any]) -> Example:
        """Turn one row into ids and labels, whichever form it has."""
        match row:
            case {"messages": list() as messages}:
                return self._chat(messages, trained_from=0)
            case {"prompt": list() as prompt, "completion": list() as completion}:
                return self._chat([*prompt, *completion], trained_from=len(prompt))
            case {"prompt": str() as prompt, "completion": str() as completion}:
                return self._join([(prompt, False), (completion, True)])
            case {"text": str(), "label": _} if "completion" not in row:
                raise InputInvalid(
                    "this row has a 'label', which a causal model does not read",
                    hint="Set `task: classification`, or write the label into the text.",
                )
            case {"text": str() as text}:
                return self._join([(text, True)])
        raise InputInvalid(
            "a training example needs 'messages', 'prompt' with 'completion', or 'text'; "
            f"this one has {sorted(row)!r:.200}"
        )

    def _chat(self, messages: list[dict[str, str]], *, trained_from: int) -> Example:
        pieces: list[tuple[str, bool]] = []
        done = ""
        for index, message in enumerate(messages):
            if message.get("role") != "assistant" or index < trained_from:
                continue
            before = self._render(messages[:index], add_generation_prompt=True)
            after = self._render(messages[: index + 1], add_generation_prompt=False)
            if not before.startswith(done) or not after.startswith(before):
                raise InputInvalid("the chat template writes earlier turns anew, so no loss mask fits it")
            pieces += [(before[len(done) :], False), (after[len(before) :], True)]
            done = after
        if not pieces:
            raise InputInvalid("no turn of the assistant is there to learn from")
        return self._join(pieces)

    def _render(self, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
        if self.tokenizer.chat_template is None:
            raise InputInvalid(
                "the base model has no chat template, but the examples are chats",
                hint="Use an instruct model, or rows with 'text' or with 'prompt' and 'completion' as texts.",
            )
        rendered = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return str(rendered)

    def _join(self, pieces: list[tuple[str, bool]]) -> Example:
        import numpy as np

        input_ids: list[int] = []
        labels: list[int] = []
        for text, trained in pieces:
            # The template has written all special tokens: adding them again would double the first one.
            ids = self.tokenizer.encode(text, add_special_tokens=False)
            kept = self._up_to_stop(ids) if trained else ids
            input_ids += kept
            labels += kept if trained else [MASKED] * len(kept)
            if trained and ids[len(kept) :]:
                input_ids += ids[len(kept) :]
                labels += [MASKED] * len(ids[len(kept) :])
        self._check(labels)
        return Example(np.asarray(input_ids, dtype=np.int32), np.asarray(labels, dtype=np.int32))

    def _up_to_stop(self, ids: list[int]) -> list[int]:
        """Cut after the last stop token, or add one: what follows a stop is never generated."""
        for position in range(len(ids) - 1, -1, -1):
            if ids[position] in self.stop_ids:
                return ids[: position + 1]
        return [*ids, self.tokenizer.eos_token_id]

    def _check(self, labels: list[int]) -> None:
        targets = [label for label in labels if label != MASKED]
        if not targets or targets[-1] not in self.stop_ids:
            raise StepFailed("The last target of an example is no stop token, so the model would never stop.")
