"""The log-in and the log-out, and the way there for whoever is not let in.

Invariant: a session begins with a key that nobody knew before, whatever cookie the browser came with, and what that
cookie was the key of ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from rota.client import Rota
from rota.model.access import Access
from rota.model.accounts import SessionRules
from rota.model.actor import Door
from rota.store.log_ins import RULES, end_session, log_in
from rota.store.passwords import AT_ONCE_MAX
from rota.web.bodies import split_query
from rota.web.gate import SAME_SITE, SESSION_COOKIE, visitor_of
from rota.web.pages.forms import CSRF_COOKIE, check_csrf, go_to, is_ours, next_of, read_form
from rota.web.pages.oidc_log_in import BUSY, OidcLogIn
from rota.web.problems import RETRY_AFTER_SECONDS, Refusal, problem_of
from rota.web.threads import Threads

if TYPE_CHECKING:
    from rota.web.oidc import OpenIdProvider

STATUS_OF = {"too-many": 429}  # else 401
USER_LENGTH_MAX = 200  # of what was typed, shown again
TURN_SECONDS_MAX = 3.0  # for which a log-in waits while as many others are looked at as may be

Render = Callable[..., Response]


class LogIn:
    """The routes ``/login`` and ``/logout``."""

    def __init__(
        self,
        rota: Rota,
        access: Access,
        render: Render,
        threads: Threads,
        provider: OpenIdProvider | None = None,
        rules: SessionRules = RULES,
    ) -> None:
        self._rota = rota
        self._access = access
        self._render = render
        self._threads = threads
        # Each takes memory and a core for a while, and whoever has logged in is not to wait for those who try.
        self._turns = Threads(AT_ONCE_MAX)
        self._rules = rules
        self._provider = provider

    def add_to(self, app: FastAPI) -> None:
        """Add them."""
        app.add_api_route("/login", self._show, methods=["GET"], include_in_schema=False)
        app.add_api_route("/login", self._enter, methods=["POST"], include_in_schema=False)
        if self._provider is not None:
            OidcLogIn(self._rota, self._provider, self._form, self._rules).add_to(app)
        app.add_api_route("/logout", self._leave, methods=["POST"], include_in_schema=False)

    async def _show(self, request: Request) -> Response:
        if not self._access.demands_login:
            return go_to("/", "nobody has to log in here")
        try:
            return self._form(request, next_of(split_query(request.scope["query_string"])))
        except Refusal as refusal:
            return self._refuse(request, refusal)

    async def _enter(self, request: Request) -> Response:
        if not self._access.demands_login:
            return go_to("/", "nobody has to log in here")
        try:
            fields = await read_form(request.headers, request.stream())
            check_csrf(request, fields)
        except Refusal as refusal:
            return self._refuse(request, refusal)
        try:
            return await self._turns.run_soon(lambda: self._try(request, fields), TURN_SECONDS_MAX)
        except TimeoutError:
            typed = dict(reversed(fields)).get("user", "").strip()[:USER_LENGTH_MAX]
            more = {"Retry-After": str(RETRY_AFTER_SECONDS)}
            return self._form(request, next_of(fields), user=typed, problem=BUSY, status=503, more=more)

    def _try(self, request: Request, fields: list[tuple[str, str]]) -> Response:
        given = dict(reversed(fields))  # the first of each name
        address = visitor_of(request).address
        user, to = given.get("user", "").strip(), next_of(fields)
        try:
            key = log_in(
                self._rota.database,
                user,
                given.get("password", ""),
                address=address,
                user_agent=request.headers.get("user-agent"),
                door=Door.PAGE,
                rules=self._rules,
            )
            if not isinstance(key, str):
                status = STATUS_OF.get(key.code, 401)
                headers: dict[str, str] = {}
                if key.retry_after_seconds is not None:
                    headers["Retry-After"] = str(max(1, math.ceil(key.retry_after_seconds)))
                typed = user[:USER_LENGTH_MAX]
                return self._form(request, to, user=typed, problem=key.text, status=status, more=headers)
            if (before := request.cookies.get(SESSION_COOKIE)) is not None:
                end_session(self._rota.database, before, address=address)
        except Exception as error:  # noqa: BLE001 - what nobody foresaw is logged there
            return self._refuse(request, error)
        answer = go_to(to, f"you are logged in as {user}")
        answer.set_cookie(SESSION_COOKIE, key, path="/", httponly=True, samesite=SAME_SITE)
        answer.delete_cookie(CSRF_COOKIE, path="/", httponly=True, samesite="strict")  # the session has its own
        return answer

    async def _leave(self, request: Request) -> Response:
        try:
            fields = await read_form(request.headers, request.stream())
            check_csrf(request, fields)
        except Refusal as refusal:
            return self._refuse(request, refusal)
        if visitor_of(request).csrf is None:
            return go_to("/", "you have not logged in here, and cannot log out here")
        return await self._threads.run_writing(lambda: self._end(request))

    def _end(self, request: Request) -> Response:
        try:
            end_session(self._rota.database, request.cookies.get(SESSION_COOKIE), address=visitor_of(request).address)
        except Exception as error:  # noqa: BLE001 - as above; they are logged in still, and are told so
            return self._refuse(request, error)
        answer = go_to("/login", "you are logged out")
        forget_session(answer)
        return answer

    def _form(
        self,
        request: Request,
        to: str,
        *,
        user: str = "",
        problem: str = "",
        status: int = 200,
        more: dict[str, str] | None = None,
    ) -> Response:
        label = self._provider.provider.label if self._provider is not None else None
        context = {"next": to, "user": user, "problem": problem, "label": label}
        return self._render(request, "log_in.html", context, status, more)

    def _refuse(self, request: Request, error: Exception) -> Response:
        site: Any = request.app.state.site
        return site.refuse(request, problem_of(error))


def to_log_in(request: Request) -> Response:
    """Make the answer that sends a browser to the log-in, and from there back. What it has sent is not done."""
    query: bytes = request.scope["query_string"]
    to = quote(request.url.path, safe="/%") + ("?" + query.decode("latin-1") if query else "")
    was_logged_in = SESSION_COOKIE in request.cookies
    notice = "your log-in is over: log in again" if was_logged_in else ""
    if request.method not in {"GET", "HEAD"}:
        to = _page_of(request)
        notice = f"{notice or 'log in first'}; what you sent was not done"
    address = "/login" + (f"?next={quote(to, safe='')}" if is_ours(to) and to != "/" else "")
    answer = go_to(address, notice)
    if was_logged_in:
        forget_session(answer)
    return answer


def forget_session(answer: Response) -> None:
    """Have a browser forget its key."""
    answer.delete_cookie(SESSION_COOKIE, path="/", httponly=True, samesite=SAME_SITE)


def _page_of(request: Request) -> str:
    """Return the page on which a form was, if it was one of ours."""
    try:
        parts = urlsplit(request.headers.get("referer", ""))
    except ValueError:
        return "/"
    if parts.netloc.lower() != request.headers.get("host", "").lower():
        return "/"
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
