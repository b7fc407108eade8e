"""Trying schedules and jobs out in simulated time: ``Simulation``, a node whose clock a test moves.

Invariant: nothing is pretended but the clock and the processes. The schema, the store and the scheduler are those of a
worker, on an SQLite database in a temporary folder; the clock of that database stands still until it is moved, from one
due instant to the next; and a job is a function that is called in this process, where a worker would start one. Long,
since the clock, the node and what a test asks of them are one thing to those who use it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import secrets
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rota import __version__
from rota.client.rota import Rota
from rota.client.schema import upgrade
from rota.engine.scheduler import Scheduler
from rota.errors import Invalid, StateError
from rota.execution.context import CurrentPeriod
from rota.execution.limits import say_time_limit
from rota.execution.python_job import call, find_callable, name_bases, name_type
from rota.model.alerts import ALERT_CALL
from rota.model.documents import encode_document
from rota.model.durations import parse_duration
from rota.model.instants import check_zone, parse_instant
from rota.model.job import JobKind
from rota.model.outcomes import Release, Retry, Skip
from rota.model.run import Claim, End, NodeIdentity
from rota.model.states import NodeState
from rota.store.database import Database
from rota.store.endings import end_runs
from rota.store.forecast import read_ahead
from rota.store.jobs import read_environments, read_secret_names
from rota.store.leases import claim_runs, mark_started, renew_claims
from rota.store.nodes import describe_node, register_node
from rota.store.runs import LIST_MAX
from rota.store.types import INSTANT_FORMAT

LEASE_SECONDS = 60.0
ROUNDS_MAX = 10_000  # at one instant: a run that is given back again and again would never let the clock move
IDLE_WITHIN = timedelta(days=1)
_MICROSECOND = timedelta(microseconds=1)

Moment = str | datetime
Duration = str | float | timedelta
Handler = Callable[["SimulatedRun"], object]
Takes = Duration | Callable[["SimulatedRun"], Duration]


@dataclass(frozen=True, slots=True)
class SimulatedRun:
    """The run that a handler is called for, with the names that ``current_run()`` has."""

    run_id: int
    job: str
    schedule: str | None
    attempt: int  # 1 for the first
    slot: datetime | None
    run_at: datetime
    node: str
    fence: int
    key: str | None
    args: Any
    now: datetime  # when this attempt starts, by the simulation's clock
    period: CurrentPeriod | None = None  # None: its job has no periods


@dataclass(frozen=True, slots=True)
class _Underway:
    """An attempt whose handler has been called, and when its end will be told."""

    claim: Claim
    ends_at: datetime
    end: End


class _Governed(Rota):
    """A ``Rota`` on a database whose clock is not the machine's."""

    def __init__(self, database: Database, *, default_zone: str) -> None:
        super().__init__(default_zone=default_zone, actor="simulation")
        self._governed = database

    @property
    def database(self) -> Database:
        return self._governed

    def close(self) -> None:
        self._governed.close()


class Simulation:
    """A database and a node of its own in simulated time, to be used in a ``with`` block.

    ``rota`` is an ordinary ``Rota`` to add jobs, schedules and calendars with, and to ask. The clock stands at
    ``start`` until ``run_until``, ``advance`` or ``run_until_idle`` moves it. One node with ``slots`` serves ``pools``.
    Times without an offset are in ``default_zone``.

    A run calls the handler of its job. Without one, a job with ``call`` is imported and called with its arguments, in
    this process and without ``current_run()``; a command or shell line is not run, and succeeds.
    """

    def __init__(
        self,
        start: Moment = "2026-01-01T00:00Z",
        *,
        slots: int = 100,
        pools: Sequence[str] = ("default",),
        default_zone: str = "UTC",
    ) -> None:
        self._zone = check_zone("default_zone", default_zone)
        self._now = self._began = parse_instant("start", start, self._zone)
        self._slots = slots
        self._pools = tuple(pools)
        self._handlers: list[tuple[str | re.Pattern[str], Handler, Takes]] = []
        self._underway: dict[str, _Underway] = {}
        self._outages: list[tuple[datetime, datetime]] = []
        self._is_idle = True
        self._folder = tempfile.TemporaryDirectory(prefix="rota-simulation-")
        try:
            file = Path(self._folder.name) / "rota.db"
            file.write_bytes(_migrated())
            self._database = Database(f"sqlite:///{file}")
            self._database.sqlite_now = self._sqlite_now
            # Nothing of it outlives the process, so nothing has to reach the disk.
            dialect = self._database.dialect
            hasty = (*dialect.on_connect, "pragma synchronous = off")
            self._database.dialect = dataclasses.replace(dialect, on_connect=hasty)
            self.rota: Rota = _Governed(self._database, default_zone=default_zone)
            self._identity = NodeIdentity("simulation", secrets.token_hex(16), "")
            self._scheduler = Scheduler(
                self._database,
                self._identity,
                self._pools,
                LEASE_SECONDS,
                clock=self._seconds_passed,
            )
            self._scheduler.labels = None
            self._register()
        except BaseException:
            self._folder.cleanup()
            raise

    def __enter__(self) -> Simulation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the database."""
        self._database.close()
        self._folder.cleanup()

    @property
    def now(self) -> datetime:
        """What time it is in the simulation."""
        return self._now

    def handle(self, job: str | re.Pattern[str], handler: Handler, *, takes: Takes = 0.0) -> None:
        """Call ``handler`` for the runs of ``job``: a name, or a pattern that matches the whole of it; the last
        that was given wins.

        It is called with a ``SimulatedRun`` when an attempt starts. What it returns is the result, and what it raises
        ends the attempt as in a worker: ``Skip``, ``Retry``, ``Release``, or failed. The end comes ``takes`` later by
        the simulation's clock: a duration, or a function of the run that gives one. A job's ``timeout`` cuts it off.

        Raises:
            Invalid: a value breaks its rule.
        """
        if not callable(handler):
            raise Invalid("handler", handler, "it must be callable")
        if not callable(takes):
            parse_duration("takes", takes, zero_ok=True)
        self._handlers.insert(0, (job, handler, takes))

    def down(self, start: Moment, end: Moment) -> None:
        """Let there be no node from ``start`` to ``end``: nobody looks, and what runs at ``start`` is lost.

        Raises:
            Invalid: it ends before it starts, or would start in the past.
        """
        begins, ends = self._read("start", start), self._read("end", end)
        if begins < self._now:
            raise Invalid("start", start, f"an outage cannot start before now, {self._say_now()}")
        if ends <= begins:
            raise Invalid("end", end, "an outage ends after it starts")
        self._outages.append((begins, ends))
        self._outages.sort()

    def run_until(self, moment: Moment) -> None:
        """Move the clock on to ``moment``, stopping wherever something is due: all of it is decided, run and ended.

        Raises:
            Invalid: that lies in the past.
            StateError: at some instant there is no end of things to do, as with a run that gives itself back for ever.
        """
        until = self._read("moment", moment)
        if until < self._now:
            raise Invalid("moment", moment, f"the clock does not go back; it is {self._say_now()}")
        while (following := self._work()) is not None and following <= until:
            self._now = following
        self._now = until
        if not self._is_down():
            self._renew()

    def advance(self, duration: Duration) -> None:
        """Move the clock on by ``duration``, as ``run_until`` does."""
        self.run_until(self._now + timedelta(seconds=parse_duration("duration", duration, zero_ok=True)))

    def run_until_idle(self, within: Duration = IDLE_WITHIN) -> None:
        """Move the clock on until no run is unfinished; slots that come meanwhile are decided, and run, too.

        Raises:
            StateError: that is not so ``within`` so much simulated time.
        """
        until = self._now + timedelta(seconds=parse_duration("within", within))
        while (following := self._work()) is not None and not self._is_idle and following <= until:
            self._now = following
        if not self._is_idle:
            raise StateError(
                f"at {self._say_now()} there still are unfinished runs, and none ends by {until:%Y-%m-%d %H:%M:%S}"
            )
        self._renew()

    def runs(self, **chosen: Any) -> list[dict[str, Any]]:
        """Return all runs, oldest first, as ``rota.runs.list`` does; choose by ``job``, ``schedule`` and ``state``."""
        found: list[dict[str, Any]] = []
        while page := self.rota.runs.list(**chosen, limit=LIST_MAX, before=found[-1]["id"] if found else None):
            found += page
        return found[::-1]

    # The node

    def _work(self) -> datetime | None:
        """Do all that is due now, and return when there is something to do next."""
        if self._is_down():
            if self._underway:
                self._renew()  # as it has been all the time
                self._underway.clear()  # nobody is there to tell how they end, and their leases run out
            self._is_idle = False
            return max(end for start, end in self._outages if start <= self._now < end)
        self._settle()
        ahead = read_ahead(self._database)
        is_held = bool(self._underway)
        # A lease of its own is renewed whenever the clock has moved; only what an outage has lost is waited for.
        lost = ahead.lease_count > len(self._underway)
        self._is_idle = not is_held and not lost and ahead.next_due_at is None and not self._has_untaken()
        instants = [ahead.next_slot_at, ahead.next_due_at, ahead.next_half_open_at]
        instants += [ahead.next_period_at, ahead.next_ledger_at]
        instants.append(ahead.next_lease_end_at if lost else None)
        instants += [attempt.ends_at for attempt in self._underway.values()]
        instants += [start for start, _ in self._outages if start > self._now]
        # Ends of windows and leases count once they have passed.
        soonest = self._now + _MICROSECOND
        return min((max(soonest, instant) for instant in instants if instant is not None), default=None)

    def _has_untaken(self) -> bool:
        """Tell whether a run is ready, and no pool of this simulation is its own, or its job is paused."""
        return bool(self.rota.runs.list(state="ready", limit=1))

    def _is_down(self) -> bool:
        return any(start <= self._now < end for start, end in self._outages)

    def _settle(self) -> None:
        self._renew()
        for _ in range(ROUNDS_MAX):
            told = self._tell_ends()
            self._take_environments()
            outlook = self._scheduler.look()
            done = self._scheduler.round(outlook)
            if done.trouble is not None:
                raise done.trouble
            if outlook.has_cancelled:
                self._renew()
            started = self._start() if outlook.has_ready or done.ready else False
            if not (told or started or done.anything or outlook.has_cancelled):
                return
        raise StateError(f"at {self._say_now()} there is no end of things to do, after {ROUNDS_MAX} rounds")

    def _take_environments(self) -> None:
        """Have whatever environments and secrets jobs ask for; handlers are called in this process all the same."""
        environments = read_environments(self._database)
        secrets = read_secret_names(self._database)
        if environments.spelled != self._scheduler.environments.spelled or secrets != self._scheduler.secrets:
            self._scheduler.environments = environments
            self._scheduler.secrets = secrets
            describe_node(
                self._database,
                self._identity,
                state=NodeState.ALIVE,
                pools=self._pools,
                slots=self._slots,
                environments=environments.spelled,
                secrets=secrets,
            )

    def _renew(self) -> None:
        """Renew the leases; what somebody asked to cancel ends now."""
        renewal = renew_claims(self._database, self._identity, self._underway, LEASE_SECONDS)
        self._underway = {key: attempt for key, attempt in self._underway.items() if key in renewal.kept}
        for claim_id in renewal.cancelled:
            claim = self._underway[claim_id].claim
            self._underway[claim_id] = _Underway(claim, self._now, End(claim_id, claim.run_id, "cancelled"))

    def _tell_ends(self) -> bool:
        due = [attempt.end for attempt in self._underway.values() if attempt.ends_at <= self._now]
        if due:
            end_runs(self._database, due)
            for end in due:
                del self._underway[end.claim_id]
        return bool(due)

    def _start(self) -> bool:
        free = self._slots - len(self._underway)
        if free < 1:
            return False
        claims = claim_runs(
            self._database,
            self._identity,
            self._pools,
            free,
            LEASE_SECONDS,
            self._scheduler.environments,
            self._scheduler.secrets,
            self._scheduler.labels,
        )
        marked = mark_started(self._database, [claim.claim_id for claim in claims if not claim.marked])
        for claim in claims:
            if claim.marked or claim.claim_id in marked:
                self._underway[claim.claim_id] = self._execute(claim)
            else:  # cancelled meanwhile
                self._underway[claim.claim_id] = _Underway(
                    claim, self._now, End(claim.claim_id, claim.run_id, "released")
                )
        return bool(claims)

    def _execute(self, claim: Claim) -> _Underway:
        """Call the handler, and return what is to be told about it, and when."""
        if claim.is_too_late:
            return _Underway(
                claim,
                self._now,
                End(claim.claim_id, claim.run_id, "deadline", error_message="it was claimed after that"),
            )
        run = SimulatedRun(
            run_id=claim.run_id,
            job=claim.job,
            schedule=claim.schedule,
            attempt=claim.attempt,
            slot=claim.slot_at,
            run_at=claim.run_at,
            node=self._identity.name,
            fence=claim.fence,
            key=claim.run_key,
            args=json.loads(claim.args),
            now=self._now,
            period=_period_of(claim),
        )
        handler, takes = self._find_handler(claim)
        end = End(claim.claim_id, claim.run_id, **_outcome(handler, run, claim.problem))
        seconds = parse_duration("takes", takes(run) if callable(takes) else takes, zero_ok=True)
        if claim.limit_seconds is not None and seconds > claim.limit_seconds:
            seconds = claim.limit_seconds
            said = say_time_limit(seconds, seconds, claim.limited_by, None, grace_seconds=None)
            end = End(claim.claim_id, claim.run_id, claim.limited_by, error_message=said)
        end = dataclasses.replace(end, seconds=seconds)
        return _Underway(claim, self._now + timedelta(seconds=seconds), end)

    def _find_handler(self, claim: Claim) -> tuple[Handler, Takes]:
        for job, handler, takes in self._handlers:
            if job == claim.job if isinstance(job, str) else job.fullmatch(claim.job):
                return handler, takes
        if claim.kind == JobKind.CALL and claim.target != ALERT_CALL:  # nobody is told of what is simulated
            return lambda run: call(find_callable(claim.target), run.args), 0.0
        return lambda _: None, 0.0

    def _register(self) -> None:
        register_node(
            self._database,
            self._identity,
            host="simulation",
            pid=1,
            pid_started=0,
            pools=self._pools,
            slots=self._slots,
            version=__version__,
            lease_seconds=LEASE_SECONDS,
        )

    # The clock

    def _sqlite_now(self, plus_microseconds: float) -> str:
        return (self._now + timedelta(microseconds=int(plus_microseconds))).strftime(INSTANT_FORMAT)

    def _seconds_passed(self) -> float:
        return (self._now - self._began).total_seconds()

    def _read(self, field: str, moment: Moment) -> datetime:
        return parse_instant(field, moment, self._zone)

    def _say_now(self) -> str:
        return f"{self._now:%Y-%m-%d %H:%M:%S} UTC"


def _period_of(claim: Claim) -> CurrentPeriod | None:
    part = claim.part
    if part is None:
        return None
    return CurrentPeriod(part.name, part.start, part.end, part.range_start, part.range_end)


def _outcome(handler: Handler, run: SimulatedRun, problem: str | None) -> dict[str, Any]:
    """Call the handler, and say how the attempt ended, in the words of ``End``."""
    if problem is not None:
        return {"kind": "not_started", "error_message": problem}
    try:
        value = handler(run)
    except Skip as skipped:
        return {"kind": "no_op", "error_message": str(skipped)}
    except Release as released:
        return {"kind": "released", "error_message": str(released)}
    except Exception as error:  # noqa: BLE001 - whatever the handler raises is its run's end
        return {
            "kind": "exception",
            "error_type": "Retry" if isinstance(error, Retry) else name_type(type(error)),
            "error_bases": name_bases(error),
            "error_message": str(error),
            "traceback": None if isinstance(error, Retry) else "".join(traceback.format_exception(error)),
            "retry_after_seconds": error.after_seconds if isinstance(error, Retry) else None,
        }
    try:
        return {"kind": "succeeded", "result": encode_document("result", value)}
    except Invalid as error:
        return {"kind": "bad_result", "error_message": str(error)}


@functools.cache
def _migrated() -> bytes:
    """Return the file of a database with the schema and nothing in it, made once in a process."""
    with tempfile.TemporaryDirectory(prefix="rota-schema-") as folder:
        file = Path(folder) / "rota.db"
        upgrade(f"sqlite:///{file}")
        return file.read_bytes()
