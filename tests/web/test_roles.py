"""What each role may do: every verb that acts, by the API and by pages, and nothing changes when it is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from rota import Rota
from rota.model.access import choose_access
from rota.model.roles import Role
from rota.store.tables import metadata
from rota.verbs.table import VERBS
from rota.web.app import make_app
from rota.web.pages.deeds import DEEDS
from rota.web.pages.registry import ACTS
from rota.web.resources import Resource, derive_resources
from tests.servers import Server
from tests.verbs.test_doors import CASES, World, make_world
from tests.web.conftest import TestClient
from tests.web.pages.markup import check_page

HOST = "rota.example.org"
PASSWORD = "correct horse battery"
DOES = [one for one in derive_resources(VERBS.values()) if one.method != "GET"]
PIECES = {"deed": list(DEEDS)}  # what a piece of an act's path may be; all others name what there is not


def make_people(url: str) -> None:
    """One of everything, and somebody of each role."""
    make_world(url)
    with Rota(url) as rota:
        for role in Role:
            rota.users.add(f"a-{role}", role=role.value, password=PASSWORD)


@pytest.fixture
def world(database_server: Server) -> Iterator[World]:
    url = database_server.create_database(make_people)
    made = World(url)
    yield made
    made.database.close()
    database_server.drop_database(url)


@pytest.fixture
def http(world: World) -> Iterator[TestClient]:
    app = make_app(Rota(world.url), access=choose_access("0.0.0.0", names=[HOST]))
    with TestClient(app, base_url=f"https://{HOST}", raise_server_exceptions=False, follow_redirects=False) as client:
        yield client


def everything(world: World) -> dict[str, list[tuple]]:
    """Every row of every table; without when a token was last used, and a session last seen, by each look."""
    return {
        table.name: world.database.read(
            lambda c, of=table: [
                tuple(value for name, value in row._mapping.items() if name not in {"last_used_at", "seen_at"})
                for row in c.execute(of.select().order_by(*of.primary_key))
            ]
        )
        for table in metadata.sorted_tables
    }


def ask(http: TestClient, resource: Resource, headers: dict[str, str]) -> Any:
    case = CASES.get(resource.verb.name, CASES["run.cancel"])  # of freeze and thaw, which want a run that runs
    path = resource.path.replace(f"{{{resource.verb.target}}}", quote(str(case.target), safe=""))
    body = dict(case.params)
    if resource.names_target is not None:
        body[resource.names_target] = case.target
    return http.request(resource.method, path, json=body, headers=headers)


def log_in(http: TestClient, user: str) -> str:
    """Log in and return the token of the forms."""
    token = check_page(http.get("/login").text).find("input", name="csrf")[0].attributes["value"]
    form = {"content-type": "application/x-www-form-urlencoded"}
    said = http.post("/login", content=urlencode({"csrf": token, "user": user, "password": PASSWORD}), headers=form)
    assert said.status_code == 303
    return check_page(http.get("/").text).find("input", name="csrf")[0].attributes["value"]


def test_all_that_acts_is_for_operators_or_admins():
    assert len(DOES) > 40
    assert {one.verb.role for one in DOES} == {Role.OPERATOR, Role.ADMIN}
    assert {one.verb.name for one in DOES if one.verb.role is not Role.ADMIN} >= {"job.run", "run.cancel", "node.drain"}
    assert VERBS["job.add"].role is Role.ADMIN  # or whoever may log in could run any program


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR])
@pytest.mark.parametrize("by", ["token", "session"])
def test_what_is_above_a_role_is_refused_through_the_api_and_changes_nothing(world, http, role, by):
    if by == "token":
        with Rota(world.url) as rota:
            headers = {"Authorization": f"Bearer {rota.tokens.add('mine', user=f'a-{role}')['secret']}"}
        assert http.get("/api/v1/jobs", headers=headers).status_code == 200  # which notes that it was used
    else:
        headers = {"X-CSRF-Token": log_in(http, f"a-{role}")}
    before = everything(world)

    for resource in DOES:
        if role.covers(resource.verb.role):
            continue
        answer = ask(http, resource, headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), resource
        assert f"wants the role {resource.verb.role}; a-{role} is {role}" in answer.json()["detail"]
    assert everything(world) == before


def test_what_is_within_a_role_is_done(world, http):
    headers = {"X-CSRF-Token": log_in(http, "a-operator")}
    resource = next(one for one in DOES if one.verb.name == "job.pause")

    assert ask(http, resource, headers).status_code == 200


def test_a_viewer_is_offered_nothing_that_acts_and_is_refused_all_that_pages_do(world, http):
    run = str(CASES["run.cancel"].target)
    csrf = log_in(http, "a-viewer")
    page = check_page(http.get(f"/runs/{run}").text)
    assert [one.attributes["action"] for one in page.find("form", method="post")] == ["/logout"]
    before = everything(world)

    refused = 0
    for act in ACTS:
        paths = [act.path.replace("{run}", run)]
        for piece, values in PIECES.items():
            paths = [path.replace(f"{{{piece}}}", value) for path in paths for value in values]
        for path in paths:
            for deed in DEEDS:
                fields = {"csrf": csrf, "do": deed, "run": run, "job": "load", "name": "new", "shell": "true"}
                answer = http.post(path, data=fields, headers={"accept": "text/html", "origin": f"https://{HOST}"})
                assert answer.status_code in {403, 404, 422}, (path, deed, answer.status_code, answer.headers)
                refused += answer.status_code == 403
        assert everything(world) == before, act
    assert refused >= len(DEEDS)
