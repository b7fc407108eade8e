"""The routes that are no verbs: events, and what monitoring asks."""

from __future__ import annotations

import math
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from rota import __version__
from rota.client import Rota
from rota.client.runs import check_run_id
from rota.errors import RotaError
from rota.model.accounts import Identity
from rota.model.durations import parse_duration
from rota.verbs.table import find_verb
from rota.web.bodies import split_query
from rota.web.events import Feed, Wanted
from rota.web.gate import identity_of, visitor_of
from rota.web.monitoring import Monitoring, check_ready
from rota.web.problems import MEDIA_TYPE, Refusal, problem, problem_of, write_json
from rota.web.threads import Threads

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PROBLEM = {"content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
_OF_EVENTS = {
    "job": "Only of this job.",
    "run": "Only of this run.",
    "kind": "Only of this kind: run, job, schedule, node, ...",
    "last_event_id": "What came after this event first, as Last-Event-ID.",
}


def add_looks(app: FastAPI, rota: Rota, threads: Threads, feed: Feed, monitoring: Monitoring) -> None:
    """Add them."""

    async def events(request: Request) -> Response:
        identity = identity_of(request)
        check_look(identity)
        try:
            given = read_words(request, *_OF_EVENTS)
            wanted = Wanted(given.get("job"), _read_run(given.get("run")), given.get("kind"))
            last = _read_last(request.headers.get("last-event-id") or given.get("last_event_id"))
            viewer, top = await feed.join(wanted, identity)
        except RotaError as error:
            return problem_of(error)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(feed.stream(viewer, top, last), 200, headers, "text/event-stream")

    async def metrics(request: Request) -> Response:
        if (identity := visitor_of(request).identity) is not None:  # else it is open
            check_look(identity)
        read_words(request)
        return Response(await threads.run(monitoring.write), 200, {"Cache-Control": "no-store"}, METRICS_TYPE)

    async def healthz(_: Request) -> Response:
        return _answer({"status": "alive", "version": __version__})

    async def readyz(request: Request) -> Response:
        if (identity := visitor_of(request).identity) is not None:
            check_look(identity)
        try:
            given = read_words(request, "max_age")
            most = parse_duration("max_age", given["max_age"]) if "max_age" in given else math.inf
            age = await threads.run(lambda: check_ready(rota))
        except RotaError as error:
            return problem_of(error)
        if most < math.inf and (age is None or age > most):
            since = (
                "no node has ever worked here" if age is None else f"the last good round of a node was {age:.0f} s ago"
            )
            return problem(503, "no-round", f"{since}: start one with `rota worker`", last_round_seconds=age)
        return _answer({"status": "ready", "last_round_seconds": age})

    words = [
        {"name": name, "in": "query", "required": False, "description": text, "schema": {"type": "string"}}
        for name, text in _OF_EVENTS.items()
    ]
    stream = _good("Events, as they happen.", "text/event-stream")
    text = _good("As Prometheus reads them.", "text/plain")
    state = _good("It is so.", "application/json")
    refused: dict[int | str, dict[str, Any]] = {
        status: {"description": said, **_PROBLEM}
        for status, said in (
            (400, "It cannot be read."),
            (421, "Another name."),
            (422, "Refused."),
            (503, "It is not so."),
        )
    }
    age = {
        "name": "max_age", "in": "query", "required": False, "schema": {"type": "string"},
        "description": "Not ready when no node did a good round for so long.",
    }  # fmt: skip
    for path, answer, answers, parameters, summary in (
        ("/api/v1/events", events, stream, words, "What happens, as it happens."),
        ("/metrics", metrics, text, [], "Figures for Prometheus."),
        ("/healthz", healthz, state, [], "Whether this process lives."),
        ("/readyz", readyz, state, [age], "Whether requests can be answered."),
    ):
        app.add_api_route(
            path,
            answer,
            methods=["GET"],
            operation_id=path.rpartition("/")[2],
            tags=["monitoring"],
            summary=summary,
            responses={**answers, **refused},
            openapi_extra={"parameters": parameters},
        )


def check_look(identity: Identity) -> None:
    """Check that somebody may look at all there is: whoever may ask for ``status``.

    Raises:
        Refusal: they may not.
    """
    if not identity.may(find_verb("status")):
        raise Refusal(403, "forbidden", f"this is for viewers, and status is not in the scopes of {identity.name}")


def _good(said: str, kind: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": said, "content": {kind: {"schema": {}}}}}


def read_words(request: Request, *known: str) -> dict[str, str]:
    """Read a query string of words, each once.

    Raises:
        Refusal: there is another one, or one comes twice.
    """
    found: dict[str, str] = {}
    for name, value in split_query(request.scope["query_string"]):
        if name not in known or name in found:
            raise Refusal(400, "unreadable", f"{name} is not known here, or comes twice", field=name)
        found[name] = value
    return found


def _read_run(text: str | None) -> int | None:
    return None if text is None else check_run_id(text)


def _read_last(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise Refusal(400, "unreadable", "Last-Event-ID is the number of an event", field="Last-Event-ID", value=text)
    return int(text)


def _answer(view: dict[str, Any]) -> Response:
    return Response(write_json(view), 200, {"Cache-Control": "no-store"}, "application/json")
