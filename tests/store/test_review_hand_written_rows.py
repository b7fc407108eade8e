"""One row that somebody wrote by hand stops nobody else: not in firing, moving on, claiming, ending or rescuing."""

from __future__ import annotations

from datetime import timedelta

import pytest

from rota.model.run import End, NewRun, Written
from rota.store.advancing import advance_runs
from rota.store.endings import end_runs, rescue_runs
from rota.store.firing import fire_schedules
from rota.store.leases import renew_claims
from rota.store.outlook import look
from rota.store.runs import list_runs
from rota.store.wakeup import Pulse
from tests.store.ledger import LEASE_SECONDS, Ledger, identity_of


def without_foreign_keys(ledger: Ledger, statement: str) -> None:
    """Do what the sqlite3 shell lets everybody do, since it does not look at foreign keys unless told."""
    ledger.database.read(lambda connection: connection.exec_driver_sql("pragma foreign_keys = off"))
    ledger.execute(statement)
    ledger.database.read(lambda connection: connection.exec_driver_sql("pragma foreign_keys = on"))


def only(ledger: Ledger, kind: str, why: str) -> None:
    if ledger.database.dialect.name != kind:
        pytest.skip(why)


NO_TYPES = "the other databases refuse such a value"
NO_INFINITY = "only PostgreSQL has moments that never come"


def test_a_schedule_whose_job_was_deleted_by_hand_is_set_aside(ledger: Ledger) -> None:
    only(ledger, "sqlite", "the other databases refuse it")
    ledger.add_job("gone")
    ledger.add_job("job")
    broken = ledger.add_schedule("broken", "gone", next_slot_at=ledger.clock.now)
    ledger.add_schedule("sound", "job", next_slot_at=ledger.clock.now)
    without_foreign_keys(ledger, "delete from rota_job where name = 'gone'")

    fire_schedules(ledger.database, fired_by="a")

    assert "cannot be fired" in (ledger.schedule(broken).problem or "")
    assert {run.schedule for run in ledger.runs()} == {"sound"}


@pytest.mark.parametrize("moment", ["1795251600", "", "soon"])
def test_a_cursor_that_is_no_moment_does_not_hide_the_others(ledger: Ledger, moment: str) -> None:
    only(ledger, "sqlite", NO_TYPES)
    ledger.add_job()
    broken = ledger.add_schedule("broken", next_slot_at=ledger.clock.now)
    ledger.add_schedule("sound", next_slot_at=ledger.clock.now)
    ledger.execute("update rota_schedule set next_slot_at = :moment where id = :id", moment=moment, id=broken)

    assert look(ledger.database, identity_of("a"), ("default",)).slot_has_come


def test_a_lease_that_ends_at_no_moment_is_over(ledger: Ledger) -> None:
    only(ledger, "sqlite", NO_TYPES)
    ledger.add_job()
    ledger.enqueue_many([NewRun("job"), NewRun("job")])
    broken, sound = ledger.claim()
    ledger.clock.advance(seconds=LEASE_SECONDS + 1)
    ledger.execute("update rota_run set lease_ends_at = '1795251600' where id = :id", id=broken.run_id)

    assert look(ledger.database, identity_of("a"), ("default",)).lease_has_ended
    assert rescue_runs(ledger.database, rescuer="b") == 2
    assert ledger.run(sound.run_id).state == "ready"


def test_a_moment_that_never_comes_stops_nobody_else(ledger: Ledger) -> None:
    only(ledger, "postgresql", NO_INFINITY)
    ledger.add_job()
    now = ledger.clock.now
    first, second, third = ledger.enqueue_many(
        [NewRun("job", run_at=now + timedelta(seconds=seconds)) for seconds in (1, 1, 1)]
    )
    ledger.execute("update rota_run set start_by = 'infinity' where id = :id", id=first)
    ledger.execute("update rota_run set run_at = '-infinity' where id = :id", id=second)
    ledger.clock.advance(seconds=2)

    assert advance_runs(ledger.database).ready == 3
    assert {claim.run_id for claim in ledger.claim()} == {first, second, third}


def test_a_schedule_that_was_set_to_never_by_hand_stops_nobody_else(ledger: Ledger) -> None:
    only(ledger, "postgresql", NO_INFINITY)
    ledger.add_job()
    never = ledger.add_schedule("never", next_slot_at=ledger.clock.now)
    ledger.execute("update rota_schedule set next_slot_at = 'infinity' where id = :id", id=never)

    outlook = look(ledger.database, identity_of("a"), ("default",))

    assert not outlook.slot_has_come


def test_a_waiting_run_that_was_cancelled_by_hand_is_not_looked_at_again(ledger: Ledger) -> None:
    ledger.add_job()
    later = ledger.clock.now + timedelta(seconds=1)
    by_hand, sound = ledger.enqueue_many([NewRun("job", run_at=later, start_within_seconds=5)] * 2)
    ledger.set_run(by_hand, state="cancelled", finished_at=ledger.clock.now)
    ledger.clock.advance(seconds=10)

    advanced = advance_runs(ledger.database)

    assert advanced.missed == 1
    assert (ledger.run(by_hand).state, ledger.run(by_hand).due_at) == ("cancelled", None)
    assert ledger.run(sound).state == "missed"
    ledger.execute("update rota_event set to_state = 'cancelled' where run_id = :id", id=by_hand)


def test_a_window_that_was_taken_away_by_hand_is_not_looked_at_again(ledger: Ledger) -> None:
    ledger.add_job()
    run_id = ledger.enqueue(start_within_seconds=5)
    ledger.set_run(run_id, start_by=None)
    ledger.clock.advance(seconds=10)

    advance_runs(ledger.database)

    assert (ledger.run(run_id).state, ledger.run(run_id).due_at) == ("ready", None)


@pytest.mark.parametrize("seconds", [1e300, -5.0, 0.0])
def test_a_lease_that_no_door_would_have_accepted_is_the_workers_own(ledger: Ledger, seconds: float) -> None:
    ledger.add_job(lease_seconds=seconds)
    run_id = ledger.enqueue()

    (claim,) = ledger.claim()

    assert claim.lease_seconds == LEASE_SECONDS
    assert ledger.run(run_id).lease_ends_at == ledger.clock.now + timedelta(seconds=LEASE_SECONDS)
    pulse = Pulse(ledger.connect())
    assert renew_claims(pulse, identity_of("a"), [claim.claim_id], LEASE_SECONDS).kept == {claim.claim_id}
    pulse.close()


@pytest.mark.parametrize("seconds", [1e300, -1.0])
def test_a_retry_delay_that_no_door_would_have_accepted_keeps_no_end_from_being_recorded(
    ledger: Ledger, seconds: float
) -> None:
    claim = ledger.start_one(retries=1, retry_delay_seconds=seconds, retry_delay_max_seconds=seconds)

    ledger.end(claim, "exited", exit_code=1)

    assert ledger.run(claim.run_id).state == "waiting"


def test_an_attempt_number_that_was_reset_by_hand_keeps_nobody_from_claiming(ledger: Ledger) -> None:
    claim = ledger.start_one()
    ledger.end(claim, "exited", exit_code=1)
    ledger.set_run(claim.run_id, state="ready", attempt=0, finished_at=None)
    other = ledger.enqueue()

    claimed = {claim.run_id for claim in ledger.claim()}

    assert claimed == {claim.run_id, other}


def test_an_attempt_that_was_deleted_by_hand_keeps_no_other_end_from_being_recorded(ledger: Ledger) -> None:
    ledger.add_job()
    ledger.enqueue_many([NewRun("job"), NewRun("job")])
    claims = ledger.claim()
    ledger.execute("delete from rota_attempt where run_id = :id", id=claims[0].run_id)

    end_runs(ledger.database, [End(c.claim_id, c.run_id, "succeeded", stdout=Written(b"x", b"", 1)) for c in claims])

    assert [run.state for run in ledger.runs()] == ["succeeded", "succeeded"]
    ledger.execute("delete from rota_run where id = :id", id=claims[0].run_id)


def test_a_run_whose_job_is_gone_is_claimed_and_says_so(ledger: Ledger) -> None:
    ledger.add_job()
    run_id = ledger.enqueue()
    ledger.execute("delete from rota_job where name = 'job'")

    (claim,) = ledger.claim()

    assert claim.run_id == run_id
    assert "deleted" in (claim.problem or "")


@pytest.mark.parametrize(
    "change",
    ["retry_delay_seconds = '30s'", "lost_max = 'many'", "retries = 'three'", "retry_delay_max_seconds = 'long'"],
)
def test_a_retry_rule_that_is_no_number_keeps_no_other_run_from_being_rescued(
    ledger: Ledger, database_kind: str, change: str
) -> None:
    if database_kind != "sqlite":
        pytest.skip("only SQLite keeps text in a column of numbers")
    ledger.add_job("bad")
    ledger.add_job("sound")
    runs = [ledger.enqueue("bad"), ledger.enqueue("sound")]
    ledger.claim(limit=2)
    ledger.execute(f"update rota_job set {change} where name = 'bad'")
    ledger.clock.advance(seconds=LEASE_SECONDS + 1)

    assert rescue_runs(ledger.database, rescuer="b") == 2
    assert {ledger.run(run_id).state for run_id in runs} == {"ready"}
    assert len(list_runs(ledger.database)) == 2
