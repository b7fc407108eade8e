"""Runs in a browser: a failure is found, read and done again; what runs is followed; many are acted on at once."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.browser.moving import move_until, with_and_without_script
from tests.web.pages.world import claim_all, end, report


@pytest.fixture
def load(rota):
    rota.jobs.add("load", shell="true")
    return rota


@with_and_without_script
def test_a_failed_run_is_found_on_the_overview_read_and_done_again(visit, load, script):
    number = load.enqueue("load").id
    end(load, claim_all(load)[0], "exited", b"opening the file\nit is not there\n", exit_code=3)
    page = visit("/", script=script)

    page.get_by_role("table").get_by_role("link", name=str(number), exact=True).first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Run {number} of load")
    expect(page.get_by_label("What the job wrote")).to_contain_text("it is not there")
    page.get_by_role("button", name="Rerun").click()

    expect(page.get_by_role("status")).to_have_text(f"run {number}: it will be done again")
    expect(page.locator(".verdict")).to_contain_text("ready")
    assert load.runs[number].state == "ready"


@with_and_without_script
def test_output_is_searched_and_taken_home(visit, load, script):
    number = load.enqueue("load").id
    lines = b"".join(b"line %d\n" % line for line in range(100))
    end(load, claim_all(load)[0], output=lines)
    page = visit(f"/runs/{number}", script=script)

    page.get_by_label("Search the output").fill("LINE 42")
    page.get_by_label("Search the output").press("Enter")
    expect(page.get_by_role("heading", level=2)).to_have_text("1 lines with “LINE 42”")
    expect(page.locator("table.found tr")).to_have_text(["43line 42"])
    with page.expect_download() as taken:
        page.get_by_role("link", name="Download").click()

    assert taken.value.suggested_filename == f"run-{number}-attempt-1.txt"
    assert taken.value.path().read_bytes() == lines


def test_what_a_running_job_writes_and_how_it_ends_is_seen_without_loading_the_page_again(visit, load):
    number = load.enqueue("load").id
    (claim,) = claim_all(load)
    report(load, claim, ("stdout", 0, b"first\n"))
    page = visit(f"/runs/{number}", clock=True)
    page.evaluate("window.isTheSamePage = true")
    expect(page.locator("#output-text")).to_have_text("first\n")
    expect(page.locator("#tail-state")).to_have_text("Following.")

    report(load, claim, ("stdout", 6, b"\x1b[31msecond\x1b[0m\n"), has_progress=True, progress=0.5)
    move_until(page, page.locator("#output-text"), "first\nsecond\n")
    expect(page.locator("#output-text .f1")).to_have_text("second")
    move_until(page, page.locator("#live"), re.compile("50 %"))

    report(load, claim, ("stdout", 22, b"last\n"))
    end(load, claim)
    move_until(page, page.locator("#tail-state"), "That was all.")
    move_until(page, page.locator(".verdict .state"), re.compile("succeeded"))
    expect(page.locator("#output-text")).to_have_text("first\nsecond\nlast\n")
    assert page.evaluate("window.isTheSamePage")
    expect(page.locator("[data-live], [data-tail]")).to_have_count(0)


def test_runs_are_found_by_a_name_that_completes_chosen_and_acted_on(visit, load):
    load.jobs.add("loading", shell="true")
    load.jobs.add("other", shell="true")
    chosen = [handle.id for handle in load.enqueue_many([("load", {"n": n}) for n in range(4)])]
    left = load.enqueue("other").id
    page = visit("/runs")

    page.get_by_label("Job", exact=True).press_sequentially("loa")
    expect(page.locator("#jobs option")).to_have_count(2)
    assert page.locator("#jobs option").evaluate_all("all => all.map(one => one.value)") == ["load", "loading"]
    page.get_by_label("Job", exact=True).fill("load")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("row")).to_have_count(5)

    for number in chosen[:2]:
        page.get_by_label(f"Choose run {number}").check()
    page.get_by_role("button", name="Skip…").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Skip 2 runs?")
    page.get_by_role("button", name="Skip").click()
    expect(page.get_by_role("status")).to_have_text("Skip: done to 2 runs.")
    assert [load.runs[one].state for one in chosen] == ["skipped", "skipped", "ready", "ready"]

    page.get_by_label("all that match, on all pages").check()
    page.get_by_role("button", name="Rerun…").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Rerun 4 runs?")
    page.get_by_role("button", name="Rerun").click()
    expect(page.get_by_role("status")).to_contain_text("Rerun: done to 2 runs. 2 refused")
    assert [load.runs[one].state for one in [*chosen, left]] == ["ready"] * 5


def test_a_page_of_runs_is_chosen_at_once_and_stays_chosen_while_it_is_looked_at(visit, load):
    load.enqueue_many([("load", {"n": n}) for n in range(3)])
    page = visit("/runs", clock=True)

    page.get_by_label("choose this page").check()
    load.enqueue("load")
    page.clock.fast_forward(60_000)
    expect(page.locator("input.pick:checked")).to_have_count(3)
    page.get_by_label("choose this page").uncheck()
    with page.expect_response(re.compile("live=1")):
        page.clock.fast_forward(60_000)

    expect(page.locator("input.pick")).to_have_count(4)
    expect(page.locator("input.pick:checked")).to_have_count(0)


def test_without_script_runs_are_chosen_and_acted_on(visit, load):
    chosen = [handle.id for handle in load.enqueue_many([("load", {"n": n}) for n in range(3)])]
    page = visit("/runs?job=load", script=False)

    page.get_by_label(f"Choose run {chosen[0]}").check()
    page.get_by_role("button", name="Cancel…").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("status")).to_have_text("Cancel: done to 1 run.")
    page.get_by_label("all that match, on all pages").check()
    page.get_by_role("button", name="Skip…").click()
    page.get_by_role("button", name="Skip").click()

    expect(page.get_by_role("status")).to_contain_text("Skip: done to 2 runs. 1 refused")
    assert [load.runs[one].state for one in chosen] == ["cancelled", "skipped", "skipped"]
