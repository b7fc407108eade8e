"""Who is let in, in a browser: the log-in, its refusals, what a role may not, and the log-out."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from rota.model.access import choose_access
from tests.browser.moving import with_and_without_script
from tests.web.pages.world import claim_all, end

PASSWORD = "correct horse battery"
WITH_LOG_IN = choose_access("127.0.0.1", names=["localhost"])


@pytest.fixture
def load(rota):
    """A run that has failed, and who may look at it, or do it again."""
    rota.jobs.add("load", shell="true")
    rota.enqueue("load")
    end(rota, claim_all(rota)[0], "exited", exit_code=1)
    rota.users.add("olga", role="operator", password=PASSWORD)
    rota.users.add("vic", role="viewer", password=PASSWORD)
    return rota


def log_in(page: Page, user: str, password: str = PASSWORD) -> None:
    page.get_by_label("User").fill(user)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()


@with_and_without_script
def test_whoever_logs_in_comes_to_where_they_wanted_acts_and_logs_out(visit, load, script):
    page = visit("/runs/1", script=script, refused=(401,), access=WITH_LOG_IN)
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")
    expect(page.get_by_role("navigation").get_by_role("listitem")).to_have_count(0)

    log_in(page, "olga", "wrong horse battery")
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.get_by_label("User")).to_have_value("olga")
    expect(page.get_by_label("Password")).to_be_focused()
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("you are logged in as olga")
    expect(page.get_by_role("heading", level=1)).to_have_text("Run 1 of load")
    page.get_by_role("button", name="Rerun").click()
    expect(page.get_by_role("status")).to_have_text("run 1: it will be done again")
    assert load.audit(actor="olga", limit=1)[0]["did"] == "ready"
    page.get_by_role("button", name="Log out").click()

    expect(page.get_by_role("status")).to_have_text("you are logged out")
    page.goto("/runs/1")
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")
    page.go_back()
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")


@with_and_without_script
def test_a_viewer_looks_and_is_told_what_they_may_not(visit, load, script):
    page = visit("/runs/1", script=script, refused=(403,), access=WITH_LOG_IN)
    log_in(page, "vic")
    expect(page.get_by_role("heading", level=1)).to_have_text("Run 1 of load")
    expect(page.get_by_role("button", name="Rerun")).to_have_count(0)

    page.goto("/runs/act?do=rerun&run=1")
    page.get_by_role("button", name="Rerun").click()

    expect(page.locator(".problem")).to_have_text("run.rerun wants the role operator; vic is viewer")
    assert load.runs[1].state == "failed"
    page.goto("/new/job")
    expect(page.locator(".problem")).to_have_text("job.add wants the role admin; vic is viewer")
    page.get_by_role("link", name="To the overview").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")


def test_a_page_that_is_open_says_that_it_is_stale_when_the_log_in_is_over(visit, load):
    page = visit("/", refused=(401,), access=WITH_LOG_IN, clock=True)
    log_in(page, "vic")
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")

    load.users.edit("vic", disable=True)
    for _ in range(2):
        with page.expect_response(lambda answer: answer.status == 401):
            page.clock.fast_forward(60_000)

    expect(page.locator("html.stale")).to_have_count(1)
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")
