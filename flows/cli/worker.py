"""`headrace worker`: does parts of runs for a pool, in one process that keeps its models loaded."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer


def worker(
    pool: Annotated[str, typer.Option("--pool", metavar="NAME", help="The work pool to serve.")] = "gpu",
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="How it is called. Default: host and process."),
    ] = None,
    keep: Annotated[int, typer.Option("--keep", min=0, help="Models that stay loaded between parts.")] = 2,
) -> None:
    """Do the parts of runs that are sent to a work pool, one at a time, until Ctrl-C."""
    import asyncio
    import signal
    import socket

    from flows.cli.deploy import api_there
    from flows.cli.text import safe
    from tasks.providers.resident import keep as keep_loaded

    api_there()

    def say(text: str) -> None:
        # Not `print`: inside a flow run Prefect takes that for its logs.
        sys.stderr.write(f"{safe(text)}\n")
        sys.stderr.flush()

    keep_loaded(keep, say)

    from flows.part_worker import serve_parts

    async def serve() -> None:
        here = asyncio.current_task()
        assert here is not None  # this is one
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, here.cancel)
        try:
            await serve_parts(pool, name or f"{socket.gethostname()}-{os.getpid()}", say=say)
        except asyncio.CancelledError:
            say("Stopped.")
            # Not by returning: a part may be at work in its thread. Its run knows, and sends it again.
            os._exit(130)

    asyncio.run(serve())
