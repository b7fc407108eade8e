"""The pages of calendars and of the forecast."""

from __future__ import annotations

import pytest

from tests.web.pages.filling import send_all
from tests.web.pages.world import ALL_HOSTILE, claim_all, end

FORM = {"content-type": "application/x-www-form-urlencoded"}


def test_a_year_shows_what_is_closed_and_why(browser, rota):
    rota.calendars.add(
        "nl", weekdays=["sun"], dates=["2026-12-24..2026-12-25"], open_dates=["2026-12-27"],
        windows=[("2026-12-30T18:00", "2027-01-01T06:00")],
    )  # fmt: skip

    page = browser.open("/calendars/nl?year=2026")

    rows = page.find("div", id="year")[0].find("tr")
    december = {one.text.rstrip("×/"): one.attributes["class"].split()[1] for one in rows[11].find("span")}
    assert len(rows) == 12
    assert [number for number, kind in december.items() if kind == "closed"] == ["6", "13", "20", "24", "25"]
    assert [number for number, kind in december.items() if kind == "partly"] == ["30", "31"]
    february = rows[1].find("span")
    assert len(february) == 28
    assert february[0].attributes["title"] == "Sunday"
    later = browser.open(page.find("a", rel="next")[0].attributes["href"])
    assert later.find("div", id="year")[0].find("tr")[0].find("span")[0].attributes["class"] == "cell partly"


@pytest.mark.parametrize("year", ["<script>", "99999", "1", "-5", "2026.5"])
def test_a_year_that_is_none_is_refused(browser, rota, year):
    rota.calendars.add("nl", weekdays=["sun"])

    browser.open(f"/calendars/nl?year={year}", 422)


def test_a_calendar_is_added_and_deleted(browser, rota):
    browser.open("/new/calendar")
    send_all(
        browser, "/new/calendar", name="quiet",
        weekdays="sat\nsun", dates="2026-12-24..2026-12-26", windows="2026-12-30T18:00..2026-12-31T06:00",
    )  # fmt: skip

    assert browser.notice == "calendar quiet was added"
    rota.calendars.add(
        "same", weekdays=["sat", "sun"], dates=["2026-12-24..2026-12-26"],
        windows=[("2026-12-30T18:00", "2026-12-31T06:00")],
    )  # fmt: skip
    parts = ("weekdays", "dates", "windows")
    made, same = rota.calendars.show("quiet"), rota.calendars.show("same")
    assert [made[part] for part in parts] == [same[part] for part in parts]
    assert "quiet" in browser.open("/calendars?search=qui").find("table")[0].text
    browser.open("/calendars/quiet/ask/delete")
    browser.send("/calendars/quiet/do/delete")
    assert [one["name"] for one in rota.calendars.list()] == ["same"]


def test_a_calendar_that_is_named_is_not_deleted(browser, rota):
    rota.calendars.add("nl", weekdays=["sun"])
    rota.jobs.add("load", shell="true")
    rota.schedules.add("daily", "load", cron="@daily", calendars=["nl"])
    page = browser.open("/calendars/nl")
    assert page.find("a", href="/schedules/daily")

    browser.open("/calendars/nl/ask/delete")
    browser.send("/calendars/nl/do/delete", 409)

    assert rota.calendars.show("nl")


@pytest.mark.parametrize("path", ["/new/calendar", "/calendars/nl/do/delete"])
def test_without_the_token_nothing_is_done(http, rota, path):
    rota.calendars.add("nl", weekdays=["sun"])

    assert http.post(path, content="name=x&option.weekdays=sat", headers=FORM).status_code == 403

    assert [one["name"] for one in rota.calendars.list()] == ["nl"]


def test_the_forecast_is_what_the_verb_tells_hour_by_hour(browser, rota):
    rota.jobs.add("load", shell=ALL_HOSTILE)
    rota.jobs.add("other", shell="true", pool="elsewhere")
    rota.schedules.add("hourly", "load", cron="0 * * * *")
    rota.schedules.add("noon", "other", cron="0 12 * * *")
    rota.enqueue("load")
    (claim,) = claim_all(rota)
    end(rota, claim)

    page = browser.open("/forecast?days=3")

    cells = page.find("div", id="heat")[0].find("span", class_="heat")
    runs = [one["runs"] for one in rota.forecast(3)["hours"]]
    assert [int(one.text.replace("·", "0")) for one in cells] == runs
    unserved = [one for one in cells if "unserved" in one.attributes["class"]]
    assert len(unserved) == 3
    assert all("no node serves elsewhere" in one.attributes["title"] for one in unserved)
    only = browser.open("/forecast?days=3&pool=elsewhere").find("div", id="heat")[0].find("span", class_="heat")
    assert [one.text for one in only].count("1") == 3
    assert browser.open("/forecast?days=1&job=other").find("div", id="heat")


@pytest.mark.parametrize(("days", "status"), [("0", 422), ("32", 422), ("x", 422), ("31", 200)])
def test_the_forecast_is_bounded(browser, days, status):
    browser.open(f"/forecast?days={days}", status)
