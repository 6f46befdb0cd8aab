"""One Prefect artifact per step: what was asked and answered for a single row, a table for many.

Owns how records look in the Prefect UI. Reads the store only.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from chains.spec import kind_of
from flows.costs import cost_of
from flows.inspector.addresses import record_path, run_path, step_path
from flows.listing import list_step, seconds_of
from flows.measured import estimates
from tasks.scopes import ONCE

if TYPE_CHECKING:
    from chains.store import RecordRow
    from flows.prepared import PreparedRun

_MARKUP = re.compile(r"[!#$&()*+/:<=>@\[\\\]^_`{|}~]|(?<=[wW])\.")
LONGEST_CELL = 300
LONGEST_BLOCK = 20_000
LISTED_ROWS = 10
LARGEST_PICTURE = 512 * 1024


async def leave_artifact(run: PreparedRun, step_id: str, status: str) -> None:
    """Create the step's artifact in the current flow run."""
    from prefect.artifacts import acreate_image_artifact, acreate_markdown_artifact

    key = f"{run.chain.chain}-{step_id}".replace("_", "-")
    description = f"{kind_of(run.chain.steps[step_id])} · {status} · run {run.run_id}"
    # A step of many rows takes a while to read; calls of other steps go on meanwhile.
    page = await asyncio.to_thread(step_markdown, run, step_id, status)
    await acreate_markdown_artifact(page, key=key, description=description)
    for name, url in (await asyncio.to_thread(step_pictures, run, step_id)).items():
        await acreate_image_artifact(url, key=f"{key}-{name}", description=description)


class RunProgress:
    """A progress bar in the Prefect UI for a run of many rows: the share of its units that have ended."""

    def __init__(self, run: PreparedRun) -> None:
        self._run = run
        self._units = sum(1 if step in run.once else len(run.shards) for step in run.graph.order)
        self._ended = 0
        self._artifact: UUID | None = None
        self._lock = asyncio.Lock()

    async def unit_ended(self, units: int = 1) -> None:
        """Move the bar; a single row is over too soon for one."""
        from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact

        if len(self._run.rows) == 1:
            return
        async with self._lock:
            self._ended += units
            percent = min(100.0 * self._ended / self._units, 100.0)
            if self._artifact is None:
                key = f"{self._run.chain.chain}-progress".replace("_", "-")
                self._artifact = await acreate_progress_artifact(
                    percent, key=key, description=self._run.run_id
                )
            else:
                await aupdate_progress_artifact(self._artifact, percent)


def step_markdown(run: PreparedRun, step_id: str, status: str) -> str:
    """Return a step's page: the whole record for one row, a table for many."""
    single = step_id in run.once or len(run.rows) == 1
    heading = f"## {step_id} · {status}\n"
    if single:
        number = ONCE if step_id in run.once else run.rows.first.number
        record = run.store.record(run.run_id, step_id, number)
        return heading + (_record_markdown(run, record) if record is not None else "No record.")
    return heading + _many_markdown(run, step_id)


def step_pictures(run: PreparedRun, step_id: str) -> dict[str, str]:
    """Return the pictures that a once step drew, each as an address that holds it whole."""
    record = run.store.record(run.run_id, step_id, ONCE) if step_id in run.once else None
    output = json.loads(record.output) if record is not None and record.output is not None else {}
    found = {}
    for name, sha256 in (output.get("files") or {}).items():
        if name.endswith(".svg"):
            picture = run.store.get_blob(sha256)
            if len(picture) <= LARGEST_PICTURE:
                url = "data:image/svg+xml;base64," + base64.b64encode(picture).decode()
                found[name.removesuffix(".svg")] = url
    return found


def _record_markdown(run: PreparedRun, record: RecordRow) -> str:
    parts = [_facts(record)]
    if record.error is not None:
        error = json.loads(record.error)
        lines = [f"{error['type']}: {error['message']} {error.get('hint') or ''}".rstrip()]
        parts.append(_fence("\n".join([*lines, *error.get("history", [])])))
    for message in json.loads(record.messages) if record.messages else []:
        parts.append(f"### {_cell(message['role'])}\n{_fence(message['content'])}")
    if record.output is not None:
        output = json.loads(record.output)
        parts.append(_metrics(output))
        parts.append(f"### response\n{_fence(output['text'])}" if "text" in output else "")
        parts.append(f"### output\n{_fence(json.dumps(output, ensure_ascii=False, indent=2), 'json')}")
    parts.append(f"`headrace show {run.run_id} --step {record.step}{_row_flag(record)}`")
    parts.append(_link(run, record_path(run.run_id, record.step, record.row)))
    return "\n\n".join(part for part in parts if part)


def _metrics(output: Mapping[str, Any]) -> str:
    """Return the measured values of an output with their intervals as a table; nothing where it has none."""
    lines = [
        {
            "metric": name,
            "value": f"{found['value']:.4g}",
            "95 % interval": f"{found['low']:.4g} to {found['high']:.4g}",
            "rows": found["n"],
        }
        for name, found in estimates(output)
    ]
    return "### metrics\n" + markdown_table(lines) if lines else ""


def _many_markdown(run: PreparedRun, step_id: str) -> str:
    listed = list_step(run, step_id, shown=LISTED_ROWS)
    counts = run.store.counts(run.run_id).get(step_id, {})
    cost = cost_of(counts)
    facts = {
        "rows": listed.rows,
        **{
            name: counts.get(name, 0) for name in ("ok", "failed", "blocked", "skipped", "reused", "attempts")
        },
        "tokens in": counts.get("tokens_in", 0),
        "tokens out": counts.get("tokens_out", 0),
        "cost": "unknown" if cost is None else f"${cost / 1e6:.4f}",
    }
    parts = [markdown_table([facts])]
    parts.append("### Slowest rows\n" + markdown_table([_row_facts(record) for record in listed.slowest]))
    if listed.failed:
        failed = [_row_facts(record) | {"error": _error(record)} for record in listed.failed]
        others = listed.failed_rows - len(listed.failed)
        parts.append("### Failed rows\n" + markdown_table(failed) + (f"\n\n{others} more." if others else ""))
    parts.append(f"`headrace show {run.run_id} --step {step_id} --row N`")
    parts.append(_link(run, step_path(run.run_id, step_id)))
    return "\n\n".join(part for part in parts if part)


def _link(run: PreparedRun, path: str) -> str:
    address = inspector_address(run, path)
    return f"[Open in the inspector]({address})" if address is not None else ""


def inspector_address(run: PreparedRun, path: str) -> str | None:
    """Return where people find a page of the inspector, or None where the machine does not say."""
    base = run.settings.ui_url
    return f"{base.rstrip('/')}{path}" if base is not None else None


async def leave_inspector_link(run: PreparedRun) -> None:
    """Link the flow run to the run's page, where the machine says where the inspector is."""
    from prefect.artifacts import acreate_link_artifact

    address = inspector_address(run, run_path(run.run_id))
    if address is not None:
        key = f"{run.chain.chain}-inspector".replace("_", "-")
        await acreate_link_artifact(address, link_text=run.run_id, key=key, description=run.run_id)


def _facts(record: RecordRow) -> str:
    facts: dict[str, Any] = {
        "status": record.status,
        "seconds": f"{seconds_of(record):.2f}",
        "attempts": record.attempts,
    }
    if record.tokens_in is not None or record.tokens_out is not None:
        facts |= {"tokens in": record.tokens_in, "tokens out": record.tokens_out}
    if record.reused_from:
        facts["reused from"] = record.reused_from
    return markdown_table([facts])


def _row_facts(record: RecordRow) -> dict[str, Any]:
    return {
        "row": record.row,
        "status": record.status,
        "seconds": f"{seconds_of(record):.2f}",
        "tokens": (record.tokens_in or 0) + (record.tokens_out or 0),
        "attempts": record.attempts,
    }


def _row_flag(record: RecordRow) -> str:
    return f" --row {record.row}" if record.row >= 0 else ""


def _error(record: RecordRow) -> str:
    return json.loads(record.error)["message"] if record.error is not None else ""


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a table of Markdown; the keys of the first row are the heads."""
    if not rows:
        return "None."
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(_cell(row.get(name)) for name in head) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    """Return one line of text in which nothing is markup: models and endpoints may have written it."""
    text = " ".join(("" if value is None else str(value))[:LONGEST_CELL].split())
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", text)


def _fence(text: str, language: str = "") -> str:
    """Return a code block that nothing inside can end."""
    cut = (
        text if len(text) <= LONGEST_BLOCK else text[:LONGEST_BLOCK] + f"\n… {len(text) - LONGEST_BLOCK} more"
    )
    fence = "```"
    while fence in cut:
        fence += "`"
    return f"{fence}{language}\n{cut}\n{fence}"
