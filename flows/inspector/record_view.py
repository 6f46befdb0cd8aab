"""The page of one record: what the template says, what it was given, what was asked and what was answered.

Owns what the page says and which variable leads to which record; knows nothing of HTML. Texts are cut at
flows.inspector.texts' limits, unless all of them are asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from chains.clock import elapsed, iso
from chains.diff import why
from chains.errors import HeadraceError
from chains.spec import PromptStep, kind_of
from flows.inspector.addresses import Place, path_of
from flows.inspector.cause_view import cause_view
from flows.inspector.copying import copies
from flows.inspector.detail_view import detail_view
from flows.inspector.marking import marked
from flows.inspector.runs_view import run_line
from flows.inspector.sources import source_of
from flows.inspector.texts import LONGEST, MOST, SHORT, as_text, cut, cut_stretches, decoded, pretty
from flows.inspector.waterfall import attempt_bars, waterfall
from flows.inspector.within_view import within_view

if TYPE_CHECKING:
    from chains.diff import RecordedRun
    from chains.store import AttemptRow, RecordRow, RunRow
    from flows.inspector.looking import Looking

_ALL = 1 << 30


def record_view(looking: Looking, run: RunRow, record: RecordRow, *, whole: bool = False) -> dict[str, Any]:
    """Return the page of a record; `whole` leaves nothing out."""
    store = looking.store
    recorded = looking.chain(run)
    attempts = store.attempts(record.id)
    before, after = store.neighbours(record)
    variables = decoded(record.inputs) or {}
    output = decoded(record.output)
    limit = _ALL if whole else LONGEST
    return {
        "run": run_line(run, {}),
        "record": {
            "id": record.id,
            "step": record.step,
            "row": record.row if record.row >= 0 else None,
            "item": record.item,
            "turn": record.turn,
            "sample": record.sample,
            "path": record.path,
            "place": Place.of(record).words,
            "query": Place.of(record).query,
            "status": record.status,
            "seconds": elapsed(record.started_at, record.finished_at),
            "started_at": iso(record.started_at),
            "tokens_in": record.tokens_in,
            "tokens_out": record.tokens_out,
            "cost_micro": record.cost_micro,
            "reused_from": record.reused_from,
        },
        "neighbours": {"before": before, "after": after},
        "template": _template(recorded, record),
        "variables": _variables(recorded, record, variables, SHORT if not whole else _ALL),
        "sources": {
            name: source for name in variables if (source := source_of(recorded, record, name)) is not None
        },
        "messages": _messages(recorded, record, variables, limit),
        # What was found stands as passages, and not once more as JSON.
        "response": _response(output, limit) if not _passages(output, 1) else None,
        "fields": _fields(output, SHORT if not whole else _ALL),
        "passages": _passages(output, SHORT if not whole else _ALL),
        "error": decoded(record.error),
        "within": within_view(store, record),
        "samples": [] if record.sample else _samples(store.samples(record)),
        "attempts": [
            _attempt(attempt, SHORT * 2 if not whole else _ALL) for attempt in attempts[: _most(whole)]
        ],
        **detail_view(looking, run, record, _kind(recorded, record)),
        "attempts_left_out": max(0, len(attempts) - _most(whole)),
        "why": _why(looking, recorded, record),
        "copies": copies(recorded, record, attempts, limit),
        "waterfall": _waterfall(looking, run, record),
        "whole": whole,
        "refresh": record.status == "running",
    }


def _kind(recorded: RecordedRun | None, record: RecordRow) -> str:
    found = recorded.every.get(record.step) if recorded is not None else None
    return kind_of(found[0]) if found is not None else ""


def _most(whole: bool) -> int:
    return _ALL if whole else MOST


def _template(recorded: RecordedRun | None, record: RecordRow) -> list[dict[str, str]] | None:
    """Return the parts of the template: of a prompt by role, else one part."""
    if recorded is None or record.step not in recorded.parts:
        return None
    template = recorded.parts[record.step].get("template")
    if template is None:
        return None
    if isinstance(recorded.every[record.step][0], PromptStep):
        return [{"role": role, "text": cut(text).text} for role, text in template]
    return [{"role": "", "text": cut(pretty(template)).text}]


def _variables(
    recorded: RecordedRun | None, record: RecordRow, variables: dict[str, Any], limit: int
) -> list[dict[str, Any]]:
    found = []
    for name, value in list(variables.items())[:MOST]:
        text = cut(pretty(value), limit)
        found.append(
            {
                "name": name,
                "value": text.text,
                "left_out": text.left_out,
                "from": source_of(recorded, record, name),
            }
        )
    return found


def _messages(
    recorded: RecordedRun | None, record: RecordRow, variables: dict[str, Any], limit: int
) -> list[dict[str, Any]]:
    """Return what was sent, with each variable's text marked; a repeated question has no template."""
    messages = decoded(record.messages) or []
    template = (recorded.parts.get(record.step, {}).get("template") or []) if recorded is not None else []
    found = []
    for place, message in enumerate(messages[:MOST]):
        content = str(message.get("content") or "")
        source = (
            template[place][1] if place < len(template) and message["role"] == template[place][0] else None
        )
        stretches, left_out = cut_stretches(marked(source or content, content, variables), limit)
        found.append(
            {
                "role": message.get("role"),
                "left_out": left_out,
                "stretches": [{"text": part.text, "variable": part.variable} for part in stretches],
            }
        )
    return found


def _response(output: Any, limit: int) -> dict[str, Any] | None:
    if output is None:
        return None
    text = output.get("text") if isinstance(output, dict) else None
    kept = cut(text if isinstance(text, str) else pretty(output), limit)
    reason = output.get("finish_reason") if isinstance(output, dict) else None
    return {"text": kept.text, "left_out": kept.left_out, "finish_reason": reason}


def _fields(output: Any, limit: int) -> dict[str, str]:
    """Return the fields of a structured answer; any other output is shown whole."""
    if not isinstance(output, dict) or "text" not in output:
        return {}
    kept = {
        name: value
        for name, value in output.items()
        if name not in ("text", "output", "finish_reason", "hits")
    }
    return {name: cut(pretty(value), limit).text for name, value in list(kept.items())[:MOST]}


def _samples(records: Sequence[RecordRow]) -> list[dict[str, Any]]:
    return [
        {
            "sample": sample.sample,
            "status": sample.status,
            "seconds": elapsed(sample.started_at, sample.finished_at),
            "tokens_in": sample.tokens_in,
            "tokens_out": sample.tokens_out,
            "said": _said(sample),
        }
        for sample in records
    ]


def _said(sample: RecordRow) -> str:
    if sample.error is not None:
        return cut(str((decoded(sample.error) or {}).get("message")), SHORT).text
    found = _response(decoded(sample.output), SHORT)
    return str(found["text"]) if found is not None else ""


def _passages(output: Any, limit: int) -> list[dict[str, Any]]:
    hits = output.get("hits") if isinstance(output, dict) else None
    if not isinstance(hits, list):
        return []
    return [
        {
            "rank": hit.get("rank"),
            "score": round(score, 4) if isinstance(score := hit.get("score"), float) else score,
            "source": hit.get("source"),
            "heading": hit.get("heading"),
            "text": cut(str(hit.get("text") or ""), limit).text,
        }
        for hit in hits[:MOST]
        if isinstance(hit, dict)
    ]


def _attempt(attempt: AttemptRow, limit: int) -> dict[str, Any]:
    request, response = cut(as_text(attempt.request), limit), cut(as_text(attempt.response), limit)
    return {
        "number": attempt.number,
        "state": attempt.state,
        "status": attempt.status,
        "error_type": attempt.error_type,
        "error": attempt.error_message,
        "waited": attempt.wait_s,
        "seconds": elapsed(attempt.started_at, attempt.finished_at),
        "tokens_in": attempt.tokens_in,
        "tokens_out": attempt.tokens_out,
        "cost_micro": attempt.cost_micro,
        "model": attempt.model,
        "request_id": attempt.request_id,
        "request": request.text,
        "request_left_out": request.left_out,
        "response": response.text,
        "response_left_out": response.left_out,
    }


def _why(looking: Looking, recorded: RecordedRun | None, record: RecordRow) -> dict[str, Any] | None:
    if recorded is None:
        return None
    restored: Callable[[RunRow], RecordedRun | None] = looking.chain
    try:
        found = why(looking.store, recorded, record, restored=restored)
    except HeadraceError as error:  # a blob of an earlier run is damaged or gone
        return {"verdict": "", "reason": str(error), "key": record.value_key, "changed": [], "source": None}
    compared = found.compared
    source = looking.store.record_by_id(found.reused_record) if found.reused_record else None
    return {
        "verdict": found.verdict,
        "reason": found.reason,
        "key": found.key,
        "changed": [cause_view(cause) for cause in (compared.changed if compared is not None else ())],
        "since": compared.run if compared is not None else None,
        "source": path_of(source) if source is not None else None,
    }


def _waterfall(looking: Looking, run: RunRow, record: RecordRow) -> str | None:
    records = [
        found
        for found in looking.store.records_of_row(run.id, record.row)
        if found.attempts or found.id == record.id
    ]
    attempts = [attempt for found in records for attempt in looking.store.attempts(found.id, payloads=False)]
    return waterfall(attempt_bars(records, attempts))


def raw_text(looking: Looking, record: RecordRow, what: str) -> bytes | None:
    """Return the exact bytes of `request-N`, `response-N` or a payload of the record, if there are any."""
    if what in ("inputs", "messages", "output", "error"):
        found: bytes | None = getattr(record, what)
        return found
    side, _, number = what.partition("-")
    if side in ("request", "response") and number.isdigit():
        for attempt in looking.store.attempts(record.id):
            if attempt.number == int(number):
                return attempt.request if side == "request" else attempt.response
    return None


_DRAWN = frozenset({"picture", "pictures", "waterfall", "refresh"})


def _without_pictures(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_pictures(item) for name, item in value.items() if name not in _DRAWN}
    return [_without_pictures(item) for item in value] if isinstance(value, list) else value


def as_json(value: dict[str, Any]) -> bytes:
    """Return a view as JSON, without its pictures."""
    return json.dumps(_without_pictures(value), ensure_ascii=False, indent=1, default=str).encode(
        "utf-8", "surrogatepass"
    )
