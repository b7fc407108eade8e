"""OpenAPI: what each route takes and answers, told by the verbs and by whoever knows more of their parameters.

A verb knows which parameters there are and what kind some of them are. The command line knows what each means, since
its flags say it: it is asked by ``Describe``, so that it is written down once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from rota.verbs.verb import Verb
from rota.web.bodies import BODY_BYTES_MAX
from rota.web.paging import LIMIT_DEFAULT, LIMIT_MAX
from rota.web.problems import MEDIA_TYPE, TITLES
from rota.web.resources import Resource

Schemas = Mapping[str, Mapping[str, Any]]
Describe = Callable[[Verb], Schemas]
Say = Callable[[Verb], str]

_TYPES: dict[type, str] = {bool: "boolean", int: "integer", str: "string"}
_REFUSED_GET = (400, 403, 404, 409, 421, 422, 500, 503)
_REFUSED_ACT = (400, 403, 404, 409, 413, 415, 421, 422, 500, 503)
PROBLEM = {"$ref": "#/components/schemas/Problem"}
SCHEMAS = {
    "Problem": {
        "type": "object",
        "description": "Why a request was refused, as RFC 9457 has it.",
        "required": ["type", "title", "status", "detail", "code"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string", "description": "What is wrong, and what to do next."},
            "code": {"type": "string", "description": "Stable: what kind of refusal it is."},
            "field": {"type": "string", "description": "The parameter that was refused."},
            "value": {"description": "Its value."},
            "rule": {"type": "string", "description": "The rule that it breaks."},
        },
    },
    "Page": {
        "type": "object",
        "required": ["items", "next"],
        "properties": {
            "items": {"type": "array", "items": {"type": "object"}},
            "next": {"type": ["string", "null"], "description": "Give it as `after` for the next page; null: the end."},
        },
    },
}


def nothing_known(_: Verb) -> Schemas:
    """Tell nothing of a verb's parameters."""
    return {}


def nothing_said(verb: Verb) -> str:
    """Say nothing of a verb but its name."""
    return verb.name


def show_openapi(app: FastAPI) -> dict[str, Any]:
    """Make the document of all routes, once."""
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        components: dict[str, Any] = made.setdefault("components", {})
        components["schemas"] = SCHEMAS
        app.openapi_schema = made
    return app.openapi_schema


def describe_route(resource: Resource, describe: Describe, say: Say) -> dict[str, Any]:
    """Return what FastAPI is told of a route."""
    verb = resource.verb
    schemas = parameters_of(resource, describe)
    looks = resource.method == "GET"
    extra: dict[str, Any] = {"parameters": _in_path(resource)}
    if looks:
        extra["parameters"] += [_in_query(verb, name, schema) for name, schema in sorted(schemas.items())]
    else:
        extra["requestBody"] = _body(resource, schemas)
    if verb.name == "job.run":
        extra["parameters"].append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "description": "The same request sent again with it is answered with the run that it made.",
                "schema": {"type": "string", "minLength": 1, "maxLength": 200},
            }
        )
    return {
        "operation_id": verb.name if resource.names_target != "job" else f"{verb.name}.at-runs",
        "tags": [resource.path.split("/")[3]],
        "summary": say(verb),
        "description": f"As `rota {verb.name.replace('.', ' ')}`. For the role {verb.role}.",
        "openapi_extra": extra,
        "responses": _answers(resource),
    }


def parameters_of(resource: Resource, describe: Describe) -> dict[str, dict[str, Any]]:
    """Return the schemas of the parameters of a resource, that of a target in the body among them."""
    verb = resource.verb
    known = describe(verb)
    found: dict[str, dict[str, Any]] = {}
    for name in sorted(verb.parameters | set(known)):
        kind = verb.kinds.get(name)
        told = dict(known.get(name, {}))
        if kind is not None and "enum" not in told:
            told["type"] = _TYPES[kind]
            told.pop("anyOf", None)
        found[name] = told
    if resource.lists:
        found["limit"] = {
            "type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT,
            "description": "At most so many items.",
        }  # fmt: skip
        found.pop("before", None)
        found["after"] = {"type": "string", "description": "The `next` of the page before."}
    if resource.names_target is not None:
        found[resource.names_target] = {"type": "string", "description": "What it is about: its name."}
    if resource.method == "PATCH":
        for told in found.values():
            if isinstance(told.get("type"), str) and "enum" not in told:
                told["type"] = [told["type"], "null"]
    return found


def _in_path(resource: Resource) -> list[dict[str, Any]]:
    target = resource.verb.target
    if target is None or resource.names_target is not None:
        return []
    text = "The name, percent-encoded: / is %2F." if target not in {"run", "backfill", "command"} else "The number."
    return [{"name": target, "in": "path", "required": True, "description": text, "schema": {"type": "string"}}]


def _in_query(verb: Verb, name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    told = dict(schema)
    text = told.pop("description", "")
    return {"name": name, "in": "query", "required": name in verb.wanted, "description": text, "schema": told}


def _body(resource: Resource, schemas: dict[str, dict[str, Any]]) -> dict[str, Any]:
    required = [name for name in schemas if name in resource.verb.wanted or name == resource.names_target]
    schema: dict[str, Any] = {"type": "object", "properties": schemas}
    if required:
        schema["required"] = sorted(required)
    return {
        "required": bool(required),
        "description": f"A JSON object of at most {BODY_BYTES_MAX // 2**20} MiB.",
        "content": {"application/json": {"schema": schema}},
    }


def _answers(resource: Resource) -> dict[int | str, dict[str, Any]]:
    good: dict[str, Any] = {} if not resource.lists else {"$ref": "#/components/schemas/Page"}
    answer: dict[str, Any] = {
        "description": "As the command shows it with --json.",
        "content": {"application/json": {"schema": good}},
    }
    found: dict[int | str, dict[str, Any]] = {200: answer}
    if resource.makes is not None:
        found[201] = answer | {"headers": {"Location": {"schema": {"type": "string"}}}}
    for status in _REFUSED_GET if resource.method == "GET" else _REFUSED_ACT:
        found[status] = {"description": TITLES[status], "content": {MEDIA_TYPE: {"schema": PROBLEM}}}
    return found
