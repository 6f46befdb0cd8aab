"""The fine-tuning API of an endpoint: which bytes make a file and a job, and what is there already.

Owns paths and forms (files, fine_tuning/jobs). Goes over the endpoint's own connections and not through the
SDK's client, so that what holds for prompts holds here: which hosts are called, that no redirect is followed
and that no key is told. Knows nothing of steps or of the store. Looking costs nothing, so it is repeated
until there is an answer; what costs something is sent by tasks.attempts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

import orjson

from chains.clock import Clock
from chains.errors import InvalidBody, Transient
from tasks.hosting.examples import Upload

if TYPE_CHECKING:
    from tasks.providers.http import Endpoint
    from tasks.providers.reply import Reply

MARK = "headrace"
"""The key of a job's metadata under which its value key stands."""
ENDED = frozenset({"succeeded", "failed", "cancelled"})
GONE = frozenset({"failed", "cancelled"})
PAGE = 100
FIRST_PAUSE_S, LAST_PAUSE_S = 0.5, 30.0
PATIENCE_S = 900.0
"""How long an endpoint may give no answer to who only looks."""


class JobsApi:
    """Files and jobs at one endpoint."""

    def __init__(self, endpoint: Endpoint, *, timeout: float, clock: Clock) -> None:
        self._endpoint = endpoint
        self._timeout = timeout
        self._clock = clock

    async def find_job(self, key: str) -> dict[str, Any] | None:
        """Return the job that was made for this key, the newest; none that failed or was cancelled."""
        query = {"limit": str(PAGE), f"metadata[{MARK}]": key}
        async for job in self._all("/fine_tuning/jobs", query):
            # A service that does not know the filter gives all of them.
            if (job.get("metadata") or {}).get(MARK) == key and job.get("status") not in GONE:
                return job
        return None

    async def find_file(self, upload: Upload) -> dict[str, Any] | None:
        """Return the file with this content, by its name and size."""
        async for file in self._all("/files", {"purpose": "fine-tune", "limit": str(PAGE)}):
            same = file.get("filename") == upload.name and file.get("bytes") == len(upload.content)
            if same and file.get("status") != "error":
                return file
        return None

    async def job(self, job_id: str) -> dict[str, Any]:
        """Return a job as it is now."""
        return await self._look(f"/fine_tuning/jobs/{job_id}", {})

    async def events(self, job_id: str) -> list[dict[str, Any]]:
        """Return the newest events of a job, the oldest of them first."""
        found = await self._look(f"/fine_tuning/jobs/{job_id}/events", {"limit": str(PAGE)})
        events = [event for event in found.get("data") or [] if isinstance(event, dict)]
        return sorted(events, key=lambda event: (event.get("created_at") or 0, str(event.get("id"))))

    async def cancel(self, job_id: str) -> None:
        """Ask for the end of a job."""
        path = f"/fine_tuning/jobs/{job_id}/cancel"
        reply = await self._endpoint.post(path, b"{}", timeout=self._timeout)
        if reply.failure is not None:
            raise reply.failure

    async def send_file(self, request: bytes, *, timeout: float) -> Reply:
        """Send what `file_request` made, once."""
        boundary = request[2 : request.index(b"\r\n")].decode()
        form = f"multipart/form-data; boundary={boundary}"
        return await self._endpoint.post("/files", request, timeout=timeout, form=form)

    async def send_job(self, request: bytes, *, timeout: float) -> Reply:
        """Send what `job_request` made, once."""
        return await self._endpoint.post("/fine_tuning/jobs", request, timeout=timeout)

    async def _all(self, path: str, query: Mapping[str, str]) -> AsyncIterator[dict[str, Any]]:
        """Yield everything of a list, page by page."""
        after: dict[str, str] = {}
        while True:
            page = await self._look(path, {**query, **after})
            items = [item for item in page.get("data") or [] if isinstance(item, dict)]
            for item in items:
                yield item
            if not page.get("has_more") or not items or after.get("after") == str(items[-1].get("id")):
                return
            after = {"after": str(items[-1].get("id"))}

    async def _look(self, path: str, query: Mapping[str, str]) -> dict[str, Any]:
        """Ask until there is an answer: nothing is paid for by looking."""
        since, pause = self._clock.monotonic(), FIRST_PAUSE_S
        while True:
            try:
                reply = await self._endpoint.get(path, query, timeout=self._timeout)
                return document_of(reply)
            except Transient as failure:
                if self._clock.monotonic() - since > PATIENCE_S:
                    raise
                wait = failure.retry_after
            await asyncio.sleep(min(wait if wait is not None else pause, PATIENCE_S))
            pause = min(2 * pause, LAST_PAUSE_S)


def document_of(reply: Reply) -> dict[str, Any]:
    """Return what an endpoint said; raise where it refused or said something else than an object."""
    if reply.failure is not None:
        raise reply.failure
    if not isinstance(reply.document, dict):
        raise InvalidBody("the endpoint's answer is JSON, but no object.")
    return reply.document


def made(reply: Reply) -> dict[str, Any]:
    """Return what a call has made; it must have an id, or nobody would find it again."""
    document = document_of(reply)
    if not isinstance(document.get("id"), str):
        raise InvalidBody(f"the endpoint's answer names no id: {str(document)[:200]!r}.")
    return document


def file_request(upload: Upload) -> bytes:
    """Return the form that sends a file; the same bytes for the same file."""
    boundary = f"headrace-{upload.sha256[:40]}"
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{upload.name}"\r\n'
        "Content-Type: application/jsonl\r\n\r\n"
    )
    return head.encode() + upload.content + f"\r\n--{boundary}--\r\n".encode()


def job_request(asked: Mapping[str, Any], files: Mapping[str, str], key: str) -> bytes:
    """Return the bytes that ask for a job: `asked` as the API has it, its files by id, and its mark."""
    named = {f"{'training' if part == 'train' else part}_file": file for part, file in files.items()}
    return orjson.dumps({**asked, **named, "metadata": {MARK: key}})


def events_as_history(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the losses that a job's events tell, by step."""
    found: dict[int, dict[str, Any]] = {}
    for event in events:
        data = event.get("data")
        if event.get("type") != "metrics" or not isinstance(data, dict):
            continue
        step = data.get("step")
        if isinstance(step, int):
            validation = data.get("full_valid_loss", data.get("valid_loss"))
            found[step] = {"step": step, "train_loss": data.get("train_loss"), "validation_loss": validation}
    return [found[step] for step in sorted(found)]
