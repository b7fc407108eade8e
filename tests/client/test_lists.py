"""Lists go on from page to page, with each item once, and find what is asked for by its name."""

from __future__ import annotations

import pytest

from rota import Rota
from rota.errors import Invalid, NotFound


@pytest.fixture
def filled(rota: Rota) -> Rota:
    for name in ("a-b", "ab", "Sales-1", "sales-2", "zürich"):
        rota.jobs.add(name, shell="true", pool="p" if name == "ab" else "default")
        rota.schedules.add(f"s-{name}", name, every="1h")
        rota.pools.create(f"p-{name}", members=["n"])
        rota.calendars.add(f"c-{name}", weekdays=["sat"])
    rota.jobs.pause("sales-2")
    rota.schedules["s-ab"].pause()
    return rota


@pytest.mark.parametrize("kind", ["jobs", "schedules", "pools", "calendars"])
def test_pages_hold_each_item_once_in_the_order_of_all(filled: Rota, kind: str) -> None:
    things = getattr(filled, kind)
    key = "key" if kind == "schedules" else "name"
    everything = [view[key] for view in things.list()]

    found, after = [], None
    while True:
        page = things.list(limit=2, after=after)
        assert len(page) <= 2
        found += [view[key] for view in page]
        after = page.next
        if after is None:
            break

    assert len(everything) >= 5
    assert found == everything
    assert things.list().next is None


def test_a_page_that_is_just_full_has_no_next(filled: Rota) -> None:
    count = len(filled.jobs.list())

    assert filled.jobs.list(limit=count).next is None
    assert filled.jobs.list(limit=count - 1).next is not None


@pytest.mark.parametrize(
    ("part", "found"), [("SALES", {"Sales-1", "sales-2"}), ("a-", {"a-b"}), ("%", set()), ("_", set())]
)
def test_a_part_of_a_name_finds_it_whatever_the_case(filled: Rota, part: str, found: set[str]) -> None:
    assert {view["name"] for view in filled.jobs.list(search=part)} == found


def test_filters_go_together(filled: Rota) -> None:
    assert [view["name"] for view in filled.jobs.list(state="paused", search="sales")] == ["sales-2"]
    assert [view["name"] for view in filled.jobs.list(pool="p")] == ["ab"]
    assert [view["key"] for view in filled.schedules.list(state="paused")] == ["s-ab"]
    assert [view["key"] for view in filled.schedules.list(job="zürich")] == ["s-zürich"]
    assert filled.schedules.list(job="zürich", state="paused") == []


def test_a_filter_that_cannot_be_is_refused(filled: Rota) -> None:
    with pytest.raises(Invalid):
        filled.jobs.list(state="broken")
    with pytest.raises(Invalid):
        filled.jobs.list(limit=0)
    with pytest.raises(NotFound):
        filled.schedules.list(job="nobody")


def test_runs_that_few_pass_a_filter_are_looked_for_within_so_many(filled: Rota) -> None:
    first = filled.enqueue("ab")
    for _ in range(9):
        filled.enqueue("a-b")
    first.cancel()

    page = filled.runs.list(state="cancelled", within=4)
    pages = 1
    while not page and page.next is not None:
        page, pages = filled.runs.list(state="cancelled", within=4, before=page.next), pages + 1

    assert pages == 3
    assert [view["id"] for view in page] == [first.id]
    assert page.next is None
    assert [view["id"] for view in filled.runs.list(state="cancelled")] == [first.id]


def test_runs_of_a_job_are_those_of_the_one_that_is_there_or_of_one_that_was(filled: Rota) -> None:
    filled.jobs.add("gone", shell="true")
    before = filled.enqueue("gone")
    before.cancel()
    filled.jobs.delete("gone")
    assert [view["id"] for view in filled.runs.list("gone")] == [before.id]

    filled.jobs.add("gone", shell="true")
    after = filled.enqueue("gone")

    assert [view["id"] for view in filled.runs.list("gone")] == [after.id]


def test_pages_of_runs_hold_each_once(filled: Rota) -> None:
    ids = [filled.enqueue("ab").id for _ in range(5)]
    for filters in ({}, {"job": "ab"}, {"state": "ready"}, {"job": "ab", "state": "ready"}):
        found, before = [], None
        while True:
            page = filled.runs.list(limit=2, before=before, **filters)
            found += [view["id"] for view in page]
            before = page.next
            if before is None:
                break

        assert found == ids[::-1]


def test_backfills_go_on_from_page_to_page(filled: Rota) -> None:
    filled.schedules.add("daily", "a-b", cron="0 0 * * *")
    for day in (1, 2, 3):
        filled.backfills.start("daily", f"2026-01-0{day}", f"2026-01-0{day + 1}")

    page = filled.backfills.list(2)

    assert [view["id"] for view in page] == [3, 2]
    assert [view["id"] for view in filled.backfills.list(2, before=page.next)] == [1]
    assert filled.backfills.list(2, before=page.next).next is None
    assert filled.backfills.list(name="other", state="active") == []
