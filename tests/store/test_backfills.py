"""Backfills: slots of the past that are run on request, each once, whatever stands in the ledger about it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from rota.errors import Conflict, Invalid, NotFound
from rota.model.backfill import Wish
from rota.model.calendars import Calendar
from rota.model.job import JobSpec
from rota.model.states import RunState
from rota.store import backfill_ends
from rota.store.backfill_steps import LOOK_SECONDS, _step, step_backfills
from rota.store.backfills import (
    cancel_backfill,
    list_backfills,
    pause_backfill,
    preview_backfill,
    read_backfill,
    resume_backfill,
    start_backfill,
)
from rota.store.calendars import add_calendar
from rota.store.firing import fire_schedules
from rota.store.interventions import cancel_run, mark_succeeded, rerun_run
from rota.store.jobs import add_job
from rota.store.schedules import delete_schedule, edit_schedule, pause_schedule, resume_schedule
from rota.store.tables import backfill
from tests.clock import BEGINNING
from tests.store.ledger import Ledger
from tests.store.test_upstreams import set_after, settle, slots

pytestmark = pytest.mark.takes_turns

DAILY = {"expression": "0 12 * * *"}


def day(number: float) -> datetime:
    return BEGINNING + timedelta(days=number)


def add_daily(ledger: Ledger, name: str = "job", key: str | None = None, **columns: Any) -> int:
    """Add a job and its schedule of each day, of which nothing was decided yet before today's slot."""
    ledger.add_job(name, retry_delay_seconds=0.0)
    return ledger.add_schedule(key or name, name, **(DAILY | {"next_slot_at": day(1)} | columns))


def start(ledger: Ledger, name: str = "job", first: float = -5, end: float = 0, **options: Any) -> int:
    wish = Wish.checked(**options)
    return start_backfill(ledger.database, name, day(first), day(end), wish, actor="ann")["id"]


def step(ledger: Ledger) -> int:
    made = 0
    while True:
        stepped = step_backfills(ledger.database)
        made += stepped.runs
        settle(ledger)
        if not stepped.runs and not stepped.is_full:
            return made


def work(ledger: Ledger, kind: str = "succeeded", **options: Any) -> list[tuple[str, int]]:
    """Let all that is ready run and end like that; return the jobs and days of the slots, as they were claimed."""
    step(ledger)
    claims = ledger.claim(limit=1000, **options)
    ledger.end_all(claims, kind)
    settle(ledger)
    return [(claim.job, (claim.slot_at - BEGINNING).days) for claim in claims]


def days(ledger: Ledger, kind: str = "succeeded") -> list[int]:
    return [number for _, number in work(ledger, kind)]


def test_slots_without_a_row_run_one_after_the_other_oldest_first(ledger: Ledger) -> None:
    add_daily(ledger)
    made = start(ledger)

    assert [days(ledger) for _ in range(6)] == [[-5], [-4], [-3], [-2], [-1], []]
    assert ledger.states() == [RunState.SUCCEEDED] * 5
    view = read_backfill(ledger.database, made)
    assert {name: view[name] for name in ("state", "slots", "done", "succeeded", "failed", "active", "left")} == {
        "state": "ended", "slots": 5, "done": 5, "succeeded": 5, "failed": 0, "active": 0, "left": 0,
    }  # fmt: skip


def test_a_run_of_the_past_has_no_start_window_and_stands_in_line_as_what_is_asked_for_now(ledger: Ledger) -> None:
    add_daily(ledger, start_within_seconds=60.0)
    start(ledger)
    step(ledger)
    (row,) = ledger.runs()

    assert (row.state, row.start_by, row.run_at, row.requested_by) == ("ready", None, BEGINNING, "ann")
    assert "backfill 1, asked for by ann" in row.reason_text
    ledger.clock.advance(hours=12)
    assert days(ledger) == [-5]


def fill(ledger: Ledger, *kinds: str) -> None:
    """Give the slots of the days before now rows that ended so, the last one yesterday's."""
    schedule_id = ledger.value("select id from rota_schedule where name = 'job'")
    ledger.set_schedule(schedule_id, next_slot_at=day(-len(kinds)), overlap="allow", catch_up="all")
    ledger.clock.advance(days=-len(kinds) - 0.01)
    for _ in kinds:
        ledger.clock.advance(days=1)
        fire_schedules(ledger.database, fired_by="a")
    for row, kind in zip(ledger.runs(), kinds, strict=True):
        if kind in {"succeeded", "failed"}:
            (claim,) = ledger.claim(limit=1)
            ledger.end(claim, kind)
        elif kind == "running":
            ledger.started(ledger.claim_one())
        elif kind not in {"ready"}:
            cancel_run(ledger.database, row.id, actor="ann")
            if kind != "cancelled":
                ledger.set_run(row.id, state=kind, reason="operator")
                ledger.execute("update rota_event set to_state = :kind where run_id = :id", kind=kind, id=row.id)
    ledger.clock.advance(days=0.01)
    ledger.set_schedule(schedule_id, next_slot_at=day(1))


ROWS = ("succeeded", "failed", "missed", "skipped", "cancelled", "running", "ready")


@pytest.mark.writes_runs_by_hand
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({}, [-8, -6, -5, -4, -3], id="what-has-not-succeeded"),
        pytest.param({"again": True}, [-8, -7, -6, -5, -4, -3], id="again"),
        pytest.param({"failed_only": True}, [-6, -5], id="failed-only"),
        pytest.param({"order": "newest"}, [-3, -4, -5, -6, -8], id="newest"),
    ],
)
def test_what_was_decided_about_a_slot_says_whether_it_is_run(
    ledger: Ledger, options: dict[str, Any], expected: list[int]
) -> None:
    add_daily(ledger)
    fill(ledger, *ROWS)
    before = {row.id: row for row in ledger.runs()}
    made = start(ledger, first=-8, **options)
    # What goes on has the schedule to itself, where overlap is not allow.
    ready = [row.id for row in ledger.runs() if row.state == "ready"]
    ledger.execute("update rota_run set pool = 'elsewhere' where id in (0, :id)", id=ready[0])

    assert [number for _ in range(8) for number in days(ledger)] == expected
    rows = ledger.runs()
    assert [row.slot_at for row in rows] == [day(n) for n in range(-8, 0) if n >= -7 or -8 in expected]
    assert [row.state for row in rows if row.id in before and (row.slot_at - BEGINNING).days not in expected] == [
        row.state for row in before.values() if (row.slot_at - BEGINNING).days not in expected
    ]
    view = read_backfill(ledger.database, made)
    assert (view["state"], view["slots"], view["succeeded"]) == ("ended", 8, len(expected))
    assert view["passed_over"] == 8 - len(expected)


def test_a_slot_that_has_a_row_gets_its_next_attempt_and_one_that_has_none_its_first(ledger: Ledger) -> None:
    add_daily(ledger)
    fill(ledger, "failed")
    (failed,) = ledger.runs()
    start(ledger, first=-2)
    for _ in range(3):
        work(ledger)

    assert [(row.id, row.attempt, row.slot_at) for row in ledger.runs()] == [
        (failed.id + 1, 1, day(-2)),
        (failed.id, 2, day(-1)),
    ]


def test_so_many_are_unfinished_at_once_as_it_may_have(ledger: Ledger) -> None:
    add_daily(ledger)
    start(ledger, max_active=3)

    assert [days(ledger) for _ in range(3)] == [[-5, -4, -3], [-2, -1], []]


def test_what_succeeded_meanwhile_is_passed_over_also_with_again(ledger: Ledger) -> None:
    add_daily(ledger)
    fill(ledger, "succeeded", "succeeded", "failed")
    made = start(ledger, first=-3, again=True)
    ledger.clock.advance(seconds=10)
    rerun_run(ledger.database, ledger.runs()[1].id, actor="bob")
    (claim,) = ledger.claim()
    ledger.end(claim)
    mark_succeeded(ledger.database, ledger.runs()[2].id, actor="bob")

    assert [number for _ in range(4) for number in days(ledger)] == [-3]
    assert read_backfill(ledger.database, made)["passed_over"] == 2


# Rows that stand for many slots


def skip_days(ledger: Ledger, count: int) -> None:
    """Leave one row for the slots of so many days before today."""
    ledger.clock.advance(days=-count - 0.5)
    schedule_id = ledger.value("select id from rota_schedule")
    ledger.set_schedule(schedule_id, next_slot_at=day(-count))
    pause_schedule(ledger.database, "job", actor="ann")
    ledger.clock.advance(days=count)
    resume_schedule(ledger.database, "job", actor="ann")
    ledger.clock.advance(days=0.5)
    (row,) = ledger.runs()
    assert (row.slot_count, row.slot_at, row.slot_last_at) == (count, day(-count), day(-1))
    ledger.set_schedule(schedule_id, next_slot_at=day(1))


def spans(ledger: Ledger) -> list[tuple[int, int, int, str]]:
    return [
        (
            (row.slot_at - BEGINNING).days,
            ((row.slot_last_at or row.slot_at) - BEGINNING).days,
            row.slot_count,
            row.state,
        )
        for row in ledger.runs()
    ]


def test_of_a_row_for_many_slots_those_that_run_get_rows_of_their_own_and_the_others_stay_in_it(ledger: Ledger) -> None:
    add_daily(ledger)
    skip_days(ledger, 10)
    start(ledger, first=-6, end=-3)
    step(ledger)

    assert spans(ledger) == [(-10, -7, 4, "skipped"), (-6, -6, 1, "ready"), (-5, -1, 5, "skipped")]
    assert [number for _ in range(4) for number in days(ledger)] == [-6, -5, -4]
    assert spans(ledger) == [
        (-10, -7, 4, "skipped"),
        *((n, n, 1, "succeeded") for n in (-6, -5, -4)),
        (-3, -1, 3, "skipped"),
    ]
    left = ledger.runs()[-1]
    assert left.reason_text.startswith("3 left by backfill 1, asked for by ann, of: 10 slots from 2026-10-23")
    assert [row.to_state for row in ledger.events(left.id)] == ["skipped"]


@pytest.mark.parametrize("order", ["oldest", "newest"])
@pytest.mark.parametrize("max_active", [1, 4])
def test_a_row_of_which_all_slots_run_becomes_that_of_one_of_them(ledger: Ledger, order: str, max_active: int) -> None:
    add_daily(ledger)
    skip_days(ledger, 10)
    start(ledger, first=-10, order=order, max_active=max_active)

    run = [sorted(days(ledger)) for _ in range(10)]

    wanted = list(range(-10, 0))[:: 1 if order == "oldest" else -1]
    assert [one for one in run if one] == [sorted(wanted[n : n + max_active]) for n in range(0, 10, max_active)]
    assert spans(ledger) == [(n, n, 1, "succeeded") for n in range(-10, 0)]


def test_a_row_of_another_timing_keeps_all_that_it_stands_for(ledger: Ledger) -> None:
    add_daily(ledger)
    skip_days(ledger, 10)
    edit_schedule(ledger.database, "job", lambda spec: spec.edited(cron="30 6 * * *"), actor="ann")
    start(ledger, first=-6, end=-4)
    for _ in range(3):
        work(ledger)

    rows = ledger.runs()
    assert [row.slot_at for row in rows if row.state == "succeeded"] == [
        day(-6) + timedelta(hours=18.5),
        day(-5) + timedelta(hours=18.5),
    ]
    assert sum(row.slot_count for row in rows if row.state == "skipped") == 8


# When runs fail


def test_one_that_has_failed_for_good_does_not_hold_up_the_others(ledger: Ledger) -> None:
    add_daily(ledger)
    ledger.set_job(retries=1)
    made = start(ledger, first=-2)

    assert days(ledger, "failed") == [-2]
    assert days(ledger, "failed") == [-2]
    assert days(ledger) == [-1]
    step(ledger)
    view = read_backfill(ledger.database, made)
    assert (view["state"], view["succeeded"], view["failed"], view["done"]) == ("ended", 1, 1, 2)


def test_where_slots_run_in_order_the_next_one_waits_for_the_one_that_failed(ledger: Ledger) -> None:
    add_daily(ledger, catch_up="all", overlap="queue", in_order=True)
    ledger.set_job(retries=1)
    start(ledger, first=-2)
    assert [days(ledger, "failed") for _ in range(4)] == [[-2], [-2], [], []]
    assert ledger.states() == [RunState.FAILED, RunState.WAITING]

    mark_succeeded(ledger.database, ledger.runs()[0].id, actor="ann")
    assert days(ledger) == [-1]


def test_slots_that_run_in_order_are_refused_newest_first(ledger: Ledger) -> None:
    add_daily(ledger, catch_up="all", overlap="queue", in_order=True)

    with pytest.raises(Conflict, match="leave out --order newest"):
        start(ledger, order="newest")


# Beside the schedule's own slots


def test_a_slot_that_comes_while_one_of_the_past_runs_waits_for_it_and_goes_first_then(ledger: Ledger) -> None:
    add_daily(ledger)
    start(ledger, max_active=2)
    step(ledger)
    running = ledger.claim()
    ledger.clock.advance(days=1)
    fire_schedules(ledger.database, fired_by="a")
    settle(ledger)

    own = ledger.runs()[-1]
    assert (own.state, own.reason) == ("waiting", "queued")
    assert "a run of a backfill of this schedule has not finished" in own.reason_text
    ledger.end_all(running)
    assert work(ledger) == [("job", 1)]
    ledger.clock.advance(seconds=LOOK_SECONDS)
    assert days(ledger) == [-3, -2]


def test_one_of_the_past_waits_for_a_run_of_the_schedule_and_starts_beside_it_where_that_may_be(ledger: Ledger) -> None:
    schedule_id = add_daily(ledger, next_slot_at=BEGINNING)
    fire_schedules(ledger.database, fired_by="a")
    (own,) = ledger.claim()
    made = start(ledger)
    assert step(ledger) == 0
    (part,) = read_backfill(ledger.database, made)["schedules"]
    assert part["problem"] == "another run of its schedule is unfinished"

    ledger.set_schedule(schedule_id, overlap="allow")
    ledger.clock.advance(seconds=LOOK_SECONDS)
    assert days(ledger) == [-5]
    ledger.end(own)


def test_a_slot_that_replaces_the_run_before_it_does_not_replace_one_of_the_past(ledger: Ledger) -> None:
    add_daily(ledger, overlap="replace")
    start(ledger)
    step(ledger)
    (running,) = ledger.claim()
    for _ in range(2):  # the second one replaces the first, which waits
        ledger.clock.advance(days=1)
        fire_schedules(ledger.database, fired_by="a")

    assert [row.state for row in ledger.runs()] == ["running", "cancelled", "waiting"]
    assert ledger.runs()[0].cancel_asked_at is None
    ledger.end(running)
    assert work(ledger) == [("job", 2)]


def test_a_firing_that_was_decided_before_a_step_is_decided_again(ledger: Ledger) -> None:
    schedule_id = add_daily(ledger)
    before = ledger.schedule(schedule_id).cursor_version
    start(ledger)
    step(ledger)

    assert ledger.schedule(schedule_id).cursor_version > before


# Several nodes, and what wakes it


def test_of_two_nodes_that_step_at_once_one_does(ledger: Ledger) -> None:
    add_daily(ledger)
    start(ledger)
    other = ledger.connect()
    due = ledger.row("select id, version from rota_backfill")
    assert days(ledger) == [-5]
    made = other.write(lambda connection: _step(connection, due.id, due.version), repeatable=True)

    assert made.runs == 0
    assert len(ledger.runs()) == 1


def test_it_is_looked_at_when_one_of_its_runs_ends_and_by_itself_else(ledger: Ledger) -> None:
    add_daily(ledger)
    start(ledger)
    step(ledger)
    (claim,) = ledger.claim()
    assert ledger.value(select(backfill.c.due_at)) == ledger.clock.after(LOOK_SECONDS)

    ledger.end(claim)
    assert ledger.value(select(backfill.c.due_at)) == ledger.clock.now
    assert step(ledger) == 1
    cancel_run(ledger.database, ledger.runs()[-1].id, actor="ann")  # which tells it nothing
    assert step(ledger) == 0
    ledger.clock.advance(seconds=LOOK_SECONDS)
    assert step(ledger) == 1


# Pause, resume and cancel


def test_while_it_is_paused_nothing_new_is_made_and_it_goes_on_from_there(ledger: Ledger) -> None:
    add_daily(ledger)
    made = start(ledger)
    assert days(ledger) == [-5]
    pause_backfill(ledger.database, made, actor="bob")
    ledger.clock.advance(days=0.5)

    assert days(ledger) == []
    view = resume_backfill(ledger.database, made, actor="bob")
    assert (view["state"], view["changed_by"], view["left"]) == ("active", "bob", 4)
    assert days(ledger) == [-4]
    told = ledger.rows("select to_state, actor, text from rota_event where kind = 'backfill' order by id")
    assert [(one.to_state, one.actor) for one in told] == [("started", "ann"), ("paused", "bob"), ("resumed", "bob")]


def test_cancelled_it_withdraws_what_waits_and_has_what_runs_stopped(ledger: Ledger) -> None:
    add_daily(ledger)
    made = start(ledger, max_active=3)
    step(ledger)
    claim = ledger.started(ledger.claim_one())

    view = cancel_backfill(ledger.database, made, actor="bob")
    assert (view["state"], view["active"], view["finished_at"]) == ("cancelled", 1, None)
    assert ledger.states() == [RunState.RUNNING, RunState.CANCELLED, RunState.CANCELLED]
    assert ledger.run(claim.run_id).cancel_asked_by == "bob"
    ledger.end(claim, "cancelled")
    step(ledger)
    view = read_backfill(ledger.database, made)
    assert (view["active"], view["failed"]) == (0, 3)
    assert view["finished_at"] is not None
    assert days(ledger) == []
    for change in (pause_backfill, resume_backfill):
        with pytest.raises(Conflict, match="was cancelled: see `rota backfill show 1`"):
            change(ledger.database, made, actor="bob")


def test_cancelled_very_many_are_withdrawn_by_and_by(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfill_ends, "FIND_OURS", backfill_ends.FIND_OURS.limit(2))
    add_daily(ledger)
    made = start(ledger, max_active=5)
    step(ledger)

    cancel_backfill(ledger.database, made, actor="bob")
    assert ledger.states().count(RunState.CANCELLED) == 2
    for _ in range(3):
        ledger.clock.advance(seconds=LOOK_SECONDS)
        step(ledger)
    assert ledger.states() == [RunState.CANCELLED] * 5
    assert read_backfill(ledger.database, made)["finished_at"] is not None


# What becomes of the schedule meanwhile


def test_it_waits_while_the_schedule_is_paused_and_ends_when_it_is_deleted(ledger: Ledger) -> None:
    add_daily(ledger)
    made = start(ledger)
    pause_schedule(ledger.database, "job", actor="ann")
    assert days(ledger) == []
    assert "is paused: resume it" in read_backfill(ledger.database, made)["schedules"][0]["problem"]

    resume_schedule(ledger.database, "job", actor="ann")
    ledger.clock.advance(seconds=LOOK_SECONDS)
    assert days(ledger) == [-5]
    delete_schedule(ledger.database, "job", actor="ann")
    assert days(ledger) == []
    view = read_backfill(ledger.database, made)
    assert (view["state"], view["done"], view["left"]) == ("ended", 1, 4)
    assert view["schedules"][0]["problem"] == "schedule job was deleted"


def test_an_edited_schedule_goes_on_by_its_new_timing_from_there(ledger: Ledger) -> None:
    add_daily(ledger)
    made = start(ledger)
    assert days(ledger) == [-5]
    edit_schedule(ledger.database, "job", lambda spec: spec.edited(cron="0 0,12 * * *"), actor="ann")
    for _ in range(12):
        work(ledger)

    view = read_backfill(ledger.database, made)
    assert (view["state"], view["slots"], view["succeeded"], view["left"]) == ("ended", 9, 9, 0)


def test_what_a_calendar_closes_gets_the_row_that_firing_would_give_it(ledger: Ledger) -> None:
    add_calendar(ledger.database, Calendar.checked("week", weekdays=["sat", "sun"]), actor="ann")
    add_daily(ledger, calendars='["week"]')
    made = start(ledger)  # from a Wednesday to a Sunday

    assert [number for _ in range(5) for number in days(ledger)] == [-5, -4, -3]
    assert [(row.state, row.reason) for row in ledger.runs()[3:]] == [("skipped", "calendar")] * 2
    assert read_backfill(ledger.database, made)["passed_over"] == 2


# Names, and what is refused


def test_a_job_means_all_its_schedules_and_a_name_that_is_both_the_schedule(ledger: Ledger) -> None:
    add_daily(ledger, "job", "noon")
    ledger.add_schedule("midnight", "job", expression="0 0 * * *", next_slot_at=day(0.5))
    assert [part["schedule"] for part in read_backfill(ledger.database, start(ledger))["schedules"]] == [
        "midnight",
        "noon",
    ]

    ledger.add_schedule("job", "job", expression="0 6 * * *", next_slot_at=day(0.75))
    made = start(ledger)
    assert [part["schedule"] for part in read_backfill(ledger.database, made)["schedules"]] == ["job"]
    assert [view["id"] for view in list_backfills(ledger.database)] == [made, made - 1]


@pytest.mark.parametrize(
    ("change", "first", "end", "message"),
    [
        ({}, 0, -1, r"to '2026-11-01.*' is refused: it comes before from, 2026-11-02T12:00:00Z: swap them"),
        ({}, -5, 1.5, r"slots of schedule job from 2026-11-03T12:00:00Z on come by themselves: --to is at most"),
        ({}, -0.5, -0.4, r"job has no slot from .* up to it; the next one of job is 2026-11-02T12:00:00Z"),
        ({"state": "paused"}, -5, 0, "schedule job is paused: resume it with `rota schedule resume job`"),
        ({"problem": "odd"}, -5, 0, r"schedule job is set aside \(odd\): correct it with `rota schedule edit job`"),
    ],
)
def test_a_range_that_cannot_be_run_is_refused_with_what_to_do(
    ledger: Ledger, change: dict[str, Any], first: float, end: float, message: str
) -> None:
    add_daily(ledger, **change)

    with pytest.raises((Invalid, Conflict), match=message):
        start(ledger, first=first, end=end)
    assert ledger.rows("select id from rota_backfill") == []


def test_unknown_names_jobs_without_slots_and_jobs_for_all_nodes_are_refused(ledger: Ledger) -> None:
    with pytest.raises(NotFound, match="there is no job or schedule 'job'; see `rota schedule list`"):
        start(ledger)
    ledger.add_job("alone")
    with pytest.raises(Conflict, match="job alone has no schedule, and so no slots: add one"):
        start(ledger, "alone")
    add_daily(ledger)
    ledger.set_job(runs_on="all")
    with pytest.raises(Conflict, match=r"job job runs on all nodes of its pool, .* `rota job run job`"):
        start(ledger)
    with pytest.raises(NotFound, match=r"there is no backfill '7'; see `rota backfill list`"):
        read_backfill(ledger.database, 7)


def test_no_slot_before_the_start_and_after_the_end_of_the_schedule_is_one(ledger: Ledger) -> None:
    add_daily(ledger, start_at=day(-3), end_at=day(-2), next_slot_at=None)
    start(ledger)

    assert [number for _ in range(4) for number in days(ledger)] == [-3, -2]


def test_very_many_slots_are_counted_without_listing_them_and_want_a_second_word(ledger: Ledger) -> None:
    add_daily(ledger, kind="every", expression="1", anchor_at=day(-200))

    with pytest.raises(Conflict, match=r"has 10,022,400 slots, more than 1,000,000: .* with --yes"):
        start(ledger, first=-116)
    wish = Wish.checked()
    view = start_backfill(ledger.database, "job", day(-116), day(0), wish, actor="ann", confirmed=True)
    assert view["slots"] == 10_022_400
    assert step(ledger) == 1


@pytest.mark.writes_runs_by_hand
def test_a_dry_run_says_what_would_be_done_and_changes_nothing(ledger: Ledger) -> None:
    add_daily(ledger)
    fill(ledger, *ROWS)
    before = ledger.runs()

    view = preview_backfill(ledger.database, "job", day(-9), day(0), Wish.checked())
    (part,) = view["schedules"]
    assert {name: part[name] for name in ("slots", "first", "last", "new", "again", "passed_over", "closed")} == {
        "slots": 9,
        "first": "2026-10-24T12:00:00.000000Z",
        "last": "2026-11-01T12:00:00.000000Z",
        "new": 2,
        "again": 4,
        "passed_over": 3,
        "closed": 0,
    }
    assert ledger.runs() == before
    assert ledger.rows("select id from rota_backfill") == []


# What is built on it


def add_chain(ledger: Ledger, *, hourly: bool = False) -> None:
    """Add a load of each day, a report on it, and an export on both."""
    add_daily(ledger, "load", overlap="allow")
    report = {"expression": "0 */6 * * *", "next_slot_at": day(0.25), "overlap": "skip"} if hourly else {}
    add_daily(ledger, "report", **report)
    add_daily(ledger, "export")
    set_after(ledger, "report", "load")
    set_after(ledger, "export", "load", "report")


def finish_all(ledger: Ledger, rounds: int = 40) -> list[tuple[str, int]]:
    done: list[tuple[str, int]] = []
    for _ in range(rounds):
        done += work(ledger)
        ledger.clock.advance(seconds=LOOK_SECONDS)
    return done


def test_what_is_built_on_a_slot_follows_it_in_order_also_where_nothing_was_decided_before(ledger: Ledger) -> None:
    add_chain(ledger)
    made = start(ledger, "load", first=-3, end=-1, downstream=True)

    done = finish_all(ledger)
    for number in (-3, -2):
        assert [job for job, of in done if of == number] == ["load", "report", "export"]
    assert len(done) == 6
    view = read_backfill(ledger.database, made)
    assert (view["state"], view["slots"], view["succeeded"]) == ("ended", 6, 6)
    assert [(part["schedule"], part["built_on"]) for part in view["schedules"]] == [
        ("load", False), ("report", True), ("export", True),
    ]  # fmt: skip


@pytest.mark.parametrize("order", ["oldest", "newest"])
def test_what_has_succeeded_is_done_again_behind_what_it_is_built_on(ledger: Ledger, order: str) -> None:
    add_chain(ledger)
    start(ledger, "load", first=-4, downstream=True)
    finish_all(ledger)
    before = {row.id: row.attempt for row in ledger.runs()}
    start(ledger, "load", first=-3, end=-1, downstream=True, order=order, max_active=2)

    done = finish_all(ledger)
    for number in (-3, -2):
        assert [job for job, of in done if of == number] == ["load", "report", "export"]
    assert len(done) == 6
    assert {row.id for row in ledger.runs()} == before.keys()
    assert [row.attempt for row in ledger.runs()] == [
        before[row.id] + (day(-3) <= row.slot_at < day(-1)) for row in ledger.runs()
    ]


def test_of_what_comes_more_often_all_slots_are_done_again_that_build_on_it_and_no_others(ledger: Ledger) -> None:
    add_chain(ledger, hourly=True)
    made = start(ledger, "load", first=-2, end=-1, downstream=True)

    finish_all(ledger)
    reports = [row.slot_at for row in ledger.runs() if row.job == "report"]
    assert reports == [day(-2 + quarter / 4) for quarter in range(4)]
    assert {row.state for row in ledger.runs()} == {"succeeded"}
    assert read_backfill(ledger.database, made)["state"] == "ended"


def test_nothing_is_done_again_before_what_it_is_built_on_was_taken(ledger: Ledger) -> None:
    add_chain(ledger)
    start(ledger, "load", first=-3, downstream=True)
    finish_all(ledger)
    start(ledger, "load", first=-3, downstream=True, max_active=3)
    step_backfills(ledger.database)

    # The first step takes the loads; what is built on them is looked at in the next one.
    assert {row.state for row in ledger.runs() if row.job != "load"} == {"succeeded"}
    step(ledger)
    assert {(row.job, row.state) for row in ledger.runs()} == {
        ("load", "ready"), ("report", "waiting"), ("export", "waiting"),
    }  # fmt: skip


@pytest.mark.writes_runs_by_hand
def test_with_failed_only_what_is_built_on_exactly_these_is_done_again(ledger: Ledger) -> None:
    add_chain(ledger)
    start(ledger, "load", first=-4, downstream=True)
    finish_all(ledger)
    (broken,) = [row for row in ledger.runs() if row.job == "load" and row.slot_at == day(-2)]
    ledger.set_run(broken.id, state="failed", reason="exit_code")
    ledger.execute("update rota_event set to_state = 'failed' where run_id = :id", id=broken.id)
    start(ledger, "load", first=-4, downstream=True, failed_only=True)

    assert finish_all(ledger) == [("load", -2), ("report", -2), ("export", -2)]


def test_what_runs_and_is_built_on_it_is_done_again_when_it_has_ended(ledger: Ledger) -> None:
    add_chain(ledger)
    start(ledger, "load", first=-1, downstream=True)
    finish_all(ledger)
    (report,) = [row for row in ledger.runs() if row.job == "report"]
    rerun_run(ledger.database, report.id, actor="bob")
    (claim,) = ledger.claim()
    made = start(ledger, "load", first=-1, downstream=True)
    assert work(ledger) == [("load", -1)]
    step(ledger)
    problems = [part["problem"] for part in read_backfill(ledger.database, made)["schedules"]]
    assert problems[1] == f"it goes on when run {report.id}, which is built on what is replaced, ends"

    ledger.end(claim)
    ledger.clock.advance(seconds=LOOK_SECONDS)
    assert finish_all(ledger) == [("report", -1), ("export", -1)]


def test_what_waits_for_a_slot_that_has_failed_is_left_to_wait_for_it(ledger: Ledger) -> None:
    add_chain(ledger)
    start(ledger, "load", first=-1, downstream=True)
    work(ledger, "failed")
    step(ledger)
    assert [row.state for row in ledger.runs()] == ["failed", "waiting", "waiting"]
    made = start(ledger, "load", first=-1, downstream=True)

    assert finish_all(ledger) == [("load", -1), ("report", -1), ("export", -1)]
    assert read_backfill(ledger.database, made)["state"] == "ended"
    assert [row.attempt for row in ledger.runs()] == [2, 1, 1]


def test_what_waits_for_upstreams_is_not_given_up_for_another_run_of_its_schedule(ledger: Ledger) -> None:
    add_chain(ledger, hourly=True)  # reports whose overlap is skip
    start(ledger, "load", first=-1, downstream=True, max_active=3)
    work(ledger)
    # The three that may be unfinished at once are not in the way of each other.
    step(ledger)
    assert sorted(slots(ledger, "report")) == ["ready", "ready", "ready"]
    reports = ledger.claim()
    ledger.end_all(reports[1:])
    settle(ledger)
    other = reports[0].run_id
    ledger.set_run(other, backfill_id=None)  # as if it were the schedule's own
    ledger.clock.advance(seconds=LOOK_SECONDS)
    step(ledger)

    waiting = [row for row in ledger.runs() if row.job == "report" and row.state == "waiting"]
    assert [row.reason for row in waiting] == ["queued"]
    ledger.end(reports[0])
    finish_all(ledger)
    assert {row.state for row in ledger.runs()} == {"succeeded"}


@pytest.mark.breaks_invariants
def test_one_whose_row_was_written_by_hand_stops_no_other(ledger: Ledger) -> None:
    add_daily(ledger)
    add_daily(ledger, "other")
    broken, other = start(ledger), start(ledger, "other")
    ledger.execute(update(backfill).where(backfill.c.id == broken).values(slot_order="sideways"))

    for _ in range(2):
        with pytest.raises(ValueError, match="sideways"):
            step_backfills(ledger.database)

    assert [run.job for run in ledger.runs()] == ["other"]
    assert read_backfill(ledger.database, other)["active"] == 1


def test_a_job_with_periods_has_no_slots_and_is_told_how_to_do_them_again(ledger: Ledger) -> None:
    spec = JobSpec.checked("hits", kind="shell", target="true", period="hour")
    add_job(ledger.database, spec, actor="ann")

    with pytest.raises(Conflict, match="rota period reprocess hits"):
        start(ledger, "hits")
