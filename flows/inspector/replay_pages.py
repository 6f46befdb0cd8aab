"""The addresses of the replay form: looking at it, and sending it to see or to start what it asks for.

Owns the reading of a sent form, which is text by name and nothing else. Who may send one is the guard's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from chains.errors import HeadraceError, InputInvalid
from flows.inspector.looking import NotThere
from flows.inspector.rendering import page
from flows.inspector.replay_view import asked_for, previewed, replay_view

if TYPE_CHECKING:
    from starlette.requests import Request

    from flows.inspector.looking import Looking
    from flows.inspector.replay_running import Replays

PATH: Final = re.compile(r"/runs/[^/]+/steps/[^/]+(?:/[0-9]{1,9}|/once)?/replay")
"""The raw paths that a form may be sent to."""
_MOST_FIELDS: Final = 500
_FORM: Final = "application/x-www-form-urlencoded"


def replay_routes(looking: Looking, replays: Replays) -> list[Route]:
    """Return the routes of the form, for a step and for one of its rows."""

    async def endpoint(request: Request) -> Response:
        try:
            sent = await _sent(request) if request.method == "POST" else None
            return await run_in_threadpool(lambda: _answer(looking, replays, request, sent))
        except HeadraceError as error:
            status = 404 if isinstance(error, NotThere) else 400 if isinstance(error, InputInvalid) else 500
            return HTMLResponse(page("error.html", {"message": str(error)}), status)

    methods = ["GET", "HEAD", "POST"]
    return [
        Route("/runs/{run}/steps/{step}/replay", endpoint, methods=methods),
        Route("/runs/{run}/steps/{step}/{row}/replay", endpoint, methods=methods),
    ]


def _answer(looking: Looking, replays: Replays, request: Request, sent: dict[str, str] | None) -> Response:
    run, row = looking.run(request.path_params["run"]), _row(request.path_params.get("row"))
    view = replay_view(looking, run, request.path_params["step"], row)
    if sent is None:
        return HTMLResponse(page("replay.html", view))
    shown = previewed(looking, view, sent, replays.settings)
    if sent.get("do") == "start" and shown["problem"] is None:
        try:
            if not shown["runs"]:
                raise InputInvalid("nothing is edited, so nothing would run.")
            asked = asked_for(view, sent)
            if asked.budget is None:
                raise InputInvalid("it is not said what the fork may spend.")
            return RedirectResponse(f"/runs/{replays.start(asked)}", 303)
        except HeadraceError as error:
            shown["problem"] = str(error)
    return HTMLResponse(page("replay.html", shown), 400 if shown["problem"] else 200)


async def _sent(request: Request) -> dict[str, str]:
    """Return the fields of a form; the guard has looked at its length."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise InputInvalid("this is not sent as a form.")
    body: Any = await request.body()
    try:
        fields = parse_qsl(
            body.decode("utf-8"), keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict"
        )
    except ValueError as error:
        raise InputInvalid("this is not the form that the page has.") from error
    return dict(fields)


def _row(text: str | None) -> int | None:
    if text is None or text == "once":
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise NotThere(f"{text!r:.40} is no row.")
    return int(text)
