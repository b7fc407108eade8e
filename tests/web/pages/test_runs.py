"""The list of runs: filters, pages, and acting on those that were chosen or on all that match."""

from __future__ import annotations

import pytest

from rota.web.pages import runs as pages
from tests.web.pages.world import claim_all, end


@pytest.fixture
def load(rota):
    rota.jobs.add("load", shell="true")
    return rota


def numbers(page) -> list[int]:
    return [int(box.attributes["value"]) for box in page.find("input", class_="pick")]


def test_the_list_goes_on_from_page_to_page(browser, load, monkeypatch):
    monkeypatch.setattr(pages, "PAGE_RUNS", 2)
    ids = [handle.id for handle in load.enqueue_many([("load", {"n": n}) for n in range(5)])]

    seen = [numbers(browser.open("/runs"))]
    while links := browser.page.find("a", rel="next"):
        seen.append(numbers(browser.open(links[0].attributes["href"])))

    assert seen == [[ids[4], ids[3]], [ids[2], ids[1]], [ids[0]]]


def test_filters_stay_in_their_fields_and_in_the_links(browser, load, monkeypatch):
    monkeypatch.setattr(pages, "PAGE_RUNS", 1)
    load.enqueue_many([("load", {"n": n}) for n in range(3)])

    page = browser.open("/runs?job=load&state=ready&state=waiting&since=2020-01-01&until=2100-01-01")

    assert [one.attributes["value"] for one in page.find("input", name="state") if "checked" in one.attributes] == [
        "waiting",
        "ready",
    ]
    assert page.find("input", name="job")[0].attributes["value"] == "load"
    following = page.find("a", rel="next")[0].attributes["href"]
    assert following.startswith("/runs?job=load&since=2020-01-01&until=2100-01-01&state=ready&state=waiting&before=")


def test_a_job_and_a_time_show_the_runs_for_that_time(browser, load):
    number = load.enqueue("load").id
    at = load.runs[number].show()["enqueued_at"]

    inside = numbers(browser.open(f"/runs?job=load&from={at}&to=2100-01-01"))
    outside = numbers(browser.open("/runs?job=load&from=2100-01-01"))

    assert (inside, outside) == ([number], [])


def test_what_was_chosen_is_acted_on_and_what_is_refused_is_told(browser, load):
    first, second, third = (handle.id for handle in load.enqueue_many([("load", {"n": n}) for n in range(3)]))
    end(load, claim_all(load, 1)[0])
    browser.open("/runs")

    browser.send("/runs/act", choose="Skip…", run=[first, second])
    assert browser.page.find("h1")[0].text == "Skip 2 runs?"
    browser.send("/runs/act")

    assert browser.notice.startswith("Skip: done to 1 run. 1 refused: run ")
    assert "has ended already (succeeded)" in browser.notice
    assert [load.runs[one].state for one in (first, second, third)] == ["succeeded", "skipped", "ready"]


def test_all_that_match_are_acted_on_so_many_at_a_time_and_none_that_is_new(browser, load, monkeypatch):
    monkeypatch.setattr(pages, "BATCH_RUNS", 2)
    load.jobs.add("other", shell="true")
    other = load.enqueue("other").id
    ids = [handle.id for handle in load.enqueue_many([("load", {"n": n}) for n in range(5)])]
    browser.open("/runs?job=load&state=ready")

    browser.send("/runs/act", choose="Skip…", all="1")
    assert browser.page.find("h1")[0].text == "Skip 5 runs?"
    new = load.enqueue("load").id
    browser.send("/runs/act")
    assert browser.page.find("h1")[0].text == "Skip 3 runs?"
    browser.send("/runs/act")
    browser.send("/runs/act")

    assert browser.notice == "Skip: done to 1 run. These were all."
    assert {load.runs[one].state for one in ids} == {"skipped"}
    assert [load.runs[one].state for one in (other, new)] == ["ready", "ready"]


def test_all_of_some_slots_are_acted_on_so_many_at_a_time(browser, load, monkeypatch):
    monkeypatch.setattr(pages, "BATCH_RUNS", 2)
    ids = [handle.id for handle in load.enqueue_many([("load", {"n": n}) for n in range(3)])]
    browser.open("/runs?job=load&from=2020-01-01&to=2100-01-01")

    browser.send("/runs/act", choose="Skip…", all="1")
    browser.send("/runs/act")
    assert browser.page.find("h1")[0].text == "Skip 1 run?"
    browser.send("/runs/act")

    assert {load.runs[one].state for one in ids} == {"skipped"}


def test_more_than_are_counted_are_told_as_such(browser, load, monkeypatch):
    monkeypatch.setattr(pages, "COUNTED_MAX", 2)
    monkeypatch.setattr(pages, "COUNT_STEP", 2)
    load.enqueue_many([("load", {"n": n}) for n in range(5)])

    page = browser.open("/runs/act?do=skip&all=1&job=load")

    assert page.find("h1")[0].text == "Skip 2 or more runs?"


def test_a_look_changes_nothing(browser, load):
    number = load.enqueue("load").id
    before = load.runs[number].show()

    for do in ("rerun", "cancel", "skip", "freeze", "thaw", "mark-succeeded"):
        browser.open(f"/runs/act?do={do}&run={number}")
        browser.open(f"/runs/act?do={do}&all=1")
        assert browser.http.get(f"/runs/{number}/{do}").status_code == 405

    assert load.runs[number].show() == before
