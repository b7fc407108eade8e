"""Adding, changing, pausing and deleting schedules: the past is never replayed, and every due slot leaves a row."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from rota.errors import AlreadyExists, Invalid, NotFound
from rota.model.schedule import ScheduleSpec
from rota.store import schedules
from rota.store.firing import fire_schedules
from tests.clock import BEGINNING
from tests.store.ledger import Ledger

MINUTE = timedelta(minutes=1)


def spec(name: str = "each", **options: Any) -> ScheduleSpec:
    return ScheduleSpec.checked(name, **({"job": "job", "cron": "* * * * *"} | options))


def add(ledger: Ledger, name: str = "each", **options: Any) -> dict[str, Any]:
    if not ledger.rows("select id from rota_job where name = 'job'"):
        ledger.add_job()
    return schedules.add_schedule(ledger.database, spec(name, **options), actor="ann@desk")


def edit(ledger: Ledger, **changes: Any) -> dict[str, Any]:
    return schedules.edit_schedule(ledger.database, "each", lambda old: old.edited(**changes), actor="ann@desk")


def cursor(ledger: Ledger) -> datetime | None:
    return ledger.schedule(ledger.value("select id from rota_schedule")).next_slot_at


def fire(ledger: Ledger) -> None:
    fire_schedules(ledger.database, fired_by="a")


def slots(ledger: Ledger) -> list[tuple[datetime, str, str, int]]:
    return [(run.slot_at, run.state, run.reason, run.slot_count) for run in ledger.runs()]


def test_the_first_slot_is_the_first_one_after_now(ledger: Ledger) -> None:
    view = add(ledger, tz="Europe/Amsterdam", cron="0 7 * * *", args={"day": 1}, delay="30s")

    assert view["next_slot"] == "2026-11-03T06:00:00.000000Z"
    assert (view["cron"], view["every"], view["at"]) == ("0 7 * * *", None, None)
    assert (view["args"], view["delay"], view["job"]) == ({"day": 1}, 30, "job")


def test_an_every_starts_its_grid_when_it_is_stored(ledger: Ledger) -> None:
    view = add(ledger, cron=None, every="90s")

    assert (view["every"], view["anchor"]) == (90, "2026-11-02T12:00:00.000000Z")
    assert cursor(ledger) == BEGINNING + timedelta(seconds=90)


def test_an_edited_timing_starts_after_now(ledger: Ledger) -> None:
    add(ledger)

    view = edit(ledger, cron="30 * * * *")

    assert cursor(ledger) == BEGINNING + 30 * MINUTE
    assert view["revision"] == 2


def test_an_edit_that_leaves_the_timing_alone_leaves_the_cursor_alone(ledger: Ledger, clock: Any) -> None:
    add(ledger)
    clock.advance(minutes=1)  # a slot is due, and nobody has fired it yet

    edit(ledger, args={"a": 1})
    fire(ledger)

    assert slots(ledger) == [(BEGINNING + MINUTE, "ready", "due", 1)]


def test_an_edited_timing_replays_nothing_and_the_due_slots_leave_one_row(ledger: Ledger, clock: Any) -> None:
    add(ledger)
    clock.advance(minutes=3)

    edit(ledger, cron="30 * * * *")
    fire(ledger)

    assert slots(ledger) == [(BEGINNING + MINUTE, "skipped", "operator", 3)]
    (run,) = ledger.runs()
    assert run.slot_last_at == BEGINNING + 3 * MINUTE
    assert "ann@desk" in run.reason_text
    assert cursor(ledger) == BEGINNING + 30 * MINUTE


def test_an_edited_interval_starts_a_grid_of_its_own_and_the_same_one_goes_on_with_its_own(
    ledger: Ledger, clock: Any
) -> None:
    add(ledger, cron=None, every="10m")
    clock.advance(minutes=3)

    same = edit(ledger, every="10m")
    other = edit(ledger, every="20m")

    assert same["next_slot"] == "2026-11-02T12:10:00.000000Z"
    assert other["next_slot"] == "2026-11-02T12:23:00.000000Z"


def test_a_slot_that_is_decided_already_is_never_decided_again_after_an_edit(ledger: Ledger, clock: Any) -> None:
    add(ledger)
    clock.advance(minutes=1)
    fire(ledger)
    clock.advance(seconds=-30)  # the database's clock was set back

    edit(ledger, cron="*/1 * * * *")

    assert cursor(ledger) == BEGINNING + 2 * MINUTE


def test_resuming_replays_nothing_and_one_row_tells_of_the_slots_that_went_by(ledger: Ledger, clock: Any) -> None:
    add(ledger)
    schedules.pause_schedule(ledger.database, "each", actor="ann@desk")
    clock.advance(days=30)
    fire(ledger)
    assert ledger.runs() == []

    view = schedules.resume_schedule(ledger.database, "each", actor="ann@desk")
    fire(ledger)

    assert slots(ledger) == [(BEGINNING + MINUTE, "skipped", "schedule_paused", 30 * 24 * 60)]
    (run,) = ledger.runs()
    assert run.slot_last_at == clock.now
    assert "2026-11-02 12:00:00" in run.reason_text
    assert (view["state"], view["paused_at"]) == ("active", None)
    assert cursor(ledger) == clock.now + MINUTE
    assert ledger.schedule(run.schedule_id).last_slot_at == clock.now


def test_resuming_before_a_slot_was_due_leaves_no_row(ledger: Ledger, clock: Any) -> None:
    add(ledger)
    schedules.pause_schedule(ledger.database, "each", actor="ann@desk")
    clock.advance(seconds=30)

    schedules.resume_schedule(ledger.database, "each", actor="ann@desk")

    assert ledger.runs() == []
    assert cursor(ledger) == BEGINNING + MINUTE


def test_pausing_and_resuming_twice_is_doing_it_once(ledger: Ledger, clock: Any) -> None:
    add(ledger)
    for act in (schedules.pause_schedule, schedules.pause_schedule):
        act(ledger.database, "each", actor="ann@desk")
    clock.advance(minutes=2)
    for act in (schedules.resume_schedule, schedules.resume_schedule):
        act(ledger.database, "each", actor="ann@desk")

    kinds = [row.to_state for row in ledger.rows("select to_state from rota_event where kind = 'schedule' order by id")]
    assert kinds == ["added", "paused", "resumed"]
    assert len(ledger.runs()) == 1


def test_a_timing_edited_while_paused_counts_the_old_slots_as_paused(ledger: Ledger, clock: Any) -> None:
    add(ledger)
    schedules.pause_schedule(ledger.database, "each", actor="ann@desk")
    clock.advance(minutes=5)

    edit(ledger, cron="0 * * * *")
    clock.advance(hours=2)
    schedules.resume_schedule(ledger.database, "each", actor="ann@desk")

    assert slots(ledger) == [
        (BEGINNING + MINUTE, "skipped", "schedule_paused", 5),
        (BEGINNING + timedelta(hours=1), "skipped", "schedule_paused", 2),
    ]


def test_a_once_schedule_that_went_by_while_paused_is_skipped_and_has_no_slots_left(ledger: Ledger, clock: Any) -> None:
    add(ledger, cron=None, at="2026-11-02T12:05:00")
    schedules.pause_schedule(ledger.database, "each", actor="ann@desk")
    clock.advance(minutes=10)

    view = schedules.resume_schedule(ledger.database, "each", actor="ann@desk")

    assert view["next_slot"] is None
    assert slots(ledger) == [(BEGINNING + 5 * MINUTE, "skipped", "schedule_paused", 1)]


def test_a_deleted_schedule_leaves_a_row_for_what_was_due_and_its_runs_go_on(ledger: Ledger, clock: Any) -> None:
    add(ledger, overlap="allow")
    clock.advance(minutes=1)
    fire(ledger)
    clock.advance(minutes=1)

    schedules.delete_schedule(ledger.database, "each", actor="ann@desk")

    assert [state for _, state, _, _ in slots(ledger)] == ["ready", "skipped"]
    assert len(ledger.claim()) == 1
    with pytest.raises(NotFound):
        schedules.read_schedule(ledger.database, "each")


def test_an_edit_clears_what_set_a_schedule_aside_and_passes_over_the_time_between(ledger: Ledger, clock: Any) -> None:
    add(ledger)
    schedule_id = ledger.value("select id from rota_schedule")
    ledger.set_schedule(schedule_id, expression="* * * *")
    clock.advance(minutes=1)
    fire(ledger)
    assert "cannot be fired" in str(ledger.schedule(schedule_id).problem)
    with pytest.raises(Invalid):
        edit(ledger, args={})  # what stands there cannot be understood, so it cannot be changed in part

    view = schedules.add_schedule(ledger.database, spec(), actor="ann@desk", if_exists="update")

    assert view["problem"] is None
    assert slots(ledger) == [(BEGINNING + MINUTE, "skipped", "operator", 1)]
    assert cursor(ledger) == BEGINNING + 2 * MINUTE


def test_a_schedule_that_is_fired_while_it_is_edited_keeps_both(ledger: Ledger, clock: Any) -> None:
    add(ledger)
    clock.advance(minutes=1)
    other = ledger.connect()
    fired: list[int] = []

    def change(old: ScheduleSpec) -> ScheduleSpec:
        if not fired and ledger.database.dialect.name != "sqlite":  # SQLite's writers wait for each other
            fired.append(fire_schedules(other, fired_by="b").runs)
        return old.edited(cron="30 * * * *")

    schedules.edit_schedule(ledger.database, "each", change, actor="ann@desk")

    expected = ("skipped", "operator") if ledger.database.dialect.name == "sqlite" else ("ready", "due")
    assert [(state, reason) for _, state, reason, _ in slots(ledger)] == [expected]
    assert cursor(ledger) == BEGINNING + 30 * MINUTE


def test_a_taken_key_is_refused_kept_or_replaced_as_told(ledger: Ledger) -> None:
    add(ledger)
    other = spec(cron="0 0 * * *")
    with pytest.raises(AlreadyExists):
        schedules.add_schedule(ledger.database, other, actor="ann@desk")

    skipped = schedules.add_schedule(ledger.database, other, actor="ann@desk", if_exists="skip")
    updated = schedules.add_schedule(ledger.database, other, actor="ann@desk", if_exists="update")

    assert (skipped["cron"], updated["cron"]) == ("* * * * *", "0 0 * * *")


def test_a_declared_schedule_is_added_changed_and_left_alone_as_jobs_are(ledger: Ledger, clock: Any) -> None:
    ledger.add_job()

    def declare(**options: Any) -> str:
        wanted = spec(**({"cron": None, "every": "5m"} | options))
        return schedules.declare_schedule(ledger.database, wanted, module="app", actor="ann@desk")[0]

    outcomes = [declare()]
    clock.advance(seconds=30)
    outcomes += [declare(), declare(every="10m"), declare(every="10m")]
    edit(ledger, overlap="allow")
    outcomes += [declare(every="10m"), declare(every="15m")]

    assert outcomes == ["added", "unchanged", "changed", "unchanged", "edited elsewhere", "edited elsewhere"]
    assert schedules.read_schedule(ledger.database, "each")["every"] == 600


def test_a_broken_row_is_shown_in_the_list(ledger: Ledger) -> None:
    add(ledger)
    ledger.execute("update rota_schedule set args = 'no json', kind = 'every', expression = 'often', catch_up = 'x'")

    (view,) = schedules.list_schedules(ledger.database)

    assert (view["args"], view["every"], view["catch_up"]) == ("no json", "often", "x")
