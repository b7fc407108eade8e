"""What was asked for with SQL, over HTTP: admins look at it, and nobody puts a command there."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from rota.store.tables import command
from rota.verbs.answering import answer_commands


@pytest.fixture
def asked(rota):
    """Three commands: the first is done, the second refused, the third pending."""

    def ask(*rows):
        for verb, target in rows:
            values = {"verb": verb, "target": target}
            rota.database.write(
                lambda connection, of=values: connection.execute(command.insert().values(of)), repeatable=False
            )

    ask(("status", None), ("job.puase", "load"))
    assert answer_commands(rota.database, node="n1") == 2
    ask(("job.pause", "load"))
    return rota


def test_commands_are_listed_page_by_page_and_shown_one_by_one(http, asked):
    first = http.get("/api/v1/commands", params={"limit": 2}).json()
    second = http.get("/api/v1/commands", params={"limit": 2, "after": first["next"]}).json()

    assert [(one["verb"], one["state"]) for one in first["items"]] == [
        ("job.pause", "pending"),
        ("job.puase", "refused"),
    ]
    assert [(one["verb"], one["state"]) for one in second["items"]] == [("status", "done")]
    assert second["next"] is None
    (found,) = http.get("/api/v1/commands", params={"state": "refused", "verb": "job.puase"}).json()["items"]
    shown = http.get(f"/api/v1/commands/{found['id']}").json()
    assert (shown["error"]["field"], shown["answered_by"]) == ("verb", "n1")
    assert http.get("/api/v1/commands", params={"since": "2099-01-01T00:00Z"}).json()["items"] == []


def test_no_command_is_put_there(http, asked):
    before = asked.database.read(lambda connection: connection.execute(select(command)).all())

    answer = http.post("/api/v1/commands", json={"verb": "job.run", "target": "load"})

    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")
    assert asked.database.read(lambda connection: connection.execute(select(command)).all()) == before


def test_only_admins_look_at_them(http, asked):
    for role, status in (("viewer", 403), ("operator", 403), ("admin", 200)):
        shown = {"Authorization": f"Bearer {asked.tokens.add(role, role=role)['secret']}"}
        for path in ("/api/v1/commands", "/api/v1/commands/1"):
            assert http.get(path, headers=shown).status_code == status, (role, path)


def test_a_filter_that_is_none_is_refused(http, asked):
    for wrong in ({"state": "ended"}, {"since": "soon"}, {"before": 3}, {"outcome": "x"}):
        assert http.get("/api/v1/commands", params=wrong).status_code == 422, wrong
