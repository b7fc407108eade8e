"""The ledger of periods: one row for each period of each job that has some, from its first up to now.

Invariant: the rows of a job follow each other without a gap from its first period up to ``periods_until``. Whoever
writes any row of the ledger has the turn, which one transaction at a time has; so what was read of other rows in it
holds until its commit. Ends of runs write none: they are found, and taken note of, by whoever has the turn.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, bindparam, delete, exists, func, insert, literal, select, update

from rota.errors import Conflict, Invalid
from rota.model.durations import format_duration
from rota.model.instants import say_slot
from rota.model.job import JobSpec
from rota.model.period import Period, check_within
from rota.model.period_step import PeriodReason, PeriodState
from rota.model.timeline import Timeline, read_timeline
from rota.store.database import now_of
from rota.store.tables import dependency, job, period, run, schedule
from rota.store.turns import PERIODS, take_turn
from rota.store.types import AS_OF, FIRST, AnyRow, Instant, db_now, encode_rows, given_rows

_MICROSECOND = timedelta(microseconds=1)
EXTEND_MAX = 2000  # rows in one transaction
LEDGERS_MAX = 1000  # that end now, of which some may have rules that cannot be read


# Served by rota_job_periods.
FIND_ENDING_LEDGERS = (
    select(job.c.id, job.c.name, job.c.timeline, job.c.periods_until, AS_OF.label("now"))
    .where(job.c.periods_until <= AS_OF)
    .order_by(job.c.periods_until)
    .limit(bindparam("limit"))
)
# The jobs of the ledger that are named by id, with their rules.
READ_JOBS = select(job.c.id, job.c.name, job.c.timeline, job.c.periods_until).where(
    job.c.id.in_(bindparam("job_ids", expanding=True))
)
_new = given_rows("new", name="name", start_at="instant", end_at="instant")
ADD_PERIODS = insert(period).from_select(
    ["job_id", "name", "start_at", "end_at", "state", "reason", "reason_text", "round", "is_void", "updated_at"],
    select(
        bindparam("of_job", type_=period.c.job_id.type),
        _new.c.name,
        _new.c.start_at,
        _new.c.end_at,
        literal(PeriodState.OPEN.value),
        literal(PeriodReason.OLDER.value),
        literal("older periods of its job come first"),
        literal(0),
        literal(value=False, type_=period.c.is_void.type),
        db_now(),
    ).where(
        ~exists().where(
            period.c.job_id == bindparam("of_job", type_=period.c.job_id.type), period.c.start_at == _new.c.start_at
        )
    ),
)
SET_UNTIL = update(job).where(job.c.id == bindparam("of_job")).values(periods_until=bindparam("until", type_=Instant()))
# The oldest that are not finished. Served by rota_period_unfinished.
FIND_OLDEST = (
    select(period.c.id, period.c.reason)
    .where(period.c.job_id == bindparam("of_job"), period.c.unfinished_at > FIRST)
    .order_by(period.c.unfinished_at)
    .limit(bindparam("limit"))
)
_woken = given_rows("woken", id="id")
# At a moment that has come by whatever clock, and the oldest first.
WAKE = (
    update(period)
    .where(period.c.id == _woken.c.id, period.c.unfinished_at.is_not(None))
    .values(due_at=period.c.start_at)
)

_of_job = period.c.job_id == bindparam("of_job")
HAS_BEGUN = select(func.count()).where(_of_job, period.c.state != PeriodState.OPEN.value)
READ_NEWEST = select(period.c.start_at, period.c.end_at).where(_of_job).order_by(period.c.start_at.desc()).limit(1)
FORGET = delete(period).where(_of_job)
FORGET_BEFORE = FORGET.where(period.c.start_at < bindparam("start", type_=Instant()))
FIND_UNFINISHED_RUN = (
    select(run.c.id)
    .where(run.c.job_id == bindparam("of_job"), run.c.finished_at.is_(None), run.c.period_id.is_not(None))
    .order_by(run.c.id)
    .limit(1)
)
FIND_SCHEDULE = (
    select(schedule.c.name).where(schedule.c.job_id == bindparam("of_job")).order_by(schedule.c.name).limit(1)
)
_parent = job.alias("parent")
READ_PARENTS = (
    select(_parent.c.name, _parent.c.timeline)
    .join(dependency, dependency.c.job_id == _parent.c.id)
    .where(dependency.c.upstream_id == bindparam("of_job"), dependency.c.is_child)
)
READ_RULES = select(job.c.name, job.c.timeline).where(job.c.name.in_(bindparam("names", expanding=True)))


@dataclass(frozen=True, slots=True)
class Extended:
    """Periods that were added to the ledger of one job."""

    job_id: int
    start: datetime
    end: datetime
    is_full: bool  # there are more to add


def extend_ledgers(connection: Connection, as_of: datetime | None = None) -> Extended | None:
    """Add the periods of one job that have begun; None: all are there. In a transaction that has the turn."""
    for row in connection.execute(FIND_ENDING_LEDGERS, {"limit": LEDGERS_MAX, "as_of": as_of}).all():
        try:
            rule = read_timeline(row.timeline or "").rule
            found: list[Period] = []
            for one in rule.walk(row.periods_until, row.now + _MICROSECOND):
                found.append(one)
                if len(found) >= EXTEND_MAX:
                    break
            # Where its rules were changed by hand it may lie in the middle of one.
            start, end = row.periods_until, found[-1].end
        except Invalid:
            continue  # told where its periods are looked at; the others go on
        given = [{"name": one.name, "start_at": one.start, "end_at": one.end} for one in found if one.start >= start]
        connection.execute(ADD_PERIODS, {"of_job": row.id, "new": encode_rows(given)})
        connection.execute(SET_UNTIL, {"of_job": row.id, "until": end})
        return Extended(row.id, start, end, is_full=end <= row.now)
    return None


def wake_oldest(connection: Connection, job_ids: Iterable[int]) -> int:
    """Have the oldest unfinished periods of these jobs looked at: as many of each as may be worked on at once."""
    rows = connection.execute(READ_JOBS, {"job_ids": sorted(set(job_ids))}).all()
    woken = [one.id for row in rows for one in find_oldest(connection, row.id, at_once_of(row))]
    wake(connection, woken)
    return len(woken)


def find_oldest(connection: Connection, job_id: int, limit: int) -> Sequence[AnyRow]:
    """Return the ids and reasons of the oldest unfinished periods of a job: so many as are worked on at once."""
    return connection.execute(FIND_OLDEST, {"of_job": job_id, "limit": limit}).all()


def wake(connection: Connection, period_ids: Collection[int]) -> None:
    """Have these looked at."""
    if period_ids:
        connection.execute(WAKE, {"woken": encode_rows({"id": one} for one in sorted(period_ids))})


def timeline_of(row: AnyRow) -> Timeline | None:
    """Return the rules of a job; None: it has none, or they cannot be read."""
    try:
        return read_timeline(row.timeline) if row.timeline is not None else None
    except Invalid:
        return None


def at_once_of(row: AnyRow) -> int:
    """Return how many periods of a job are worked on at once."""
    timeline = timeline_of(row)
    return 1 if timeline is None else timeline.at_once


def settle_ledger(connection: Connection, job_id: int, name: str, old: JobSpec | None, new: JobSpec) -> None:
    """Bring the ledger of a job that is added or edited into line with it, in the transaction that writes it.

    Raises:
        Invalid: its first period has not begun; what it rolls up does not fit, or what rolls it up; it has schedules.
        Conflict: its periods were worked on under another rule.
    """
    before, after = None if old is None else old.timeline, new.timeline
    if before is None and after is None:
        return
    take_turn(connection, PERIODS)
    if after is not None:
        _check_children(connection, name, after)
    _check_parents(connection, job_id, name, after)
    if after is None:
        _check_idle(connection, job_id, name)
        _check_untouched(connection, job_id, name)
        connection.execute(FORGET, {"of_job": job_id})
        connection.execute(SET_UNTIL, {"of_job": job_id, "until": None})
        return
    if (key := connection.execute(FIND_SCHEDULE, {"of_job": job_id}).scalar()) is not None:
        rule = f"schedule {key} makes its runs: delete that first with `rota schedule delete {key}`"
        raise Invalid("period", after.rule.text, rule)
    if before is None or before.rule != after.rule:
        _begin(connection, job_id, name, after, was=before)
    elif before.start != after.start:
        _move_start(connection, job_id, name, after)
    wake_oldest(connection, [job_id])


def resume_ledger(connection: Connection, job_id: int) -> None:
    """Have the periods of a job looked at that waited since it was paused; it may have none."""
    if connection.execute(READ_JOBS, {"job_ids": [job_id]}).one().timeline is not None:
        take_turn(connection, PERIODS)
        wake_oldest(connection, [job_id])


def forget_ledger(connection: Connection, job_id: int) -> None:
    """Forget all periods of a job that is deleted."""
    take_turn(connection, PERIODS)
    connection.execute(FORGET, {"of_job": job_id})


def reset_ledger(connection: Connection, job_id: int, name: str, timeline: Timeline) -> int:
    """Forget all periods of a job, and begin with the first again; its runs stay. Return how many there were.

    Raises:
        Conflict: some of its runs are unfinished.
    """
    take_turn(connection, PERIODS)
    _check_idle(connection, job_id, name)
    forgotten = connection.execute(FORGET, {"of_job": job_id}).rowcount
    connection.execute(SET_UNTIL, {"of_job": job_id, "until": _first(connection, timeline).start})
    return forgotten


def _begin(connection: Connection, job_id: int, name: str, timeline: Timeline, *, was: Timeline | None) -> None:
    if was is None and _is_cut_so(connection, job_id, timeline):
        return  # what stood there could not be read; what was done for it holds
    _check_untouched(connection, job_id, name)
    connection.execute(FORGET, {"of_job": job_id})
    connection.execute(SET_UNTIL, {"of_job": job_id, "until": _first(connection, timeline).start})


def _check_untouched(connection: Connection, job_id: int, name: str) -> None:
    if count := connection.execute(HAS_BEGUN, {"of_job": job_id}).scalar_one():
        many = f"1 period of job {name} was" if count == 1 else f"{count} periods of job {name} were"
        raise Conflict(
            f"{many} worked on: with `rota job pause {name}` no more are, then `rota job reset {name}` forgets them"
        )


def _is_cut_so(connection: Connection, job_id: int, timeline: Timeline) -> bool:
    """Whether there are periods of a job, and its rule makes the newest of them."""
    newest = connection.execute(READ_NEWEST, {"of_job": job_id}).one_or_none()
    if newest is None:
        return False
    cut = timeline.rule.containing(newest.start_at)
    return (cut.start, cut.end) == (newest.start_at, newest.end_at)


def _move_start(connection: Connection, job_id: int, name: str, timeline: Timeline) -> None:
    first = _first(connection, timeline)
    _check_idle(connection, job_id, name)
    connection.execute(FORGET_BEFORE, {"of_job": job_id, "start": first.start})
    # What is there already is passed over when the ledger is made up to now again.
    connection.execute(SET_UNTIL, {"of_job": job_id, "until": first.start})


def _first(connection: Connection, timeline: Timeline) -> Period:
    now = now_of(connection)
    first = timeline.first_at(now)
    if first.start > now:
        rule = (
            f"its first period, {first.name}, begins in {format_duration(round((first.start - now).total_seconds()))}"
        )
        raise Invalid("period_start", say_slot(first.start), f"{rule}: choose one that has begun")
    return first


def _check_idle(connection: Connection, job_id: int, name: str) -> None:
    if (run_id := connection.execute(FIND_UNFINISHED_RUN, {"of_job": job_id}).scalar()) is not None:
        raise Conflict(
            f"run {run_id} works on a period of job {name}: wait for its end, or cancel it with "
            f"`rota run cancel {run_id}`"
        )


def _check_children(connection: Connection, name: str, timeline: Timeline) -> None:
    if not timeline.rolls_up:
        return
    found = {row.name: row for row in connection.execute(READ_RULES, {"names": list(timeline.rolls_up)})}
    for child in timeline.rolls_up:
        of_child = timeline_of(found[child])
        if of_child is None:
            raise Invalid("rolls_up", child, f"job {child} has no periods: give it some with `rota job edit --period`")
        _check_fits(of_child, timeline, child, name)


def _check_parents(connection: Connection, job_id: int, name: str, timeline: Timeline | None) -> None:
    for parent in connection.execute(READ_PARENTS, {"of_job": job_id}):
        if timeline is None:
            raise Invalid("period", None, f"job {parent.name} rolls up {name}: edit that first")
        if (of_parent := timeline_of(parent)) is not None:
            _check_fits(timeline, of_parent, name, parent.name)


def _check_fits(child: Timeline, parent: Timeline, child_name: str, parent_name: str) -> None:
    try:
        check_within(child.rule, parent.rule)
    except Invalid as error:
        rule = f"job {child_name} cannot be rolled up by {parent_name}: its period {child.rule.text} does not fit"
        raise Invalid("rolls_up", child_name, f"{rule}; {error.rule}") from None


def fits(inner: Timeline, outer: Timeline) -> bool:
    """Whether each period of ``inner`` is one of ``outer``, or lies within one."""
    if inner.rule == outer.rule:
        return True
    try:
        check_within(inner.rule, outer.rule)
    except Invalid:
        return False
    return True


_low, _high = bindparam("low", type_=Instant()), bindparam("high", type_=Instant())
_other = period.alias("other")
_first_overlapping = (
    select(_other.c.start_at)
    .where(_other.c.job_id == bindparam("of_job"), _other.c.start_at <= _low)
    .order_by(_other.c.start_at.desc())
    .limit(1)
    .scalar_subquery()
)
# The periods of a job with a moment in [low, high): the last that begins at or before low, and all that begin up to
# high. Served by rota_period_start.
FIND_OVERLAPPING = select(
    period.c.id,
    period.c.name,
    period.c.start_at,
    period.c.end_at,
    period.c.state,
    period.c.reason,
    period.c.unfinished_at,
).where(
    _of_job,
    period.c.start_at >= func.coalesce(_first_overlapping, _low),
    period.c.start_at < _high,
    period.c.end_at > _low,
)


def find_overlapping(connection: Connection, job_id: int, low: datetime, high: datetime) -> list[AnyRow]:
    """Return the periods of a job with a moment in [``low``, ``high``), oldest first."""
    rows = connection.execute(FIND_OVERLAPPING, {"of_job": job_id, "low": low, "high": high}).all()
    return sorted(rows, key=lambda row: row.start_at)  # few, and not in the order of any index for certain
