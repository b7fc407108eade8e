"""The way to an OpenID provider and back, for a log-in.

Invariant: whoever comes back gets a session of Rota like any other, and goes on to a page of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from rota.client import Rota
from rota.model.accounts import SessionRules, Source
from rota.model.oidc import CALLBACK
from rota.store.log_ins import RULES, end_session, note_refused, open_session
from rota.web.bodies import split_query
from rota.web.gate import SAME_SITE, SESSION_COOKIE, visitor_of
from rota.web.pages.forms import CSRF_COOKIE, go_to, next_of
from rota.web.problems import RETRY_AFTER_SECONDS, problem_of
from rota.web.threads import Threads

if TYPE_CHECKING:
    from rota.web.oidc import OpenIdProvider

START = "/login/oidc"
COOKIE = "rota_oidc"
COOKIE_SECONDS = 600  # for which somebody may type their password there
AT_ONCE_MAX = 4  # that are sent there or come back: the provider may be slow, and others are not to wait for it
TURN_SECONDS_MAX = 3.0
BUSY = "more people log in at this moment than are looked at together: try again in a few seconds"


class OidcLogIn:
    """The routes below ``/login/oidc``. ``form`` makes the page of the log-in, with what is wrong."""

    def __init__(
        self, rota: Rota, provider: OpenIdProvider, form: Callable[..., Response], rules: SessionRules = RULES
    ) -> None:
        self._rota = rota
        self._provider = provider
        self._form = form
        self._rules = rules
        self._turns = Threads(AT_ONCE_MAX)

    def add_to(self, app: FastAPI) -> None:
        """Add them."""
        # A link, and no form: browsers would not let a form of ours end at another server.
        app.add_api_route(START, self._answer(self._begin), methods=["GET"], include_in_schema=False)
        app.add_api_route(CALLBACK, self._answer(self._finish), methods=["GET"], include_in_schema=False)

    def _answer(self, work: Callable[[Request], Response]) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            try:
                return await self._turns.run_soon(lambda: work(request), TURN_SECONDS_MAX)
            except TimeoutError:
                return self._say(request, BUSY, 503)

        return answer

    def _begin(self, request: Request) -> Response:
        from rota.web.oidc import NotLetIn

        try:
            to = next_of(split_query(request.scope["query_string"]))
            url, cookie = self._provider.begin(to)
        except NotLetIn as error:
            return self._say(request, error.text, error.status)
        except Exception as error:  # noqa: BLE001 - what nobody foresaw is logged there
            return self._refuse(request, error)
        answer = Response(None, 303, {"Location": url, "Cache-Control": "no-store"})
        answer.set_cookie(
            COOKIE, cookie, max_age=COOKIE_SECONDS, path=START, httponly=True, samesite=SAME_SITE
        )  # Lax: one comes back by a link of another site
        return answer

    def _finish(self, request: Request) -> Response:
        from rota.web.oidc import NotLetIn

        try:
            answer = self._let_in(request)
        except NotLetIn as error:
            answer = self._say(request, error.text, error.status)
        except Exception as error:  # noqa: BLE001 - as above
            answer = self._refuse(request, error)
        answer.delete_cookie(COOKIE, path=START, httponly=True, samesite=SAME_SITE)
        return answer

    def _let_in(self, request: Request) -> Response:
        from rota.web.oidc import NotLetIn

        given = dict(reversed(split_query(request.scope["query_string"])))
        address = visitor_of(request).address
        try:
            known = self._provider.finish(request.cookies.get(COOKIE, ""), given)
        except NotLetIn as error:
            if error.name is not None:
                note_refused(self._rota.database, error.name, "no role is for them", address=address)
            raise
        key = open_session(
            self._rota.database,
            known.name,
            role=known.role,
            source=Source.OIDC,
            address=address,
            user_agent=request.headers.get("user-agent"),
            rules=self._rules,
        )
        if not isinstance(key, str):
            raise NotLetIn(403, key.text)
        if (before := request.cookies.get(SESSION_COOKIE)) is not None:
            end_session(self._rota.database, before, address=address)
        # Without a notice: its cookie does not come along on a way that began at another site.
        answer = go_to(known.to, "")
        answer.set_cookie(SESSION_COOKIE, key, path="/", httponly=True, samesite=SAME_SITE)
        answer.delete_cookie(CSRF_COOKIE, path="/", httponly=True, samesite="strict")  # the session has its own
        return answer

    def _say(self, request: Request, text: str, status: int) -> Response:
        more = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status == 503 else {}
        return self._form(request, "/", problem=text, status=status, more=more)

    def _refuse(self, request: Request, error: Exception) -> Response:
        site: Any = request.app.state.site
        return site.refuse(request, problem_of(error))
