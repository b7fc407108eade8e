"""What every request passes first and every answer last, whatever route it is for.

It refuses requests that may not be (see ``trust``) and whoever is not let in (see ``gate``), keeps an encoded slash
within its piece of the path, and puts on each answer what tells browsers to do nothing with it.
"""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rota.web import trust
from rota.web.bodies import read_encoded
from rota.web.gate import Gate
from rota.web.monitoring import Monitoring
from rota.web.pages.site import Site
from rota.web.problems import Refusal, problem, problem_of

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
PATH_BYTES_MAX = 8192


class Doorkeeper:
    """ASGI around the application."""

    def __init__(self, app: ASGIApp, *, gate: Gate, monitoring: Monitoring) -> None:
        self._app = app
        self._gate = gate
        self._monitoring = monitoring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            else:  # no websockets here
                await send({"type": "websocket.close", "code": 1008})
            return
        has_begun = False
        began_at = time.monotonic()

        async def send_marked(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                self._monitoring.count(scope, message["status"], time.monotonic() - began_at)
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if self._gate.access.is_behind_tls:
                    message["headers"] = [_secured(*pair) for pair in message["headers"]]
            await send(message)

        refused = self._refuse(scope) or await self._keep_out(scope)
        if refused is not None:
            await refused(scope, receive, send_marked)
            return
        try:
            await self._app(scope, receive, send_marked)
        except Exception as error:  # what nobody foresaw is logged there
            answer = problem_of(error)
            if has_begun:
                raise
            await answer(scope, receive, send_marked)

    def _refuse(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not trust.is_ours(hosts[0], self._gate.access):
            return problem(421, "wrong-host", "this server is asked by another name than its own: use its address")
        if "content-length" in headers and "transfer-encoding" in headers:
            # A proxy that believes the other one of them has seen another request than this. RFC 9112, 6.1.
            answer = problem(400, "unreadable", "Content-Length and Transfer-Encoding contradict each other: send one")
            answer.headers["Connection"] = "close"
            return answer
        if trust.is_cross_site(scope["method"], headers):
            return problem(403, "cross-site", "a page of another site may not act here")
        try:
            scope["path"] = keep_slashes(scope)
        except Refusal as refusal:
            return problem_of(refusal)
        return None

    async def _keep_out(self, scope: Scope) -> Response | None:
        """Let in whoever may come in, and return what others are told."""
        request = Request(scope)
        try:
            request.state.visitor = await self._gate.admit(request)
        except Exception as error:  # noqa: BLE001 - what nobody foresaw is logged there
            site: Site = scope["app"].state.site
            return site.keep_out(request, problem_of(error))
        return None


def _secured(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """Return a header; a cookie as one that browsers send by TLS only."""
    return name, value + b"; Secure" if name.lower() == b"set-cookie" else value


def keep_slashes(scope: Any) -> str:
    """Return the path, decoded but for ``%2F`` and ``%25``, so that a name with a slash stays one piece of it.

    Raises:
        Refusal: it is too long, or no UTF-8.
    """
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    raw = raw.partition(b"?")[0]
    if len(raw) > PATH_BYTES_MAX:
        raise Refusal(400, "unreadable", f"the path is longer than {PATH_BYTES_MAX} bytes")
    return "/".join(read_encoded(piece).replace("%", "%25").replace("/", "%2F") for piece in raw.split(b"/"))
