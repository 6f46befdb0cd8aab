"""What a listener hears of a prompt step while its answers come.

Owns the order of what is told of one record: its text in parts, that it begins again, that it was said. Knows
nothing of who listens or of how parts arrive (tasks.providers).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.context import Heard, Progress, RowJob, StepContext

if TYPE_CHECKING:
    from tasks.providers import Provider, Reply


class Voice:
    """Tells one record's answer."""

    def __init__(self, ctx: StepContext, job: RowJob) -> None:
        self._ctx = ctx
        self._job = job
        self._told = False

    async def send(self, provider: Provider, request: bytes, *, timeout: float) -> Reply:
        """Send a request once and tell what comes; what was told of the record before does not count."""
        if self._told:
            self._report("again")
            self._told = False
        return await provider.stream_chat(request, timeout=timeout, on_text=self._text)

    def said(self, output: Any) -> None:
        """Tell that the answer is there; all of it where nothing was told, as of one that is used again."""
        if not self._told and isinstance(output, dict) and output.get("text"):
            self._text(str(output["text"]))
        self._report("said")

    def failed(self) -> None:
        """Tell that no answer comes."""
        if self._told:
            self._report("failed")

    def _text(self, text: str) -> None:
        self._told = True
        self._report("text", text)

    def _report(self, event: Heard, text: str = "") -> None:
        job = self._job
        self._ctx.report(Progress(self._ctx.step_id, event, row=job.row, text=text, record=job.record_id))
