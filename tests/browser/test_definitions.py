"""Jobs, schedules, periods and nodes in a browser: what operators change, with and without JavaScript."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from rota.store.periods import look_at_periods
from tests.browser.moving import with_and_without_script
from tests.web.pages.world import claim_all, end


@pytest.fixture
def load(rota):
    rota.jobs.add("load", shell="true")
    return rota


@with_and_without_script
def test_a_job_is_paused_and_goes_on(visit, load, script):
    page = visit("/jobs/load", script=script)

    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("status")).to_have_text("job load is paused")
    expect(page.locator(".verdict")).to_contain_text("paused")
    assert load.jobs.show("load")["state"] == "paused"
    page.get_by_role("button", name="Resume").click()

    expect(page.get_by_role("status")).to_have_text("job load goes on")
    assert load.jobs.show("load")["state"] == "active"


def test_a_job_is_added_edited_run_and_deleted(visit, rota):
    page = visit("/jobs")

    page.get_by_role("link", name="Add a job…").click()
    page.get_by_label("Name").fill("load")
    page.get_by_label("shell", exact=True).fill("echo done")
    page.get_by_role("button", name="Add it").click()
    expect(page.get_by_role("status")).to_have_text("job load was added")
    page.get_by_role("link", name="Edit…").click()
    page.get_by_label("retries", exact=True).fill("3")
    page.get_by_role("button", name="Change it").click()
    expect(page.get_by_role("status")).to_have_text("job load is at revision 2: retries")
    page.get_by_label("Arguments").fill('{"day": 1}')
    page.get_by_role("button", name="Run", exact=True).click()

    expect(page.get_by_role("status")).to_have_text("run 1 was asked for")
    assert rota.runs[1].show()["args"] == {"day": 1}
    rota.runs[1].skip()
    page.goto("/jobs/load")
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_role("status")).to_have_text("job load was deleted")
    expect(page.get_by_text("No such jobs.")).to_be_visible()


def test_a_schedule_shows_what_it_will_do_while_it_is_typed(visit, load):
    page = visit("/schedules", timezone_id="Asia/Tokyo")
    page.get_by_role("link", name="Add a schedule…").click()
    preview = page.get_by_label("Preview")
    page.evaluate("window.isTheSamePage = true")

    page.get_by_label("Key").fill("nightly")
    page.get_by_label("job", exact=True).fill("load")
    page.get_by_label("cron", exact=True).press_sequentially("30 2 * * *")
    expect(preview.locator(".verdict")).to_have_text("At 02:30 every day, in UTC.")
    expect(preview.get_by_role("row")).to_have_count(11)
    expect(preview.get_by_role("columnheader").nth(1)).to_have_text("In Asia/Tokyo")
    expect(preview.locator("tbody tr").first.locator("td").nth(1)).to_contain_text("11:30:00")
    page.get_by_label("tz", exact=True).fill("Europe/Nowhere")
    expect(preview.locator(".problem")).to_contain_text("Europe/Nowhere")
    page.get_by_label("tz", exact=True).fill("Europe/Amsterdam")
    expect(preview.locator(".verdict")).to_have_text("At 02:30 every day, in Europe/Amsterdam.")
    assert page.evaluate("window.isTheSamePage")
    assert len(load.schedules.list()) == 0
    page.get_by_role("button", name="Add it").click()

    expect(page.get_by_role("status")).to_have_text("schedule nightly was added")
    assert load.schedules["nightly"].show()["tz"] == "Europe/Amsterdam"


def test_without_script_a_schedule_is_shown_before_it_is_added_and_is_paused(visit, load):
    page = visit("/new/schedule", script=False)

    page.get_by_label("Key").fill("nightly")
    page.get_by_label("job", exact=True).fill("load")
    page.get_by_label("cron", exact=True).fill("30 2 * * *")
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_label("Preview").locator(".verdict")).to_have_text("At 02:30 every day, in UTC.")
    assert len(load.schedules.list()) == 0
    page.get_by_role("button", name="Add it").click()
    expect(page.get_by_role("status")).to_have_text("schedule nightly was added")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("status")).to_have_text("schedule nightly is paused")
    page.get_by_role("button", name="Resume, and run the latest slot").click()

    expect(page.get_by_role("status")).to_have_text("schedule nightly goes on, with its latest slot first")
    assert load.schedules["nightly"].show()["state"] == "active"


def state_of(rota, period):
    (state,) = (one["state"] for one in rota.periods.list("sales") if one["period"] == period)
    return state


@with_and_without_script
def test_a_period_is_worked_on_anew_with_what_is_built_on_it(visit, rota, script):
    rota.jobs.add("sales", shell="true", period="year", period_start="2020")
    rota.jobs.add("sum", shell="true", after=["sales"], period="year", period_start="2020")
    look_at_periods(rota.database)
    end(rota, claim_all(rota, 1)[0])
    look_at_periods(rota.database)
    assert state_of(rota, "2020") == "processed"
    page = visit("/periods/sales", script=script)

    page.get_by_role("link", name="2020").first.click()
    expect(page.get_by_label("Period", exact=True)).to_contain_text("processed")
    page.get_by_role("button", name="Reprocess…").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile(r"Reprocess \d periods\?"))
    expect(page.locator("ul.chosen").first).to_contain_text("2020")
    page.get_by_role("button", name="Reprocess").click()

    expect(page.get_by_role("status")).to_have_text(re.compile(r"Reprocess: \d periods"))
    assert state_of(rota, "2020") != "processed"


@with_and_without_script
def test_a_node_is_drained_and_claims_again(visit, load, script):
    load.enqueue("load")
    claim_all(load)
    page = visit("/nodes", script=script)

    page.get_by_role("link", name="alpha").click()
    page.get_by_role("button", name="Drain").click()
    expect(page.get_by_role("status")).to_have_text("node alpha claims nothing more")
    expect(page.locator(".verdict")).to_contain_text("by local@host")
    assert load.nodes.show("alpha")["drain_asked_at"] is not None
    page.get_by_role("button", name="Resume").click()

    expect(page.get_by_role("status")).to_have_text("node alpha claims again")
    assert load.nodes.show("alpha")["drain_asked_at"] is None
