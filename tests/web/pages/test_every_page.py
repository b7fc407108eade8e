"""Every page there is, over a database in which all that is free is hostile: it shows, and it changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select

from rota import Rota
from rota.model.accounts import Identity, Source
from rota.model.roles import Role
from rota.store.periods import look_at_periods
from rota.store.tables import metadata
from rota.web import trust
from rota.web.pages.registry import ACTS, PAGES
from tests.servers import Server
from tests.web.pages.markup import check_page
from tests.web.pages.world import ALL_HOSTILE, claim_all, fail_with_everything, report

# What fills the pieces of a path; a page with another piece needs a word here. A name is that of a thing of its kind.
PIECES = {"run": "1", "do": "delete"}
NAMES = {
    "jobs": "load", "schedules": "nightly", "periods": "sales", "backfills": "1", "nodes": "alpha", "pools": "default",
    "calendars": "quiet", "users": "ann", "tokens": "ci",
}  # fmt: skip
DOES = {"nodes": "forget", "backfills": "cancel"}
# Pages that say nothing without these, and those that are no HTML.
QUERIES = {
    "/runs/act": "?do=rerun&run=1",
    "/periods/{name}": "?period=2020",
    "/periods/{name}/act": "?do=reprocess&period=2020",
    "/schedules/{name}/slot": "?slot=2026-01-01T00:00",
    "/schedules/{name}/mark": "?slot=2026-01-01T00:00",
    "/schedules/{name}/edit": "?option.cron=0+4+*+*+*",
    "/new/schedule": "?name=new&option.job=load&option.cron=0+4+*+*+*",
    "/new/backfill": "?name=nightly&from=2026-01-01&to=2026-01-05",
}
FILES = {"/runs/{run}/output/download"}
HOSTILE_QUERY = (
    "?search=%3Cscript%3Ealert(1)%3C/script%3E&job=%22%3E%3Cimg%20src=x%20onerror=alert(1)%3E&zoom=%7B%7B7*7%7D%7D"
)


def make_hostile(url: str) -> None:
    """A failed run, and one that is going on, hostile wherever words are free."""
    with Rota(url, actor="maker") as rota:
        _fill(rota)


def _fill(rota: Rota) -> None:
    fail_with_everything(rota)
    rota.enqueue("load", {"more": ALL_HOSTILE})
    (claim,) = claim_all(rota)
    report(rota, claim, ("stdout", 0, ALL_HOSTILE.encode()), has_progress=True, progress_message=ALL_HOSTILE)
    rota.calendars.add("quiet", weekdays=["sun"])
    rota.schedules.add("nightly", "load", cron="30 2 * * *", calendars=["quiet"], args={"text": ALL_HOSTILE})
    rota.jobs.add("sales", shell=ALL_HOSTILE, period="year", period_start="2020", stdin=ALL_HOSTILE)
    look_at_periods(rota.database)
    rota.backfills.start("nightly", "2026-01-01", "2026-01-05")
    rota.users.add("ann", role="operator")
    rota.tokens.add("ci", user="ann", scopes=["job.*"])


@pytest.fixture
def database_url(database_server: Server) -> Iterator[str]:
    url = database_server.create_database(make_hostile)
    yield url
    database_server.drop_database(url)


@pytest.fixture
def world(rota: Rota) -> Rota:
    return rota


def everything(rota) -> dict[str, list[Any]]:
    """All rows of all tables."""
    return rota.database.read(
        lambda connection: {table.name: connection.execute(select(table)).all() for table in metadata.sorted_tables}
    )


def address_of(path: str) -> str:
    return filled(path) + QUERIES.get(path, "")


def filled(path: str) -> str:
    kind = path.split("/")[1]
    pieces = PIECES | {"name": NAMES.get(kind, ""), "do": DOES.get(kind, PIECES["do"]), "deed": "rerun"}
    return path.format(**pieces)


@pytest.mark.parametrize("path", [one.path for one in PAGES if one.path not in FILES])
def test_a_page_shows_and_changes_nothing(browser, world, path):
    before = everything(world)

    page = browser.open(address_of(path))

    assert page.find("nav")[0].find("a", href="/board")
    assert everything(world) == before


@pytest.mark.parametrize("path", [one.path for one in PAGES if one.path not in FILES])
def test_a_hostile_address_is_text(browser, http, world, path):
    answer = http.get(filled(path) + HOSTILE_QUERY, headers={"accept": "text/html"})

    assert answer.status_code in {200, 404, 422}
    check_page(answer.text)


@pytest.mark.parametrize("path", [one.path for one in ACTS])
def test_what_acts_is_no_get_and_wants_a_token(http, world, path):
    before = everything(world)
    where = filled(path)
    form = {"content-type": "application/x-www-form-urlencoded", "accept": "text/html"}

    sent = http.post(where, content="do=rerun&run=1&deed=rerun", headers=form)
    as_json = http.post(where, json={"do": "rerun", "run": 1})

    assert (sent.status_code, as_json.status_code) == (403, 415)
    check_page(sent.text)
    assert everything(world) == before


def test_what_a_viewer_may_not_is_not_offered_and_is_refused(browser, world, monkeypatch):
    monkeypatch.setattr(trust, "identify", lambda *_: Identity("ann", Role.VIEWER, Source.LOCAL))
    page = browser.open("/runs/1")

    assert not [one for one in page.find("form") if one.attributes.get("method") == "post"]
    browser.open("/runs/act?do=rerun&run=1")
    browser.send("/runs/act", 403)
    assert "run.rerun wants the role operator; ann is viewer" in browser.page.text
    assert world.runs[1].state == "failed"


@pytest.mark.parametrize("path", [one.path for one in PAGES if one.path not in FILES])
def test_no_page_offers_a_viewer_what_acts(http, world, monkeypatch, path):
    monkeypatch.setattr(trust, "identify", lambda *_: Identity("ann", Role.VIEWER, Source.LOCAL))

    answer = http.get(address_of(path), headers={"accept": "text/html"})

    assert answer.status_code in {200, 403}
    page = check_page(answer.text)
    if not path.startswith("/runs/act"):
        assert not [one for one in page.find("form") if one.attributes.get("method") == "post"]
        assert not [one for one in page.find("button") if one.attributes.get("formmethod") == "post"]
