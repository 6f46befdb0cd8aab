"""A classifier asked like a chat model: one text in, its label out, with the probability where it is wanted.

Owns what of a question a classifier reads and the form of its answer. Knows nothing of weights or batches.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from chains.errors import HeadraceError, InputInvalid

if TYPE_CHECKING:
    from tasks.classifiers import Classifier, Verdict
    from tasks.providers.batching import Job
    from tasks.providers.local import Asked
    from tasks.providers.reply import Reply

FIELDS = ("label", "score")
"""What an answer with an `output:` may have."""


def classifier_request(
    model: str, messages: Sequence[Mapping[str, str]], schema: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the request for one text; `fields` are those of the answer, none for the bare label.

    Raises InputInvalid for what a classifier cannot read or answer.
    """
    if [message["role"] for message in messages] != ["user"]:
        roles = ", ".join(message["role"] for message in messages)
        raise InputInvalid(
            f"A classifier reads one text, and this prompt has messages of {roles}.",
            hint="Give `prompt:` as one text; it is what the model was trained on, without instructions.",
        )
    return {"model": model, "messages": list(messages), "fields": _fields(schema)}


def _fields(schema: Mapping[str, Any] | None) -> list[str]:
    if schema is None:
        return []
    wanted = list(schema.get("properties", {}))
    if not wanted or not set(wanted) <= set(FIELDS):
        raise InputInvalid(
            f"A classifier answers {' and '.join(FIELDS)}, and `output:` asks for {wanted!r:.200}.",
            hint="Write `output: {label: string, score: number}`.",
        )
    return wanted


def classify_jobs(model: Classifier, jobs: Sequence[Job[Asked, Reply]]) -> None:
    """Answer the requests of a batch."""
    taken: list[tuple[Job[Asked, Reply], list[int]]] = []
    for job in jobs:
        try:
            taken.append((job, model.tokenize(job.asked.request["messages"][0]["content"])))
        except HeadraceError as error:
            job.fail(error)
    if not taken:
        return
    verdicts = model.classify([ids for _, ids in taken])
    for (job, ids), verdict in zip(taken, verdicts, strict=True):
        job.answer(_answer(job.asked.request, verdict, tokens=len(ids)))


def _answer(request: Mapping[str, Any], verdict: Verdict, *, tokens: int) -> Reply:
    from tasks.providers.reply import reply_of

    said = {"label": verdict.label, "score": verdict.score}
    text = json.dumps({name: said[name] for name in request["fields"]}, ensure_ascii=False)
    return reply_of(
        {
            "object": "chat.completion",
            "model": request["model"],
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text if request["fields"] else verdict.label},
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens},
        }
    )
