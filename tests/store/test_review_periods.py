"""Periods when truth comes late, rows are written by hand, runs have been removed, and many end at once."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from rota.model.backfill import Wish
from rota.model.keeping import KEEP_DEFAULT
from rota.model.run import Claim
from rota.store.firing import fire_schedules
from rota.store.interventions import mark_succeeded, rerun_run
from rota.store.period_actions import reprocess_periods
from rota.store.periods import look_at_periods, rewake_periods
from rota.store.resetting import reset_job
from rota.store.retention import remove_runs
from tests.store.ledger import Ledger, statements_of
from tests.store.timelines import Timelines

pytestmark = pytest.mark.takes_turns

HOURS = [f"2026-11-02T{hour:02}" for hour in range(24)]
FOR_A_DAY = dict.fromkeys(KEEP_DEFAULT, 86400.0)
RULES = "select timeline from rota_job where name = :name"
BREAK_RULES = "update rota_job set timeline = '{}' where name = :name"
MEND_RULES = "update rota_job set timeline = :rules where name = :name"


@pytest.fixture
def timelines(ledger: Ledger) -> Timelines:
    return Timelines(ledger)


def work_on_day(timelines: Timelines, **options: Any) -> Claim:
    """Do two hours, and have the day that rolls them up worked on."""
    timelines.add("hits", period_start="2026-11-01T22", periods_at_once=100)
    timelines.add("daily", "day", period_start="2026-11-01", rolls_up=["hits"], **options)
    timelines.look()
    claims = timelines.claim()
    timelines.ledger.end_all([claim for claim in claims if claim.job == "hits"])
    timelines.look()
    return next(claim for claim in [*claims, *timelines.claim()] if claim.job == "daily")


def days_runs(timelines: Timelines) -> list[str]:
    return [one.state for one in timelines.runs("daily") if one.period == "2026-11-01"]


# What changes beneath a period that is worked on


def test_a_day_at_work_is_done_again_when_an_hour_that_was_given_up_succeeds(
    timelines: Timelines, ledger: Ledger
) -> None:
    timelines.add("hits", period_start="2026-11-01T22", give_up_failures=1, periods_at_once=2)
    timelines.add("daily", "day", period_start="2026-11-01", rolls_up=["hits"])
    timelines.look()
    first, second = timelines.claim()
    ledger.end(first, "failed")
    ledger.end(second)
    timelines.look()
    day = {claim.job: claim for claim in timelines.claim()}["daily"]  # is worked on, without its first hour

    mark_succeeded(ledger.database, first.run_id, actor="ann")
    timelines.look()
    assert timelines.states("hits")["2026-11-01T22"] == "processed"
    ledger.end(day)
    timelines.work()

    assert timelines.states("daily")["2026-11-01"] == "processed"
    assert days_runs(timelines) == ["succeeded", "succeeded"]


def test_a_day_at_work_is_done_again_when_earlier_hours_come(timelines: Timelines, ledger: Ledger) -> None:
    day = work_on_day(timelines)

    timelines.edit("hits", period_start="2026-11-01T20")
    timelines.look()
    assert ledger.run(day.run_id).cancel_asked_at is not None
    ledger.end(day)  # made of two hours of four
    timelines.work()

    assert timelines.states("hits")["2026-11-01T20"] == "processed"
    assert timelines.states("daily")["2026-11-01"] == "processed"
    assert days_runs(timelines) == ["succeeded", "succeeded"]


def test_a_day_at_work_is_done_again_when_its_hours_are_reset(timelines: Timelines, ledger: Ledger) -> None:
    day = work_on_day(timelines)

    timelines.work()
    reset_job(ledger.database, "hits", actor="ann")
    timelines.look()
    ledger.end(day)
    timelines.work()

    assert timelines.states("daily")["2026-11-01"] == "processed"
    assert len(days_runs(timelines)) == 2


def test_what_blocks_nothing_goes_on_when_something_changes_beneath_it(timelines: Timelines, ledger: Ledger) -> None:
    day = work_on_day(timelines, blocking="normal")

    timelines.edit("hits", period_start="2026-11-01T20")
    timelines.look()
    assert ledger.run(day.run_id).cancel_asked_at is None
    ledger.end(day)
    timelines.work()

    assert timelines.states("daily")["2026-11-01"] == "processed"
    assert days_runs(timelines) == ["succeeded"]


def test_of_a_day_and_an_hour_that_succeed_late_in_one_look_the_day_is_done_again(
    timelines: Timelines, ledger: Ledger
) -> None:
    timelines.add("hits", period_start="2026-11-01T22", give_up_failures=1, periods_at_once=2)
    timelines.add("daily", "day", period_start="2026-11-01", rolls_up=["hits"], give_up_failures=1)
    bad = {"2026-11-01T22", "2026-11-01"}
    timelines.work(lambda claim: "failed" if claim.part is not None and claim.part.name in bad else "succeeded")
    hour, day = timelines.row("hits", "2026-11-01T22"), timelines.row("daily", "2026-11-01")
    assert (hour.reason, day.reason) == ("given_up", "given_up")

    rerun_run(ledger.database, day.run_id, actor="ann")
    for claim in timelines.claim():
        ledger.end(claim)  # the day succeeds, without that hour
    mark_succeeded(ledger.database, hour.run_id, actor="ann")
    timelines.done.clear()
    timelines.work()

    assert timelines.states("daily")["2026-11-01"] == "processed"
    assert timelines.done == [("daily", "2026-11-01")]


def test_no_more_are_worked_on_at_once_than_may_be_though_an_older_one_is_taken_back(
    timelines: Timelines, ledger: Ledger
) -> None:
    timelines.add("hits", period_start="2026-11-02T10")
    timelines.work(rounds=1)
    timelines.look()
    (claim,) = timelines.claim()
    assert claim.part is not None
    assert claim.part.name == HOURS[11]

    timelines.reprocess("hits", HOURS[10])
    timelines.look()
    row = timelines.row("hits", HOURS[10])
    assert (row.state, row.reason) == ("open", "limit")
    assert timelines.claim() == []
    ledger.end(claim)
    timelines.work()

    assert timelines.states("hits")[HOURS[10]] == "processed"
    assert timelines.done[-1] == ("hits", HOURS[10])


def test_a_younger_one_that_fails_on_and_on_keeps_no_older_one_from_being_done_again(
    timelines: Timelines, ledger: Ledger
) -> None:
    timelines.add("hits", period_start="2026-11-02T10", retries=1000, retry_delay="1h")

    def end(claim: Claim) -> str:
        return "failed" if claim.part is not None and claim.part.name == HOURS[11] else "succeeded"

    timelines.work(end)
    assert timelines.states("hits") == {HOURS[10]: "processed", HOURS[11]: "in_progress", HOURS[12]: "open"}

    timelines.reprocess("hits", HOURS[10])
    timelines.work(end)

    assert timelines.states("hits")[HOURS[10]] == "processed"
    assert timelines.done == [("hits", HOURS[10])] * 2


# What comes late of a period that was given up


def test_a_late_success_is_taken_note_of_though_more_is_due_than_one_look_takes(
    timelines: Timelines, ledger: Ledger
) -> None:
    for number in range(3):
        timelines.add(f"a{number}", period_start="2026-11-02T11")
    timelines.add("z", period_start="2026-11-02T11", give_up_failures=1)
    timelines.look()
    for claim in timelines.claim():
        ledger.end(claim, "failed" if claim.job == "z" else "succeeded")
    timelines.look()
    row = timelines.row("z", HOURS[11])
    assert row.state == "skipped"

    mark_succeeded(ledger.database, row.run_id, actor="ann")
    ledger.execute("update rota_period set due_at = start_at where state = 'open'")
    for _ in range(10):
        look_at_periods(ledger.database, limit=3)

    assert timelines.row("z", HOURS[11]).state == "processed"


def test_a_run_that_finds_late_that_there_is_nothing_to_do_has_done_it(timelines: Timelines, ledger: Ledger) -> None:
    timelines.add("hits", period_start="2026-11-02T11", give_up_failures=1)
    timelines.work(lambda _: "failed")

    rerun_run(ledger.database, timelines.row("hits", HOURS[11]).run_id, actor="ann")
    timelines.work(lambda _: "no_op")

    assert timelines.states("hits")[HOURS[11]] == "noop"


def test_a_late_success_of_a_part_has_the_rest_worked_on(timelines: Timelines, ledger: Ledger) -> None:
    timelines.add("live", period_mode="continuous", refresh="20m", give_up_failures=1)
    ledger.clock.advance(minutes=10)
    timelines.work(lambda _: "failed")
    row = timelines.row("live", HOURS[12])
    assert row.state == "skipped"

    rerun_run(ledger.database, row.run_id, actor="ann")
    ledger.clock.advance(minutes=10)
    timelines.work()
    assert timelines.row("live", HOURS[12]).state == "in_progress"
    ledger.clock.advance(hours=1)
    timelines.work()

    assert timelines.row("live", HOURS[12]).state == "processed"
    runs = [(one.range_start_at, one.range_end_at) for one in timelines.runs("live") if one.period == HOURS[12]]
    assert all(before[1] == after[0] for before, after in pairwise(runs))
    assert runs[-1][1] == row.end_at


@pytest.mark.parametrize("mode", ["continuous", "recomputing"])
def test_a_part_is_not_the_whole_when_the_mode_is_edited(timelines: Timelines, ledger: Ledger, mode: str) -> None:
    timelines.add("live", period_mode=mode, refresh="20m")
    ledger.clock.advance(minutes=10)
    timelines.work()

    timelines.edit("live", period_mode="discrete", refresh=None)
    timelines.work()
    assert timelines.states("live")[HOURS[12]] == "in_progress"
    ledger.clock.advance(hours=1)
    timelines.work()

    assert timelines.states("live")[HOURS[12]] == "processed"
    last = timelines.runs("live")[-1]
    assert (last.range_start_at, last.range_end_at) == (last.period_start_at, last.period_end_at)


@pytest.mark.parametrize("blocking", ["normal", "children"])
def test_what_builds_on_a_job_that_is_reset_waits_for_it_again(
    timelines: Timelines, ledger: Ledger, blocking: str
) -> None:
    timelines.add("child", "day", period_start="2026-10-30", retries=0)
    timelines.add("above", "day", period_start="2026-10-30", after=["child"], blocking=blocking)
    failing = {"2026-10-31"}

    def end(claim: Claim) -> str:
        return (
            "failed" if claim.job == "child" and claim.part is not None and claim.part.key in failing else "succeeded"
        )

    timelines.work(end, rounds=8)
    reset_job(ledger.database, "child", actor="ann")
    timelines.work(end, rounds=8)

    assert timelines.states("above")["2026-10-31"] in {"open", "in_progress"}
    failing.clear()
    ledger.clock.advance(hours=3)
    timelines.work(end)
    assert set(timelines.states("above").values()) <= {"processed", "open"}


# What is taken again


@pytest.mark.parametrize("ends", [(9, 11, 10), (10, 11, 9), (11, 10, 9), (11, 9, 10)])
@pytest.mark.parametrize("good", [9, 10, 11])
def test_what_failed_is_taken_again_in_whichever_order_it_ended(
    timelines: Timelines, ledger: Ledger, ends: tuple[int, ...], good: int
) -> None:
    timelines.add("hits", period_start="2026-11-02T09", give_up_failures=1, periods_at_once=3)
    timelines.look()
    claims = {claim.part.name: claim for claim in timelines.claim() if claim.part is not None}
    for hour in ends:
        ledger.end(claims[HOURS[hour]], "succeeded" if hour == good else "failed")
        timelines.look()
    if ledger.database.dialect.name == "postgresql":
        ledger.execute("analyze rota_period")

    found = reprocess_periods(
        ledger.database, "hits", HOURS[9], HOURS[11], wish=Wish(failed_only=True), actor="ann", dry_run=True
    )

    assert found["jobs"][0]["periods"] == [HOURS[hour] for hour in (9, 10, 11) if hour != good]


# What somebody wrote by hand


def test_a_reason_that_nobody_knows_stops_nobody_else(timelines: Timelines, ledger: Ledger) -> None:
    timelines.add("hits", period_start="2026-11-02T11")
    timelines.add("other", period_start="2026-11-02T11")
    timelines.look()
    claims = {claim.job: claim for claim in timelines.claim()}

    ledger.execute(
        "update rota_period set state = 'processed', reason = 'by_hand' where name = :name"
        " and job_id = (select id from rota_job where name = 'hits')",
        name=HOURS[11],
    )
    ledger.end(claims["hits"])
    ledger.end(claims["other"])
    timelines.look()

    assert timelines.states("other")[HOURS[11]] == "processed"


def test_a_day_waits_for_hours_whose_rules_cannot_be_read(timelines: Timelines, ledger: Ledger) -> None:
    timelines.add("hits", period_start="2026-11-01T22")
    timelines.add("daily", "day", period_start="2026-11-01", rolls_up=["hits"])
    rules = ledger.value(RULES, name="hits")

    ledger.execute(BREAK_RULES, name="hits")
    timelines.work()
    row = timelines.row("daily", "2026-11-01")
    assert (row.state, row.reason_text) == ("open", "it waits for hits, whose rules cannot be read")
    ledger.execute(MEND_RULES, name="hits", rules=rules)
    rewake_periods(ledger.database)
    timelines.work()

    assert timelines.states("daily")["2026-11-01"] == "processed"


def test_a_day_waits_for_an_upstream_that_is_gone(timelines: Timelines, ledger: Ledger) -> None:
    timelines.add("sales", "day", period_start="2026-11-01")
    timelines.add("daily", "day", period_start="2026-11-01", after=["sales"])

    ledger.execute("delete from rota_job where name = 'sales'")
    timelines.work()

    assert timelines.states("daily")["2026-11-01"] == "open"


def test_a_late_success_while_the_rules_cannot_be_read_is_not_lost(timelines: Timelines, ledger: Ledger) -> None:
    timelines.add("hits", period_start="2026-11-02T11", give_up_failures=1)
    timelines.work(lambda _: "failed")
    before = timelines.row("hits", HOURS[11])
    rules = ledger.value(RULES, name="hits")

    ledger.execute(BREAK_RULES, name="hits")
    mark_succeeded(ledger.database, before.run_id, actor="ann")
    timelines.look()
    ledger.execute(MEND_RULES, name="hits", rules=rules)
    rewake_periods(ledger.database)
    timelines.look()

    assert timelines.states("hits")[HOURS[11]] == "processed"


def test_what_waited_for_its_rules_goes_on_when_they_are_mended(timelines: Timelines, ledger: Ledger) -> None:
    timelines.add("live", period_mode="continuous", refresh="20m")
    ledger.clock.advance(minutes=10)
    timelines.work()
    rules = ledger.value(RULES, name="live")

    ledger.execute(BREAK_RULES, name="live")
    ledger.clock.advance(minutes=30)
    timelines.look()
    assert timelines.row("live", HOURS[12]).reason == "invalid"
    ledger.execute(MEND_RULES, name="live", rules=rules)
    timelines.edit("live", refresh="10m")
    ledger.clock.advance(hours=2)
    timelines.work()

    assert timelines.row("live", HOURS[12]).state == "processed"


# What retention leaves


def test_the_run_of_a_period_that_waits_for_a_person_is_kept(timelines: Timelines, ledger: Ledger) -> None:
    timelines.add("hits", period_start="2026-11-02T10", retries=1, retry_delay="0s", periods_at_once=2)

    def end(claim: Claim) -> str:
        return "failed" if claim.part is not None and claim.part.name == HOURS[10] else "succeeded"

    timelines.work(end)
    before = timelines.row("hits", HOURS[10])
    assert before.reason == "failed"

    ledger.clock.advance(days=2)
    timelines.work(end)
    assert remove_runs(ledger.database, FOR_A_DAY).runs
    timelines.done.clear()
    rewake_periods(ledger.database)
    timelines.work()

    assert (timelines.done, timelines.row("hits", HOURS[10]).run_id) == ([], before.run_id)


def test_a_period_that_is_done_and_waits_for_others_is_not_done_twice(timelines: Timelines, ledger: Ledger) -> None:
    timelines.add("hits", period_start="2026-11-01T22", retries=1, retry_delay="0s")
    timelines.add("daily", "day", period_start="2026-11-01", rolls_up=["hits"], blocking="normal", periods_at_once=5)

    def end(claim: Claim) -> str:
        return "failed" if claim.job == "hits" else "succeeded"

    timelines.work(end)
    assert "its run is done" in timelines.row("daily", "2026-11-01").reason_text

    ledger.clock.advance(days=2)
    timelines.work(end)
    remove_runs(ledger.database, FOR_A_DAY)
    timelines.done.clear()
    rewake_periods(ledger.database)
    timelines.work(end)

    assert ("daily", "2026-11-01") not in timelines.done


def test_a_period_goes_by_the_slot_of_its_own_time_however_long_it_waits(timelines: Timelines, ledger: Ledger) -> None:
    ledger.add_job("load")
    ledger.add_schedule("loads", "load", expression="50 11 * * *", next_slot_at=ledger.clock.after(-600))
    timelines.add("hits", period_start="2026-11-02T11", after=["load"])
    fire_schedules(ledger.database, fired_by="a")
    ledger.end(ledger.claim_one(), "exited", exit_code=1)
    timelines.look()
    assert "has failed" in timelines.row("hits", HOURS[11]).reason_text
    for _ in range(3):
        ledger.clock.advance(days=1)
        fire_schedules(ledger.database, fired_by="a")
        ledger.end(ledger.claim_one())
        timelines.look()

    remove_runs(ledger.database, FOR_A_DAY)
    ledger.clock.advance(minutes=5)
    timelines.look()

    row = timelines.row("hits", HOURS[11])
    assert row.reason == "upstream", (row.reason, row.reason_text)


def test_what_no_period_waits_for_goes_after_its_time(timelines: Timelines, ledger: Ledger) -> None:
    ledger.add_job("load")
    ledger.add_schedule("loads", "load", expression="50 11 * * *", next_slot_at=ledger.clock.after(-600))
    timelines.add("hits", period_start="2026-11-02T11", after=["load"])
    for _ in range(4):
        fire_schedules(ledger.database, fired_by="a")
        ledger.end(next(claim for claim in ledger.claim() if claim.job == "load"))
        timelines.work()
        ledger.clock.advance(days=1)

    assert remove_runs(ledger.database, FOR_A_DAY).runs
    assert ledger.value("select count(*) from rota_run where job = 'load'") < 4


# What it costs


def test_one_end_asks_no_more_the_more_are_worked_on_at_once(timelines: Timelines, ledger: Ledger) -> None:
    asked: dict[int, int] = {}
    for at_once in (5, 40):
        name = f"hits{at_once}"
        timelines.add(f"up{at_once}", period_start="2026-10-31T12", periods_at_once=100)
        timelines.add(name, period_start="2026-10-31T12", after=[f"up{at_once}"], periods_at_once=at_once)
        timelines.work(rounds=1)
        timelines.look()
        claims = [claim for claim in timelines.claim() if claim.job == name]
        assert len(claims) == at_once
        ledger.end(claims[0])
        with statements_of(ledger.database) as sent:
            assert look_at_periods(ledger.database).ready == 1
        asked[at_once] = len(sent)
        ledger.end_all(claims[1:])

    assert asked[40] == asked[5]


def test_to_skip_many_periods_asks_no_more_than_to_skip_a_few(timelines: Timelines, ledger: Ledger) -> None:
    timelines.add("hits", period_start="2026-10-31T12")
    timelines.add("export", period_start="2026-10-31T12", after=["hits"])
    timelines.look()
    asked: list[int] = []
    for first, last in ((HOURS[9], HOURS[10]), ("2026-10-31T12", "2026-11-01T23")):
        with statements_of(ledger.database) as sent:
            timelines.skip("hits", first, last, dry_run=True)
        asked.append(len(sent))

    assert asked[1] == asked[0]
