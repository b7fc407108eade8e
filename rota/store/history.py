"""Why a run or a job is as it is: answers from recorded facts. Schedules and their slots are in ``slot_history``.

Invariant: nothing is guessed. A sentence repeats the recorded reason, or names the rows and the moments that decide.
For what has not happened yet, every condition that holds it is named, the one that decides first at the front.
Over-long, as a list of explanations.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, bindparam, desc, func, or_, select

from rota.errors import Invalid, NotFound
from rota.model.dependencies import WAITS, Stand
from rota.model.instants import say_moment, say_slot
from rota.model.reasons import Reason
from rota.model.slot_rule import CatchUpOrder, Overlap
from rota.model.states import FINISHED, AttemptState, JobState, RunState
from rota.store.breakers import READ_BREAKER, say_held
from rota.store.clock import READ_HELD
from rota.store.database import Database
from rota.store.events import READ_RUN_EVENTS, read_events, show_event
from rota.store.fanout import ANY
from rota.store.groups import read_completeness
from rota.store.period_view import explain_ledger
from rota.store.permits import say_held_back
from rota.store.placing import AVOID_SECONDS, PREFER_SECONDS, READY_SINCE, read_selectors
from rota.store.pools import (
    Server,
    read_servers,
    say_excluded,
    say_full,
    say_lacking,
    say_nobody,
    say_offered,
    say_preferred,
    say_unsupplied,
    say_without_its_node,
)
from rota.store.shown import say_span
from rota.store.suspension import read_paused_pools, say_pause_of, say_paused
from rota.store.tables import attempt, job, run, schedule
from rota.store.types import Instant, Name, db_now
from rota.store.upstreams import read_standings

Answer = dict[str, Any]

ATTEMPTS_MAX = 10
READY_COUNTED_MAX = 10_000
SLOTS_LOOKED_AT = 2000
QUEUED_COUNTED_MAX = 101
CAUSES_MAX = 50

_RUN = [
    run,
    job.c.state.label("job_state"),
    job.c.id.label("known_job_id"),
    job.c.env.label("env"),
    job.c.secrets.label("secrets"),
    job.c.prefer.label("prefer"),
    job.c.exclude.label("exclude"),
    READY_SINCE.label("ready_since"),
    job.c.deadline_seconds,
    schedule.c.overlap.label("overlap"),
    schedule.c.catch_up_order.label("catch_up_order"),
    db_now().label("now"),
]
READ_RUN = (
    select(*_RUN)
    .outerjoin(job, job.c.id == run.c.job_id)
    .outerjoin(schedule, schedule.c.id == run.c.schedule_id)
    .where(run.c.id == bindparam("id"))
)
# Newest first. Served by rota_attempt_number.
READ_ATTEMPTS = (
    select(attempt)
    .where(attempt.c.run_id == bindparam("run_id"))
    .order_by(desc(attempt.c.attempt))
    .limit(ATTEMPTS_MAX + 1)
)


_FIRST = [run.c.id, run.c.state, run.c.node, run.c.slot_at, run.c.cancel_asked_at]


# As `fanout.is_in_the_way`.
_in_the_way = or_(
    run.c.target_node.in_([ANY, bindparam("target_node", type_=Name)]), bindparam("target_node", type_=Name) == ANY
)


def _find_first(comes_first: ColumnElement[bool]) -> Select[Any]:
    return (
        select(*_FIRST)
        .where(
            run.c.open_schedule_id == bindparam("schedule_id"),
            _in_the_way,
            run.c.id != bindparam("run_id"),
            or_(~run.c.queued, comes_first),
        )
        .order_by(run.c.queued, run.c.slot_at)
        .limit(QUEUED_COUNTED_MAX)
    )


# What a queued run waits for: unfinished runs of its schedule that do not queue, and those that queue before it. Served
# by rota_run_open_schedule.
_slot_at = bindparam("slot_at", type_=Instant())
FIND_FIRST = {
    CatchUpOrder.OLDEST.value: _find_first(run.c.slot_at < _slot_at),
    CatchUpOrder.NEWEST.value: _find_first(run.c.slot_at > _slot_at),
}
# Of the last slots before one that was skipped, the run that had not ended then. Served by rota_run_slot.
_slots_before = (
    select(run.c.id, run.c.slot_at, run.c.started_at, run.c.finished_at)
    .where(
        run.c.schedule_id == bindparam("schedule_id"),
        run.c.slot_at < bindparam("slot_at", type_=Instant()),
        _in_the_way,
    )
    .order_by(desc(run.c.slot_at))
    .limit(SLOTS_LOOKED_AT)
    .subquery("slots_before")
)
FIND_IN_THE_WAY = (
    select(_slots_before)
    .where(
        or_(
            _slots_before.c.finished_at.is_(None),
            (_slots_before.c.finished_at > bindparam("decided_at", type_=Instant()))
            & _slots_before.c.started_at.is_not(None),
        )
    )
    .order_by(desc(_slots_before.c.slot_at))
    .limit(1)
)
# Served by rota_run_claim.
_before = (
    select(run.c.id)
    .where(
        run.c.state == RunState.READY.value,
        run.c.pool == bindparam("pool"),
        or_(
            run.c.urgency < bindparam("urgency"),
            (run.c.urgency == bindparam("urgency")) & (run.c.run_at < bindparam("run_at", type_=Instant())),
            (run.c.urgency == bindparam("urgency"))
            & (run.c.run_at == bindparam("run_at", type_=Instant()))
            & (run.c.id < bindparam("id")),
        ),
    )
    .limit(READY_COUNTED_MAX)
    .subquery("come_before")
)
COUNT_BEFORE = select(func.count()).select_from(_before)

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

# What a person may do about it, where the recorded sentence does not say so.
_ADVICE: dict[str, str] = {
    Reason.CATCH_UP_NONE: "catch-up latest or all would have run it",
    Reason.CATCH_UP_LATEST: "catch-up all would have run it too",
    Reason.CATCH_UP_LIMIT: "a larger catch-up limit would have run it",
    Reason.WINDOW_PASSED: "start_within says how late a run may start",
    Reason.TIMEOUT: "timeout of its job says how long each attempt may run",
    Reason.CPU_LIMIT: "cpu_max of its job says how much CPU time each of its processes may use",
    Reason.OUT_OF_MEMORY: "memory_max of its job, if it has one, or the memory of the machine was too little",
    Reason.DEADLINE: "a longer deadline would have given it more time; a rerun counts it anew",
    Reason.LOST: "it may have done its work: look, then rerun it or mark it succeeded",
    Reason.LOST_MAX: "find out what ends its nodes before it is run again",
}


def why_run(database: Database, run_id: int) -> Answer:
    """Explain the state of a run.

    Raises:
        NotFound: there is no such run.
    """

    def explain(connection: Connection) -> Answer:
        row = connection.execute(READ_RUN, {"id": run_id}).one_or_none()
        if row is None:
            raise NotFound("run", run_id)
        return {
            "subject": _subject(row),
            "state": row.state,
            "because": [*explain_run(connection, row), *_explain_group(connection, row)],
            "events": read_run_events(connection, run_id),
        }

    return database.read(explain)


def _explain_group(connection: Connection, row: Row[Any]) -> list[str]:
    if row.group_id is None or not row.target_node:
        return []
    found = read_completeness(connection, [row.group_id])[row.group_id]
    asked = "its slot" if row.slot_at is not None else "what was asked for"
    return [f"its job runs on all nodes of its pool, and {asked} has a run for each of {found.total}: {found.summary}"]


def _subject(row: Row[Any]) -> str:
    of = f"run {row.id} of job {row.job}" + (f" for node {row.target_node}" if row.target_node else "")
    if row.period is not None:
        return f"{of}, period {row.period}"
    if row.slot_at is None:
        return of
    if row.slot_count > 1:
        slots = f"{row.slot_count} slots from {say_slot(row.slot_at)} to {say_slot(row.slot_last_at)}"
        return f"{of}, {slots} of schedule {row.schedule}"
    return f"{of}, slot {say_slot(row.slot_at)} of schedule {row.schedule}"


def read_run_events(connection: Connection, run_id: int) -> list[dict[str, Any]]:
    """Return the life of a run as it was recorded, oldest first."""
    return [show_event(found) for found in connection.execute(READ_RUN_EVENTS, {"run_ids": [run_id]})]


def explain_run(connection: Connection, row: Row[Any]) -> list[str]:
    """Say why the run in ``row``, read by ``READ_RUN``, is in its state; what decides first at the front."""
    if row.state in {state.value for state in FINISHED}:
        return _explain_finished(connection, row)
    servers = read_servers(connection)
    if row.state == RunState.RUNNING.value:
        return _explain_running(connection, row, servers)
    if row.state == RunState.WAITING.value:
        return [*_explain_waiting(connection, row, servers), *_explain_unclaimed(connection, row, servers)]
    return _explain_unclaimed(connection, row, servers)


def _explain_finished(connection: Connection, row: Row[Any]) -> list[str]:
    because = [f"{row.reason_text} ({row.reason})"]
    tried = connection.execute(READ_ATTEMPTS, {"run_id": row.id}).all()
    if row.reason == Reason.OVERLAP.value:
        which = {
            "schedule_id": row.schedule_id,
            "target_node": row.target_node,
            "slot_at": row.slot_at,
            "decided_at": row.enqueued_at,
        }
        earlier = connection.execute(FIND_IN_THE_WAY, which).one_or_none()
        if earlier is not None:
            end = f"ended {say_moment(earlier.finished_at)}" if earlier.finished_at is not None else "has not ended yet"
            because.append(f"run {earlier.id}, of the slot {say_slot(earlier.slot_at)}, stood in its way; it {end}")
    if row.started_at is None:
        because.append("it never started")
        if row.start_by is not None and row.slot_count == 1:
            because.append(f"it might have started from {say_moment(row.run_at)} to {say_moment(row.start_by)}")
    because += [_tell_attempt(found, row.reason_text) for found in tried[:ATTEMPTS_MAX]]
    if len(tried) > ATTEMPTS_MAX:
        because.append(f"`rota run show {row.id}` shows the attempts before these")
    if row.reason == Reason.OUT_OF_MEMORY.value and "memory_max" in row.reason_text:
        because.append("a larger memory_max of its job would have given it more")
    elif (advice := _ADVICE.get(row.reason)) is not None:
        because.append(advice)
    return because


def _tell_attempt(found: Row[Any], told: str | None) -> str:
    """Say when an attempt ended and how, without what is ``told`` already."""
    which = f"attempt {found.attempt} on {found.node}"
    said = f"{which} ended {say_moment(found.finished_at)}"
    if found.reason_text is not None and found.reason_text != told:
        said += f": {found.reason_text.removeprefix(f'{which} ')}"
    if found.state in (AttemptState.CLAIMED.value, AttemptState.RUNNING.value):
        said = f"{which} has not ended"
    if found.cold_because is not None:
        said += f"; it was started cold: {found.cold_because}"
    if found.executor is not None:
        said += f"; it shared an executor process ({found.executor}, pid {found.pid})"
    if found.orphan_at is not None:
        said += f"; its node brought an end {say_moment(found.orphan_at)}, too late to count; it is kept beside it"
    return said


def _explain_running(connection: Connection, row: Row[Any], servers: list[Server]) -> list[str]:
    because = [f"{row.node} has attempt {row.attempt}, under a lease until {say_moment(row.lease_ends_at)}"]
    if row.lease_ends_at is not None and row.lease_ends_at < row.now:
        held = explain_hold(connection, row)
        if held is None:
            over = f"its lease is over: {row.node} fell silent, and the next node that looks takes it away"
        else:
            over = f"its lease is over: {row.node} fell silent; {held}"
        because.insert(0, over)
    elif (without := say_without_its_node(servers, row.node)) is not None:
        because.append(without)
    if row.marked_at is None:
        because.append("its start is not marked yet")
    else:
        because.append(f"it runs since {say_moment(row.marked_at)}, for {say_span(row.now - row.marked_at)}")
    if row.freeze_asked_at is not None:
        frozen = f"{row.freeze_asked_by} froze it {say_moment(row.freeze_asked_at)}: its processes are held"
        because.insert(0, f"{frozen}, its lease goes on; let it go on with `rota run thaw {row.id}`")
    if row.deadline_from_at is not None and row.deadline_seconds is not None:
        left = timedelta(seconds=row.deadline_seconds) - (row.now - row.deadline_from_at)
        because.append(f"it is stopped at its deadline, in {say_span(left)}, if it has not ended by then")
    if row.cancel_asked_at is not None:
        asked = f"{row.cancel_asked_by} asked to cancel it {say_moment(row.cancel_asked_at)}"
        because.insert(0, f"{asked}; {row.node} is to stop it")
    return because


def explain_hold(connection: Connection, row: Row[Any]) -> str | None:
    """Say that the database's clock has stepped, so that nothing late is decided; None when it is trusted."""
    until = connection.execute(READ_HELD).scalar()
    if until is None:
        return None
    span = say_span(until - row.now)
    return f"the database's clock has stepped: nothing late is decided before {say_moment(until)}, in {span}"


def _explain_waiting(connection: Connection, row: Row[Any], servers: list[Server]) -> list[str]:
    because: list[str] = []
    if row.awaiting_job_id is not None:
        return _explain_awaiting(connection, row)
    if row.run_at is not None and row.run_at > row.now:
        ahead = f"it may start at {say_moment(row.run_at)}, in {say_span(row.run_at - row.now)}"
        because.append(f"{ahead}: {row.reason_text}")
    if row.queued:
        find = FIND_FIRST.get(row.catch_up_order, FIND_FIRST[CatchUpOrder.OLDEST.value])
        which = {"schedule_id": row.schedule_id, "target_node": row.target_node, "slot_at": row.slot_at}
        first = connection.execute(find, which | {"run_id": row.id}).all()
        if first:
            because.append(_tell_first(row, first))
            if row.reason == Reason.QUEUED.value:
                because.append(f"why it queues: {row.reason_text}")
    if because:
        return because
    come = f"its time came {say_moment(row.run_at)}, and a node is to move it on: {row.reason_text}"
    if not any(server.is_there for server in servers):
        return ["no node is alive to move it on: start one with `rota worker`", come]
    return [come]


def _explain_awaiting(connection: Connection, row: Row[Any]) -> list[str]:
    """Say what a run waits for, and why that is not done, down to the first causes."""
    because: list[str] = []
    seen = {row.id}
    nexts = [(row, WAITS)]
    while nexts and len(because) < CAUSES_MAX:
        later: list[tuple[Row[Any], str]] = []
        for one, waits in nexts:
            for standing in read_standings(connection, [one])[one.id]:
                if standing.stand is Stand.DONE:
                    continue
                because.append(f"{waits} for {standing.upstream}, {standing.text}")
                if standing.run_id is None or standing.run_id in seen:
                    continue
                seen.add(standing.run_id)
                upstream = connection.execute(READ_RUN, {"id": standing.run_id}).one()
                named = f"run {upstream.id} of {upstream.job}"
                if upstream.awaiting_job_id is not None:
                    later.append((upstream, f"{named} waits"))
                else:
                    because += [f"{named}: {said}" for said in explain_run(connection, upstream)]
        nexts = later
    if row.run_at > row.now:
        because.append(
            f"it may start at {say_moment(row.run_at)}, in {say_span(row.run_at - row.now)}, if that is done"
        )
    if not because:
        because.append("what it builds on is done, and a node is to move it on")
    del because[CAUSES_MAX:]
    if not row.reason_text.startswith(WAITS):  # nobody has looked at its upstreams yet
        because.append(f"what made it wait: {row.reason_text}")
    return because


def _tell_first(row: Row[Any], first: Sequence[Row[Any]]) -> str:
    """Say what a queued run waits for."""
    one = first[0]
    running = one.state == RunState.RUNNING.value
    if running and one.cancel_asked_at is not None:
        how = "overlap is replace: " if row.overlap == Overlap.REPLACE.value else ""
        asked = f"{one.node} was asked {say_moment(one.cancel_asked_at)} to stop it"
        said = f"{how}it starts once run {one.id} has stopped; {asked}"
    else:
        where = f"{one.state} on {one.node}" if running else one.state
        said = f"it queues behind run {one.id} of its schedule, {where}, of the slot {say_slot(one.slot_at)}"
    if len(first) > 1:
        more = f"{QUEUED_COUNTED_MAX - 1} or more" if len(first) >= QUEUED_COUNTED_MAX else str(len(first) - 1)
        said += f", and {more} behind that one"
    return said


def _explain_unclaimed(connection: Connection, row: Row[Any], servers: list[Server]) -> list[str]:
    """Name all that keeps a run from being claimed, what decides first at the front."""
    is_ready = row.state == RunState.READY.value
    because: list[str] = []
    binds = row.start_by is not None and row.started_at is None
    if binds and row.start_by < row.now and row.awaiting_job_id is None:
        closed = f"its start window closed at {say_moment(row.start_by)}, {say_span(row.now - row.start_by)} ago"
        held = explain_hold(connection, row)
        because.append(f"{closed}: it will be missed" if held is None else f"{closed}; {held}")
    # A paused pool holds everything, and so does one without a node, whatever else does.
    paused = read_paused_pools(connection).get(row.pool)
    if paused is not None:
        because.append(say_paused(paused))
    if (nobody := say_nobody(servers, row.pool, row.target_node)) is not None:
        because.append(nobody)
    if row.known_job_id is None:
        because.append(f"its job {row.job} was deleted: nobody knows how to run it; cancel it")
    if row.job_state == JobState.PAUSED.value:
        because.append(_say_job_paused(connection, row.job))
    breaker = connection.execute(READ_BREAKER, {"job_id": row.job_id}).one_or_none()
    if breaker is not None and (held := say_held(breaker, row.now, row.id)) is not None:
        because.append(held)
    if (lacking := say_lacking(servers, row.pool, row.env, row.target_node)) is not None:
        because.append(lacking)
    if (unsupplied := say_unsupplied(servers, row.pool, row.env, row.secrets, row.target_node)) is not None:
        because.append(unsupplied)
    limited = say_held_back(connection, row.id) if is_ready else []
    because += limited
    prefer, exclude = _selectors_of(row.prefer), _selectors_of(row.exclude)
    excluded = say_excluded(servers, row.pool, exclude, row.target_node)
    if excluded is not None:
        because.append(excluded)
    able = [server for server in servers if server.may_run(row.env, row.secrets) and not server.answers_to(exclude)]
    since = max((moment for moment in (row.run_at, row.ready_since) if moment is not None), default=row.now)
    ready_seconds = (row.now - since).total_seconds() if is_ready else 0.0
    because += _explain_held_back(row, servers, prefer, ready_seconds) if is_ready else []
    full = say_full(able, row.pool, row.target_node)
    if full is not None:
        because.append(full)
    if is_ready:
        line = {"pool": row.pool, "urgency": row.urgency, "run_at": row.run_at, "id": row.id}
        before = connection.execute(COUNT_BEFORE, line).scalar_one()
        if before and not limited:
            many = f"{before} or more" if before >= READY_COUNTED_MAX else str(before)
            because.append(f"{many} ready runs of pool {row.pool} come before it, by priority or age")
        elif not because:
            because.append(f"it is the next one of pool {row.pool}: a node with a free slot takes it at its next look")
        first = [one for one in able if not _is_held_back(row, one, prefer, ready_seconds)]
        offered = say_offered(first, row.pool, row.target_node)
        if offered is not None and paused is None and not limited and row.job_state != JobState.PAUSED.value:
            because.append(offered)
    if row.deadline_from_at is not None and row.deadline_seconds is not None:
        because.append(_tell_deadline(row))
    if binds and row.start_by >= row.now:
        because.append(f"it must start by {say_moment(row.start_by)}, in {say_span(row.start_by - row.now)}")
    if is_ready:
        because.append(f"what made it ready: {row.reason_text}")
    return because


def _say_job_paused(connection: Connection, name: str) -> str:
    return f"its job {name} is paused{say_pause_of(connection, 'job', name)}: `rota job resume {name}`"


def _selectors_of(text: str | None) -> tuple[str, ...]:
    try:
        return read_selectors("selectors", text)
    except Invalid:  # written by hand: whoever claims such a run fails it with the reason
        return ()


def _explain_held_back(row: Row[Any], servers: list[Server], prefer: Sequence[str], ready_seconds: float) -> list[str]:
    """Say which nodes come first for a ready run, and for how long yet."""
    said: list[str] = []
    preferred = say_preferred(servers, row.pool, prefer, PREFER_SECONDS - ready_seconds, row.target_node)
    if preferred is not None:
        said.append(preferred)
    left = AVOID_SECONDS - ready_seconds
    if row.avoid_node and not row.target_node and left > 0:
        span = say_span(timedelta(seconds=left))
        said.append(f"it avoids node {row.avoid_node} for another {span}: its last attempt ended badly there")
    return said


def _is_held_back(row: Row[Any], server: Server, prefer: Sequence[str], ready_seconds: float) -> bool:
    if row.target_node:
        return False
    others_first = bool(prefer) and not server.answers_to(prefer) and ready_seconds < PREFER_SECONDS
    return others_first or (row.avoid_node == server.name and ready_seconds < AVOID_SECONDS)


def _tell_deadline(row: Row[Any]) -> str:
    left = timedelta(seconds=row.deadline_seconds) - (row.now - row.deadline_from_at)
    if left <= timedelta(0):
        return f"its deadline passed {say_span(-left)} ago: when a node takes it, it fails without starting again"
    return f"no attempt begins after its deadline, in {say_span(left)}"


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
        also_told: list[str] = []  # in other words
        if row.state == JobState.PAUSED.value:
            also_told.append(_say_job_paused(connection, name))
            paused = f"it is paused{say_pause_of(connection, 'job', name)}"
            because.append(f"{paused}: none of its runs start, and slots are skipped; `rota job resume {name}`")
        if (held := say_held(row, row.now)) is not None:
            because.append(held)
        because += explain_pool(connection, row.pool, row.env, row.secrets, row.exclude)
        of_job = {"job_id": row.id}
        opened = connection.execute(FIND_OPEN_OF_JOB, of_job).scalar()
        if opened is not None:
            unfinished = connection.execute(READ_RUN, {"id": opened}).one()
            first = explain_run(connection, unfinished)[0]
            why = ", and waits for that" if first in (*because, *also_told) else f": {first}"
            because.append(f"run {opened} is {unfinished.state}{why}")
        schedules = connection.execute(READ_SCHEDULES_OF, of_job).all()
        if row.timeline is not None:
            because += explain_ledger(connection, row.id) or ["all its periods are finished"]
        elif not schedules:
            because.append("it has no schedule: it runs when somebody asks, as with `rota job run`")
        for found in schedules:
            because.append(f"schedule {found.name} {_next_of(found, row)}")
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


def explain_pool(
    connection: Connection,
    pool: str,
    env: str | None = None,
    secrets: str | None = None,
    exclude: str | None = None,
) -> list[str]:
    """Say that a pool is paused, has no living node, none with environment ``env`` or with the ``secrets`` that a job's
    row names, that the job excludes some of them, or that their slots are taken."""
    servers = read_servers(connection)
    excluded = _selectors_of(exclude)
    able = [server for server in servers if server.may_run(env, secrets) and not server.answers_to(excluded)]
    paused = read_paused_pools(connection).get(pool)
    held = None if paused is None else say_paused(paused)
    told = (
        say_nobody(servers, pool)
        or say_lacking(servers, pool, env)
        or say_unsupplied(servers, pool, env, secrets)
        or say_excluded(servers, pool, excluded)
        or say_full(able, pool)
    )
    return [said for said in (held, told) if said is not None]


def _next_of(found: Row[Any], row: Row[Any]) -> str:
    if found.problem is not None:
        return f"is set aside: {found.problem}"
    if found.state == JobState.PAUSED.value:
        return "is paused"
    if found.next_slot_at is None:
        return "has no slots left"
    if found.next_slot_at <= row.now:
        late = say_span(row.now - found.next_slot_at)
        return f"has a slot that is due since {say_slot(found.next_slot_at)}, {late} ago, and not decided"
    return f"is due next at {say_slot(found.next_slot_at)}"
