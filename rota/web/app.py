"""The application: a route for each way to a verb, and around all of them what refuses requests that may not be.

Invariant: no rule about jobs and runs lives here. A route reads its request, asks the verb, and writes what it answers
or how it refuses. What blocks, which is whatever asks the database, runs in as many threads as there are connections.
"""

from __future__ import annotations

import functools
import hmac
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from rota import __version__
from rota.client import Rota
from rota.client.rota import CONNECTIONS_MAX
from rota.errors import DatabaseUnavailable, Invalid
from rota.model.access import THIS_MACHINE, Access
from rota.model.accounts import Identity
from rota.verbs.table import VERBS
from rota.web.bodies import read_encoded, read_object, read_query
from rota.web.doorkeeper import Doorkeeper
from rota.web.events import Feed
from rota.web.gate import Gate, identity_of, visitor_of
from rota.web.looks import add_looks
from rota.web.monitoring import Monitoring
from rota.web.openapi import Describe, Say, describe_route, nothing_known, nothing_said, show_openapi
from rota.web.pages.site import Site
from rota.web.paging import LIMIT_DEFAULT, LIMIT_MAX, WITHIN_DEFAULT, WITHIN_MAX, read_key, show_page
from rota.web.problems import Refusal, is_about, problem, problem_of, write_json
from rota.web.resources import Resource, derive_resources
from rota.web.threads import Threads

if TYPE_CHECKING:
    from rota.web.oidc import OpenIdProvider

CSRF_HEADER = "X-CSRF-Token"
ACTORS_MAX = 100  # for whom it is remembered what they were warned of

Answer = Callable[[Request], Awaitable[Response]]


def make_app(
    rota: Rota,
    *,
    access: Access = THIS_MACHINE,
    describe: Describe = nothing_known,
    say: Say = nothing_said,
    threads: int = CONNECTIONS_MAX,
    provider: OpenIdProvider | None = None,
) -> FastAPI:
    """Make the application that serves ``rota``.

    ``access`` says who is let in, and by which names it is asked for; ``provider`` says who somebody is. For OpenAPI,
    ``describe`` tells the schemas of a verb's parameters, and ``say`` what it does. The connections of ``rota`` are
    given back when it ends.
    """
    in_threads = Threads(threads)
    feed = Feed(rota, in_threads.run)
    monitoring = Monitoring(rota)
    monitoring.viewers.set_function(lambda: feed.count)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            feed.end()
            rota.close()

    app = FastAPI(
        title="Rota",
        version=__version__,
        summary="Highly available cron and long-running tasks",
        openapi_url="/api/openapi.json",
        docs_url=None,  # both would load programs from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        exception_handlers={
            Refusal: _refused,
            HTTPException: _refused_by_router,
            DatabaseUnavailable: _refused_before_its_turn,
        },
    )
    for resource in derive_resources(VERBS.values()):
        answer = answer_with(resource, rota, in_threads)
        app.add_api_route(resource.path, answer, methods=[resource.method], **describe_route(resource, describe, say))
    add_looks(app, rota, in_threads, feed, monitoring)
    site = Site(rota, in_threads, describe, access, provider)
    site.add_to(app)
    app.state.site = site
    app.state.access = access
    app.state.feed = feed
    app.openapi = functools.partial(show_openapi, app)
    app.add_middleware(Doorkeeper, gate=Gate(rota, access, in_threads), monitoring=monitoring)
    return app


def answer_with(resource: Resource, rota: Rota, threads: Threads) -> Answer:
    """Return what answers requests for one resource."""
    verb = resource.verb

    @functools.lru_cache(maxsize=ACTORS_MAX)
    def rota_of(identity: Identity, address: str | None) -> Rota:
        return Rota.over(rota.database, actor=identity.acting("http", address), default_zone=rota.default_zone)

    async def answer(request: Request) -> Response:
        identity = identity_of(request)
        if not identity.may(verb):
            rule = f"{verb.name} wants the role {verb.role}; {identity.name} is {identity.role}"
            if identity.role.covers(verb.role):
                rule = f"{verb.name} is not in the scopes of the token {identity.via}"
            raise Refusal(403, "forbidden", rule)
        if verb.acts:
            check_csrf_header(request)
        given = await read_parameters(resource, request)
        target = read_target(resource, request, given)
        filters, asked = read_page(resource, given)
        address = visitor_of(request).address

        def ask() -> Response:
            view = verb.run(rota_of(identity, address), target, asked)
            if filters is not None:
                view = show_page(verb.name, filters, view)
            return write_answer(resource, target, view)

        or_refused = functools.partial(_or_refused, ask, target if resource.names_target is None else None)
        return await (threads.run_writing(or_refused) if verb.acts else threads.run(or_refused))

    return answer


def check_csrf_header(request: Request) -> None:
    """Check that what acts by the cookie of a session comes from a page of ours. A token is no browser's to send.

    Raises:
        Refusal: it does not.
    """
    csrf = visitor_of(request).csrf
    if csrf is not None and not hmac.compare_digest(csrf.encode(), request.headers.get(CSRF_HEADER, "").encode()):
        detail = f"what acts by a log-in names its secret in {CSRF_HEADER}, as our pages do: programs show a token"
        raise Refusal(403, "no-csrf-token", detail, field=CSRF_HEADER)


async def read_parameters(resource: Resource, request: Request) -> dict[str, Any]:
    """Read the parameters: of what looks in the query string, of what acts in the body."""
    query: bytes = request.scope["query_string"]
    if resource.method == "GET":
        return read_query(resource.verb, query)
    if query:
        raise Refusal(400, "unreadable", "what acts takes its parameters in the body: leave the query string out")
    word = request.headers.get("idempotency-key")
    if word is not None and "request" not in resource.verb.parameters:
        detail = f"Idempotency-Key is known for job.run only; {resource.verb.name} would be done again: leave it out"
        raise Refusal(400, "no-idempotency-key", detail, field="Idempotency-Key")
    given = await read_object(request.headers, request.stream())
    if word is not None and given.setdefault("request", word) != word:
        raise Refusal(400, "unreadable", "Idempotency-Key and request say different things", field="request")
    return given


def read_target(resource: Resource, request: Request, given: dict[str, Any]) -> str | None:
    """Return what the request is about: from the path, or taken out of the body."""
    verb = resource.verb
    if verb.target is None:
        return None
    if resource.names_target is None:
        return read_encoded(str(request.path_params[verb.target]))
    target = given.pop(resource.names_target, None)
    if not isinstance(target, str):
        rule = f"name it in the body, as text: {verb.name} is about it"
        raise Refusal(422, "invalid", f"{resource.names_target} is not given: {rule}", field=resource.names_target)
    return target


def read_page(resource: Resource, given: dict[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Return the filters of a list, and what to ask its verb for; of another verb None, and what was given."""
    verb = resource.verb
    if not resource.lists:
        return None, given
    filters = {name: value for name, value in given.items() if name not in {"limit", "after"}}
    place = "after" if "after" in verb.parameters else "before"
    if "before" in given:
        raise Refusal(422, "invalid", "before is not known here: give `next` of a page as after", field="before")
    asked: dict[str, Any] = {"limit": LIMIT_DEFAULT, **given} if "limit" in verb.parameters else dict(given)
    if "within" in verb.parameters:
        asked.setdefault("within", WITHIN_DEFAULT)
    for name, most in (("limit", LIMIT_MAX), ("within", WITHIN_MAX)):
        if isinstance(number := asked.get(name), int) and not 1 <= number <= most:
            raise Refusal(422, "invalid", f"{name} {number} is refused: 1 to {most}", field=name, value=number)
    if "after" in given:
        asked[place] = read_key(verb.name, filters, asked.pop("after"))
    return filters, asked


def write_answer(resource: Resource, target: str | None, view: Any) -> Response:
    """Write what a verb answers: 201 and where it is found, when it has made something."""
    headers = {"Cache-Control": "no-store"}
    status = 200
    if resource.makes is not None and (made := name_of(view, target)) is not None:
        status = 201
        headers["Location"] = f"{resource.makes}/{quote(made, safe='')}"
    return Response(write_json(view), status, headers, "application/json")


def name_of(view: Any, target: str | None) -> str | None:
    """Return by what an answer is found again: an id, that of the first of a group, or the name it was made by."""
    match view:
        case {"id": int(number)}:
            return str(number)
        case {"group": str(), "runs": [{"id": int(number)}, *_]}:
            return str(number)
        case {"name": str(name)} | {"key": str(name)} if name == target:
            return name
        case _:
            return None


def _or_refused(ask: Callable[[], Response], target: str | None) -> Response:
    try:
        return ask()
    except Invalid as error:
        # What no name can be is not found at this address, rather than a parameter that was refused.
        return problem_of(error, status=404 if target is not None and is_about(error, target) else None)
    except Exception as error:  # noqa: BLE001 - what nobody foresaw is logged there
        return problem_of(error)


async def _refused(_: Request, error: Exception) -> Response:
    return problem_of(error)


async def _refused_before_its_turn(request: Request, error: Exception) -> Response:
    site: Site = request.app.state.site
    return site.refuse(request, problem_of(error)) if site.wants_page(request) else problem_of(error)


async def _refused_by_router(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = _say_where(request, error)
    site: Site = request.app.state.site
    return site.refuse(request, said) if site.wants_page(request) else said


def _say_where(request: Request, error: HTTPException) -> Response:
    if error.status_code == 404:
        hint = f"there is nothing at {request.url.path}; see /api/openapi.json, and write / in a name as %2F"
        return problem(404, "no-such-path", hint)
    if error.status_code == 405:
        allowed = sorted(_methods_at(request))
        answer = problem(405, "no-such-method", f"{request.method} is not known there; {', '.join(allowed)} is")
        answer.headers["Allow"] = ", ".join(allowed)
        return answer
    return problem(error.status_code, "refused", str(error.detail))


def _methods_at(request: Request) -> set[str]:
    routes: Any = request.app.router.routes
    return {method for route in routes if route.matches(request.scope)[0] is not Match.NONE for method in route.methods}
