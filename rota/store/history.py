"""Why something is as it is: answers from recorded facts, for a run, a job, a schedule or one of its slots.

Invariant: nothing is guessed. A sentence repeats the recorded reason, or names the rows and the moments that decide.
For what has not happened yet, every condition that holds it is named, the one that decides first at the front.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, bindparam, desc, func, or_, select

from rota.errors import NotFound, RotaError
from rota.model.durations import format_duration
from rota.model.instants import format_instant
from rota.model.states import FINISHED, JobState, NodeState, RunState
from rota.store.database import Database
from rota.store.events import READ_RUN_EVENTS, read_events, show_event
from rota.store.schedules import READ_SCHEDULE, spec_of
from rota.store.tables import attempt, job, node, run, schedule
from rota.store.types import Instant, db_now

Answer = dict[str, Any]

NODES_MAX = 1000
_LONG_AGO = datetime.min.replace(tzinfo=UTC)  # for a moment that cannot be read

_RUN = [run, job.c.state.label("job_state"), job.c.id.label("known_job_id"), db_now().label("now")]
READ_RUN = select(*_RUN).outerjoin(job, job.c.id == run.c.job_id).where(run.c.id == bindparam("id"))
READ_LAST_ATTEMPT = (
    select(attempt).where(attempt.c.run_id == bindparam("run_id")).order_by(desc(attempt.c.attempt)).limit(1)
)
# The oldest unfinished run of an earlier slot. Served by rota_run_open_schedule.
FIND_EARLIER = (
    select(run.c.id, run.c.state)
    .where(
        run.c.open_schedule_id == bindparam("schedule_id"),
        run.c.target_node == bindparam("target_node"),
        run.c.slot_at < bindparam("slot_at", type_=Instant()),
    )
    .order_by(run.c.slot_at)
    .limit(1)
)
READ_NODES = select(node.c.name, node.c.state, node.c.pools, node.c.slots, node.c.seen_at, node.c.lease_ends_at).limit(
    NODES_MAX
)
# Served by rota_run_lease.
COUNT_HELD = (
    select(run.c.node, func.count().label("number")).where(run.c.lease_ends_at.is_not(None)).group_by(run.c.node)
)
# Served by rota_run_claim.
COUNT_BEFORE = select(func.count()).where(
    run.c.state == RunState.READY.value,
    run.c.pool == bindparam("pool"),
    or_(
        run.c.urgency < bindparam("urgency"),
        (run.c.urgency == bindparam("urgency")) & (run.c.run_at < bindparam("run_at", type_=Instant())),
    ),
)

READ_JOB = select(job, db_now().label("now")).where(job.c.name == bindparam("name"))
_NEXT = [schedule.c.name, schedule.c.state, schedule.c.problem, schedule.c.next_slot_at]
READ_SCHEDULES_OF = (
    select(*_NEXT).where(schedule.c.job_id == bindparam("job_id")).order_by(schedule.c.next_slot_at).limit(20)
)
# Served by rota_run_job.
FIND_LATEST_OF_JOB = (
    select(run.c.id, run.c.state, run.c.reason_text)
    .where(run.c.job_id == bindparam("job_id"))
    .order_by(desc(run.c.id))
    .limit(1)
)
FIND_OPEN_OF_JOB = (
    select(run.c.id).where(run.c.job_id == bindparam("job_id"), run.c.finished_at.is_(None)).order_by(run.c.id).limit(1)
)
_SLOT = [run.c.id, run.c.state, run.c.slot_at, run.c.slot_last_at, run.c.slot_count, run.c.reason_text]
# The latest slot up to a moment that has its row. Served by rota_run_slot.
FIND_SLOT = (
    select(*_SLOT)
    .where(run.c.schedule_id == bindparam("schedule_id"), run.c.slot_at <= bindparam("slot_at", type_=Instant()))
    .order_by(desc(run.c.slot_at))
    .limit(1)
)
FIND_OPEN_OF_SCHEDULE = (
    select(run.c.id, run.c.state).where(run.c.open_schedule_id == bindparam("schedule_id")).order_by(run.c.id).limit(1)
)


def why_run(database: Database, run_id: int) -> Answer:
    """Explain the state of a run.

    Raises:
        NotFound: there is no such run.
    """

    def explain(connection: Connection) -> Answer:
        row = connection.execute(READ_RUN, {"id": run_id}).one_or_none()
        if row is None:
            raise NotFound("run", run_id)
        events = [show_event(found) for found in connection.execute(READ_RUN_EVENTS, {"run_ids": [run_id]})]
        return {
            "subject": _subject(row),
            "state": row.state,
            "because": _explain_run(connection, row),
            "events": events,
        }

    return database.read(explain)


def _subject(row: Row[Any]) -> str:
    of = f"run {row.id} of job {row.job}"
    return of + (f", slot {_say(row.slot_at)} of schedule {row.schedule}" if row.slot_at is not None else "")


def _explain_run(connection: Connection, row: Row[Any]) -> list[str]:
    if row.state in {state.value for state in FINISHED}:
        return _explain_finished(connection, row)
    if row.state == RunState.RUNNING.value:
        return _explain_running(row)
    holding = _explain_waiting(connection, row) if row.state == RunState.WAITING.value else []
    return [*holding, *_explain_unclaimed(connection, row)]


def _explain_finished(connection: Connection, row: Row[Any]) -> list[str]:
    because = [f"{row.reason_text} ({row.reason})"]
    last = connection.execute(READ_LAST_ATTEMPT, {"run_id": row.id}).one_or_none()
    if row.started_at is None:
        because.append("it never started")
    elif last is not None:
        because.append(f"attempt {last.attempt} on {last.node} ended {_say(last.finished_at)}: {last.reason_text}")
        if last.orphan_at is not None:
            because.append(f"its node brought an end {_say(last.orphan_at)}, too late to count; it is kept beside it")
    return because


def _explain_running(row: Row[Any]) -> list[str]:
    because = [f"{row.node} has attempt {row.attempt}, under a lease until {_say(row.lease_ends_at)}"]
    if row.lease_ends_at is not None and row.lease_ends_at < row.now:
        because.insert(0, f"its lease is over: {row.node} fell silent, and the next node that looks takes it away")
    if row.marked_at is None:
        because.append("its start is not marked yet")
    if row.cancel_asked_at is not None:
        asked = f"{row.cancel_asked_by} asked to cancel it {_say(row.cancel_asked_at)}"
        because.insert(0, f"{asked}; {row.node} is to stop it")
    return because


def _explain_waiting(connection: Connection, row: Row[Any]) -> list[str]:
    because: list[str] = []
    if row.run_at is not None and row.run_at > row.now:
        because.append(f"it may start at {_say(row.run_at)}, in {_span(row.run_at - row.now)}: {row.reason_text}")
    if row.queued:
        before = {"schedule_id": row.schedule_id, "target_node": row.target_node, "slot_at": row.slot_at}
        earlier = connection.execute(FIND_EARLIER, before).one_or_none()
        if earlier is not None:
            because.append(f"it queues behind an earlier slot of its schedule: run {earlier.id}, {earlier.state}")
    return because or [f"its time came {_say(row.run_at)}, and a node is to move it on: {row.reason_text}"]


def _explain_unclaimed(connection: Connection, row: Row[Any]) -> list[str]:
    """Name all that keeps a run from being claimed, what decides first at the front."""
    because: list[str] = []
    if row.known_job_id is None:
        because.append(f"its job {row.job} was deleted: nobody knows how to run it; cancel it")
    if row.start_by is not None and row.started_at is None:
        if row.start_by < row.now:
            because.append(f"its start window closed at {_say(row.start_by)}: it will be missed")
        else:
            because.append(f"it must start by {_say(row.start_by)}, in {_span(row.start_by - row.now)}")
    if row.job_state == JobState.PAUSED.value:
        because.insert(0, f"its job {row.job} is paused: `rota job resume {row.job}`")
    nobody = _explain_pool(connection, row.pool, row.now)
    if row.state == RunState.READY.value and not nobody:
        line = {"pool": row.pool, "urgency": -row.priority, "run_at": row.run_at}
        before = connection.execute(COUNT_BEFORE, line).scalar_one()
        because.append(
            f"{before} ready runs of pool {row.pool} come before it, by priority or age"
            if before
            else f"it is the next one of pool {row.pool}: a node with a free slot takes it at its next look"
        )
    # A pool without a node holds everything, whatever else does.
    return [*nobody, *because]


def _explain_pool(connection: Connection, pool: str, now: datetime) -> list[str]:
    serving = [found for found in connection.execute(READ_NODES).all() if pool in _pools_of(found.pools)]
    alive = [
        found
        for found in serving
        if found.state == NodeState.ALIVE.value and found.lease_ends_at is not None and found.lease_ends_at > now
    ]
    if not serving:
        return [f"no node serves pool {pool}: start one with `rota worker --pool {pool}`"]
    if not alive:
        last = max(serving, key=lambda found: found.seen_at or _LONG_AGO)
        return [f"no node of pool {pool} is alive: {last.name} was the last one, seen {_say(last.seen_at)}"]
    held = {found.node: found.number for found in connection.execute(COUNT_HELD)}
    if all(held.get(found.name, 0) >= found.slots for found in alive):
        total = sum(found.slots for found in alive)
        return [f"all {total} slots of pool {pool} are taken, on {', '.join(found.name for found in alive[:5])}"]
    return []


def _pools_of(text: str) -> list[str]:
    try:
        found = json.loads(text)
    except ValueError:
        return []
    return [str(name) for name in found] if isinstance(found, list) else []  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def why_job(database: Database, name: str) -> Answer:
    """Explain whether and when a job runs.

    Raises:
        NotFound: there is no such job.
    """

    def explain(connection: Connection) -> Answer:
        row = connection.execute(READ_JOB, {"name": name}).one_or_none()
        if row is None:
            raise NotFound("job", name)
        because: list[str] = []
        if row.state == JobState.PAUSED.value:
            because.append(f"it is paused: none of its runs start, and slots are skipped; `rota job resume {name}`")
        because += _explain_pool(connection, row.pool, row.now)
        of_job = {"job_id": row.id}
        opened = connection.execute(FIND_OPEN_OF_JOB, of_job).scalar()
        if opened is not None:
            unfinished = connection.execute(READ_RUN, {"id": opened}).one()
            because.append(f"run {opened} is {unfinished.state}: {_explain_run(connection, unfinished)[0]}")
        schedules = connection.execute(READ_SCHEDULES_OF, of_job).all()
        if not schedules:
            because.append("it has no schedule: it runs when somebody asks, as with `rota job run`")
        for found in schedules:
            because.append(f"schedule {found.name} {_next_of(found)}")
        latest = connection.execute(FIND_LATEST_OF_JOB, of_job).one_or_none()
        if latest is not None and latest.id != opened:
            because.append(f"its latest run, {latest.id}, is {latest.state}: {latest.reason_text}")
        elif latest is None:
            because.append("nothing has asked for a run of it yet")
        return {
            "subject": f"job {name}",
            "state": row.state,
            "because": because,
            "events": read_events(connection, "job", name, limit=20),
        }

    return database.read(explain)


def _next_of(found: Row[Any]) -> str:
    if found.problem is not None:
        return f"is set aside: {found.problem}"
    if found.state == JobState.PAUSED.value:
        return "is paused"
    return f"is due next at {_say(found.next_slot_at)}" if found.next_slot_at is not None else "has no slots left"


def why_schedule(database: Database, name: str, slot: datetime | None = None) -> Answer:
    """Explain what a schedule does next and did last, or what became of one slot.

    Raises:
        NotFound: there is no such schedule.
    """

    def explain(connection: Connection) -> Answer:
        row = connection.execute(READ_SCHEDULE, {"name": name}).one_or_none()
        if row is None:
            raise NotFound("schedule", name)
        answer: Answer = {
            "subject": f"schedule {name}",
            "state": "set aside" if row.problem is not None else row.state,
            "events": [],
        }
        if slot is not None:
            return answer | _explain_slot(connection, row, slot)
        because = [*_explain_cursor(connection, row), *_explain_last(connection, row)]
        return answer | {"because": because, "events": read_events(connection, "schedule", name, limit=20)}

    return database.read(explain)


def _explain_cursor(connection: Connection, row: Row[Any]) -> list[str]:
    because: list[str] = []
    if row.problem is not None:
        because.append(f"it is set aside and fires nothing until it is edited: {row.problem}")
    if row.state == JobState.PAUSED.value:
        since = f" since {_say(row.paused_at)}" if row.paused_at is not None else ""
        because.append(f"it is paused{since}: `rota schedule resume {row.name}`")
    if row.job_state == JobState.PAUSED.value:
        because.append(f"its job {row.job_name} is paused: slots that come are skipped")
    if row.next_slot_at is None:
        because.append("it has no slots left")
    elif row.next_slot_at > row.now:
        because.append(f"its next slot is {_say(row.next_slot_at)}, in {_span(row.next_slot_at - row.now)}")
    else:
        due = f"its slot {_say(row.next_slot_at)} is due since {_span(row.now - row.next_slot_at)} and not decided"
        because.append(due if because else f"{due}: any living node decides it")
    opened = connection.execute(FIND_OPEN_OF_SCHEDULE, {"schedule_id": row.id}).one_or_none()
    if opened is not None:
        because.append(f"run {opened.id} is {opened.state}; overlap is {row.overlap}")
    return because + _explain_pool(connection, row.pool, row.now)


def _explain_last(connection: Connection, row: Row[Any]) -> list[str]:
    upto = {"schedule_id": row.id, "slot_at": row.now + timedelta(days=1)}
    last = connection.execute(FIND_SLOT, upto).one_or_none()
    if last is None:
        return ["no slot of it has been decided yet"]
    return [f"its last decided slot: {_tell_slot(last)}"]


def _tell_slot(found: Row[Any]) -> str:
    if found.slot_count > 1:
        return (
            f"{found.slot_count} slots from {_say(found.slot_at)} to {_say(found.slot_last_at)} share run {found.id}, "
            f"{found.state}: {found.reason_text}"
        )
    return f"slot {_say(found.slot_at)} is run {found.id}, {found.state}: {found.reason_text}"


def _explain_slot(connection: Connection, row: Row[Any], slot: datetime) -> Answer:
    # Slots may have fractions of a second, which nobody types.
    until = slot + timedelta(microseconds=999_999) if slot.microsecond == 0 else slot
    found = connection.execute(FIND_SLOT, {"schedule_id": row.id, "slot_at": until}).one_or_none()
    subject = f"slot {_say(slot)} of schedule {row.name}"
    if found is not None and (found.slot_at >= slot or (found.slot_last_at is not None and found.slot_last_at >= slot)):
        of_run = connection.execute(READ_RUN, {"id": found.id}).one()
        return {
            "subject": subject,
            "state": found.state,
            "because": [_tell_slot(found), *_explain_run(connection, of_run)],
            "events": [show_event(event) for event in connection.execute(READ_RUN_EVENTS, {"run_ids": [found.id]})],
        }
    try:
        timing = spec_of(row).timing(row.created_at)
    except RotaError as error:
        return {"subject": subject, "state": "unknown", "because": [f"the schedule cannot be understood: {error}"]}
    due = timing.next(slot - timedelta(microseconds=1))
    if due is None or due > until:
        after = f"; the next slot after it is {_say(due)}" if due is not None else ""
        because = [f"the schedule, {timing.describe()}, is not due then{after}"]
        return {"subject": subject, "state": "none", "because": because}
    if row.next_slot_at is not None and due >= row.next_slot_at:
        ahead = due > row.now
        first = f"it is ahead, in {_span(due - row.now)}" if ahead else "it is due and not decided"
        return {
            "subject": subject,
            "state": "ahead" if ahead else "due",
            "because": [first, *_explain_cursor(connection, row)],
        }
    before = "the schedule was added later" if due < row.created_at else "the schedule was not due then as it stood"
    return {"subject": subject, "state": "none", "because": [f"{before}: nothing was decided about it"]}


def _say(moment: datetime | None) -> str:
    if moment is None:
        return "at an unknown moment"
    text = format_instant(moment)
    return text[:-8] + "Z" if text.endswith(".000000Z") else text


def _span(length: timedelta) -> str:
    seconds = max(0.0, length.total_seconds())
    return format_duration(round(seconds) if seconds >= 10 else round(seconds, 1))
