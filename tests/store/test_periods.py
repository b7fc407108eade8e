"""Periods are worked on in order, once each, and finished when what they build on is."""

from __future__ import annotations

import pytest

from rota.errors import Conflict
from rota.model.findings import FindingCode
from rota.store.firing import fire_schedules
from rota.store.health import check_health
from rota.store.interventions import mark_succeeded, rerun_run
from rota.store.jobs import edit_job
from rota.store.period_view import list_periods
from rota.store.resetting import reset_job
from rota.store.upstreams import look_at_upstreams
from tests.store.ledger import Ledger
from tests.store.timelines import Timelines

pytestmark = pytest.mark.takes_turns

HOURS = [f"2026-11-02T{hour:02}" for hour in range(24)]


@pytest.fixture
def timelines(ledger: Ledger) -> Timelines:
    return Timelines(ledger)


def test_each_hour_is_worked_on_once_oldest_first_after_it_has_closed(timelines: Timelines, ledger: Ledger) -> None:
    timelines.add("hits", period_start="2026-11-02T08")

    timelines.work()

    assert timelines.done == [("hits", name) for name in HOURS[8:12]]
    assert timelines.states("hits") == dict.fromkeys(HOURS[8:12], "processed") | {HOURS[12]: "open"}
    ledger.clock.advance(minutes=59)
    timelines.work()
    assert len(timelines.done) == 4
    ledger.clock.advance(minutes=1)
    timelines.work()
    assert timelines.done[4:] == [("hits", HOURS[12])]
    assert ledger.violations() == []


def test_a_run_is_told_its_period(timelines: Timelines, ledger: Ledger) -> None:
    timelines.add("hits", period_start="2026-11-02T11")
    timelines.look()

    (claim,) = timelines.claim()

    assert claim.part is not None
    assert (claim.part.name, claim.part.key) == (HOURS[11], HOURS[11])
    assert (claim.part.end, claim.part.range_end) == (ledger.clock.now, ledger.clock.now)
    assert (claim.part.end - claim.part.start).total_seconds() == 3600


def test_a_day_waits_for_its_hours_and_a_month_for_its_days(timelines: Timelines, ledger: Ledger) -> None:
    timelines.add("hits", period_start="2026-10-31T22")
    timelines.add("daily", "day", period_start="2026-10-31", rolls_up=["hits"])
    timelines.add("monthly", "month", period_start="2026-10", rolls_up=["daily"])

    timelines.work()

    order = [(name, key) for name, key in timelines.done if name != "hits"]
    assert order == [("daily", "2026-10-31"), ("monthly", "2026-10"), ("daily", "2026-11-01")]
    at = timelines.done.index
    assert at(("hits", "2026-10-31T23")) < at(("daily", "2026-10-31")) < at(("monthly", "2026-10"))
    assert at(("hits", "2026-11-01T23")) < at(("daily", "2026-11-01"))
    assert timelines.states("monthly") == {"2026-10": "processed", "2026-11": "open"}
    assert (
        "waits for" in timelines.row("daily", "2026-11-02").reason_text
        or "closes" in timelines.row("daily", "2026-11-02").reason_text
    )


def test_a_failing_period_holds_the_later_ones_and_is_tried_on(timelines: Timelines, ledger: Ledger) -> None:
    timelines.add("hits", period_start="2026-11-02T10", retry_delay="10s")

    timelines.work(lambda claim: "failed", rounds=1)

    assert timelines.states("hits") == {HOURS[10]: "in_progress", HOURS[11]: "open", HOURS[12]: "open"}
    (one,) = timelines.runs("hits")
    assert (one.state, one.retries) == ("waiting", -1)


def test_after_so_many_failures_a_period_is_given_up_and_the_next_goes_on(timelines: Timelines) -> None:
    timelines.add("hits", period_start="2026-11-02T10", give_up_failures=1)

    timelines.work(lambda claim: "failed" if claim.part and claim.part.name == HOURS[10] else "succeeded")

    assert timelines.states("hits") == {HOURS[10]: "skipped", HOURS[11]: "processed", HOURS[12]: "open"}
    assert timelines.row("hits", HOURS[10]).reason == "given_up"


def test_an_hour_that_is_done_again_takes_four_rows_of_its_tree_and_no_other(
    timelines: Timelines, ledger: Ledger
) -> None:
    timelines.add("hits", period_start="2025-12-31T22")
    timelines.add("daily", "day", period_start="2025-12-31", rolls_up=["hits"], periods_at_once=10)
    timelines.add("monthly", "month", period_start="2025-12", rolls_up=["daily"])
    timelines.add("yearly", "year", period_start="2025", rolls_up=["monthly"])
    timelines.edit("hits", periods_at_once=100)
    ledger.clock.now = ledger.clock.now.replace(year=2026, month=1, day=2, hour=5)
    timelines.work()
    before = {name: timelines.states(name) for name in ("hits", "daily", "monthly", "yearly")}
    assert before["yearly"] == {"2025": "processed", "2026": "open"}
    timelines.done.clear()

    preview = timelines.reprocess("hits", "2025-12-31T23", dry_run=True)
    assert {name: timelines.states(name) for name in before} == before
    touched = timelines.reprocess("hits", "2025-12-31T23")

    assert preview == touched
    assert touched["count"] == 4
    assert [(one["job"], one["periods"]) for one in touched["jobs"]] == [
        ("hits", ["2025-12-31T23"]),
        ("daily", ["2025-12-31"]),
        ("monthly", ["2025-12"]),
        ("yearly", ["2025"]),
    ]
    timelines.work()
    assert timelines.done == [
        ("hits", "2025-12-31T23"), ("daily", "2025-12-31"), ("monthly", "2025-12"), ("yearly", "2025")
    ]  # fmt: skip
    assert {name: timelines.states(name) for name in before} == before


def test_a_settling_lag_waits_after_the_end(timelines: Timelines, ledger: Ledger) -> None:
    timelines.add("hits", period_start="2026-11-02T11", settle="10m")
    timelines.work()
    assert timelines.done == []
    assert timelines.row("hits", HOURS[11]).due_at == ledger.clock.after(600)

    ledger.clock.advance(minutes=10)
    timelines.work()

    assert timelines.done == [("hits", HOURS[11])]


def test_a_continuous_period_is_worked_on_in_parts_and_finished_by_the_last(
    timelines: Timelines, ledger: Ledger
) -> None:
    timelines.add("live", period_start="2026-11-02T12", period_mode="continuous", refresh="20m")
    parts: list[tuple[str, str]] = []
    for minutes in (5, 10, 10, 20, 20):
        ledger.clock.advance(minutes=minutes)
        timelines.look()
        for claim in timelines.claim():
            assert claim.part is not None
            parts.append((f"{claim.part.range_start:%H:%M}", f"{claim.part.range_end:%H:%M}"))
            ledger.end(claim)
        timelines.look()

    assert parts == [("12:00", "12:05"), ("12:05", "12:25"), ("12:25", "12:45"), ("12:45", "13:00")]
    assert timelines.states("live") == {HOURS[12]: "processed", HOURS[13]: "in_progress"}


def test_a_continuous_period_is_not_worked_on_for_nothing_while_it_settles(
    timelines: Timelines, ledger: Ledger
) -> None:
    timelines.add("hits", period_mode="continuous", refresh="1m", settle="30m")
    ledger.clock.advance(minutes=61)
    timelines.work()

    for _ in range(3):
        ledger.clock.advance(minutes=5)
        timelines.work()

    assert [(one.range_start_at, one.range_end_at) for one in timelines.runs("hits")] == [
        (ledger.clock.now.replace(hour=12, minute=0), ledger.clock.now.replace(hour=13, minute=0))
    ]
    assert (
        timelines.row("hits", HOURS[12]).reason_text == "it is open, and is worked on again at 2026-11-02 13:30:00 UTC"
    )


def test_a_recomputing_period_is_worked_on_from_its_start_each_time(timelines: Timelines, ledger: Ledger) -> None:
    timelines.add("live", period_start="2026-11-02T12", period_mode="recomputing", refresh="20m")
    parts: list[tuple[str, str]] = []
    for minutes in (5, 30, 25):
        ledger.clock.advance(minutes=minutes)
        timelines.look()
        for claim in timelines.claim():
            assert claim.part is not None
            parts.append((f"{claim.part.range_start:%H:%M}", f"{claim.part.range_end:%H:%M}"))
            ledger.end(claim)
        timelines.look()

    assert parts == [("12:00", "12:05"), ("12:00", "12:35"), ("12:00", "13:00")]
    assert timelines.states("live")[HOURS[12]] == "processed"


def test_a_run_of_an_open_period_that_outlives_it_is_followed_by_the_final_one(
    timelines: Timelines, ledger: Ledger
) -> None:
    timelines.add("live", period_start="2026-11-02T12", period_mode="recomputing")
    ledger.clock.advance(minutes=30)
    timelines.look()
    (claim,) = timelines.claim()
    ledger.clock.advance(minutes=45)
    timelines.look()
    assert timelines.claim() == []  # honest long work is not doubled

    ledger.end(claim)
    timelines.work()

    assert timelines.done == [("live", HOURS[12]), ("live", "2026-11-02T13/2026-11-02T13:15:00.000000Z")]


def test_what_blocks_nothing_may_run_before_its_children_and_finish_after_them(
    timelines: Timelines, ledger: Ledger
) -> None:
    timelines.add("hits", period_start="2026-11-01T22")
    timelines.add("daily", "day", period_start="2026-11-01", rolls_up=["hits"], blocking="normal")
    timelines.look()
    claims = {claim.job: claim for claim in timelines.claim()}

    ledger.end(claims["daily"])
    timelines.look()
    assert timelines.states("daily")["2026-11-01"] == "in_progress"
    assert "waits for hits" in timelines.row("daily", "2026-11-01").reason_text
    ledger.end(claims["hits"])
    timelines.work()

    assert timelines.states("daily")["2026-11-01"] == "processed"
    assert len(timelines.runs("daily")) == 1


def test_trees_depend_on_each_other_at_the_same_period_and_what_has_no_counterpart_does_not_block(
    timelines: Timelines, ledger: Ledger
) -> None:
    timelines.add("sales", "day", period_start="2026-10-31")
    timelines.add("shops", "month", period_start="2026-11")
    timelines.add("hits", period_start="2026-10-31T22")
    timelines.add("export", "day", period_start="2026-10-31", after=["sales", "hits", "shops"])

    timelines.work(lambda claim: "failed" if claim.part and claim.part.name == "2026-11-01" else "succeeded", rounds=60)

    # Its month has not closed, which is no counterpart; sales of the second day have failed.
    assert [name for job, name in timelines.done if job == "export"] == ["2026-10-31"]
    at = timelines.done.index
    assert at(("hits", "2026-10-31T23")) < at(("export", "2026-10-31")) > at(("sales", "2026-10-31"))
    assert "waits for sales 2026-11-01" in timelines.row("export", "2026-11-01").reason_text


def test_with_blocking_dependencies_an_upstream_that_was_skipped_skips_it(timelines: Timelines) -> None:
    timelines.add("sales", "day", period_start="2026-10-31")
    timelines.add("export", "day", period_start="2026-10-31", after=["sales"], blocking="dependencies")
    timelines.add("report", "day", period_start="2026-10-31", after=["sales"])
    timelines.look()

    # What runs after it alone goes with it.
    touched = timelines.skip("sales", "2026-10-31")
    timelines.work()

    assert [one["job"] for one in touched["jobs"]] == ["sales", "export", "report"]
    assert timelines.states("export")["2026-10-31"] == "skipped"
    assert timelines.states("export")["2026-11-01"] == "processed"


def test_a_parent_all_of_whose_children_were_skipped_is_skipped(timelines: Timelines, ledger: Ledger) -> None:
    timelines.add("hits", period_start="2026-10-31T22")
    timelines.add("daily", "day", period_start="2026-10-31", rolls_up=["hits"])
    timelines.look()

    timelines.skip("hits", "2026-10-31T22", "2026-10-31T23")
    timelines.work()

    assert timelines.states("daily") == {"2026-10-31": "skipped", "2026-11-01": "processed", "2026-11-02": "open"}
    assert timelines.row("daily", "2026-10-31").reason == "children_skipped"


def test_to_skip_a_day_skips_its_hours_and_leaves_what_is_finished(timelines: Timelines) -> None:
    timelines.add("hits", period_start="2026-10-31T20")
    timelines.add("daily", "day", period_start="2026-10-31", rolls_up=["hits"])
    timelines.work(rounds=2)
    timelines.look()
    before = list(timelines.states("hits").items())[:2]

    timelines.skip("daily", "2026-10-31")
    timelines.work()

    assert list(timelines.states("hits").items())[:2] == before == [
        ("2026-10-31T20", "processed"), ("2026-10-31T21", "processed")
    ]  # fmt: skip
    assert timelines.states("hits")["2026-10-31T23"] == "skipped"
    assert timelines.states("hits")["2026-11-01T00"] == "processed"


def test_what_works_on_a_period_that_is_taken_back_is_stopped_first(timelines: Timelines, ledger: Ledger) -> None:
    timelines.add("hits", period_start="2026-11-02T11")
    timelines.look()
    (claim,) = timelines.claim()

    timelines.reprocess("hits", HOURS[11])
    timelines.look()
    assert ledger.run(claim.run_id).cancel_asked_at is not None
    assert len(timelines.runs("hits")) == 1
    assert timelines.states("hits")[HOURS[11]] == "open"
    # What it brings all the same counts no more.
    ledger.end(claim, "cancelled")
    timelines.work()

    first, second = timelines.runs("hits")
    assert (first.state, second.state) == ("cancelled", "succeeded")
    assert timelines.row("hits", HOURS[11]).run_id == second.id


def test_an_hour_that_comes_later_reopens_the_day_that_was_finished_without_it(
    timelines: Timelines, ledger: Ledger
) -> None:
    timelines.add("hits", period_start="2026-11-01T22")
    timelines.add("daily", "day", period_start="2026-11-01", rolls_up=["hits"])
    timelines.work()
    assert timelines.states("daily")["2026-11-01"] == "processed"

    timelines.edit("hits", period_start="2026-11-01T20")
    timelines.look()
    assert timelines.states("daily")["2026-11-01"] == "open"
    timelines.work()

    assert timelines.done[-3:] == [("hits", "2026-11-01T20"), ("hits", "2026-11-01T21"), ("daily", "2026-11-01")]


def test_what_a_person_says_or_does_about_a_failed_run_is_taken_note_of(timelines: Timelines, ledger: Ledger) -> None:
    timelines.add("hits", period_start="2026-11-02T10", retries=1, retry_delay="0s")
    timelines.work(lambda claim: "failed")
    row = timelines.row("hits", HOURS[10])
    assert (row.state, row.reason) == ("in_progress", "failed")

    mark_succeeded(ledger.database, row.run_id, actor="ann")
    timelines.work(lambda claim: "failed")
    assert timelines.states("hits")[HOURS[10]] == "processed"
    failed = timelines.row("hits", HOURS[11]).run_id
    rerun_run(ledger.database, failed, actor="ann")
    timelines.work()

    assert timelines.states("hits")[HOURS[11]] == "processed"
    with pytest.raises(Conflict, match="rota period reprocess hits 2026-11-02T11"):
        rerun_run(ledger.database, failed, actor="ann")


def test_a_period_that_was_given_up_and_has_succeeded_since_is_processed_and_its_day_is_done_again(
    timelines: Timelines, ledger: Ledger
) -> None:
    timelines.add("hits", period_start="2026-11-01T22", give_up_failures=1)
    timelines.add("daily", "day", period_start="2026-11-01", rolls_up=["hits"])
    timelines.work(lambda claim: "failed" if claim.part and claim.part.name == "2026-11-01T22" else "succeeded")
    assert timelines.states("daily")["2026-11-01"] == "processed"
    timelines.done.clear()

    rerun_run(ledger.database, timelines.row("hits", "2026-11-01T22").run_id, actor="ann")
    timelines.work()

    assert timelines.states("hits")["2026-11-01T22"] == "processed"
    assert timelines.done == [("hits", "2026-11-01T22"), ("daily", "2026-11-01")]


def test_a_period_that_is_too_old_is_given_up_and_one_that_runs_is_not(timelines: Timelines, ledger: Ledger) -> None:
    timelines.add("hits", period_start="2026-11-02T08", give_up_age="90m")
    timelines.look()
    (claim,) = timelines.claim()
    assert claim.part is not None
    assert claim.part.name == HOURS[10]
    assert [timelines.states("hits")[name] for name in HOURS[8:10]] == ["skipped", "skipped"]

    ledger.clock.advance(hours=5)
    timelines.look()
    assert timelines.states("hits")[HOURS[10]] == "in_progress"
    ledger.end(claim)
    timelines.work()

    assert timelines.states("hits")[HOURS[10]] == "processed"
    assert timelines.states("hits")[HOURS[11]] == "skipped"


def test_so_many_periods_as_are_allowed_are_worked_on_at_once_the_oldest_ones(timelines: Timelines) -> None:
    timelines.add("hits", period_start="2026-11-02T06", periods_at_once=3)
    timelines.look()

    claims = timelines.claim()

    assert [claim.part.name for claim in claims if claim.part] == HOURS[6:9]


def test_a_slot_waits_for_the_last_period_that_had_ended_and_starts_when_it_is_done(
    timelines: Timelines, ledger: Ledger
) -> None:
    timelines.add("daily", "day", period_start="2026-10-31")
    ledger.add_job("mail")
    edit_job(ledger.database, "mail", lambda spec: spec.edited(after=["daily"]), actor="ann")
    ledger.add_schedule("mails", "mail", next_slot_at=ledger.clock.now)
    fire_schedules(ledger.database, fired_by="a")
    look_at_upstreams(ledger.database)
    (mail,) = timelines.runs("mail")
    assert mail.state == "waiting"
    assert "whose period 2026-11-01 is open" in mail.reason_text or "whose ledger" in mail.reason_text

    timelines.work(rounds=1)
    look_at_upstreams(ledger.database)
    assert timelines.runs("mail")[0].state == "waiting"
    timelines.look()
    for claim in timelines.claim():
        ledger.end(claim)
    timelines.look()
    look_at_upstreams(ledger.database)

    assert timelines.runs("mail")[0].state == "ready"


def test_a_period_waits_for_a_job_without_periods_whose_slot_has_not_succeeded(
    timelines: Timelines, ledger: Ledger
) -> None:
    ledger.add_job("load")
    ledger.add_schedule("loads", "load", expression="50 * * * *", next_slot_at=ledger.clock.after(-600))
    timelines.add("hits", period_start="2026-11-02T11", after=["load"])
    timelines.look()
    row = timelines.row("hits", HOURS[11])
    assert (row.reason, row.due_at is not None) == ("upstream", True)
    assert "waits for load" in row.reason_text

    fire_schedules(ledger.database, fired_by="a")
    ledger.end(ledger.claim_one())
    ledger.clock.advance(seconds=60)
    timelines.work()

    assert timelines.done == [("hits", HOURS[11])]


def test_a_job_that_is_reset_begins_with_its_first_period_again(timelines: Timelines, ledger: Ledger) -> None:
    timelines.add("hits", period_start="2026-11-02T10")
    timelines.work()
    runs = len(timelines.runs("hits"))

    reset = reset_job(ledger.database, "hits", actor="ann")
    assert reset["forgotten_periods"] == 3
    timelines.work()

    assert timelines.done == [("hits", name) for name in (HOURS[10], HOURS[11]) * 2]
    assert len(timelines.runs("hits")) == 2 * runs


def test_a_period_is_shown_with_how_its_run_stands_now(timelines: Timelines, ledger: Ledger) -> None:
    timelines.add("hits", period_start="2026-11-01T23", retry_delay="10s")
    timelines.add("daily", "day", period_start="2026-11-01", rolls_up=["hits"])
    timelines.look()
    (claim,) = timelines.claim()

    ledger.end(claim, "exited", exit_code=3)

    (shown,) = list_periods(ledger.database, "hits", first="2026-11-01T23", last="2026-11-01T23")
    assert shown["reason_text"].startswith(f"run {claim.run_id} is waiting: attempt 1 on ")
    assert timelines.row("daily", "2026-11-01").reason_text == "it waits for hits 2026-11-01T23"


def test_a_period_that_holds_the_later_ones_is_found(timelines: Timelines, ledger: Ledger) -> None:
    def held() -> list[str]:
        found = check_health(ledger.database).findings
        return [one.text for one in found if one.code is FindingCode.PERIOD_HELD]

    timelines.add("once", period_start="2026-11-02T10", retries=1, retry_delay="0s")
    timelines.add("often", period_start="2026-11-02T10", retry_delay="10s")
    timelines.work(lambda claim: "failed")
    assert held() == [
        "period 2026-11-02T10 of job once (run 1) has failed for good: rerun its run, or reprocess or skip the period; "
        "the later ones wait for it"
    ]
    for _ in range(2):
        ledger.clock.advance(seconds=10)
        timelines.work(lambda claim: "failed")
    once, often = sorted(held(), reverse=True)
    assert "period 2026-11-02T10 of job often (run 2) has failed 3 times, and is tried on" in often
    assert "of job once" in once

    timelines.skip("once", "2026-11-02T10")
    ledger.clock.advance(seconds=10)
    timelines.work()

    assert held() == []
