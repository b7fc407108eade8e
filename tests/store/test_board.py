"""The board shows what each job had, has and will have, however much of it there is."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import pytest

from rota.model.board import NODE_ZOOMS, ZOOMS
from rota.model.run import NewRun
from rota.store import board as store
from rota.store.board import Board, Line, read_job_board, read_node_board, read_throughput
from rota.store.firing import fire_schedules
from rota.store.interventions import rerun_run
from rota.store.rollups import fold_tallies
from tests.clock import BEGINNING
from tests.store.ledger import Ledger

# What is counted is tested on every database by `test_rollups`.
pytestmark = pytest.mark.takes_turns

HOUR = timedelta(hours=1)
NOON = BEGINNING
SEEN = [zoom for zoom in ZOOMS if zoom != "year"]


def look(ledger: Ledger, zoom: str = "day", **options: Any) -> Board:
    return read_job_board(ledger.database, ZOOMS[zoom], **({"limit": 50} | options))


def line(board: Board, name: str = "job") -> Line:
    (found,) = (one for one in board.lines if one.name == name)
    return found


def at(board: Board, moment: datetime, name: str = "job") -> dict[str, int]:
    cell = line(board, name).cells.get(board.window.cell_of(moment))
    return {} if cell is None else cell.counts


def summed(one: Line) -> Counter[str]:
    found: Counter[str] = Counter()
    for cell in one.cells.values():
        found.update(cell.counts)
    return found


@pytest.fixture
def mixed(ledger: Ledger) -> Ledger:
    """A job with one good run an hour ago, a bad one and one that runs now, and one that waits for tomorrow."""
    ledger.clock.advance(hours=-1)
    ledger.add_job(retries=0)
    ledger.enqueue()
    ledger.end(ledger.claim_one())
    ledger.clock.advance(hours=1)
    ledger.enqueue()
    ledger.end(ledger.claim_one(), "exception")
    ledger.enqueue()
    ledger.claim_one()
    ledger.enqueue(run_at=NOON + 24 * HOUR)
    return ledger


@pytest.mark.parametrize("is_folded", [False, True], ids=["told", "folded"])
@pytest.mark.parametrize("zoom", SEEN)
def test_each_zoom_shows_the_same_runs(mixed: Ledger, zoom: str, is_folded: bool) -> None:
    if is_folded:
        fold_tallies(mixed.database)
    board = look(mixed, zoom)
    here = at(board, NOON)

    assert here["failed"] == here["running"] == 1
    past = board.window.start <= NOON - HOUR
    assert summed(line(board))["succeeded"] == (1 if past else 0)
    assert not past or at(board, NOON - HOUR)["succeeded"] == 1
    is_shown = board.window.end > NOON + 24 * HOUR
    assert (summed(line(board))["waiting"], line(board).later) == ((1, {}) if is_shown else (0, {"waiting": 1}))
    assert summed(board.all)["failed"] == 1


def test_a_cell_with_one_run_says_which(mixed: Ledger) -> None:
    board = look(mixed, "6h")
    cells = line(board).cells

    assert cells[board.window.cell_of(NOON - HOUR)].run_id == 1
    assert cells[board.window.cell_of(NOON)].run_id is None


def test_what_is_for_an_earlier_time_and_not_finished_is_told_beside_the_cells(mixed: Ledger) -> None:
    mixed.clock.advance(days=40)

    assert line(look(mixed, "day")).before == {"running": 1, "waiting": 1}


def test_of_a_job_with_too_many_runs_quarters_of_an_hour_are_shown(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, count in (("few", 3), ("many", 10)):
        ledger.add_job(name)
        for _ in range(count):
            ledger.enqueue(name)
            ledger.end(ledger.claim_one())
    exact = look(ledger, "hour")
    monkeypatch.setattr(store, "RUNS_MAX", 5)
    board = look(ledger, "hour")

    assert at(exact, NOON, "few") == at(board, NOON, "few") == {"succeeded": 3}
    assert at(exact, NOON, "many") == {"succeeded": 10}
    assert summed(line(board, "many"))["succeeded"] == 10
    assert summed(board.all) == summed(exact.all)


def test_a_row_for_many_slots_is_shown_where_these_were(ledger: Ledger) -> None:
    ledger.add_job()
    ledger.add_schedule(next_slot_at=NOON - 5 * HOUR, expression="*/10 * * * *", catch_up="latest", catch_up_limit=2)
    fire_schedules(ledger.database, fired_by="a", limit=10)

    for folded in (False, True):
        board = look(ledger, "day")
        assert summed(line(board)) == {"missed": 30, "ready": 1}
        assert {
            sum(
                at(board, NOON - hours * HOUR + timedelta(minutes=15 * quarter)).get("missed", 0)
                for quarter in range(4)
            )
            for hours in range(1, 6)
        } == {6}
        assert not folded or ledger.value("select count(*) from rota_tally") == 0
        fold_tallies(ledger.database)


def test_slots_to_come_are_shown_once_a_cell(ledger: Ledger) -> None:
    ledger.add_job()
    ledger.add_job("paused", state="paused")
    for job in ("job", "paused"):
        ledger.add_schedule(f"of-{job}", job, next_slot_at=NOON + timedelta(minutes=5), expression="*/5 * * * *")
    board = look(ledger, "day")
    coming = {cell: one.coming_at for cell, one in line(board).cells.items() if one.coming_at is not None}

    first = board.window.cell_of(NOON)
    assert coming == {
        first: NOON + timedelta(minutes=5),
        **{cell: board.window.start_of(cell) for cell in range(first + 1, board.window.zoom.cell_count)},
    }
    assert line(board, "paused").cells == {}


def test_a_schedule_that_makes_no_sense_hides_no_other(ledger: Ledger) -> None:
    ledger.add_job()
    ledger.add_schedule("bad", next_slot_at=NOON + HOUR, expression="nonsense")
    ledger.add_schedule("good", next_slot_at=NOON + HOUR, expression="0 * * * *")

    assert any(cell.coming_at == NOON + HOUR for cell in line(look(ledger)).cells.values())


def test_pages_follow_each_other_and_names_are_searched(ledger: Ledger) -> None:
    for name in ("load_a", "load_b", "Load_c", "mail", "per%cent"):
        ledger.add_job(name)
    names: list[str] = []
    after = ""
    while True:
        board = look(ledger, part="LOAD", after=after, limit=2)
        names += [one.name for one in board.lines]
        if board.next is None:
            break
        after = board.next

    assert sorted(names) == ["Load_c", "load_a", "load_b"]
    assert [one.name for one in look(ledger, part="%").lines] == ["per%cent"]
    assert look(ledger, part="nothing").lines == []


@pytest.mark.parametrize("is_folded", [False, True], ids=["told", "folded"])
def test_only_jobs_with_trouble_are_shown_where_they_are_asked_for(mixed: Ledger, is_folded: bool) -> None:
    mixed.add_job("well")
    mixed.enqueue("well")
    mixed.end(mixed.claim_one())
    if is_folded:
        fold_tallies(mixed.database)

    assert [one.name for one in look(mixed, is_troubled=True).lines] == ["job"]
    assert look(mixed, is_troubled=True, start=NOON - 90 * HOUR).lines == []
    rerun_run(mixed.database, 2, actor="ann@desk")
    fold_tallies(mixed.database)
    assert look(mixed, is_troubled=True).lines == []


def test_many_jobs_with_trouble_come_page_by_page(ledger: Ledger) -> None:
    for number in range(6):
        ledger.add_job(f"job-{number}", retries=0)
        ledger.enqueue(f"job-{number}")
        ledger.end(ledger.claim_one(), *(["exception"] if number % 2 else []))
    fold_tallies(ledger.database)
    pages: list[tuple[list[str], str | None]] = []

    after: str | None = ""
    while after is not None:
        board = look(ledger, is_troubled=True, limit=1, after=after)
        pages.append(([one.name for one in board.lines], board.next))
        after = board.next

    # The last page is found the other way: there is less than it asks for.
    assert pages == [(["job-1"], "job-1"), (["job-3"], "job-3"), (["job-5"], None)]


def test_the_last_hours_tell_how_runs_ended_and_how_late_they_started(ledger: Ledger) -> None:
    ledger.add_job()
    ledger.enqueue_many([NewRun("job") for _ in range(3)])
    ledger.clock.advance(seconds=20)
    first, second = ledger.claim(limit=2)
    ledger.end(ledger.started(first))
    ledger.end(ledger.started(second), "failed")
    ledger.clock.advance(hours=1)

    found = read_throughput(ledger.database, 2)

    (hour,) = found.ended
    assert (found.start, found.end - found.start, hour) == (hour, timedelta(hours=2), BEGINNING)
    assert found.ended[hour] == {"succeeded": 1, "failed": 1}
    assert found.delays[hour] == (pytest.approx(40.0, abs=0.01), 2)
    assert read_throughput(ledger.database, 1).ended == {}


def test_nodes_are_shown_by_when_attempts_ended_on_them(mixed: Ledger) -> None:
    mixed.execute(
        "insert into rota_node (name, state, boot_id, pid, pid_started, holder, host, version, pools, slots, "
        "started_at, seen_at) select 'a', 'alive', 'b', 1, 1, 'h', 'h', '1', '[]', 4, max(enqueued_at), "
        "max(enqueued_at) from rota_run"
    )
    board = read_node_board(mixed.database, NODE_ZOOMS["day"], limit=50)

    assert at(board, NOON - HOUR, "a") == {"succeeded": 1}
    assert at(board, NOON, "a") == {"failed": 1, "running": 1}


def test_what_has_ended_is_not_shown_in_the_future(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.add_job()
    for _ in range(30):
        ledger.enqueue()
    ledger.end_all(ledger.claim(limit=30))
    ledger.clock.advance(minutes=3)
    monkeypatch.setattr(store, "RUNS_MAX", 5)
    board = look(ledger, "hour")

    for one in (board.all, line(board)):
        assert summed(one) == {"succeeded": 30}
        assert max(one.cells) <= board.window.cell_of(ledger.clock.now)
