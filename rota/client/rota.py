"""``Rota``: one connection to a database, and everything an application does with it.

Invariant: no rule lives here. Values are checked by ``rota.model`` and written by ``rota.store``; this class turns one
into the other, and answers with plain values that can be written as JSON. Long, since its methods are what a program
types, one line of rules each.
"""

from __future__ import annotations

import getpass
import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from rota.client.declared import REGISTERED, Declaration, DeclaredJob, declare_all
from rota.client.location import database_url
from rota.errors import Invalid, UsageError
from rota.model.actor import Actor, Door
from rota.model.concurrency import check_key
from rota.model.documents import encode_arguments
from rota.model.durations import parse_duration
from rota.model.instants import check_zone, parse_instant
from rota.model.job import check_priority, check_retries, check_retry_delay, check_start_within
from rota.model.names import check_name
from rota.model.pages import Page
from rota.model.run import NewRun
from rota.model.uniqueness import check_unique_for
from rota.model.values import check_whole, check_word

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.orm import Session

    from rota.client.backfills import Backfills
    from rota.client.board import Board
    from rota.client.calendars import Calendars
    from rota.client.claims import Claim, Poller
    from rota.client.commands import Commands
    from rota.client.facts import Nodes, Pools, Why
    from rota.client.jobs import Jobs
    from rota.client.periods import Periods
    from rota.client.runs import RunHandle, Runs
    from rota.client.schedules import Schedules
    from rota.client.trust import Tokens, Users
    from rota.client.warner import Warner
    from rota.store.database import Database

P = ParamSpec("P")
R = TypeVar("R")

REQUEST_OPTIONS = frozenset(
    "job args key unique_for at delay start_within priority retries retry_delay concurrency_key".split()
)
REQUEST_LENGTH_MAX = 200
Request = Mapping[str, Any] | tuple[str, Mapping[str, object] | None]

ID_MAX = 2**63 - 1
CONNECTIONS_MAX = 5  # one for each thread of an application that asks at the same moment; more wait for a free one


class Rota:
    """Jobs, schedules and runs in one database.

    ``url`` is a SQLAlchemy URL; without it ``ROTA_DB``, the file ``ROTA_DB_FILE`` names, or SQLite in the user's state
    folder. Times without an offset are in ``default_zone``, which is also the zone of schedules that name none. Nothing
    is sent before it is first used, and then the schema is checked first. May be used from several threads.

    ``actor`` is who acts, user@host unless told, and ``door`` how they came (python, cli, http, page, sql): the history
    and the audit say so. With ``patience_seconds`` no lock that others hold is waited for longer, and after
    them nothing is tried again: ``DatabaseUnavailable`` is raised then, where it may take minutes otherwise.

    Raises:
        ConfigError: the URL cannot be used.
        DatabaseVersion: (at the first use) the schema does not fit: run ``rota db upgrade``.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        default_zone: str = "UTC",
        actor: str | None = None,
        door: str = Door.PYTHON,
        patience_seconds: float | None = None,
    ) -> None:
        self.default_zone = check_zone("default_zone", default_zone).key
        self._url = url
        self._patience_seconds = patience_seconds
        self._actor = actor
        self._door = check_word("door", door, Door)
        self._database: Database | None = None
        self._opening = threading.Lock()

    @classmethod
    def over(cls, database: Database, *, actor: str, default_zone: str = "UTC", door: str = Door.PYTHON) -> Rota:
        """Return one that uses a database which somebody else has opened, and closes.

        An ``Actor`` knows its door already; any other text acts through ``door``.
        """
        made = cls(default_zone=default_zone, actor=actor, door=door)
        made._database = database
        return made

    def __repr__(self) -> str:
        return f"Rota({self._database.shown_url!r})" if self._database else "Rota()"

    def __enter__(self) -> Rota:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back. It may be used again afterwards."""
        if self._database is not None:
            self._database.close()

    @property
    def database(self) -> Database:
        """The database behind this object, its schema checked when it was first used."""
        if self._database is None:
            # Not before it is needed: a process of a job that only imports its module never gets here.
            from rota.store.database import Database
            from rota.store.migrate import check_schema

            with self._opening:
                if self._database is None:
                    database = Database(
                        self._url or database_url(os.environ),
                        connections_max=CONNECTIONS_MAX,
                        patience_seconds=self._patience_seconds,
                    )
                    check_schema(database)
                    self._database = database
        return self._database

    @cached_property
    def actor(self) -> Actor:
        """Who acts, for the history and the audit: user@host unless told."""
        if isinstance(self._actor, Actor):
            return self._actor
        return Actor(self._actor or _who_am_i(), door=self._door)

    @cached_property
    def jobs(self) -> Jobs:
        """All jobs."""
        from rota.client.jobs import Jobs

        return Jobs(self)

    @cached_property
    def schedules(self) -> Schedules:
        """All schedules."""
        from rota.client.schedules import Schedules

        return Schedules(self)

    @cached_property
    def periods(self) -> Periods:
        """The periods of jobs."""
        from rota.client.periods import Periods

        return Periods(self)

    @cached_property
    def calendars(self) -> Calendars:
        """All calendars."""
        from rota.client.calendars import Calendars

        return Calendars(self)

    @cached_property
    def runs(self) -> Runs:
        """All runs."""
        from rota.client.runs import Runs

        return Runs(self)

    @cached_property
    def backfills(self) -> Backfills:
        """All backfills."""
        from rota.client.backfills import Backfills

        return Backfills(self)

    @cached_property
    def nodes(self) -> Nodes:
        """All nodes."""
        from rota.client.facts import Nodes

        return Nodes(self)

    @cached_property
    def pools(self) -> Pools:
        """All pools."""
        from rota.client.facts import Pools

        return Pools(self)

    @cached_property
    def why(self) -> Why:
        """Answers from recorded facts."""
        from rota.client.facts import Why

        return Why(self)

    @cached_property
    def board(self) -> Board:
        """Jobs, and nodes, by time."""
        from rota.client.board import Board

        return Board(self)

    @cached_property
    def users(self) -> Users:
        """All users."""
        from rota.client.trust import Users

        return Users(self)

    @cached_property
    def tokens(self) -> Tokens:
        """All tokens."""
        from rota.client.trust import Tokens

        return Tokens(self)

    @cached_property
    def commands(self) -> Commands:
        """What was asked for with SQL."""
        from rota.client.commands import Commands

        return Commands(self)

    @cached_property
    def warner(self) -> Warner:
        """What tells callers of pools that no node serves."""
        from rota.client.warner import Warner

        return Warner(self)

    @cached_property
    def _poller(self) -> Poller:
        from rota.client.claims import Poller

        return Poller(self)

    def audit(
        self,
        *,
        actor: str | None = None,
        door: str | None = None,
        kind: str | None = None,
        subject: str | None = None,
        did: str | None = None,
        since: str | datetime | None = None,
        until: str | datetime | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> Page[dict[str, Any]]:
        """Return who did what, the newest first: at most ``limit``, up to 1000, of those below the number ``before``.

        Each has ``id``, ``at``, ``actor``, ``door``, ``address``, ``via``, ``kind``, ``subject``, ``did`` and ``text``.
        ``did`` is such as ``"cancelled"``, and of one kind; ``until`` itself is not within. ``next`` of what is
        returned is the ``before`` of the next page.

        Raises:
            Invalid: there is no such door, a time is none, a number is none, or ``did`` is given without ``kind``.
        """
        from rota.store.audit import LIST_MAX, list_audit

        zone = check_zone("tz", self.default_zone)
        if did is not None and kind is None:
            raise Invalid("did", did, "say to what kind of thing too, such as run or job: kind")
        return list_audit(
            self.database,
            actor=actor,
            door=None if door is None else check_word("door", door, Door).value,
            kind=kind,
            subject=subject,
            did=did,
            since=None if since is None else parse_instant("since", since, zone),
            until=None if until is None else parse_instant("until", until, zone),
            before=None if before is None else check_whole("before", before, 0, ID_MAX),
            limit=check_whole("limit", limit, 1, LIST_MAX),
        )

    def job(
        self, *bare: Callable[..., Any], name: str | None = None, **options: Any
    ) -> Callable[[Callable[P, R]], DeclaredJob[P, R]]:
        """Declare the function below as a job; with a time, such as ``cron`` or ``every``, its schedule too.

        The name is the function's unless given. The options are those of ``jobs.add`` and ``schedules.add``. The
        declaration reaches the database when a worker starts with ``-m MODULE``, or by ``declare``.

        Raises:
            Invalid: an option breaks its rule.
            UsageError: it is used without parentheses.
        """
        if bare:
            raise UsageError("write @rota.job() with parentheses, and its options by name, as in @rota.job(name='x')")

        def decorate(function: Callable[P, R]) -> DeclaredJob[P, R]:
            job = DeclaredJob(self, function, name, options)
            REGISTERED[job.name] = job
            return job

        return decorate

    def declare(self) -> list[Declaration]:
        """Bring every job that this process's code has declared into force here; tell what became of each.

        What somebody edited through another door since is reported and left as it is.
        """
        declared = declare_all(self)
        self.warner.look_at_jobs(one.name for one in declared if one.kind == "job")
        return declared

    def poll(self, pool: str = "default", *, lease: str | float | timedelta = 60) -> Claim | None:
        """Take the next run of ``pool`` for this process, or return None: for those who bring their own worker.

        Runs of every kind of job are given out, so keep a pool for this. The lease ends unless ``heartbeat`` renews it.

        Raises:
            DatabaseUnavailable: nothing was taken that this process would know of; calling again is safe.
        """
        return self._poller.poll(pool, lease)

    def check(
        self,
        *,
        warning_late: str | float | timedelta | None = None,
        critical_late: str | float | timedelta | None = None,
    ) -> dict[str, Any]:
        """Look for what does not go on by itself: ``state`` (ok, warning, critical), ``findings``, ``counts``, ``now``.

        A finding has ``severity``, ``code``, ``subject``, ``text`` and ``since``. What is late for ``warning_late``
        (1 m) is found, and after ``critical_late`` (10 m) it is critical.

        Raises:
            Invalid: a threshold is no duration, or what is critical comes before what is only a warning.
        """
        from rota.model.findings import Thresholds
        from rota.store.health import check_health, show_health

        return show_health(check_health(self.database, Thresholds.checked(warning_late, critical_late)))

    def status(self) -> dict[str, Any]:
        """Return nodes, what runs, what is late, what failed lately, what ``check`` finds, and what is paused."""
        from rota.store.status import read_status

        return read_status(self.database)

    def forecast(self, days: int = 1, job: str | None = None, schedules: int | None = None) -> dict[str, Any]:
        """Tell what will run in the next ``days``, hour by hour, and how full the pools will be.

        Durations are those of the latest good attempts of each job: what has none counts as slots, and takes no time.
        When more is due than can be looked at, it covers less than was asked for, and says so by ``until`` and
        ``is_complete``. With ``schedules``, only the next so many to be due are looked at, in a time that is as short.

        Raises:
            Invalid: ``days`` is not 1 to 366, ``schedules`` not 1 to 100,000.
            NotFound: there is no such job.
        """
        from rota.client.forecast import read_forecast

        return read_forecast(self, days, job, schedules)

    def enqueue(
        self,
        job: str,
        args: Mapping[str, object] | None = None,
        *,
        key: str | None = None,
        unique_for: str | float | timedelta | None = None,
        at: str | datetime | None = None,
        delay: str | float | timedelta | None = None,
        start_within: str | float | timedelta | None = None,
        priority: int | None = None,
        retries: int | str | None = None,
        retry_delay: str | float | timedelta | None = None,
        concurrency_key: str | None = None,
        force: bool = False,
        request: str | None = None,
    ) -> RunHandle:
        """Ask for a run of ``job``: now, at a moment, or after a delay.

        Of a job that runs on all nodes of its pool, it is a run for each node that is registered, and the handle is a
        ``GroupHandle``. While a run of the job with the same ``key`` is unfinished, that one is returned and no other
        made. With ``unique_for`` (a duration, or ``"forever"``) that run holds the key so long after it was asked for,
        however it ended. ``retries`` (a number, or ``"forever"``) and ``retry_delay`` are this run's in the place of
        the job's. ``concurrency_key`` is the key by which runs are limited and share fairly, instead of what the job
        finds in the arguments. A run of a job that runs after others waits until their latest runs have succeeded,
        unless it has ``force``. ``request`` is any text of the caller's that makes it safe to ask again after an answer
        was lost: as long as the run is kept, the same actor asking with it gets that run.

        Raises:
            Invalid: a value breaks its rule; nothing was stored.
            NotFound: there is no such job.
            Conflict: it runs on all nodes of its pool, and none is registered; or ``request`` was for another run.
        """
        new = self.check_request(
            job,
            args,
            key=key,
            unique_for=unique_for,
            at=at,
            delay=delay,
            start_within=start_within,
            priority=priority,
            retries=retries,
            retry_delay=retry_delay,
            concurrency_key=concurrency_key,
            force=force,
        )
        from rota.client.groups import handle_of
        from rota.store.requests import request_once, request_runs

        if request is None:
            (made,) = request_runs(self.database, [new])
        else:
            made = request_once(self.database, new, check_request_word(request))
        self.warner.look_at_made([new], [made])
        return handle_of(self, made)

    def enqueue_many(self, requests: Sequence[Request]) -> list[RunHandle]:
        """Ask for many runs, up to 1000 of them in one transaction; return their handles, in order.

        Each request is ``(job, args)``, or a mapping with ``job`` and any of the options of ``enqueue``. All are
        checked before the first is stored.

        Raises:
            Invalid: a value breaks its rule; nothing was stored.
            NotFound: there is no job of that name; nothing of its thousand was stored.
        """
        from rota.client.groups import handle_of
        from rota.store.requests import request_runs

        wanted = self._check_requests(requests)
        if not wanted:
            return []
        made = request_runs(self.database, wanted)
        self.warner.look_at_made(wanted, made)
        return [handle_of(self, one) for one in made]

    def using(self, transaction: Connection | Session) -> Within:
        """Return what asks for runs inside ``transaction``: they exist if, and from when, the caller commits."""
        return Within(self, transaction)

    def check_request(
        self,
        job: str,
        args: Mapping[str, object] | None = None,
        *,
        key: str | None = None,
        unique_for: str | float | timedelta | None = None,
        at: str | datetime | None = None,
        delay: str | float | timedelta | None = None,
        start_within: str | float | timedelta | None = None,
        priority: int | None = None,
        retries: int | str | None = None,
        retry_delay: str | float | timedelta | None = None,
        concurrency_key: str | None = None,
        force: bool = False,
    ) -> NewRun:
        """Check what ``enqueue`` is given.

        Raises:
            Invalid: a value breaks its rule.
        """
        if at is not None and delay is not None:
            raise Invalid("delay", delay, "give either a moment (at) or a delay, not both")
        return NewRun(
            job=check_name("job", job),
            args=encode_arguments("args", args),
            run_key=check_name("key", key) if key is not None else None,
            unique_seconds=check_unique_for(unique_for, key),
            run_at=parse_instant("at", at, check_zone("tz", self.default_zone)) if at is not None else None,
            in_seconds=parse_duration("delay", delay, zero_ok=True) if delay is not None else None,
            start_within_seconds=check_start_within(start_within),
            priority=None if priority is None else check_priority(priority),
            retries=None if retries is None else check_retries(retries),
            retry_delay_seconds=None if retry_delay is None else check_retry_delay(retry_delay),
            concurrency_key=None if concurrency_key is None else check_key(concurrency_key),
            is_forced=force,
            requested_by=self.actor,
        )

    def _check_requests(self, requests: Sequence[Request]) -> list[NewRun]:
        wanted: list[NewRun] = []
        for number, request in enumerate(requests):
            if isinstance(request, Mapping):
                given: dict[str, Any] = dict(request)
            elif not isinstance(request, str) and len(request) == 2:  # text has a length too
                given = {"job": request[0], "args": request[1]}
            else:
                raise Invalid(f"requests[{number}]", request, "a request is (job, args), or a mapping with job")
            unknown = sorted(set(given) - REQUEST_OPTIONS)
            if "job" not in given or unknown:
                wrong = unknown[0] if unknown else given
                rule = f"a request has job, and may have {', '.join(sorted(REQUEST_OPTIONS - {'job'}))}"
                raise Invalid(f"requests[{number}]", wrong, rule)
            wanted.append(self.check_request(**given))
        return wanted


def check_request_word(value: object) -> str:
    """Return ``value`` if it can tell one request from another.

    Raises:
        Invalid: it is no text, empty or too long.
    """
    if not isinstance(value, str) or not 1 <= len(value) <= REQUEST_LENGTH_MAX:
        raise Invalid("request", value, f"it is text of 1 to {REQUEST_LENGTH_MAX} characters, another for each request")
    return value


class Within:
    """Asking for runs inside a transaction of the caller's own."""

    def __init__(self, rota: Rota, transaction: Connection | Session) -> None:
        from rota.store.requests import connection_of

        self._rota = rota
        self._connection = connection_of(transaction)

    def enqueue(self, job: str, args: Mapping[str, object] | None = None, **options: Any) -> RunHandle:
        """Ask for a run, as ``Rota.enqueue`` does; it exists once the caller commits.

        Raises:
            Conflict: another transaction asks for the same key at this moment: roll back and try again.
        """
        from rota.client.groups import handle_of
        from rota.store.requests import request_runs_within

        new = self._rota.check_request(job, args, **options)
        made = request_runs_within(self._rota.database, self._connection, [new])
        self._rota.warner.look_at_made([new], made)
        return handle_of(self._rota, made[0])


def _who_am_i() -> str:
    """Name who acts, for the history: user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a process whose user has no entry
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"[:200]
