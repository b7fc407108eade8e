"""Why a schedule does what it does, and what became of each slot that somebody may ask for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rota.errors import Invalid
from rota.model.calendars import Calendar
from rota.model.schedule import ScheduleSpec
from rota.store import jobs, schedules
from rota.store.calendars import add_calendar
from rota.store.clock import tell_clock_step
from rota.store.firing import fire_schedules
from rota.store.slot_history import why_schedule
from tests.clock import BEGINNING, Clock
from tests.store.ledger import Ledger
from tests.store.living import start_node

pytestmark = pytest.mark.cases_take_turns

ANN = "ann@desk"
MINUTE = timedelta(minutes=1)


@pytest.fixture
def job(ledger: Ledger) -> int:
    start_node(ledger)
    return ledger.add_job()


def add(ledger: Ledger, name: str = "each", **options: Any) -> None:
    schedules.add_schedule(ledger.database, ScheduleSpec.checked(name, job="job", **options), actor=ANN)


def fire(ledger: Ledger) -> None:
    fire_schedules(ledger.database, fired_by="a")


def ask(ledger: Ledger, slot: str | datetime | None = None, name: str = "each") -> tuple[str, list[str]]:
    answer = why_schedule(ledger.database, name, slot)
    return answer["state"], answer["because"]


def schedule_that_fired(ledger: Ledger, clock: Any) -> None:
    ledger.add_job()
    start_node(ledger)
    add(ledger, cron="* * * * *")
    clock.advance(minutes=1)
    fire(ledger)


def test_a_schedule_tells_its_next_slot_and_what_became_of_the_last_one(ledger: Ledger, clock: Any) -> None:
    schedule_that_fired(ledger, clock)

    answer = why_schedule(ledger.database, "each")

    assert answer["because"][0] == "its next slot is 2026-11-02T12:02:00Z, in 1m"
    assert "run 1 is ready; overlap is skip: a slot" in answer["because"][1]
    assert answer["because"][-1].startswith("its last decided slot: slot 2026-11-02T12:01:00Z is run 1, ready")


@pytest.mark.parametrize(
    ("columns", "state", "said"),
    [
        ({"problem": "cannot be fired: x"}, "set aside", "it is set aside and fires nothing until it is edited"),
        ({"state": "paused", "paused_at": BEGINNING}, "paused", "it is paused since 2026-11-02T12:00:00Z"),
        ({"next_slot_at": None}, "active", "it has no slots left"),
        ({"next_slot_at": BEGINNING - MINUTE}, "active", "is due since 2m and not decided"),
    ],
)
def test_a_schedule_tells_why_it_does_not_fire(
    ledger: Ledger, clock: Any, columns: dict[str, Any], state: str, said: str
) -> None:
    ledger.add_job()
    start_node(ledger)
    schedule_id = ledger.add_schedule(next_slot_at=BEGINNING + MINUTE)
    ledger.set_schedule(schedule_id, **columns)
    clock.advance(minutes=1)

    answer = why_schedule(ledger.database, "each")

    assert answer["state"] == state
    assert said in answer["because"][0]


def test_each_kind_of_slot_is_accounted_for(ledger: Ledger, clock: Any) -> None:
    schedule_that_fired(ledger, clock)
    clock.advance(days=1)
    fire_schedules(ledger.database, fired_by="a")

    def about(slot: Any) -> tuple[str, str]:
        answer = why_schedule(ledger.database, "each", slot)
        return answer["state"], answer["because"][0]

    assert about(BEGINNING + MINUTE) == (
        "ready",
        "slot 2026-11-02T12:01:00Z is run 1, ready: " + ledger.run(1).reason_text,
    )
    shared = about(BEGINNING + 5 * MINUTE)
    assert shared[0] == "missed"
    assert "slots from 2026-11-02T12:02:00Z to" in shared[1]
    ahead = about(clock.now + 2 * MINUTE)
    assert (ahead[0], ahead[1]) == ("ahead", "it is ahead, in 2m")
    none = about(BEGINNING + timedelta(seconds=90))
    assert none == (
        "none",
        "the schedule, cron * * * * * in UTC, is not due then; the slot before it is 2026-11-02T12:01:00Z; "
        "the next slot after it is 2026-11-02T12:02:00Z",
    )
    assert about(BEGINNING - 5 * MINUTE) == (
        "none",
        "the schedule was added later, 2026-11-02T12:00:00Z: nothing was decided about it",
    )
    clock.advance(minutes=1)
    assert about(clock.now)[0] == "due"


def test_what_a_schedule_waits_for_is_told_with_what_decides_first(ledger: Ledger, job: int, clock: Clock) -> None:
    add(ledger, cron="* * * * *", start=BEGINNING + timedelta(hours=1))
    bounded = ask(ledger)[1]
    clock.advance(hours=2)
    tell_clock_step(ledger.database, 3600.0, 60.0, node="a")
    held = ask(ledger)[1]
    jobs.pause_job(ledger.database, "job", actor=ANN)
    schedules.pause_schedule(ledger.database, "each", actor=ANN)
    paused = ask(ledger)[1]

    assert bounded[:2] == [
        "its next slot is 2026-11-02T13:00:00Z, in 1h",
        "it starts at 2026-11-02T13:00:00Z: no slot lies before",
    ]
    assert held[0].startswith("the database's clock has stepped: nothing late is decided before 2026-11-02T14:01:00Z")
    assert held[1] == "its slot 2026-11-02T13:00:00Z is due since 1h and not decided"
    assert paused[0] == f"it is paused since 2026-11-02T14:00:00Z, by {ANN}: `rota schedule resume each`"
    assert paused[1].startswith("the database's clock has stepped")
    assert paused[2] == "its job job is paused: slots that come are skipped"


def test_a_schedule_tells_what_stands_in_the_way_of_its_next_slot(ledger: Ledger, job: int, clock: Clock) -> None:
    add(ledger, cron="* * * * *")
    clock.advance(minutes=1)
    fire(ledger)
    claim = ledger.claim_one()

    because = ask(ledger)[1]

    assert (
        f"run {claim.run_id} is running on a; overlap is skip: a slot that comes before it has ended is skipped"
        in because
    )


def test_a_slot_says_by_how_much_its_delay_and_jitter_put_it_off(ledger: Ledger, job: int) -> None:
    add(ledger, cron="0 * * * *", delay=30, jitter=60)

    state, because = ask(ledger, "2026-11-02T13:00Z")

    assert state == "ahead"
    assert because[0] == "it is ahead, in 1h"
    assert because[1].startswith("its run may start at 2026-11-02T13:0")
    assert because[1].endswith("Z, by its delay and jitter")


def test_a_time_is_read_in_the_zone_of_the_schedule_and_no_finer_than_it_is_typed(
    ledger: Ledger, job: int, clock: Clock
) -> None:
    add(ledger, cron="30 14 * * *", tz="Europe/Amsterdam")
    clock.advance(hours=2)
    fire(ledger)
    (run,) = ledger.runs()

    for typed in ("2026-11-02", "2026-11-02T14:30", "2026-11-02T14:30:00", "2026-11-02T13:30Z", run.slot_at):
        answer = why_schedule(ledger.database, "each", typed)
        assert answer["subject"] == "slot 2026-11-02T13:30:00Z of schedule each"
        assert answer["because"][0].startswith(f"slot 2026-11-02T13:30:00Z is run {run.id}, ")
        assert answer["events"][0]["to"] == run.state
    assert ask(ledger, "2026-11-02T13:30")[0] == "none"
    with pytest.raises(Invalid):
        ask(ledger, "half past two")


def test_a_day_of_many_slots_tells_each(ledger: Ledger, job: int, clock: Clock) -> None:
    add(ledger, cron="0 */6 * * *")
    clock.advance(hours=6)
    fire(ledger)

    state, because = ask(ledger, "2026-11-02")

    assert state == "several"
    assert [sentence[:40] for sentence in because] == [
        "slot 2026-11-02T00:00:00Z: the schedule ",
        "slot 2026-11-02T06:00:00Z: the schedule ",
        "slot 2026-11-02T12:00:00Z: the schedule ",
        "slot 2026-11-02T18:00:00Z is run 1, read",
    ]


def test_a_slot_inside_a_row_that_stands_for_many_is_found_and_its_neighbour_that_is_none_is_not(
    ledger: Ledger, job: int, clock: Clock
) -> None:
    add(ledger, cron="* * * * *", catch_up="none")
    clock.advance(hours=10)
    fire(ledger)
    summary = next(run for run in ledger.runs() if run.slot_count > 1)

    state, because = ask(ledger, "2026-11-02T15:17Z")
    between = ask(ledger, "2026-11-02T15:17:30Z")

    assert state == "missed"
    assert because[0].startswith(f"{summary.slot_count} slots from 2026-11-02T12:01:00Z to ")
    assert f"share run {summary.id}, missed: " in because[0]
    assert why_schedule(ledger.database, "each", "2026-11-02T15:17Z")["subject"].startswith(
        "slot 2026-11-02T15:17:00Z of"
    )
    assert between == (
        "none",
        [
            "the schedule, cron * * * * * in UTC, is not due then; the slot before it is 2026-11-02T15:17:00Z; "
            "the next slot after it is 2026-11-02T15:18:00Z"
        ],
    )


def test_a_row_that_stands_for_slots_of_an_older_timing_is_told_all_the_same(
    ledger: Ledger, job: int, clock: Clock
) -> None:
    add(ledger, cron="* * * * *", catch_up="none")
    clock.advance(hours=10)
    fire(ledger)
    clock.advance(seconds=1)
    schedules.edit_schedule(ledger.database, "each", lambda spec: spec.edited(cron="0 3 * * *"), actor=ANN)

    state, because = ask(ledger, "2026-11-02T15:17Z")

    assert state == "missed"
    assert "slots from 2026-11-02T12:01:00Z to " in because[0]


def test_bounds_are_named(ledger: Ledger, job: int) -> None:
    add(ledger, cron="0 * * * *", start="2026-11-10T00:00Z", end="2026-11-20T00:00Z")

    assert ask(ledger, "2026-11-05T12:00Z")[1][0] == "it lies before the start of the schedule, 2026-11-10T00:00:00Z"
    assert ask(ledger, "2026-11-25T12:00Z")[1][0] == "it lies after the end of the schedule, 2026-11-20T00:00:00Z"


def test_a_slot_before_the_schedule_was_added_or_its_timing_edited_says_so(
    ledger: Ledger, job: int, clock: Clock
) -> None:
    add(ledger, cron="0 * * * *")
    early = ask(ledger, "2026-11-02T11:00Z")
    clock.advance(minutes=30)
    schedules.edit_schedule(ledger.database, "each", lambda spec: spec.edited(cron="*/5 * * * *"), actor=ANN)

    later = ask(ledger, "2026-11-02T12:10Z")

    assert early == (
        "none",
        ["the schedule was added later, 2026-11-02T12:00:00Z: nothing was decided about it"],
    )
    assert later == (
        "none",
        [
            "the schedule was not due then as it stood: it was edited 2026-11-02T12:30:00Z by ann@desk, and nothing "
            "was decided about it"
        ],
    )


def test_what_daylight_saving_skips_or_moves_is_explained(ledger: Ledger, job: int, clock: Clock) -> None:
    clock.now = datetime(2026, 3, 28, 12, 0, tzinfo=UTC)
    add(ledger, "skips", cron="30 2 * * *", tz="Europe/Amsterdam", gap="skip")
    add(ledger, "shifts", cron="30 2 * * *", tz="Europe/Amsterdam")
    clock.advance(hours=14)
    fire(ledger)

    skipped = ask(ledger, "2026-03-29T02:30", "skips")
    shifted = ask(ledger, "2026-03-29T02:30", "shifts")

    assert skipped[0] == "none"
    assert skipped[1][0] == (
        "2026-03-29 02:30 does not exist in Europe/Amsterdam: daylight saving skips it, and gap is skip"
    )
    assert shifted[1][0].startswith("slot 2026-03-29T01:00:00Z is run ")
    assert any("02:30" in sentence for sentence in shifted[1][1:])


def test_the_second_of_two_equal_local_times_is_found(ledger: Ledger, job: int, clock: Clock) -> None:
    clock.now = datetime(2026, 10, 24, 12, 0, tzinfo=UTC)
    add(ledger, cron="30 2 * * *", tz="Europe/Amsterdam", fold="last")
    clock.advance(hours=14)
    fire(ledger)

    assert ask(ledger, "2026-10-25T02:30")[1][0].startswith("slot 2026-10-25T01:30:00Z is run ")


def test_a_calendar_that_closes_a_slot_is_named_before_and_after(ledger: Ledger, job: int, clock: Clock) -> None:
    add_calendar(ledger.database, Calendar.checked("weekend", weekdays=["sat", "sun"]), actor=ANN)
    clock.now = datetime(2026, 11, 6, 12, 0, tzinfo=UTC)  # a Friday
    start_node(ledger)
    add(ledger, cron="0 9 * * *", calendars=["weekend"])

    upcoming = ask(ledger)[1]
    ahead = ask(ledger, "2026-11-07T09:00")
    clock.now = datetime(2026, 11, 7, 9, 0, tzinfo=UTC)
    fire(ledger)
    after = ask(ledger, "2026-11-07")

    assert upcoming[1].startswith("slot 2026-11-07T09:00:00Z will be skipped: calendar weekend")
    assert ahead[0] == "ahead"
    assert ahead[1][1] == upcoming[1]
    assert after[0] == "skipped"
    assert "weekend" in after[1][0]
    assert after[1][0].endswith("(calendar)")


@pytest.mark.parametrize(
    ("on_closed", "target"), [("next", "2026-11-09T09:00:00Z"), ("previous", "2026-11-06T09:00:00Z")]
)
def test_a_slot_that_a_calendar_moved_is_found_where_it_went(
    ledger: Ledger, job: int, clock: Clock, on_closed: str, target: str
) -> None:
    clock.now = datetime(2026, 11, 5, 12, 0, tzinfo=UTC)
    add_calendar(ledger.database, Calendar.checked("weekend", weekdays=["sat", "sun"]), actor=ANN)
    add(ledger, cron="0 9 * * sat", calendars=["weekend"], on_closed=on_closed)

    state, because = ask(ledger, "2026-11-07")
    clock.now = datetime(2026, 11, 9, 9, 0, tzinfo=UTC)
    fire(ledger)
    then = ask(ledger, "2026-11-07T09:00")

    assert state == "moved"
    assert because[0].startswith(f"slot 2026-11-07T09:00:00Z was moved to {target}: calendar weekend")
    assert because[1].startswith("it is ahead, in ")
    assert then[1][1].startswith(f"slot {target} is run 1, ")


def test_the_row_of_a_schedule_that_cannot_be_understood_is_still_told(ledger: Ledger, job: int, clock: Clock) -> None:
    add(ledger, cron="* * * * *")
    clock.advance(minutes=1)
    fire(ledger)
    schedule_id = ledger.value("select id from rota_schedule")
    ledger.set_schedule(schedule_id, expression="nonsense")

    assert ask(ledger, "2026-11-02T12:01Z")[1][0].startswith("slot 2026-11-02T12:01:00Z is run 1, ready")
    state, because = ask(ledger, "2026-11-02T12:07Z")
    assert state == "unknown"
    assert because[0].startswith("the schedule cannot be understood: ")
