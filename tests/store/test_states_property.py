"""Whatever is done to runs, in whatever order: the store moves them as the table of states says.

A plain model in Python says what each step ought to do; the store does it on a real database. After each step both
agree, every move that was told is in the table, and no invariant is broken.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rota.errors import AlreadyFinished, Conflict
from rota.model.run import Claim, End
from rota.model.states import FINISHED, TRANSITIONS, UNFINISHED, RunState
from rota.store.advancing import advance_runs
from rota.store.endings import end_runs, rescue_runs
from rota.store.firing import fire_schedules
from rota.store.interventions import cancel_run, mark_succeeded, rerun_run, skip_run
from rota.store.leases import mark_started, renew_claims
from rota.store.wakeup import Pulse
from tests.clock import BEGINNING, Clock
from tests.store.ledger import LEASE_SECONDS, Ledger, identity_of

S = RunState
RETRIES, RETRY_SECONDS, LOST_MAX = 1, 10.0, 2
EXAMPLES = {"sqlite": 40, "postgresql": 12, "mariadb": 12, "mysql": 12}
STEPS = 40

TOLD = {(None if move.source is None else move.source.value, move.target.value) for move in TRANSITIONS}
NODES = st.sampled_from("ab")
INDEX = st.integers(0, 11)  # of a run or a claim: 0 is the latest, counted round


@dataclass
class Run:
    """What the model knows of a run."""

    job: str
    run_at: datetime
    state: RunState
    attempt: int = 0
    fence: int = 0
    claim_id: str | None = None
    lease_ends_at: datetime | None = None
    marked: bool = False
    retries: int = 0
    losses: int = 0
    cancel_asked: bool = False

    def leave(self, state: RunState) -> None:
        self.state, self.lease_ends_at, self.marked, self.cancel_asked = state, None, False, False


@dataclass
class Model:
    """All runs, and every claim that was ever given."""

    runs: dict[int, Run] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)

    def in_state(self, *states: RunState) -> list[int]:
        return [run_id for run_id, run in sorted(self.runs.items()) if run.state in states]

    def end(self, run: Run, claim_id: str, kind: str, now: datetime) -> bool:
        """Apply an end; tell whether it counts."""
        if run.claim_id != claim_id:
            return False
        if run.state is S.LOST:
            if kind in {"released", "cancelled"}:  # says no more than that, and may be what said so
                return False
            run.leave(S.SUCCEEDED if kind == "succeeded" else S.FAILED)
            return True
        if run.state is not S.RUNNING:
            return False
        if kind == "succeeded":
            run.leave(S.SUCCEEDED)
        elif kind == "no_op":
            run.leave(S.SKIPPED)
        elif kind in {"released", "cancelled"} and run.cancel_asked:
            run.leave(S.CANCELLED)
        elif kind in {"released", "cancelled"} and run.marked and run.job == "most":
            run.losses += 1  # its worker stopped it, and it may start once
            run.leave(S.LOST)
        elif kind in {"released", "cancelled"}:
            run.leave(S.READY)
        elif run.retries < RETRIES and not run.cancel_asked:
            run.retries += 1
            run.run_at = now + timedelta(seconds=RETRY_SECONDS)
            run.leave(S.WAITING)
        else:
            run.leave(S.FAILED)
        return True

    def rescue(self, run: Run, now: datetime) -> None:
        run.losses += 1
        if run.cancel_asked:
            run.leave(S.CANCELLED)
        elif run.marked and run.job == "most":
            run.leave(S.LOST)
        elif run.losses > LOST_MAX:
            run.leave(S.FAILED)
        elif run.losses == 1:
            run.leave(S.READY)
        else:
            run.run_at = now + timedelta(seconds=5)
            run.leave(S.WAITING)


class RunsInAnyOrder(RuleBasedStateMachine):
    """One database, any steps."""

    ledger: Ledger

    def __init__(self) -> None:
        super().__init__()
        for table in ("rota_output", "rota_attempt", "rota_event", "rota_run", "rota_schedule", "rota_job"):
            self.ledger.execute(f"delete from {table}")
        self.clock = self.ledger.clock
        self.clock.now = BEGINNING
        self.database = self.ledger.database
        self.pulse = Pulse(self.ledger.database)
        self.model = Model()
        budgets = {"retries": RETRIES, "retry_delay_seconds": RETRY_SECONDS, "lost_max": LOST_MAX}
        self.ledger.add_job("least", **budgets)
        self.ledger.add_job("most", delivery="at_most_once", **budgets)
        self.ledger.add_schedule(
            job="least",
            kind="every",
            expression="30",
            anchor_at=BEGINNING,
            next_slot_at=BEGINNING + timedelta(seconds=30),
            start_within_seconds=1e6,
        )

    def teardown(self) -> None:
        self.pulse.close()

    def some_run(self, index: int) -> tuple[int, Run]:
        run_ids = sorted(self.model.runs, reverse=True)
        run_id = run_ids[index % len(run_ids)]
        return run_id, self.model.runs[run_id]

    def some_claim(self, index: int) -> Claim:
        return self.model.claims[-1 - index % len(self.model.claims)]

    def has_runs(self) -> bool:
        return bool(self.model.runs)

    def has_claims(self) -> bool:
        return bool(self.model.claims)

    @initialize()
    def begin_with_some(self) -> None:
        for job in ("least", "most", "least", "most"):
            self.enqueue(job, None)

    @rule(job=st.sampled_from(["least", "most"]), ahead=st.sampled_from([None, 20.0]))
    def enqueue(self, job: str, ahead: float | None) -> None:
        run_id = self.ledger.enqueue(job, in_seconds=ahead)

        state = S.READY if ahead is None else S.WAITING
        self.model.runs[run_id] = Run(job, self.clock.after(ahead or 0), state)

    @rule(seconds=st.sampled_from([1, 11, 31, 61]))
    def let_time_pass(self, seconds: int) -> None:
        self.clock.advance(seconds=seconds)

    @rule(rescuer=NODES)
    def do_what_is_due(self, rescuer: str) -> None:
        self.fire()
        self.move_on()
        self.rescue(rescuer)

    def fire(self) -> None:
        fired = fire_schedules(self.database, fired_by="a")

        # What becomes of a slot is shown elsewhere: here, that each makes one row, in a state to begin with.
        new = [row for row in self.ledger.runs() if row.id not in self.model.runs]
        assert len(new) == fired.runs
        for row in new:
            assert row.state in {S.READY, S.SKIPPED, S.MISSED}
            self.model.runs[row.id] = Run("least", row.run_at, S(row.state))
        slots = [row.slot_at for row in self.ledger.runs() if row.slot_at is not None]
        assert slots == [BEGINNING + timedelta(seconds=30 * number) for number in range(1, len(slots) + 1)]

    def move_on(self) -> None:
        advance_runs(self.database)

        for run_id in self.model.in_state(S.WAITING):
            run = self.model.runs[run_id]
            if run.run_at <= self.clock.now:
                run.state = S.READY

    @rule(node=NODES, limit=st.integers(1, 3))
    def claim(self, node: str, limit: int) -> None:
        claims = self.ledger.claim(node, limit)

        ready = sorted(self.model.in_state(S.READY), key=lambda run_id: (self.model.runs[run_id].run_at, run_id))
        assert [claim.run_id for claim in claims] == ready[:limit]
        for claim in claims:
            run = self.model.runs[claim.run_id]
            assert claim.fence > run.fence
            run.state, run.attempt, run.fence = S.RUNNING, run.attempt + 1, run.fence + 1
            run.claim_id, run.marked = claim.claim_id, run.job == "least"
            run.lease_ends_at = self.clock.after(LEASE_SECONDS)
            self.model.claims.append(claim)

    @precondition(has_claims)
    @rule(index=INDEX)
    def mark(self, index: int) -> None:
        claim = self.some_claim(index)

        marked = mark_started(self.database, [claim.claim_id])

        run = self.model.runs[claim.run_id]
        current = run.state is S.RUNNING and run.claim_id == claim.claim_id
        in_time = run.lease_ends_at is not None and run.lease_ends_at > self.clock.now
        if current and not run.marked and in_time and not run.cancel_asked:
            run.marked = True
        assert marked == ({claim.claim_id} if current and run.marked else frozenset())

    @precondition(has_claims)
    @rule(node=NODES)
    def renew(self, node: str) -> None:
        renewal = renew_claims(
            self.pulse, identity_of(node), [claim.claim_id for claim in self.model.claims], LEASE_SECONDS
        )

        kept = set()
        for run_id in self.model.in_state(S.RUNNING):
            run = self.model.runs[run_id]
            run.lease_ends_at = self.clock.after(LEASE_SECONDS)  # also one that is over, since nobody took it away
            kept.add(run.claim_id)
        assert renewal.kept == kept
        cancelled = {run.claim_id for run in self.model.runs.values() if run.cancel_asked and run.claim_id in kept}
        assert set(renewal.cancelled) == cancelled

    @precondition(has_claims)
    @rule(
        indexes=st.lists(INDEX, min_size=1, max_size=3),
        kind=st.sampled_from(["succeeded", "exited", "released", "no_op", "cancelled"]),
    )
    def end(self, indexes: list[int], kind: str) -> None:
        """Deliver ends of any claims ever given: of this attempt, of an earlier one, for the second time."""
        claims = {claim.claim_id: claim for claim in map(self.some_claim, indexes)}
        delivered = end_runs(
            self.database, [End(claim.claim_id, claim.run_id, kind, exit_code=1) for claim in claims.values()]
        )

        for claim in claims.values():
            if self.model.end(self.model.runs[claim.run_id], claim.claim_id, kind, self.clock.now):
                assert claim.claim_id in delivered.applied
        assert delivered.applied | delivered.orphaned == set(claims)

    def rescue(self, rescuer: str) -> None:
        rescued = rescue_runs(self.database, rescuer=rescuer)

        expired = [
            self.model.runs[run_id]
            for run_id in self.model.in_state(S.RUNNING)
            if (self.model.runs[run_id].lease_ends_at or BEGINNING) < self.clock.now
        ]
        assert rescued == len(expired)
        for run in expired:
            self.model.rescue(run, self.clock.now)

    @precondition(has_runs)
    @rule(index=INDEX, wish=st.sampled_from(["cancel", "cancel", "rerun", "rerun", "skip", "count_as_done"]))
    def intervene(self, index: int, wish: str) -> None:
        run_id, run = self.some_run(index)
        getattr(self, wish)(run_id, run)

    def cancel(self, run_id: int, run: Run) -> None:
        if run.state in FINISHED:
            with pytest.raises(AlreadyFinished):
                cancel_run(self.database, run_id, actor="ann")
            return

        state = cancel_run(self.database, run_id, actor="ann")

        if run.state is S.RUNNING:
            run.cancel_asked = True
        else:
            run.leave(S.CANCELLED)
        assert state == run.state

    def skip(self, run_id: int, run: Run) -> None:
        if run.state not in {S.WAITING, S.READY}:
            with pytest.raises((AlreadyFinished, Conflict)):
                skip_run(self.database, run_id, actor="ann")
            return

        skip_run(self.database, run_id, actor="ann")

        run.leave(S.SKIPPED)

    def rerun(self, run_id: int, run: Run) -> None:
        if run.state in UNFINISHED:
            with pytest.raises(Conflict):
                rerun_run(self.database, run_id, actor="ann")
            return

        rerun_run(self.database, run_id, actor="ann")

        run.leave(S.READY)
        run.run_at, run.retries, run.losses = self.clock.now, 0, 0

    def count_as_done(self, run_id: int, run: Run) -> None:
        if run.state in UNFINISHED or run.state is S.SUCCEEDED:
            with pytest.raises((AlreadyFinished, Conflict)):
                mark_succeeded(self.database, run_id, actor="ann")
            return

        mark_succeeded(self.database, run_id, actor="ann")

        run.leave(S.SUCCEEDED)

    @invariant()
    def the_store_agrees_with_the_model(self) -> None:
        found = {row.id: _facts(row) for row in self.ledger.runs()}

        assert found == {run_id: _expected(run) for run_id, run in self.model.runs.items()}

    @invariant()
    def only_moves_of_the_table_were_told(self) -> None:
        rows = self.ledger.rows(
            "select distinct from_state, to_state from rota_event"
            " where run_id is not null and (from_state is null or from_state <> to_state)"
        )
        assert {(row.from_state, row.to_state) for row in rows} <= TOLD

    @invariant()
    def no_invariant_is_broken(self) -> None:
        assert self.ledger.violations() == []


def _facts(row: Any) -> tuple[Any, ...]:
    return (
        S(row.state),
        row.attempt,
        row.fence,
        row.claim_id,
        row.lease_ends_at,
        row.marked_at is not None,
        row.retries_used,
        row.losses,
        row.cancel_asked_at is not None and row.state == "running",
    )


def _expected(run: Run) -> tuple[Any, ...]:
    return (
        run.state,
        run.attempt,
        run.fence,
        run.claim_id,
        run.lease_ends_at,
        run.marked,
        run.retries,
        run.losses,
        run.cancel_asked,
    )


@pytest.mark.writes_runs_by_hand
def test_runs_move_as_the_table_of_states_says_whatever_is_done_to_them(database_url: str, database_kind: str) -> None:
    ledger = Ledger(database_url, Clock())

    class OnThisDatabase(RunsInAnyOrder):
        pass

    OnThisDatabase.ledger = ledger
    try:
        run_state_machine_as_test(
            OnThisDatabase,
            settings=settings(
                max_examples=EXAMPLES[database_kind],
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        ledger.close()
