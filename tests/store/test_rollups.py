"""How runs and attempts ended is counted once, by hours and days, whatever happens to them afterwards.

That every other test of the store leaves counts that agree with its ledger is looked at where a database is given back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Literal

import pytest

from rota.model.run import End
from rota.model.states import RunState
from rota.store import rollups
from rota.store.endings import end_runs, rescue_runs
from rota.store.firing import fire_schedules
from rota.store.interventions import mark_succeeded, rerun_run, skip_run
from rota.store.retention import remove_runs
from rota.store.rollups import ALL_JOBS, Unit, fold_tallies, read_all_counts, read_job_counts, read_node_counts
from tests.clock import BEGINNING
from tests.store.counted import miscounted
from tests.store.ledger import LEASE_SECONDS, Ledger
from tests.store.trouble import commit_breaks

pytestmark = pytest.mark.cases_take_turns

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NOON = BEGINNING
TODAY = BEGINNING.replace(hour=0)
ANN = "ann@desk"


def counted(
    ledger: Ledger, unit: Unit = Unit.HOUR, job_id: int = 1, first: datetime = TODAY - DAY, end: datetime = TODAY + DAY
) -> dict[tuple[datetime, str], int]:
    """How many of the job ended how, by when their stretch begins; what is nothing is left out."""
    if job_id == ALL_JOBS:
        counts = ledger.database.read(lambda connection: read_all_counts(connection, unit, first, end))
    else:
        counts = ledger.database.read(lambda connection: read_job_counts(connection, unit, [job_id], first, end))
    return {(start, state): one.ended_count for (_, start, state), one in counts.found.items() if one.ended_count}


def on_node(ledger: Ledger, node: str = "a") -> dict[tuple[datetime, str], int]:
    counts = ledger.database.read(
        lambda connection: read_node_counts(connection, Unit.HOUR, [node], TODAY - DAY, TODAY + DAY)
    )
    return {(start, state): one.ended_count for (_, start, state), one in counts.found.items() if one.ended_count}


def both(ledger: Ledger, look: Callable[[], object]) -> object:
    """What is counted before tallies are folded, which is what is counted afterwards."""
    before = look()
    while fold_tallies(ledger.database):
        pass
    assert ledger.value("select count(*) from rota_tally") == 0
    assert look() == before
    return before


def test_ends_are_counted_by_the_hours_and_days_that_they_are_for(ledger: Ledger) -> None:
    ledger.add_job()
    for kind, hours in (("succeeded", 0), ("exception", 1), ("succeeded", 0), ("succeeded", 23)):
        ledger.clock.advance(hours=hours)
        ledger.enqueue()
        ledger.end(ledger.claim_one(), kind)
    one, other = NOON + HOUR, NOON + 24 * HOUR

    assert both(ledger, lambda: counted(ledger, end=TODAY + 2 * DAY)) == {
        (NOON, "succeeded"): 1,
        (one, "failed"): 1,
        (one, "succeeded"): 1,
        (other, "succeeded"): 1,
    }
    of_days: object = {(TODAY, "succeeded"): 2, (TODAY, "failed"): 1, (TODAY + DAY, "succeeded"): 1}
    assert counted(ledger, Unit.DAY, end=TODAY + 2 * DAY) == of_days
    assert counted(ledger, Unit.DAY, ALL_JOBS, end=TODAY + 2 * DAY) == of_days


def test_a_slot_is_counted_by_its_slot_whenever_it_is_run(ledger: Ledger) -> None:
    ledger.add_job()
    ledger.add_schedule(next_slot_at=NOON - 3 * HOUR, expression="0 * * * *", overlap="allow", catch_up="all")
    fire_schedules(ledger.database, fired_by="a", limit=10)
    while claims := ledger.claim():
        ledger.end_all(claims)
        ledger.clock.advance(seconds=1)
    found = both(ledger, lambda: counted(ledger))

    assert isinstance(found, dict)
    assert {start for start, _ in found} == {NOON - 3 * HOUR, NOON - 2 * HOUR, NOON - HOUR, NOON}


def test_a_row_for_many_slots_is_counted_in_each_of_their_hours(ledger: Ledger) -> None:
    ledger.add_job()
    ledger.add_schedule(next_slot_at=NOON - 5 * HOUR, expression="*/10 * * * *", catch_up="latest", catch_up_limit=2)
    fire_schedules(ledger.database, fired_by="a", limit=10)
    found = both(ledger, lambda: counted(ledger))

    assert isinstance(found, dict)
    assert sum(found.values()) == 30
    assert [found[NOON - hours * HOUR, "missed"] for hours in (5, 4, 3, 2, 1)] == [6] * 5


def test_what_is_done_again_is_counted_as_what_it_becomes(ledger: Ledger) -> None:
    ledger.add_job()
    run_id = ledger.enqueue()
    ledger.end(ledger.claim_one(), "exception")
    both(ledger, lambda: counted(ledger))
    ledger.clock.advance(hours=2)

    rerun_run(ledger.database, run_id, actor=ANN)
    assert both(ledger, lambda: counted(ledger)) == {}
    ledger.end(ledger.claim_one())
    assert both(ledger, lambda: counted(ledger)) == {(NOON, "succeeded"): 1}
    assert on_node(ledger) == {(NOON, "failed"): 1, (NOON + 2 * HOUR, "succeeded"): 1}


def test_what_a_person_says_of_a_run_counts(ledger: Ledger) -> None:
    ledger.add_job()
    run_id = ledger.enqueue()
    skip_run(ledger.database, run_id, actor=ANN)
    assert both(ledger, lambda: counted(ledger)) == {(NOON, "skipped"): 1}

    mark_succeeded(ledger.database, run_id, actor=ANN)
    assert both(ledger, lambda: counted(ledger)) == {(NOON, "succeeded"): 1}


@pytest.mark.parametrize("is_folded", [False, True], ids=["at once", "after it was folded"])
def test_a_loss_whose_truth_comes_late_is_no_loss(ledger: Ledger, is_folded: bool) -> None:
    claim = ledger.start_one(delivery="at_most_once")
    ledger.clock.advance(seconds=LEASE_SECONDS + 1)
    rescue_runs(ledger.database, rescuer="b")
    assert (counted(ledger), on_node(ledger)) == ({(NOON, "lost"): 1}, {(NOON, "lost"): 1})
    if is_folded:
        fold_tallies(ledger.database)
    ledger.clock.advance(hours=1)

    ledger.end(claim, seconds=90.0)

    assert ledger.run(claim.run_id).state == RunState.SUCCEEDED.value
    assert both(ledger, lambda: counted(ledger)) == {(NOON, "succeeded"): 1}
    assert on_node(ledger) == {(NOON + HOUR, "succeeded"): 1}


def test_an_end_that_is_told_twice_counts_once(ledger: Ledger) -> None:
    claim = ledger.start_one()
    end = End(claim.claim_id, claim.run_id, "succeeded", seconds=3.0)

    end_runs(ledger.database, [end])
    end_runs(ledger.database, [end])

    assert both(ledger, lambda: counted(ledger)) == {(NOON, "succeeded"): 1}
    assert ledger.value("select sum(busy_seconds) from rota_node_rollup where unit = 'hour'") == 3.0


def test_what_was_removed_stays_counted(ledger: Ledger) -> None:
    ledger.add_job()
    for _ in range(3):
        ledger.enqueue()
        ledger.end(ledger.claim_one())
    ledger.clock.advance(days=3)

    assert remove_runs(ledger.database, {"succeeded": 86400.0}).runs == 2
    assert both(ledger, lambda: counted(ledger)) == {(NOON, "succeeded"): 3}


def test_how_long_runs_waited_is_counted_of_those_that_needed_one_attempt(ledger: Ledger) -> None:
    ledger.add_job(retries=1)
    ledger.enqueue()
    ledger.clock.advance(seconds=2.5)
    ledger.end(ledger.claim_one())
    again = ledger.enqueue()
    ledger.end(ledger.claim_one(), "exception")
    ledger.clock.advance(seconds=60)
    ledger.execute("update rota_run set state = 'ready', due_at = null where id = :id", id=again)
    ledger.end(ledger.claim_one())
    fold_tallies(ledger.database)

    (row,) = ledger.rows("select delay_seconds, delay_count from rota_job_rollup where unit = 'day' and job_id = 1")
    assert (row.delay_seconds, row.delay_count) == (pytest.approx(2.5, abs=1e-3), 1)


def test_of_many_hours_and_jobs_only_what_is_asked_for_is_read(ledger: Ledger) -> None:
    first, second = ledger.add_job("one"), ledger.add_job("two")
    for name in ("one", "two"):
        for _ in range(3):
            ledger.enqueue(name)
            ledger.end(ledger.claim_one())
            ledger.clock.advance(hours=1)

    both(ledger, lambda: counted(ledger, first=NOON + HOUR, end=NOON + 2 * HOUR))
    assert counted(ledger, job_id=first, first=NOON + HOUR, end=NOON + 2 * HOUR) == {(NOON + HOUR, "succeeded"): 1}
    assert counted(ledger, job_id=second, first=NOON, end=NOON + 3 * HOUR) == {}


def test_a_node_that_dies_while_it_folds_counts_nothing_twice(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.add_job()
    ledger.enqueue()
    ledger.end(ledger.claim_one())

    class Died(Exception):
        pass

    def die(*_: object) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(rollups, "encode_rows", die)
        with pytest.raises(Died):
            fold_tallies(ledger.database)

    assert both(ledger, lambda: counted(ledger)) == {(NOON, "succeeded"): 1}


@pytest.mark.parametrize("when", ["before", "after"])
def test_each_end_is_counted_once_though_the_answer_to_a_fold_is_lost(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, when: Literal["before", "after"]
) -> None:
    ledger.add_job()
    for _ in range(5):
        ledger.enqueue()
        ledger.end(ledger.claim_one())
    monkeypatch.setattr(rollups, "FIND_TALLIES", rollups.FIND_TALLIES.limit(3))
    monkeypatch.setattr(rollups, "FOLD_MAX", 3)

    while True:
        with commit_breaks(ledger.database, when) as broken:
            has_more = fold_tallies(ledger.database)
        if not has_more:
            break

    assert broken == [when]
    assert ledger.database.read(miscounted) == []
    assert ledger.value("select count(*) from rota_tally") == 0
    assert both(ledger, lambda: counted(ledger)) == {(NOON, "succeeded"): 5}
    assert on_node(ledger) == {(NOON, "succeeded"): 5}


def test_two_nodes_that_fold_at_once_count_each_tally_once(ledger: Ledger) -> None:
    ledger.add_job()
    for _ in range(20):
        ledger.enqueue()
        ledger.end(ledger.claim_one())
    others = [ledger.connect() for _ in range(3)]
    begun = threading.Barrier(len(others))

    def fold(number: int) -> None:
        begun.wait()
        fold_tallies(others[number])

    threads = [threading.Thread(target=fold, args=(number,)) for number in range(len(others))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert both(ledger, lambda: counted(ledger)) == {(NOON, "succeeded"): 20}
    assert ledger.value("select sum(ended_count) from rota_job_rollup where unit = 'hour' and job_id = 1") == 20


def test_tallies_are_folded_a_batch_at_a_time(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.add_job()
    for _ in range(3):
        ledger.enqueue()
        ledger.end(ledger.claim_one())
    told = ledger.value("select count(*) from rota_tally")
    monkeypatch.setattr(rollups, "FIND_TALLIES", rollups.FIND_TALLIES.limit(2))
    monkeypatch.setattr(rollups, "FOLD_MAX", 2)

    folded = [fold_tallies(ledger.database) for _ in range(told // 2 + 1)]

    assert folded == [True] * (told // 2) + [False]
    assert both(ledger, lambda: counted(ledger)) == {(NOON, "succeeded"): 3}


@pytest.mark.breaks_invariants
def test_quarters_and_hours_go_after_their_time_and_days_stay(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two", "three"):
        ledger.add_job(name)
        ledger.enqueue(name)
    ledger.end_all(ledger.claim())
    fold_tallies(ledger.database)
    monkeypatch.setattr(rollups, "JOBS_MAX", 2)
    monkeypatch.setattr(rollups, "FIND_COUNTED", rollups.FIND_COUNTED.limit(2))

    def units() -> list[str]:
        for unit in rollups.KEEP_SECONDS:
            after: int | None = -1
            while after is not None:
                after = rollups.remove_counts(ledger.database, unit, after=after)
        tables = ("job", "node")
        found = [ledger.rows(f"select unit from rota_{table}_rollup group by unit order by unit") for table in tables]
        assert found[0] == found[1]
        return [row.unit for row in found[0]]

    assert units() == ["day", "hour", "quarter"]
    ledger.clock.advance(days=9)
    assert units() == ["day", "hour"]
    ledger.clock.advance(days=100)
    assert units() == ["day"]
    assert counted(ledger, Unit.DAY, ALL_JOBS) == {(TODAY, "succeeded"): 3}
