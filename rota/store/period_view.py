"""Showing periods: lists, trees with their counts, and the chain of what waits for what down to its first cause.

Nothing is written here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, and_, bindparam, desc, func, select

from rota.errors import Conflict, Invalid
from rota.model.dependencies import Stand
from rota.model.instants import format_instant, say_slot
from rota.model.period_step import PeriodReason, PeriodState
from rota.model.states import JobState
from rota.model.values import check_word
from rota.store.database import Database
from rota.store.events import read_events
from rota.store.period_actions import check_not_before, read_ledger
from rota.store.period_ledger import timeline_of
from rota.store.period_standing import READ_PAIRS, Span, builds_on, read_within
from rota.store.periods import as_run
from rota.store.tables import job, period, run
from rota.store.types import AnyRow, Instant
from rota.store.upstreams import read_standings

LIST_MAX = 1000
LIMIT_DEFAULT = 50
CAUSES_MAX = 50
HELD_MAX = 100
DEPTH_MAX = 20

_SHOWN = (
    period,
    job.c.name.label("job"),
    job.c.timeline,
    job.c.state.label("job_state"),
    run.c.state.label("run_state"),
    run.c.reason_text.label("run_text"),
)
_shown = select(*_SHOWN).join_from(period, job, job.c.id == period.c.job_id).outerjoin(run, run.c.id == period.c.run_id)
_of_job = period.c.job_id == bindparam("of_job")
READ_PERIOD = _shown.where(_of_job, period.c.start_at == bindparam("start", type_=Instant()))
READ_OLDEST = _shown.where(_of_job, period.c.unfinished_at.is_not(None)).order_by(period.c.unfinished_at).limit(1)
_OF_RUN = (run.c.id, run.c.job, run.c.period, run.c.period_end_at, run.c.state, run.c.retries_used, run.c.reason_text)
# Runs of periods that are tried on and on. Served by rota_run_open_period.
FIND_TRIED_ON = (
    select(*_OF_RUN)
    .where(
        run.c.open_period_id.is_not(None),
        run.c.finished_at.is_(None),
        run.c.retries_used >= bindparam("failures"),
    )
    .limit(HELD_MAX)
)
# Those that have failed for good: their periods are looked at now and then. Served by rota_period_due.
FIND_FAILED = (
    select(*_OF_RUN)
    .join_from(period, run, run.c.id == period.c.run_id)
    .where(
        period.c.due_at.is_not(None),
        period.c.reason == PeriodReason.FAILED.value,
        period.c.unfinished_at.is_not(None),
    )
    .limit(HELD_MAX)
)
COUNT_STATES = (
    select(period.c.job_id, period.c.state, func.count().label("periods"))
    .where(period.c.job_id.in_(bindparam("job_ids", expanding=True)))
    .group_by(period.c.job_id, period.c.state)
)
READ_JOBS = select(job.c.id, job.c.name, job.c.timeline, job.c.periods_until).where(
    job.c.id.in_(bindparam("job_ids", expanding=True))
)


def list_periods(
    database: Database,
    name: str,
    *,
    states: Sequence[PeriodState] = (),
    first: str | None = None,
    last: str | None = None,
    before: str | None = None,
    limit: int = LIMIT_DEFAULT,
) -> list[dict[str, Any]]:
    """Return up to ``limit`` periods of a job, the latest of those asked for, oldest first.

    Raises:
        NotFound: there is no such job.
        Invalid: it has no periods, or none of that name.
    """

    def read(connection: Connection) -> list[dict[str, Any]]:
        row, timeline = read_ledger(connection, name)
        wanted = [_of_job]
        begins = None if first is None else timeline.rule.parse_span(first, field="from")[0]
        ends = None if last is None else timeline.rule.parse_span(last, field="to")[1]
        if begins is not None and ends is not None and ends.start < begins.start:
            raise Invalid("to", last, f"it lies before {begins.name}: write the earlier one first")
        if begins is not None:
            wanted.append(period.c.start_at >= begins.start)
        if ends is not None:
            wanted.append(period.c.start_at <= ends.start)
        if before is not None:
            wanted.append(period.c.start_at < timeline.rule.parse_span(before, field="before")[0].start)
        if states:
            wanted.append(period.c.state.in_([state.value for state in states]))
        statement = _shown.where(and_(*wanted)).order_by(desc(period.c.start_at)).limit(limit)
        return [show_period(one) for one in connection.execute(statement, {"of_job": row.id})][::-1]

    return database.read(read)


def read_period(database: Database, name: str, wanted: object) -> dict[str, Any] | None:
    """Return one period of a job; None: it has not begun, or nobody has looked at it yet.

    Raises:
        NotFound: there is no such job.
        Invalid: it has no periods, or none of that name; or that lies before the first.
    """

    def read(connection: Connection) -> dict[str, Any] | None:
        row, timeline = read_ledger(connection, name)
        one = timeline.rule.parse(wanted)
        check_not_before(connection, row, timeline, one)
        found = connection.execute(READ_PERIOD, {"of_job": row.id, "start": one.start}).one_or_none()
        return None if found is None else show_period(found)

    return database.read(read)


def show_period(row: AnyRow) -> dict[str, Any]:
    """Show a period with the words of the doors."""
    return {
        "period": row.name,
        "job": row.job,
        "start": format_instant(row.start_at),
        "end": format_instant(row.end_at),
        "state": row.state,
        "reason": row.reason,
        "reason_text": _say_run(row) or row.reason_text,
        "run": row.run_id,
        "run_state": row.run_state,
        "runs": row.round,
        "asked_by": row.asked_by,
        "updated_at": format_instant(row.updated_at),
        "finished_at": None if row.finished_at is None else format_instant(row.finished_at),
    }


def find_held_periods(connection: Connection, failures: int) -> list[AnyRow]:
    """Return the runs that have failed so often, or for good, and whose periods hold the later ones."""
    tried_on = connection.execute(FIND_TRIED_ON, {"failures": failures}).all()
    return [*tried_on, *connection.execute(FIND_FAILED).all()]


def read_tree(database: Database, name: str) -> dict[str, Any]:
    """Return the tree of a job: counts by state and the oldest unfinished period, of it and of what it rolls up.

    ``after`` lists what each runs after. ``because`` is the chain from its oldest unfinished period down to the cause.

    Raises:
        NotFound: there is no such job.
        Invalid: it has no periods.
    """

    def read(connection: Connection) -> dict[str, Any]:
        row, _ = read_ledger(connection, name)
        return _read_branch(connection, row, {}) | {"because": explain_ledger(connection, row.id)}

    return database.read(read)


def _read_branch(connection: Connection, row: AnyRow, read: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Return a job with all that it rolls up. ``read`` has those that were read, and grows: several may roll up one."""
    pairs = connection.execute(READ_PAIRS, {"job_ids": [row.id]}).all()
    counts = {one.state: one.periods for one in connection.execute(COUNT_STATES, {"job_ids": [row.id]})}
    oldest = connection.execute(READ_OLDEST, {"of_job": row.id}).one_or_none()
    timeline = timeline_of(row)
    children = [pair.upstream_id for pair in pairs if pair.is_child]
    new = [one for one in children if one not in read]
    found = {one.id: one for one in connection.execute(READ_JOBS, {"job_ids": new})} if new else {}
    branch: dict[str, Any] = {
        "job": row.name,
        "period": None if timeline is None else timeline.rule.text,
        "counts": {state.value: counts[state.value] for state in PeriodState if state.value in counts},
        "oldest_unfinished": None if oldest is None else show_period(oldest),
        "after": [pair.name for pair in pairs if not pair.is_child and pair.name is not None],
    }
    read[row.id] = branch | {"children": []}  # whoever made a circle by hand comes to its end
    for one in found.values():
        read[one.id] = _read_branch(connection, one, read)
    read[row.id] = branch | {"children": [read[one] for one in children if one in read]}
    return read[row.id]


def why_period(database: Database, name: str, wanted: str) -> dict[str, Any]:
    """Explain the state of a period, down to the first cause of what it waits for.

    Raises:
        NotFound: there is no such job.
        Invalid: it has no periods, or none of that name, or that lies before the first.
        Conflict: that period has not begun.
    """

    def explain(connection: Connection) -> dict[str, Any]:
        row, timeline = read_ledger(connection, name)
        one = timeline.rule.parse(wanted)
        check_not_before(connection, row, timeline, one)
        found = connection.execute(READ_PERIOD, {"of_job": row.id, "start": one.start}).one_or_none()
        if found is None:
            raise Conflict(f"period {one.name} of job {name} has not begun: it does at {say_slot(one.start)}")
        return {
            "subject": f"period {found.name} of job {name}",
            "state": found.state,
            "because": find_causes(connection, found),
            "events": [
                one for one in read_events(connection, "period", name, limit=50) if found.name in (one["text"] or "")
            ],
        }

    return database.read(explain)


def explain_ledger(connection: Connection, job_id: int) -> list[str]:
    """Say what the oldest unfinished period of a job waits for, down to the first cause; nothing when there is none."""
    oldest = connection.execute(READ_OLDEST, {"of_job": job_id}).one_or_none()
    return [] if oldest is None else find_causes(connection, oldest)


def find_causes(connection: Connection, row: AnyRow) -> list[str]:
    """Say why a period is in its state; of one that waits, what for, and why that is not finished, and so on."""
    said: list[str] = []
    seen: set[int] = set()
    nexts = [row]
    while nexts and len(said) < CAUSES_MAX:
        one = nexts.pop(0)
        if one.id in seen:
            continue
        seen.add(one.id)
        more = f"; `rota why run {one.run_id}` tells more" if _say_run(one) is not None else ""
        if one.job_state == JobState.PAUSED.value and one.reason != PeriodReason.PAUSED.value:
            more += "; its job is paused"
        said.append(f"{one.job} {one.name} is {one.state}: {_say_run(one) or one.reason_text}{more}")
        if one.unfinished_at is None or one.reason == PeriodReason.RUN.value:
            continue
        if one.reason == PeriodReason.OLDER.value:
            older = connection.execute(READ_OLDEST, {"of_job": one.job_id}).one_or_none()
            nexts += [older] if older is not None else []
            continue
        beneath, other = _find_open(connection, one)
        said += other
        nexts += beneath
    return said[:CAUSES_MAX]


def _say_run(row: AnyRow) -> str | None:
    # What the ledger says of a run is as of the last look; how that stands now is in the run.
    if row.reason == PeriodReason.RUN.value and row.run_state is not None:
        return f"run {row.run_id} is {row.run_state}: {row.run_text}"
    return None


def _find_open(connection: Connection, row: AnyRow) -> tuple[list[AnyRow], list[str]]:
    """Return the oldest unfinished periods that one waits for, and what else it waits for, in words."""
    timeline = timeline_of(row)
    if timeline is None:
        return [], []
    pairs = connection.execute(READ_PAIRS, {"job_ids": [row.job_id]}).all()
    inner = [pair for pair in pairs if builds_on(pair, timeline)]
    found: list[AnyRow] = []
    said: list[str] = []
    for pair in inner:
        within = read_within(connection, Span(pair, row.start_at, row.end_at))
        if within.first_at is not None:
            at = {"of_job": pair.upstream_id, "start": within.first_at}
            found += connection.execute(READ_PERIOD, at).all()
        elif within.open is not None:
            said.append(f"it waits for {within.open}")
    if any(not pair.is_child and pair.timeline is None for pair in pairs):
        standings = read_standings(connection, [as_run(row)], with_periods=False)[row.id]
        said += [f"it waits for {one.upstream}, {one.text}" for one in standings if one.stand is not Stand.DONE]
    return found, said


def check_states(values: Sequence[str]) -> list[PeriodState]:
    """Return the states that these words name.

    Raises:
        Invalid: one is none.
    """
    return [check_word("state", value, PeriodState) for value in values]
