"""Looking at periods: working on the oldest, taking note of what became of that, letting go of what builds on it.

Invariant: a period is finished when the ledger says, in the transaction that finishes it, that its run has ended well
and all that it builds on is finished; and it has one run at a time, whose request id is the period's and its round, so
that none is made twice. Any number of nodes may look: the one that has the turn does (``period_ledger``).
Over-long, since what is read of a period, decided and written is one look.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, and_, bindparam, case, func, null, select, update

from rota import crash
from rota.errors import Invalid
from rota.model.concurrency import key_of
from rota.model.dependencies import Stand, Standing, UpstreamFailure
from rota.model.ending import FOR_EVER
from rota.model.period import Period
from rota.model.period_step import (
    Around,
    Finish,
    LastRun,
    PeriodFacts,
    PeriodReason,
    PeriodState,
    Wait,
    Work,
    decide_period,
)
from rota.model.placement import RunsOn
from rota.model.reasons import Reason
from rota.model.run import NewRun, PeriodPart
from rota.model.states import UNFINISHED, JobState, RunState
from rota.model.timeline import Blocking, Timeline, read_timeline
from rota.store.creation import enqueue_runs
from rota.store.database import Database
from rota.store.events import tell_periods
from rota.store.moves import write_fresh
from rota.store.period_actions import reopen_above
from rota.store.period_graph import JobSpan, find_builders, let_go
from rota.store.period_ledger import (
    Extended,
    extend_ledgers,
    find_oldest,
    wake,
    wake_oldest,
)
from rota.store.period_standing import READ_PAIRS, Span, Within, builds_on, read_within
from rota.store.tables import job, period, run
from rota.store.turns import PERIODS, take_turn
from rota.store.types import AS_OF, AnyRow, db_now, encode_rows, given_rows
from rota.store.upstreams import read_standings
from rota.store.wakeup import announce

log = logging.getLogger("rota.store")

LOOK_BATCH_MAX = 200
PASSES_MAX = 3  # in one transaction: what one pass lets go begins with the next
REQUESTED_BY = "periods"
# What waits for a job without periods is looked at again after a tenth of the time that it has waited, between these.
AGAIN_SECONDS_MIN = 2.0
AGAIN_SECONDS_MAX = 60.0
AGAIN_SHARE = 0.1
LIMIT_SECONDS = 5.0  # from one look to the next at what waits for others of its job, which may wait themselves then

# Served by rota_run_open_period.
FIND_ENDED = (
    select(run.c.id, run.c.open_period_id, run.c.state)
    .where(run.c.open_period_id.is_not(None), run.c.finished_at.is_not(None))
    .limit(bindparam("limit"))
)
# Served by rota_period_due.
FIND_DUE = select(period.c.id).where(period.c.due_at <= AS_OF).order_by(period.c.due_at).limit(bindparam("limit"))
# Served by the primary keys.
READ_PERIODS = (
    select(
        period,
        job.c.name.label("job"),
        job.c.state.label("job_state"),
        job.c.timeline,
        job.c.retries,
        job.c.upstream_failure,
        job.c.concurrency_key,
        job.c.runs_on,
        run.c.state.label("run_state"),
        run.c.reason.label("run_reason"),
        run.c.reason_text.label("run_text"),
        run.c.enqueued_at.label("run_made_at"),
        run.c.range_end_at,
        AS_OF.label("now"),
    )
    .join_from(period, job, job.c.id == period.c.job_id)
    .outerjoin(run, run.c.id == period.c.run_id)
    .where(period.c.id.in_(bindparam("ids", expanding=True)))
    .order_by(period.c.start_at, period.c.id)
)
_moved = given_rows(
    "moved",
    id="id",
    state="word",
    reason="word",
    text="text",
    due_at="instant",
    covered_until="instant",
    run_id="id",
    made="id",
    finished="flag",
)
# Served by the primary key.
MOVE_PERIODS = (
    update(period)
    # The ids besides: PostgreSQL takes any list of rows for a hundred, and would read a ledger that is new as a whole.
    .where(period.c.id == _moved.c.id, period.c.id.in_(bindparam("ids", expanding=True)))
    .values(
        state=_moved.c.state,
        reason=_moved.c.reason,
        reason_text=_moved.c.text,
        due_at=_moved.c.due_at,
        covered_until=_moved.c.covered_until,
        run_id=func.coalesce(_moved.c.run_id, period.c.run_id),
        is_void=and_(period.c.is_void, _moved.c.run_id.is_(None)),
        round=period.c.round + _moved.c.made,
        updated_at=db_now(),
        finished_at=case((_moved.c.finished, func.coalesce(period.c.finished_at, db_now())), else_=null()),
    )
)
_taken = given_rows("taken", run_id="id", state="word")
# What is finished and has nothing to be told is not looked at again. Served by the primary key.
_rested = given_rows("rested", id="id")
REST = update(period).where(period.c.id == _rested.c.id, period.c.due_at.is_not(None)).values(due_at=null())
# Served by rota_run_open_period: what is under way, of all jobs. Not what waits for its next attempt: a period that
# fails on and on must not keep an older one that was taken back from being done.
COUNT_AT_WORK = (
    select(run.c.job_id, func.count().label("runs"))
    .where(
        run.c.open_period_id > 0,
        run.c.finished_at.is_(None),
        run.c.state != RunState.WAITING.value,
        run.c.job_id.in_(bindparam("job_ids", expanding=True)),
    )
    .group_by(run.c.job_id)
)
# Unless it was moved on meanwhile, by a person: it is looked at once more then. Served by the primary key.
CLOSE_ENDED = (
    update(run).where(run.c.id == _taken.c.run_id, run.c.state == _taken.c.state).values(open_period_id=null())
)
# Those that have periods which nobody would look at: the rules were changed, or a row was by hand.
FIND_LEDGERS = select(job.c.id).where(job.c.periods_until.is_not(None))


@dataclass(frozen=True, slots=True)
class Looked:
    """What one look at periods did."""

    added: bool = False  # the ledger of a job was continued
    ready: int = 0
    finished: int = 0
    moved: int = 0
    is_full: bool = False  # there may be more to look at

    def followed_by(self, later: Looked) -> Looked:
        """Return both as one."""
        return Looked(
            self.added or later.added,
            self.ready + later.ready,
            self.finished + later.finished,
            self.moved + later.moved,
            self.is_full or later.is_full,
        )


_Turns = Mapping[int, Mapping[int, str]]  # of each job the periods that may be worked on, and what they wait for


@dataclass(slots=True)
class _Plan:
    moved: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    finished: list[tuple[AnyRow, Timeline | None]] = field(default_factory=list[tuple[AnyRow, Timeline | None]])
    work: list[tuple[AnyRow, Work, Timeline]] = field(default_factory=list[tuple[AnyRow, Work, Timeline]])
    told: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    known: list[tuple[AnyRow, Timeline]] = field(default_factory=list[tuple[AnyRow, Timeline]])
    changed: list[JobSpan] = field(default_factory=list[JobSpan])  # under what was finished without them
    again: set[int] = field(default_factory=set[int])
    rested: list[int] = field(default_factory=list[int])
    turns: _Turns = field(default_factory=dict[int, dict[int, str]])


@dataclass(frozen=True, slots=True)
class _Following:
    """What is looked at next: periods by their ids, and for each job whose turn it is, where that is known already."""

    ids: Sequence[int]
    turns: _Turns


def look_at_periods(database: Database, *, limit: int = LOOK_BATCH_MAX, as_of: datetime | None = None) -> Looked:
    """Continue the ledgers, take note of runs that have ended, and work on what may be worked on.

    ``as_of`` is as for ``rescue_runs``. Returns with nothing done when another node is at it.

    Raises:
        DatabaseUnavailable: nothing was changed; calling again is safe.
    """

    def look(connection: Connection) -> Looked:
        if not take_turn(connection, PERIODS, wait=False):
            return Looked()
        added = extend_ledgers(connection, as_of)
        if added is not None:
            _begin(connection, added)
        looked = Looked(added=added is not None, is_full=added is not None and added.is_full)
        looked = looked.followed_by(_look_at_due(connection, limit, as_of))
        if looked.ready or looked.finished:
            announce(connection)
            crash.at("periods.written")
        return looked

    looked = write_fresh(database, look)
    if looked.ready or looked.finished:
        crash.at("periods.committed")
    return looked


def _look_at_due(connection: Connection, limit: int, as_of: datetime | None) -> Looked:
    """Look at what is due or has ended, and right after it at what is let go by that."""
    ended = connection.execute(FIND_ENDED, {"limit": limit}).all()
    due = connection.execute(FIND_DUE, {"limit": limit, "as_of": as_of}).scalars().all()
    looked = Looked(is_full=len(ended) >= limit or len(due) >= limit)
    of_ended = {row.open_period_id for row in ended}
    following = _Following([*sorted(of_ended), *sorted(set(due) - of_ended)], {})  # those first: they are closed here
    for _ in range(PASSES_MAX):
        now, later = following.ids[:limit], following.ids[limit:]
        wake(connection, later)
        if not now:
            break
        plan = _decide(connection, now, following.turns, as_of)
        following = _write(connection, plan)
        looked = looked.followed_by(
            Looked(False, len(plan.work), len(plan.finished), len(plan.moved), is_full=bool(later))
        )
    else:
        wake(connection, following.ids)
    if ended:
        taken = encode_rows({"run_id": row.id, "state": row.state} for row in ended)
        connection.execute(CLOSE_ENDED, {"taken": taken})
    return looked


def rewake_periods(database: Database) -> int:
    """Have the oldest unfinished periods of all jobs looked at, whether told of or not; return how many."""

    def rewake(connection: Connection) -> int:
        if not take_turn(connection, PERIODS, wait=False):
            return 0
        return wake_oldest(connection, connection.execute(FIND_LEDGERS).scalars().all())

    return write_fresh(database, rewake)


def _begin(connection: Connection, added: Extended) -> None:
    """Have what is new in the ledger worked on, what waits for it told, what was finished without it taken back."""
    wake_oldest(connection, [added.job_id, *find_builders(connection, added.job_id)])
    reopen_above(connection, added.job_id, added.start, added.end)


def _decide(connection: Connection, ids: Sequence[int], turns: _Turns, as_of: datetime | None) -> _Plan:
    rows = connection.execute(READ_PERIODS, {"ids": list(ids), "as_of": as_of}).all()
    plan = _Plan()
    for row in rows:
        if row.unfinished_at is None:
            _take_late_truth(plan, row)
            continue
        try:
            plan.known.append((row, _read_rules(row)))
        except Invalid as error:
            # Written by hand: it waits for a person, and the others go on.
            text = f"its job cannot be understood: {error}"
            _wait(plan, row, Wait(PeriodState(row.state), PeriodReason.INVALID, text))
    plan.turns = _read_turns(connection, plan.known, turns)
    # Those whose turn has not come wait for that, whatever lies around them, and those with a run for that; unless a
    # run of theirs has ended, which may finish them.
    idle = [
        (row, of)
        for row, of in plan.known
        if row.run_state not in UNFINISHED and (row.run_state is not None or row.id in plan.turns[row.job_id])
    ]
    around = _read_around(connection, idle)
    for row, timeline in plan.known:
        stands, again_at = around.get(row.id, (Around(), None))
        decision = decide_period(_facts(row, is_first=row.id in plan.turns[row.job_id], around=stands), timeline)
        if isinstance(decision, Work) and row.job_state == JobState.PAUSED.value:
            text, covered = "its job is paused", decision.covered_until
            _wait(plan, row, Wait(PeriodState(row.state), PeriodReason.PAUSED, text, covered_until=covered))
        elif isinstance(decision, Work):
            plan.work.append((row, decision, timeline))
        elif isinstance(decision, Finish):
            _finish(plan, row, timeline, decision)
        else:
            _wait(plan, row, decision, again_at if decision.reason is PeriodReason.UPSTREAM else None)
    if plan.work:
        _keep_to_limits(connection, plan)
    return plan


def _keep_to_limits(connection: Connection, plan: _Plan) -> None:
    """Let those wait that would be more at once than their job says.

    Younger ones may be worked on already, when an older one is taken back.
    """
    job_ids = sorted({row.job_id for row, _, _ in plan.work})
    at_work = {row.job_id: row.runs for row in connection.execute(COUNT_AT_WORK, {"job_ids": job_ids})}
    within: list[tuple[AnyRow, Work, Timeline]] = []
    for row, work, timeline in plan.work:
        count = at_work.get(row.job_id, 0)
        if count < timeline.at_once:
            at_work[row.job_id] = count + 1
            within.append((row, work, timeline))
            continue
        text = f"{count} periods of its job are worked on, and no more than {timeline.at_once} are at once"
        again_at = row.now + timedelta(seconds=LIMIT_SECONDS)
        held = Wait(PeriodState(row.state), PeriodReason.LIMIT, text, again_at, work.covered_until)
        _wait(plan, row, held)
    plan.work = within


def _read_rules(row: AnyRow) -> Timeline:
    if row.timeline is None:
        raise Invalid("timeline", None, "it has no periods any more")
    if row.runs_on not in {None, RunsOn.ANY.value}:
        raise Invalid("on", row.runs_on, "a period is worked on by one node")
    key_of(row.concurrency_key, "{}")
    PeriodState(row.state)
    return read_timeline(row.timeline)


def _facts(row: AnyRow, *, is_first: bool, around: Around) -> PeriodFacts:
    last = None
    if row.run_state is not None:
        state = RunState(row.run_state)
        # A person's word is no result: only what ran and found nothing to do has done it.
        if state is RunState.SKIPPED and row.run_reason != Reason.NO_OP.value:
            state = RunState.CANCELLED
        last = LastRun(
            run_id=row.run_id,
            state=state,
            text=row.run_text,
            is_void=bool(row.is_void),
            started_at=row.run_made_at,
            covers_until=row.range_end_at or row.end_at,
        )
    return PeriodFacts(
        period=Period(row.start_at, row.end_at, row.name),
        state=PeriodState(row.state),
        now=row.now,
        covered_until=row.covered_until,
        last_run=last,
        is_first=is_first,
        around=around,
    )


def _read_turns(connection: Connection, known: Iterable[tuple[AnyRow, Timeline | None]], turns: _Turns) -> _Turns:
    """Return for each job the periods that may be worked on now: the oldest that are not finished."""
    limits = {row.job_id: of.at_once for row, of in known if of is not None and row.job_id not in turns}
    found = {job_id: find_oldest(connection, job_id, limit) for job_id, limit in sorted(limits.items())}
    return {**turns, **{job_id: {row.id: row.reason for row in rows} for job_id, rows in found.items()}}


def _read_around(
    connection: Connection, known: Sequence[tuple[AnyRow, Timeline]]
) -> dict[int, tuple[Around, datetime | None]]:
    """Return how what lies within each period and what it runs after stand, and when to ask again unless told."""
    if not known:
        return {}
    pairs: dict[int, list[AnyRow]] = {}
    for pair in connection.execute(READ_PAIRS, {"job_ids": sorted({row.job_id for row, _ in known})}):
        pairs.setdefault(pair.job_id, []).append(pair)
    within: dict[int, list[tuple[AnyRow, Within]]] = {}
    for row, timeline in known:
        for pair in pairs.get(row.job_id, ()):
            if builds_on(pair, timeline):
                one = read_within(connection, Span(pair, row.start_at, row.end_at))
                within.setdefault(row.id, []).append((pair, one))
    without = [
        row
        for row, _ in known
        if any(not pair.is_child and pair.timeline is None for pair in pairs.get(row.job_id, ()))
    ]
    slots = read_standings(connection, [as_run(row) for row in without], with_periods=False) if without else {}
    return {row.id: _around(row, timeline, within.get(row.id, ()), slots.get(row.id, ())) for row, timeline in known}


class _AsRun:
    target_node = ""
    schedule_id = None
    schedule = None

    def __init__(self, row: AnyRow) -> None:
        self.id: int = row.id
        self.job_id: int = row.job_id
        self.job: str = row.job
        self.slot_at: datetime = row.end_at
        self.run_at: datetime = row.end_at


def as_run(row: AnyRow) -> AnyRow:
    """Return a period as the run that upstreams without periods are asked for: as of its end."""
    return _AsRun(row)


def _around(
    row: AnyRow, timeline: Timeline, within: Iterable[tuple[AnyRow, Within]], slots: Iterable[Standing]
) -> tuple[Around, datetime | None]:
    children = [one for pair, one in within if pair.is_child]
    upstreams = [(pair, one) for pair, one in within if not pair.is_child]
    slots = list(slots)
    open_slots = [one for one in slots if one.stand is not Stand.DONE]
    open_upstreams = [one.open for _, one in upstreams if one.open is not None]
    open_upstreams += [f"{one.upstream}, {one.text}" for one in open_slots]
    skipped: list[str] = []
    if timeline.blocking is Blocking.DEPENDENCIES or row.upstream_failure == UpstreamFailure.SKIP.value:
        skipped += [f"{pair.name} was skipped" for pair, one in upstreams if one.open is None and one.has_skipped]
        skipped += [f"{one.upstream}, {one.text}" for one in slots if one.stand is Stand.FAILED]
    again_at = None
    if open_slots:
        waited = (row.now - row.end_at).total_seconds()
        again_at = row.now + timedelta(seconds=min(AGAIN_SECONDS_MAX, max(AGAIN_SECONDS_MIN, waited * AGAIN_SHARE)))
    around = Around(
        open_children=next((one.open for one in children if one.open is not None), None),
        all_children_skipped=any(one.has_skipped for one in children)
        and not any(one.open is not None or one.has_others for one in children),
        open_upstreams=open_upstreams[0] if open_upstreams else None,
        skipped_upstreams=skipped[0] if skipped else None,
    )
    return around, again_at


def _wait(plan: _Plan, row: AnyRow, decision: Wait, again_at: datetime | None = None) -> None:
    until = decision.until if again_at is None else min(again_at, decision.until or again_at)
    covered = decision.covered_until or row.covered_until
    plan.moved.append(_move(row, decision.state, decision.reason, decision.text, due_at=until, covered=covered))


def _finish(plan: _Plan, row: AnyRow, timeline: Timeline | None, decision: Finish) -> None:
    move = _move(row, decision.state, decision.reason, decision.text, covered=row.covered_until) | {"finished": True}
    plan.moved.append(move)
    plan.finished.append((row, timeline))
    plan.told.append(
        {"job": row.job, "from_state": row.state, "to_state": decision.state.value, "text": _say(row, decision.text)}
    )


def _say(row: AnyRow, text: str) -> str:
    return f"period {row.name} of job {row.job}: {text}"


def _move(
    row: AnyRow,
    state: PeriodState,
    reason: PeriodReason,
    text: str,
    *,
    due_at: datetime | None = None,
    covered: datetime | None = None,
) -> dict[str, Any]:
    return {
        "id": row.id,
        "state": state.value,
        "reason": reason.value,
        "text": text,
        "due_at": due_at,
        "covered_until": covered,
        "made": 0,
        "finished": False,
    }


def _take_late_truth(plan: _Plan, row: AnyRow) -> None:
    """Let a period that was finished without its run be what that run has made of it since."""
    has_worked = row.run_state == RunState.SUCCEEDED.value
    is_no_op = row.run_state == RunState.SKIPPED.value and row.run_reason == Reason.NO_OP.value
    if row.state != PeriodState.SKIPPED.value or row.is_void or not (has_worked or is_no_op):
        plan.rested.append(row.id)
        return
    text = f"run {row.run_id} has succeeded since"
    plan.changed.append(JobSpan(row.job_id, row.start_at, row.end_at))
    if row.range_end_at is not None and row.range_end_at < row.end_at:  # a part of it: the rest is worked on
        plan.moved.append(_move(row, PeriodState.IN_PROGRESS, PeriodReason.OLDER, text, covered=row.covered_until))
        plan.again.add(row.id)
    elif has_worked or row.covered_until is not None:
        _finish(plan, row, None, Finish(PeriodState.PROCESSED, PeriodReason.DONE, text))
    else:
        text = f"run {row.run_id} has found nothing to do since"
        _finish(plan, row, None, Finish(PeriodState.NOOP, PeriodReason.NO_OP, text))


def _write(connection: Connection, plan: _Plan) -> _Following:
    if plan.work:
        run_ids = enqueue_runs(
            connection,
            [_new_run(row, work, timeline) for row, work, timeline in plan.work],
            [f"period-{row.id}-{row.round + 1}" for row, _, _ in plan.work],
        )
        for (row, work, _), run_id in zip(plan.work, run_ids, strict=True):
            text = f"run {run_id} was made: {work.text}"
            move = _move(row, work.state, PeriodReason.RUN, text, covered=work.covered_until)
            plan.moved.append(move | {"run_id": run_id, "made": 1})
    if plan.moved:
        ids = [one["id"] for one in plan.moved]
        connection.execute(MOVE_PERIODS, {"moved": encode_rows(plan.moved), "ids": ids})
    if plan.rested:
        connection.execute(REST, {"rested": encode_rows({"id": one} for one in plan.rested)})
    for span in plan.changed:
        reopen_above(connection, span.job_id, span.low, span.high)
    if plan.finished:
        tell_periods(connection, plan.told)
    built = let_go(connection, [JobSpan(row.job_id, row.start_at, row.end_at) for row, _ in plan.finished])
    turns = _read_turns(connection, plan.finished, {})
    # Those that had their turn already are told when what they wait for comes.
    new = {
        one
        for job_id, of_job in turns.items()
        for one, reason in of_job.items()
        if one not in plan.turns.get(job_id, {}) or reason == PeriodReason.LIMIT
    }
    return _Following(sorted(plan.again | built | new), turns)


def _new_run(row: AnyRow, work: Work, timeline: Timeline) -> NewRun:
    return NewRun(
        row.job,
        is_forced=True,  # what it builds on is looked at here
        requested_by=REQUESTED_BY,
        retries=_retries_of(row, timeline),
        period_id=row.id,
        part=PeriodPart(row.name, row.start_at, row.end_at, work.start, work.end),
    )


def _retries_of(row: AnyRow, timeline: Timeline) -> int | None:
    if timeline.give_up_failures is not None:
        return timeline.give_up_failures - 1
    return None if row.retries else FOR_EVER  # none is left behind, unless the job says how often
