"""What a backfill is about: the schedules that a name means, the slots of each, and what is built on them.

Invariant: what is planned can be run: what cannot be is refused here, with what to do. Called where a person asks for a
backfill, or what one would do.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, select

from rota.errors import Conflict, Invalid, NotFound
from rota.model.backfill import Fate, SlotRange, Wish
from rota.model.instants import format_instant, say_moment, say_slot
from rota.model.slot_rule import CatchUpOrder, SlotRule
from rota.model.timeline import Timeline
from rota.store.backfill_slots import (
    READ_SCHEDULES_FOR_SLOTS,
    Course,
    always,
    check_may_run,
    judge_slots,
    slots_of,
)
from rota.store.calendars import load_calendars
from rota.store.firing import names_of_calendars, rule_of
from rota.store.period_ledger import timeline_of
from rota.store.shown import check_range
from rota.store.tables import dependency, job, schedule
from rota.store.types import AnyRow

PARTS_MAX = 200  # schedules of one backfill
OPEN_SEARCH_MAX = 1000  # slots that are looked at for one that no calendar closes
# How many slots of a schedule are looked at to say what would be done.
LOOKED_AT_MAX = 100_000
PAGE_SLOTS = 1000

_MICROSECOND = timedelta(microseconds=1)

FIND_SCHEDULE = select(schedule.c.id, schedule.c.zone).where(schedule.c.name == bindparam("name"))
FIND_JOB = select(job.c.id, job.c.timeline).where(job.c.name == bindparam("name"))
# Served by rota_schedule_job.
FIND_SCHEDULES_OF = (
    select(schedule.c.id, schedule.c.job_id, schedule.c.zone)
    .where(schedule.c.job_id.in_(bindparam("job_ids", expanding=True)))
    .order_by(schedule.c.name)
    .limit(PARTS_MAX + 1)
)
READ_ALL_PAIRS = select(dependency.c.job_id, dependency.c.upstream_id)


@dataclass(frozen=True, slots=True)
class Planned:
    """One schedule of a backfill that is asked for."""

    row: AnyRow
    rule: SlotRule
    slots: SlotRange
    high: datetime | None  # None: up to the schedule's own cursor
    built_on: bool

    @property
    def total(self) -> int:
        return self.slots.count()

    def values(self, backfill_id: int, order: CatchUpOrder) -> dict[str, Any]:
        return {
            "backfill_id": backfill_id,
            "schedule_id": self.row.id,
            "schedule": self.row.name,
            "job_id": self.row.job_id,
            "job": self.row.job_name,
            "built_on": self.built_on,
            "from_at": self.slots.low,
            "to_at": self.high,
            "next_slot_at": self.slots.in_order(order, 1)[0],
            "slots_total": self.total,
            "slots_seen": 0,
            "slots_passed": 0,
        }


def find_schedules(connection: Connection, name: str) -> Sequence[AnyRow]:
    """Return the schedules that a name means: the one of that name, or else all of the job of that name."""
    if found := connection.execute(FIND_SCHEDULE, {"name": name}).all():
        return found
    known = connection.execute(FIND_JOB, {"name": name}).one_or_none()
    if known is None:
        raise NotFound("job or schedule", name, "see `rota schedule list` and `rota job list` for the names there are")
    if known.timeline is not None:
        raise Conflict(
            f"job {name} has periods, and no slots: `rota period reprocess {name} PERIOD --to PERIOD` does some "
            "again, with all that is built on them"
        )
    found = connection.execute(FIND_SCHEDULES_OF, {"job_ids": [known.id]}).all()
    if not found:
        raise Conflict(f"job {name} has no schedule, and so no slots: add one with `rota schedule add KEY {name}`")
    return found


def find_timeline(connection: Connection, name: str) -> Timeline | None:
    """Return the periods of the job that a name means; None: it means schedules, or nothing."""
    if connection.execute(FIND_SCHEDULE, {"name": name}).first() is not None:
        return None
    known = connection.execute(FIND_JOB, {"name": name}).one_or_none()
    return None if known is None else timeline_of(known)


def plan_backfill(connection: Connection, name: str, start: datetime, end: datetime, wish: Wish) -> list[Planned]:
    check_range(start, end)
    rows = _read_schedules(connection, [row.id for row in find_schedules(connection, name)], wish)
    known = load_calendars(connection, names_of_calendars(rows))
    parts = [_plan_root(row, rule_of(row, known), start, end) for row in rows]
    with_slots = [part for part in parts if part.total]
    if not with_slots:
        raise Invalid(
            "to",
            say_slot(end),
            f"{', '.join(part.row.name for part in parts[:5])} has no slot from {say_slot(start)} up to it"
            f"{_say_next(parts[0], end)}: choose others, see `rota schedule next KEY --from TIME`",
        )
    return with_slots + (_plan_downstream(connection, with_slots, wish) if wish.downstream else [])


def _read_schedules(connection: Connection, ids: Collection[int], wish: Wish) -> list[AnyRow]:
    if len(ids) > PARTS_MAX:
        raise Conflict(f"it is about more than {PARTS_MAX} schedules: ask for some of them by their keys")
    rows = connection.execute(READ_SCHEDULES_FOR_SLOTS, {"schedule_ids": sorted(ids)}).all()
    for row in rows:
        check_may_run(row, wish)
    return sorted(rows, key=lambda row: row.name)


def _plan_root(row: AnyRow, rule: SlotRule, start: datetime, end: datetime) -> Planned:
    ahead: datetime | None = row.next_slot_at
    if ahead is not None and ahead < end:
        raise Invalid(
            "to",
            say_slot(end),
            f"slots of schedule {row.name} from {say_moment(ahead)} on come by themselves: --to is at most that moment",
        )
    return Planned(row, rule, slots_of(row, rule, start, end), end, built_on=False)


def _say_next(part: Planned, end: datetime) -> str:
    following = part.rule.timing.next(end - _MICROSECOND)
    return f"; the next one of {part.row.name} is {say_slot(following)}" if following is not None else ""


def _plan_downstream(connection: Connection, roots: Sequence[Planned], wish: Wish) -> list[Planned]:
    """Return what is built on the slots of ``roots``, upstreams first: of each schedule the slots for which one of
    theirs is the latest."""
    order = _order_downstream(connection, {part.row.job_id for part in roots})
    if not order:
        return []
    found = connection.execute(FIND_SCHEDULES_OF, {"job_ids": sorted(job_id for job_id, _ in order)}).all()
    taken = {part.row.id for part in roots}
    rows = _read_schedules(connection, [row.id for row in found if row.id not in taken], wish)
    known = load_calendars(connection, names_of_calendars(rows))
    parts = list(roots)
    for job_id, above in order:
        of_upstreams = [part for part in parts if part.row.job_id in above]
        for row in rows:
            if row.job_id == job_id and of_upstreams:
                part = _plan_built(row, rule_of(row, known), of_upstreams)
                parts += [part] if part.total else []
    if len(parts) > PARTS_MAX:
        raise Conflict(f"more than {PARTS_MAX} schedules are built on it: ask for some of them by their keys")
    return parts[len(roots) :]


def _order_downstream(connection: Connection, roots: Collection[int]) -> list[tuple[int, set[int]]]:
    """Return the jobs that are built on these, each behind what it is built on, with that."""
    above: dict[int, set[int]] = {}
    for pair in connection.execute(READ_ALL_PAIRS):
        above.setdefault(pair.job_id, set()).add(pair.upstream_id)
    reached = set(roots)
    while grown := {job_id for job_id, of in above.items() if job_id not in reached and of & reached}:
        reached |= grown
    ordered: list[tuple[int, set[int]]] = []
    done, left = set(roots), sorted(reached - set(roots))
    while left:
        # Of a cycle that somebody has written by hand, whichever comes first.
        job_id = next((one for one in left if not (above[one] & reached) - done), left[0])
        ordered.append((job_id, above[job_id] & reached))
        done.add(job_id)
        left.remove(job_id)
    return ordered


def _plan_built(row: AnyRow, rule: SlotRule, upstreams: Sequence[Planned]) -> Planned:
    lows: list[datetime] = []
    highs: list[datetime | None] = []
    for part in upstreams:
        if (low := _first_open(part.rule, part.slots.low, part.slots.first)) is not None:
            lows.append(low)
            highs.append(None if part.high is None else _first_open(part.rule, part.high, part.slots.first))
    low = min(lows, default=row.now)
    high = None if None in highs else max((one for one in highs if one is not None), default=None)
    return Planned(row, rule, slots_of(row, rule, low, high), high, built_on=True)


def _first_open(rule: SlotRule, moment: datetime, first: datetime | None) -> datetime | None:
    """Return the first slot at or after ``moment`` that no calendar closes: others are built on none that is closed."""
    after = moment - _MICROSECOND
    if first is not None and first > after:
        return first
    for _ in range(OPEN_SEARCH_MAX):
        slot = rule.timing.next(after)
        if slot is None or rule.closed(slot) is None:
            return slot
        after = slot
    return after


def show_planned(connection: Connection, part: Planned, wish: Wish, now: datetime) -> dict[str, Any]:
    course = Course(part.row, part.rule, part.slots, wish, now, None, part.built_on, always)
    counts = dict.fromkeys(Fate, 0)
    looked = 0
    # Of what is built on what has failed, only a look at what was done tells.
    is_told = not (part.built_on and wish.failed_only)
    while is_told and looked < LOOKED_AT_MAX and (page := judge_slots(connection, course, PAGE_SLOTS)):
        for judged in page:
            counts[judged.fate] += 1
        looked += len(page)
        course = replace(course, slots=course.slots.beyond(page[-1].slot, wish.order))
    return {
        "schedule": part.row.name,
        "job": part.row.job_name,
        "built_on": part.built_on,
        "slots": part.total,
        "first": format_instant(part.slots.oldest(1)[0]),
        "last": format_instant(part.slots.newest(1)[0]),
        "looked_at": looked,
        "new": counts[Fate.NEW],
        "again": counts[Fate.AGAIN] + counts[Fate.HELD],
        "passed_over": counts[Fate.PASSED],
        "closed": counts[Fate.CLOSED],
    }
