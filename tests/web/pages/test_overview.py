"""The overview: what is wrong first, then what runs, the nodes, the day behind and the day ahead."""

from __future__ import annotations

from rota.web.pages import overview
from tests.web.pages.world import ALL_HOSTILE, claim_all, end, fail_with_everything, report


def bars(page, label: str) -> list[str]:
    (drawing,) = page.find("svg", aria_label=label)
    return [one.find("title")[0].text for one in drawing.find("a")]


def test_an_empty_database_says_how_to_begin(browser):
    page = browser.open("/")

    assert "start one with rota worker" in page.text
    assert len(bars(page, "the last 24 hours")) == 24


def test_what_is_wrong_comes_first(browser, rota):
    number = fail_with_everything(rota)
    rota.enqueue("load")
    (claim,) = claim_all(rota)
    report(rota, claim, has_progress=True, progress=0.25, progress_message=ALL_HOSTILE)

    page = browser.open("/")

    headings = [one.text for one in page.find("h2")]
    assert headings[:2] == ["Failed lately", "Running"]
    assert f"/runs/{number}" in {one.attributes["href"] for one in page.find("a", class_="name")}
    assert page.text.count(ALL_HOSTILE) == 2  # why it failed, and how far the other one is
    assert page.find("progress")[0].attributes["value"] == "0.25"
    assert "1 of 8" in page.text


def test_the_day_behind_and_how_late_runs_started(browser, rota):
    rota.jobs.add("load", shell="true")
    rota.enqueue_many([("load", {"n": n}) for n in range(3)])
    first, *others = claim_all(rota)
    end(rota, first, "failed")
    for claim in others:
        end(rota, claim)

    page = browser.open("/")

    told = [one for one in bars(page, "the last 24 hours") if "nothing ended" not in one]
    assert len(told) == 1
    assert "1 failed" in told[0]
    assert "2 succeeded" in told[0]
    assert "late on average" in told[0]


def test_the_day_ahead_looks_at_so_many_schedules_and_says_so(browser, rota, monkeypatch):
    monkeypatch.setattr(overview, "SCHEDULES_AHEAD", 2)
    rota.jobs.add("load", shell="true")
    for number in range(3):
        rota.schedules.add(f"s{number}", "load", cron="0 * * * *")

    page = browser.open("/")

    assert any(": 2 runs" in one for one in bars(page, "the next 24 hours"))
    assert "Of the next 2 schedules to be due" in page.text
