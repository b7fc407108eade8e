"""Requests made from the OpenAPI, right and wrong ones: none ends in a server error, each is answered as is written."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from rota import Rota
from rota.cli.parameters import describe, say_what_it_does
from rota.model.access import Access
from rota.verbs.table import VERBS
from rota.web.app import make_app
from tests.servers import Server
from tests.verbs.test_doors import World, make_world

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import schemathesis
    from schemathesis.checks import not_a_server_error

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance]
ENDLESS = "/api/v1/events"  # of which other tests make the requests


@pytest.fixture
def world(database_server: Server):
    url = database_server.create_database(make_world)
    made = World(url)
    yield made
    made.database.close()
    database_server.drop_database(url)


def check(world: World, examples: int) -> int:
    """Make that many requests for each operation, and check the answers; return how many operations there are."""
    app = make_app(
        Rota(world.url), access=Access(names=frozenset({"testserver"})), describe=describe, say=say_what_it_does
    )
    count = 0
    schema = schemathesis.openapi.from_asgi("/api/openapi.json", app)
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path == ENDLESS:
            continue
        count += 1
        kinds = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
        cases = st.one_of(*(operation.as_strategy(generation_mode=kind) for kind in kinds))

        @settings(
            max_examples=examples, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(cases)
        def ask(case: Any) -> None:
            case.call_and_validate(checks=CHECKS)

        ask()
    return count


@pytest.mark.only_on("sqlite")
def test_no_request_ends_in_a_server_error(world):
    assert check(world, 8) > len(VERBS)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_no_request_of_many_ends_in_a_server_error(world):
    check(world, 60)


MONITORING = ("/metrics", "/healthz", "/readyz")


def test_every_route_is_described(http):
    paths = http.get("/api/openapi.json").json()["paths"]
    described = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    for_programs = [route for route in http.app.routes if route.path.startswith(("/api/", *MONITORING))]
    routes = {(method, route.path) for route in for_programs for method in route.methods or ()}

    assert described | {("GET", "/api/openapi.json")} == {one for one in routes if one[0] != "HEAD"}


def test_every_parameter_says_what_it_is(http):
    document = http.get("/api/openapi.json").json()
    silent = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for one in operation.get("parameters", ()):
                silent += [(method, path, one["name"])] if not one["description"] else []
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            for name, schema in body.get("properties", {}).items():
                silent += [(method, path, name)] if not schema.get("description") else []
            assert operation["summary"]
            assert all(
                "application/problem+json" in answer["content"]
                for status, answer in operation["responses"].items()
                if int(status) >= 400
            )

    assert silent == []


def test_ids_of_operations_are_its_own(http):
    methods = [one for path in http.get("/api/openapi.json").json()["paths"].values() for one in path.values()]
    ids = [one["operationId"] for one in methods]

    assert len(set(ids)) == len(ids)
