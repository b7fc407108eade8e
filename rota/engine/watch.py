"""The watch: the main thread of a node. It speaks with the guardians and never with the database.

Every third of the lease it asks all guardians for a sign of life and has the claims renewed of those that gave one
since it asked before; a silent guardian is never renewed for, and one that is silent a round past its lease holds no
slot any more. Ends go to the bookkeeper, and are acknowledged when it has committed them. Long, since each message
between guardians, bookkeeper and renewer passes here.
"""

from __future__ import annotations

import logging
import math
import select
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from rota import crash
from rota.engine.bookkeeper import Acknowledge, Idle, RenewalWanted, Start
from rota.engine.bookkeeper import Message as BookkeeperMessage
from rota.engine.mailbox import Mailbox
from rota.engine.orders import make_order
from rota.engine.renewer import RenewalAsked, Renewed
from rota.engine.secrets import Unavailable
from rota.engine.settings import NodeSettings
from rota.errors import RotaError
from rota.execution.crew import Adopted, Crew, Ended, GuardianLeft, GuardianLost, Started
from rota.execution.linux import boottime
from rota.execution.order import Captured, Outcome, StopWhy, Told
from rota.execution.report import read_wish
from rota.model.documents import check_document_text
from rota.model.durations import DURATION_SECONDS_MAX
from rota.model.ending import NO_GUARDIAN_ERROR, RELEASE_ASKED
from rota.model.job import Executor
from rota.model.run import Claim, End, Piece, Report, Written
from rota.model.states import Delivery, NodeState

log = logging.getLogger("rota.worker")

WAIT_SECONDS_MAX = 5.0
# At first, a guardian may be about to notice that its worker or a stand-in has gone: until then it has no door.
KNOCK_AGAIN_SECONDS = 1.0
KNOCKS_SECONDS = 60.0
LOGGED_MAX = 1000  # of what a job says

# What a job's process tells instead of an end: the kind of end it makes, and its error type.
_WISHES: dict[str, tuple[str, str | None]] = {
    "skip": ("no_op", None),
    "release": ("released", RELEASE_ASKED),
    "undone": ("undone", None),
    "not_started": ("not_started", "EnvironmentBroken"),  # told by the runner of an environment
}


class Bookkeeping(Protocol):
    """Who brings into the database what the watch hears: the bookkeeper of a worker, or a stand-in."""

    @property
    def is_accepting(self) -> bool:
        """Whether guardians are taken over."""
        ...

    def hear_end(self, end: End) -> None:
        """Take over an end."""
        ...

    def hear_report(self, report: Report) -> None:
        """Take over what a running job has told."""
        ...

    def hear_adopted(self, claim_id: str) -> None:
        """Take over a claim whose worker is gone."""
        ...

    def hear_dead_guardian(self, claim_id: str) -> None:
        """Take over that a guardian died."""
        ...

    def hear_frozen(self, run_ids: frozenset[int]) -> None:
        """Take over which runs' processes are held now."""
        ...

    def let_go(self, claim_id: str) -> None:
        """Take over that a guardian is silent past its lease."""
        ...


class Renewing(Protocol):
    """Who renews: the renewer of a worker, or a stand-in."""

    def ask(self, asked: RenewalAsked) -> None:
        """Have these claims renewed."""
        ...


class Watch:
    """All attempts of this node that are under way."""

    def __init__(
        self, crew: Crew, settings: NodeSettings, node: str, *, renew_seconds_max: float | None = None
    ) -> None:
        self._crew = crew
        self._settings = settings
        self._node = node
        self._renew_seconds_max = renew_seconds_max  # who has no other way to hear of a cancellation asks more often
        self._claims: dict[str, Claim | Adopted] = {}
        self._deadlines: dict[str, float] = {}  # of the claims that have not ended: CLOCK_BOOTTIME
        self._pids: dict[str, int] = {}
        self._frozen: set[str] = set()  # claims whose processes are held
        self._told_frozen: frozenset[int] = frozenset()  # their runs, as the bookkeeper knows them
        self._recovering: set[str] = set()  # ends found on disk, under way to the database
        self._outbox: Mailbox[BookkeeperMessage | Renewed] = Mailbox()
        self._asked_at = 0.0  # when the guardians were last asked for a sign of life
        self._renew_at = 0.0
        self._knock_at = 0.0
        self._knocks_until = boottime() + KNOCKS_SECONDS
        self._is_renewed = False  # since it was asked for last, on leaving
        self._is_closed = False  # what was claimed and comes only now is given back unstarted
        self._is_closed_inline = False  # the same for what would end with this worker
        self.node_state: NodeState | None = NodeState.ALIVE
        self.on_name_lost: Callable[[], None] = lambda: None

    def tell(self, message: BookkeeperMessage | Renewed) -> None:
        """Leave a message for this thread, from any other."""
        self._outbox.put(message)

    @property
    def count(self) -> int:
        """How many attempts are under way, or ended and not yet acknowledged."""
        return len(self._claims)

    @property
    def is_recovering(self) -> bool:
        """Whether ends that were found on disk are under way to the database."""
        return bool(self._recovering)

    def apply(self, settings: NodeSettings) -> None:
        """Start what comes from now on by new settings."""
        self._settings = settings

    def rename(self, node: str) -> None:
        """Start what comes from now on under another name."""
        self._node = node

    def take_over(self, bookkeeper: Bookkeeping) -> None:
        """Take over what other workers of this folder have left: guardians with their jobs, and ends on disk."""
        if bookkeeper.is_accepting:
            self._crew.adopt()
        self._recover(bookkeeper)
        now = boottime()
        self._knock_at = now + KNOCK_AGAIN_SECONDS if now < self._knocks_until else math.inf

    def _recover(self, bookkeeper: Bookkeeping) -> None:
        for outcome in self._crew.recover(self._recovering):
            log.info("run %d ended while no worker was here: delivering its end", outcome.run_id)
            self._recovering.add(outcome.claim_id)
            bookkeeper.hear_end(end_of(outcome))

    def stop_all(self, why: StopWhy, grace_seconds: float) -> None:
        """Stop every job, and start no more; each tells its end as usual."""
        self._is_closed = True
        for claim_id in self._claims:
            self._crew.stop(claim_id, why, grace_seconds)

    @property
    def inline_count(self) -> int:
        """How many attempts end with this worker: those in executor processes, acknowledged ones apart."""
        return len(self._crew.inline_claim_ids)

    def close_inline(self) -> None:
        """Start nothing more in executor processes."""
        self._is_closed_inline = True

    def stop_inline(self, why: StopWhy, grace_seconds: float) -> None:
        """Stop what runs in executor processes; each tells its end as usual."""
        for claim_id in self._crew.inline_claim_ids:
            self._crew.stop(claim_id, why, grace_seconds)

    def hand_over(self, bookkeeper: Bookkeeping, renewer: Renewing, wake_fd: int, *, seconds_max: float) -> bool:
        """Start what was claimed last and have all leases renewed once more, so that whoever comes next has time.

        Tell whether the database has answered within ``seconds_max``.
        """
        give_up_at = boottime() + seconds_max
        self._renew_at = 0.0
        self._is_renewed = False
        while not self._is_renewed and boottime() < give_up_at:
            self.round(bookkeeper, renewer, wake_fd, until=give_up_at)
        return self._is_renewed

    def round(self, bookkeeper: Bookkeeping, renewer: Renewing, wake_fd: int, *, until: float | None = None) -> None:
        """Wait for the next thing to happen, no longer than ``until`` (CLOCK_BOOTTIME), and see to it."""
        wake_at = min(self._renew_at, self._knock_at, math.inf if until is None else until)
        timeout = max(0.0, min(WAIT_SECONDS_MAX, wake_at - boottime()))
        select.select([self._crew.fileno(), self._outbox.fileno(), wake_fd], [], [], timeout)
        for message in self._outbox.take_all():
            self._hear(message, bookkeeper)
        for happened in self._crew.poll(0):
            match happened:
                case Started(claim_id=claim_id, pid=pid):
                    self._pids[claim_id] = pid
                case Ended(outcome=outcome):
                    crash.at("end.heard")
                    self._deadlines.pop(outcome.claim_id, None)
                    end = end_of(outcome, self._pids.get(outcome.claim_id))
                    end = self._name_environment(end)
                    self._tell_bad_end(end)
                    bookkeeper.hear_end(end)
                case Told():
                    bookkeeper.hear_report(report_of(happened))
                case Adopted():
                    self._adopt(happened, bookkeeper)
                case GuardianLost(claim_id=claim_id):
                    log.error("the guardian of claim %s died; its job was killed", claim_id)
                    self._forget(claim_id)
                    bookkeeper.hear_dead_guardian(claim_id)
                case GuardianLeft(claim_id=claim_id):
                    if (claim := self._claims.get(claim_id)) is not None:  # else it was let go as silent already
                        log.warning("this worker stood still: run %d goes on without it", claim.run_id)
                        self._forget(claim_id)
                        bookkeeper.let_go(claim_id)
        for note in self._crew.take_notes():
            log.warning("%s", _loggable(note))
        self._tell_frozen(bookkeeper)
        if boottime() >= self._renew_at:
            self._let_silent_go(bookkeeper)
            self._renew(renewer)
            self.take_over(bookkeeper)
        elif boottime() >= self._knock_at:
            self.take_over(bookkeeper)

    def _hear(self, message: BookkeeperMessage | Renewed, bookkeeper: Bookkeeping) -> None:
        match message:
            case Start(claims=claims, counted_from=counted_from):
                for claim in claims:
                    self._start(claim, counted_from + claim.lease_seconds, bookkeeper)
            case Acknowledge(claim_ids=claim_ids):
                self._crew.acknowledge(claim_ids)
                for claim_id in claim_ids:
                    self._forget(claim_id)
                    if claim_id in self._recovering:
                        self._crew.forget(claim_id)
                        self._recovering.discard(claim_id)
                        if not self._recovering:  # there may be more than were read at once
                            self._recover(bookkeeper)
                    crash.at("end.acknowledged")
            case RenewalWanted():
                self._renew_at = 0.0
            case Idle():
                pass  # it has ended the wait, which is all it is for
            case Renewed():
                self._hear_renewed(message)

    def _start(self, claim: Claim, deadline: float, bookkeeper: Bookkeeping) -> None:
        if self._is_closed or (self._is_closed_inline and claim.executor != Executor.PROCESS):
            bookkeeper.hear_end(End(claim.claim_id, claim.run_id, "released", error_message="the worker is leaving"))
            return
        if claim.env is not None and claim.environment is None:  # its job was edited while it was claimed
            why = f"its job asks for environment {claim.env} now, which {self._node} does not have"
            bookkeeper.hear_end(End(claim.claim_id, claim.run_id, "released", error_message=why))
            return
        if claim.is_too_late:
            late = "it was claimed after that"
            bookkeeper.hear_end(End(claim.claim_id, claim.run_id, "deadline", error_message=late))
            return
        try:
            order = make_order(claim, self._settings, self._node, deadline)
        except Unavailable as error:  # not offered any more, so another node takes it, or this one once it can be read
            why = f"{self._node} cannot start it: {error}"
            log.warning("run %d is given back: %s", claim.run_id, error)
            bookkeeper.hear_end(End(claim.claim_id, claim.run_id, "released", error_message=_storable(why)))
            return
        except Exception as error:  # noqa: BLE001 - whatever stands in its row: this run fails, and the worker lives
            self._refuse(claim, error, bookkeeper)
            return
        crash.at("order.before")
        try:
            self._crew.start(order)
        except RotaError as error:
            self._refuse(claim, error, bookkeeper)
            return
        except OSError as error:  # no descriptor or process left for another one
            self._refuse(claim, error, bookkeeper, kind=NO_GUARDIAN_ERROR)
            return
        crash.at("order.sent")
        self._claims[claim.claim_id] = claim
        self._deadlines[claim.claim_id] = deadline
        self._renew_at = min(self._renew_at, boottime() + claim.lease_seconds / 3)

    def _adopt(self, adopted: Adopted, bookkeeper: Bookkeeping) -> None:
        log.info(
            "run %d of job %s goes on: its worker is gone, and this one takes it over", adopted.run_id, adopted.job
        )
        self._claims[adopted.claim_id] = adopted
        self._deadlines[adopted.claim_id] = adopted.deadline
        if adopted.is_frozen:
            self._frozen.add(adopted.claim_id)
        self._renew_at = 0.0  # nobody may have renewed for long
        bookkeeper.hear_adopted(adopted.claim_id)

    def _name_environment(self, end: End) -> End:
        """Say of an interpreter, or a folder, that could not be had whose it is, and what to do."""
        claim = self._claims.get(end.claim_id)
        if end.kind != "not_started" or not isinstance(claim, Claim) or claim.environment is None:
            return end
        environment, said = claim.environment, end.error_message or ""
        if any(f"{doing} {environment.interpreter!r} failed" in said for doing in ("running", "looking for")):
            what = "the interpreter"
        elif any(f"looking for {folder!r} failed" in said for folder in environment.python_path):
            what = "a folder"
        else:
            return end
        advice = (
            f"it is {what} of environment {environment.spelled} on {self._node}: put it back, "
            "or correct the environment where it is registered"
        )
        return replace(end, error_message=f"{said}; {advice}")

    def _tell_bad_end(self, end: End) -> None:
        # What ended well is in the ledger; a node that runs hundreds a second must not write a line for each.
        claim = self._claims.get(end.claim_id)
        if claim is None or (end.kind == "exited" and end.exit_code == 0):
            return
        how = f"exit code {end.exit_code}" if end.kind == "exited" else end.kind.replace("_", " ")
        what = f": {_loggable(end.error_message)}" if end.error_message else ""
        log.info("run %d of job %s, attempt %d: %s%s", claim.run_id, claim.job, claim.attempt, how, what)

    def _refuse(self, claim: Claim, error: Exception, bookkeeper: Bookkeeping, kind: str | None = None) -> None:
        log.warning("run %d could not be started: %s", claim.run_id, error)
        kind, message = kind or type(error).__name__, _storable(str(error))
        bookkeeper.hear_end(End(claim.claim_id, claim.run_id, "not_started", error_type=kind, error_message=message))

    def _forget(self, claim_id: str) -> None:
        self._claims.pop(claim_id, None)
        self._deadlines.pop(claim_id, None)
        self._pids.pop(claim_id, None)
        self._frozen.discard(claim_id)

    def _tell_frozen(self, bookkeeper: Bookkeeping) -> None:
        frozen = frozenset(self._claims[claim_id].run_id for claim_id in self._frozen)
        if frozen != self._told_frozen:
            self._told_frozen = frozen
            bookkeeper.hear_frozen(frozen)

    def _let_silent_go(self, bookkeeper: Bookkeeping) -> None:
        """Let go of claims whose guardian has not told an end although their lease is over: it is frozen.

        The nursery has killed the job. When the guardian goes on, its end comes as any other, and is an orphan.
        """
        now = boottime()
        for claim_id, deadline in list(self._deadlines.items()):
            claim = self._claims[claim_id]
            if now > deadline + claim.lease_seconds / 3:
                log.warning("the guardian of run %d is silent past its lease: not waiting for it", claim.run_id)
                self._forget(claim_id)
                bookkeeper.let_go(claim_id)

    def _renew(self, renewer: Renewing) -> None:
        now = boottime()
        shortest = min([self._settings.lease_seconds, *(claim.lease_seconds for claim in self._claims.values())])
        # Asked for again right after another one, it would leave out those that had no time to answer.
        answered = self._crew.answered(min(self._asked_at, now - shortest / 3))
        claims = {
            claim_id: self._claims[claim_id].lease_seconds
            for claim_id in answered
            if claim_id in self._claims and self._deadlines.get(claim_id, now) >= now  # else its job is dead already
        }
        renewer.ask(RenewalAsked(claims, now))
        self._crew.ask()
        self._asked_at = now
        seconds = shortest / 3
        self._renew_at = now + (seconds if self._renew_seconds_max is None else min(seconds, self._renew_seconds_max))

    def _hear_renewed(self, renewed: Renewed) -> None:
        by_deadline: dict[float, list[str]] = {}
        for claim_id, deadline in renewed.kept.items():
            if claim_id in self._deadlines:
                self._deadlines[claim_id] = deadline
                by_deadline.setdefault(deadline, []).append(claim_id)
        for deadline, claim_ids in by_deadline.items():
            self._crew.renewed(claim_ids, deadline)
        for claim_id in renewed.lost:
            if claim_id in self._deadlines and not self._may_have_ended(
                claim_id
            ):  # the end of another may have been recorded while this was under way
                log.warning("run %d belongs to another node now: its job is killed", self._claims[claim_id].run_id)
                self._crew.stop(claim_id, "lease_over", 0.0)
        for claim_id, who in renewed.cancelled.items():
            if claim_id in self._claims:
                log.info("run %d is cancelled by %s", self._claims[claim_id].run_id, who)
                self._crew.stop(claim_id, "cancelled", self._settings.grace_seconds)
        for claim_id in renewed.kept:
            if claim_id in self._claims and (claim_id in renewed.frozen) != (claim_id in self._frozen):
                self._frozen ^= {claim_id}
                self._crew.freeze(claim_id, is_frozen=claim_id in self._frozen)
        self._is_renewed = True
        if renewed.node_state is None and self.node_state is not None:
            self.on_name_lost()
        self.node_state = renewed.node_state

    def _may_have_ended(self, claim_id: str) -> bool:
        # A transactional job writes its end itself, and its process leaves a moment later. Should its run belong to
        # another node instead, nothing of what it writes can be committed, and its guardian stops it with its lease.
        claim = self._claims[claim_id]
        return claim.is_transactional if isinstance(claim, Adopted) else claim.delivery is Delivery.TRANSACTIONAL


def report_of(told: Told) -> Report:
    """Turn what a guardian tells of a running job into the report that is kept; what is no JSON is left out."""
    fraction, message = told.progress or (None, None)
    return Report(
        claim_id=told.claim_id,
        pieces=tuple(Piece(piece.stream, piece.position, piece.data, piece.marks) for piece in told.pieces),
        has_progress=told.progress is not None,
        progress=fraction,
        progress_message=_storable(message),
        checkpoint=_checkpoint_of(told.checkpoint),
    )


def _checkpoint_of(text: str | None) -> str | None:
    try:
        return None if text is None else check_document_text("checkpoint", text)
    except RotaError as error:
        log.warning("a checkpoint cannot be kept: %s", error)
        return None


def end_of(outcome: Outcome, pid: int | None = None) -> End:
    """Turn what a guardian tells into the end that is recorded; a result that cannot be kept makes it a failure."""
    kind, result = outcome.ended, outcome.result
    error_type, error_message = outcome.error_type, outcome.error_message
    if result is not None and kind == "exited":
        try:
            result = check_document_text("result", result)
        except RotaError as error:
            kind, result, error_type, error_message = "bad_result", None, type(error).__name__, str(error)
    retry_after_seconds = None
    wish = read_wish(outcome.error_type)
    if kind == "exited" and wish is not None:
        kind, error_type = _WISHES.get(wish[0], ("exception", "Retry"))
        if wish[1] is not None and 0 <= wish[1] <= DURATION_SECONDS_MAX:  # else after the delay of its job
            retry_after_seconds = wish[1]
    elif wish is not None and outcome.ended != "exited":
        error_type = None  # its process was stopped, or killed, before it had ended as it wished
    elif kind == "exited" and outcome.error_type is not None:  # told by a callable, whatever its exit code
        kind = {"NoResult": "no_result", "BadResult": "bad_result"}.get(outcome.error_type, "exception")
    return End(
        claim_id=outcome.claim_id,
        run_id=outcome.run_id,
        kind=kind,
        exit_code=outcome.exit_code,
        signal=outcome.signal,
        error_type=_storable(error_type),
        error_message=_storable(error_message),
        traceback=_storable(outcome.traceback),
        error_bases=outcome.error_bases,
        result=result,
        checkpoint=_checkpoint_of(outcome.checkpoint),
        retry_after_seconds=retry_after_seconds,
        seconds=outcome.seconds,
        cpu_seconds=outcome.cpu_seconds,
        memory_bytes_max=None if outcome.executor else outcome.memory_bytes_max,
        read_bytes=outcome.read_bytes,
        written_bytes=outcome.written_bytes,
        pid=pid,
        cold_because=_storable(outcome.cold_because),
        executor=outcome.executor,
        stdout=_written(outcome.stdout),
        stderr=_written(outcome.stderr),
    )


def _written(captured: Captured) -> Written:
    return Written(captured.head, captured.tail, captured.bytes_total, captured.marks)


def _loggable(text: str) -> str:
    # What a job says is shown as it is written, in one line: it must neither move a cursor nor pass for a line of ours.
    shown = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text[:LOGGED_MAX])
    return shown if len(text) <= LOGGED_MAX else shown + "..."


def _storable(text: str | None) -> str | None:
    # PostgreSQL's text holds no NUL, and no database a lone surrogate.
    if text is None:
        return None
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
