"""`headrace ui`: the inspector, in a browser of this machine."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from flows.cli.options import StoreOption
from flows.cli.read import reading


def ui(
    host: Annotated[str, typer.Option("--host", help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port to listen at; 0 takes a free one.")
    ] = 4270,
    read_only: Annotated[bool, typer.Option("--read-only", help="Only show; replay nothing.")] = False,
    store: StoreOption = None,
) -> None:
    """Look at runs in a browser: prompts, answers, attempts, reasons; and replay them."""
    from chains.settings import get_settings
    from flows.inspector.guard import is_loopback
    from flows.inspector.serving import serve

    if not is_loopback(host):
        print(
            f"Others in the network can reach {host}. Whoever has the token below sees every prompt and "
            "answer, can replay runs unless --read-only is given, and it goes over the network unencrypted.",
            file=sys.stderr,
        )
    with reading(store) as opened:
        serve(
            opened,
            host=host,
            port=port,
            ready=lambda address: print(address, flush=True),
            settings=None if read_only else get_settings(),
        )
