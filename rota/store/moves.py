"""The one place that writes a run's state.

Every change is a ``Move``: checked against the table of states, applied by one conditional update that names the state,
the fence and the claim it believes in, and told in one event. A batch of any size takes the same four statements. When
a row does not match, nothing of the batch is written and ``Stale`` makes the caller's transaction start over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, and_, case, func, not_, null, or_, update

from rota.errors import DatabaseUnavailable
from rota.model.actor import ACTOR_LENGTH_MAX, Actor
from rota.model.reasons import Reason
from rota.model.run import End
from rota.model.states import FINISHED, AttemptState, Because, RunState, check_move
from rota.store.audit import Act, note_acts
from rota.store.dependants import touch_dependants, wake_dependants
from rota.store.events import tell_runs
from rota.store.keys import HOLDS_KEY_BEYOND
from rota.store.permits import give_back_permits
from rota.store.tables import attempt, run
from rota.store.tallies import tally_attempts, tally_changes
from rota.store.types import db_now, db_now_plus, encode_rows, given_rows
from rota.store.wakeup import announce

T = TypeVar("T")

STALE_TRIES_MAX = 20


class Stale(Exception):
    """A row was not as it had been read a moment before: roll back and decide again."""


class Writer(Protocol):
    """Whatever runs repeatable work in one transaction: the database, or the renewer's own connection."""

    def write(self, work: Callable[[Connection], T], *, repeatable: bool) -> T:
        """Run ``work`` and commit."""
        ...


def write_fresh(writer: Writer, work: Callable[[Connection], T]) -> T:
    """Run repeatable ``work``, over again when a row changed between its reading and its writing.

    Raises:
        DatabaseUnavailable: nobody answers, or others were quicker each of many times; nothing was written.
    """
    return until_fresh(lambda: writer.write(work, repeatable=True))


def until_fresh(step: Callable[[], T]) -> T:
    """Do ``step``, which reads, decides and writes, over again while what it has read is ``Stale`` when it writes.

    Raises:
        DatabaseUnavailable: nobody answers, or others were quicker each of many times; nothing was written.
    """
    for _ in range(STALE_TRIES_MAX):
        try:
            return step()
        except Stale:
            continue
    raise DatabaseUnavailable(f"the rows were changed by others {STALE_TRIES_MAX} times meanwhile: try again")


@dataclass(frozen=True, slots=True)
class Move:
    """One change of one run's state, with what it does to the attempt that ends by it."""

    run_id: int
    fence: int
    claim_id: str | None
    source: RunState
    target: RunState
    because: Because
    reason: Reason
    text: str
    wait_seconds: float | None = None  # before it may start again; counted from the database's now
    retries_added: int = 0
    losses_added: int = 0
    result: str | None = None
    attempt_state: AttemptState | None = None  # set when the move ends an attempt
    end: End | None = None
    actor: str | None = None
    lease_seen_at: datetime | None = None  # of a rescue: the lease that was over; renewed meanwhile, the run stays
    cancel_seen: bool | None = (
        None  # whether a cancellation was asked for when it was decided; None: it does not matter
    )
    resets: bool = False  # a rerun: budgets and deadline start anew
    window_seconds: float | None = None  # in which it is to start, from now on; None: the window that it has
    awaits: bool = False  # it waits for its upstreams, which are looked at
    backfill_id: int | None = None  # of a rerun: who has it done; None: whoever had it done before
    avoids_node: bool = False  # after a bad end: another node than this attempt's comes first


_moves = given_rows(
    "moves",
    run_id="id",
    fence="id",
    claim_id="token",
    source="word",
    target="word",
    reason="word",
    text="text",
    wait_seconds="number",
    retries_added="id",
    losses_added="id",
    result="text",
    checkpoint="text",
    finished="flag",
    resets="flag",
    awaits="flag",
    backfill_id="id",
    window_seconds="number",
    actor="name",
    avoids_node="flag",
    lease_seen_at="instant",
    cancel_seen="flag",
)
_moved_at = case((_moves.c.wait_seconds.is_not(None), db_now_plus(_moves.c.wait_seconds)), else_=run.c.run_at)
_start_by = case((_moves.c.window_seconds.is_not(None), db_now_plus(_moves.c.window_seconds)), else_=run.c.start_by)

# Apply a batch of moves. Served by the primary key; the other conditions are the compare of the compare-and-set. The
# lease ends with every move made here, since the claim is the only move that begins one.
APPLY_MOVES = (
    update(run)
    .where(
        run.c.id == _moves.c.run_id,
        run.c.state == _moves.c.source,
        run.c.fence == _moves.c.fence,
        func.coalesce(run.c.claim_id, "") == func.coalesce(_moves.c.claim_id, ""),
        or_(_moves.c.lease_seen_at.is_(None), run.c.lease_ends_at <= _moves.c.lease_seen_at),
        or_(
            _moves.c.cancel_seen.is_(None),
            and_(_moves.c.cancel_seen, run.c.cancel_asked_at.is_not(None)),
            and_(not_(_moves.c.cancel_seen), run.c.cancel_asked_at.is_(None)),
        ),
    )
    .values(
        state=_moves.c.target,
        reason=_moves.c.reason,
        reason_text=_moves.c.text,
        result=case((_moves.c.result.is_not(None), _moves.c.result), else_=run.c.result),
        # What succeeded begins anew when it is done again; anything else goes on from where it was.
        checkpoint=case(
            (_moves.c.checkpoint.is_not(None), _moves.c.checkpoint),
            (and_(_moves.c.resets, _moves.c.source == RunState.SUCCEEDED.value), null()),
            else_=run.c.checkpoint,
        ),
        run_at=case((_moves.c.resets, db_now()), else_=_moved_at),
        # A waiting run is looked at when it may start, a ready one when its window closes, a finished one never.
        due_at=case(
            (_moves.c.awaits, null()),
            (_moves.c.target == RunState.WAITING.value, _moved_at),
            (
                and_(_moves.c.target == RunState.READY.value, run.c.started_at.is_(None), ~_moves.c.resets),
                _start_by,
            ),
            else_=null(),
        ),
        start_by=case((_moves.c.resets, null()), else_=_start_by),
        deadline_from_at=case((_moves.c.resets, null()), else_=run.c.deadline_from_at),
        queued=and_(_moves.c.target == RunState.WAITING.value, run.c.queued),
        finished_at=case((_moves.c.finished, db_now()), else_=null()),
        # A rerun takes its key again; one of a group, another for each node, is given it by who asks for the rerun.
        active_key=case(
            (and_(_moves.c.finished, ~HOLDS_KEY_BEYOND), null()),
            (and_(_moves.c.resets, run.c.target_node == ""), func.coalesce(run.c.active_key, run.c.run_key)),
            else_=run.c.active_key,
        ),
        retries_used=case((_moves.c.resets, 0), else_=run.c.retries_used + _moves.c.retries_added),
        losses=case((_moves.c.resets, 0), else_=run.c.losses + _moves.c.losses_added),
        behind_seconds=case((_moves.c.resets, null()), else_=run.c.behind_seconds),  # the line it stood in is gone
        avoid_node=case(
            (_moves.c.avoids_node, run.c.node),
            (or_(_moves.c.resets, _moves.c.finished), null()),
            else_=run.c.avoid_node,
        ),
        cancel_asked_at=case((_moves.c.target == RunState.CANCELLED.value, run.c.cancel_asked_at), else_=null()),
        cancel_asked_by=case((_moves.c.target == RunState.CANCELLED.value, run.c.cancel_asked_by), else_=null()),
        freeze_asked_at=null(),
        freeze_asked_by=null(),
        marked_at=null(),
        lease_ends_at=null(),
        backfill_id=func.coalesce(_moves.c.backfill_id, run.c.backfill_id),
        upstreams_due_at=case((_moves.c.awaits, db_now()), else_=null()),
        open_period_id=run.c.period_id,  # each end is to be taken note of
        awaiting_job_id=case((_moves.c.awaits, run.c.job_id), else_=null()),
    )
)

_ends = given_rows(
    "ends",
    claim_id="token",
    state="word",
    reason="word",
    reason_text="text",
    exit_code="id",
    exit_signal="id",
    error_type="text",
    error_message="text",
    traceback="text",
    result="text",
    seconds="number",
    cpu_seconds="number",
    memory_bytes_max="id",
    read_bytes="id",
    written_bytes="id",
    pid="id",
    cold_because="text",
    executor="word",
    stdout_bytes="id",
    stderr_bytes="id",
)
_PROCESS_FACTS = (
    "exit_code exit_signal seconds cpu_seconds memory_bytes_max read_bytes written_bytes pid cold_because executor "
    "stdout_bytes stderr_bytes"
).split()
_ATTEMPT_FACTS = (*"state reason reason_text error_type error_message traceback result".split(), *_PROCESS_FACTS)

# Close the attempts that ended. Served by the unique claim.
CLOSE_ATTEMPTS = (
    update(attempt)
    .where(attempt.c.claim_id == _ends.c.claim_id)
    .values(finished_at=db_now(), **{name: _ends.c[name] for name in _ATTEMPT_FACTS})
)

# The same for those that their job has closed: how its process ended, and what it cost.
COMPLETE_ATTEMPTS = (
    update(attempt)
    .where(attempt.c.claim_id == _ends.c.claim_id)
    .values({name: _ends.c[name] for name in _PROCESS_FACTS})
)

# Tell each move in the history.
TELL_MOVES = tell_runs(
    run.c.id == _moves.c.run_id,
    from_state=_moves.c.source,
    attempt=run.c.attempt,
    node=run.c.node,
    actor=_moves.c.actor,
)


def apply_moves(connection: Connection, moves: Sequence[Move]) -> int:
    """Write ``moves`` and their events, all or none; the attempts of those that end one are closed with them.

    Returns how many permits came free by it, which others may wait for; they are told.

    Raises:
        Stale: a run is not in the state, or not under the claim, that its move was decided for.
        Conflict: the table of states has no such move.
    """
    if not moves:
        return 0
    for move in moves:
        check_move(move.source, move.target, move.because)
    rows = encode_rows(_move_row(move) for move in moves)
    matched = connection.execute(APPLY_MOVES, {"moves": rows}).rowcount
    if matched != len(moves):
        raise Stale(f"{len(moves) - matched} of {len(moves)} runs changed meanwhile")
    ended_claims = [move.claim_id for move in moves if move.source is RunState.RUNNING and move.claim_id is not None]
    freed = give_back_permits(connection, ended_claims)
    if freed:
        announce(connection)
    ended = [move for move in moves if move.attempt_state is not None]
    if ended:
        tally_attempts(connection, [move.claim_id for move in ended if move.source is RunState.LOST], -1)
        connection.execute(CLOSE_ATTEMPTS, {"ends": encode_rows(_attempt_row(move) for move in ended)})
        tally_attempts(connection, [move.claim_id for move in ended], 1)
    connection.execute(TELL_MOVES, {"moves": rows})
    tally_changes(connection, _finishes(moves))
    _audit(connection, moves)
    wake_dependants(connection, [move.run_id for move in moves if move.target in FINISHED])
    touch_dependants(connection, [move.run_id for move in moves if move.resets])
    return freed


def _finishes(moves: Sequence[Move]) -> list[tuple[int, str, int]]:
    came = [(move.run_id, move.target.value, 1) for move in moves if move.target in FINISHED]
    return came + [(move.run_id, move.source.value, -1) for move in moves if move.source in FINISHED]


def _audit(connection: Connection, moves: Sequence[Move]) -> None:
    acts: dict[Actor, list[Act]] = {}
    for move in moves:
        if isinstance(move.actor, Actor):
            text = f"run {move.run_id} was {move.source.value} and is {move.target.value}: {move.because.value}"
            acts.setdefault(move.actor, []).append(Act("run", str(move.run_id), move.target.value, text))
    for actor, done in acts.items():
        note_acts(connection, actor, done)


def complete_attempts(connection: Connection, ends: Sequence[End]) -> None:
    """Add how the processes of attempts ended whose end is recorded already."""
    if ends:
        rows = encode_rows({"claim_id": end.claim_id, **_process_facts(end)} for end in ends)
        connection.execute(COMPLETE_ATTEMPTS, {"ends": rows})


def _move_row(move: Move) -> dict[str, Any]:
    return {
        "run_id": move.run_id,
        "fence": move.fence,
        "claim_id": move.claim_id,
        "source": move.source.value,
        "target": move.target.value,
        "reason": move.reason.value,
        "text": move.text,
        "wait_seconds": move.wait_seconds,
        "retries_added": move.retries_added,
        "losses_added": move.losses_added,
        "result": move.result,
        "checkpoint": move.end.checkpoint if move.end is not None else None,
        "finished": move.target in FINISHED,
        "resets": move.resets,
        "awaits": move.awaits,
        "backfill_id": move.backfill_id,
        "window_seconds": move.window_seconds,
        "actor": move.actor[:ACTOR_LENGTH_MAX] if move.actor else None,
        "avoids_node": move.avoids_node,
        "lease_seen_at": move.lease_seen_at,
        "cancel_seen": move.cancel_seen,
    }


def _attempt_row(move: Move) -> dict[str, Any]:
    assert move.attempt_state is not None
    row: dict[str, Any] = {
        "claim_id": move.claim_id,
        "state": move.attempt_state.value,
        "reason": move.reason.value,
        "reason_text": move.text,
        "result": move.result,
    }
    if (end := move.end) is not None:
        row |= _process_facts(end)
    return row


def _process_facts(end: End) -> dict[str, Any]:
    return {
        "exit_code": end.exit_code,
        "exit_signal": end.signal,
        "error_type": end.error_type,
        "error_message": end.error_message,
        "traceback": end.traceback,
        "seconds": end.seconds,
        "cpu_seconds": end.cpu_seconds,
        "memory_bytes_max": end.memory_bytes_max,
        "read_bytes": end.read_bytes,
        "written_bytes": end.written_bytes,
        "pid": end.pid,
        "cold_because": end.cold_because,
        "executor": end.executor,
        "stdout_bytes": end.stdout.bytes_total,
        "stderr_bytes": end.stderr.bytes_total,
    }
