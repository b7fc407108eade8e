"""The board as a page: each cell says in words what it holds, and leads to it."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest

from tests.web.pages.world import claim_all, end


@pytest.fixture
def load(rota):
    rota.jobs.add("load", shell="true")
    rota.jobs.add("a/b", shell="true")
    return rota


def row_of(page, name: str):
    (row,) = [row for row in page.find("tr") if row.find("th") and row.find("th")[0].text.split()[:1] == [name]]
    return row


def cells_of(page, name: str) -> list[tuple[str, str, str]]:
    """Return class, words and address of each cell."""
    return [
        (cell.find("rect")[0].attributes["class"].split()[1], cell.find("title")[0].text, cell.attributes["href"])
        for cell in row_of(page, name).find("a")
        if cell.find("rect")
    ]


def test_a_single_run_is_what_its_cell_leads_to(browser, load):
    number = load.enqueue("load").id
    end(load, claim_all(load)[0], "exited", exit_code=1)

    page = browser.open("/board?zoom=hour")

    ((kind, said, href),) = cells_of(page, "load")
    assert (kind, href) == ("failed", f"/runs/{number}")
    assert said.startswith("load, 20")
    assert said.endswith(": 1 failed")
    assert row_of(page, "load").find("text", class_="failed")[0].text == "✕"
    assert cells_of(page, "a/b") == []
    assert row_of(page, "a/b").find("a")[0].attributes["href"] == "/jobs/a%2Fb"


def test_a_cell_of_many_leads_to_the_list_of_exactly_these(browser, load):
    handles = load.enqueue_many([("load", {"n": n}) for n in range(3)])
    for claim in claim_all(load):
        end(load, claim)

    cells = cells_of(browser.open("/board?zoom=year"), "load")

    ((kind, said, href),) = cells
    assert (kind, said.rpartition(": ")[2]) == ("succeeded", "3 succeeded")
    assert set(parse_qs(urlsplit(href).query)) == {"job", "from", "to"}
    listed = browser.open(href).find("input", class_="pick")
    assert {int(one.attributes["value"]) for one in listed} == {handle.id for handle in handles}


def test_what_is_to_come_looks_otherwise_and_now_is_marked(browser, load):
    load.schedules.add("nightly", "load", cron="* * * * *")

    page = browser.open("/board?zoom=hour")

    kinds = {kind for kind, _, _ in cells_of(page, "load")}
    assert kinds == {"coming"}
    assert ", due 20" in cells_of(page, "load")[0][1]
    lines = [one.attributes["class"] for one in page.find("line", class_="now")]
    assert lines == ["now edge", "now"] * 4  # above all, of all, and of two jobs; on an edge, which cells do not hide
    assert "times are UTC" in page.find("footer")[0].text
    (ahead, *_) = page.find("rect", class_="ahead")
    assert int(ahead.attributes["width"]) > 0
    past = browser.open("/board?zoom=hour&start=2020-01-01")
    assert past.find("line", class_="now") == []
    assert past.find("rect", class_="ahead")[0].attributes["width"] == "0"


def test_what_is_chosen_stays_when_one_looks_earlier_or_closer(browser, load):
    page = browser.open("/board?zoom=day&start=2026-01-10&search=lo&troubled=1")

    links = {one.text.strip(): one.attributes["href"] for one in page.find("a")}
    assert links["◂ earlier"] == "/board?zoom=day&start=2026-01-09T00%3A00%3A00Z&search=lo&troubled=1"
    assert links["later ▸"] == "/board?zoom=day&start=2026-01-11T00%3A00%3A00Z&search=lo&troubled=1"
    assert links["now"] == "/board?zoom=day&search=lo&troubled=1"
    assert links["hour"] == "/board?zoom=hour&start=2026-01-10T11%3A30%3A00Z&search=lo&troubled=1"
    assert page.find("input", name="search")[0].attributes["value"] == "lo"
    assert "checked" in page.find("input", name="troubled")[0].attributes


@pytest.mark.parametrize("zoom", ["hour", "6h", "day", "week", "month", "year"])
def test_every_zoom_has_marks_above_it(browser, load, zoom):
    page = browser.open(f"/board?zoom={zoom}")

    assert 5 <= len(page.find("text", class_="tick")) <= 14


def test_jobs_go_on_on_a_second_page(browser, rota):
    for number in range(51):
        rota.jobs.add(f"job{number:02}", shell="true")

    page = browser.open("/board")
    assert len(page.find("a", class_="name")) == 50
    page = browser.open(page.find("a", rel="next")[0].attributes["href"])

    assert [one.text for one in page.find("a", class_="name")] == ["job50"]


def test_nodes_have_a_board_of_their_own(browser, load):
    load.enqueue("load")
    load.enqueue("load")
    first, _ = claim_all(load)
    end(load, first)

    page = browser.open("/board/nodes")

    cells = cells_of(page, "alpha")  # two of them when the hour ends meanwhile
    assert {href for _, _, href in cells} == {"/nodes/alpha"}
    assert cells[-1][0] == "running"
    assert ", ".join(said.rpartition(": ")[2] for _, said, _ in cells) == "1 succeeded, 1 running"


@pytest.mark.parametrize("address", ["/board?zoom=eon", "/board?start=soon", "/board/nodes?zoom=hour"])
def test_what_cannot_be_read_is_refused(browser, address):
    browser.open(address, 422)
