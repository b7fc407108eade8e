"""Backfills over random ledgers, with failures, crashes, pauses and other hands in between: each slot once.

What must be so is written once more here, over plain rows: the store is not asked what it thinks of itself.
"""

from __future__ import annotations

import random
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, insert

from rota.errors import Conflict
from rota.model.backfill import Wish
from rota.store.backfill_steps import LOOK_SECONDS, _step, step_backfills
from rota.store.backfills import cancel_backfill, pause_backfill, read_backfill, resume_backfill, start_backfill
from rota.store.firing import fire_schedules
from rota.store.tables import event, run
from tests.clock import BEGINNING
from tests.store.ledger import Ledger
from tests.store.test_upstreams import settle

SLOTS = 40  # one a minute, before the beginning
ROUNDS = 400
UNFINISHED = {"waiting", "ready", "running"}
EXAMPLES = {"sqlite": 12}
EXAMPLES_ELSEWHERE = 2


class _Killed(Exception):
    """The process dies before COMMIT."""


def minute(number: int) -> datetime:
    return BEGINNING + timedelta(minutes=number)


class World:
    """A schedule of each minute with a random past, and what a person asks for."""

    def __init__(self, ledger: Ledger, seed: int) -> None:
        self.ledger = ledger
        self.random = random.Random(seed)
        self.other = ledger.connect()
        self.job_id = ledger.add_job(retries=self.random.choice([0, 1]), retry_delay_seconds=0.0)
        self.schedule_id = ledger.add_schedule(
            next_slot_at=minute(1), overlap=self.random.choice(["skip", "queue", "allow", "replace"])
        )
        self._fill()
        self.before = self.coverage()
        self.had_succeeded = {row.slot_at for row in ledger.runs() if row.state == "succeeded"}
        low, high = sorted(self.random.sample(range(-SLOTS - 5, 1), 2))
        self.range = {minute(number) for number in range(low, high)}
        self.options: dict[str, Any] = {
            "order": self.random.choice(["oldest", "newest"]),
            "max_active": self.random.choice([1, 1, 2, 5]),
        }
        self.mode = self.random.choice(["", "", "again", "failed_only"])
        if self.mode:
            self.options[self.mode] = True
        self.attempts_before = {row.id: row.attempt for row in ledger.runs()}
        wish = Wish.checked(**self.options)
        self.made = start_backfill(ledger.database, "each", minute(low), minute(high), wish, actor="ann")["id"]
        self.succeeded: Counter[datetime] = Counter()
        self.cancelled = False

    def _fill(self) -> None:
        rows: list[dict[str, Any]] = []
        number = -SLOTS
        while number <= 0:
            kind = self.random.choice(["none", "none", "own", "own", "many"])
            count = self.random.randint(2, 8) if kind == "many" else 1
            count = min(count, 1 - number)
            if kind != "none":
                states = ["missed", "skipped"] if count > 1 else ["missed", "skipped", "failed", "lost", "succeeded"]
                state = self.random.choice(states)
                rows.append(
                    {
                        "job_id": self.job_id, "job": "job", "schedule_id": self.schedule_id, "schedule": "each",
                        "slot_at": minute(number), "slot_count": count,
                        "slot_last_at": minute(number + count - 1) if count > 1 else None,
                        "target_node": "", "state": state, "reason": "marked", "reason_text": "", "args": "{}",
                        "pool": "default", "priority": 0, "delivery": "at_least_once", "requested_by": "",
                        "enqueued_at": minute(number), "run_at": minute(number), "queued": False,
                        "finished_at": minute(number) - timedelta(seconds=1), "attempt": 0, "retries_used": 0,
                        "losses": 0, "fence": 0,
                    }
                )  # fmt: skip
            number += count

        def write(connection: Connection) -> None:
            for row in rows:
                inserted = connection.execute(insert(run), row).inserted_primary_key
                assert inserted is not None
                told = {"at": row["run_at"], "run_id": inserted[0], "kind": "run", "to_state": row["state"]}
                connection.execute(insert(event), told)

        self.ledger.database.write(write, repeatable=False)

    def coverage(self) -> Counter[datetime]:
        """Count for each slot in how many rows it is."""
        found: Counter[datetime] = Counter()
        for row in self.ledger.runs():
            found.update(row.slot_at + timedelta(minutes=number) for number in range(row.slot_count))
            last = row.slot_at + timedelta(minutes=row.slot_count - 1)
            assert row.slot_last_at == (last if row.slot_count > 1 else None)
        return found

    # -- what happens

    def act(self) -> None:
        do = self.random.choice(
            [
                self.step,
                self.step,
                self.step,
                self.die,
                self.work,
                self.work,
                self.work,
                self.fire,
                self.pause,
                self.wait,
            ]
        )
        do()

    def step(self) -> None:
        step_backfills(self.random.choice([self.ledger.database, self.other]))
        settle(self.ledger)
        active = [row for row in self.ledger.runs() if row.backfill_id == self.made and row.state in UNFINISHED]
        assert len(active) <= self.options["max_active"]
        assert all(row.start_by is None for row in active)

    def die(self) -> None:
        row = self.ledger.row("select id, version, due_at from rota_backfill")

        def step(connection: Connection) -> None:
            _step(connection, row.id, row.version)
            raise _Killed

        with pytest.raises(_Killed):
            self.other.write(step, repeatable=False)

    def work(self, *, well: bool = False) -> None:
        for claim in self.ledger.claim(limit=self.random.randint(1, 3)):
            kind = "succeeded" if well else self.random.choice(["succeeded", "succeeded", "failed"])
            assert claim.slot_at is not None
            self.ledger.end(claim, kind)
            self.succeeded[claim.slot_at] += kind == "succeeded"
        settle(self.ledger)

    def fire(self) -> None:
        self.ledger.clock.advance(minutes=1)
        fire_schedules(self.ledger.database, fired_by="a")
        settle(self.ledger)

    def pause(self) -> None:
        change = self.random.choice([pause_backfill, resume_backfill, resume_backfill])
        if self.random.random() < 0.02:
            change, self.cancelled = cancel_backfill, True
        try:
            change(self.ledger.database, self.made, actor="bob")
        except Conflict:
            assert read_backfill(self.ledger.database, self.made)["state"] in {"ended", "cancelled"}

    def wait(self) -> None:
        self.ledger.clock.advance(seconds=LOOK_SECONDS)

    def finish(self) -> None:
        if read_backfill(self.ledger.database, self.made)["state"] == "paused":
            resume_backfill(self.ledger.database, self.made, actor="bob")
        for _ in range(ROUNDS):
            self.step()
            self.work(well=True)
            self.wait()
            if read_backfill(self.ledger.database, self.made)["finished_at"] is not None:
                return
        raise AssertionError("it does not come to an end")

    # -- what must be so then

    def check(self) -> None:
        rows = {row.slot_at: row for row in self.ledger.runs() if row.slot_count == 1}
        coverage = self.coverage()
        assert set(coverage.values()) <= {1}, "a slot has two rows"
        assert self.before.keys() <= coverage.keys(), "a slot has lost its row"
        own = {minute(number) for number in range(1, 2000)}
        assert coverage.keys() <= self.before.keys() | self.range | own
        assert max(self.succeeded.values(), default=0) <= 1, "a slot succeeded twice"
        if self.mode != "again":
            assert not {slot for slot in self.succeeded if self.succeeded[slot]} & self.had_succeeded
        assert not [row for row in self.ledger.runs() if row.backfill_id == self.made and row.state in UNFINISHED]
        if self.cancelled:
            return
        view = read_backfill(self.ledger.database, self.made)
        assert (view["slots"], view["done"], view["left"]) == (len(self.range), len(self.range), 0)
        assert view["succeeded"] + view["failed"] + view["passed_over"] == len(self.range)
        for slot in self.range:
            if self.mode == "failed_only":
                continue
            row = rows[slot]  # each has one of its own
            was_run = row.attempt > self.attempts_before.get(row.id, 0)
            assert was_run == (self.mode == "again" or slot not in self.had_succeeded), slot
            assert row.state in {"succeeded", "failed"}


def play(ledger: Ledger, seed: int) -> None:
    for table in ("event", "attempt", "run", "backfill_part", "backfill", "schedule", "job"):
        ledger.execute(f"delete from rota_{table}")
    ledger.execute("delete from rota_permit")
    ledger.clock.now = BEGINNING
    world = World(ledger, seed)
    for _ in range(world.random.randint(5, 60)):
        world.act()
    world.finish()
    world.check()
    world.other.close()
    assert ledger.violations() == []


@pytest.mark.writes_runs_by_hand
@pytest.mark.parametrize("examples", [0, pytest.param(300, marks=pytest.mark.long)], ids=["", "many"])
@pytest.mark.timeout(1800)
def test_over_any_ledger_each_slot_has_one_row_and_succeeds_once_at_most(
    ledger: Ledger, database_kind: str, examples: int
) -> None:
    chosen = settings(
        max_examples=examples or EXAMPLES.get(database_kind, EXAMPLES_ELSEWHERE),
        derandomize=not examples,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    chosen(given(seed=st.integers(0, 2**32))(play))(ledger)
