"""The states of a run and every move between them, as one table.

The schema's check, the conditional updates of the store, the diagram in the documentation and the property test all
come from ``TRANSITIONS``. A move that is not in it raises.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from rota.errors import Conflict


class RunState(StrEnum):
    """Where a run stands."""

    WAITING = "waiting"  # its time, or something it depends on, is still ahead
    READY = "ready"  # any eligible node may claim it
    RUNNING = "running"  # exactly one claim is current
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    LOST = "lost"  # the node went away with it, and delivery forbids another try
    MISSED = "missed"  # its start window passed first, or catch-up left it out
    SKIPPED = "skipped"  # a rule or a person decided to do without it
    CANCELLED = "cancelled"


class Because(StrEnum):
    """Why a run moves from one state to another."""

    PLANNED = "planned"
    MAY_START = "may start"
    DONE_WITHOUT = "done without"
    WINDOW_PASSED = "window passed"
    NODE_FORGOTTEN = "node forgotten"
    CANCEL_ASKED = "cancel asked"
    CLAIMED = "claimed"
    ENDED_WELL = "ended well"
    ENDED_AS_NO_OP = "ended as a no-op"
    RETRY_LEFT = "retry left"
    NO_RETRY_LEFT = "no retry left"
    GIVEN_BACK = "given back"
    LEASE_OVER = "lease over"
    LATE_TRUTH = "late truth"
    MARKED = "marked by an operator"
    RERUN = "rerun by an operator"


@dataclass(frozen=True, slots=True)
class Transition:
    """One permitted move; ``source`` is None for a run that does not exist yet."""

    source: RunState | None
    target: RunState
    because: Because


NEW = None
_S = RunState

# fmt: off
TRANSITIONS: tuple[Transition, ...] = (
    #          from           to             because
    Transition(NEW,           _S.WAITING,    Because.PLANNED),
    Transition(NEW,           _S.READY,      Because.MAY_START),
    Transition(_S.WAITING,    _S.READY,      Because.MAY_START),
    Transition(NEW,           _S.SKIPPED,    Because.DONE_WITHOUT),
    Transition(_S.WAITING,    _S.SKIPPED,    Because.DONE_WITHOUT),
    Transition(_S.READY,      _S.SKIPPED,    Because.DONE_WITHOUT),
    Transition(NEW,           _S.MISSED,     Because.WINDOW_PASSED),
    Transition(_S.WAITING,    _S.MISSED,     Because.WINDOW_PASSED),
    Transition(_S.READY,      _S.MISSED,     Because.WINDOW_PASSED),
    Transition(_S.WAITING,    _S.MISSED,     Because.NODE_FORGOTTEN),
    Transition(_S.READY,      _S.MISSED,     Because.NODE_FORGOTTEN),
    Transition(_S.WAITING,    _S.CANCELLED,  Because.CANCEL_ASKED),
    Transition(_S.READY,      _S.CANCELLED,  Because.CANCEL_ASKED),
    Transition(_S.RUNNING,    _S.CANCELLED,  Because.CANCEL_ASKED),
    Transition(_S.READY,      _S.RUNNING,    Because.CLAIMED),
    Transition(_S.RUNNING,    _S.SUCCEEDED,  Because.ENDED_WELL),
    Transition(_S.RUNNING,    _S.SKIPPED,    Because.ENDED_AS_NO_OP),
    Transition(_S.RUNNING,    _S.WAITING,    Because.RETRY_LEFT),
    Transition(_S.RUNNING,    _S.FAILED,     Because.NO_RETRY_LEFT),
    Transition(_S.RUNNING,    _S.READY,      Because.GIVEN_BACK),
    Transition(_S.RUNNING,    _S.WAITING,    Because.GIVEN_BACK),
    Transition(_S.RUNNING,    _S.READY,      Because.LEASE_OVER),
    Transition(_S.RUNNING,    _S.WAITING,    Because.LEASE_OVER),
    Transition(_S.RUNNING,    _S.FAILED,     Because.LEASE_OVER),
    Transition(_S.RUNNING,    _S.LOST,       Because.LEASE_OVER),
    Transition(_S.LOST,       _S.SUCCEEDED,  Because.LATE_TRUTH),
    Transition(_S.LOST,       _S.FAILED,     Because.LATE_TRUTH),
    Transition(NEW,           _S.SUCCEEDED,  Because.MARKED),
    Transition(_S.FAILED,     _S.SUCCEEDED,  Because.MARKED),
    Transition(_S.LOST,       _S.SUCCEEDED,  Because.MARKED),
    Transition(_S.MISSED,     _S.SUCCEEDED,  Because.MARKED),
    Transition(_S.SKIPPED,    _S.SUCCEEDED,  Because.MARKED),
    Transition(_S.CANCELLED,  _S.SUCCEEDED,  Because.MARKED),
    Transition(_S.FAILED,     _S.WAITING,    Because.RERUN),
    Transition(_S.LOST,       _S.WAITING,    Because.RERUN),
    Transition(_S.MISSED,     _S.WAITING,    Because.RERUN),
    Transition(_S.SKIPPED,    _S.WAITING,    Because.RERUN),
    Transition(_S.CANCELLED,  _S.WAITING,    Because.RERUN),
    Transition(_S.SUCCEEDED,  _S.WAITING,    Because.RERUN),
    Transition(_S.FAILED,     _S.READY,      Because.RERUN),
    Transition(_S.LOST,       _S.READY,      Because.RERUN),
    Transition(_S.MISSED,     _S.READY,      Because.RERUN),
    Transition(_S.SKIPPED,    _S.READY,      Because.RERUN),
    Transition(_S.CANCELLED,  _S.READY,      Because.RERUN),
    Transition(_S.SUCCEEDED,  _S.READY,      Because.RERUN),
)
# fmt: on

UNFINISHED = frozenset({RunState.WAITING, RunState.READY, RunState.RUNNING})
FINISHED = frozenset(RunState) - UNFINISHED

_MOVES = {(move.source, move.target, move.because) for move in TRANSITIONS}


def check_move(source: RunState | None, target: RunState, because: Because) -> None:
    """Refuse a move that the table does not know.

    Raises:
        Conflict: the table has no such row; nothing may be written.
    """
    if (source, target, because) not in _MOVES:
        raise Conflict(f"a run cannot go from {source or 'new'} to {target} because {because}; see the table of states")


def sources_of(target: RunState, because: Because) -> frozenset[RunState]:
    """Return the states from which ``because`` leads to ``target``; a conditional update names exactly these."""
    return frozenset(
        move.source for move in TRANSITIONS if move.target is target and move.because is because and move.source
    )


class AttemptState(StrEnum):
    """Where one try stands."""

    CLAIMED = "claimed"  # taken, not yet allowed to start
    RUNNING = "running"  # the start mark is committed
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"  # ended as a no-op
    CANCELLED = "cancelled"
    RELEASED = "released"  # given back unspent
    LOST = "lost"  # its lease ended first


class CommandState(StrEnum):
    """What became of a command that was asked for with SQL."""

    PENDING = "pending"
    DONE = "done"
    REFUSED = "refused"  # nothing was changed; its error says why


class JobState(StrEnum):
    """Whether a job, a schedule or a pool goes on, or is held."""

    ACTIVE = "active"
    PAUSED = "paused"


class NodeState(StrEnum):
    """How a node stands towards the pool."""

    ALIVE = "alive"
    DRAINING = "draining"
    GONE = "gone"


class OnTerm(StrEnum):
    """What a worker that is told TERM does about the jobs that run."""

    LEAVE = "leave"  # leave at once: they go on, and the next worker of the machine takes them over
    DRAIN = "drain"  # wait for them
    AUTO = "auto"  # drain as process 1, since a container ends with it; else leave


class Delivery(StrEnum):
    """What happens to a run whose node died after the start mark."""

    AT_LEAST_ONCE = "at_least_once"  # another node starts it again
    AT_MOST_ONCE = "at_most_once"  # it ends ``lost``, and a person decides
    TRANSACTIONAL = "transactional"  # another one starts it again; its writes and its end commit together
