"""How periods stand that others build on: those within a period, and those that a slot comes after.

Each is asked for by itself, in one statement or two: few are looked at at once. Nothing is written here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Select, bindparam, select

from rota.errors import Invalid
from rota.model.dependencies import Stand, Standing
from rota.model.period_step import DONE_PERIODS, PeriodState
from rota.model.timeline import Timeline
from rota.store.period_ledger import fits, timeline_of
from rota.store.tables import dependency, job, period
from rota.store.types import AnyRow, Instant

_of_job = bindparam("of_job", type_=period.c.job_id.type)
_low, _high = bindparam("low", type_=Instant()), bindparam("high", type_=Instant())


def _within(column: Column[datetime], *where: ColumnElement[bool]) -> Select[Any]:
    in_span = (period.c.job_id == _of_job, column >= _low, column < _high)
    return select(column).where(*in_span, *where).limit(1)


def _unfinished(shown: Column[Any]) -> Select[Any]:
    return _within(period.c.unfinished_at).with_only_columns(shown).order_by(period.c.unfinished_at)


_is_skipped = period.c.state == PeriodState.SKIPPED.value
# Where the first unfinished period within a span begins, one that was skipped, and one that was not. One span at a
# time: MariaDB finds the place in an index only by values that it is given. Served by rota_period_unfinished and
# rota_period_start.
READ_WITHIN = select(
    _unfinished(period.c.unfinished_at).scalar_subquery().label("first_at"),
    _unfinished(period.c.name).scalar_subquery().label("first"),
    _within(period.c.start_at, _is_skipped).scalar_subquery().label("skipped_at"),
    _within(period.c.start_at, ~_is_skipped).scalar_subquery().label("other_at"),
)
_upstream = job.alias("upstream")
# What these jobs build on: their upstreams, and what they roll up.
READ_PAIRS = (
    select(
        dependency.c.job_id,
        dependency.c.upstream_id,
        dependency.c.is_child,
        _upstream.c.name,
        _upstream.c.timeline,
        _upstream.c.periods_until,
    )
    .outerjoin(_upstream, _upstream.c.id == dependency.c.upstream_id)  # one that is gone is waited for
    .where(dependency.c.job_id.in_(bindparam("job_ids", expanding=True)))
    .order_by(_upstream.c.name)
)
_at = bindparam("at", type_=Instant())
# The last period of a job that has ended at or before a moment. Served by rota_period_start.
READ_ENDED = (
    select(period.c.name, period.c.state, period.c.reason_text, period.c.run_id)
    .where(period.c.job_id == _of_job, period.c.start_at < _at, period.c.end_at <= _at)
    .order_by(period.c.start_at.desc())
    .limit(1)
)


@dataclass(frozen=True, slots=True)
class Span:
    """The time of one period, and the job whose periods within it are asked for."""

    of_job: AnyRow  # with upstream_id, name, periods_until
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Within:
    """How the periods of one job within a span stand."""

    open: str | None  # the oldest that is not finished, in words; None: there is none
    has_skipped: bool
    has_others: bool  # that were not skipped, finished or not
    first_at: datetime | None = None  # where the oldest that is not finished begins; None: there is none, or not yet


def builds_on(pair: AnyRow, timeline: Timeline) -> bool:
    """Whether periods of a job build on those of another one, or wait since nobody can tell.

    A job builds on all that it rolls up, and on what it runs after where its periods fit.
    """
    if pair.timeline is None:
        return bool(pair.is_child)
    of_pair = timeline_of(pair)
    return of_pair is None or fits(of_pair, timeline)


def read_within(connection: Connection, span: Span) -> Within:
    """Return how the periods of a job within a span stand. Those that have not begun are not finished."""
    if timeline_of(span.of_job) is None:
        return Within(_say_unknown(span.of_job), has_skipped=False, has_others=True)
    of_job = {"of_job": span.of_job.upstream_id}
    row = connection.execute(READ_WITHIN, of_job | {"low": span.start, "high": span.end}).one()
    return Within(_say_open(span, row.first), row.skipped_at is not None, row.other_at is not None, row.first_at)


def _say_unknown(of_job: AnyRow) -> str:
    if of_job.name is None:
        return f"job {of_job.upstream_id}, which does not exist any more"
    return f"{of_job.name}, " + ("which has no periods" if of_job.timeline is None else "whose rules cannot be read")


def _say_open(span: Span, first: str | None) -> str | None:
    if first is not None:
        # Not how that stands: it changes without this sentence, and `rota why period` follows the chain.
        return f"{span.of_job.name} {first}"
    until = span.of_job.periods_until
    if until is not None and until < span.end:
        return f"{span.of_job.name}, whose period from {until:%Y-%m-%d %H:%M} UTC on has not begun"
    return None


def read_stand_of_slot(connection: Connection, upstream: AnyRow, moment: datetime) -> Standing:
    """Return how an upstream with periods stands for a moment: the last period that has ended then decides.

    The row has ``name``, ``upstream_id``, ``timeline`` and ``periods_until``.
    """
    ended = connection.execute(READ_ENDED, {"of_job": upstream.upstream_id, "at": moment}).one_or_none()
    return _stand(upstream, moment, ended)


def _stand(upstream: AnyRow, moment: datetime, row: AnyRow | None) -> Standing:
    name, timeline = upstream.name, timeline_of(upstream)
    if timeline is None:
        return Standing(name, Stand.AHEAD, "the rules of whose periods cannot be read")
    try:
        is_behind = timeline.rule.containing(upstream.periods_until).end <= moment
    except Invalid:
        is_behind = False
    if is_behind:
        return Standing(
            name, Stand.AHEAD, f"whose ledger of periods ends at {upstream.periods_until:%Y-%m-%d %H:%M} UTC"
        )
    if row is None:
        return Standing(name, Stand.DONE, "of which no period had ended then")
    if row.state in DONE_PERIODS:
        stand = Stand.DONE
    else:
        stand = Stand.FAILED if row.state == PeriodState.SKIPPED.value else Stand.AHEAD
    return Standing(name, stand, f"whose period {row.name} is {row.state}: {row.reason_text}", row.run_id)
