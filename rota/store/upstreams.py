"""Looking at what waiting runs build on: letting them go, doing without them, or looking again later.

Invariant: a run of a job that runs after others becomes ready only when each upstream's latest slot at or before its
own has succeeded, as the ledger says at that moment; nothing is counted or remembered. So an end that is told twice,
too early or not at all changes only when it is looked at. Any number of nodes may look at once: what one of them has
locked the others pass over. Over-long, since the reads and the judgement that is made of them are one decision.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, and_, bindparam, func, null, select, update

from rota import crash
from rota.model.dependencies import Judgement, Stand, Standing, UpstreamFailure, find_cycle, judge
from rota.model.instants import say_slot
from rota.model.reasons import Reason
from rota.model.slot_rule import CatchUp, Overlap
from rota.model.states import UNFINISHED, Because, JobState, RunState
from rota.store.database import Database
from rota.store.dependants import is_slot
from rota.store.dependencies import read_upstreams
from rota.store.fanout import ANY, is_in_the_way
from rota.store.moves import Move, apply_moves, write_fresh
from rota.store.period_standing import read_stand_of_slot
from rota.store.sharing import place_waiting
from rota.store.tables import OLDEST_FIRST, dependency, job, run, schedule
from rota.store.types import AnyRow, db_now, db_now_plus, encode_rows, given_rows

LOOK_BATCH_MAX = 500
OLDEST_MAX = 1000
PAIRS_MAX = 20_000  # of a run and a schedule of an upstream, in one look: each is two probes of an index
# What an end brings forward is looked at then; the rest a tenth of its age later, between these.
AGAIN_SECONDS_MIN = 2.0
AGAIN_SECONDS_MAX = 300.0
AGAIN_SHARE = 0.1

FACTS = (
    run.c.id,
    run.c.job_id,
    run.c.job,
    run.c.schedule_id,
    run.c.schedule,
    run.c.slot_at,
    run.c.run_at,
    run.c.target_node,
)
# Served by rota_run_upstreams_due.
FIND_AWAITING = (
    select(
        *FACTS,
        run.c.fence,
        run.c.claim_id,
        run.c.open_schedule_id,
        run.c.start_by,
        run.c.enqueued_at,
        run.c.pool,
        run.c.priority,
        run.c.concurrency_key,
        run.c.backfill_id,
        db_now().label("now"),
    )
    .where(run.c.upstreams_due_at <= db_now(), run.c.state == RunState.WAITING.value)
    .order_by(run.c.upstreams_due_at)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)
# Served by rota_run_upstreams_due: all that wait are looked at.
FIND_OLDEST = select(*FACTS).where(run.c.upstreams_due_at.is_not(None)).order_by(OLDEST_FIRST).limit(OLDEST_MAX)
_upstream = job.alias("upstream")
READ_PAIRS = (
    select(
        dependency.c.job_id,
        dependency.c.upstream_id,
        _upstream.c.name,
        _upstream.c.timeline,
        _upstream.c.periods_until,
    )
    .outerjoin(_upstream, _upstream.c.id == dependency.c.upstream_id)
    .where(dependency.c.job_id.in_(bindparam("job_ids", expanding=True)), dependency.c.is_child.is_(None))
    .order_by(_upstream.c.name, dependency.c.upstream_id)
)
COUNT_SCHEDULES = (
    select(dependency.c.job_id, func.count().label("schedules"))
    .join(schedule, schedule.c.job_id == dependency.c.upstream_id)
    .where(dependency.c.job_id.in_(bindparam("job_ids", expanding=True)))
    .group_by(dependency.c.job_id)
)
READ_FAILURE_RULES = select(job.c.id, job.c.upstream_failure).where(job.c.id.in_(bindparam("job_ids", expanding=True)))
READ_OWN = select(
    schedule.c.id, schedule.c.overlap, schedule.c.catch_up, schedule.c.in_order, schedule.c.order_from_at
).where(schedule.c.id.in_(bindparam("schedule_ids", expanding=True)))
# Two nodes that look at runs of one schedule do so one after the other: each sees what the other has made ready.
LOCK_OWN = (
    select(schedule.c.id)
    .where(schedule.c.id.in_(bindparam("schedule_ids", expanding=True)))
    .order_by(schedule.c.id)
    .with_for_update()
)
# Served by rota_schedule_job.
READ_SCHEDULES = (
    select(
        schedule.c.id,
        schedule.c.job_id,
        schedule.c.name,
        schedule.c.state,
        schedule.c.problem,
        schedule.c.next_slot_at,
    )
    .where(schedule.c.job_id.in_(bindparam("job_ids", expanding=True)))
    .order_by(schedule.c.name)
)
# What goes on, or may, of these schedules. Served by rota_run_open_schedule.
FIND_IN_THE_WAY = select(run.c.open_schedule_id, run.c.target_node, run.c.backfill_id).where(
    run.c.open_schedule_id.in_(bindparam("schedule_ids", expanding=True)), run.c.awaiting_job_id.is_(None)
)

_ENDED = (run.c.id, run.c.slot_at, run.c.target_node, run.c.state, run.c.reason)
_asked = given_rows("asked", schedule_id="id", moment="instant")
_slot = run.alias("slot")
_of_asked = _slot.c.schedule_id == _asked.c.schedule_id


def _first_slot(order: Any, *where: Any) -> Any:
    # One probe of the index: asked for the least or the greatest, MariaDB reads the whole history for a condition.
    return select(_slot.c.slot_at).where(_of_asked, *where).order_by(order).limit(1).scalar_subquery()


_latest_slot = _first_slot(_slot.c.slot_at.desc(), _slot.c.slot_at <= _asked.c.moment, is_slot(_slot))
_next_slot = _first_slot(_slot.c.slot_at, _slot.c.slot_at > _asked.c.moment, is_slot(_slot))


# The runs of the latest slot at or before a moment, or else of the first one. Served by rota_run_slot.
READ_LATEST = select(_asked.c.schedule_id, _asked.c.moment, *_ENDED).join_from(
    _asked,
    run,
    and_(
        run.c.schedule_id == _asked.c.schedule_id,
        run.c.slot_at == func.coalesce(_latest_slot, _next_slot),
    ),
)
# The runs of the slot before one of the same schedule. What was skipped was decided, and what no node was there for can
# never be done: neither is waited for.
READ_BEFORE = select(_asked.c.schedule_id, _asked.c.moment, *_ENDED).join_from(
    _asked,
    run,
    and_(
        run.c.schedule_id == _asked.c.schedule_id,
        run.c.slot_at
        == _first_slot(
            _slot.c.slot_at.desc(),
            _slot.c.slot_at < _asked.c.moment,
            _slot.c.state != RunState.SKIPPED.value,
            _slot.c.reason.not_in([Reason.NO_NODE.value, Reason.NODE_FORGOTTEN.value]),
        ),
    ),
)
_of_upstream = run.alias("of_upstream")
_newest = (
    select(_of_upstream.c.id)
    .where(_of_upstream.c.job_id == job.c.id, _of_upstream.c.run_at <= db_now(), is_slot(_of_upstream))
    .order_by(_of_upstream.c.job_id.desc(), _of_upstream.c.id.desc())
    .limit(1)
    .scalar_subquery()
)
# The last run of a job without a schedule whose time has come. Served by rota_run_job.
READ_LAST = (
    select(run.c.job_id, *_ENDED, run.c.group_id)
    .join_from(job, run, run.c.id == _newest)
    .where(job.c.id.in_(bindparam("job_ids", expanding=True)))
)
# The others of its group. Served by rota_run_group.
READ_GROUPS = select(run.c.job_id, *_ENDED).where(run.c.group_id.in_(bindparam("group_ids", expanding=True)))

_is_awaiting = (run.c.state == RunState.WAITING.value, run.c.upstreams_due_at.is_not(None))
_again = given_rows("again", run_id="id", seconds="number", reason="word", text="text")
# Served by the primary key.
LOOK_AGAIN = (
    update(run)
    .where(run.c.id == _again.c.run_id, *_is_awaiting)
    .values(upstreams_due_at=db_now_plus(_again.c.seconds), reason=_again.c.reason, reason_text=_again.c.text)
)
# What a hand has moved on, and left here. Served by rota_run_upstreams_due.
LOOK_AWAY = (
    update(run)
    .where(run.c.upstreams_due_at <= db_now(), run.c.state != RunState.WAITING.value)
    .values(upstreams_due_at=null(), awaiting_job_id=null())
)


@dataclass(frozen=True, slots=True)
class Looked:
    """What one look at upstreams did."""

    ready: int = 0
    skipped: int = 0
    again: int = 0
    is_full: bool = False  # there may be more to look at


@dataclass(slots=True)
class _Plan:
    ready: list[AnyRow] = field(default_factory=list[AnyRow])
    moves: list[Move] = field(default_factory=list[Move])
    again: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


def look_at_upstreams(database: Database, *, limit: int = LOOK_BATCH_MAX) -> Looked:
    """Make the waiting runs ready whose upstreams have succeeded, and skip those of which one never will.

    What another run of its schedule stands in the way of is looked at again when that has ended.

    Raises:
        DatabaseUnavailable: nothing was changed; calling again is safe.
    """

    def look(connection: Connection) -> Looked:
        rows = connection.execute(FIND_AWAITING, {"limit": limit}).all()
        if not rows:
            connection.execute(LOOK_AWAY)
            return Looked()
        is_full = len(rows) >= limit
        rows, is_cut = _cut(connection, rows)
        plan = _decide(connection, rows)
        place_waiting(connection, plan.ready)
        apply_moves(connection, plan.moves)
        if plan.again:
            connection.execute(LOOK_AGAIN, {"again": encode_rows(plan.again)})
        if plan.ready:
            crash.at("upstreams.written")
        return Looked(len(plan.ready), len(plan.moves) - len(plan.ready), len(plan.again), is_full or is_cut)

    looked = write_fresh(database, look)
    if looked.ready:
        crash.at("upstreams.committed")
    return looked


def _cut(connection: Connection, rows: Sequence[AnyRow]) -> tuple[Sequence[AnyRow], bool]:
    """Return the first of these runs, as many as one look can judge, and whether that is not all of them."""
    job_ids = sorted({row.job_id for row in rows})
    counts = {one.job_id: one.schedules for one in connection.execute(COUNT_SCHEDULES, {"job_ids": job_ids})}
    pairs = 0
    for number, row in enumerate(rows):
        pairs += counts.get(row.job_id, 0)
        if pairs > PAIRS_MAX and number:
            return rows[:number], True
    return rows, False


def _decide(connection: Connection, rows: Sequence[AnyRow]) -> _Plan:
    own = _read_own(connection, rows)
    if own:
        connection.execute(LOCK_OWN, {"schedule_ids": sorted(own)})
    judged = judge_runs(connection, rows)
    in_the_way = _read_in_the_way(connection, rows)
    plan = _Plan()
    for row in sorted(rows, key=lambda one: (moment_of(one), one.id)):
        judgement = judged[row.id]
        of_own = own.get(row.open_schedule_id)
        if judgement.stand is Stand.FAILED:
            plan.moves.append(_skip(row, Reason.UPSTREAM_FAILED, judgement.text))
        elif judgement.stand is Stand.AHEAD:
            plan.again.append(_look_again(row, Reason.UPSTREAM, judgement.text))
        elif not _is_blocked(row, of_own, in_the_way):
            plan.moves.append(_make_ready(row, judgement.text))
            plan.ready.append(row)
            in_the_way.setdefault(row.open_schedule_id, []).append(row)
        elif row.backfill_id is None and _gives_up_its_slot(of_own):
            text = f"{judgement.text}; but another run of its schedule is unfinished, and overlap is skip"
            plan.moves.append(_skip(row, Reason.OVERLAP, text))
        else:
            text = f"another run of its schedule is unfinished; {judgement.text}"
            plan.again.append(_look_again(row, Reason.QUEUED, text))
    return plan


def _gives_up_its_slot(of_own: AnyRow | None) -> bool:
    if of_own is None or of_own.overlap != Overlap.SKIP:  # a schedule that is gone has left its slots to run
        return False
    return of_own.catch_up != CatchUp.ALL and not of_own.in_order


def judge_runs(connection: Connection, rows: Sequence[AnyRow]) -> dict[int, Judgement]:
    """Say for each run of ``rows``, which have ``FACTS``, whether what it builds on is done.

    The number of statements does not depend on the number of runs.
    """
    standings = read_standings(connection, rows)
    job_ids = sorted({row.job_id for row in rows})
    failures = {row.id: row.upstream_failure for row in connection.execute(READ_FAILURE_RULES, {"job_ids": job_ids})}
    skip = UpstreamFailure.SKIP
    return {
        row.id: judge(standings[row.id], skip if failures.get(row.job_id) == skip.value else UpstreamFailure.WAIT)
        for row in rows
    }


def read_standings(
    connection: Connection, rows: Sequence[AnyRow], *, with_periods: bool = True
) -> dict[int, list[Standing]]:
    """Return how each upstream of these runs stands for it: one of a job without a schedule, or of each schedule.

    Where slots run in order, the slot before a run's own is one of them. Those that have periods are left out unless
    ``with_periods``: of them, the last period that had ended by the time of the run counts.
    """
    found_standings = _read_before(connection, rows)
    job_ids = sorted({row.job_id for row in rows})
    pairs: dict[int, list[AnyRow]] = {}
    for pair in connection.execute(READ_PAIRS, {"job_ids": job_ids}):
        pairs.setdefault(pair.job_id, []).append(pair)
    upstream_ids = sorted({pair.upstream_id for of_job in pairs.values() for pair in of_job})
    if not upstream_ids:
        return found_standings
    schedules: dict[int, list[AnyRow]] = {}
    for found in connection.execute(READ_SCHEDULES, {"job_ids": upstream_ids}):
        schedules.setdefault(found.job_id, []).append(found)
    latest = _read_latest(connection, rows, pairs, schedules)
    last = _read_last(connection, [one for one in upstream_ids if one not in schedules])
    of_periods: list[tuple[AnyRow, AnyRow]] = []
    for row in rows:
        standings = found_standings[row.id]
        for pair in pairs.get(row.job_id, ()):
            if pair.timeline is not None:
                of_periods.append((row, pair))
            elif pair.name is None:
                text = "which does not exist any more: edit the job with `rota job edit --after`"
                standings.append(Standing(f"job {pair.upstream_id}", Stand.AHEAD, text))
            elif pair.upstream_id not in schedules:
                standings.append(_stand_of_runs(pair.name, row, last.get(pair.upstream_id, ())))
            else:
                of_schedules = schedules[pair.upstream_id]
                runs = {found.id: latest.get((found.id, moment_of(row)), ()) for found in of_schedules}
                has_begun = [found for found in of_schedules if _has_slot(row, found, runs[found.id])]
                # One that was added later, or begins later, has nothing to wait for beside one that goes on.
                standings += [
                    _stand_of_schedule(pair.name, row, found, runs[found.id]) for found in has_begun or of_schedules
                ]
    if with_periods:
        stands: dict[tuple[int, datetime], Standing] = {}
        for row, pair in of_periods:
            asked = (pair.upstream_id, moment_of(row))
            if asked not in stands:
                stands[asked] = read_stand_of_slot(connection, pair, moment_of(row))
            found_standings[row.id].append(stands[asked])
    return found_standings


def _read_before(connection: Connection, rows: Sequence[AnyRow]) -> dict[int, list[Standing]]:
    found: dict[int, list[Standing]] = {row.id: [] for row in rows}
    in_order = {one.id: one.order_from_at for one in _read_own(connection, rows).values() if one.in_order}
    waiting = [row for row in rows if row.schedule_id in in_order and row.slot_at is not None]
    if not waiting:
        return found
    asked = sorted({(row.schedule_id, row.slot_at) for row in waiting})
    given = encode_rows({"schedule_id": one, "moment": moment} for one, moment in asked)
    before = _read_by(connection, READ_BEFORE, given)
    for row in waiting:
        since = in_order[row.schedule_id]
        runs = [one for one in before.get((row.schedule_id, row.slot_at), []) if since is None or one.slot_at >= since]
        if row.target_node != ANY:  # what another node did, or did not, is no matter
            runs = [one for one in runs if one.target_node in (ANY, row.target_node)]
        if runs:
            standing = _stand_of_runs(f"its own schedule {row.schedule}", row, runs)
            found[row.id].append(replace(standing, is_before=True))
    return found


def find_held_up(connection: Connection) -> dict[str, tuple[str, list[AnyRow]]]:
    """Return the upstreams that have failed and are waited for: how one stands, and the oldest runs that wait."""
    rows = connection.execute(FIND_OLDEST).all()
    found: dict[str, tuple[str, list[AnyRow]]] = {}
    if rows:
        rows, _ = _cut(connection, rows)
        standings = read_standings(connection, rows)
        for row in rows:
            for standing in standings[row.id]:
                if standing.stand is Stand.FAILED:
                    found.setdefault(standing.upstream, (standing.text, []))[1].append(row)
    return found


def find_cycles(connection: Connection) -> list[list[str]]:
    """Return the cycles that the oldest waiting runs are held by, each once: no door makes one, but a hand may."""
    jobs = sorted({row.job for row in connection.execute(FIND_OLDEST)})
    if not jobs:
        return []
    upstreams = read_upstreams(connection)
    found = {frozenset(path): path for name in jobs if (path := find_cycle(upstreams, name)) is not None}
    return list(found.values())


def moment_of(row: AnyRow) -> datetime:
    """Return the moment on its job's timeline that a run is for: its slot, or else when it may start."""
    return row.slot_at if row.slot_at is not None else row.run_at


def _read_latest(
    connection: Connection,
    rows: Iterable[AnyRow],
    pairs: Mapping[int, Sequence[AnyRow]],
    schedules: Mapping[int, Sequence[AnyRow]],
) -> dict[tuple[int, datetime], list[AnyRow]]:
    asked = {
        (found.id, moment_of(row))
        for row in rows
        for pair in pairs.get(row.job_id, ())
        for found in schedules.get(pair.upstream_id, ())
    }
    if not asked:
        return {}
    given = encode_rows({"schedule_id": one, "moment": moment} for one, moment in sorted(asked))
    return _read_by(connection, READ_LATEST, given)


def _read_by(
    connection: Connection, statement: Select[*tuple[Any, ...]], asked: str
) -> dict[tuple[int, datetime], list[AnyRow]]:
    found: dict[tuple[int, datetime], list[AnyRow]] = {}
    for row in connection.execute(statement, {"asked": asked}):
        found.setdefault((row.schedule_id, row.moment), []).append(row)
    return found


def _read_last(connection: Connection, job_ids: Sequence[int]) -> dict[int, list[AnyRow]]:
    if not job_ids:
        return {}
    rows = connection.execute(READ_LAST, {"job_ids": list(job_ids)}).all()
    found: dict[int, list[AnyRow]] = {row.job_id: [row] for row in rows}
    if group_ids := [row.group_id for row in rows if row.group_id is not None]:
        groups: dict[int, list[AnyRow]] = {}
        for row in connection.execute(READ_GROUPS, {"group_ids": group_ids}):
            groups.setdefault(row.job_id, []).append(row)
        found |= groups
    return found


def _has_slot(row: AnyRow, found: AnyRow, runs: Sequence[AnyRow]) -> bool:
    """Whether a schedule has a slot at or before the moment of a run, decided or not."""
    is_due = found.next_slot_at is not None and found.next_slot_at <= moment_of(row)
    return is_due or any(one.slot_at is not None and one.slot_at <= moment_of(row) for one in runs)


def _stand_of_schedule(name: str, row: AnyRow, found: AnyRow, runs: Sequence[AnyRow]) -> Standing:
    undecided = found.next_slot_at is not None and found.next_slot_at <= moment_of(row)
    if undecided and found.problem is not None:
        return Standing(name, Stand.AHEAD, f"whose schedule {found.name} is set aside: {found.problem}")
    if undecided and found.state != JobState.ACTIVE.value:
        return Standing(name, Stand.AHEAD, f"whose schedule {found.name} is paused")
    if undecided:
        return Standing(name, Stand.AHEAD, f"whose slot {say_slot(found.next_slot_at)} is not decided yet")
    return _stand_of_runs(name, row, runs)


def _stand_of_runs(name: str, row: AnyRow, runs: Sequence[AnyRow]) -> Standing:
    """Judge by the runs of one slot; where both are for certain nodes, by what is for the run's own."""
    own = [one for one in runs if one.target_node == row.target_node] if row.target_node != ANY else []
    runs = own or runs
    if not runs:
        return Standing(name, Stand.AHEAD, "which has not run yet")
    unfinished = [one for one in runs if one.state in UNFINISHED]
    bad = [one for one in runs if one not in unfinished and not is_done(one)]
    first = (unfinished or bad or list(runs))[0]
    what = f"run {first.id}" if first.slot_at is None else f"slot {say_slot(first.slot_at)} (run {first.id})"
    where = f" on {first.target_node}" if first.target_node != ANY else ""
    stand = Stand.AHEAD if unfinished else Stand.FAILED if bad else Stand.DONE
    return Standing(name, stand, f"whose {what}{where} {_BECAME.get(first.state, first.state)}", first.id)


_BECAME = {
    RunState.WAITING.value: "is waiting",
    RunState.READY.value: "is ready",
    RunState.RUNNING.value: "is running",
    RunState.SUCCEEDED.value: "has succeeded",
    RunState.FAILED.value: "has failed",
    RunState.LOST.value: "was lost",
    RunState.MISSED.value: "was missed",
    RunState.SKIPPED.value: "was skipped",
    RunState.CANCELLED.value: "was cancelled",
}


def is_done(row: AnyRow) -> bool:
    """Whether others may build on a run that has ended so: it succeeded, or ran and found nothing to do."""
    is_no_op = row.state == RunState.SKIPPED.value and row.reason == Reason.NO_OP.value
    return row.state == RunState.SUCCEEDED.value or is_no_op


def _read_own(connection: Connection, rows: Iterable[AnyRow]) -> dict[int, AnyRow]:
    """Return the schedules of these runs."""
    schedule_ids = sorted({row.schedule_id for row in rows if row.schedule_id is not None})
    if not schedule_ids:
        return {}
    return {row.id: row for row in connection.execute(READ_OWN, {"schedule_ids": schedule_ids})}


def _read_in_the_way(connection: Connection, rows: Iterable[AnyRow]) -> dict[int | None, list[AnyRow]]:
    found: dict[int | None, list[AnyRow]] = {}
    schedule_ids = sorted({row.open_schedule_id for row in rows if row.open_schedule_id is not None})
    if schedule_ids:
        for row in connection.execute(FIND_IN_THE_WAY, {"schedule_ids": schedule_ids}):
            found.setdefault(row.open_schedule_id, []).append(row)
    return found


def _is_blocked(row: AnyRow, of_own: AnyRow | None, in_the_way: Mapping[int | None, Sequence[AnyRow]]) -> bool:
    if row.open_schedule_id is None or (of_own is not None and of_own.overlap == Overlap.ALLOW):
        return False
    others = in_the_way.get(row.open_schedule_id, ())
    # How many runs of one backfill there are at once was decided when they were made.
    others = [one for one in others if row.backfill_id is None or one.backfill_id != row.backfill_id]
    return any(is_in_the_way(one.target_node, [row.target_node]) for one in others)


def _look_again(row: AnyRow, reason: Reason, text: str) -> dict[str, Any]:
    age = (row.now - max(row.run_at, row.enqueued_at)).total_seconds()
    seconds = min(AGAIN_SECONDS_MAX, max(AGAIN_SECONDS_MIN, age * AGAIN_SHARE))
    return {"run_id": row.id, "seconds": seconds, "reason": reason.value, "text": text}


def _make_ready(row: AnyRow, text: str) -> Move:
    return Move(
        run_id=row.id,
        fence=row.fence,
        claim_id=row.claim_id,
        source=RunState.WAITING,
        target=RunState.READY,
        because=Because.MAY_START,
        reason=Reason.DUE,
        text=text,
        # The window counts from the end of the last upstream.
        window_seconds=None if row.start_by is None else max(0.0, (row.start_by - row.run_at).total_seconds()),
    )


def _skip(row: AnyRow, reason: Reason, text: str) -> Move:
    return Move(
        run_id=row.id,
        fence=row.fence,
        claim_id=row.claim_id,
        source=RunState.WAITING,
        target=RunState.SKIPPED,
        because=Because.DONE_WITHOUT,
        reason=reason,
        text=text,
    )
