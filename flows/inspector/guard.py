"""Who may ask the inspector, and what an answer allows a browser to do.

Owns the checks before any page: the host that is addressed, where a request comes from, its method and the
token; and the headers of every answer. There is no path without them, and only the paths of `forms` take a
POST. Knows nothing of pages. Paths are read from the raw ASGI scope, which no `Host` can bend.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, quote, urlencode

from starlette.responses import PlainTextResponse, RedirectResponse, Response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
MAX_BODY: Final = 2_000_000
"""Bytes of a form."""
_SAFE: Final = frozenset({"GET", "HEAD"})
_FROM_HERE: Final = frozenset({"same-origin", "none"})
LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")


class Guard:
    """Lets requests through to the pages, or answers them itself."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: frozenset[str],
        token: str,
        port: int,
        forms: re.Pattern[str] | None = None,
    ) -> None:
        self._app = app
        self._hosts = hosts
        self._token = token
        self._forms = forms
        # Cookies do not know ports: two inspectors on one machine must not take each other's.
        self._cookie = f"headrace-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                named = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(
                        (name.lower().encode(), value.encode())
                        for name, value in HEADERS.items()
                        if name.lower().encode() not in named
                    ),
                ]
            await send(message)

        refusal = self._refusal(scope)
        answer = self._app if refusal is None else refusal
        await answer(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        """Return the answer to a request that does not reach a page."""
        headers = _headers(scope)
        hosts = headers.get("host", [])
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return _refused("This address is not one that the inspector answers at.")
        if not self._is_from_here(headers, scope["method"]):
            return _refused("Requests from other sites are not answered.")
        if scope["method"] in _SAFE:
            return self._without_token(scope, headers)
        if scope["method"] != "POST" or self._forms is None or not self._forms.fullmatch(scope["path"]):
            return PlainTextResponse("Nothing can be changed here.\n", 405, {"Allow": "GET, HEAD"})
        return self._form_refusal(headers)

    def _form_refusal(self, headers: Mapping[str, list[str]]) -> Response | None:
        """Return the answer to a form that is not let through: it may spend money."""
        bearer = [value.removeprefix("Bearer ") for value in headers.get("authorization", [])]
        if not any(self._is_token(given) for given in [*bearer, *self._cookies(headers)]):
            return _tokenless()
        # A browser says where a form comes from; what carries no cookie needs not say it.
        if not (headers.get("sec-fetch-site") or headers.get("origin") or bearer):
            return _refused("It is not said which site this form comes from.")
        lengths = headers.get("content-length", [])
        if len(lengths) != 1 or not lengths[0].isdigit():
            return PlainTextResponse("A form says how long it is.\n", 411)
        if int(lengths[0]) > MAX_BODY:
            return PlainTextResponse(f"A form has at most {MAX_BODY} bytes.\n", 413)
        return None

    def _is_from_here(self, headers: Mapping[str, list[str]], method: str) -> bool:
        origins = headers.get("origin", [])
        sites = headers.get("sec-fetch-site", [])
        if origins == ["null"] and sites == ["same-origin"] and method == "POST":
            return True  # a browser that was told to send no referrer hides the origin of a form, too
        if any(origin.partition("://")[2].lower() not in self._hosts for origin in origins):
            return False
        if all(site in _FROM_HERE for site in sites):
            return True
        # A link on another page may lead here; nothing else of another site may ask.
        return method in _SAFE and headers.get("sec-fetch-mode") == ["navigate"]

    def _without_token(self, scope: Scope, headers: Mapping[str, list[str]]) -> Response | None:
        bearer = [value.removeprefix("Bearer ") for value in headers.get("authorization", [])]
        if any(self._is_token(given) for given in [*bearer, *self._cookies(headers)]):
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for name, value in query if name == "token"]
        if len(given) != 1 or not self._is_token(given[0]):
            return _tokenless()
        rest = urlencode([(name, value) for name, value in query if name != "token"])
        # `//host` would lead elsewhere.
        place = "/" + quote(scope["path"].lstrip("/\\"), safe="/@:~.-_") + ("?" + rest if rest else "")
        answer = RedirectResponse(place, 303)
        answer.set_cookie(self._cookie, self._token, httponly=True, samesite="strict", path="/")
        return answer

    def _cookies(self, headers: Mapping[str, list[str]]) -> list[str]:
        found = []
        for header in headers.get("cookie", []):
            try:
                cookie = SimpleCookie(header).get(self._cookie)
            except CookieError:
                continue
            found += [cookie.value] if cookie is not None else []
        return found

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self._token.encode())


def allowed_hosts(host: str, port: int) -> frozenset[str]:
    """Return the values of `Host` that are answered: this machine's names, and the one that is served."""
    named = f"[{host}]" if ":" in host and not host.startswith("[") else host
    names = {*LOOPBACK, named.lower()} - {"0.0.0.0", "[::]"}
    return frozenset({f"{name}:{port}" for name in names} | (set(names) if port == 80 else set()))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    return host in ("localhost", "::1", "[::1]") or host.startswith("127.")


def _tokenless() -> Response:
    return PlainTextResponse(
        "The inspector wants the token of its start: open the address that `headrace ui` printed.\n", 401
    )


def _refused(reason: str) -> Response:
    return PlainTextResponse(f"{reason}\n", 403)


def _headers(scope: Scope) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found
