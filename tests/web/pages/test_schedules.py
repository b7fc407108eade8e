"""The pages of schedules: plain words, coming slots, the form with its preview, and what is done from there."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest

from rota.client.options import SCHEDULE_OPTIONS
from rota.web.pages.schedules import say_when
from tests.web.pages.filling import filled_in
from tests.web.pages.world import ALL_HOSTILE, HOSTILE

ROUND = {
    "cron": ["30 2 * * *", "0 9 * * MON-FRI"], "every": "90s", "tz": "Europe/Amsterdam", "gap": "skip", "delay": "1m",
    "jitter": 1.5, "catch_up": "all", "overlap": "queue", "in_order": True, "args": {"a": [1, "<b>"]},
    "end": "2090-01-01", "anchor": "2026-01-01",
}  # fmt: skip
FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.fixture
def load(rota):
    rota.jobs.add("load", shell="true")
    return rota


def shown(rota, key="nightly"):
    view = rota.schedules[key].show()
    return {name: value for name, value in view.items() if name not in {"key", "revision", "created_at", "updated_at"}}


def post(browser, action, fields):
    """Send a form by the button that acts, which brings the token."""
    (button,) = browser.page.find("button", name="csrf")
    assert (button.attributes["formmethod"], button.attributes["formaction"]) == ("post", action)
    given = fields | {"csrf": button.attributes["value"]}
    answer = browser.http.post(action, content=urlencode(given), headers=FORM | {"accept": "text/html"})
    return browser._show(answer, 200)


@pytest.mark.parametrize(
    ("view", "said"),
    [
        ({"cron": "30 2 * * *", "tz": "Europe/Amsterdam"}, "At 02:30 every day, in Europe/Amsterdam"),
        ({"cron": "0 0 13 * 5"}, "At 00:00 on the 13th day of month or on Friday, in UTC"),
        (
            {"cron": ["@daily", "0 9 * * 1-5"]},
            "At 00:00 every day, in UTC; or at 09:00 on Monday through Friday, in UTC",
        ),
        ({"cron": "0 9 15W * *"}, "Cron 0 9 15W * *, in UTC"),
        ({"cron": "H 3 * * *"}, "Cron H 3 * * *, in UTC"),
        ({"cron": "<b>"}, "Cron <b>"),
        ({"every": 5400.0}, "Every 1h30m"),
        ({"weekly": "mon-fri 07:30", "tz": "UTC"}, "Mon-fri 07:30 in UTC"),
    ],
)
def test_when_it_is_due_is_said_in_plain_words(view, said):
    assert say_when(view) == said


def test_a_time_that_the_name_chooses_is_told():
    assert say_when({"cron": "H 3 * * *", "key": "nightly"}).startswith("At 03:")


def test_a_schedule_is_shown_with_its_slots_and_what_the_clocks_do_to_them(browser, load):
    load.schedules.add(
        "nightly", "load", cron="30 2 28-31 3 *", tz="Europe/Amsterdam", start="2027-03-01", args={"x": ALL_HOSTILE}
    )

    page = browser.open("/schedules/nightly")

    assert "in Europe/Amsterdam" in page.find("p", class_="verdict")[0].text
    (table,) = page.find("div", id="slots")
    first = [cell.text for cell in table.find("tr")[1].find("td")]
    assert first[0].startswith("2027-03-28 03:00:00+02:00")
    assert first[1] == "2027-03-28 01:00:00"
    assert "2027-03-28" in table.text
    assert "02:30" in first[3]
    assert "data-viewer" in table.find("time")[0].attributes
    (options,) = page.find("details", id="options")
    assert {one.text for one in options.find("dt")} == set(SCHEDULE_OPTIONS)
    assert HOSTILE[0] in options.text
    assert "nightly" in browser.open("/schedules?search=night").find("table")[0].text


def test_the_preview_shows_what_stands_in_the_form_and_stores_nothing(browser, load):
    load.schedules.add("nightly", "load", cron="30 2 * * *")
    before = shown(load)
    browser.open("/schedules/nightly/edit")

    fields = filled_in(browser, "/schedules/nightly/edit", cron="0 4 1 1 *", tz="Asia/Tokyo", start="2030-01-01")
    page = browser.open(f"/schedules/nightly/edit?{urlencode(fields)}")

    (preview,) = page.find("section", id="preview")
    assert "At 04:00 on January 1, in Asia/Tokyo." in preview.text
    assert "2030-01-01 04:00:00+09:00" in preview.text
    assert page.find("textarea", id="option-cron")[0].text.strip() == "0 4 1 1 *"
    assert shown(load) == before


def test_what_the_preview_shows_of_a_new_one_is_what_comes(browser, load):
    browser.open("/new/schedule")
    fields = filled_in(
        browser, "/new/schedule", name="yearly", job="load", cron="0 4 1 1 *", tz="Asia/Tokyo", start="2030-01-01"
    )

    page = browser.open(f"/new/schedule?{urlencode(fields)}")
    previewed = [row.find("td")[0].text for row in page.find("div", id="slots")[0].find("tr")[1:]]
    assert list(load.schedules.list()) == []
    post(browser, "/new/schedule", fields)

    assert browser.notice == "schedule yearly was added"
    coming = load.schedules["yearly"].preview(10)
    assert previewed == [one["local"].replace("T", " ") for one in coming]


@pytest.mark.parametrize(
    ("options", "said"),
    [({"cron": "<script>"}, "<script>"), ({"tz": "Mars/Base"}, "Mars/Base"), ({"args": "{"}, "it is JSON")],
)
def test_the_preview_says_what_is_wrong(browser, load, options, said):
    load.schedules.add("nightly", "load", cron="30 2 * * *")
    browser.open("/schedules/nightly/edit")

    fields = filled_in(browser, "/schedules/nightly/edit", **options)
    page = browser.open(f"/schedules/nightly/edit?{urlencode(fields)}")

    assert said in page.find("section", id="preview")[0].find("p", class_="problem")[0].text


def test_a_form_that_is_sent_as_it_came_changes_nothing_and_one_option_changes_alone(browser, load):
    load.schedules.add("nightly", "load", **ROUND)
    load.schedules.add("same", "load", **ROUND)
    before = load.schedules["nightly"].show()
    browser.open("/schedules/nightly/edit")

    post(browser, "/schedules/nightly/edit", filled_in(browser, "/schedules/nightly/edit"))
    assert browser.notice == "nothing was changed"
    assert load.schedules["nightly"].show() == before
    browser.open("/schedules/nightly/edit")
    fields = filled_in(browser, "/schedules/nightly/edit", in_order="false", jitter="", args='{"b": 2}')
    load.schedules["nightly"].edit(delay="3m")
    post(browser, "/schedules/nightly/edit", fields)

    load.schedules["same"].edit(in_order=False, jitter=None, args={"b": 2}, delay="3m")
    assert shown(load) == shown(load, "same")


def test_pause_resume_and_delete_do_as_the_verbs(browser, load):
    load.schedules.add("nightly", "load", cron="30 2 * * *")
    browser.open("/schedules/nightly")

    browser.send("/schedules/nightly/do/pause")
    assert shown(load)["state"] == "paused"
    browser.send("/schedules/nightly/do/resume-latest")
    assert shown(load)["state"] == "active"
    browser.send("/schedules/nightly/ask/delete")
    browser.send("/schedules/nightly/do/delete")

    assert browser.notice == "schedule nightly was deleted"
    assert list(load.schedules.list()) == []


def test_a_slot_is_asked_about_and_marked(browser, load):
    load.schedules.add("daily", "load", cron="0 0 * * *")
    browser.open("/schedules/daily")

    page = browser.send("/schedules/daily/slot", slot="2020-01-01T00:00")
    assert page.find("ul", class_="because")
    browser.open("/schedules/daily")
    page = browser.send("/schedules/daily/mark", slot="2020-01-01T00:00")
    assert page.find("h1")[0].text == "Mark slot 2020-01-01T00:00 of schedule daily succeeded?"
    assert list(load.runs.list()) == []
    browser.send("/schedules/daily/mark")

    assert browser.notice == "slot 2020-01-01T00:00 of schedule daily counts as done"
    assert [run["state"] for run in load.runs.list()] == ["succeeded"]


@pytest.mark.parametrize(
    "path", ["/schedules/nightly/edit", "/schedules/nightly/do/delete", "/schedules/nightly/mark", "/new/schedule"]
)
def test_without_the_token_nothing_is_done(http, load, path):
    load.schedules.add("nightly", "load", cron="30 2 * * *")
    before = load.schedules["nightly"].show()

    answer = http.post(path, content="option.cron=0+0+*+*+*&name=x&option.job=load&slot=2020-01-01T02:30", headers=FORM)

    assert answer.status_code == 403
    assert load.schedules["nightly"].show() == before
    assert [one["key"] for one in load.schedules.list()] == ["nightly"]
    assert list(load.runs.list()) == []
