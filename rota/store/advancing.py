"""Advancing: moving on the runs whose time has come, or whose start window has closed.

Invariant: a run is moved by compare-and-set, under the state, fence and claim that it was found with, so any number of
nodes may do it at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, String, and_, bindparam, case, exists, func, literal, not_, null, or_, select, update

from rota import crash
from rota.model.reasons import Reason
from rota.model.slot_rule import CatchUpOrder
from rota.model.states import Because, JobState, RunState
from rota.store.breakers import HELD_JOBS
from rota.store.database import Database
from rota.store.fanout import ANY, IS_REGISTERED, REGISTERED_DAYS, is_excluded, say_targets
from rota.store.keys import hold_for_all_nodes
from rota.store.missed import tell_missed
from rota.store.moves import Move, apply_moves, write_fresh
from rota.store.sharing import place_waiting
from rota.store.suspension import is_pool_paused
from rota.store.tables import job, node, run, schedule
from rota.store.types import AS_OF, AnyRow, db_now, db_now_plus

ADVANCE_BATCH_MAX = 500
QUEUE_RECHECK_SECONDS = 5.0

_MOVED_ON = {RunState.WAITING.value, RunState.READY.value}

# Runs that the scheduler has to look at: waiting ones that may start, ready ones whose window has closed. Served by
# rota_run_due.
FIND_WAITED = (
    select(
        run.c.id,
        run.c.fence,
        run.c.claim_id,
        run.c.state,
        run.c.run_at,
        run.c.start_by,
        run.c.started_at,
        run.c.queued,
        run.c.open_schedule_id,
        run.c.slot_at,
        run.c.target_node,
        run.c.pool,
        run.c.attempt,
        run.c.job_id,
        run.c.priority,
        run.c.concurrency_key,
        run.c.job_id.in_(select(job.c.id).where(job.c.state == JobState.PAUSED.value)).label("job_paused"),
        run.c.job_id.in_(HELD_JOBS).label("job_held"),
        is_pool_paused(run.c.pool).label("pool_paused"),
        AS_OF.label("now"),
    )
    .where(run.c.due_at <= AS_OF)
    .order_by(run.c.due_at)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)
_earlier = run.alias("earlier")
# Of these queued runs, those that have another unfinished run of their schedule before them: one that does not queue,
# or that queues with an earlier slot, or a later one where the newest goes first. Served by rota_run_open_schedule.
FIND_BLOCKED = (
    select(run.c.id)
    .outerjoin(schedule, schedule.c.id == run.c.schedule_id)
    .where(
        run.c.id.in_(bindparam("ids", expanding=True)),
        exists().where(
            _earlier.c.open_schedule_id == run.c.open_schedule_id,
            # What is for any node is in the way of each; see `fanout.is_in_the_way`.
            or_(_earlier.c.target_node.in_([run.c.target_node, ANY]), run.c.target_node == ANY),
            _earlier.c.id != run.c.id,
            _earlier.c.awaiting_job_id.is_(None),
            or_(
                not_(_earlier.c.queued),
                and_(schedule.c.catch_up_order == CatchUpOrder.NEWEST.value, _earlier.c.slot_at > run.c.slot_at),
                and_(
                    func.coalesce(schedule.c.catch_up_order, "") != CatchUpOrder.NEWEST.value,
                    _earlier.c.slot_at < run.c.slot_at,
                ),
            ),
        ),
    )
)
# Still blocked: look again a little later, should nobody wake it before.
POSTPONE = (
    update(run)
    .where(run.c.id.in_(bindparam("ids", expanding=True)), run.c.state == RunState.WAITING.value)
    .values(
        due_at=db_now_plus(literal(QUEUE_RECHECK_SECONDS)),
        reason=Reason.QUEUED.value,
        reason_text=case(
            (run.c.reason == Reason.QUEUED.value, run.c.reason_text), else_="another run of its schedule is unfinished"
        ),
    )
)
# Neither to be moved nor blocked: somebody changed the row by hand. Look at it when its window closes, or never.
LOOK_AWAY = (
    update(run)
    .where(run.c.id.in_(bindparam("ids", expanding=True)), run.c.due_at <= db_now())
    .values(
        due_at=case(
            (and_(run.c.state == RunState.READY.value, run.c.started_at.is_(None)), run.c.start_by), else_=null()
        )
    )
)


# Ready runs for nodes that do not come back, or that have left their pool: the window of such a run is left to close,
# since the node may join the pool again. Pools are a JSON list, and no name has a quote. Served by rota_run_claim: all
# that are ready are looked at.
_target = (node.c.name == run.c.target_node, IS_REGISTERED)
_quoted_pool = literal('"', String) + run.c.pool + literal('"', String)
_serves_pool = func.replace(node.c.pools, _quoted_pool, literal("", String), type_=String) != node.c.pools
_has_left = ~exists().where(*_target, _serves_pool)
FIND_UNREACHABLE = (
    select(
        run.c.id,
        run.c.fence,
        run.c.claim_id,
        run.c.target_node,
        run.c.pool,
        run.c.job_id,
        run.c.run_key,
        run.c.active_key,
        exists().where(*_target).label("is_registered"),
    )
    .where(
        run.c.state == RunState.READY.value,
        run.c.target_node != ANY,
        or_(
            ~exists().where(*_target),
            and_(or_(run.c.start_by.is_(None), run.c.started_at.is_not(None)), _has_left),
        ),
    )
    .order_by(run.c.id)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)


# Likewise ready runs for nodes that their jobs may exclude since; which do is told by the selectors of each node. Those
# with a window are left to it.
FIND_MAYBE_EXCLUDED = (
    select(run.c.id, run.c.fence, run.c.claim_id, run.c.target_node, job.c.exclude, node.c.labels)
    .join(job, job.c.id == run.c.job_id)
    .join(node, node.c.name == run.c.target_node)
    .where(
        run.c.state == RunState.READY.value,
        run.c.target_node != ANY,
        run.c.id > bindparam("after"),
        or_(run.c.start_by.is_(None), run.c.started_at.is_not(None)),
        job.c.exclude.like("[%"),
    )
    .order_by(run.c.id)
    .limit(bindparam("limit"))
)

_NOT_REGISTERED = f"is not registered any more: it was forgotten, or is silent for more than {REGISTERED_DAYS} days"


@dataclass(frozen=True, slots=True)
class Advanced:
    """What one round of advancing did."""

    ready: int = 0
    missed: int = 0
    postponed: int = 0


def advance_runs(
    database: Database, *, limit: int = ADVANCE_BATCH_MAX, is_held: bool = False, as_of: datetime | None = None
) -> Advanced:
    """Move on the runs whose time has come: waiting to ready, and to missed what could not start in its window.

    With ``is_held`` nothing is missed, while the clock is not trusted. ``as_of`` is as for ``rescue_runs``.
    """

    def advance(connection: Connection) -> Advanced:
        rows = connection.execute(FIND_WAITED, {"limit": limit, "as_of": as_of}).all()
        queued = [row.id for row in rows if row.queued and row.state == RunState.WAITING.value]
        blocked: set[int] = set()
        if queued:
            blocked = set(connection.execute(FIND_BLOCKED, {"ids": queued}).scalars())
        moves: list[Move] = []
        strays: list[int] = []
        late = [row for row in rows if row.state in _MOVED_ON and _window_is_over(row)] if not is_held else []
        said = say_targets(connection, ((row.target_node, row.pool) for row in late if row.target_node != ANY))
        for row in rows:
            if row.state in _MOVED_ON and _window_is_over(row):
                if not is_held:
                    moves.append(_miss(row, said.get((row.target_node, row.pool))))
            elif row.state == RunState.WAITING.value:
                if row.id not in blocked:
                    moves.append(_ready(row))
            else:
                strays.append(row.id)
        becoming = {move.run_id for move in moves if move.target is RunState.READY}
        place_waiting(connection, [row for row in rows if row.id in becoming])
        apply_moves(connection, moves)
        tell_missed(connection, moves)
        if blocked:
            connection.execute(POSTPONE, {"ids": sorted(blocked)})
        if strays:
            connection.execute(LOOK_AWAY, {"ids": sorted(strays)})
        crash.at("advance.written")
        missed = sum(1 for move in moves if move.target is RunState.MISSED)
        return Advanced(len(moves) - missed, missed, len(blocked))

    advanced = write_fresh(database, advance)
    crash.at("advance.committed")
    return advanced


def miss_unreachable(database: Database, *, limit: int = ADVANCE_BATCH_MAX) -> int:
    """Let go of ready runs for nodes that are not registered any more, not in their pool, or excluded; return how many.

    Those with a window are missed when it closes; what has none, or has started once, would wait for ever.
    """

    def miss(connection: Connection) -> int:
        rows = connection.execute(FIND_UNREACHABLE, {"limit": limit}).all()
        moves = [
            _unreachable(row, f"does not serve pool {row.pool} any more" if row.is_registered else _NOT_REGISTERED)
            for row in rows
        ]
        apply_moves(connection, moves)
        tell_missed(connection, moves)
        hold_for_all_nodes(connection, [row for row in rows if not row.is_registered])
        return len(moves)

    def miss_excluded(connection: Connection) -> int:
        moves: list[Move] = []
        after = 0
        while rows := connection.execute(FIND_MAYBE_EXCLUDED, {"after": after, "limit": limit}).all():
            moves += [_unreachable(row, "its job excludes") for row in rows if is_excluded(row)]
            if len(rows) < limit or len(moves) >= limit:
                break
            after = rows[-1].id
        apply_moves(connection, moves)
        tell_missed(connection, moves)
        return len(moves)

    return write_fresh(database, miss) + write_fresh(database, miss_excluded)


def _unreachable(row: AnyRow, why: str) -> Move:
    return Move(
        run_id=row.id,
        fence=row.fence,
        claim_id=row.claim_id,
        source=RunState.READY,
        target=RunState.MISSED,
        because=Because.WINDOW_PASSED,
        reason=Reason.NO_NODE,
        text=f"it is for node {row.target_node}, which {why}",
    )


def _window_is_over(row: AnyRow) -> bool:
    # The window binds until the first start: retries and rescues ignore it.
    return row.start_by is not None and row.started_at is None and row.start_by < row.now


def _miss(row: AnyRow, of_target: str | None) -> Move:
    late = (row.now - row.start_by).total_seconds()
    return Move(
        run_id=row.id,
        fence=row.fence,
        claim_id=row.claim_id,
        source=RunState(row.state),
        target=RunState.MISSED,
        because=Because.WINDOW_PASSED,
        reason=Reason.WINDOW_PASSED,
        text=f"could not start by {row.start_by:%Y-%m-%d %H:%M:%S} UTC, {late:.1f} s ago: "
        + _what_held(row, of_target),
    )


def _what_held(row: AnyRow, of_target: str | None) -> str:
    if row.job_paused:
        return "its job is paused"
    if row.job_held:
        return "the breaker of its job is open"
    if row.pool_paused:
        return "its pool is paused"
    if row.state == RunState.WAITING.value:
        return "it was still waiting"
    return of_target or "no node had taken it"


def _ready(row: AnyRow) -> Move:
    return Move(
        run_id=row.id,
        fence=row.fence,
        claim_id=row.claim_id,
        source=RunState.WAITING,
        target=RunState.READY,
        because=Because.MAY_START,
        reason=Reason.DUE,
        text="its time has come" if row.attempt == 0 else f"attempt {row.attempt + 1} may start",
    )
