"""The inspector as an ASGI application: which address gives which page.

Owns the routes. Each page has a twin with `.json` at its end, made from the same view. Every request passes
the guard. Views run in threads, since the store's reads wait.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from chains.errors import HeadraceError
from flows.inspector.addresses import Place
from flows.inspector.diff_view import diff_view
from flows.inspector.guard import Guard
from flows.inspector.looking import Looking, NotThere
from flows.inspector.record_view import as_json, raw_text, record_view
from flows.inspector.rendering import page, script, style
from flows.inspector.replay_pages import PATH as REPLAY_PATH
from flows.inspector.replay_pages import replay_routes
from flows.inspector.run_view import run_view, step_view
from flows.inspector.runs_view import runs_view

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp

    from chains.store import RecordRow, RunRow
    from flows.inspector.replay_running import Replays

_MOST = 10**9
View = Callable[[Looking, "Request"], dict[str, Any]]


def make_app(
    looking: Looking, *, token: str, hosts: frozenset[str], port: int, replays: Replays | None = None
) -> ASGIApp:
    """Return the application: guarded pages over one store; without `replays` they only show."""
    pages: dict[str, tuple[str, View]] = {
        "/runs/{run}/steps/{step}/{row}": ("record.html", _record_page),
        "/runs/{run}/steps/{step}": ("step.html", _step_page),
        "/runs/{run}": ("run.html", _run_page),
        "/runs": ("runs.html", _runs_page),
        "/diff": ("diff.html", _diff_page),
    }
    routes = [
        Route("/", _shown(looking, "runs.html", _runs_page)),
        Route("/style.css", _style),
        Route("/htmx.js", _script),
        Route("/runs/{run}/steps/{step}/{row}/raw/{what}", _raw(looking)),
        *(replay_routes(looking, replays) if replays is not None else ()),
    ]
    for path, (template, view) in pages.items():
        # The twin first: an id never holds a dot.
        routes.append(Route(f"{path}.json", _twin(looking, view)))
        routes.append(Route(path, _shown(looking, template, view, can_replay=replays is not None)))
    return Guard(
        Starlette(routes=routes, exception_handlers={404: _nowhere}),
        hosts=hosts,
        token=token,
        port=port,
        forms=REPLAY_PATH if replays is not None else None,
    )


def _shown(
    looking: Looking, template: str, view: View, *, can_replay: bool = False
) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        def made() -> str:
            return page(template, view(looking, request), can_replay=can_replay)

        try:
            return HTMLResponse(await run_in_threadpool(made))
        except HeadraceError as error:
            status = 404 if isinstance(error, NotThere) else 500
            return HTMLResponse(page("error.html", {"message": str(error)}), status)

    return endpoint


def _twin(looking: Looking, view: View) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        try:
            body = await run_in_threadpool(lambda: as_json(view(looking, request)))
        except HeadraceError as error:
            status = 404 if isinstance(error, NotThere) else 500
            return Response(as_json({"error": str(error)}), status, media_type="application/json")
        return Response(body, media_type="application/json")

    return endpoint


async def _nowhere(request: Request, error: Exception) -> Response:
    return HTMLResponse(page("error.html", {"message": "There is no such page."}), 404)


async def _style(request: Request) -> Response:
    return Response(style(), media_type="text/css")


async def _script(request: Request) -> Response:
    return Response(script(), media_type="text/javascript")


def _raw(looking: Looking) -> Callable[[Request], Any]:
    """Give exact bytes as a file: a browser must not take what a model said for a page."""

    async def endpoint(request: Request) -> Response:
        def found() -> bytes | None:
            _, record = _asked_record(looking, request)
            return raw_text(looking, record, request.path_params["what"])

        try:
            body = await run_in_threadpool(found)
        except HeadraceError as error:
            status = 404 if isinstance(error, NotThere) else 500
            return HTMLResponse(page("error.html", {"message": str(error)}), status)
        if body is None:
            return HTMLResponse(page("error.html", {"message": "There are no such bytes."}), 404)
        name = "".join(char for char in request.path_params["what"] if char.isalnum() or char == "-")
        disposition = f'attachment; filename="{name}.txt"'
        return Response(
            body, media_type="application/octet-stream", headers={"Content-Disposition": disposition}
        )

    return endpoint


def _runs_page(looking: Looking, request: Request) -> dict[str, Any]:
    asked = request.query_params
    return runs_view(
        looking,
        chain=asked.get("chain", ""),
        status=asked.get("status", ""),
        text=asked.get("text", "")[:500],
        page=_number(asked.get("page"), 1),
    )


def _run_page(looking: Looking, request: Request) -> dict[str, Any]:
    return run_view(looking, looking.run(request.path_params["run"]))


def _step_page(looking: Looking, request: Request) -> dict[str, Any]:
    run = looking.run(request.path_params["run"])
    asked = request.query_params
    step = request.path_params["step"]
    return step_view(looking, run, step, status=asked.get("status", ""), page=_number(asked.get("page"), 1))


def _record_page(looking: Looking, request: Request) -> dict[str, Any]:
    run, record = _asked_record(looking, request)
    return record_view(looking, run, record, whole=request.query_params.get("whole") == "1")


def _diff_page(looking: Looking, request: Request) -> dict[str, Any]:
    asked = request.query_params
    names = [asked.get("before", ""), asked.get("after", "")]
    if not all(names):
        raise NotThere("Name two runs: /diff?before=RUN&after=RUN")
    before, after = (looking.run(name) for name in names)
    return diff_view(looking, before, after, step=asked.get("step", ""))


def _asked_record(looking: Looking, request: Request) -> tuple[RunRow, RecordRow]:
    run = looking.run(request.path_params["run"])
    row = request.path_params["row"]
    if row != "once" and not (row.isascii() and row.isdigit() and len(row) < 10):
        raise NotThere(f"{row!r:.40} is no row.")
    asked = request.query_params
    place = Place(
        asked.get("path", "")[:500],
        _number(asked.get("item"), -1),
        _number(asked.get("turn"), -1),
        max(0, _number(asked.get("sample"), 0)),
    )
    return run, looking.record(run, request.path_params["step"], -1 if row == "once" else int(row), place)


def _number(text: str | None, default: int) -> int:
    try:
        return max(-1, min(int(text), _MOST)) if text and len(text) < 12 else default
    except ValueError:
        return default
