"""Backfills while several nodes step them, work and fire at the same moment."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, text

from rota.errors import RotaError
from rota.model.backfill import Wish
from rota.model.run import End
from rota.store import backfill_steps
from rota.store.advancing import advance_runs
from rota.store.backfill_steps import step_backfills
from rota.store.backfills import read_backfill, start_backfill
from rota.store.database import Database
from rota.store.endings import end_runs
from rota.store.firing import fire_schedules
from tests.clock import BEGINNING
from tests.execution.harness import wait_until
from tests.store.ledger import Ledger

SLOTS = 40
NODES = 3
ROUNDS_MAX = 3000
JOIN_SECONDS = 120.0


@pytest.mark.parametrize("overlap", ["skip", "allow"])
def test_two_backfills_of_the_same_slots_on_several_nodes_run_each_once(ledger: Ledger, overlap: str) -> None:
    ledger.add_job()
    ledger.add_schedule(next_slot_at=BEGINNING + timedelta(minutes=1), overlap=overlap)
    low = BEGINNING - timedelta(minutes=SLOTS)
    made = [
        start_backfill(ledger.database, "each", low, BEGINNING, Wish.checked(max_active=3, order=order), actor="ann")[
            "id"
        ]
        for order in ("oldest", "newest")
    ]
    ended: Counter[int] = Counter()
    troubles: list[BaseException] = []

    def work(name: str, database: Database) -> None:
        try:
            for _ in range(ROUNDS_MAX):
                step_backfills(database)
                advance_runs(database)
                claims = ledger.claim(name, 2, database=database)
                end_runs(database, [End(claim.claim_id, claim.run_id, "succeeded") for claim in claims])
                ended.update(claim.run_id for claim in claims)
                fire_schedules(database, fired_by=name)
                if all(read_backfill(database, one)["state"] == "ended" for one in made):
                    return
                if not claims:
                    ledger.clock.advance(seconds=0.5)
        except (RotaError, AssertionError) as error:
            troubles.append(error)

    nodes = [threading.Thread(target=work, args=(f"n{n}", ledger.connect())) for n in range(NODES)]
    for node in nodes:
        node.start()
    for node in nodes:
        node.join(JOIN_SECONDS)

    assert troubles == []
    past = [row for row in ledger.runs() if row.slot_at < BEGINNING]
    assert len({row.slot_at for row in past}) == len(past) == SLOTS
    assert {row.state for row in past} == {"succeeded"}
    assert [ended[row.id] for row in past] == [1] * SLOTS
    assert [read_backfill(ledger.database, one)["state"] for one in made] == ["ended", "ended"]


IS_WAITED_FOR = {
    "postgresql": "select count(*) from pg_stat_activity"
    " where datname = current_database() and wait_event_type = 'Lock'",
    "mysql": "select count(*) from information_schema.innodb_trx where trx_state = 'LOCK WAIT'",
}


def test_a_slot_that_gets_its_row_from_somebody_else_at_this_moment_is_left_to_them(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    if ledger.database.dialect.one_writer:
        pytest.skip("one writer at a time there")
    ledger.add_job()
    ledger.add_schedule(next_slot_at=BEGINNING + timedelta(minutes=1), overlap="allow")
    low = BEGINNING - timedelta(minutes=2)
    start_backfill(ledger.database, "each", low, BEGINNING, Wish.checked(), actor="ann")
    other, watcher, inserting = ledger.connect(), ledger.connect(), threading.Event()
    insert_slots = backfill_steps.insert_slots

    def insert_and_wait(connection: Connection, row: dict[str, Any]) -> None:
        insert_slots(connection, [row])
        inserting.set()
        statement = text(IS_WAITED_FOR[ledger.database.dialect.name])
        wait_until(lambda: watcher.read(lambda c: c.execute(statement).scalar()), "the step waits", pause=0.2)

    somebody: list[threading.Thread] = []

    def insert_behind_somebody(connection: Connection, rows: list[dict[str, Any]]) -> None:
        if rows and not somebody:
            row = rows[0] | {"backfill_id": None}
            target = partial(other.write, lambda c: insert_and_wait(c, row), repeatable=False)
            somebody.append(threading.Thread(target=target))
            somebody[0].start()
            assert inserting.wait(JOIN_SECONDS)
        insert_slots(connection, rows)

    monkeypatch.setattr(backfill_steps, "insert_slots", insert_behind_somebody)
    first = step_backfills(ledger.database)
    somebody[0].join(JOIN_SECONDS)
    step_backfills(ledger.database)

    assert first.is_full
    assert [(row.slot_at, row.backfill_id is None) for row in ledger.runs()] == [
        (low, True),
        (low + timedelta(minutes=1), False),
    ]
