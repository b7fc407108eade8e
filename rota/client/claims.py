"""Bring your own worker: take a run, keep its lease, say how it ended. ``rota.poll`` and ``Claim``.

Invariant: everything a claim writes names its claim id, so that after its lease is gone it changes nothing and says so
by ``Preempted``. Here the code of the job and its heartbeat share a process: code that holds the interpreter for longer
than the lease loses it. A worker of Rota's own has guardians instead.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rota.errors import AlreadyFinished, DatabaseUnavailable, Invalid, Preempted
from rota.execution.linux import boottime
from rota.execution.python_job import name_bases, name_type
from rota.model.documents import encode_document
from rota.model.durations import parse_duration
from rota.model.job import LEASE_SECONDS, LEASE_SECONDS_MAX, LEASE_SECONDS_MIN
from rota.model.names import check_pool
from rota.model.run import CLIENT_PREFIX, End, NodeIdentity
from rota.model.run import Claim as Held
from rota.store.advancing import advance_runs
from rota.store.breakers import let_runs_through
from rota.store.clock import ClockWatch, read_clock
from rota.store.endings import end_runs, rescue_runs
from rota.store.firing import fire_schedules
from rota.store.leases import claim_runs, mark_started, renew_claims
from rota.store.runs import read_ended

if TYPE_CHECKING:
    from rota.client.rota import Rota
    from rota.store.database import Database

TEND_SECONDS = 1.0
ERROR_LENGTH_MAX = 100_000
BROKEN_MAX = 100  # runs that nobody could execute, passed over in one poll


class Poller:
    """Takes runs for this process, under a name of its own that no other process has."""

    def __init__(self, rota: Rota, *, clock: Callable[[], float] = boottime) -> None:
        self._rota = rota
        self._watch: ClockWatch | None = None  # from the first look on, since it takes the database
        host = socket.gethostname()[:150]
        self.identity = NodeIdentity(
            name=f"{CLIENT_PREFIX}{host}:{os.getpid()}", holder=secrets.token_hex(16), boot_id=_read_boot_id()
        )
        self._clock = clock
        self._tended_at: float | None = None
        self._lock = threading.Lock()

    def poll(self, pool: str, lease: str | float | timedelta) -> Claim | None:
        """Take the next run of ``pool``, or return None. See ``Rota.poll``."""
        check_pool(pool)
        seconds = parse_duration("lease", lease, minimum=LEASE_SECONDS_MIN, maximum=LEASE_SECONDS_MAX)
        for _ in range(BROKEN_MAX):
            held = self._claim(pool, seconds)
            if held is None:
                return None
            if held.is_too_late:
                late = "it was claimed after that"
                end_runs(self._rota.database, [End(held.claim_id, held.run_id, "deadline", error_message=late)])
                continue
            if not held.marked and held.claim_id not in mark_started(self._rota.database, [held.claim_id]):
                continue  # cancelled, or lost, between the claim and the mark
            args, broken = _read(held)
            if broken is not None:
                # Written by hand: it fails with the reason, and the next one is taken.
                end = End(held.claim_id, held.run_id, "not_started", error_message=_text(broken))
                end_runs(self._rota.database, [end])
                continue
            return Claim(self._rota, self.identity, replace(held, marked=True), args)
        return None

    def _claim(self, pool: str, lease_seconds: float) -> Held | None:
        database = self._rota.database

        def claim() -> list[Held]:
            # What its code writes, and the end that it tells here, would be two transactions.
            return claim_runs(database, self.identity, [pool], 1, lease_seconds, transactional=False)

        claimed = claim()
        if not claimed and self._tend(database):
            claimed = claim()
        return claimed[0] if claimed else None

    def _tend(self, database: Database) -> bool:
        """Do a node's duties, once a second at most, so that retries and schedules go on where nobody else is there."""
        with self._lock:
            now = self._clock()
            if self._tended_at is not None and now - self._tended_at < TEND_SECONDS:
                return False
            self._tended_at = now
            if self._watch is None:
                self._watch = ClockWatch(database, LEASE_SECONDS, node=self.identity.name)
            as_of, is_held = read_clock(database)
            if step := self._watch.observe(now, self._clock(), as_of):
                is_held = step > 0
        rescued = 0 if is_held else rescue_runs(database, rescuer=self.identity.name, as_of=as_of)
        fired = fire_schedules(database, fired_by=self.identity.name, is_held=is_held, as_of=as_of)
        advanced = advance_runs(database, is_held=is_held, as_of=as_of)
        through = let_runs_through(database)
        return bool(rescued or fired.ready or advanced.ready or through)


class Claim:
    """The right to one attempt of a run. End it by one of ``finish``, ``retry``, ``fail``, ``skip`` and ``release``."""

    def __init__(self, rota: Rota, identity: NodeIdentity, held: Held, args: Any) -> None:
        self._rota = rota
        self._identity = identity
        self._held = held
        self._began = time.monotonic()
        self._is_ended = False
        self._cancelled_by: str | None = None
        self.args = args

    def __repr__(self) -> str:
        return f"<claim of run {self.run_id}, attempt {self.attempt}>"

    @property
    def run_id(self) -> int:
        """The run."""
        return self._held.run_id

    @property
    def job(self) -> str:
        """The name of the run's job."""
        return self._held.job

    @property
    def schedule(self) -> str | None:
        """The schedule the run is of; None when somebody asked for it."""
        return self._held.schedule

    @property
    def slot(self) -> datetime | None:
        """The instant at which the schedule was due."""
        return self._held.slot_at

    @property
    def key(self) -> str | None:
        """The key the run was asked for with."""
        return self._held.run_key

    @property
    def attempt(self) -> int:
        """The number of this attempt; 1 for the first."""
        return self._held.attempt

    @property
    def fence(self) -> int:
        """Rises with every claim of the run: an outside system may refuse a lower one than it has seen."""
        return self._held.fence

    @property
    def lease_seconds(self) -> float:
        """How long the lease lasts after the claim, and after each heartbeat."""
        return self._held.lease_seconds

    @property
    def timeout_seconds(self) -> float | None:
        """The limit for this attempt, by the job's timeout and deadline; to be kept by whoever brings the worker."""
        return self._held.limit_seconds

    @property
    def is_ended(self) -> bool:
        """Whether one of the methods that end the attempt was called with effect."""
        return self._is_ended

    @property
    def is_cancelled(self) -> bool:
        """Whether the last heartbeat brought that somebody wants the run stopped."""
        return self._cancelled_by is not None

    def heartbeat(self) -> bool:
        """Renew the lease, and tell whether somebody asked to cancel the run: stop and ``release`` it then.

        Raises:
            Preempted: the lease is gone: stop, another node may have the run.
            AlreadyFinished: this claim was ended before.
            DatabaseUnavailable: nothing is known to be renewed; try again before the lease ends.
        """
        self._refuse_ended()
        renewal = renew_claims(self._rota.database, self._identity, [self._held.claim_id], self.lease_seconds)
        if self._held.claim_id in renewal.lost:
            raise Preempted(self.run_id, self.fence)
        if self._held.claim_id not in renewal.kept:
            raise DatabaseUnavailable(f"run {self.run_id} is locked by another transaction: try again")
        self._cancelled_by = renewal.cancelled.get(self._held.claim_id)
        return self.is_cancelled

    def finish(self, result: object = None) -> None:
        """End the run as succeeded.

        Raises:
            Invalid: the result is not JSON; the claim is still held, and nothing was written.
            Preempted: the lease is gone; the result was kept as an orphan and changes nothing.
            AlreadyFinished: this claim was ended before.
        """
        self._end("succeeded", result=encode_document("result", result))

    def retry(self, after: str | float | timedelta | None = None, reason: str = "the job asked for a retry") -> None:
        """End the attempt and have it tried again, after the job's retry delay or ``after``.

        It spends one of the job's retries; when none is left, the run fails.

        Raises:
            Preempted, AlreadyFinished: as for ``finish``.
        """
        seconds = None if after is None else parse_duration("after", after, zero_ok=True)
        self._end("exception", error_type="Retry", error_message=_text(reason), retry_after_seconds=seconds)

    def fail(self, error: BaseException | str) -> None:
        """End the attempt as failed; the job's retries decide whether another follows.

        Raises:
            Preempted, AlreadyFinished: as for ``finish``.
        """
        if isinstance(error, str):
            self._end("exception", error_message=_text(error))
            return
        self._end(
            "exception",
            error_type=name_type(type(error)),
            error_bases=name_bases(error),
            error_message=_text(str(error)),
            traceback=_text("".join(traceback.format_exception(error))),
        )

    def refuse(self, reason: str) -> None:
        """End the attempt as one that could not be started; the job's retries decide whether another follows.

        Raises:
            Preempted, AlreadyFinished: as for ``finish``.
        """
        self._end("not_started", error_message=_text(reason))

    def skip(self, reason: str = "the job found nothing to do") -> None:
        """End the run as skipped: there was nothing to do.

        Raises:
            Preempted, AlreadyFinished: as for ``finish``.
        """
        self._end("no_op", error_message=_text(reason))

    def release(self, reason: str = "") -> None:
        """Give the run back unspent; any node may take it at once. One whose cancellation was asked for ends cancelled.

        Raises:
            Preempted, AlreadyFinished: as for ``finish``.
        """
        self._end("released", error_message=_text(reason) or None)

    def _end(self, kind: str, **facts: Any) -> None:
        self._refuse_ended()
        end = End(
            self._held.claim_id, self.run_id, kind, seconds=time.monotonic() - self._began, pid=os.getpid(), **facts
        )
        delivered = end_runs(self._rota.database, [end])
        if self._held.claim_id in delivered.orphaned:
            raise Preempted(self.run_id, self.fence)
        self._is_ended = True

    def _refuse_ended(self) -> None:
        if self._is_ended:
            raise AlreadyFinished(self.run_id, read_ended(self._rota.database, self.run_id).state)


def _read(held: Held) -> tuple[Any, str | None]:
    """Return the arguments of a run, and what keeps it from being carried out, if anything does."""
    if held.problem is not None:
        return None, str(Invalid("job", held.job, held.problem))
    try:
        return json.loads(held.args), None
    except (ValueError, RecursionError) as error:
        return None, f"its arguments are not JSON: {error}"


def _text(text: str) -> str:
    """Make any text one that every database keeps: a message must not keep an end from being told."""
    clean = text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")
    return clean if len(clean) <= ERROR_LENGTH_MAX else "[...] " + clean[-ERROR_LENGTH_MAX:]


def _read_boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # not Linux: nobody compares it then
        return ""
