"""Looking changes nothing, whatever is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import pytest

from rota import Rota
from rota.store.tables import metadata
from rota.verbs.table import VERBS
from rota.web.app import make_app
from rota.web.pages.registry import PAGES
from rota.web.resources import derive_resources
from tests.servers import Server
from tests.verbs.test_doors import CASES, World, make_world
from tests.web.conftest import BASE, TestClient

LOOKS = [one for one in derive_resources(VERBS.values()) if one.method == "GET"]
OF_PAGES = {"/login", "/static/{mark}/{name}"}
OTHERS = {"/api/openapi.json", "/api/v1/events", "/healthz", "/metrics", "/readyz"}


@pytest.fixture
def world(database_server: Server) -> Iterator[World]:
    url = database_server.create_database(make_world)
    made = World(url)
    yield made
    made.database.close()
    database_server.drop_database(url)


def everything(world: World) -> dict[str, list[tuple]]:
    """Every row of every table, to the last column."""
    return {
        table.name: world.database.read(
            lambda c, of=table: [tuple(row) for row in c.execute(of.select().order_by(*of.primary_key))]
        )
        for table in metadata.sorted_tables
    }


def test_no_get_changes_a_row_of_any_table(world):
    before = everything(world)
    assert sum(len(rows) for rows in before.values()) > 30
    app = make_app(Rota(world.url))
    run = str(CASES["run.show"].target)

    with TestClient(app, base_url=BASE) as http:
        for resource in LOOKS:
            case = CASES[resource.verb.name]
            path = resource.path.replace(f"{{{resource.verb.target}}}", quote(str(case.target), safe=""))
            answers = [http.get(path, params=case.params), http.get(path.replace(str(case.target), "nobody"))]
            assert answers[0].status_code == 200, path
            assert all(answer.status_code < 500 for answer in answers)
            assert everything(world) == before, path
        for path in OTHERS - {"/api/v1/events"}:
            assert http.get(path).status_code == 200
        assert http.get("/api/v1/events?run=x").status_code == 422
        for page in PAGES:
            assert http.get(page.path.replace("{run}", run), headers={"accept": "text/html"}).status_code < 500
        assert http.get("/login", follow_redirects=False).status_code == 303
        assert everything(world) == before

    gets = {route.path for route in app.routes if "GET" in (route.methods or ())}
    assert gets == {resource.path for resource in LOOKS} | OTHERS | {page.path for page in PAGES} | OF_PAGES


def test_what_a_get_has_as_a_body_is_not_looked_at(world):
    with TestClient(make_app(Rota(world.url)), base_url=BASE) as http:
        answer = http.request("GET", "/api/v1/jobs/load", content=b"{not json")

    assert answer.status_code == 200
