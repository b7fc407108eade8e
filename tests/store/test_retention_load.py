"""Old runs go while others work on the same tables: nobody waits a second for a lock, no slot is lost or doubled.

The statements of those who work give up after a second of waiting for a lock, so that a longer wait is an error here
and not a matter of measuring.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, event, insert, text

from rota.model.job import LEASE_SECONDS_MAX
from rota.model.keeping import KEEP_DEFAULT
from rota.model.run import End, NewRun
from rota.model.states import RunState
from rota.store.database import Database
from rota.store.endings import end_runs
from rota.store.firing import fire_schedules
from rota.store.leases import mark_started, renew_claims
from rota.store.requests import request_runs
from rota.store.retention import REMOVED_MAX, remove_runs
from rota.store.tables import run
from tests.store.ledger import Ledger

FOR_A_DAY = dict.fromkeys(KEEP_DEFAULT, 86400.0)
HANG_SECONDS = 60.0  # a guard
KEYED = 500  # each so many old runs one has a key for ever
GIVE_UP = {
    "sqlite": "pragma busy_timeout = 1000",
    "postgresql": "set lock_timeout = '1s'",
    "mysql": "set session innodb_lock_wait_timeout = 1",
}
GAVE_UP = ("55P03", "1205", "locked")


def add_old_runs(ledger: Ledger, schedule_id: int, count: int) -> None:
    """Put finished runs there, two in three of them slots, with an attempt, two events and now and then output."""
    common = {
        "job_id": 1, "job": "job", "slot_count": 1, "target_node": "", "reason": "ended_well", "reason_text": "so",
        "args": "{}", "pool": "default", "priority": 0, "delivery": "at_least_once", "requested_by": "",
        "queued": False, "state": "succeeded", "attempt": 1, "retries_used": 0, "losses": 0, "fence": 1,
    }  # fmt: skip
    first = ledger.clock.now - timedelta(days=10, minutes=count)

    def fill(connection: Connection) -> None:
        for start in range(0, count, 5000):
            rows: list[dict[str, Any]] = []
            for number in range(start, min(count, start + 5000)):
                moment = first + timedelta(minutes=number)
                of_slot = number % 3 > 0
                key = f"k{number}" if number % KEYED == 0 else None
                rows.append(
                    common
                    | {"enqueued_at": moment, "run_at": moment, "finished_at": moment, "claim_id": f"old-{number}"}
                    | {"schedule_id": schedule_id if of_slot else None, "slot_at": moment if of_slot else None}
                    | {"run_key": key, "active_key": key, "unique_seconds": -1 if key else None}
                )
            connection.execute(insert(run), rows)
        for statement in (
            "insert into rota_attempt (run_id, attempt, state, claim_id, fence, node, claimed_at, finished_at)"
            " select id, 1, 'succeeded', claim_id, 1, 'a', enqueued_at, finished_at from rota_run",
            "insert into rota_event (at, run_id, job, kind, to_state)"
            " select enqueued_at, id, job, 'run', 'ready' from rota_run",
            "insert into rota_event (at, run_id, job, kind, from_state, to_state)"
            " select finished_at, id, job, 'run', 'running', 'succeeded' from rota_run",
        ):
            connection.execute(text(statement))
        connection.execute(
            text("insert into rota_output (attempt_id, stream, position, data)"
                 " select id, 'stdout', 0, :data from rota_attempt where id % 10 = 0"),
            {"data": b"x" * 2000},
        )  # fmt: skip

    ledger.database.write(fill, repeatable=False)


def connect_impatient(ledger: Ledger, gave_up: list[str]) -> Database:
    """Connect so that a statement waits for a lock no longer than a second; ``gave_up`` gets those that did."""
    database = ledger.connect(connections_max=1)
    kind = database.dialect.name

    def set_up(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(GIVE_UP[kind])
        cursor.close()

    def note(context: Any) -> None:
        said = f"{getattr(context.original_exception, 'sqlstate', '')} {context.original_exception}"
        if any(sign in said for sign in GAVE_UP):
            gave_up.append(f"{context.statement}: {said}")

    event.listen(database.engine, "connect", set_up)
    event.listen(database.engine, "handle_error", note)
    return database


@pytest.mark.writes_runs_by_hand
@pytest.mark.parametrize("count", [1500, pytest.param(100_000, marks=[pytest.mark.long, pytest.mark.timeout(3600)])])
def test_old_runs_go_while_others_work_and_nobody_waits_a_second_for_a_lock(ledger: Ledger, count: int) -> None:
    ledger.add_job()
    ledger.add_job("long")
    schedule_id = ledger.add_schedule(next_slot_at=ledger.clock.now + timedelta(minutes=1), overlap="allow")
    add_old_runs(ledger, schedule_id, count)
    long_run = ledger.enqueue("long")
    long_claim = ledger.started(ledger.claim_one("renewer", lease_seconds=LEASE_SECONDS_MAX))
    begun = ledger.clock.now
    gave_up: list[str] = []

    def work(database: Database) -> None:
        request_runs(database, [NewRun("job")] * 3)
        claims = ledger.claim("a", 10, database=database)
        mark_started(database, [claim.claim_id for claim in claims])
        end_runs(database, [End(claim.claim_id, claim.run_id, "succeeded") for claim in claims])

    def fire(database: Database) -> None:
        fire_schedules(database, fired_by="b")

    def renew(database: Database) -> None:
        assert long_claim.claim_id in renew_claims(database, None, [long_claim.claim_id], LEASE_SECONDS_MAX).kept

    others = [(each, connect_impatient(ledger, gave_up)) for each in (work, fire, renew)]
    remover = connect_impatient(ledger, gave_up)
    removed, after, passes, rounds = 0, 0, 0, 0
    with ThreadPoolExecutor(len(others)) as threads:
        while passes < 2:  # in the second one nothing is left
            ledger.clock.advance(minutes=1)
            begun_by_others = [threads.submit(each, database) for each, database in others]
            batch = remove_runs(remover, FOR_A_DAY, after=after)
            removed, after, passes, rounds = removed + batch.runs, batch.after, passes + batch.is_over, rounds + 1
            for one in begun_by_others:
                one.result(HANG_SECONDS)

    assert gave_up == []
    keyed = [number for number in range(count) if number % KEYED == 0]
    old = ledger.rows("select id, run_key from rota_run where finished_at < :moment order by id", moment=_text(begun))
    assert {row.run_key for row in old} == {f"k{number}" for number in keyed}
    assert removed == count - len(keyed)
    fired = [row.slot_at for row in ledger.runs() if row.slot_at is not None and row.slot_at >= begun]
    last = ledger.schedule(schedule_id).next_slot_at
    assert fired == [begun + timedelta(minutes=n) for n in range(1, len(fired) + 1)]
    assert last == fired[-1] + timedelta(minutes=1)
    assert ledger.run(long_run).state == RunState.RUNNING
    for table in ("attempt", "event"):
        orphans = f"select count(*) from rota_{table} where run_id not in (select id from rota_run)"
        assert ledger.value(orphans) == 0
    assert rounds >= removed / REMOVED_MAX


def _text(moment: Any) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")
