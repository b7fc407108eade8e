"""Doing periods again, and doing without them: with all that is built on them, in one transaction.

Invariant: what is taken back is taken back with everything that is built on it, so that no finished period builds on
one that is not. What works on it then is withdrawn or told to stop, and nothing is made for it before that has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, and_, bindparam, null, select, update

from rota import crash
from rota.errors import AlreadyFinished, Conflict, Invalid, NotFound
from rota.model.backfill import Wish
from rota.model.instants import say_slot
from rota.model.period import Period
from rota.model.period_step import UNFINISHED_PERIODS, PeriodReason, PeriodState
from rota.model.slot_rule import CatchUpOrder
from rota.model.timeline import Timeline
from rota.store.audit import Act, note_acts
from rota.store.database import Database
from rota.store.events import tell_periods
from rota.store.interventions import cancel_within
from rota.store.moves import write_fresh
from rota.store.period_graph import JobSpan, find_beneath, find_built, find_relying, join_spans, wake_builders
from rota.store.period_ledger import find_overlapping, timeline_of, wake_oldest
from rota.store.period_standing import READ_PAIRS, Span, read_within
from rota.store.shown import check_range
from rota.store.tables import job, period, run
from rota.store.turns import PERIODS, take_turn
from rota.store.types import AnyRow, db_now, encode_rows, given_rows
from rota.store.wakeup import announce

NAMED_MAX = 20
_MICROSECOND = timedelta(microseconds=1)
ALL_OF_THEM = Wish(again=True)
# As of slots: what failed, and what was done without for something else that was.
_FAILED = frozenset(
    {PeriodReason.FAILED, PeriodReason.GIVEN_UP, PeriodReason.CHILDREN_SKIPPED, PeriodReason.UPSTREAM_SKIPPED}
)
_BEGUN = frozenset(PeriodState) - {PeriodState.OPEN}
_UNFINISHED = [state.value for state in UNFINISHED_PERIODS]

READ_JOB = select(job.c.id, job.c.name, job.c.timeline, job.c.periods_until).where(job.c.name == bindparam("name"))
READ_NAMES = select(job.c.id, job.c.name).where(job.c.id.in_(bindparam("job_ids", expanding=True)))
_chosen = given_rows("chosen", id="id")
# The run is kept, and void: nothing is made for the period before it has ended. Served by the primary key.
TAKE_BACK = (
    update(period)
    .where(period.c.id == _chosen.c.id, period.c.state != PeriodState.OPEN.value)
    .values(
        state=PeriodState.OPEN.value,
        reason=PeriodReason.REPROCESS.value,
        reason_text=bindparam("text"),
        due_at=null(),
        covered_until=null(),
        is_void=period.c.run_id.is_not(None),
        asked_by=bindparam("actor"),
        updated_at=db_now(),
        finished_at=null(),
    )
)
SKIP = (
    update(period)
    .where(period.c.id == _chosen.c.id, period.c.state.in_(_UNFINISHED))
    .values(
        state=PeriodState.SKIPPED.value,
        reason=PeriodReason.SKIP.value,
        reason_text=bindparam("text"),
        due_at=null(),
        is_void=period.c.run_id.is_not(None),
        asked_by=bindparam("actor"),
        updated_at=db_now(),
        finished_at=db_now(),
    )
)
FIND_RUNS = (
    select(run.c.id)
    .select_from(_chosen)
    .join(period, period.c.id == _chosen.c.id)
    .join(run, and_(run.c.id == period.c.run_id, run.c.finished_at.is_(None)))
    .order_by(run.c.id)
)


def reprocess_periods(
    database: Database,
    name: str,
    first: object,
    last: object = None,
    *,
    wish: Wish = ALL_OF_THEM,
    actor: str,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Take periods of a job back, from one to another, and all that is built on them; say which they are.

    With ``dry_run`` nothing is changed. What has not been worked on stays as it is.

    Raises:
        NotFound: there is no such job.
        Invalid: it has no periods, or none of that name, or the range is the wrong way round.
        Conflict: that period has not begun.
    """
    return _reprocess(database, lambda c: _read_span(c, name, first, last), wish, actor=actor, dry_run=dry_run)


def backfill_periods(
    database: Database, name: str, start: datetime, end: datetime, wish: Wish, *, actor: str, dry_run: bool = False
) -> dict[str, Any]:
    """Take back the periods of a job that begin at or after ``start`` and before ``end``, as ``reprocess_periods``.

    Raises:
        NotFound: there is no such job.
        Invalid: it has no periods, none begins then, or one lies before the first; something is wished for that they
            do not have.
        Conflict: one of them has not begun.
    """
    if wish.order is not CatchUpOrder.OLDEST:
        raise Invalid("order", wish.order.value, f"job {name} has periods, which are done oldest first: leave it out")
    if wish.max_active != 1:
        rule = f"job {name} has periods: `rota job edit {name} --periods-at-once N` says how many of them at once"
        raise Invalid("max_active", wish.max_active, rule)
    return _reprocess(database, lambda c: _read_range(c, name, start, end), wish, actor=actor, dry_run=dry_run)


def _reprocess(
    database: Database, read_span: Callable[[Connection], JobSpan], wish: Wish, *, actor: str, dry_run: bool
) -> dict[str, Any]:
    def reprocess(connection: Connection) -> dict[str, Any]:
        take_turn(connection, PERIODS)
        span = read_span(connection)
        spans = find_built(connection, _wished(connection, span, wish))
        chosen = _choose(spans, lambda row: row.state != PeriodState.OPEN.value)
        if not dry_run:
            text = f"{actor} asked for it again"
            _act(connection, TAKE_BACK, chosen, text, actor)
            crash.at("reprocess.written")
        return _say(connection, span, chosen) | {"notes": _find_empty(connection, span, chosen)}

    return write_fresh(database, reprocess)


def skip_periods(
    database: Database, name: str, first: object, last: object = None, *, actor: str, dry_run: bool = False
) -> dict[str, Any]:
    """Do without periods of a job, from one to another, what lies within them, and what runs after these.

    Of what runs after them, all that lies within their time. With ``dry_run`` nothing is changed. What is finished
    stays as it is.

    Raises:
        NotFound: there is no such job.
        Invalid: it has no periods, or none of that name, or the range is the wrong way round.
        Conflict: that period has not begun.
    """

    def skip(connection: Connection) -> dict[str, Any]:
        take_turn(connection, PERIODS)
        span = _read_span(connection, name, first, last)
        spans = find_beneath(connection, [span])
        chosen = _choose(spans, lambda row: row.state in _UNFINISHED)
        if not dry_run:
            _act(connection, SKIP, chosen, f"{actor} said to do without it", actor)
            crash.at("skip_periods.written")
        return _say(connection, span, chosen)

    return write_fresh(database, skip)


def _wished(connection: Connection, span: JobSpan, wish: Wish) -> list[JobSpan]:
    """Return the stretches of a span in which all periods are wished for."""
    if wish.again:
        return [span]
    rows = find_overlapping(connection, span.job_id, span.low, span.high)
    return join_spans(
        JobSpan(span.job_id, row.start_at, row.end_at)
        for row in rows
        if row.reason in _FAILED or (row.state == PeriodState.SKIPPED.value and not wish.failed_only)
    )


def reopen_above(connection: Connection, job_id: int, low: datetime, high: datetime) -> None:
    """Take back what was begun relying on periods of a job that are not finished, or not as they were.

    That is what is finished, and what is worked on after it has waited for these. In a transaction that has the turn.
    """
    built = find_built(connection, [JobSpan(job_id, low, high)])
    relies = find_relying(connection, {span.job_id for span in built})
    spans = {span: rows for span, rows in built.items() if span.job_id != job_id}
    chosen: dict[int, list[AnyRow]] = {}
    for of_job in {span.job_id for span in spans}:
        of_this = {span: rows for span, rows in spans.items() if span.job_id == of_job}
        begun = _BEGUN if of_job in relies else _BEGUN - {PeriodState.IN_PROGRESS}
        chosen |= _choose(of_this, lambda row, begun=begun: row.state in begun)
    _act(connection, TAKE_BACK, chosen, "what it builds on is not finished any more", None)


def _choose(spans: Mapping[JobSpan, Sequence[AnyRow]], is_chosen: Callable[[AnyRow], bool]) -> dict[int, list[AnyRow]]:
    found: dict[int, dict[int, AnyRow]] = {}
    for span, rows in spans.items():
        found.setdefault(span.job_id, {}).update({row.id: row for row in rows if is_chosen(row)})
    return {job_id: list(rows.values()) for job_id, rows in found.items() if rows}


def _act(
    connection: Connection, statement: Any, chosen: Mapping[int, Sequence[AnyRow]], text: str, actor: str | None
) -> None:
    rows = [row for of_job in chosen.values() for row in of_job]
    if not rows:
        return
    given = encode_rows({"id": row.id} for row in rows)
    running = connection.execute(FIND_RUNS, {"chosen": given}).scalars().all()
    by = actor[:200] if actor else None
    connection.execute(statement, {"chosen": given, "text": text, "actor": by})
    for run_id in running:
        try:
            cancel_within(connection, run_id, actor=actor or "periods")
        except AlreadyFinished:
            continue
    names = _names_of(connection, chosen)
    state = PeriodState.SKIPPED if statement is SKIP else PeriodState.OPEN
    told = {job_id: _tell(names.get(job_id, str(job_id)), rows, text) for job_id, rows in chosen.items()}
    tell_periods(
        connection,
        [
            {"job": names.get(job_id), "to_state": state.value, "text": said, "actor": by}
            for job_id, said in told.items()
        ],
    )
    acts = [Act("period", names.get(job_id, str(job_id)), state.value, said) for job_id, said in told.items()]
    note_acts(connection, actor, acts)
    wake_builders(connection, [_span_of(job_id, rows) for job_id, rows in chosen.items()])
    wake_oldest(connection, chosen)
    announce(connection)


def _span_of(job_id: int, rows: Sequence[AnyRow]) -> JobSpan:
    return JobSpan(job_id, min(row.start_at for row in rows), max(row.end_at for row in rows))


def _tell(name: str, rows: Sequence[AnyRow], text: str) -> str:
    names = ", ".join(row.name for row in sorted(rows, key=lambda row: row.start_at)[:NAMED_MAX])
    more = f" and {len(rows) - NAMED_MAX} more" if len(rows) > NAMED_MAX else ""
    return f"period{'s' if len(rows) > 1 else ''} {names}{more} of job {name}: {text}"


def _names_of(connection: Connection, chosen: Collection[int]) -> dict[int, str]:
    return {row.id: row.name for row in connection.execute(READ_NAMES, {"job_ids": sorted(chosen)})} if chosen else {}


def _find_empty(connection: Connection, span: JobSpan, chosen: Mapping[int, Sequence[AnyRow]]) -> list[str]:
    """Say which of a job's own periods would be skipped again at once, since all within them was."""
    pairs = [pair for pair in connection.execute(READ_PAIRS, {"job_ids": [span.job_id]}) if pair.is_child]
    empty: dict[str, list[str]] = {}
    for row in chosen.get(span.job_id, ())[:NAMED_MAX] if pairs else ():
        within = [read_within(connection, Span(pair, row.start_at, row.end_at)) for pair in pairs]
        if any(one.has_skipped for one in within) and not any(one.open or one.has_others for one in within):
            empty.setdefault(", ".join(pair.name for pair in pairs), []).append(row.name)
    return [
        f"all within {', '.join(names)} was skipped, and it is skipped again unless {children} is done again"
        for children, names in empty.items()
    ]


def _say(connection: Connection, span: JobSpan, chosen: Mapping[int, Sequence[AnyRow]]) -> dict[str, Any]:
    names = _names_of(connection, chosen)
    own_first = sorted(chosen, key=lambda job_id: (job_id != span.job_id, names.get(job_id, "")))
    return {
        "count": sum(len(rows) for rows in chosen.values()),
        "jobs": [
            {
                "job": names.get(job_id, str(job_id)),
                "count": len(chosen[job_id]),
                "periods": [row.name for row in sorted(chosen[job_id], key=lambda row: row.start_at)[:NAMED_MAX]],
            }
            for job_id in own_first
        ],
    }


def read_ledger(connection: Connection, name: str) -> tuple[AnyRow, Timeline]:
    """Return a job that has periods, and its rules.

    Raises:
        NotFound: there is no such job.
        Invalid: it has no periods, or its rules cannot be read.
    """
    row = connection.execute(READ_JOB, {"name": name}).one_or_none()
    if row is None:
        raise NotFound("job", name)
    timeline = timeline_of(row)
    if timeline is None:
        raise Invalid("job", name, "it has no periods: give it some with `rota job edit --period`")
    return row, timeline


def _read_span(connection: Connection, name: str, first: object, last: object) -> JobSpan:
    row, timeline = read_ledger(connection, name)
    low, high = timeline.rule.parse_span(first)
    is_longer = low != high  # a day of hours, of which the first may have begun within
    if last is not None:
        high = timeline.rule.parse_span(last, field="to")[1]
    if high.start < low.start:
        raise Invalid("to", last, f"it lies before {low.name}: write the earlier one first")
    return _check_span(connection, row, timeline, low, high, clip=is_longer)


def _check_span(
    connection: Connection, row: AnyRow, timeline: Timeline, low: Period, high: Period, *, clip: bool
) -> JobSpan:
    begun = _begun_at(connection, row)
    if clip and begun is not None and low.start < begun <= high.start:
        low = timeline.rule.containing(begun)
    check_not_before(connection, row, timeline, low)
    if row.periods_until is None or high.start >= row.periods_until:
        raise Conflict(f"period {high.name} of job {row.name} has not begun")
    return JobSpan(row.id, low.start, high.end)


def _read_range(connection: Connection, name: str, start: datetime, end: datetime) -> JobSpan:
    row, timeline = read_ledger(connection, name)
    check_range(start, end)
    first = timeline.rule.containing(start)
    if first.start < start:
        first = timeline.rule.next(first)
    last = timeline.rule.containing(end - _MICROSECOND)
    if first.start >= end:
        rule = f"no period of job {name} begins from {say_slot(start)} up to it: {last.name} goes on then"
        raise Invalid("to", say_slot(end), rule)
    return _check_span(connection, row, timeline, first, last, clip=True)


def check_not_before(connection: Connection, row: AnyRow, timeline: Timeline, wanted: Period) -> None:
    """Check that a period of a job does not lie before its first.

    Raises:
        Invalid: it does.
    """
    begun = _begun_at(connection, row)
    if begun is not None and wanted.start < begun:
        first_name = timeline.rule.containing(begun).name
        raise Invalid("period", wanted.name, f"the periods of job {row.name} begin with {first_name}")


def _begun_at(connection: Connection, row: AnyRow) -> datetime | None:
    first = connection.execute(READ_FIRST, {"of_job": row.id}).scalar()
    return row.periods_until if first is None else first  # no node has looked at them yet


READ_FIRST = (
    select(period.c.start_at).where(period.c.job_id == bindparam("of_job")).order_by(period.c.start_at).limit(1)
)
