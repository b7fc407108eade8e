"""The circuit breakers of jobs: counting ends, opening and closing, letting one run through.

Invariant: while a breaker is open none of its job's runs is claimed, and while it is half open the one run that stands
in the job's row is, and no other: the claim only looks (``MAY_BE_CLAIMED``), and which run it is is decided here by
compare-and-set. The count and the state change in the transaction of the ends; a job without a breaker is never
written. Called by ``endings``, by the claim, the look, and every node's scheduler.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, bindparam, case, func, null, or_, select, update

from rota.model.breaker import Breaker, BreakerMove, BreakerState, count_end
from rota.model.durations import format_duration
from rota.model.instants import say_moment
from rota.model.states import AttemptState, JobState, RunState
from rota.store.database import Database
from rota.store.events import tell_change
from rota.store.tables import job, run
from rota.store.types import AnyRow, Number, db_now, db_now_plus
from rota.store.wakeup import announce

HALF_OPEN_MAX = 100

_is_not_closed = and_(job.c.breaker_failures.is_not(None), job.c.breaker_until.is_not(None))
_is_paused = job.c.state == JobState.PAUSED.value
# Jobs none of whose runs are claimed: paused, or held by their breaker, but for the run that it lets through.
HELD_JOBS = select(job.c.id).where(or_(_is_paused, _is_not_closed))
LET_THROUGH = select(job.c.breaker_run_id).where(~_is_paused, _is_not_closed, job.c.breaker_run_id.is_not(None))
# A part of the claim, and of every question whether there is something to claim. Two lists that are made once for a
# statement, since few jobs are held and the runs are many.
MAY_BE_CLAIMED = or_(run.c.job_id.not_in(HELD_JOBS), run.c.id.in_(LET_THROUGH))

# Whether the run that was let through may still start, or runs. Spelt so that it is one look by the primary key.
_state_let_through = select(run.c.state).where(run.c.id == job.c.breaker_run_id).scalar_subquery()
_waits_for_a_run = and_(
    ~_is_paused,
    _is_not_closed,
    func.coalesce(_state_let_through, "").not_in([RunState.READY.value, RunState.RUNNING.value]),
)
# When the next breaker lets a run through; for the look.
NEXT_HALF_OPEN_AT = select(func.min(job.c.breaker_until)).where(_waits_for_a_run).scalar_subquery()

_STATE = [
    job.c.id,
    job.c.name,
    job.c.breaker_failures,
    job.c.breaker_pause_seconds,
    job.c.failures_in_row,
    job.c.breaker_until,
    job.c.breaker_run_id,
]
# The breakers that ends count for, locked before the runs are, in one order.
LOCK_BREAKERS = (
    select(*_STATE)
    .where(job.c.id.in_(bindparam("job_ids", expanding=True)), job.c.breaker_failures.is_not(None))
    .order_by(job.c.id)
    .with_for_update()
)
COUNT_ENDS = (
    update(job)
    .where(job.c.id == bindparam("of_id"))
    .values(
        failures_in_row=bindparam("count"),
        breaker_run_id=bindparam("let_through"),
        breaker_until=case(
            (bindparam("opens", type_=Number) > 0, db_now_plus(job.c.breaker_pause_seconds)),
            (bindparam("closes", type_=Number) > 0, null()),
            else_=job.c.breaker_until,
        ),
    )
)
# Breakers whose pause is over, and of which no run is let through.
FIND_HALF_OPEN = (
    select(*_STATE).where(_waits_for_a_run, job.c.breaker_until <= db_now()).order_by(job.c.id).limit(HALF_OPEN_MAX)
)
# The run of a job that would be claimed first. Served by rota_run_claim, or rota_run_job.
FIND_FIRST_READY = (
    select(run.c.id)
    .where(
        run.c.job_id == bindparam("job_id"),
        run.c.state == RunState.READY.value,
        or_(run.c.start_by.is_(None), run.c.started_at.is_not(None), run.c.start_by >= db_now()),
    )
    .order_by(run.c.urgency, run.c.run_at, run.c.id)
    .limit(1)
)
# Let it through, unless another node was quicker, or somebody has closed the breaker.
LET_RUN_THROUGH = (
    update(job)
    .where(
        job.c.id == bindparam("of_id"),
        job.c.breaker_until <= db_now(),
        func.coalesce(job.c.breaker_run_id, 0) == bindparam("before"),
    )
    .values(breaker_run_id=bindparam("through"))
)
# For those who tell of them.
FIND_NOT_CLOSED = select(*_STATE).where(_is_not_closed).order_by(job.c.name).limit(HALF_OPEN_MAX)
READ_BREAKER = select(*_STATE).where(job.c.id == bindparam("job_id"))
CLOSED: Mapping[str, Any] = {"failures_in_row": 0, "breaker_until": None, "breaker_run_id": None}


def state_of(row: AnyRow, is_over: bool) -> BreakerState | None:
    """Return how the breaker of a job's row stands, where ``is_over`` tells whether its pause is; None: it has none."""
    if row.breaker_failures is None:
        return None
    if row.breaker_until is None:
        return BreakerState.CLOSED
    return BreakerState.HALF_OPEN if is_over else BreakerState.OPEN


def lock_breakers(connection: Connection, job_ids: Iterable[int]) -> dict[int, AnyRow]:
    """Lock those of these jobs that have a breaker; to be called before their runs are locked."""
    ids = sorted(set(job_ids))
    return {row.id: row for row in connection.execute(LOCK_BREAKERS, {"job_ids": ids})} if ids else {}


def count_ends(
    connection: Connection, locked: Mapping[int, AnyRow], ended: Sequence[tuple[int, int, AttemptState, str]]
) -> bool:
    """Count ends (job, run, how the attempt ended, in which words) for the breakers that ``lock_breakers`` gave.

    Tell each breaker that opens or closes, and return whether one has closed.
    """
    breakers = {
        job_id: Breaker(row.breaker_failures, row.failures_in_row, row.breaker_until is not None, row.breaker_run_id)
        for job_id, row in locked.items()
    }
    before = dict(breakers)
    last: dict[int, BreakerMove] = {}
    for job_id, run_id, state, text in ended:
        if job_id not in breakers:
            continue
        breakers[job_id], moved = count_end(breakers[job_id], run_id, state)
        if moved is not None:
            last[job_id] = moved
            _tell(connection, locked[job_id], moved, breakers[job_id], run_id, text)
    for job_id, breaker in breakers.items():
        moved = last.get(job_id)
        if breaker == before[job_id] and moved is None:
            continue
        connection.execute(
            COUNT_ENDS,
            {
                "of_id": job_id,
                "count": breaker.failures_in_row,
                "let_through": breaker.run_id,
                "opens": int(moved in {BreakerMove.OPENED, BreakerMove.OPENED_AGAIN}),
                "closes": int(moved is BreakerMove.CLOSED),
            },
        )
    return BreakerMove.CLOSED in last.values()


def _tell(
    connection: Connection, row: AnyRow, moved: BreakerMove, breaker: Breaker, run_id: int, ended_how: str
) -> None:
    if moved is BreakerMove.CLOSED:
        text = f"the breaker of job {row.name} has closed: {ended_how} (run {run_id}); its runs start again"
        became = "breaker_closed"
    else:
        pause = format_duration(row.breaker_pause_seconds)
        text = (
            f"the breaker of job {row.name} has opened: {breaker.failures_in_row} attempts in a row ended badly, "
            f"the last one of run {run_id}: {ended_how}; none of its runs starts for {pause}"
        )
        became = "breaker_opened"
    tell_change(connection, "job", became, text, job=row.name)


def let_runs_through(database: Database) -> int:
    """Let one run through each breaker whose pause is over, unless one is already; return how many are.

    Safe on any number of nodes at once: which run it is is decided once.
    """

    def let_through(connection: Connection) -> int:
        found = 0
        for row in connection.execute(FIND_HALF_OPEN).all():
            run_id = connection.execute(FIND_FIRST_READY, {"job_id": row.id}).scalar()
            if run_id is None:
                continue
            which = {"of_id": row.id, "before": row.breaker_run_id or 0, "through": run_id}
            if connection.execute(LET_RUN_THROUGH, which).rowcount == 1:
                text = f"the pause of the breaker of job {row.name} is over: run {run_id} is let through to see"
                tell_change(connection, "job", "breaker_half_open", text, job=row.name)
                found += 1
        if found:
            announce(connection)
        return found

    return database.write(let_through, repeatable=True)


def say_held(row: AnyRow, now: datetime, run_id: int | None = None) -> str | None:
    """Say that the breaker of a job holds its runs, or, given ``run_id``, that run; None: it does not.

    ``row`` has the columns of the breaker, and the name of the job.
    """
    if row.breaker_failures is None or row.breaker_until is None:
        return None
    count = f"{row.failures_in_row} attempts in a row ended badly"
    how = f"`rota job resume {row.name}` closes it"
    if row.breaker_until > now:
        until = f"none of its runs starts before {say_moment(row.breaker_until)}, and then one"
        return f"the breaker of job {row.name} is open, since {count}: {until}; {how}"
    if row.breaker_run_id is None:
        return (
            f"the breaker of job {row.name} is half open, since {count}: the next run that is ready goes first; {how}"
        )
    if row.breaker_run_id == run_id:
        return None
    first = f"run {row.breaker_run_id} goes first, and the others when it has ended well"
    return f"the breaker of job {row.name} is half open, since {count}: {first}; {how}"
