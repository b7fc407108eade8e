"""The protocol on a real database, played step by step by two nodes, beside a plain model of what each step does.

A step is a line of words, such as ``claim a``. What a step reads before it writes can be made old: ``rescue a`` with
``while_it_reads=["tell a", "claim b"]`` decides by rows from before those steps, as on a database whose rows cannot be
locked. The processes of jobs are facts of the play: nothing is spawned. After each step the model and the database
agree, ``rota_violations`` is empty, and the invariants hold that only somebody outside the database can see.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, cast, event, false, literal, select, text, union_all

from rota.errors import AlreadyFinished, Conflict
from rota.model.run import Claim, End, NewRun
from rota.model.schedule import ScheduleSpec
from rota.model.states import FINISHED, TRANSITIONS, UNFINISHED, RunState
from rota.store import advancing, endings, firing, leases, permits, schedules, tables
from rota.store.advancing import advance_runs
from rota.store.creation import enqueue_runs, request_ids
from rota.store.dialects import ClaimForm
from rota.store.endings import end_runs, rescue_runs
from rota.store.firing import fire_schedules
from rota.store.interventions import cancel_run, mark_succeeded, rerun_run, skip_run
from rota.store.leases import claim_runs, mark_started, renew_claims
from rota.store.moves import Stale
from rota.store.permits import Scope
from rota.store.placing import selector_parameters
from rota.store.schedules import edit_schedule, pause_schedule, resume_schedule
from rota.store.types import encode_rows
from tests.clock import BEGINNING
from tests.store.ledger import LEASE_SECONDS, Ledger, identity_of
from tests.store.trouble import commit_breaks

S = RunState
_FACTS = "id state attempt fence claim_id lease_ends_at marked_at retries_used losses cancel_asked_at"
_SLOTS = "slot_at slot_last_at"
SEE_RUNS = select(*(tables.run.c[name] for name in f"{_FACTS} {_SLOTS}".split())).order_by(
    tables.run.c.slot_at, tables.run.c.id
)
SEE_PERMITS = select(tables.permit.c.scope, tables.permit.c.claim_id).where(tables.permit.c.claim_id.is_not(None))
SEE_EVENTS = text(
    "select distinct from_state, to_state from rota_event"
    " where run_id is not null and (from_state is null or from_state <> to_state)"
)
SEE_VIOLATIONS = text("select rule_broken, run_id, schedule_id from rota_violations")
SEE_CURSOR = select(tables.schedule.c.next_slot_at)
RETRIES, RETRY_SECONDS, LOST_MAX, LOST_SECONDS = 1, 10.0, 2, 5.0
RHYTHM = timedelta(seconds=30)  # of the schedule
MARGIN = timedelta(seconds=LEASE_SECONDS / 10)  # how long before the end of its lease a guardian kills its job
CLAIMED_AT_ONCE = 2
MUTEX = "gate"  # of job ``limited``, of which one run goes at a time
ZONES = ("UTC", "Europe/Berlin")  # of the schedule: for another one its timing is another, and its slots are the same
TOLD = {(None if move.source is None else move.source.value, move.target.value) for move in TRANSITIONS}

Swap = Callable[[Any], Any]  # what is sent in place of a statement
Look = tuple[Sequence[Any], dict[str, Any]]  # statements of which one is sent, and its parameters


@dataclass
class Run:
    """What the model knows of a run."""

    job: str
    run_at: datetime
    state: RunState
    attempt: int = 0
    claim_id: str | None = None
    lease_ends_at: datetime | None = None
    marked: bool = False
    retries: int = 0
    losses: int = 0
    cancel_asked: bool = False
    slots: int = 1  # that it stands for
    starts: int = 0  # of processes, since it was asked for, or is to be tried again after a bad end

    def leave(self, state: RunState) -> None:
        self.state, self.lease_ends_at, self.marked, self.cancel_asked = state, None, False, False

    def end(self, end: End, now: datetime) -> None:
        """What an end does that counts."""
        if self.state is S.LOST:
            self.leave(S.SUCCEEDED if end.kind == "succeeded" else S.FAILED)
        elif end.kind == "succeeded":
            self.leave(S.SUCCEEDED)
        elif end.kind == "no_op":
            self.leave(S.SKIPPED)
        elif end.kind in {"lease_over", "not_started"}:
            self.lose(now, may_have_run=end.kind == "lease_over")
        elif end.kind == "released":
            self.leave(S.CANCELLED if self.cancel_asked else S.READY)
        elif self.retries < RETRIES and not self.cancel_asked:
            self.retries += 1
            self.run_at = now + timedelta(seconds=RETRY_SECONDS)
            self.starts = 0
            self.leave(S.WAITING)
        else:
            self.leave(S.FAILED)

    def lose(self, now: datetime, *, may_have_run: bool = True) -> None:
        self.losses += 1
        if self.cancel_asked:
            self.leave(S.CANCELLED)
        elif self.marked and may_have_run and self.job == "most":
            self.leave(S.LOST)
        elif self.losses > LOST_MAX:
            self.leave(S.FAILED)
        elif self.losses == 1:
            self.leave(S.READY)
        else:
            self.run_at = now + timedelta(seconds=LOST_SECONDS)
            self.leave(S.WAITING)


@dataclass
class Holding:
    """A claim in the hands of a node, until its process has ended."""

    claim: Claim
    deadline: datetime
    may_start: bool
    is_started: bool = False
    overran: bool = False  # its process outlived the lease while the guardian was stopped


@dataclass
class Node:
    """What a node knows, and what it runs."""

    name: str
    holdings: dict[str, Holding] = field(default_factory=dict)
    ends: list[End] = field(default_factory=list)
    told: list[End] = field(default_factory=list)
    asked: tuple[datetime, list[str]] | None = None  # a renewal that was sent, and has not got there
    is_stopped: bool = False


class Play:
    """One play on one database, from nothing."""

    def __init__(self, ledger: Ledger, swaps: Sequence[Swap] = ()) -> None:
        self.ledger, self.clock, self.database = ledger, ledger.clock, ledger.database
        self.swaps = list(swaps)
        self.done: list[str] = []
        for table in ("output", "attempt", "event", "permit", "run", "schedule", "job"):
            ledger.execute(f"delete from rota_{table}")
        self.clock.now = BEGINNING
        self.runs: dict[int, Run] = {}
        self.nodes = {"a": Node("a"), "b": Node("b")}
        budgets = {"retries": RETRIES, "retry_delay_seconds": RETRY_SECONDS, "lost_max": LOST_MAX}
        ledger.add_job("least", **budgets)
        ledger.add_job("most", delivery="at_most_once", **budgets)
        self.limited_id = ledger.add_job("limited", max_running=1, mutexes=f'["{MUTEX}"]', **budgets)
        self.first_slot = self.next_slot_at = BEGINNING + RHYTHM
        self.schedule_id = ledger.add_schedule(
            job="least",
            kind="every",
            expression="30",
            anchor_at=BEGINNING,
            next_slot_at=self.first_slot,
            start_within_seconds=1e6,
        )
        event.listen(self.database.engine, "before_execute", self._swap, retval=True)

    def close(self) -> None:
        event.remove(self.database.engine, "before_execute", self._swap)

    def _swap(
        self, _connection: Any, statement: Any, many: Any, parameters: Any, _options: Any
    ) -> tuple[Any, Any, Any]:
        for swap in list(self.swaps):
            statement = swap(statement)
        return statement, many, parameters

    def play(self, *lines: str) -> None:
        """Do steps; ``rescue a, while tell a, claim b`` does two of them while another one reads."""
        for line in lines:
            step, _, others = line.partition(", while ")
            self.do(step, [other for other in others.split(", ") if other])

    def do(self, step: str, while_it_reads: Sequence[str] = ()) -> None:
        """Do one step, and look at everything."""
        self.done.append(f"{step}, while {', '.join(while_it_reads)}" if while_it_reads else step)
        self._do(step, while_it_reads)
        self.check()

    def _do(self, step: str, others: Sequence[str]) -> None:
        words = step.split()
        method = getattr(self, "_".join(word for word in words if word not in {"a", "b"}))
        names = [word for word in words if word in {"a", "b"}]
        if names:
            node = self.nodes[names[0]]
            if not node.is_stopped or words[0] in {"go", "crash"}:
                method(node, others)
        else:
            method(others)

    def _meanwhile(self, others: Sequence[str]) -> None:
        for step in others:
            self._do(step, ())

    @contextlib.contextmanager
    def _old(self, others: Sequence[str], *looks: Look) -> Iterator[list[Sequence[Any]]]:
        """Let the first look of each kind find what is there now, before the ``others`` are done."""
        found = [self._look(statements[0], parameters) for statements, parameters in looks]
        self._meanwhile(others)
        swaps = [self._answer(statements, rows) for (statements, _), rows in zip(looks, found, strict=True) if others]
        try:
            yield found
        finally:
            self.swaps = [swap for swap in self.swaps if swap not in swaps]

    def _look(self, statement: Any, parameters: dict[str, Any]) -> Sequence[Any]:
        return self.database.read(lambda connection: connection.execute(statement, parameters).all())

    def _answer(self, statements: Sequence[Any], rows: Sequence[Any]) -> Swap:
        """Send, in place of the first of ``statements``, one that finds these rows."""
        old = self._frozen(statements[0], rows)

        def swap(statement: Any) -> Any:
            if not any(statement is one for one in statements):
                return statement
            self.swaps.remove(swap)
            return old

        self.swaps.append(swap)
        return swap

    def _frozen(self, statement: Any, rows: Sequence[Any]) -> Any:
        columns = list(statement.selected_columns)
        is_postgresql = self.database.dialect.name == "postgresql"  # it wants to be told the types

        def fix(value: Any, column: Any) -> Any:
            fixed = literal(value, column.type)
            return (cast(fixed, column.type) if is_postgresql else fixed).label(column.key)

        if not rows:
            return select(*(fix(None, column) for column in columns)).where(false())
        return union_all(
            *(select(*(fix(value, column) for value, column in zip(row, columns, strict=True))) for row in rows)
        )

    # Time

    def second(self, _others: Sequence[str]) -> None:
        self._pass(1)

    def retry(self, _others: Sequence[str]) -> None:
        self._pass(RETRY_SECONDS)

    def slot(self, _others: Sequence[str]) -> None:
        self._pass(30)

    def lease(self, _others: Sequence[str]) -> None:
        self._pass(LEASE_SECONDS + 1)

    def _pass(self, seconds: float) -> None:
        self.clock.advance(seconds=seconds)
        for node in self.nodes.values():
            self._kill_late(node)

    def _kill_late(self, node: Node) -> None:
        for claim_id, holding in list(node.holdings.items()):
            if not holding.is_started:
                continue
            if not node.is_stopped and (holding.overran or self.clock.now >= holding.deadline - MARGIN):
                self._finish(node, claim_id, "lease_over")
            elif node.is_stopped and self.clock.now >= holding.deadline:
                holding.overran = True

    # People

    def enqueue_least(self, _others: Sequence[str]) -> None:
        self._enqueue("least", None)

    def enqueue_most(self, _others: Sequence[str]) -> None:
        self._enqueue("most", None)

    def enqueue_limited(self, _others: Sequence[str]) -> None:
        self._enqueue("limited", None)

    def enqueue_ahead(self, _others: Sequence[str]) -> None:
        self._enqueue("least", 20.0)

    def enqueue_cut(self, _others: Sequence[str]) -> None:
        with commit_breaks(self.database, "after"):
            self._enqueue("most", None)

    def _enqueue(self, job: str, ahead: float | None) -> None:
        requests = request_ids(1)
        wanted = [NewRun(job, in_seconds=ahead)]
        (run_id,) = self.database.write(lambda connection: enqueue_runs(connection, wanted, requests), repeatable=True)
        state = S.READY if ahead is None else S.WAITING
        self.runs[run_id] = Run(job, self.clock.after(ahead or 0), state)

    def cancel(self, _others: Sequence[str]) -> None:
        """Ask for the newest one that has not ended."""
        for run_id in self._ids(*UNFINISHED)[-1:]:
            run = self.runs[run_id]
            cancel_run(self.database, run_id, actor="ann")
            if run.state is S.RUNNING:
                run.cancel_asked = True
            else:
                run.leave(S.CANCELLED)

    def rerun(self, _others: Sequence[str]) -> None:
        for run_id in [run_id for run_id in self._ids(*FINISHED) if self.runs[run_id].slots == 1][-1:]:
            rerun_run(self.database, run_id, actor="ann")
            run = self.runs[run_id]
            run.leave(S.READY)
            run.run_at, run.retries, run.losses, run.starts = self.clock.now, 0, 0, 0

    def skip(self, _others: Sequence[str]) -> None:
        for run_id in self._ids(S.WAITING, S.READY)[-1:]:
            skip_run(self.database, run_id, actor="ann")
            self.runs[run_id].leave(S.SKIPPED)

    def mark_done(self, _others: Sequence[str]) -> None:
        for run_id in self._ids(*FINISHED - {S.SUCCEEDED})[-1:]:
            mark_succeeded(self.database, run_id, actor="ann")
            self.runs[run_id].leave(S.SUCCEEDED)

    def ask_wrongly(self, _others: Sequence[str]) -> None:
        """Ask for what the states refuse."""
        for run_id, run in list(self.runs.items())[-1:]:
            wrong = [mark_succeeded, rerun_run] if run.state in UNFINISHED else [cancel_run, skip_run]
            for ask in wrong:
                with contextlib.suppress(AlreadyFinished, Conflict):
                    ask(self.database, run_id, actor="ann")
                    raise AssertionError(f"{ask.__name__} was not refused for a run that is {run.state}")

    def pause(self, _others: Sequence[str]) -> None:
        pause_schedule(self.database, "each", actor="ann")

    def resume(self, _others: Sequence[str]) -> None:
        resume_schedule(self.database, "each", actor="ann")
        self._welcome()

    def edit(self, others: Sequence[str]) -> None:
        """Give the schedule another timing of the same slots: those that are due and undecided leave one row."""
        with self._old(others, ([schedules.READ_SCHEDULE], {"name": "each"})):
            edit_schedule(self.database, "each", _turn, actor="ann")
        self._welcome()

    def _ids(self, *states: RunState) -> list[int]:
        return [run_id for run_id, run in sorted(self.runs.items()) if run.state in states]

    # Schedulers

    def fire(self, node: Node, others: Sequence[str]) -> None:
        plan = self.database.read(lambda connection: firing._plan(connection, firing.FIND_DUE, {"limit": 100}))
        self._meanwhile(others)
        try:
            if plan.cursors:
                self.database.write(lambda connection: firing._write(connection, plan, node.name), repeatable=True)
        except Stale:
            fire_schedules(self.database, fired_by=node.name)
        self._welcome()

    def fire_cut(self, node: Node, _others: Sequence[str]) -> None:
        with commit_breaks(self.database, "after"):
            fire_schedules(self.database, fired_by=node.name)
        self._welcome()

    def set_back(self, node: Node, _others: Sequence[str]) -> None:
        """Somebody puts the cursor back in SQL, and a node fires before anybody looks."""
        row = self.ledger.schedule(self.schedule_id)
        last = row.next_slot_at - RHYTHM
        has_its_own_row = any(run.slot_at == last and run.slot_count == 1 for run in self.ledger.runs())
        if row.state == "active" and has_its_own_row:
            self.ledger.set_schedule(self.schedule_id, next_slot_at=last)
            self.fire(node, ())

    def _welcome(self) -> None:
        """Learn of new runs: what becomes of a slot is shown elsewhere, and that each makes one row, in ``check``."""
        for row in self.ledger.runs():
            if row.id not in self.runs:
                assert row.state in {S.READY, S.SKIPPED, S.MISSED}
                assert row.slot_at <= self.clock.now, "a slot was fired before it was due"
                self.runs[row.id] = Run("least", row.run_at, S(row.state), slots=row.slot_count)

    def advance(self, _node: Node, others: Sequence[str]) -> None:
        with self._old(others, ([advancing.FIND_WAITED], {"limit": advancing.ADVANCE_BATCH_MAX})) as (rows,):
            due = [run_id for run_id in self._ids(S.WAITING) if self.runs[run_id].run_at <= self.clock.now]
            still = [(row.state, row.claim_id) == (self.runs[row.id].state, self.runs[row.id].claim_id) for row in rows]
            advance_runs(self.database)
        for run_id in [row.id for row in rows] if all(still) else due:
            assert self.runs[run_id].run_at <= self.clock.now, "a run was made ready before its time"
            self.runs[run_id].state = S.READY

    def rescue(self, node: Node, others: Sequence[str]) -> None:
        reads_at = self.clock.now
        with self._old(others, ([endings.FIND_EXPIRED], {"limit": 100})) as (rows,):
            assert all(row.lease_ends_at and row.lease_ends_at < reads_at for row in rows), "a lease not over"
            over = [
                run_id
                for run_id in self._ids(S.RUNNING)
                if (self.runs[run_id].lease_ends_at or BEGINNING) < self.clock.now
            ]
            still = [self._is_as(row) for row in rows]
            rescue_runs(self.database, rescuer=node.name)
        for run_id in [row.id for row in rows] if all(still) else over:
            self.runs[run_id].lose(self.clock.now)

    def _is_as(self, row: Any) -> bool:
        run = self.runs[row.id]
        return (row.state, row.claim_id, row.lease_ends_at, bool(row.cancel_asked)) == (
            run.state,
            run.claim_id,
            run.lease_ends_at,
            run.cancel_asked,
        )

    # Workers

    def claim(self, node: Node, others: Sequence[str], *, cut: str | None = None) -> None:
        placed = selector_parameters(node.name, {})
        find, find_locked = leases.find_claimable, leases.find_claimable_locked
        finds = [made(0, len(placed), transactional=True) for made in (find, find_locked)]
        which = placed | {"in_pool": "default", "for_node": node.name, "environments": [""], "without_jobs": [0]}
        which |= {"limit": CLAIMED_AT_ONCE}
        free = ([permits.FIND_FREE, permits.FIND_FREE_LOCKED], {"wanted": encode_rows(self._limits())})
        sent_at = self.clock.now
        with self._old(others, (finds, which), free) as (rows, _), self._form(bool(others)), self._cut(cut):
            claims = claim_runs(self.database, identity_of(node.name), ["default"], CLAIMED_AT_ONCE, LEASE_SECONDS)
        seen, got = {row.id for row in rows}, [claim.run_id for claim in claims]
        assert len(set(got)) == len(got) <= CLAIMED_AT_ONCE
        assert set(got) <= set(self._ids(S.READY)), "what was ready, and nothing else"
        if cut != "before":
            assert {run_id for run_id in seen & set(self._startable()) if self.runs[run_id].job != "limited"} <= set(
                got
            )
        if not others:
            assert seen <= set(self._startable())
            assert len(seen) == min(CLAIMED_AT_ONCE, len(self._startable()))
        for claim in claims:
            run = self.runs[claim.run_id]
            run.state, run.claim_id, run.attempt = S.RUNNING, claim.claim_id, run.attempt + 1
            run.marked = run.job != "most"
            run.lease_ends_at = self.clock.after(LEASE_SECONDS)
            assert (claim.attempt, claim.fence, claim.marked) == (run.attempt, run.attempt, run.marked)
            deadline = sent_at + timedelta(seconds=LEASE_SECONDS)
            node.holdings[claim.claim_id] = Holding(claim, deadline, claim.marked)
        if cut is None and not others:
            assert len(got) == min(CLAIMED_AT_ONCE, len(got) + len(self._startable())), "one more could have started"

    def _limits(self) -> list[dict[str, Any]]:
        of_job = {"scope": Scope.JOB.value, "job_id": self.limited_id, "name": "", "count": 1}
        return [of_job, {"scope": Scope.MUTEX.value, "job_id": 0, "name": MUTEX, "count": 1}]

    def _startable(self) -> list[int]:
        """What is ready, and within its limits."""
        is_full = any(self.runs[run_id].job == "limited" for run_id in self._ids(S.RUNNING))
        return [run_id for run_id in self._ids(S.READY) if not (is_full and self.runs[run_id].job == "limited")]

    @contextlib.contextmanager
    def _form(self, reads_first: bool) -> Iterator[None]:
        """Have claims made in the database's own form, or in one whose look can be made old."""
        own = self.database.dialect
        if reads_first and own.claim_form is ClaimForm.AT_ONCE:
            self.database.dialect = replace(own, claim_form=ClaimForm.LOCK_FIRST)
        try:
            yield
        finally:
            self.database.dialect = own

    def claim_cut_before(self, node: Node, _others: Sequence[str]) -> None:
        self.claim(node, (), cut="before")

    def claim_cut_after(self, node: Node, _others: Sequence[str]) -> None:
        self.claim(node, (), cut="after")

    @contextlib.contextmanager
    def _cut(self, when: Any) -> Iterator[None]:
        if when is None:
            yield
        else:
            with commit_breaks(self.database, when):
                yield

    def mark(self, node: Node, _others: Sequence[str], *, cut: str | None = None) -> None:
        """Mark all that is to be marked, and once more what is."""
        wanted = list(node.holdings)
        with self._cut(cut):
            marked = mark_started(self.database, wanted)
        expected = set()
        for claim_id in wanted:
            run = self.runs[node.holdings[claim_id].claim.run_id]
            if run.state is not S.RUNNING or run.claim_id != claim_id:
                continue
            assert run.lease_ends_at is not None
            run.marked = run.marked or (run.lease_ends_at > self.clock.now and not run.cancel_asked)
            if run.marked:
                expected.add(claim_id)
        assert marked == expected
        for claim_id in wanted:
            holding = node.holdings[claim_id]
            if claim_id in marked:
                holding.may_start = True
            elif not holding.is_started:
                del node.holdings[claim_id]  # not to be started: its lease ends

    def mark_cut(self, node: Node, _others: Sequence[str]) -> None:
        self.mark(node, (), cut="after")

    def start(self, node: Node, _others: Sequence[str]) -> None:
        for claim_id, holding in list(node.holdings.items()):
            if holding.is_started or not holding.may_start:
                continue
            if self.clock.now >= holding.deadline - MARGIN:
                self._finish(node, claim_id, "not_started", error_type="LeaseOver")
                continue
            attempt = self.ledger.rows("select started_at from rota_attempt where claim_id = :claim", claim=claim_id)
            assert attempt, "a process without an attempt"
            assert attempt[0].started_at is not None, "a process without a start mark"
            holding.is_started = True
            run = self.runs[holding.claim.run_id]
            if run.claim_id == claim_id:  # else it is stopped before it does anything: the operator has gone on
                run.starts += 1
            assert run.job != "most" or run.starts <= 1, "what may start once was started twice"

    def _finish(self, node: Node, claim_id: str, kind: str, **facts: Any) -> None:
        holding = node.holdings.pop(claim_id)
        node.ends.append(End(claim_id, holding.claim.run_id, kind, **facts))

    def end_well(self, _others: Sequence[str]) -> None:
        self._end_first("succeeded")

    def end_badly(self, _others: Sequence[str]) -> None:
        self._end_first("exited", exit_code=1)

    def end_as_no_op(self, _others: Sequence[str]) -> None:
        self._end_first("no_op")

    def _end_first(self, kind: str, **facts: Any) -> None:
        for node in self.nodes.values():  # also under a guardian that is stopped, which tells it later
            for claim_id, holding in node.holdings.items():
                if holding.is_started:
                    self._finish(node, claim_id, kind, **facts)
                    return

    def give_back(self, node: Node, _others: Sequence[str]) -> None:
        for claim_id, holding in list(node.holdings.items()):
            if not holding.is_started:
                self._finish(node, claim_id, "released")

    def tell(self, node: Node, others: Sequence[str], *, cut: str | None = None) -> None:
        """Deliver the ends that a node has."""
        ends, node.ends = node.ends, []
        if not ends:
            return
        with self._old(others, ([endings.FIND_ENDING], {"claim_ids": sorted(end.claim_id for end in ends)})):
            counts = [end for end in ends if self._is_current(end)]
            with self._cut(cut):
                delivered = end_runs(self.database, ends)
        for end in counts:
            self.runs[end.run_id].end(end, self.clock.now)
        # Delivered a second time, one by which the attempt is lost is taken for late.
        counted = {end.claim_id for end in counts if cut is None or end.kind not in {"lease_over", "not_started"}}
        assert counted <= delivered.applied
        assert delivered.applied | delivered.orphaned == {end.claim_id for end in ends}
        node.told = ends

    def _is_current(self, end: End) -> bool:
        run = self.runs[end.run_id]
        if run.claim_id != end.claim_id:
            return False
        # That its lease was over is known of a lost run.
        return run.state is S.RUNNING or (run.state is S.LOST and end.kind != "lease_over")

    def tell_cut(self, node: Node, _others: Sequence[str]) -> None:
        self.tell(node, (), cut="after")

    def tell_again(self, node: Node, others: Sequence[str]) -> None:
        node.ends = [*node.ends, *(end for end in node.told if end not in node.ends)]
        self.tell(node, others)

    def ask(self, node: Node, _others: Sequence[str]) -> None:
        """Send a renewal that gets there later."""
        node.asked = (self.clock.now, list(node.holdings))

    def renew(self, node: Node, others: Sequence[str]) -> None:
        sent_at, claim_ids = node.asked or (self.clock.now, list(node.holdings))
        node.asked = None
        if not claim_ids:
            return
        with self._old(others, ([leases.FIND_RENEWABLE], {"claim_ids": sorted(claim_ids)})):
            renewal = renew_claims(self.database, None, claim_ids, LEASE_SECONDS)
        kept = {run.claim_id: run for run in self.runs.values() if run.state is S.RUNNING and run.claim_id in claim_ids}
        assert renewal.kept == set(kept)
        for run in kept.values():
            run.lease_ends_at = self.clock.after(LEASE_SECONDS)  # also one that is over, since nobody took it away
        for claim_id in claim_ids:
            holding = node.holdings.get(claim_id)
            if holding is None:
                continue
            if claim_id in kept:
                holding.deadline = max(holding.deadline, sent_at + timedelta(seconds=LEASE_SECONDS))
            else:
                del node.holdings[claim_id]  # its process is stopped, and nothing is told

    def crash(self, node: Node, _others: Sequence[str]) -> None:
        """A machine dies, with all that runs on it and what it had to tell."""
        self.nodes[node.name] = Node(node.name)

    def stop(self, node: Node, _others: Sequence[str]) -> None:
        node.is_stopped = True

    def go_on(self, node: Node, _others: Sequence[str]) -> None:
        node.is_stopped = False
        self._kill_late(node)

    # What may be done next to some effect

    def useful(self) -> list[str]:
        """The steps that change something now, as far as can be seen from here."""
        now, runs = self.clock.now, self.runs.values()
        found = ["lease", "lease", "slot", "edit"]
        if len(self._ids(*UNFINISHED)) < 3:
            found += [f"enqueue {what}" for what in ("least", "most", "limited", "ahead", "cut")]
        found += ["cancel", "cancel"] if self._ids(*UNFINISHED) else []
        found += ["rerun"] if self._ids(*FINISHED) else []
        if any(holding.is_started for node in self.nodes.values() for holding in node.holdings.values()):
            found += ["end well", "end badly"]
        anybody = {
            "fire": self.next_slot_at is not None and self.next_slot_at <= now,
            "set back": self.next_slot_at is not None and self.next_slot_at > self.first_slot,
            "advance": any(run.state is S.WAITING and run.run_at <= now for run in runs),
            "rescue": any(run.lease_ends_at is not None and run.lease_ends_at < now for run in runs),
            "claim": bool(self._startable()),
        }
        for name, node in self.nodes.items():
            if node.is_stopped:
                found.append(f"go on {name}")
                continue
            waiting = [holding for holding in node.holdings.values() if not holding.is_started]
            own = {
                "mark": any(not holding.may_start for holding in waiting),
                "start": any(holding.may_start for holding in waiting),
                "tell": bool(node.ends),
                "tell again": bool(node.told),
                "renew": bool(node.holdings),
                "stop": bool(node.holdings),
            }
            found += [f"{step} {name}" for step, is_useful in (anybody | own).items() if is_useful]
        return found

    # What holds after each step

    def check(self) -> None:
        seen = self.database.read(_see)
        expected = {run_id: _expected(run) for run_id, run in self.runs.items()}
        assert {row.id: _facts(row) for row in seen.runs} == expected
        self.next_slot_at = seen.next_slot_at
        self._check_slots([row for row in seen.runs if row.slot_at is not None])
        self._check_holders()
        self._check_permits(seen.permits)
        assert {(row.from_state, row.to_state) for row in seen.events} <= TOLD
        assert seen.violations == []

    def _check_slots(self, rows: Sequence[Any]) -> None:
        """Every slot up to the cursor has left its row, and one only."""
        expected = self.first_slot
        for row in rows:
            assert row.slot_at == expected, "a slot without its row, or with two"
            expected = (row.slot_last_at or row.slot_at) + RHYTHM
        assert self.next_slot_at == expected, "the cursor is not behind the last row"

    def _check_permits(self, held: Sequence[Any]) -> None:
        """Of each limit no more is running than may, each with a permit; and what is over has none."""
        running = [run.claim_id for run in self.runs.values() if run.job == "limited" and run.state is S.RUNNING]
        assert len(running) <= 1, "more than the limit are running"
        expected = [(limit["scope"], claim_id) for limit in self._limits() for claim_id in running]
        assert sorted((row.scope, row.claim_id) for row in held) == sorted(expected), "permits of others, or none"

    def _check_holders(self) -> None:
        holdings = [(node, holding) for node in self.nodes.values() for holding in node.holdings.values()]
        for run_id in {holding.claim.run_id for _, holding in holdings}:
            mine = [(node, holding) for node, holding in holdings if holding.claim.run_id == run_id]
            believing = [holding for _, holding in mine if holding.deadline > self.clock.now]
            assert len(believing) <= 1, "two believe that they hold a run"
            running = [h for node, h in mine if h.is_started and not node.is_stopped and not h.overran]
            assert len(running) <= 1, "two processes of one run"


class Seen(NamedTuple):
    """What stands in the database after a step."""

    runs: Sequence[Any]
    permits: Sequence[Any]
    events: Sequence[Any]
    violations: Sequence[Any]
    next_slot_at: datetime | None


def _see(connection: Connection) -> Seen:
    return Seen(
        connection.execute(SEE_RUNS).all(),
        connection.execute(SEE_PERMITS).all(),
        connection.execute(SEE_EVENTS).all(),
        connection.execute(SEE_VIOLATIONS).all(),
        connection.execute(SEE_CURSOR).scalar_one(),
    )


def _turn(spec: ScheduleSpec) -> ScheduleSpec:
    return replace(spec, zone=ZONES[spec.zone == ZONES[0]])


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
        run.attempt,  # the fence rises with it
        run.claim_id,
        run.lease_ends_at,
        run.marked,
        run.retries,
        run.losses,
        run.cancel_asked,
    )


# What may be done at any time; what comes up often stands there often. Those that read before they write come with
# others, done in between.
STEPS = (
    *("enqueue least", "enqueue most", "enqueue limited", "enqueue ahead", "enqueue cut"),
    *("second", "retry", "slot", "lease", "lease"),
    *("cancel", "rerun", "skip", "mark done", "ask wrongly", "pause", "resume", "edit"),
    *(
        f"{step} {node}"
        for node in "ab"
        for step in (
            *("fire", "fire cut", "set back", "advance", "rescue", "claim", "claim", "claim cut before"),
            *("claim cut after", "mark", "mark", "mark cut", "start", "start", "start", "give back", "tell", "tell"),
            *("tell cut", "tell again", "ask", "renew", "renew", "crash", "stop", "go on", "go on"),
        )
    ),
    *("end well", "end badly", "end badly", "end as no op"),
)
READING_STEPS = (
    "edit",
    *(
        f"{step} {node}"
        for node in "ab"
        for step in ("fire", "advance", "rescue", "rescue", "claim", "tell", "tell", "renew")
    ),
)
STEPS_MEANWHILE = (
    *("lease", "slot", "cancel", "cancel", "rerun", "skip", "pause", "resume", "edit", "end badly", "end well"),
    *(
        f"{step} {node}"
        for node in "ab"
        for step in (
            *("claim", "claim", "rescue", "rescue", "rescue", "renew", "renew", "tell", "tell", "fire", "fire"),
            *("mark", "start", "advance", "go on", "crash"),
        )
    ),
)
# What such a step calls for.
FOLLOWING = {
    "rescue": ("claim a", "claim b"),
    "tell": ("claim a", "claim b"),
    "slot": ("fire a", "fire b", "edit"),
    "lease": ("rescue a", "rescue b"),
    "go": ("renew a", "renew b"),
}
