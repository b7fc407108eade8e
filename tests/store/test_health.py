"""What does not go on by itself is found by whoever looks, and nothing else is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rota.errors import Invalid
from rota.model.calendars import Calendar
from rota.model.findings import Finding, FindingCode, Severity, Thresholds, judge_all
from rota.store import jobs, schedules
from rota.store.calendars import add_calendar
from rota.store.clock import tell_clock_step
from rota.store.events import tell_change
from rota.store.firing import fire_schedules
from rota.store.health import check_health, show_health
from rota.store.interventions import cancel_run
from rota.store.status import read_status
from tests.clock import BEGINNING, Clock
from tests.store.ledger import Ledger
from tests.store.living import start_node, stop_node

pytestmark = pytest.mark.cases_take_turns

ANN = "ann@desk"
HOUR = timedelta(hours=1)
DEFAULT = Thresholds()


def find(ledger: Ledger, thresholds: Thresholds = DEFAULT) -> dict[str, Finding]:
    """What is found, by code and subject."""
    return {f"{one.code} {one.subject}": one for one in check_health(ledger.database, thresholds).findings}


def found(ledger: Ledger) -> dict[str, str]:
    return {name: one.severity.value for name, one in find(ledger).items()}


def renew(ledger: Ledger, *names: str) -> None:
    """Let nodes live on, as they do while time passes."""
    for name in names or ("a",):
        start_node(ledger, name)


def test_where_all_goes_well_nothing_is_found(ledger: Ledger, clock: Clock) -> None:
    ledger.add_job()
    start_node(ledger)
    ledger.add_schedule(next_slot_at=clock.after(3600))
    ledger.enqueue()
    ledger.claim_one()
    ledger.enqueue()
    ledger.enqueue(in_seconds=30.0)
    clock.advance(seconds=50)

    health = check_health(ledger.database)

    assert health.findings == ()
    assert (health.ready, health.running, health.late, health.nodes) == (1, 1, 0, 1)
    assert show_health(health) == {
        "state": "ok",
        "now": "2026-11-02T12:00:50.000000Z",
        "counts": {"ready": 1, "running": 1, "late": 0, "nodes": 1, "cgroups": 0},
        "findings": [],
    }


def test_an_empty_database_has_nothing_that_could_be_silent(ledger: Ledger) -> None:
    assert found(ledger) == {}


def test_ready_runs_that_nobody_takes_are_late_and_then_critical(ledger: Ledger, clock: Clock) -> None:
    ledger.add_job()
    start_node(ledger, slots=1)
    ledger.enqueue()
    ledger.claim_one()
    first, second = ledger.enqueue(), ledger.enqueue()
    clock.advance(seconds=61)
    start_node(ledger, slots=1)

    late = find(ledger)["run_late default"]
    clock.advance(minutes=10)

    assert late == Finding(
        Severity.WARNING,
        FindingCode.RUN_LATE,
        "default",
        f"2 runs are ready in pool default, for up to 1m1s: run {first} of job, run {second} of job; "
        "all 1 slots of pool default are taken, on a",
        BEGINNING,
        jobs=("job",),
    )
    assert check_health(ledger.database).late == 2
    assert found(ledger)["run_late default"] == "critical"


@pytest.mark.parametrize(
    ("exclude", "said"),
    [
        ('["a", "b"]', "job job excludes every node alive in pool default: a, b"),
        ('["a"]', "its nodes do not take them"),
        ("a", "its nodes do not take them"),  # written by hand
    ],
)
def test_runs_that_are_late_since_their_job_excludes_every_node_say_so(
    ledger: Ledger, clock: Clock, exclude: str, said: str
) -> None:
    ledger.add_job(exclude=exclude)
    ledger.enqueue()
    clock.advance(seconds=61)
    for name in "ab":
        start_node(ledger, name)

    assert find(ledger)["run_late default"].text.endswith(f"; {said}")


def test_a_run_is_late_from_when_it_became_ready(ledger: Ledger, clock: Clock) -> None:
    ledger.add_job()
    start_node(ledger)
    ledger.add_schedule(next_slot_at=BEGINNING, overlap="queue")
    fire_schedules(ledger.database, fired_by="a")
    claim = ledger.claim_one()
    clock.advance(hours=3)
    renew(ledger)
    ledger.end(claim, "released")

    assert "run_late default" not in found(ledger)


def test_a_run_that_waits_for_a_mutex_that_is_kept_for_another_one_is_not_late(ledger: Ledger, clock: Clock) -> None:
    start_node(ledger)
    for name, mutexes in (("a", '["a"]'), ("b", '["b"]'), ("both", '["a", "b"]')):
        ledger.add_job(name, mutexes=mutexes, lease_seconds=3600.0)
    ledger.enqueue("b")
    claim = ledger.claim_one()
    both = ledger.enqueue("both")
    ledger.enqueue("a")
    clock.advance(seconds=600)
    renew(ledger)
    while_kept = found(ledger)
    cancel_run(ledger.database, both, actor=ANN)

    assert while_kept == {}
    assert list(found(ledger)) == ["run_late default"]
    ledger.end(claim)


def test_ready_runs_of_a_paused_job_are_not_late(ledger: Ledger, clock: Clock) -> None:
    ledger.add_job()
    start_node(ledger)
    ledger.enqueue()
    jobs.pause_job(ledger.database, "job", actor=ANN)
    clock.advance(hours=1)
    renew(ledger)

    assert found(ledger) == {}


def test_slots_that_nobody_decides_are_absent(ledger: Ledger, clock: Clock) -> None:
    ledger.add_job()
    ledger.add_schedule("one", next_slot_at=clock.after(5))
    ledger.add_schedule("two", next_slot_at=clock.after(10))
    ledger.add_schedule("paused", next_slot_at=clock.after(10), state="paused")
    clock.advance(seconds=75)
    start_node(ledger)

    absent = find(ledger)["slot_absent schedules"]
    clock.advance(hours=1)
    renew(ledger)

    assert (absent.severity, absent.since) == (Severity.WARNING, BEGINNING + timedelta(seconds=5))
    assert absent.text == (
        "2 slots are due and not decided, for up to 1m10s: one at 2026-11-02T12:00:05Z, two at 2026-11-02T12:00:10Z"
    )
    assert found(ledger) == {"slot_absent schedules": "critical"}


def test_runs_that_nobody_moves_on_and_leases_that_nobody_ends_are_found(ledger: Ledger, clock: Clock) -> None:
    ledger.add_job()
    waiting = ledger.enqueue(in_seconds=10.0)
    ledger.enqueue()
    claim = ledger.claim_one("b")
    clock.advance(minutes=3)
    start_node(ledger)

    stuck = find(ledger)

    assert stuck["run_stuck runs"].severity is Severity.WARNING
    assert stuck["run_stuck runs"].text == (
        f"1 run is to be moved on, and no node does it: run {waiting} of job since 2026-11-02T12:00:10Z"
    )
    assert stuck["lease_over runs"].severity is Severity.CRITICAL
    assert stuck["lease_over runs"].text == (
        f"1 run is past the end of the lease, and no node takes them away: run {claim.run_id} of job on b since "
        "2026-11-02T12:01:00Z"
    )
    assert set(stuck) == {"run_stuck runs", "lease_over runs"}


def test_a_pool_that_nobody_serves_is_found_when_there_is_work_for_it(ledger: Ledger, clock: Clock) -> None:
    start_node(ledger, "a")
    ledger.add_job("idle", pool="idle")
    ledger.add_job("now", pool="now")
    ledger.add_job("later", pool="later")
    ledger.add_job("paused", pool="paused", state="paused")
    ledger.add_schedule("paused", "paused", next_slot_at=clock.after(60))
    ledger.add_schedule("later", "later", next_slot_at=clock.after(60))
    run_id = ledger.enqueue("now")

    empty = find(ledger)

    assert {name: one.severity.value for name, one in empty.items()} == {
        "pool_empty now": "critical",
        "pool_empty later": "warning",
        "pool_empty idle": "warning",
    }
    assert empty["pool_empty now"].text == (
        "runs are ready, and no node serves pool now: start one with `rota worker --pool now`"
    )
    assert ledger.run(run_id).state == "ready"


def test_a_pool_whose_only_node_fell_silent_is_found_by_the_others(ledger: Ledger, clock: Clock) -> None:
    ledger.add_job(pool="reports")
    ledger.enqueue()
    start_node(ledger, "b", pools=("reports",))
    clock.advance(seconds=90)
    start_node(ledger, "a")

    seen = find(ledger)

    assert seen["node_silent b"].text == (
        "node b fell silent: seen 2026-11-02T12:00:00Z, its lease ended 2026-11-02T12:01:00Z"
    )
    assert seen["pool_empty reports"].since == BEGINNING
    assert "b was the last one" in seen["pool_empty reports"].text
    clock.advance(days=2)
    renew(ledger)
    assert "node_silent b" not in found(ledger)


def test_a_node_that_said_goodbye_may_come_back_before_its_pool_is_called_empty(ledger: Ledger, clock: Clock) -> None:
    ledger.add_job(pool="reports")
    ledger.add_schedule(next_slot_at=clock.after(7200))
    start_node(ledger, "b", pools=("reports",))
    stop_node(ledger, "b")
    clock.advance(minutes=4)
    start_node(ledger)
    soon = found(ledger)
    clock.advance(minutes=2)
    renew(ledger)

    assert soon == {}
    assert found(ledger) == {"pool_empty reports": "warning"}


def test_a_cluster_without_a_living_node_is_found_once_there_is_work(ledger: Ledger, clock: Clock) -> None:
    ledger.add_job()
    ledger.add_schedule(next_slot_at=clock.after(3600))
    never = find(ledger)
    start_node(ledger)
    stop_node(ledger)
    left = found(ledger)
    clock.advance(minutes=6)
    gone = found(ledger)
    start_node(ledger)
    clock.advance(minutes=2)
    silent = find(ledger)
    ledger.enqueue()

    assert never["scheduler_stopped cluster"].severity is Severity.WARNING
    assert never["scheduler_stopped cluster"].text.startswith("no node has ever been there; nothing is fired, ")
    assert left == {}
    assert gone == {"scheduler_stopped cluster": "warning"}
    assert {name: one.severity.value for name, one in silent.items()} == {
        "scheduler_stopped cluster": "critical",
        "node_silent a": "warning",
    }
    assert "a was the last one and fell silent, seen 2026-11-02T12:06:00Z" in silent["scheduler_stopped cluster"].text
    assert find(ledger)["scheduler_stopped cluster"].severity is Severity.CRITICAL


def test_schedules_that_fire_no_more_are_told_apart(ledger: Ledger, clock: Clock) -> None:
    ledger.add_job()
    start_node(ledger)
    ledger.add_schedule("once", kind="at", expression="2026-11-02T11:00:00Z")
    ledger.add_schedule("ended", end_at=BEGINNING)
    several = '[["at", "2026-11-02T10:00:00.000000Z"], ["at", "2026-11-02T11:00:00.000000Z"]]'
    ledger.add_schedule("several", kind="any", expression=several)
    ledger.add_schedule("stopped", last_slot_at=BEGINNING)
    ledger.add_schedule("paused", state="paused")
    ledger.add_schedule("broken", next_slot_at=BEGINNING, problem="cannot be fired: x")

    told = find(ledger)

    assert {name: one.severity.value for name, one in told.items()} == {
        "schedule_ended schedules": "info",
        "schedule_stopped stopped": "warning",
        "schedule_set_aside broken": "warning",
    }
    assert told["schedule_ended schedules"].text.startswith("3 schedules have come to an end: ")
    assert told["schedule_stopped stopped"].text == (
        "schedule stopped has no slots left, and nobody gave it an end; the last one was 2026-11-02T12:00:00Z"
    )
    assert told["schedule_set_aside broken"].text == (
        "schedule broken is set aside and fires nothing until it is edited: cannot be fired: x"
    )


def test_a_schedule_that_skips_again_and_again_is_found_until_it_runs(ledger: Ledger, clock: Clock) -> None:
    ledger.add_job()
    start_node(ledger)
    ledger.add_schedule(next_slot_at=BEGINNING)
    fire_schedules(ledger.database, fired_by="a")
    claim = ledger.claim_one(lease_seconds=3600.0)
    seen: list[bool] = []
    for _ in range(4):
        clock.advance(minutes=1)
        renew(ledger)
        fire_schedules(ledger.database, fired_by="a")
        seen.append("schedule_skipping each" in found(ledger))

    text = find(ledger)["schedule_skipping each"].text
    ledger.end(claim)
    clock.advance(minutes=1)
    renew(ledger)
    fire_schedules(ledger.database, fired_by="a")

    assert seen == [False, False, True, True]
    assert text.startswith("schedule each skipped 4 slots in a row, up to 2026-11-02T12:04:00Z, ")
    assert found(ledger) == {}


def test_a_job_whose_last_runs_all_failed_is_found_until_one_succeeds(ledger: Ledger, clock: Clock) -> None:
    start_node(ledger)
    ledger.add_job()
    outcomes = ["succeeded", "failed", "failed", "failed"]
    for number, outcome in enumerate(outcomes):
        ledger.enqueue()
        claim = ledger.claim_one()
        ledger.end(claim, "succeeded") if outcome == "succeeded" else ledger.end(claim, "exited", exit_code=number)
        clock.advance(seconds=1)
    ledger.enqueue()  # has not ended, and says nothing

    failing = find(ledger)
    ledger.end(ledger.claim_one())

    assert failing["job_failing job"].text == ("the last 3 runs of job job failed; run 4: attempt 1 on a exited with 3")
    assert failing["job_failing job"].since == BEGINNING + timedelta(seconds=1)
    assert found(ledger) == {}


def test_two_failures_are_no_finding_and_a_paused_job_may_fail(ledger: Ledger) -> None:
    start_node(ledger)
    ledger.add_job()
    for _ in range(2):
        ledger.enqueue()
        ledger.end(ledger.claim_one(), "exited", exit_code=1)
    twice = found(ledger)
    ledger.enqueue()
    ledger.end(ledger.claim_one(), "exited", exit_code=1)
    thrice = found(ledger)
    jobs.pause_job(ledger.database, "job", actor=ANN)

    assert twice == {}
    assert thrice == {"job_failing job": "warning"}
    assert found(ledger) == {}


def run_for(ledger: Ledger, clock: Clock, seconds: float, job: str = "job") -> None:
    ledger.enqueue(job)
    claim = ledger.claim_one()
    clock.advance(seconds=seconds)
    ledger.end(claim, seconds=seconds)


def test_a_run_that_takes_far_longer_than_usual_is_found_until_it_ends(ledger: Ledger, clock: Clock) -> None:
    start_node(ledger)
    ledger.add_job(lease_seconds=3600.0)
    for seconds in (10, 50, 40, 30, 20):
        run_for(ledger, clock, seconds)
    run_id = ledger.enqueue()
    claim = ledger.claim_one()
    began_at = clock.now
    clock.advance(seconds=90)  # three times thirty seconds
    renew(ledger)
    at_the_limit = found(ledger)
    clock.advance(seconds=1)

    late = find(ledger)
    ledger.end(claim)

    assert at_the_limit == {}
    assert late == {
        "run_long job": Finding(
            Severity.WARNING,
            FindingCode.RUN_LONG,
            "job",
            f"1 run is taking far longer than usual for job job: run {run_id} on a for 1m31s; it usually takes 30s, "
            "and nine in ten of its last 5 good attempts took at most 50s",
            began_at + timedelta(seconds=90),
            jobs=("job",),
        )
    }
    assert found(ledger) == {}


def test_nobody_is_told_of_a_run_before_it_is_known_what_is_usual_or_that_takes_a_minute_more(
    ledger: Ledger, clock: Clock
) -> None:
    start_node(ledger)
    ledger.add_job(lease_seconds=3600.0)
    ledger.add_job("new", lease_seconds=3600.0)
    for _ in range(5):
        run_for(ledger, clock, 1)
    for _ in range(4):
        run_for(ledger, clock, 1, "new")
    ledger.enqueue()
    ledger.enqueue("new")
    ledger.claim()
    clock.advance(seconds=61)
    renew(ledger)
    a_minute_more = found(ledger)
    clock.advance(seconds=1)

    assert a_minute_more == {}
    assert found(ledger) == {"run_long job": "warning"}


def test_holidays_that_run_out_are_found_sixty_days_before(ledger: Ledger, clock: Clock) -> None:
    add_calendar(ledger.database, Calendar.checked("plain", weekdays=["sun"]), actor=ANN)
    known = Calendar.checked("nl", country="NL", first_year=2026, years=0)
    add_calendar(ledger.database, known, actor=ANN)
    assert known.holidays_until == 2026
    clock.now = datetime(2026, 11, 1, tzinfo=UTC)
    before = found(ledger)
    clock.now = datetime(2026, 11, 3, tzinfo=UTC)

    after = find(ledger)

    assert before == {}
    assert set(after) == {"calendar_ending nl"}
    assert "are known up to the end of 2026 only" in after["calendar_ending nl"].text


def test_a_clock_that_stepped_is_critical_while_it_holds_and_told_for_an_hour(ledger: Ledger, clock: Clock) -> None:
    ledger.add_job()
    ledger.add_schedule(next_slot_at=clock.after(60))
    clock.step(hours=2)
    start_node(ledger)
    tell_clock_step(ledger.database, 7200.0, 60.0, node="a")

    held = find(ledger)
    clock.advance(minutes=2)
    renew(ledger)
    later = found(ledger)
    clock.advance(hours=1)
    renew(ledger)

    assert set(held) == {"clock_stepped database"}  # what is late is left alone on purpose
    assert held["clock_stepped database"].severity is Severity.CRITICAL
    assert held["clock_stepped database"].text.startswith("the database's clock stepped forward by 2h: ")
    assert held["clock_stepped database"].text.endswith("; the hold ends at 2026-11-02T14:01:00Z, in 1m")
    assert later == {"clock_stepped database": "warning", "slot_absent schedules": "critical"}
    assert "clock_stepped database" not in found(ledger)


def test_what_is_late_is_said_by_whoever_asks(ledger: Ledger, clock: Clock) -> None:
    ledger.add_job()
    start_node(ledger)
    ledger.enqueue()
    clock.advance(seconds=20)

    early = find(ledger, Thresholds.checked("10s", "15s"))
    late = find(ledger, Thresholds.checked("10s"))

    assert early["run_late default"].severity is Severity.CRITICAL
    assert late["run_late default"].severity is Severity.WARNING
    assert found(ledger) == {}
    assert Thresholds.checked(critical_late=30) == Thresholds(30.0, 30.0)
    assert Thresholds.checked(warning_late="1h") == Thresholds(3600.0, 3600.0)
    with pytest.raises(Invalid, match="critical_late"):
        Thresholds.checked("1m", "10s")


def test_what_is_worst_comes_first_and_says_how_things_stand(ledger: Ledger, clock: Clock) -> None:
    start_node(ledger)
    ledger.add_job(pool="nowhere")
    ledger.add_schedule("stopped")
    ledger.add_schedule("ended", end_at=BEGINNING)
    ledger.enqueue()

    view = show_health(check_health(ledger.database))

    assert [one["severity"] for one in view["findings"]] == ["critical", "warning", "info"]
    assert view["state"] == "critical"
    assert judge_all(()) == "ok"
    assert judge_all([Finding(Severity.INFO, FindingCode.SCHEDULE_ENDED, "", "")]) == "ok"
    assert read_status(ledger.database)["findings"] == view["findings"]


@pytest.mark.breaks_invariants
@pytest.mark.parametrize(
    "broken",
    [
        "insert into rota_calendar (name, definition, revision, created_at, updated_at)"
        " values ('c', 'no json', 1, '2026-11-02 12:00:00.000000', '2026-11-02 12:00:00.000000')",
        "insert into rota_calendar (name, definition, revision, created_at, updated_at)"
        " values ('c', '[1]', 1, '2026-11-02 12:00:00.000000', '2026-11-02 12:00:00.000000')",
        "update rota_node set pools = 'nothing'",
        "update rota_schedule set kind = 'any', expression = 'nonsense', next_slot_at = null",
        "update rota_schedule set skips_in_row = 7",
    ],
)
def test_a_row_that_was_broken_by_hand_keeps_nobody_from_looking(ledger: Ledger, broken: str) -> None:
    start_node(ledger)
    ledger.add_job()
    ledger.add_schedule(next_slot_at=BEGINNING + HOUR)
    ledger.execute(broken)

    assert check_health(ledger.database).now == BEGINNING


def test_what_people_edit_is_no_step_of_the_clock(ledger: Ledger) -> None:
    start_node(ledger)
    ledger.add_job()
    spec: Any = schedules.ScheduleSpec.checked("each", job="job", cron="0 * * * *")
    schedules.add_schedule(ledger.database, spec, actor=ANN)
    ledger.database.write(
        lambda connection: tell_change(connection, "job", "edited", "job job was edited", job="job"), repeatable=True
    )

    assert found(ledger) == {}


def test_what_is_caught_up_or_queues_is_not_stuck(ledger: Ledger) -> None:
    ledger.add_job()
    ledger.add_schedule(next_slot_at=BEGINNING, catch_up="all")
    ledger.clock.advance(hours=3)
    fire_schedules(ledger.database, fired_by="a")
    codes = {finding.code for finding in check_health(ledger.database, Thresholds()).findings}
    assert "run_stuck" not in codes
    ledger.clock.advance(hours=1)

    codes = {finding.code for finding in check_health(ledger.database, Thresholds()).findings}

    assert "run_stuck" not in codes
