"""The page of all runs: filters, search, sums. Owns what a line says; knows nothing of HTML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from chains.clock import elapsed, iso
from flows.cli.read import live_status
from flows.costs import cost_of
from flows.forked import edits_of
from flows.inspector.addresses import Place, path_of
from flows.inspector.texts import SHORT, decoded, pretty

if TYPE_CHECKING:
    from chains.store import RecordRow, RunRow
    from flows.inspector.looking import Looking

PER_PAGE: Final = 50
STATUSES: Final = ("running", "ok", "failed", "waiting", "cancelled", "interrupted")


def runs_view(looking: Looking, *, chain: str, status: str, text: str, page: int) -> dict[str, Any]:
    """Return a page of runs, and with a `text` the records that hold its words."""
    store = looking.store
    status = status if status in STATUSES else ""
    found = looking.search.find(text) if text.strip() else None
    ids = found.runs if found is not None else None
    number = store.number_of_runs(chain=chain or None, status=status or None, ids=ids)
    pages = max(1, -(-number // PER_PAGE))
    page = min(max(1, page), pages)
    runs = store.page_of_runs(
        limit=PER_PAGE,
        offset=(page - 1) * PER_PAGE,
        chain=chain or None,
        status=status or None,
        ids=ids,
    )
    sums = looking.sums(runs)
    shown = {run.id for run in runs}
    hits = store.records_by_id(found.records) if found is not None else []
    place = {name: at for at, name in enumerate(found.records)} if found is not None else {}
    hits.sort(key=lambda record: place[record.id])
    lines = [run_line(run, sums.get(run.id, {})) for run in runs]
    return {
        "runs": lines,
        "chains": store.chains_of_runs(),
        "statuses": list(STATUSES),
        "filter": {"chain": chain, "status": status, "text": text},
        "number": number,
        "page": page,
        "pages": pages,
        "records": [_hit(record, text) for record in hits if record.run_id in shown],
        "runs_not_searched": found.runs_left if found is not None else 0,
        "refresh": any(line["status"] == "running" for line in lines),
    }


def run_line(run: RunRow, sums: Mapping[str, int]) -> dict[str, Any]:
    """Return what a list says of a run."""
    return {
        "id": run.id,
        "chain": run.chain,
        "status": live_status(run),
        "rows": run.rows,
        "started_at": iso(run.started_at),
        "seconds": elapsed(run.started_at, run.finished_at),
        "failed": sums.get("failed", 0) + sums.get("blocked", 0),
        "reused": sums.get("reused", 0),
        "attempts": sums.get("attempts", 0),
        "tokens_in": sums.get("tokens_in", 0),
        "tokens_out": sums.get("tokens_out", 0),
        "cost_micro": cost_of(sums),
        "forked_from": run.forked_from,
        "edited": edits_of(run),
    }


def _hit(record: RecordRow, text: str) -> dict[str, Any]:
    """Return where a word was found, with the words around it."""
    messages = decoded(record.messages) or []
    said = [str(message.get("content", "")) for message in messages]
    output = decoded(record.output)
    said.append(pretty(output.get("text", output) if isinstance(output, dict) else output or ""))
    return {
        "run": record.run_id,
        "step": record.step,
        "row": record.row if record.row >= 0 else None,
        "place": Place.of(record).words,
        "href": path_of(record),
        "excerpt": _around("\n".join(said), text.split()),
    }


def _around(text: str, words: list[str]) -> str:
    at = next((at for word in words if (at := text.lower().find(word.lower())) >= 0), 0)
    start = max(0, at - SHORT // 20)
    return ("…" if start else "") + text[start : start + SHORT // 8].replace("\n", " ")
