"""What people do to runs: cancel, rerun, skip, mark as succeeded.

Invariant: an intervention is one move of the table of states, applied by compare-and-set like every other, and names
who asked for it. Only asking a running job to stop is no move: its guardian stops it first.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, bindparam, insert, null, select, update
from sqlalchemy.exc import DBAPIError

from rota.errors import AlreadyFinished, Conflict, NotFound
from rota.model.dependencies import Stand, UpstreamFailure, judge
from rota.model.job import OWN_CONNECTION, Executor
from rota.model.period_step import DONE_PERIODS, PeriodState
from rota.model.reasons import Reason
from rota.model.run import CLIENT_PREFIX
from rota.model.states import FINISHED, Because, Delivery, RunState, sources_of
from rota.store.audit import note_act
from rota.store.database import Database
from rota.store.dialects import Trouble
from rota.store.downstream import redo_downstream
from rota.store.endings import wake_queued
from rota.store.fanout import find_holders_anywhere, key_on
from rota.store.moves import Move, Stale, apply_moves, write_fresh
from rota.store.tables import event, job, period, run
from rota.store.types import db_now
from rota.store.upstreams import read_standings
from rota.store.wakeup import announce

_FACTS = [
    run.c.id,
    run.c.job_id,
    run.c.job,
    run.c.schedule_id,
    run.c.schedule,
    run.c.slot_at,
    run.c.run_at,
    run.c.state,
    run.c.reason_text,
    run.c.fence,
    run.c.claim_id,
    run.c.attempt,
    run.c.node,
    run.c.slot_count,
    run.c.period_id,
    run.c.period,
    run.c.target_node,
    run.c.group_id,
    run.c.cancel_asked_at,
    run.c.freeze_asked_at,
    run.c.run_key,
    run.c.active_key,
    run.c.delivery,
]
FIND_RUN = select(*_FACTS).where(run.c.id == bindparam("id")).with_for_update()
# Ask the node that has it to stop a running run. Served by the primary key.
ASK_CANCEL = (
    update(run)
    .where(
        run.c.id == bindparam("of_id"),
        run.c.state == RunState.RUNNING.value,
        run.c.fence == bindparam("of_fence"),
        run.c.cancel_asked_at.is_(None),
    )
    .values(cancel_asked_at=db_now(), cancel_asked_by=bindparam("actor"))
)
_still = (
    run.c.id == bindparam("of_id"),
    run.c.state == RunState.RUNNING.value,
    run.c.fence == bindparam("of_fence"),
)
# Ask the node that has it to hold its processes, or to let them go on. Served by the primary key.
ASK_FREEZE = (
    update(run)
    .where(*_still, run.c.freeze_asked_at.is_(None), run.c.cancel_asked_at.is_(None))
    .values(freeze_asked_at=db_now(), freeze_asked_by=bindparam("actor"))
)
ASK_THAW = (
    update(run)
    .where(*_still, run.c.freeze_asked_at.is_not(None))
    .values(freeze_asked_at=null(), freeze_asked_by=null())
)
# A rerun of a run that is for one node takes the key that it had there. Served by the primary key.
TAKE_KEY = update(run).where(run.c.id == bindparam("of_id")).values(active_key=bindparam("key"))
TELL_ASKED = insert(event).values(at=db_now(), kind="run")
HOW_IT_RUNS = (
    select(job.c.executor, job.c.connection).join(run, run.c.job_id == job.c.id).where(run.c.id == bindparam("id"))
)
PERIOD_OF = select(period.c.run_id, period.c.is_void, period.c.state).where(period.c.id == bindparam("period_id"))
JOB_OF = select(job.c.id).where(job.c.id == bindparam("job_id"))


def cancel_run(database: Database, run_id: int, *, actor: str) -> str:
    """Withdraw a run that has not started, or ask the node that runs it to stop it; return the run's state then.

    Asking again for a running one changes nothing.

    Raises:
        NotFound: there is no such run.
        AlreadyFinished: it has ended.
    """

    return write_fresh(database, lambda connection: cancel_within(connection, run_id, actor=actor))


def cancel_within(connection: Connection, run_id: int, *, actor: str) -> str:
    """Do what ``cancel_run`` does in the caller's transaction.

    Raises:
        Stale: the run moved on; roll back and do it again.
    """
    row = _find(connection, run_id)
    state = RunState(row.state)
    if state in FINISHED:
        raise AlreadyFinished(run_id, state)
    if state is not RunState.RUNNING:
        text = f"cancelled by {actor} before {'the next attempt' if row.attempt else 'it started'}"
        _apply(connection, row, RunState.CANCELLED, Because.CANCEL_ASKED, Reason.CANCEL, text, actor)
        return RunState.CANCELLED.value
    if row.cancel_asked_at is None:
        asked = connection.execute(ASK_CANCEL, {"of_id": run_id, "of_fence": row.fence, "actor": actor[:200]})
        if asked.rowcount != 1:
            raise Stale(f"run {run_id} moved on")
        text = f"{actor} asked to cancel it; {row.node} is to stop it"
        connection.execute(TELL_ASKED, _asked_event(row, actor, text, Reason.CANCEL))
        audited = f"run {run_id} of {row.job}: {row.node} is to stop it"
        note_act(connection, actor, "run", run_id, "cancel-asked", audited)
        announce(connection)
    return state.value


def freeze_run(database: Database, run_id: int, *, actor: str) -> bool:
    """Ask the node that has a running run to hold its processes; its lease goes on. False: it was asked to before, and
    nothing is changed.

    Raises:
        NotFound: there is no such run.
        Conflict: it is not running, about to be stopped, has no process of its own, or one that nobody may hold.
    """
    return _ask_freeze(database, run_id, actor, is_frozen=True)


def thaw_run(database: Database, run_id: int, *, actor: str) -> bool:
    """Ask the node that has a frozen run to let its processes go on. False: it is not frozen, and nothing is changed.

    Raises:
        NotFound: there is no such run.
        Conflict: it is not running.
    """
    return _ask_freeze(database, run_id, actor, is_frozen=False)


def _ask_freeze(database: Database, run_id: int, actor: str, *, is_frozen: bool) -> bool:
    word = "freeze" if is_frozen else "thaw"

    def ask(connection: Connection) -> bool:
        row = _find(connection, run_id)
        if RunState(row.state) is not RunState.RUNNING:
            raise Conflict(f"run {run_id} is {row.state}: only a running one has processes to {word}")
        if is_frozen and row.cancel_asked_at is not None:
            raise Conflict(f"run {run_id} is being cancelled: it is stopped, not frozen")
        if (row.freeze_asked_at is not None) == is_frozen:
            return False
        if is_frozen and (why_not := _why_not_freeze(connection, row, one_writer=database.dialect.one_writer)):
            raise Conflict(f"run {run_id} {why_not}")
        asked = {"of_id": run_id, "of_fence": row.fence}
        statement = ASK_FREEZE if is_frozen else ASK_THAW
        if connection.execute(statement, asked | ({"actor": actor[:200]} if is_frozen else {})).rowcount != 1:
            raise Stale(f"run {run_id} moved on")
        what = "hold its processes" if is_frozen else "let its processes go on"
        text = f"{actor} asked to {word} it; {row.node} is to {what}"
        connection.execute(TELL_ASKED, _asked_event(row, actor, text, None))
        audited = f"run {run_id} of {row.job}: {row.node} is to {what}"
        note_act(connection, actor, "run", run_id, f"{word}-asked", audited)
        announce(connection)
        return True

    return write_fresh(database, ask)


def _why_not_freeze(connection: Connection, row: Row[Any], *, one_writer: bool) -> str | None:
    """Say why nobody could hold the processes of a running run, or could let them go on; None: there is no reason."""
    if (row.node or "").startswith(CLIENT_PREFIX):
        return (
            f"is in the hands of {row.node}, a program that brings its own worker: Rota has none of its processes to "
            f"freeze; `rota run cancel {row.id}` is told to it"
        )
    how = connection.execute(HOW_IT_RUNS, {"id": row.id}).one_or_none()  # None: its job was deleted meanwhile
    if how is not None and how.executor in (Executor.THREAD, Executor.ASYNC):
        return (
            f"shares its process with others (executor {how.executor}), so it cannot be frozen: "
            f"cancel it with `rota run cancel {row.id}`, or give its job executor process"
        )
    # In its last moments a transactional job holds its run's row, for which the renewals of its node would wait.
    is_own = how is not None and how.connection == OWN_CONNECTION
    if row.delivery == Delivery.TRANSACTIONAL.value or (one_writer and is_own):
        return (
            "may be in a transaction of Rota's own database, and frozen it would hold what it has locked: others would "
            f"lose their leases by that; cancel it with `rota run cancel {row.id}`"
        )
    return None


def rerun_run(
    database: Database, run_id: int, *, actor: str, force: bool = False, downstream: bool = False
) -> list[int]:
    """Make a finished run ready again: the same run, its next attempt, budgets anew.

    With ``force`` whatever became of what its job runs after. With ``downstream`` all that builds on it is done again
    after it, in order; return these runs.

    Raises:
        NotFound: there is no such run, or its job is gone.
        Conflict: it has not ended, its row stands for many slots, another run holds its key now, what it builds on is
            not done, or what builds on it is running; nothing was changed.
    """

    def rerun(connection: Connection) -> list[int]:
        row = _find(connection, run_id)
        if RunState(row.state) not in FINISHED:
            raise Conflict(
                f"run {run_id} is {row.state}: wait for its end, or cancel it with `rota run cancel {run_id}`"
            )
        if row.slot_count > 1:
            raise Conflict(
                f"run {run_id} stands for {row.slot_count} slots that were passed over together: "
                f"ask for one run of the job with `rota job run {row.job}`"
            )
        if row.group_id is not None and not row.target_node:
            raise Conflict(
                f"run {run_id} stands for all nodes of its pool, and none was registered: ask for runs on those there "
                f"are now with `rota job run {row.job}`"
            )
        if connection.execute(JOB_OF, {"job_id": row.job_id}).scalar() is None:
            raise NotFound("job", row.job, f"it was deleted, so run {run_id} cannot be started again")
        if row.period_id is not None:
            _check_period_waits(connection, row)
        elif not force:
            _check_upstreams(connection, row)
        key = _key_of(row) if row.active_key is None else None
        if key is not None:
            _check_key_is_free(connection, row)
        text = f"{actor} asked for attempt {row.attempt + 1}; it had ended {row.state}: {row.reason_text}"
        _apply(connection, row, RunState.READY, Because.RERUN, Reason.RERUN, text, actor, resets=True)
        if key is not None and row.target_node:
            connection.execute(TAKE_KEY, {"of_id": run_id, "key": key})
        return redo_downstream(connection, run_id, actor=actor) if downstream else []

    try:
        return write_fresh(database, rerun)
    except DBAPIError as error:
        if database.dialect.classify(error) is not Trouble.TAKEN:
            raise
        raise Conflict(f"another run takes the key of run {run_id} at this moment: see `rota run list`") from error


def _check_period_waits(connection: Connection, row: Row[Any]) -> None:
    found = connection.execute(PERIOD_OF, {"period_id": row.period_id}).one_or_none()
    if found is None or found.run_id != row.id or found.is_void or PeriodState(found.state) in DONE_PERIODS:
        raise Conflict(
            f"period {row.period} does not wait for run {row.id} any more: `rota period reprocess {row.job} "
            f"{row.period}` does it again, with all that is built on it"
        )


def _check_upstreams(connection: Connection, row: Row[Any]) -> None:
    judgement = judge(read_standings(connection, [row])[row.id], UpstreamFailure.WAIT)
    if judgement.stand is not Stand.DONE:
        raise Conflict(
            f"run {row.id} builds on what is not done: {judgement.text}; see to that first, or do it all the same with "
            f"`rota run rerun {row.id} --force`"
        )


def _key_of(row: Row[Any]) -> str | None:
    """Return the key that a run holds while it is unfinished: one of its own for each node of a group."""
    return key_on(row.run_key, row.target_node) if row.run_key is not None and row.target_node else row.run_key


def _check_key_is_free(connection: Connection, row: Row[Any]) -> None:
    # While it is unfinished it holds its key again, as every run does: two at once is what a key keeps from happening.
    # The runs of one group have it together.
    held = find_holders_anywhere(connection, [(row.job_id, row.run_key)])
    others = [one for rows in held.values() for one in rows if row.group_id is None or one.group_id != row.group_id]
    for holder in sorted(others, key=lambda one: one.id)[-1:]:
        raise Conflict(
            f"run {row.id} has let go of its key {row.run_key}, which run {holder.id} ({holder.state}) holds now: "
            f"`rota run show {holder.id}` says until when"
        )


def skip_run(database: Database, run_id: int, *, actor: str) -> None:
    """Do without a run that has not started.

    Raises:
        NotFound: there is no such run.
        AlreadyFinished: it has ended.
        Conflict: it is running.
    """

    text = f"{actor} decided to do without it"
    write_fresh(database, lambda connection: skip_within(connection, run_id, actor=actor, text=text))


def skip_within(connection: Connection, run_id: int, *, actor: str, text: str) -> None:
    """Do what ``skip_run`` does in the caller's transaction, with ``text`` as the reason."""
    row = _find(connection, run_id)
    state = RunState(row.state)
    if state in FINISHED:
        raise AlreadyFinished(run_id, state)
    if state is RunState.RUNNING:
        raise Conflict(f"run {run_id} is running on {row.node}: cancel it with `rota run cancel {run_id}`")
    _apply(connection, row, RunState.SKIPPED, Because.DONE_WITHOUT, Reason.OPERATOR, text, actor)


def mark_succeeded(database: Database, run_id: int, *, actor: str) -> None:
    """Let a run that ended otherwise count as done.

    Raises:
        NotFound: there is no such run.
        AlreadyFinished: it succeeded already.
        Conflict: it has not ended.
    """

    def mark(connection: Connection) -> None:
        row = _find(connection, run_id)
        state = RunState(row.state)
        if state is RunState.SUCCEEDED:
            raise AlreadyFinished(run_id, state)
        if state not in sources_of(RunState.SUCCEEDED, Because.MARKED):
            raise Conflict(
                f"run {run_id} is {state}: wait for its end, or cancel it with `rota run cancel {run_id}` first"
            )
        text = f"{actor} said it counts as done; it had ended {state}: {row.reason_text}"
        _apply(connection, row, RunState.SUCCEEDED, Because.MARKED, Reason.MARKED, text, actor)

    write_fresh(database, mark)


def _find(connection: Connection, run_id: int) -> Row[Any]:
    row = connection.execute(FIND_RUN, {"id": run_id}).one_or_none()
    if row is None:
        raise NotFound("run", run_id)
    return row


def _apply(
    connection: Connection,
    row: Row[Any],
    target: RunState,
    because: Because,
    reason: Reason,
    text: str,
    actor: str,
    *,
    resets: bool = False,
) -> None:
    move = Move(
        run_id=row.id,
        fence=row.fence,
        claim_id=row.claim_id,
        source=RunState(row.state),
        target=target,
        because=because,
        reason=reason,
        text=text,
        actor=actor,
        resets=resets,
    )
    apply_moves(connection, [move])
    wake_queued(connection, [row])
    announce(connection)


def _asked_event(row: Row[Any], actor: str, text: str, reason: Reason | None) -> dict[str, Any]:
    return {
        "run_id": row.id,
        "schedule": row.schedule,
        "job": row.job,
        "from_state": row.state,
        "to_state": row.state,
        "reason": reason.value if reason else None,
        "text": text,
        "attempt": row.attempt,
        "node": row.node,
        "actor": actor[:200],
    }
