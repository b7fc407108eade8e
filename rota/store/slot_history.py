"""Why a schedule does what it does, and what became of one of its slots: answers from the ledger, and from its timing.

Invariant: nothing is guessed. What has a row is told from that row. Of an instant without one, the timing says whether
it is a slot at all, and what stands between: the cursor, the bounds, a calendar, a change of daylight saving. A little
long, as a list of explanations.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, Row, bindparam, desc, exists, or_, select, text

from rota.errors import Invalid, NotFound, RotaError
from rota.model.calendars import Calendar
from rota.model.instants import check_zone, say_moment, say_slot
from rota.model.named_time import NamedTime, parse_named_time
from rota.model.slot_rule import OnClosed, Overlap, SlotRule
from rota.model.states import FINISHED, JobState, RunState
from rota.model.timing import Timing
from rota.store.calendars import load_calendars
from rota.store.database import Database
from rota.store.events import read_events, show_event
from rota.store.firing import names_of_calendars
from rota.store.groups import read_completeness, read_group_within
from rota.store.history import READ_RUN, Answer, explain_hold, explain_pool, explain_run, read_run_events
from rota.store.schedule_rows import spec_of
from rota.store.schedules import READ_SCHEDULE
from rota.store.shown import say_span, shown
from rota.store.suspension import say_pause_of
from rota.store.tables import event, run
from rota.store.types import Instant

UNFINISHED_TOLD_MAX = 5  # runs of a slot on all nodes, of which it is said what holds them
SLOTS_MAX = 50  # of a day, say, those that are told
SHIFT_DAYS = 366  # so far a calendar moves a slot
SHIFTED_LOOKED_AT = 2000
# How far back the slot before an instant is looked for: the near ones first, which are cheap to find.
_BACK_DAYS = (2, 40, 400, 5000)
_MICROSECOND = timedelta(microseconds=1)

_SLOT = [
    run.c.id,
    run.c.state,
    run.c.slot_at,
    run.c.slot_last_at,
    run.c.slot_count,
    run.c.reason,
    run.c.reason_text,
    run.c.enqueued_at,
    run.c.group_id,
    run.c.target_node,
]
# Of the runs of a slot on all nodes the first one stands for them.
_sooner = run.alias("sooner")
_stands_for_its_group = or_(
    run.c.group_id.is_(None),
    ~exists().where(_sooner.c.group_id == run.c.group_id, _sooner.c.id < run.c.id),
)
_of_schedule = run.c.schedule_id == bindparam("schedule_id")
# The latest slot up to a moment that has its row. Served by rota_run_slot, and so is the next one.
FIND_SLOT = (
    select(*_SLOT)
    .where(_of_schedule, run.c.slot_at <= bindparam("slot_at", type_=Instant()))
    .order_by(desc(run.c.slot_at))
    .limit(1)
)
FIND_SLOTS = (
    select(*_SLOT)
    .where(
        _of_schedule,
        run.c.slot_at >= bindparam("slot_from", type_=Instant()),
        run.c.slot_at <= bindparam("slot_to", type_=Instant()),
        _stands_for_its_group,
    )
    .order_by(run.c.slot_at)
    .limit(SLOTS_MAX + 1)
)
FIND_OPEN = (
    select(run.c.id, run.c.state, run.c.node, run.c.awaiting_job_id)
    .where(run.c.open_schedule_id == bindparam("schedule_id"))
    .order_by(run.c.id)
    .limit(1)
)
# The first change of a schedule after a moment. Served by rota_event_kind, whose condition is repeated as it stands.
FIND_CHANGE = (
    select(*shown(event.c))
    .where(
        event.c.kind == text("'schedule'"),
        event.c.kind != text("'run'"),
        event.c.schedule == bindparam("name"),
        event.c.to_state.in_(["added", "edited"]),
        event.c.at > bindparam("slot_at", type_=Instant()),
    )
    .order_by(event.c.id)
    .limit(1)
)


def why_schedule(database: Database, name: str, slot: str | datetime | None = None) -> Answer:
    """Explain what a schedule does next and did last, or what became of one slot.

    ``slot`` without an offset is in the schedule's zone. A date alone asks for its day, minutes for that minute.

    Raises:
        NotFound: there is no such schedule.
        Invalid: ``slot`` cannot be read.
    """

    def explain(connection: Connection) -> Answer:
        row = connection.execute(READ_SCHEDULE, {"name": name}).one_or_none()
        if row is None:
            raise NotFound("schedule", name)
        if slot is not None:
            asked = slot if isinstance(slot, str) else slot.isoformat()
            return _Asked(connection, row, asked).answer(parse_named_time("slot", slot, _zone_of(row)))
        because = [*_explain_cursor(connection, row), *_explain_last(connection, row)]
        return {
            "subject": f"schedule {name}",
            "state": "set aside" if row.problem is not None else row.state,
            "because": because,
            "events": read_events(connection, "schedule", name, limit=20),
        }

    return database.read(explain)


def _zone_of(row: Row[Any]) -> ZoneInfo:
    try:
        return check_zone("tz", row.zone)
    except Invalid:  # changed by hand
        return ZoneInfo("UTC")


def _rule_of(connection: Connection, row: Row[Any]) -> tuple[SlotRule, Mapping[str, Calendar]]:
    known = load_calendars(connection, names_of_calendars([row]))
    return spec_of(row).rule(row.created_at, known, row.job_start_within_seconds), known


def _explain_cursor(connection: Connection, row: Row[Any]) -> list[str]:
    """Say what a schedule does next, and all that holds it; what decides first at the front."""
    because: list[str] = []
    if row.problem is not None:
        because.append(f"it is set aside and fires nothing until it is edited: {row.problem}")
    if row.state == JobState.PAUSED.value:
        since = say_pause_of(connection, "schedule", row.name)
        because.append(f"it is paused{since}: `rota schedule resume {row.name}`")
    is_due = row.next_slot_at is not None and row.next_slot_at <= row.now
    if is_due and (held := explain_hold(connection, row)) is not None:
        because.append(held)
    if row.job_state == JobState.PAUSED.value:
        because.append(f"its job {row.job_name} is paused: slots that come are skipped")
    if row.next_slot_at is None:
        over = f": it ended {say_moment(row.end_at)}" if row.end_at is not None else ""
        because.append(f"it has no slots left{over}")
    elif is_due:
        due = f"its slot {say_slot(row.next_slot_at)} is due since {say_span(row.now - row.next_slot_at)}"
        because.append(f"{due} and not decided" if because else f"{due} and not decided: any living node decides it")
    else:
        because.append(f"its next slot is {say_slot(row.next_slot_at)}, in {say_span(row.next_slot_at - row.now)}")
    because += _explain_ahead(connection, row)
    opened = connection.execute(FIND_OPEN, {"schedule_id": row.id}).one_or_none()
    if opened is not None:
        where = f"{opened.state} on {opened.node}" if opened.node is not None else opened.state
        # Slots that wait for others, or for each other, are all kept.
        means = "" if opened.awaiting_job_id is not None or row.in_order else _MEANS.get(row.overlap, "")
        because.append(f"run {opened.id} is {where}; overlap is {row.overlap}{means}")
    return because + explain_pool(connection, row.pool, row.job_env, row.job_secrets)


_MEANS = {
    Overlap.SKIP.value: ": a slot that comes before it has ended is skipped",
    Overlap.QUEUE.value: ": a slot that comes before it has ended waits for it",
    Overlap.REPLACE.value: ": a slot that comes before it has ended has it stopped first",
    Overlap.ALLOW.value: ": slots run beside it",
}


def _explain_ahead(connection: Connection, row: Row[Any]) -> list[str]:
    """Say what is known of the next slot: the bound before it, its delay, a calendar or daylight saving."""
    if row.next_slot_at is None:
        return []
    because: list[str] = []
    if row.start_at is not None and row.start_at > row.now:
        because.append(f"it starts at {say_moment(row.start_at)}: no slot lies before")
    elif row.first_run_at is not None and row.first_run_at > row.now:
        because.append(f"its first run is set to {say_moment(row.first_run_at)}")
    with contextlib.suppress(RotaError, ValueError, ArithmeticError):  # told by its problem, when it fires
        rule, _ = _rule_of(connection, row)
        because += _say_what_it_will_be(rule, row.next_slot_at)
    return because


def _say_what_it_will_be(rule: SlotRule, slot: datetime) -> list[str]:
    said: list[str] = []
    if (closed := rule.closed(slot)) is not None:
        said.append(f"slot {say_slot(slot)} will be skipped: {closed}")
    elif rule.run_at(slot) > slot:
        how = " and ".join(
            word for word, value in (("delay", rule.delay_seconds), ("jitter", rule.jitter_seconds)) if value
        )
        said.append(f"its run may start at {say_moment(rule.run_at(slot))}, by its {how}")
    return said + rule.timing.notes(slot)


def _explain_last(connection: Connection, row: Row[Any]) -> list[str]:
    upto = {"schedule_id": row.id, "slot_at": row.now + timedelta(days=1)}
    last = connection.execute(FIND_SLOT, upto).one_or_none()
    if last is None:
        return ["no slot of it has been decided yet"]
    return [f"its last decided slot: {_tell_slot(connection, last)}"]


def _tell_slot(connection: Connection, found: Row[Any]) -> str:
    if found.target_node and found.group_id is not None:
        how = read_completeness(connection, [found.group_id])[found.group_id]
        which = f"slot {say_slot(found.slot_at)}"
        if found.slot_count > 1:
            which = f"{found.slot_count} slots from {say_slot(found.slot_at)} to {say_slot(found.slot_last_at)}"
        return f"{which} for all {how.total} nodes registered then: {how.summary}; group {found.group_id}"
    became = f"{found.state}: {found.reason_text}" + (f" ({found.reason})" if found.state in FINISHED else "")
    if found.slot_count > 1:
        slots = f"{found.slot_count} slots from {say_slot(found.slot_at)} to {say_slot(found.slot_last_at)}"
        return f"{slots} share run {found.id}, {became}"
    return f"slot {say_slot(found.slot_at)} is run {found.id}, {became}"


class _Asked:
    """The answer to one question about one schedule."""

    def __init__(self, connection: Connection, row: Row[Any], asked: str) -> None:
        self._connection = connection
        self._row = row
        self._asked = asked
        self._rule: SlotRule | None = None
        self._known: Mapping[str, Calendar] = {}
        self._problem = ""
        try:
            self._rule, self._known = _rule_of(connection, row)
        except (RotaError, ValueError, ArithmeticError) as error:
            self._problem = f"the schedule cannot be understood: {error}"

    def answer(self, spans: Sequence[NamedTime]) -> Answer:
        recorded = [found for span in spans for found in self._recorded(span)]
        planned = [slot for span in spans for slot in self._planned(span, recorded)]
        if len(recorded) + len(planned) > 1:
            return self._tell_several(recorded, planned)
        if recorded:
            return self._tell_recorded(recorded[0], spans)
        if planned:
            return self._tell_planned(planned[0])
        return self._tell_none(spans)

    def _about(self, state: str, because: list[str], *, slot: datetime | None = None, **more: Any) -> Answer:
        which = say_slot(slot) if slot is not None else self._asked
        return {"subject": f"slot {which} of schedule {self._row.name}", "state": state, "because": because} | {
            "events": more.get("events", [])
        }

    def _recorded(self, span: NamedTime) -> list[Row[Any]]:
        """Return the rows of the slots in ``span``, and of those that stand for slots in it."""
        of_span = {"schedule_id": self._row.id, "slot_from": span.start, "slot_to": span.last}
        found = list(self._connection.execute(FIND_SLOTS, of_span).all())
        before = {"schedule_id": self._row.id, "slot_at": span.start - _MICROSECOND}
        earlier = self._connection.execute(FIND_SLOT, before).one_or_none()
        if earlier is None or earlier.slot_last_at is None or earlier.slot_last_at < span.start:
            return found
        return [earlier, *found] if self._may_stand_for(earlier, span) else found

    def _may_stand_for(self, found: Row[Any], span: NamedTime) -> bool:
        """Tell whether a row of many slots has one in ``span``: yes, if its timing is not the one of today."""
        if self._rule is None or self._slots_in(span):
            return True
        since = {"name": self._row.name, "slot_at": found.enqueued_at}
        return self._connection.execute(FIND_CHANGE, since).first() is not None

    def _planned(self, span: NamedTime, recorded: Iterable[Row[Any]]) -> list[datetime]:
        """Return the slots in ``span`` by the timing as it is now that no row accounts for."""
        if self._rule is None:
            return []
        spans = [(found.slot_at, found.slot_last_at or found.slot_at) for found in recorded]
        slots = self._rule.timing.slots(span.start - _MICROSECOND, span.last, SLOTS_MAX + 1)
        first = self._row.first_run_at
        if first is not None and span.start <= first < span.end and first not in slots:
            slots = sorted([first, *slots])
        return [slot for slot in slots if not any(low <= slot <= high for low, high in spans)]

    def _tell_recorded(self, found: Row[Any], spans: Sequence[NamedTime]) -> Answer:
        of_run = self._connection.execute(READ_RUN, {"id": found.id}).one()
        events = read_run_events(self._connection, found.id)
        slot = found.slot_at
        notes: list[str] = []
        if self._rule is not None:
            if found.slot_count > 1:
                inside = next((one for span in spans for one in self._slots_in(span)), None)
                slot = inside if inside is not None else slot
            notes = self._rule.timing.notes(slot)
        if found.target_node and found.group_id is not None:
            return self._tell_group(found, slot, notes)
        said = explain_run(self._connection, of_run)
        if found.state in FINISHED:
            said = said[1:]  # its reason stands in the first sentence already
        because = [_tell_slot(self._connection, found), *notes, *said]
        return self._about(found.state, because, slot=slot, events=events)

    def _tell_group(self, found: Row[Any], slot: datetime, notes: list[str]) -> Answer:
        """Tell of a slot that was for all nodes: of each of them, those first that have not succeeded."""
        group = read_group_within(self._connection, found.group_id)
        runs = sorted(group["runs"], key=lambda one: one["state"] == RunState.SUCCEEDED.value)
        told: list[str] = []
        for number, one in enumerate(runs[:SLOTS_MAX]):
            why = f"{one['reason']['text']} ({one['reason']['code']})"
            if one["finished_at"] is None and number < UNFINISHED_TOLD_MAX:
                of_run = self._connection.execute(READ_RUN, {"id": one["id"]}).one()
                why = explain_run(self._connection, of_run)[0]
            told.append(f"{one['node']}: run {one['id']} is {one['state']}: {why}")
        if len(runs) > SLOTS_MAX:
            told.append(f"and {len(runs) - SLOTS_MAX} more: `rota run list --group {found.group_id}`")
        return self._about(group["state"], [_tell_slot(self._connection, found), *notes, *told], slot=slot)

    def _slots_in(self, span: NamedTime) -> list[datetime]:
        assert self._rule is not None
        return self._rule.timing.slots(span.start - _MICROSECOND, span.last, 1)

    def _tell_several(self, recorded: Sequence[Row[Any]], planned: Sequence[datetime]) -> Answer:
        said = [(found.slot_at, _tell_slot(self._connection, found)) for found in recorded]
        said += [(slot, f"slot {say_slot(slot)}: {self._explain_planned(slot)[1][0]}") for slot in planned]
        said.sort(key=lambda one: one[0])
        because = [sentence for _, sentence in said[:SLOTS_MAX]]
        if len(said) > SLOTS_MAX:
            because.append(f"and more: `rota run list --schedule {self._row.name}` shows all that have a row")
        return self._about("several", because)

    def _tell_planned(self, slot: datetime) -> Answer:
        state, because = self._explain_planned(slot)
        return self._about(state, because, slot=slot)

    def _explain_planned(self, slot: datetime) -> tuple[str, list[str]]:
        """Say why a slot of the timing as it is now has no row."""
        row, rule = self._row, self._rule
        assert rule is not None
        if row.next_slot_at is not None and slot >= row.next_slot_at:
            ahead = slot > row.now
            first = f"it is ahead, in {say_span(slot - row.now)}" if ahead else "it is due and not decided"
            said = [*_say_what_it_will_be(rule, slot), *_explain_cursor(self._connection, row)]
            return ("ahead" if ahead else "due"), [first, *dict.fromkeys(said)]
        if slot <= row.created_at:
            return "none", [f"the schedule was added later, {say_moment(row.created_at)}: nothing was decided about it"]
        if row.first_run_at is not None and slot < row.first_run_at:
            return "none", [f"it lies before the first run of the schedule, {say_moment(row.first_run_at)}"]
        change = self._connection.execute(FIND_CHANGE, {"name": row.name, "slot_at": slot}).one_or_none()
        if change is not None:
            made = show_event(change)
            when = f"{made['to']} {made['at'][:19]}Z by {made.get('actor', 'somebody')}"
            return "none", [
                f"the schedule was not due then as it stood: it was {when}, and nothing was decided about it"
            ]
        return "none", [
            "no row of it is left: it was removed, since finished runs are kept for a time (`keep_runs`, `keep` of the "
            "job), or the schedule was not due then as it stood, and nothing was decided about it"
        ]

    def _tell_none(self, spans: Sequence[NamedTime]) -> Answer:
        if self._rule is None:
            return self._about("unknown", [self._problem])
        row, span = self._row, spans[0]
        because: list[str] = []
        if span.gap is not None:
            because.append(f"{span.gap} does not exist in {row.zone}: daylight saving skips it, and gap is {row.gap}")
        if row.start_at is not None and span.end <= row.start_at:
            because.append(f"it lies before the start of the schedule, {say_moment(row.start_at)}")
        if row.end_at is not None and span.start > row.end_at:
            because.append(f"it lies after the end of the schedule, {say_moment(row.end_at)}")
        moved = self._moved(spans)
        because += moved
        due = f"the schedule, {self._rule.timing.describe()}, is not due then"
        because.append("; ".join([due, *self._around(span, spans[-1])]))
        return self._about("moved" if moved else "none", because)

    def _around(self, first: NamedTime, last: NamedTime) -> list[str]:
        assert self._rule is not None
        timing = self._rule.timing
        before = _slot_before(timing, first.start)
        after = timing.next(last.last)
        if before is not None and before <= self._row.created_at:
            before = None  # nobody was there to see it
        said = [f"the slot before it is {say_slot(before)}"] if before is not None else []
        return [*said, f"the next slot after it is {say_slot(after)}"] if after is not None else said

    def _moved(self, spans: Sequence[NamedTime]) -> list[str]:
        """Say whither a calendar moved the slot that would be there, and what became of it there."""
        row = self._row
        if row.on_closed == OnClosed.SKIP.value or self._rule is None:
            return []
        base = spec_of(row).timing(row.created_at)  # without calendars, nothing is moved
        origin = next((slot for span in spans for slot in base.slots(span.start - _MICROSECOND, span.last, 1)), None)
        closed = None if origin is None else self._rule.timing.closed_at(origin)
        if origin is None or closed is None:
            return []
        target = _find_target(self._rule.timing, origin, forward=row.on_closed == OnClosed.NEXT.value)
        if target is None:
            return [f"slot {say_slot(origin)} does not exist: {closed}, and no day near it is open"]
        there = self.answer([NamedTime(target, target + _MICROSECOND)])["because"]
        return [f"slot {say_slot(origin)} was moved to {say_slot(target)}: {closed}", *there]


def _slot_before(timing: Timing, moment: datetime) -> datetime | None:
    for days in _BACK_DAYS:
        with contextlib.suppress(OverflowError):
            if found := timing.last(moment - timedelta(days=days), moment - _MICROSECOND, 1):
                return found[-1]
    return None


def _find_target(timing: Timing, origin: datetime, *, forward: bool) -> datetime | None:
    """Return the slot to which ``timing``, whose calendars move slots, has moved ``origin``."""
    far = timedelta(days=SHIFT_DAYS)
    if forward:
        near = timing.slots(origin - _MICROSECOND, origin + far, SHIFTED_LOOKED_AT)
    else:
        near = timing.last(origin - far, origin, SHIFTED_LOOKED_AT)[::-1]
    return next((slot for slot in near if origin in timing.origin(slot)), None)
