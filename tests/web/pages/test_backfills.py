"""The pages of backfills: the preview, and what is done from there."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest

from rota.store.periods import look_at_periods

ASKED = {"name": "daily", "from": "2020-01-01", "to": "2020-01-11", "order": "newest", "max_active": "2"}
FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.fixture
def daily(rota):
    rota.jobs.add("load", shell="true")
    rota.schedules.add("daily", "load", cron="0 0 * * *")
    return rota


def start(browser, fields):
    browser.open(f"/new/backfill?{urlencode(fields)}")
    (button,) = browser.page.find("button", name="csrf")
    given = urlencode(fields | {"csrf": button.attributes["value"]})
    answer = browser.http.post("/new/backfill", content=given, headers=FORM | {"accept": "text/html"})
    browser._show(answer, 200)


def test_what_would_be_done_is_shown_before_it_is_started(browser, daily):
    page = browser.open(f"/new/backfill?{urlencode(ASKED)}")
    (preview,) = page.find("section", id="preview")
    assert "10 slots of daily." in preview.text
    assert list(daily.backfills.list()) == []

    start(browser, ASKED)

    (made,) = daily.backfills.list()
    assert browser.notice == f"backfill {made['id']} was started"
    assert (made["slots"], made["order"], made["max_active"], made["again"]) == (10, "newest", 2, False)
    assert "0 of 10" in browser.page.find("p", class_="verdict")[0].text


def test_what_is_refused_is_said_on_the_page_and_there_is_no_button(browser, daily):
    page = browser.open(f"/new/backfill?{urlencode(ASKED | {'from': '<script>alert(1)</script>'})}")

    assert "<script>alert(1)</script>" in page.find("p", class_="problem")[0].text
    assert page.find("button", name="csrf") == []


def test_pause_resume_and_cancel_do_as_the_verbs(browser, daily):
    start(browser, ASKED)
    (made,) = daily.backfills.list()
    path = f"/backfills/{made['id']}"

    browser.send(f"{path}/do/pause")
    assert daily.backfills[made["id"]].show()["state"] == "paused"
    browser.send(f"{path}/do/resume")
    assert daily.backfills[made["id"]].show()["state"] == "active"
    browser.send(f"{path}/ask/cancel")
    browser.send(f"{path}/do/cancel")

    assert daily.backfills[made["id"]].show()["state"] == "cancelled"
    assert [row.find("td")[2].text.split()[1] for row in browser.open("/backfills").find("tr")[1:]] == ["cancelled"]


def test_the_list_goes_on(browser, daily, monkeypatch):
    from rota.web.pages import lists

    monkeypatch.setattr(lists, "PAGE_THINGS", 1)
    for day in ("01", "02"):
        daily.backfills.start("daily", f"2020-01-{day}", f"2020-02-{day}")

    first = [one.text for one in browser.open("/backfills?name=daily").find("td")[0].find("a")]
    page = browser.open(browser.page.find("a", rel="next")[0].attributes["href"])

    assert [int(first[0]), int(page.find("td")[0].text)] == [one["id"] for one in daily.backfills.list()]


def test_of_a_job_with_periods_these_are_shown_and_done_again(browser, rota):
    rota.jobs.add("sales", shell="true", period="year", period_start="2020")
    look_at_periods(rota.database)

    page = browser.open("/new/backfill?name=sales&from=2020-01-01&to=2022-01-01&again=1")
    assert page.find("section", id="preview")[0].find("h3")
    start(browser, {"name": "sales", "from": "2020-01-01", "to": "2022-01-01", "again": "1"})

    assert browser.notice.endswith("are done again")
    assert browser.page.find("h1")[0].text == "Periods of sales"


def test_without_the_token_nothing_is_done(http, daily):
    assert http.post("/new/backfill", content=urlencode(ASKED), headers=FORM).status_code == 403
    assert list(daily.backfills.list()) == []
