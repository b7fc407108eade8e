"""Permits: the places of the limits that hold in the whole cluster.

A limit of N has N rows, numbered from 1; a claim takes one row of each limit of its run, by compare-and-set, in its own
transaction, and whatever ends the claim gives them back in its own. So a limit is exact whoever claims, and what a dead
node held comes back with the lease. A rate is the same with rows that come free by time.

Invariant: a row is taken by one claim at a time, and by no claim that is over. A run takes all its permits or none, in
one statement, so two runs never wait for each other. Rows are made when they are wanted for the first time. Called by
the claim, by the one place that moves runs, and by what changes a rate. Long for its statements, which are read
together.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from itertools import islice
from typing import Any, TypeAlias

from sqlalchemy import (
    ColumnElement,
    Connection,
    Executable,
    String,
    Subquery,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    literal,
    null,
    or_,
    select,
    tuple_,
    update,
)

from rota.errors import Invalid
from rota.model.concurrency import RUNNING_MAX, check_mutexes, format_rate
from rota.model.instants import say_moment
from rota.model.states import RunState
from rota.store.database import Database
from rota.store.tables import BY_CLAIM_ALONE, BY_ID_ALONE, job, permit, run
from rota.store.types import AnyRow, Number, db_now, db_now_plus, encode_rows, given_rows, insert_if_new

IDLE_SECONDS = 3600.0  # a row that nobody has taken for so long is deleted; it is made again when it is wanted
TIDY_MAX = 1000  # in one transaction
TIDIED_MAX = 20  # of these, at a time: keys that are always new leave a row each
NAMED_MAX = 5


class Scope(StrEnum):
    """What a limit is of."""

    JOB = "job"  # max_running
    MUTEX = "mutex"  # of all jobs that name it
    KEY = "key"  # max_per_key, of one job and one key
    GROUP = "group"  # max_parallel, of the runs of one slot on all nodes
    RATE = "rate"  # of one job


Key: TypeAlias = tuple[str, int, str]  # scope, job_id, name: what the rows of one limit have in common


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit that a run is under."""

    scope: Scope
    job_id: int
    name: str
    count: int
    seconds: float | None = None  # of a rate

    @property
    def key(self) -> Key:
        """What its rows have in common."""
        return self.scope.value, self.job_id, self.name


_is_rate = permit.c.scope == Scope.RATE.value
_is_free = or_(
    and_(~_is_rate, permit.c.claim_id.is_(None)),
    and_(_is_rate, or_(permit.c.free_at.is_(None), permit.c.free_at <= db_now())),
)


# The limits of which nothing is left: made once for a statement, since what runs under limits is little. In a table of
# their own, or MariaDB would count again for each run. Served by rota_permit_claim, which has all that is asked. The
# scope is spelt so that no planner takes the index that begins with it, and has all that is not taken too.
_scope = func.coalesce(permit.c.scope, "")


def _full(scope: Scope, name: str, count: ColumnElement[int | None], *counted: ColumnElement[Any]) -> Subquery:
    return (
        select(*counted)
        .where(_scope == scope.value, permit.c.claim_id.is_not(None), permit.c.job_id == job.c.id)
        .group_by(permit.c.job_id, permit.c.name)
        .having(func.count() >= func.max(count))
        .subquery(name)
    )


FULL_JOBS = select(_full(Scope.JOB, "full_jobs", job.c.max_running, permit.c.job_id))
FULL_KEYS = select(_full(Scope.KEY, "full_keys", job.c.max_per_key, permit.c.job_id, permit.c.name))
FULL_GROUPS = select(_full(Scope.GROUP, "full_groups", job.c.max_parallel, permit.c.name))
_named = literal('"', String) + permit.c.name + literal('"', String)
LOCKED_JOBS = select(
    select(job.c.id)
    .where(
        _scope == Scope.MUTEX.value,
        permit.c.claim_id.is_not(None),
        job.c.mutexes.is_not(None),
        func.replace(job.c.mutexes, _named, "") != job.c.mutexes,
    )
    .group_by(job.c.id)
    .subquery("locked_jobs")
)
# Nothing but a rate comes free by time. Served by rota_permit_free.
_spent = (
    select(permit.c.job_id, func.min(permit.c.free_at).label("free_at"))
    .where(permit.c.free_at > db_now(), permit.c.job_id == job.c.id)
    .group_by(permit.c.job_id)
    .having(func.count() >= func.max(job.c.rate_count))
    .subquery("spent_rates")
)
SPENT_JOBS = select(_spent.c.job_id)
WITHIN_LIMITS_BUT_MUTEXES = and_(
    run.c.job_id.not_in(FULL_JOBS),
    run.c.job_id.not_in(SPENT_JOBS),
    or_(run.c.concurrency_key.is_(None), tuple_(run.c.job_id, run.c.concurrency_key).not_in(FULL_KEYS)),
    or_(run.c.group_id.is_(None), run.c.group_id.not_in(FULL_GROUPS)),
)
# A part of the claim, and of every question whether there is something to claim. It only looks; taking decides.
WITHIN_LIMITS = and_(run.c.job_id.not_in(LOCKED_JOBS), WITHIN_LIMITS_BUT_MUTEXES)
# The other part of the claim: what this one has been refused before, and only that.
NOT_REFUSED = and_(
    run.c.job_id.not_in(bindparam("without_jobs", [0], expanding=True)),
    or_(
        run.c.concurrency_key.is_(None),
        tuple_(run.c.job_id, run.c.concurrency_key).not_in(bindparam("without_keys", [(0, "")], expanding=True)),
    ),
    or_(run.c.group_id.is_(None), run.c.group_id.not_in(bindparam("without_groups", [""], expanding=True))),
)
# Whether a run is under any limit of its job.
HAS_LIMITS: ColumnElement[bool] = or_(
    job.c.max_running.is_not(None),
    job.c.mutexes.is_not(None),
    job.c.rate_count.is_not(None),
    and_(job.c.max_per_key.is_not(None), run.c.concurrency_key.is_not(None)),
    and_(job.c.max_parallel.is_not(None), run.c.group_id.is_not(None)),
)
# The same in one look by the key of its job.
IS_LIMITED: ColumnElement[bool] = exists().where(job.c.id == run.c.job_id, HAS_LIMITS)
# When the next place of a rate that is spent comes free; for the look. One that has places left keeps nobody waiting.
NEXT_FREE_AT = select(func.min(_spent.c.free_at)).scalar_subquery()

_LIMITS = (
    run.c.id,
    run.c.urgency,
    run.c.run_at,
    run.c.job_id,
    run.c.job,
    run.c.concurrency_key,
    run.c.group_id,
    job.c.max_running,
    job.c.mutexes,
    job.c.max_per_key,
    job.c.max_parallel,
    job.c.rate_count,
    job.c.rate_seconds,
)
READ_LIMITS = (
    select(*_LIMITS)
    .join(job, job.c.id == run.c.job_id)
    .where(run.c.id.in_(bindparam("ids", expanding=True)))
    .order_by(run.c.urgency, run.c.run_at, run.c.id)
)

# The same, and the jobs stay as they are until the commit: a limit that is lowered meanwhile waits for it. MySQL and
# MariaDB lock the runs too that they read, so these are to be no others.
READ_LIMITS_KEPT = (
    READ_LIMITS.with_for_update(read=True, of=job)
    .with_hint(run, BY_ID_ALONE, "mysql")
    .with_hint(run, BY_ID_ALONE, "mariadb")
)

_wanted = given_rows("wanted", scope="word", job_id="id", name="name", count="id")
_of_wanted = (
    permit.c.scope == _wanted.c.scope,
    permit.c.job_id == _wanted.c.job_id,
    permit.c.name == _wanted.c.name,
)
# What is free of these limits. Served by rota_permit_number.
_free = (
    select(permit.c.id, permit.c.scope, permit.c.job_id, permit.c.name)
    .where(*_of_wanted, permit.c.number <= _wanted.c.count, _is_free)
    .order_by(permit.c.scope, permit.c.job_id, permit.c.name, permit.c.number)
)
FIND_FREE = _free
FIND_FREE_LOCKED = _free.with_for_update(skip_locked=True, of=permit)
# Which are taken although they lie beyond the limit, which was lowered, or came when more runs than that went on.
READ_BEYOND = select(permit.c.scope, permit.c.job_id, permit.c.name).where(
    *_of_wanted, permit.c.number > _wanted.c.count, ~_is_free
)
READ_TAKEN = select(permit.c.scope, permit.c.job_id, permit.c.name, permit.c.number).where(*_of_wanted, ~_is_free)
# Which there are. Idle ones are deleted one by one, so that some may be wanting below the last.
READ_NUMBERS = select(permit.c.scope, permit.c.job_id, permit.c.name, permit.c.number).where(*_of_wanted)
_added = given_rows("added", scope="word", job_id="id", name="name", number="id")
_ADDED = ["scope", "job_id", "name", "number"]
ADD_PERMITS = insert_if_new(permit).from_select(
    _ADDED,
    select(*(_added.c[name] for name in _ADDED)).where(
        ~exists().where(*(permit.c[name] == _added.c[name] for name in _ADDED))
    ),
)
# What goes on without a permit of each of its limits: claimed before its job had them, or when it named other mutexes.
# Of all that runs, served by rota_run_lease; what a claim has, by rota_permit_claim. Rates count what starts.
_own = permit.c.claim_id == run.c.claim_id
_mutexes_held = select(func.count()).where(
    _own, permit.c.scope == Scope.MUTEX.value, func.replace(job.c.mutexes, _named, "") != job.c.mutexes
)
_quotes = func.length(job.c.mutexes) - func.length(func.replace(job.c.mutexes, literal('"', String), ""))


# What jobs name; most name none.
READ_MUTEXES = select(job.c.id, job.c.mutexes).where(job.c.mutexes.is_not(None)).order_by(job.c.id)
# The most urgent ready run of these jobs before another one. Asked by a person, of what is ready.
FIND_BEFORE = (
    select(run.c.id, run.c.job, run.c.job_id)
    .where(
        run.c.state == RunState.READY.value,
        func.coalesce(run.c.job_id, 0).in_(bindparam("of_jobs", expanding=True)),
        tuple_(run.c.urgency, run.c.run_at, run.c.id)
        < tuple_(
            bindparam("own_urgency", type_=run.c.urgency.type),
            bindparam("own_run_at", type_=run.c.run_at.type),
            bindparam("own_id", type_=run.c.id.type),
        ),
    )
    .order_by(run.c.urgency, run.c.run_at, run.c.id)
    .limit(1)
)


def _lacks(scope: Scope, *has_limit: ColumnElement[Any]) -> ColumnElement[bool]:
    limited = (column.is_not(None) for column in has_limit)
    return and_(*limited, ~exists().where(_own, permit.c.scope == scope.value))


FIND_UNCOUNTED = (
    select(*_LIMITS, run.c.claim_id)
    .join(job, job.c.id == run.c.job_id)
    .where(
        run.c.lease_ends_at.is_not(None),
        run.c.state == RunState.RUNNING.value,
        or_(run.c.job_id.in_(bindparam("job_ids", expanding=True)), job.c.mutexes.is_not(None)),
        or_(
            _lacks(Scope.JOB, job.c.max_running),
            _lacks(Scope.KEY, job.c.max_per_key, run.c.concurrency_key),
            _lacks(Scope.GROUP, job.c.max_parallel, run.c.group_id),
            and_(job.c.mutexes.is_not(None), _mutexes_held.scalar_subquery() * 2 != _quotes),
        ),
    )
    .order_by(run.c.id)
)
# None of them ends until it has its permits, so that none is given to a claim that is over.
LOCK_UNCOUNTED = (
    select(run.c.id)
    .where(run.c.claim_id.in_(bindparam("claim_ids", expanding=True)), run.c.state == RunState.RUNNING.value)
    .order_by(run.c.id)
    .with_for_update(skip_locked=True)
    .with_hint(run, BY_CLAIM_ALONE, "mysql")
    .with_hint(run, BY_CLAIM_ALONE, "mariadb")
)
READ_HELD = select(permit.c.claim_id, permit.c.scope, permit.c.job_id, permit.c.name).where(
    permit.c.claim_id.in_(bindparam("claim_ids", expanding=True))
)
_late = given_rows("late", scope="word", job_id="id", name="name", number="id", claim_id="token")
_LATE = [*_ADDED, "claim_id"]
ADD_LATE = insert_if_new(permit).from_select(
    [*_LATE, "taken_at"],
    select(*(_late.c[name] for name in _LATE), db_now()).where(
        ~exists().where(*(permit.c[name] == _late.c[name] for name in _ADDED))
    ),
)
_taking = given_rows("taking", permit_id="id", claim_id="token", seconds="number")
# The compare-and-set: whatever was locked before, only what is free is taken.
TAKE_PERMITS = (
    update(permit)
    .where(permit.c.id == _taking.c.permit_id, _is_free)
    .values(
        claim_id=_taking.c.claim_id,
        taken_at=db_now(),
        free_at=case((_taking.c.seconds.is_not(None), db_now_plus(_taking.c.seconds)), else_=null()),
    )
)
COUNT_TAKEN = (
    select(permit.c.claim_id, func.count().label("number"))
    .where(permit.c.claim_id.in_(bindparam("claim_ids", expanding=True)))
    .group_by(permit.c.claim_id)
)
# Served by rota_permit_claim. A place of a rate stays counted: there was a start, or an attempt at one.
GIVE_BACK = update(permit).where(permit.c.claim_id.in_(bindparam("claim_ids", expanding=True))).values(claim_id=null())
UNDO = GIVE_BACK.values(free_at=null())
# After a rate has got another length: nothing is counted for longer than that from now on, or a job whose rate was
# mistyped would wait for a year whatever it says since. Served by rota_permit_number.
SHORTEN_RATE = (
    update(permit)
    .where(
        _is_rate,
        permit.c.job_id == bindparam("of_job"),
        permit.c.free_at > db_now_plus(bindparam("new_seconds", type_=Number)),
    )
    .values(free_at=db_now_plus(bindparam("new_seconds", type_=Number)))
)
# What a hand has left behind: taken for a claim that is no more. Nothing of Rota's own leaves such a row.
_is_current = exists().where(run.c.claim_id == permit.c.claim_id, run.c.state == RunState.RUNNING.value)
# Found and freed in two steps: InnoDB's update would see a newer permit beside an older run.
FIND_STRAYS = select(permit.c.claim_id).where(permit.c.claim_id.is_not(None), ~_is_rate, ~_is_current).limit(TIDY_MAX)
_idle_since = db_now_plus(bindparam("idle_seconds", type_=Number) * -1.0)
FIND_IDLE = (
    select(permit.c.id)
    .where(
        _is_free,
        or_(permit.c.taken_at.is_(None), permit.c.taken_at < _idle_since),
    )
    .order_by(permit.c.id)
    .limit(TIDY_MAX)
)
DELETE_IDLE = delete(permit).where(permit.c.id.in_(bindparam("ids", expanding=True)), _is_free)

READ_HOLDERS = (
    select(permit.c.scope, permit.c.job_id, permit.c.name, permit.c.number, permit.c.free_at, run.c.id, run.c.job)
    .outerjoin(run, run.c.claim_id == permit.c.claim_id)
    .where(*_of_wanted, ~_is_free)
    .order_by(permit.c.number)
)


def limits_of(row: AnyRow) -> tuple[Limit, ...]:
    """Return the limits of a run, from a row of ``READ_LIMITS``.

    Raises:
        Invalid: what stands in its job's row cannot be understood; somebody wrote it by hand.
    """
    found: list[Limit] = []
    if row.max_running is not None:
        found.append(Limit(Scope.JOB, row.job_id, "", row.max_running))
    if row.mutexes is not None:
        found += [Limit(Scope.MUTEX, 0, name, 1) for name in read_mutexes(row.mutexes)]
    if row.max_per_key is not None and row.concurrency_key is not None:
        # MySQL and MariaDB compare without the spaces at the end.
        found.append(Limit(Scope.KEY, row.job_id, row.concurrency_key.rstrip(" "), row.max_per_key))
    if row.max_parallel is not None and row.group_id is not None:
        found.append(Limit(Scope.GROUP, row.job_id, row.group_id, row.max_parallel))
    if row.rate_count is not None and row.rate_seconds is not None:
        found.append(Limit(Scope.RATE, row.job_id, "", row.rate_count, row.rate_seconds))
    return tuple(found)


def read_mutexes(text: str | None) -> tuple[str, ...]:
    """Return the mutexes that a job's row names.

    Raises:
        Invalid: it holds no list of names.
    """
    if text is None:
        return ()
    try:
        return check_mutexes(json.loads(text))
    except (ValueError, RecursionError, Invalid):
        rule = "it is a JSON list of names: correct it with `rota job edit`"
        raise Invalid("mutexes", text[:100], rule) from None


@dataclass(slots=True)
class Refused:
    """What has nothing left, as far as one claim can see: parameters of ``NOT_REFUSED``."""

    jobs: set[int] = field(default_factory=set[int])
    keys: set[tuple[int, str]] = field(default_factory=set[tuple[int, str]])
    groups: set[str] = field(default_factory=set[str])

    def add(self, row: AnyRow, scope: Scope | None) -> None:
        """Note that a limit of the run in ``row`` has nothing left; None: it is not known which."""
        match scope:
            case Scope.KEY:
                self.keys.add((row.job_id, row.concurrency_key))
            case Scope.GROUP:
                self.groups.add(row.group_id)
            case _:
                self.jobs.add(row.job_id)

    def update(self, other: Refused) -> None:
        """Add what ``other`` names."""
        self.jobs |= other.jobs
        self.keys |= other.keys
        self.groups |= other.groups

    def parameters(self) -> dict[str, Any]:
        """Return what a claim that leaves these out is sent."""
        return {
            "without_jobs": [0, *sorted(self.jobs)],
            "without_keys": [(0, ""), *sorted(self.keys)],
            "without_groups": ["", *sorted(self.groups)],
        }

    def __bool__(self) -> bool:
        return bool(self.jobs or self.keys or self.groups)


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of taking permits for runs."""

    granted: Set[int]  # runs that have all of theirs
    refused: Refused


FindWaiting: TypeAlias = Callable[[Sequence[int]], Iterable[AnyRow]]


def take_permits(
    connection: Connection, run_ids: Sequence[int], batch: str, find_waiting: FindWaiting, *, locks: bool
) -> Taken:
    """Take permits for the claims of ``batch`` on these runs, in the order of claims: all that a run needs, or none.

    No run takes a mutex that a more urgent one waits for together with others, or that one might wait for ever:
    ``find_waiting`` tells which ready runs of these jobs whoever claims could start, were it not for mutexes. The
    number of statements does not depend on the number of runs. The claim follows in the same transaction; what is not
    claimed then is to be given to ``undo_permits``.
    """
    granted: set[int] = set()
    refused = Refused()
    if not run_ids:
        return Taken(granted, refused)
    rows = connection.execute(READ_LIMITS_KEPT, {"ids": list(run_ids)}).all()
    needs = {row.id: _needs(row) for row in rows}
    limits = {limit.key: limit for wanted in needs.values() for limit in wanted}
    find = FIND_FREE_LOCKED if locks else FIND_FREE
    free = _find_free(connection, find, limits.values(), needs.values())
    kept = _keep_mutexes(connection, limits.values(), find_waiting)
    taking: list[dict[str, Any]] = []
    for row in rows:
        if spent := [limit for limit in needs[row.id] if not free[limit.key] or kept.is_for_another(limit.key, row)]:
            refused.add(row, spent[0].scope)
            refused.jobs |= kept.jobs_naming(spent[0].key)
            continue
        granted.add(row.id)
        taking += [
            {"permit_id": free[limit.key].pop(0), "claim_id": f"{batch}-{row.id}", "seconds": limit.seconds}
            for limit in needs[row.id]
        ]
    if taking and connection.execute(TAKE_PERMITS, {"taking": encode_rows(taking)}).rowcount != len(taking):
        halves = _give_up_halves(connection, batch, {run_id: len(needs[run_id]) for run_id in granted})
        granted -= halves
        for row in rows:
            if row.id in halves:
                refused.add(row, None)
    return Taken(granted, refused)


Turn: TypeAlias = tuple[float, datetime, int]  # the order of claims, ascending


def _turn(row: AnyRow) -> Turn:
    return row.urgency, row.run_at, row.id


@dataclass(slots=True)
class _Kept:
    """Mutexes that a run waits for together with others."""

    turns: dict[Key, Turn] = field(default_factory=dict[Key, Turn])  # of the most urgent run that waits
    jobs: dict[Key, set[int]] = field(default_factory=dict[Key, set[int]])  # that name it, but for those of such runs

    def is_for_another(self, key: Key, row: AnyRow) -> bool:
        """Whether a mutex is kept for a run before this one."""
        return key in self.turns and self.turns[key] < _turn(row)

    def jobs_naming(self, key: Key) -> Set[int]:
        """Return the jobs whose runs, after one that it was not given to, need not be tried: they come later still."""
        return self.jobs.get(key, frozenset()) if key in self.turns else frozenset()


def _keep_mutexes(connection: Connection, limits: Iterable[Limit], find_waiting: FindWaiting) -> _Kept:
    kept = _Kept()
    wanted = {limit.name: limit.key for limit in limits if limit.scope is Scope.MUTEX}
    if not wanted:
        return kept
    named = _read_named(connection, wanted)
    several = sorted(job_id for job_id, names in named.items() if len(names) > 1)
    waiting = list(find_waiting(several)) if several else []
    for row in waiting:
        for name in named[row.job_id] & wanted.keys():
            kept.turns[wanted[name]] = min(kept.turns.get(wanted[name], _turn(row)), _turn(row))
    for job_id in named.keys() - {row.job_id for row in waiting}:
        for name in named[job_id] & wanted.keys():
            kept.jobs.setdefault(wanted[name], set()).add(job_id)
    return kept


def _read_named(connection: Connection, wanted: Collection[str]) -> dict[int, frozenset[str]]:
    """Return the jobs that name one of these mutexes, with all that each names."""
    found: dict[int, frozenset[str]] = {}
    for row in connection.execute(READ_MUTEXES):
        with suppress(Invalid):  # its run fails with the reason, and waits for nothing
            names = frozenset(read_mutexes(row.mutexes))
            if not names.isdisjoint(wanted):
                found[row.id] = names
    return found


def _needs(row: AnyRow) -> tuple[Limit, ...]:
    try:
        return limits_of(row)
    except Invalid:
        return ()  # it is claimed, and fails with the reason


def _find_free(
    connection: Connection, find: Executable, limits: Iterable[Limit], needs: Iterable[Sequence[Limit]]
) -> dict[Key, list[int]]:
    """Return the ids of the free permits of each limit, after making those that are wanted and were never made."""
    by_key = {limit.key: limit for limit in limits}
    if not by_key:
        return {}
    wanted = Counter(limit.key for each in needs for limit in each)
    may_use = _count_usable(connection, by_key)
    given = {"wanted": encode_rows(_as_row(by_key[key]) | {"count": count} for key, count in may_use.items())}

    def look() -> dict[Key, list[int]]:
        free: dict[Key, list[int]] = {key: [] for key in by_key}
        for row in connection.execute(find, given):
            free[row.scope, row.job_id, row.name].append(row.id)
        return free

    free = look()
    # In one order, so that no two who add the same wait for each other.
    lacking = {key: number for key in sorted(by_key) if (number := min(wanted[key], may_use[key]) - len(free[key])) > 0}
    numbers = _read_numbers(connection, [by_key[key] for key in lacking])
    added = [
        {"scope": key[0], "job_id": key[1], "name": key[2], "number": number}
        for key, count in lacking.items()
        for number in islice((n for n in range(1, may_use[key] + 1) if n not in numbers[key]), count)
    ]
    if added:
        connection.execute(ADD_PERMITS, {"added": encode_rows(added)})
        free = look()
    return free


def _count_usable(connection: Connection, limits: Mapping[Key, Limit]) -> dict[Key, int]:
    """Return up to which number permits of these limits may be taken: all of them, unless some runs hold others.

    It only rises while a limit stays as it is, since what lies beyond is given back and never taken. So whoever goes by
    an older look lets no run too many go.
    """
    uncounted = _give_late_permits(connection, limits.values())
    given = {"wanted": encode_rows(map(_as_row, limits.values()))}
    beyond = Counter((row.scope, row.job_id, row.name) for row in connection.execute(READ_BEYOND, given))
    beyond.update(uncounted)
    taken: dict[Key, set[int]] = {key: set() for key in limits if beyond[key]}
    if taken:
        rows = connection.execute(READ_TAKEN, {"wanted": encode_rows(_as_row(limits[key]) for key in taken)})
        for row in rows:
            taken[row.scope, row.job_id, row.name].add(row.number)
    return {
        key: _last_usable(limit.count, taken[key], uncounted[key]) if key in taken else limit.count
        for key, limit in limits.items()
    }


def _last_usable(count: int, taken: Set[int], uncounted: int) -> int:
    """Return the last number such that, were all up to it taken, these and what lies beyond were no more than count."""
    beyond = uncounted + sum(number > count for number in taken)
    last = count
    while last > 0 and last + beyond > count:
        beyond += last in taken
        last -= 1
    return last


def _give_late_permits(connection: Connection, limits: Iterable[Limit]) -> Counter[Key]:
    """Give the runs that go on their permits where they have none yet; return how many of each limit are left without.

    These are locked by somebody; where locks are not kept, a run may end at the same time and leave a stray.
    """
    job_ids = sorted({limit.job_id for limit in limits})
    rows = connection.execute(FIND_UNCOUNTED, {"job_ids": job_ids}).all()
    if not rows:
        return Counter()
    claim_ids = [row.claim_id for row in rows]

    def lacking() -> dict[str, list[Limit]]:
        held = {(row.claim_id, (row.scope, row.job_id, row.name)) for row in connection.execute(READ_HELD, of_claims)}
        return {
            row.claim_id: [
                limit
                for limit in _needs(row)
                if limit.scope is not Scope.RATE and (row.claim_id, limit.key) not in held
            ]
            for row in rows
        }

    of_claims = {"claim_ids": claim_ids}
    locked = set(connection.execute(LOCK_UNCOUNTED, of_claims).scalars())
    without = lacking()
    given = [(row.claim_id, limit) for row in rows if row.id in locked for limit in without[row.claim_id]]
    numbers = _read_numbers(connection, list({limit.key: limit for _, limit in given}.values()))
    late: list[dict[str, Any]] = []
    for claim_id, limit in sorted(given, key=lambda each: each[1].key):
        taken = numbers[limit.key]
        number = next((n for n in range(1, RUNNING_MAX + 1) if n not in taken), None)
        if number is not None:
            taken.add(number)
            late.append(_as_row(limit) | {"number": number, "claim_id": claim_id})
    if late:
        connection.execute(ADD_LATE, {"late": encode_rows(late)})
        without = lacking()
    return Counter(limit.key for limits_of_run in without.values() for limit in limits_of_run)


def _read_numbers(connection: Connection, limits: Sequence[Limit]) -> dict[Key, set[int]]:
    numbers: dict[Key, set[int]] = {limit.key: set() for limit in limits}
    if numbers:
        for row in connection.execute(READ_NUMBERS, {"wanted": encode_rows(map(_as_row, limits))}):
            numbers[row.scope, row.job_id, row.name].add(row.number)
    return numbers


def _as_row(limit: Limit) -> dict[str, Any]:
    return {"scope": limit.scope.value, "job_id": limit.job_id, "name": limit.name, "count": limit.count}


def _give_up_halves(connection: Connection, batch: str, needed: dict[int, int]) -> set[int]:
    """Give back what was taken for runs that did not get all: somebody was quicker. Return these runs."""
    claims = {f"{batch}-{run_id}": run_id for run_id in needed}
    counted = {row.claim_id: row.number for row in connection.execute(COUNT_TAKEN, {"claim_ids": list(claims)})}
    halves = {run_id for claim_id, run_id in claims.items() if counted.get(claim_id, 0) != needed[run_id]}
    undo_permits(connection, [f"{batch}-{run_id}" for run_id in sorted(halves)])
    return halves


def undo_permits(connection: Connection, claim_ids: Sequence[str]) -> None:
    """Give back what was taken for claims that did not come about; a rate does not count them."""
    if claim_ids:
        connection.execute(UNDO, {"claim_ids": list(claim_ids)})


def give_back_permits(connection: Connection, claim_ids: Sequence[str]) -> int:
    """Give back what claims that are over held; return how many permits."""
    return connection.execute(GIVE_BACK, {"claim_ids": list(claim_ids)}).rowcount if claim_ids else 0


def shorten_rate(connection: Connection, job_id: int, rate_seconds: float) -> None:
    """Let no start of a job be counted for longer than its rate says now."""
    connection.execute(SHORTEN_RATE, {"of_job": job_id, "new_seconds": rate_seconds})


def say_held_back(connection: Connection, run_id: int) -> list[str]:
    """Say which limits keep a run from being claimed now, each with who has what it waits for."""
    row = connection.execute(READ_LIMITS, {"ids": [run_id]}).one_or_none()
    limits = () if row is None else _needs(row)
    if not limits:
        return []
    holders: dict[Key, list[AnyRow]] = {limit.key: [] for limit in limits}
    given = encode_rows(_as_row(limit) for limit in limits)
    for holder in connection.execute(READ_HOLDERS, {"wanted": given}):
        holders[holder.scope, holder.job_id, holder.name].append(holder)
    said = [_say(limit, held) for limit in limits if len(held := holders[limit.key]) >= limit.count]
    return said or _say_kept(connection, row)


def find_kept_waiting(connection: Connection, run_ids: Sequence[int]) -> set[int]:
    """Return which of these ready runs wait for a mutex that is kept for another one."""
    rows = connection.execute(READ_LIMITS, {"ids": list(run_ids)}).all() if run_ids else ()
    return {row.id for row in rows if _say_kept(connection, row)}


def _say_kept(connection: Connection, row: AnyRow) -> list[str]:
    names = {limit.name for limit in _needs(row) if limit.scope is Scope.MUTEX}
    named = _read_named(connection, names) if names else {}
    several = sorted(job_id for job_id, of_job in named.items() if len(of_job) > 1)
    turn = {"own_urgency": row.urgency, "own_run_at": row.run_at, "own_id": row.id}
    first = connection.execute(FIND_BEFORE, turn | {"of_jobs": several}).one_or_none() if several else None
    if first is None:
        return []
    shared, its_own = (" and ".join(sorted(each)) for each in (names & named[first.job_id], named[first.job_id]))
    return [f"mutex {shared} is kept for run {first.id} of job {first.job}, which comes first and waits for {its_own}"]


def _say(limit: Limit, held: Sequence[AnyRow]) -> str:
    who = _name(held)
    match limit.scope:
        case Scope.JOB:
            return f"max_running is {limit.count}, and as many runs of its job go on: {who}"
        case Scope.MUTEX:
            return f"mutex {limit.name} is held by {who}"
        case Scope.KEY:
            return f"max_per_key is {limit.count}, and as many runs of its job with key {limit.name} go on: {who}"
        case Scope.GROUP:
            return f"max_parallel is {limit.count}, and as many runs of its group go on: {who}"
        case Scope.RATE:
            rate = format_rate(limit.count, limit.seconds or 0.0)
            free_at = min(holder.free_at for holder in held)
            return f"its job has started as often as its rate, {rate}, allows; the next may start {say_moment(free_at)}"


def _name(held: Sequence[AnyRow]) -> str:
    listed = [f"run {holder.id} of job {holder.job}" for holder in held if holder.id is not None]
    more = f" and {len(listed) - NAMED_MAX} more" if len(listed) > NAMED_MAX else ""
    return ", ".join(listed[:NAMED_MAX]) + more if listed else "a claim that is over, which is freed within a minute"


def tidy_permits(database: Database) -> int:
    """Free what belongs to no claim any more, and delete what nobody has taken for long; return how many rows."""

    def tidy(connection: Connection) -> int:
        strays = give_back_permits(connection, connection.execute(FIND_STRAYS).scalars().all())
        ids = connection.execute(FIND_IDLE, {"idle_seconds": IDLE_SECONDS}).scalars().all()
        return strays + (connection.execute(DELETE_IDLE, {"ids": list(ids)}).rowcount if ids else 0)

    tidied = 0
    for _ in range(TIDIED_MAX):
        count = database.write(tidy, repeatable=True)
        tidied += count
        if count < TIDY_MAX:
            break
    return tidied
