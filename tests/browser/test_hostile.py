"""Hostile text in a browser: on every page, and in all that pages do by themselves, it is text and nothing else.

What would be wrong is found by ``watch``: a payload that ran or stands in a page as an element, a dialog, a request or
a link to elsewhere, an error, a violation of the content security policy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from rota import Rota
from rota.model.access import choose_access
from rota.model.run import NodeIdentity
from rota.store.nodes import register_node
from rota.web.pages.registry import PAGES
from tests.browser.moving import move_until
from tests.browser.watch import look_at
from tests.web.pages.test_every_page import FILES, HOSTILE_QUERY, address_of, database_url, filled, world
from tests.web.pages.world import ALL_HOSTILE, HOSTILE, OUTPUT, claim_all, end, report

__all__ = ["database_url", "world"]

# As far as names may be hostile: addresses of another scheme and of another host, and what is read from right to left.
NAMES = ["javascript:owned-1", "//evil.example/x", "data:text/html", "עברית.العربية"]
SHOWN = [one.path for one in PAGES if one.path not in FILES]


@pytest.fixture
def rota(database_url: str) -> Iterator[Rota]:
    """Whoever acts has a hostile name too."""
    made = Rota(database_url, actor=ALL_HOSTILE)
    yield made
    made.close()


@pytest.fixture
def hostile(world: Rota) -> Rota:
    """What every page is shown of, and things with hostile names, results, labels and output besides."""
    world.jobs.add("told", command=[ALL_HOSTILE, ALL_HOSTILE], variables={"TEXT": ALL_HOSTILE})
    world.enqueue("told", {"text": ALL_HOSTILE})
    for number, name in enumerate(NAMES):
        world.pools.create(name, nodes=["nobody"])
        world.jobs.add(name, shell=ALL_HOSTILE)
        world.enqueue(name, key=name)
        world.calendars.add(name, dates=["2026-12-24"])
        world.schedules.add(name, name, cron="* * * * *", calendars=[name], args={"text": ALL_HOSTILE})
        node = NodeIdentity(name, "h", f"b{number}")
        register_node(
            world.database, node, host=ALL_HOSTILE, pid=1, pid_started=1, pools=["default"], slots=1,
            version=ALL_HOSTILE[:50], lease_seconds=60.0, wanted=name, labels={"zone": ALL_HOSTILE},
            environments=[ALL_HOSTILE], secrets=[ALL_HOSTILE],
        )  # fmt: skip
    for claim in claim_all(world, 50):
        if claim.job == "told":
            end(world, claim, output=OUTPUT, result=json.dumps({ALL_HOSTILE: [ALL_HOSTILE]}))
        elif claim.job in NAMES:
            end(world, claim, "exited", OUTPUT, exit_code=1)
    world.runs[2].freeze()
    return world


def see(page: Page, address: str) -> None:
    """Look at a page, and at what becomes of it when it renews itself."""
    page.goto(address)
    live = page.locator("[data-live]")
    if live.count():
        live.evaluate("part => part.firstElementChild.classList.add('of-before')")
        page.clock.fast_forward(60_000)
        expect(page.locator(".of-before")).to_have_count(0)


def test_every_page_shows_what_is_hostile_as_text(visit, hostile):
    page = visit("/", clock=True)

    for path in SHOWN:
        see(page, address_of(path))
        assert look_at(page) == []


def test_every_thing_with_a_hostile_name_is_found_under_it(visit, hostile):
    page = visit("/", clock=True)

    for kind in ("jobs", "schedules", "pools", "calendars", "nodes"):
        page.goto(f"/{kind}")
        links = [page.locator("td:first-child").get_by_role("link", name=name, exact=True) for name in NAMES]
        for name, to in [(link.text_content(), link.get_attribute("href")) for link in links]:
            assert to == f"/{kind}/{quote(name, safe='')}"
            page.goto(to)
            expect(page.get_by_role("heading", level=1)).to_contain_text(name)
            assert look_at(page) == []


@pytest.mark.long
def test_hostile_addresses_are_text(visit, hostile):
    page = visit("/", clock=True, refused=(404, 422))

    for path in SHOWN:
        page.goto(filled(path) + HOSTILE_QUERY)
        assert look_at(page) == []


def test_what_is_written_while_somebody_looks_on_is_text(visit, world):
    number = world.enqueue("load", {"text": ALL_HOSTILE}).id
    (claim,) = (one for one in claim_all(world) if one.run_id == number)
    page = visit(f"/runs/{number}", clock=True)
    written = ""

    for piece in (*HOSTILE, "\x1b]8;;javascript:alert(1)\x07link\x1b]8;;\x07", "\x1b]0;untold\x07", "\0"):
        before, written = written, written + piece
        told = ("stdout", len(before.encode()), piece.encode())
        report(world, claim, told, has_progress=True, progress_message=ALL_HOSTILE)
    move_until(page, page.locator("#output-text"), re.compile("link"))
    assert look_at(page) == []
    move_until(page, page.locator("#live"), re.compile(re.escape(HOSTILE[0])))
    end(world, claim, "exception", error_type=ALL_HOSTILE, error_message=ALL_HOSTILE, traceback=ALL_HOSTILE)
    move_until(page, page.locator(".problem"), re.compile(re.escape(HOSTILE[0])))

    assert look_at(page) == []
    shown = page.locator("#output-text").text_content()
    assert all(text in shown for text in HOSTILE)
    assert "untold" not in shown


def test_the_panel_of_the_board_and_its_words_are_text(visit, hostile):
    page = visit("/board?zoom=hour", clock=True)

    for name in NAMES:
        row = page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True))
        row.locator("a:has(rect.failed)").focus()
        page.keyboard.press("Enter")
        expect(page.locator("#panel")).to_contain_text("exited with 1")
        assert look_at(page) == []


def test_what_a_hostile_hand_types_is_text(visit, hostile):
    page = visit("/new/schedule?name=x&option.job=load&option.cron=0+4+*+*+*")

    for field in ("every", "at", "tz", "args"):
        page.get_by_label(field, exact=True).fill(ALL_HOSTILE)
        expect(page.locator("#preview .problem")).to_contain_text("alert(1)")
        assert look_at(page) == []
        page.get_by_label(field, exact=True).fill("")
        expect(page.locator("#preview .problem")).to_have_count(0)
    page.goto("/runs")
    page.get_by_label("Job", exact=True).press_sequentially("javascript:")
    expect(page.locator("#jobs option")).to_have_count(1)
    page.goto("/runs/1")
    page.get_by_label("Search the output").fill(HOSTILE[0])
    page.get_by_label("Search the output").press("Enter")
    expect(page.locator("table.found tr").first).to_contain_text(ALL_HOSTILE)
    assert look_at(page) == []


def test_what_is_told_about_a_hostile_name_is_text(visit, hostile):
    page = visit("/")

    for name in NAMES:
        page.goto(f"/jobs/{quote(name, safe='')}")
        page.get_by_role("button", name="Pause").click()
        expect(page.get_by_role("status")).to_have_text(f"job {name} is paused")
        assert look_at(page) == []


def test_a_hostile_user_is_shown_again_as_text(visit, world):
    page = visit("/jobs", refused=(401,), access=choose_access("127.0.0.1", names=["localhost"]))

    page.get_by_label("User").fill(ALL_HOSTILE)
    page.get_by_label("Password").fill(ALL_HOSTILE)
    page.get_by_role("button", name="Log in").click()

    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.get_by_label("User")).to_have_value(ALL_HOSTILE[:200])
    assert look_at(page) == []
