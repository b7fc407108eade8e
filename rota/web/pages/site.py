"""The routes of pages: what every page and every form goes through.

A page is read, asked for in a thread, and rendered there; what goes wrong is a page too, with the sentence and the
status that programs get.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

import rota.web.pages as all_pages
from rota import __version__
from rota.client import Rota
from rota.errors import Invalid
from rota.model.access import THIS_MACHINE, Access
from rota.model.accounts import Identity
from rota.model.actor import Door
from rota.web.bodies import read_encoded, split_query
from rota.web.gate import identity_of, visitor_of
from rota.web.openapi import Describe, nothing_known
from rota.web.pages.asked import Asked, Looks
from rota.web.pages.forms import (
    back_of,
    check_csrf,
    csrf_of,
    drop_notice,
    go_to,
    is_ours,
    keep_csrf,
    notice_of,
    read_form,
)
from rota.web.pages.log_in import LogIn, to_log_in
from rota.web.pages.registry import ACTS, PAGES, Act, Page, Shown, navigation
from rota.web.pages.static import Static
from rota.web.pages.writing import make_templates
from rota.web.problems import Refusal, is_about, problem_of
from rota.web.threads import Threads

if TYPE_CHECKING:
    from rota.web.oidc import OpenIdProvider

ACTORS_MAX = 100
# Nothing from elsewhere, nothing within the page. A form of a page whose referrer policy is no-referrer is sent with
# `Origin: null`, as one from elsewhere would be: hence same-origin.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
NOT_PAGES = ("/api/", "/static/", "/metrics", "/healthz", "/readyz")

assert all_pages  # which registers them


class Site:
    """All pages over one database."""

    def __init__(
        self,
        rota: Rota,
        threads: Threads,
        describe: Describe = nothing_known,
        access: Access = THIS_MACHINE,
        provider: OpenIdProvider | None = None,
    ) -> None:
        self._rota = rota
        self._describe = describe
        self._threads = threads
        self._templates = make_templates()
        self._static = Static()
        self._log_in = LogIn(rota, access, self.render, threads, provider)
        self.looks = Looks()
        self._rota_of = functools.lru_cache(maxsize=ACTORS_MAX)(self._make_rota)

    def add_to(self, app: FastAPI) -> None:
        """Add the routes of all pages, forms and files."""
        for one in sorted(PAGES, key=lambda one: "{" in one.path):  # /runs/act is no run
            app.add_api_route(one.path, self._answer_page(one), methods=["GET"], include_in_schema=False)
        for one in ACTS:
            app.add_api_route(one.path, self._answer_act(one), methods=["POST"], include_in_schema=False)
        self._log_in.add_to(app)
        app.add_api_route("/static/{mark}/{name}", self._answer_static, methods=["GET"], include_in_schema=False)

    def wants_page(self, request: Request) -> bool:
        """Tell whether whoever asks is a browser that shows what it gets, at an address that could be a page's."""
        path = request.url.path
        return not path.startswith(NOT_PAGES) and "text/html" in request.headers.get("accept", "")

    def refuse(self, request: Request, problem: Response) -> Response:
        """Make the page that says what a problem says."""
        facts = json.loads(bytes(problem.body))
        context = {"problem": facts, "back": request.headers.get("referer", "")}
        headers = {name: value for name, value in problem.headers.items() if name in {"allow", "retry-after"}}
        return self.render(request, "problem.html", context, facts["status"], headers)

    def keep_out(self, request: Request, said: Response) -> Response:
        """Make the answer for whoever is not let in: to a browser that shows what it gets the way to the log-in."""
        # What a program of ours fetches for a page that is open is no place for a log-in, and its notice would be lost.
        is_shown = request.headers.get("sec-fetch-dest", "document") == "document"
        if not self.wants_page(request) or not is_shown:
            return said
        return to_log_in(request) if said.status_code == 401 else self.refuse(request, said)

    def _problem_of(self, request: Request, error: Exception) -> Response:
        pieces = [str(piece) for piece in request.path_params.values()]
        is_nowhere = isinstance(error, Invalid) and any(is_about(error, unquote(piece)) for piece in pieces)
        return problem_of(error, status=404 if is_nowhere else None)

    def _make_rota(self, identity: Identity, address: str | None) -> Rota:
        actor = identity.acting(Door.PAGE, address)
        return Rota.over(self._rota.database, actor=actor, default_zone=self._rota.default_zone)

    def _asked(self, request: Request, given: list[tuple[str, str]], live: int = 0) -> Asked:
        identity, address = identity_of(request), visitor_of(request).address
        pieces = {name: read_encoded(str(value)) for name, value in request.path_params.items()}
        rota = self._rota_of(identity, address)
        seconds = live if ("live", "1") in given else 0
        return Asked(rota, self.looks, identity, request.url.path, pieces, given, self._describe, seconds)

    def _answer_page(self, page: Page) -> Callable[[Request], Awaitable[Response]]:
        def show(request: Request) -> Response:
            try:
                found = page.view(self._asked(request, split_query(request.scope["query_string"]), page.live))
                if isinstance(found, Response):
                    return found
                return self.render(request, page.template, found | {"live": page.live})
            except Exception as error:  # noqa: BLE001 - what nobody foresaw is logged there
                return self.refuse(request, self._problem_of(request, error))

        async def answer(request: Request) -> Response:
            return await self._threads.run(lambda: show(request))

        return answer

    def _answer_act(self, act: Act) -> Callable[[Request], Awaitable[Response]]:
        def carry_out(request: Request, fields: list[tuple[str, str]]) -> Response:
            try:
                asked = self._asked(request, fields)
                done = act.deed(asked)
                if isinstance(done, Shown):
                    return self.render(request, done.template, done.context)
                return go_to(done.to if done.to is not None else back_of(fields, asked.path), done.notice)
            except Exception as error:  # noqa: BLE001 - as above
                return self.refuse(request, self._problem_of(request, error))

        async def answer(request: Request) -> Response:
            try:
                fields = await read_form(request.headers, request.stream())
                check_csrf(request, fields)
            except Refusal as refusal:
                return self.refuse(request, problem_of(refusal))
            return await self._threads.run_writing(lambda: carry_out(request, fields))

        return answer

    async def _answer_static(self, request: Request) -> Response:
        found = self._static.answer(request.path_params["mark"], request.path_params["name"])
        return found or problem_of(Refusal(404, "no-such-path", "there is no such file: load the page again"))

    def render(
        self,
        request: Request,
        template: str,
        context: dict[str, Any],
        status: int = 200,
        headers: dict[str, str] | None = None,
    ) -> Response:
        """Make a page of a template."""
        token = csrf_of(request)
        query: bytes = request.scope["query_string"]
        path = quote(request.url.path, safe="/%")
        # A part that renews itself is the same page: what is sent from there comes back to it.
        here = (path + ("?" + query.decode("latin-1") if query else "")).removesuffix("live=1").rstrip("?&")
        text = self._templates.get_template(template).render(
            context
            | {
                "csrf": token,
                "here": here if is_ours(here) else "/",
                "path": path,
                "navigation": navigation(visitor_of(request).identity),
                "notice": notice_of(request),
                "static": self._static.address,
                "version": __version__,
                "identity": visitor_of(request).identity,
                "has_session": visitor_of(request).csrf is not None,
            }
        )
        answer = Response(text.encode(errors="replace"), status, HEADERS | (headers or {}), "text/html; charset=utf-8")
        keep_csrf(request, answer, token)
        drop_notice(request, answer)
        return answer
