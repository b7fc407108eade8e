"""The pages of periods: tree, grid, and what would be done again before it is."""

from __future__ import annotations

import pytest

from rota.store.periods import look_at_periods
from tests.web.pages.world import ALL_HOSTILE


@pytest.fixture
def sales(rota):
    rota.jobs.add("sales", shell=ALL_HOSTILE, period="year", period_start="2020")
    rota.jobs.add("sum", shell="true", after=["sales"], period="year", period_start="2020")
    look_at_periods(rota.database)
    return rota


def states(rota):
    return {one["period"]: (one["state"], one["reason"], one["runs"]) for one in rota.periods.list("sales")}


def test_the_grid_shows_each_period_and_leads_to_why(browser, sales):
    page = browser.open("/periods/sales")

    cells = page.find("a", class_="cell")
    assert [one.attributes["title"].split(":")[0] for one in cells] == [
        f"{name} {state}" for name, (state, _, _) in states(sales).items()
    ]
    assert "each year" in page.find("ul", class_="tree")[0].text
    page = browser.open(cells[1].attributes["href"])
    assert "older periods of its job come first" in page.find("section", id="period")[0].text
    assert page.find("input", name="period")[0].attributes["value"] == "2021"


def test_older_periods_are_on_the_next_page(browser, sales, monkeypatch):
    from rota.web.pages import periods

    monkeypatch.setattr(periods, "PERIODS_SHOWN", 4)
    names = list(states(sales))

    seen = [[one.attributes["title"][:4] for one in browser.open("/periods/sales?from=2020").find("a", class_="cell")]]
    while links := browser.page.find("a", rel="next"):
        page = browser.open(links[0].attributes["href"])
        seen.append([one.attributes["title"][:4] for one in page.find("a", class_="cell")])

    assert [name for names_of_page in seen[::-1] for name in names_of_page] == names
    assert [len(one) for one in seen[:-1]] == [4] * (len(seen) - 1)


@pytest.mark.parametrize(("choose", "word"), [("Reprocess…", "reprocess"), ("Skip…", "skip")])
def test_what_would_be_done_is_shown_and_is_what_is_done(browser, sales, choose, word):
    before = states(sales)
    wanted = getattr(sales.periods, word)("sales", "2020", "2021", dry_run=True)
    browser.open("/periods/sales")

    page = browser.send("/periods/sales/act", choose=choose, period="2020", to="2021")
    assert page.find("h1")[0].text.split()[1] == str(wanted["count"])
    assert [one.text for one in page.find("ul", class_="chosen")[0].find("li")] == wanted["jobs"][0]["periods"]
    assert states(sales) == before
    browser.send("/periods/sales/act")

    assert browser.notice.endswith(": 1 period" if wanted["count"] == 1 else f": {wanted['count']} periods")
    assert states(sales) != before
    if word == "skip":
        assert {states(sales)[name][0] for name in ("2020", "2021")} == {"skipped"}


def test_a_job_without_periods_says_so(browser, rota):
    rota.jobs.add("load", shell="true")

    page = browser.open("/periods/load", 404)

    assert "it has no periods" in page.find("p", class_="problem")[0].text


def test_without_the_token_nothing_is_done(http, sales):
    before = states(sales)

    answer = http.post(
        "/periods/sales/act",
        content="do=skip&period=2020",
        headers={"content-type": "application/x-www-form-urlencoded"},
    )

    assert (answer.status_code, states(sales)) == (403, before)
