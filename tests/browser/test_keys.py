"""The board by keys, and what every page has: themes, keys, and a way past the navigation."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.browser.moving import with_and_without_script
from tests.web.pages.world import claim_all, end

THE_CELL_THAT_HAS_FOCUS = "document.activeElement.querySelector('title')?.textContent"


@pytest.fixture
def board(rota):
    """A run of each of two jobs that has failed, and one between them whose runs are to come."""
    for name in ("a", "b", "c"):
        rota.jobs.add(name, shell="true")
    rota.schedules.add("of-b", "b", cron="* * * * *")
    for name in ("a", "c"):
        rota.enqueue(name)
        end(rota, claim_all(rota, 1)[0], "exited", b"no\n", exit_code=1)
    return rota


def test_arrows_lead_from_cell_to_cell_and_a_panel_says_why(visit, board):
    page = visit("/board?zoom=hour", clock=True)
    row_of = {name: page.get_by_role("row", name=re.compile(f"^{name} ")) for name in ("a", "b", "c")}

    def focused() -> str:
        return page.evaluate(THE_CELL_THAT_HAS_FOCUS)

    row_of["a"].locator("svg a").focus()
    assert focused().startswith("a, ")
    assert focused().endswith(": 1 failed")
    page.keyboard.press("ArrowDown")
    first = focused()
    assert first.startswith("b, ")
    page.keyboard.press("ArrowRight")
    assert focused().startswith("b, ")
    assert focused() > first
    page.keyboard.press("ArrowLeft")
    assert focused() == first
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert focused().startswith("c, ")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    assert focused().startswith("a, ")

    panel = page.locator("#panel")
    expect(panel).to_be_hidden()
    page.keyboard.press("Enter")
    expect(panel).to_contain_text("Run 1 failed: attempt 1 on alpha exited with 1")
    assert page.url.endswith("/board?zoom=hour")
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    assert focused().startswith("a, ")
    page.keyboard.press("Enter")
    panel.get_by_role("link", name="Run 1").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Run 1 of a")


def test_the_cell_that_is_looked_at_stays_so_when_the_board_renews_itself(visit, board):
    page = visit("/board?zoom=hour&search=a", clock=True)
    page.get_by_role("row", name=re.compile("^a ")).locator("svg a").focus()

    board.enqueue("a")
    end(board, claim_all(board, 1)[0], "exited", exit_code=1)
    page.evaluate("document.querySelector('table.board').classList.add('of-before')")
    page.clock.fast_forward(60_000)

    expect(page.locator("table.of-before")).to_have_count(0)
    expect(page.get_by_role("row", name=re.compile("^a ")).locator("svg a:focus")).to_have_count(1)


@with_and_without_script
def test_the_board_is_looked_at_more_and_less_closely(visit, board, script):
    page = visit("/board", script=script)
    expect(page.locator("[aria-label=Zoom] [aria-current]")).to_have_text("day")

    page.get_by_role("link", name="week").click()
    expect(page.locator("[aria-label=Zoom] [aria-current]")).to_have_text("week")
    page.locator("tr.all svg a").last.click()
    expect(page.locator("[aria-label=Zoom] [aria-current]")).to_have_text("day")
    page.get_by_role("link", name="◂ earlier").click()
    page.get_by_label("Jobs with").fill("a")
    page.get_by_role("button", name="Show").click()

    expect(page.locator("[aria-label=Zoom] [aria-current]")).to_have_text("day")
    expect(page.locator("tbody tr")).to_have_count(2)


def test_the_line_of_now_takes_no_click_from_the_cell_that_it_crosses(visit, board):
    page = visit("/board?zoom=week")

    hit = page.locator("tr.all line.now").first.evaluate(
        """line => {
          const { x, y, height } = line.getBoundingClientRect();
          return document.elementFromPoint(x, y + height / 2).tagName;
        }"""
    )

    assert hit != "line"


def test_without_script_a_cell_leads_to_its_run(visit, board):
    page = visit("/board?zoom=hour&search=a", script=False)

    page.get_by_role("row", name=re.compile("^a ")).locator("svg a").click()

    expect(page.get_by_role("heading", level=1)).to_have_text("Run 1 of a")


def test_the_theme_that_was_chosen_stays(visit, rota):
    page = visit("/")
    button = page.get_by_role("button", name="Theme")
    colour = "getComputedStyle(document.body).color"
    expect(button).to_have_text("Theme: auto")

    button.click()
    expect(page.locator("html[data-theme=light]")).to_have_count(1)
    light = page.evaluate(colour)
    button.click()
    expect(button).to_have_text("Theme: dark")
    dark = page.evaluate(colour)
    page.goto("/jobs")

    expect(page.get_by_role("button", name="Theme")).to_have_text("Theme: dark")
    assert (page.evaluate(colour), dark == light) == (dark, False)
    page.get_by_role("button", name="Theme").click()
    expect(page.locator("html[data-theme]")).to_have_count(0)


def test_keys_lead_everywhere_and_are_listed(visit, rota):
    page = visit("/")

    page.keyboard.press("?")
    listed = page.get_by_role("dialog")
    expect(listed).to_contain_text("g r")
    page.keyboard.press("g")
    page.keyboard.press("r")
    expect(listed).to_be_visible()
    page.keyboard.press("Escape")
    expect(listed).to_be_hidden()

    for link in page.locator("nav a[data-key]").evaluate_all("all => all.map(one => [one.dataset.key, one.pathname])"):
        key, path = link
        page.keyboard.press("g")
        page.keyboard.press(key)
        page.wait_for_url(f"**{path}")
        expect(page.locator("nav [aria-current=page]")).to_have_attribute("data-key", key)

    page.goto("/jobs")
    page.keyboard.press("/")
    expect(page.get_by_label("Name holds")).to_be_focused()
    page.keyboard.press("?")
    expect(page.get_by_label("Name holds")).to_have_value("?")
    expect(page.get_by_role("dialog")).to_be_hidden()


@with_and_without_script
def test_the_first_key_leads_past_the_navigation(visit, rota, script):
    page = visit("/jobs", script=script)

    page.keyboard.press("Tab")
    page.keyboard.press("Enter")

    expect(page.locator("#main")).to_be_focused()
