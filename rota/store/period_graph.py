"""Which periods are built on which: finding them, and having them looked at.

A job builds on what it rolls up and on what it runs after. Its period builds on those of them within it, where the
rules fit; where they do not, it builds on none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, bindparam, select

from rota.model.timeline import Blocking
from rota.store.dependants import wake_slots_after
from rota.store.period_ledger import find_overlapping, fits, timeline_of, wake, wake_oldest
from rota.store.tables import dependency, job
from rota.store.types import AnyRow

_upstream = job.alias("upstream")
_PAIR = (
    dependency.c.job_id,
    dependency.c.upstream_id,
    dependency.c.is_child,
    job.c.timeline,
    _upstream.c.timeline.label("upstream_timeline"),
)
_pairs = (
    select(*_PAIR)
    .join(job, job.c.id == dependency.c.job_id)
    .join(_upstream, _upstream.c.id == dependency.c.upstream_id)
    .order_by(dependency.c.job_id, dependency.c.upstream_id)
)
# The jobs that build on these. Served by rota_dependency_upstream.
FIND_BUILDERS = _pairs.where(dependency.c.upstream_id.in_(bindparam("job_ids", expanding=True)))
# What these roll up. Served by the primary key.
FIND_CHILDREN = _pairs.where(dependency.c.job_id.in_(bindparam("job_ids", expanding=True)), dependency.c.is_child)


@dataclass(frozen=True, slots=True, order=True)
class JobSpan:
    """A stretch of the time of one job."""

    job_id: int
    low: datetime
    high: datetime


def find_built(connection: Connection, begun: Collection[JobSpan]) -> dict[JobSpan, list[AnyRow]]:
    """Return these spans, and those of all that is built on them, with the periods of each; over and over."""
    return _spread(connection, begun, _spans_above)


def find_beneath(connection: Connection, begun: Collection[JobSpan]) -> dict[JobSpan, list[AnyRow]]:
    """Return these spans, those of what lies within, and of what runs after these in their time, with the periods."""
    return _spread(connection, begun, _spans_beneath)


def _spread(
    connection: Connection,
    begun: Collection[JobSpan],
    step: Callable[[Connection, Collection[JobSpan]], list[JobSpan]],
) -> dict[JobSpan, list[AnyRow]]:
    found: dict[JobSpan, list[AnyRow]] = {}
    nexts: list[JobSpan] = sorted(begun)
    while nexts:
        grown: set[JobSpan] = set()
        for span in nexts:
            found[span] = find_overlapping(connection, span.job_id, span.low, span.high)
            if found[span]:
                low, high = min(row.start_at for row in found[span]), max(row.end_at for row in found[span])
                grown.add(JobSpan(span.job_id, low, high))
        nexts = sorted(set(step(connection, grown)) - found.keys())
    return found


def _spans_above(connection: Connection, spans: Collection[JobSpan]) -> list[JobSpan]:
    pairs = _read(connection, FIND_BUILDERS, spans)
    return [
        JobSpan(pair.job_id, span.low, span.high)
        for span in spans
        for pair in pairs
        if pair.upstream_id == span.job_id and _is_built(pair)
    ]


def _spans_beneath(connection: Connection, spans: Collection[JobSpan]) -> list[JobSpan]:
    children = _read(connection, FIND_CHILDREN, spans)
    after = [pair for pair in _read(connection, FIND_BUILDERS, spans) if not pair.is_child]
    found = [
        JobSpan(pair.upstream_id, span.low, span.high)
        for span in spans
        for pair in children
        if pair.job_id == span.job_id
    ]
    for span in spans:
        for pair in after:
            if pair.upstream_id == span.job_id and _is_built(pair):
                # Only what builds on nothing else of it than what is skipped.
                rows = find_overlapping(connection, pair.job_id, span.low, span.high)
                whole = (row for row in rows if span.low <= row.start_at and row.end_at <= span.high)
                found += join_spans(JobSpan(pair.job_id, row.start_at, row.end_at) for row in whole)
    return found


def find_relying(connection: Connection, job_ids: Collection[int]) -> set[int]:
    """Return those of the jobs whose periods are not worked on before what they build on, among these, is finished.

    The others may be worked on before; only what finishes them waits.
    """
    found: set[int] = set()
    for pair in connection.execute(FIND_BUILDERS, {"job_ids": sorted(job_ids)}) if job_ids else ():
        timeline = timeline_of(pair)
        blocking = Blocking.CHILDREN if timeline is None else timeline.blocking
        if blocking is Blocking.CHILDREN or (blocking is Blocking.DEPENDENCIES and not pair.is_child):
            found.add(pair.job_id)
    return found


def join_spans(spans: Iterable[JobSpan]) -> list[JobSpan]:
    """Join stretches that follow each other; they come in the order of their time, job by job."""
    joined: list[JobSpan] = []
    for span in spans:
        if joined and (joined[-1].job_id, joined[-1].high) == (span.job_id, span.low):
            joined[-1] = JobSpan(span.job_id, joined[-1].low, span.high)
        else:
            joined.append(span)
    return joined


def _read(connection: Connection, statement: Select[*tuple[Any, ...]], spans: Collection[JobSpan]) -> Sequence[AnyRow]:
    job_ids = sorted({span.job_id for span in spans})
    return connection.execute(statement, {"job_ids": job_ids}).all() if job_ids else []


def _is_built(pair: AnyRow) -> bool:
    if pair.timeline is None or pair.upstream_timeline is None:
        return False
    outer = timeline_of(pair)
    inner = timeline_of(_Upstream(pair))
    # One whose rules cannot be read now was built by those that could be.
    return outer is None or inner is None or fits(inner, outer)


class _Upstream:
    def __init__(self, pair: AnyRow) -> None:
        self.timeline: str | None = pair.upstream_timeline


def find_builders(connection: Connection, job_id: int) -> list[int]:
    """Return the jobs that build on one."""
    return [row.job_id for row in connection.execute(FIND_BUILDERS, {"job_ids": [job_id]})]


def wake_builders(connection: Connection, finished: Collection[JobSpan]) -> None:
    """Have all looked at that may go on now that these periods are finished, or not any more."""
    wake_oldest(connection, [span.job_id for span in finished])
    wake(connection, let_go(connection, finished))


def let_go(connection: Connection, finished: Collection[JobSpan]) -> set[int]:
    """Return the unfinished periods that build on these, and may go on; slots that do are looked at by themselves."""
    pairs = _read(connection, FIND_BUILDERS, finished)
    above = [(pair, span) for span in finished for pair in pairs if pair.upstream_id == span.job_id]
    asked = {(pair.job_id, span.low, span.high) for pair, span in above if pair.timeline is not None}
    wake_slots_after(connection, {(pair.job_id, span.high) for pair, span in above if pair.timeline is None})
    found = [row for one in sorted(asked) for row in find_overlapping(connection, *one)]
    return {row.id for row in found if row.unfinished_at is not None}
