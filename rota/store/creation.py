"""Making runs: of slots and of requests, many in a constant number of statements.

Invariant: one slot makes one run per target node, one request makes one run however often it is sent, and a key of a
job is held by one run at most (``keys``). The unique keys of the table hold it; the conditions here make the repeated
case quiet.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, case, cast, exists, false, func, insert, literal, null, select

from rota import crash
from rota.errors import Conflict, Invalid, NotFound
from rota.model.actor import Actor, Door
from rota.model.concurrency import key_of
from rota.model.reasons import Reason
from rota.model.run import Made, NewRun
from rota.model.states import JobState, RunState
from rota.store.database import now_of
from rota.store.events import tell_runs
from rota.store.fanout import leave_out_fired, spread_requests
from rota.store.keys import find_holders, let_go_of_keys
from rota.store.moves import Stale
from rota.store.sharing import share_fairly
from rota.store.tables import audit, event, job, run
from rota.store.tallies import tally_runs
from rota.store.types import Name, db_now, encode_rows, given_rows, in_portions

ROW_BYTES = 1000  # about what a row takes beside its arguments
MADE_MAX = 50_000  # runs in one transaction

_new = given_rows(
    "new",
    job_id="id",
    job="name",
    schedule_id="id",
    schedule="name",
    slot_at="instant",
    slot_count="id",
    slot_last_at="instant",
    target_node="name",
    request_id="token",
    group_id="token",
    run_key="name",
    active_key="name",
    unique_seconds="number",
    state="word",
    reason="word",
    reason_text="text",
    args="text",
    pool="name",
    priority="id",
    delivery="word",
    requested_by="name",
    run_at="instant",
    start_by="instant",
    queued="flag",
    lease_seconds="number",
    retries="id",
    retry_delay_seconds="number",
    finished="flag",
    concurrency_key="name",
    behind_seconds="id",
    awaits="flag",
    backfill_id="id",
    period_id="id",
    period="name",
    period_start_at="instant",
    period_end_at="instant",
    range_start_at="instant",
    range_end_at="instant",
)
_run_at = func.coalesce(_new.c.run_at, db_now())
_awaits = func.coalesce(_new.c.awaits, false())
_active_key = func.coalesce(_new.c.active_key, _new.c.run_key)  # one of its own for each node of a group

_VALUES = {
    "job_id": _new.c.job_id,
    "job": _new.c.job,
    "schedule_id": _new.c.schedule_id,
    "schedule": _new.c.schedule,
    "slot_at": _new.c.slot_at,
    "slot_count": func.coalesce(_new.c.slot_count, 1),
    "slot_last_at": _new.c.slot_last_at,
    "target_node": func.coalesce(_new.c.target_node, ""),
    "request_id": _new.c.request_id,
    "run_key": _new.c.run_key,
    "unique_seconds": _new.c.unique_seconds,
    "active_key": case((_new.c.finished, null()), else_=_active_key),
    "state": _new.c.state,
    "reason": _new.c.reason,
    "reason_text": _new.c.reason_text,
    "args": _new.c.args,
    "pool": _new.c.pool,
    "priority": _new.c.priority,
    "delivery": _new.c.delivery,
    "requested_by": _new.c.requested_by,
    "enqueued_at": db_now(),
    "run_at": _run_at,
    "start_by": _new.c.start_by,
    # What waits for upstreams is looked at for them alone, until they are done.
    "upstreams_due_at": case((_awaits, _run_at), else_=null()),
    "awaiting_job_id": case((_awaits, _new.c.job_id), else_=null()),
    "due_at": case(
        (_awaits, null()),
        (_new.c.state == RunState.WAITING.value, _run_at),
        (_new.c.state == RunState.READY.value, _new.c.start_by),
        else_=null(),
    ),
    "queued": _new.c.queued,
    "finished_at": case((_new.c.finished, db_now()), else_=null()),
    "attempt": literal(0),
    "retries_used": literal(0),
    "losses": literal(0),
    "fence": literal(0),
    "lease_seconds": _new.c.lease_seconds,
    "retries": _new.c.retries,
    "retry_delay_seconds": _new.c.retry_delay_seconds,
    "concurrency_key": _new.c.concurrency_key,
    "behind_seconds": _new.c.behind_seconds,
    "group_id": _new.c.group_id,
    "backfill_id": _new.c.backfill_id,
    "period_id": _new.c.period_id,
    "period": _new.c.period,
    "period_start_at": _new.c.period_start_at,
    "period_end_at": _new.c.period_end_at,
    "range_start_at": _new.c.range_start_at,
    "range_end_at": _new.c.range_end_at,
    "open_period_id": _new.c.period_id,
    "moment_at": func.coalesce(_new.c.slot_at, _new.c.period_start_at, _run_at),
}
_same_slot = exists().where(
    run.c.schedule_id == _new.c.schedule_id,
    run.c.slot_at == _new.c.slot_at,
    run.c.target_node == func.coalesce(_new.c.target_node, ""),
)
_same_key = exists().where(run.c.job_id == _new.c.job_id, run.c.active_key == _active_key)
_same_request = exists().where(run.c.request_id == _new.c.request_id)

# Insert what is not there yet. Served by rota_run_slot, rota_run_active_key and the unique request.
INSERT_RUNS = insert(run).from_select(
    list(_VALUES), select(*_VALUES.values()).where(~_same_slot, ~_same_key, ~_same_request)
)

_asked = given_rows("asked", request_id="token")
_told = given_rows("told", schedule_id="id", slot_at="instant", target_node="name")
_untold = ~exists().where(event.c.run_id == run.c.id)
TELL_ASKED = tell_runs(run.c.request_id == _asked.c.request_id, _untold, actor=run.c.requested_by)
TELL_SLOTS = tell_runs(
    run.c.schedule_id == _told.c.schedule_id,
    run.c.slot_at == _told.c.slot_at,
    run.c.target_node == func.coalesce(_told.c.target_node, ""),
    _untold,
    actor=run.c.requested_by,
)
TALLY_SLOTS = tally_runs(
    run.c.schedule_id == _told.c.schedule_id,
    run.c.slot_at == _told.c.slot_at,
    run.c.target_node == func.coalesce(_told.c.target_node, ""),
    _untold,
)
_audited = given_rows("audited", request_id="token", actor="name", door="word", address="token", via="name")
# Who asked for those that have not been told of yet: before TELL_ASKED, so that a request that is sent again leaves no
# second row.
AUDIT_ASKED = insert(audit).from_select(
    ["at", "actor", "door", "address", "via", "kind", "subject", "did", "text"],
    select(
        db_now(),
        _audited.c.actor,
        _audited.c.door,
        _audited.c.address,
        _audited.c.via,
        literal("job"),
        run.c.job,
        literal("run"),
        literal("asked for run ").concat(cast(run.c.id, Name)),
    ).where(run.c.request_id == _audited.c.request_id, _untold),
)
FIND_ASKED = select(run.c.id, run.c.request_id).where(run.c.request_id == _asked.c.request_id)


READ_JOBS = select(
    job.c.id,
    job.c.name,
    job.c.state,
    job.c.pool,
    job.c.priority,
    job.c.delivery,
    job.c.lease_seconds,
    job.c.start_within_seconds,
    job.c.concurrency_key,
    job.c.runs_on,
    job.c.exclude,
    job.c.after,
    job.c.timeline,
).where(job.c.name.in_(bindparam("names", expanding=True)))


def insert_slots(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Insert the runs of slots, and their events; a slot that has its row already keeps it."""
    rows = leave_out_fired(connection, rows)
    if not rows:
        return
    _insert_runs(connection, rows)
    crash.at("fire.inserted")
    for portion in in_portions(rows, lambda _: ROW_BYTES):
        tell_slots(connection, portion)


def tell_slots(connection: Connection, made: Sequence[Mapping[str, Any]]) -> None:
    """Tell of the runs of slots that were made: rows of ``schedule_id``, ``slot_at``, ``target_node``, ``finished``."""
    told = [{name: row.get(name) for name in ("schedule_id", "slot_at", "target_node")} for row in made]
    rows = {"told": encode_rows(told)}
    if any(row["finished"] for row in made):
        connection.execute(TALLY_SLOTS, rows)  # before the events, while it can be seen which of them are new
    connection.execute(TELL_SLOTS, rows)


def _insert_runs(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    keyed = [row for row in rows if row.get("concurrency_key") is not None and row["state"] == RunState.READY.value]
    share_fairly(connection, keyed)
    # One statement, unless they are so many, or their arguments so large together, that a server would not take it.
    for portion in in_portions(rows, lambda row: len(row["args"]) + ROW_BYTES):
        connection.execute(INSERT_RUNS, {"new": encode_rows(portion)})
    if rows and rows[-1].get("group_id"):
        crash.at("fan_out.inserted")


def request_ids(count: int) -> list[str]:
    """Make the ids that let a request be sent twice and make one run: outside the transaction, once per request."""
    batch = secrets.token_hex(16)
    return [f"{batch}.{number}" for number in range(count)]


def enqueue_runs(connection: Connection, wanted: Sequence[NewRun], requests: Sequence[str]) -> list[int]:
    """Do what ``make_runs`` does, and return the ids: of a group, that of its first run."""
    return [made.run_id for made in make_runs(connection, wanted, requests)]


def make_runs(connection: Connection, wanted: Sequence[NewRun], requests: Sequence[str]) -> list[Made]:
    """Insert one run for each of ``wanted``, or one for each node where its job runs on all, and tell them in order.

    A request id that is known already, and a key that a run of the job holds, give the existing run, or the whole group
    that it belongs to. The number of statements hardly depends on the number of runs. Atomic within the caller's
    transaction.

    Raises:
        NotFound: there is no job of that name; nothing was inserted.
        Conflict: a job runs on all nodes of its pool, and none is registered there, or it has periods; nothing was
            inserted.
        Invalid: a job's row does not say on how many nodes it runs, or there are too many at once.
        Stale: a key was given back in between; roll back and ask again.
    """
    assert len(wanted) == len(requests)
    jobs = {row.name: row for row in connection.execute(READ_JOBS, {"names": sorted({new.job for new in wanted})})}
    for new in wanted:
        if new.job not in jobs:
            raise NotFound("job", new.job)
        if jobs[new.job].timeline is not None and new.part is None:
            raise Conflict(
                f"job {new.job} has periods, for which its runs are made by themselves: "
                f"`rota period reprocess {new.job} PERIOD` does one again"
            )
    # Only a moment that lies ahead, or a window, needs the clock before the insert.
    timed = any(
        new.run_at or new.in_seconds or new.start_within_seconds or jobs[new.job].start_within_seconds for new in wanted
    )
    now = now_of(connection) if timed else None
    spread = spread_requests(connection, list(zip(wanted, requests, strict=True)), jobs)
    rows: list[dict[str, Any]] = []
    first_of_key: dict[tuple[int, str], str] = {}
    request_of: list[str] = []
    for new, request in zip(wanted, requests, strict=True):
        known = jobs[new.job]
        key = (known.id, new.run_key) if new.run_key is not None else None
        if key is not None and key in first_of_key:  # the same key twice in one batch
            request_of.append(first_of_key[key])
            continue
        if key is not None:
            first_of_key[key] = request
        request_of.append(request)
        row = _request_row(new, request, known, now)
        if request not in spread:
            rows.append(row)
        elif spread[request].made is None:
            row["reason_text"] += f", on all {len(spread[request].rows)} nodes registered in pool {known.pool}"
            rows += [row | of_node for of_node in spread[request].rows]
    if len(rows) > MADE_MAX:
        raise Invalid("requests", f"{len(rows)} runs", f"a transaction makes at most {MADE_MAX}: ask for fewer at once")
    ids = _insert_asked(connection, rows)
    left = [row for row in rows if row["request_id"] not in ids]
    if any("group_id" in row for row in left):
        raise Stale("another request took the key of one of these nodes between our look and our insert")
    missing = {(row["job_id"], row["run_key"]): row for row in left}
    if missing and let_go_of_keys(connection, missing):
        ids |= _insert_asked(connection, list(missing.values()))
        missing = {key: row for key, row in missing.items() if row["request_id"] not in ids}
    held: set[str] = set()
    if missing:
        holders = find_holders(connection, missing)
        for key, row in missing.items():
            if key not in holders:
                raise Stale("the run that held this key let it go between our insert and our look")
            ids[row["request_id"]] = holders[key].id
            held.add(row["request_id"])
    alone = [row["request_id"] for row in rows if "group_id" not in row]
    made = {request: Made(ids[request], is_new=request not in held) for request in alone}
    for request, one in spread.items():
        if one.made is not None:
            made[request] = replace(one.made, is_new=one.made.group_id == request)  # else it was there before
        elif one.rows[0]["request_id"] in ids:  # else its key comes twice in this batch
            made[request] = Made(min(ids[row["request_id"]] for row in one.rows), request)
    return [made[request] for request in request_of]


def _insert_asked(connection: Connection, rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Insert the runs of requests, and their events, and return the ids by request of those that are there now."""
    _insert_runs(connection, rows)
    crash.at("enqueue.inserted")
    asked = encode_rows({"request_id": row["request_id"]} for row in rows)
    if audited := [_audit_row(row) for row in rows if _is_audited(row["requested_by"])]:
        connection.execute(AUDIT_ASKED, {"audited": encode_rows(audited)})
    connection.execute(TELL_ASKED, {"asked": asked})
    return {row.request_id: row.id for row in connection.execute(FIND_ASKED, {"asked": asked})}


def _is_audited(requested_by: str) -> bool:
    # Programs ask for thousands of runs a second, and each run says who asked for it.
    return isinstance(requested_by, Actor) and requested_by.door is not Door.PYTHON


def _audit_row(row: dict[str, Any]) -> dict[str, Any]:
    actor: Actor = row["requested_by"]
    by = {"actor": str(actor), "door": actor.door.value, "address": actor.address, "via": actor.via}
    return {"request_id": row["request_id"], **by}


def _request_row(new: NewRun, request: str, known: Any, now: datetime | None) -> dict[str, Any]:
    run_at = new.run_at
    if run_at is None and new.in_seconds and now is not None:
        run_at = now + timedelta(seconds=new.in_seconds)
    ahead = run_at is not None and now is not None and run_at > now
    within = new.start_within_seconds if new.start_within_seconds is not None else known.start_within_seconds
    start_by = None
    if within is not None and now is not None:
        start_by = (run_at if ahead and run_at is not None else now) + timedelta(seconds=within)
    paused = known.state == JobState.PAUSED.value
    awaits = known.after is not None and not new.is_forced
    return {
        "job_id": known.id,
        "job": known.name,
        "request_id": request,
        "run_key": new.run_key,
        "unique_seconds": new.unique_seconds,
        "state": (RunState.WAITING if ahead or awaits else RunState.READY).value,
        "reason": (Reason.UPSTREAM if awaits else Reason.NOT_BEFORE if ahead else Reason.ASKED).value,
        "reason_text": _say_asked(new, run_at if ahead else None)
        + (", after what it builds on" if awaits else "")
        + ("; its job is paused" if paused else ""),
        "awaits": awaits,
        "args": new.args,
        "pool": known.pool,
        "priority": known.priority if new.priority is None else new.priority,
        "delivery": known.delivery,
        "requested_by": new.requested_by,
        "run_at": run_at,
        "start_by": start_by,
        "queued": False,
        "lease_seconds": known.lease_seconds,
        "retries": new.retries,
        "retry_delay_seconds": new.retry_delay_seconds,
        "finished": False,
        "concurrency_key": new.concurrency_key or key_of(known.concurrency_key, new.args),
        **_period_columns(new),
    }


def _say_asked(new: NewRun, ahead: datetime | None) -> str:
    if new.part is not None:
        return f"made for period {new.part.name}"
    return "asked to run now" if ahead is None else f"asked for at {ahead:%Y-%m-%d %H:%M:%S} UTC"


def _period_columns(new: NewRun) -> dict[str, Any]:
    if new.part is None:
        return {}
    return {
        "period_id": new.period_id,
        "period": new.part.name,
        "period_start_at": new.part.start,
        "period_end_at": new.part.end,
        "range_start_at": new.part.range_start,
        "range_end_at": new.part.range_end,
    }
