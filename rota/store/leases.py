"""Leases: who may execute a run, and until when.

Invariant: a run has at most one current claim, its claim id is random, and its fence only grows. Every later write
names the claim. The lease ends by the database's clock. Called by the worker (claim, mark, renew) and, for runs whose
lease is over, by whichever node looks first (rescue). Ends are in ``endings``.
Long for its statements: claim, mark, renewal and adoption are read together.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Select,
    String,
    any_,
    bindparam,
    case,
    cast,
    func,
    insert,
    literal,
    not_,
    null,
    or_,
    select,
    update,
)

from rota import crash
from rota.errors import DatabaseUnavailable, Invalid
from rota.model.environment import NO_ENVIRONMENTS, Environments
from rota.model.job import Executor, Startup
from rota.model.limits import LIMIT_COLUMNS
from rota.model.placement import NO_LABELS
from rota.model.reasons import Reason
from rota.model.run import Claim, NodeIdentity, PeriodPart
from rota.model.secret import read_names
from rota.model.states import AttemptState, Delivery, NodeState, RunState
from rota.store.breakers import MAY_BE_CLAIMED
from rota.store.database import Database
from rota.store.dialects import ClaimForm
from rota.store.events import tell_runs
from rota.store.moves import Stale, Writer, until_fresh, write_fresh
from rota.store.permits import (
    HAS_LIMITS,
    IS_LIMITED,
    NOT_REFUSED,
    WITHIN_LIMITS,
    WITHIN_LIMITS_BUT_MUTEXES,
    Refused,
    read_mutexes,
    take_permits,
    undo_permits,
)
from rota.store.placing import placing_conditions, problem_of, selector_parameters
from rota.store.skew import WRITE_SKEW, Skew
from rota.store.suspension import is_node_drained, is_pool_paused
from rota.store.tables import BY_CLAIM_ALONE, attempt, job, node, run
from rota.store.types import AnyRow, Number, db_now, db_now_plus

WAITING_MAX = 100  # of runs for which mutexes are kept; they come first, so others are less urgent than all of these
PASSES_MAX = 5  # of one claim, each past what limits have refused it before

_lease = func.coalesce(run.c.lease_seconds, bindparam("node_lease", type_=run.c.lease_seconds.type))
_lease_end = db_now_plus(_lease)
# One after the last that is kept: an attempt number that was reset by hand must not be given twice.
_attempts = attempt.alias("earlier")
_next_attempt = (
    select(func.coalesce(func.max(_attempts.c.attempt), 0) + 1).where(_attempts.c.run_id == run.c.id).scalar_subquery()
)


# Jobs whose runs a node leaves alone: those that ask for an environment it does not have. What the job says now counts,
# so that an edit also frees the runs that wait. The job table is read once for each claim, whatever the number of runs;
# ``environments`` is ``Environments.wanted``, which is never empty.
# Likewise those that name a secret it does not have: their list has more names, so more quotes, than are found there of
# what the node has. Each of these is a parameter, made by ``secret_parameters``. They are added up, since SQLite reads
# no fifty calls within each other.
@cache
def not_for_node(secret_count: int = 0) -> Select[Any]:
    """Select the jobs whose runs a node with so many secrets leaves alone."""

    def without(part: ColumnElement[str]) -> ColumnElement[str]:
        return func.replace(job.c.secrets, part, literal("", String), type_=String)

    found: ColumnElement[int] = literal(0, Integer)
    for number in range(secret_count):
        name = bindparam(f"secret_{number}", type_=String)
        found += case((without(name) != job.c.secrets, 2), else_=0)
    quotes = func.length(job.c.secrets) - func.length(without(literal('"', String)))
    return select(job.c.id).where(or_(job.c.env.not_in(bindparam("environments", expanding=True)), quotes != found))


def secret_parameters(secrets: Sequence[str]) -> dict[str, str]:
    """Return what ``not_for_node`` is sent for a node that has these."""
    return {f"secret_{number}": f'"{name}"' for number, name in enumerate(secrets)}


# Runs of one pool that this node may take, best priority first, then oldest; none of a paused pool, and none for a node
# that is to drain. Served by rota_run_claim in its own order, so that no more rows are locked than are taken. No
# parameter has the name of a column of the run: CLAIM may be built around it.
@cache
def find_claimable(secret_count: int = 0, selector_count: int = 0, *, transactional: bool = True) -> Select[Any, Any]:
    """Return the statement for a node with so many secrets and selectors, and for one without ``transactional`` runs.

    Without selectors it heeds no placement.
    """
    return (
        select(run.c.id, IS_LIMITED.label("is_limited"))
        .where(*_may_start(secret_count, selector_count, transactional=transactional), NOT_REFUSED, WITHIN_LIMITS)
        .order_by(run.c.urgency, run.c.run_at, run.c.id)
        .limit(bindparam("limit"))
    )


def _may_start(secret_count: int, selector_count: int, *, transactional: bool) -> Sequence[ColumnElement[bool]]:
    others = () if transactional else (run.c.delivery != Delivery.TRANSACTIONAL.value,)
    return (
        *others,
        run.c.state == RunState.READY.value,
        run.c.pool == bindparam("in_pool"),
        run.c.target_node.in_(["", bindparam("for_node")]),
        or_(run.c.start_by.is_(None), run.c.started_at.is_not(None), run.c.start_by >= db_now()),
        run.c.job_id.not_in(not_for_node(secret_count)),
        *placing_conditions(selector_count),
        MAY_BE_CLAIMED,
        not_(is_pool_paused(bindparam("in_pool"))),
        not_(is_node_drained(bindparam("for_node"))),
    )


# The same of a few jobs, whether their mutexes are free or not. Asked by the claim of a run with a mutex, where there
# are such jobs; the spelling of the job leaves rota_run_claim, since by the job one would read all that ever ran.
@cache
def find_waiting(
    secret_count: int = 0, selector_count: int = 0, *, transactional: bool = True
) -> Select[*tuple[Any, ...]]:
    """Return the statement for the first ready runs of ``of_jobs``, which may wait for mutexes."""
    return (
        select(run.c.id, run.c.job_id, run.c.urgency, run.c.run_at)
        .where(
            *_may_start(secret_count, selector_count, transactional=transactional),
            WITHIN_LIMITS_BUT_MUTEXES,
            func.coalesce(run.c.job_id, 0).in_(bindparam("of_jobs", expanding=True)),
        )
        .order_by(run.c.urgency, run.c.run_at, run.c.id)
        .limit(WAITING_MAX)
    )


@cache
def find_claimable_locked(
    secret_count: int = 0, selector_count: int = 0, *, transactional: bool = True
) -> Select[Any, Any]:
    """Return the statement for a database that passes over what others have locked."""
    return find_claimable(secret_count, selector_count, transactional=transactional).with_for_update(skip_locked=True)


FIND_CLAIMABLE = find_claimable()
FIND_CLAIMABLE_LOCKED = find_claimable_locked()

# The claim: a new random id, the fence and the attempt one higher, a lease from now. But for delivery at_most_once it
# marks at once, since only what is spawned now is claimed. The condition on the state is what makes it a claim;
# the locks above only keep others from trying in vain. Served by the primary key.
_CLAIM_READY = (
    update(run)
    .where(run.c.state == RunState.READY.value)
    .values(
        state=RunState.RUNNING.value,
        reason=case((run.c.delivery != Delivery.AT_MOST_ONCE.value, Reason.STARTED.value), else_=Reason.CLAIMED.value),
        reason_text=bindparam("why"),
        claim_id=bindparam("batch", type_=String) + "-" + cast(run.c.id, String),
        fence=run.c.fence + 1,
        attempt=case((_next_attempt > run.c.attempt + 1, _next_attempt), else_=run.c.attempt + 1),
        node=bindparam("by_node"),
        avoid_node=null(),
        environment=null(),
        environment_version=null(),
        holder=bindparam("by_holder"),
        due_at=null(),
        lease_ends_at=_lease_end,
        marked_at=case((run.c.delivery != Delivery.AT_MOST_ONCE.value, db_now()), else_=null()),
        progress=null(),
        progress_message=null(),
        progress_at=null(),
        started_at=case(
            (run.c.started_at.is_not(None), run.c.started_at),
            (run.c.delivery != Delivery.AT_MOST_ONCE.value, db_now()),
            else_=null(),
        ),
        deadline_from_at=case(
            (run.c.deadline_from_at.is_not(None), run.c.deadline_from_at),
            (run.c.delivery != Delivery.AT_MOST_ONCE.value, db_now()),
            else_=null(),
        ),
    )
)
CLAIM = _CLAIM_READY.where(run.c.id.in_(bindparam("ids", expanding=True)))


# The same in one statement, around the runs that it finds. Those under limits are found and locked only, since their
# permits are to be taken first. An array is made once, where a plain subquery might be run again for each row, and then
# take more than its limit; and the database knows that it is short.
@cache
def claim_at_once(
    secret_count: int = 0, selector_count: int = 0, *, transactional: bool = True
) -> Select[Any, Any, bool]:
    """Return the statement for a database that can do all of this; the parameters are those of ``find_claimable``."""
    found = find_claimable_locked(secret_count, selector_count, transactional=transactional).cte("found")
    unlimited = func.array(select(found.c.id).where(~found.c.is_limited).scalar_subquery())
    claimed = _CLAIM_READY.where(run.c.id == any_(unlimited)).returning(run.c.id).cte("claimed")
    is_claimed = claimed.c.id.is_not(None).label("is_claimed")
    return select(found.c.id, found.c.is_limited, is_claimed).join_from(
        found, claimed, claimed.c.id == found.c.id, isouter=True
    )


_of_claims = run.c.claim_id.in_(bindparam("claim_ids", expanding=True))

OPEN_ATTEMPTS = insert(attempt).from_select(
    ["run_id", "attempt", "state", "claim_id", "fence", "node", "boot_id", "claimed_at", "started_at"],
    select(
        run.c.id,
        run.c.attempt,
        case((run.c.marked_at.is_not(None), AttemptState.RUNNING.value), else_=AttemptState.CLAIMED.value),
        run.c.claim_id,
        run.c.fence,
        run.c.node,
        bindparam("boot_id", type_=String),
        func.coalesce(run.c.marked_at, db_now()),
        run.c.marked_at,
    ).where(_of_claims, run.c.state == RunState.RUNNING.value),
)

# What was claimed for an environment, noted with the run and with the attempt; sent for such claims only.
_in_environment = {
    "environment": bindparam("in_name", type_=run.c.environment.type),
    "environment_version": bindparam("in_version", type_=run.c.environment_version.type),
}
NOTE_ENVIRONMENT = (
    update(run)
    .where(_of_claims, run.c.state == RunState.RUNNING.value)
    .values(_in_environment)
    .with_hint(BY_CLAIM_ALONE, dialect_name="mysql")
    .with_hint(BY_CLAIM_ALONE, dialect_name="mariadb")
)
NOTE_ENVIRONMENT_OF_ATTEMPTS = (
    update(attempt).where(attempt.c.claim_id.in_(bindparam("claim_ids", expanding=True))).values(_in_environment)
)

TELL_CLAIMS = tell_runs(
    _of_claims,
    run.c.state == RunState.RUNNING.value,
    from_state=literal(RunState.READY.value),
    attempt=run.c.attempt,
    node=run.c.node,
)

# What was claimed, with all that is needed to start it. Served by the unique claim and the job's key.
_WHAT_WAS_CLAIMED = (
    run.c.id,
    run.c.claim_id,
    run.c.fence,
    run.c.attempt,
    run.c.job,
    run.c.args,
    run.c.schedule,
    run.c.slot_at,
    run.c.run_at,
    run.c.run_key,
    run.c.pool,
    run.c.delivery,
    run.c.marked_at,
    run.c.checkpoint,
    run.c.deadline_from_at,
    run.c.period,
    run.c.period_start_at,
    run.c.period_end_at,
    run.c.range_start_at,
    run.c.range_end_at,
    db_now().label("now"),
    _lease.label("lease"),
    job.c.kind,
    job.c.target,
    job.c.env,
    job.c.timeout_seconds,
    job.c.deadline_seconds,
    func.coalesce(run.c.retries, job.c.retries).label("retries"),
    job.c.stdin,
    job.c.cwd,
    job.c.run_as,
    job.c.variables,
    job.c.secrets,
    *(job.c[name] for name in LIMIT_COLUMNS),
    job.c.startup,
    job.c.connection,
    job.c.executor,
    job.c.mutexes,
    job.c.prefer,
    job.c.exclude,
    job.c.retry_node,
)
_current_claims = (_of_claims, run.c.state == RunState.RUNNING.value)
_ORDER = (run.c.urgency, run.c.run_at, run.c.id)
READ_CLAIMS = (
    select(*_WHAT_WAS_CLAIMED).outerjoin(job, job.c.id == run.c.job_id).where(*_current_claims).order_by(*_ORDER)
)
# The same right after the claim, but for those whose job is gone. The jobs stay as they are until the commit: whoever
# gives one its first limit waits, and counts what is claimed here. MySQL and MariaDB lock the runs too that they read:
# without the hint these may be all that run, and nodes that claim wait for each other.
READ_NEW_CLAIMS = (
    select(*_WHAT_WAS_CLAIMED, HAS_LIMITS.label("is_limited"))
    .join(job, job.c.id == run.c.job_id)
    .where(*_current_claims)
    .order_by(*_ORDER)
    .with_for_update(read=True, of=job)
    .with_hint(run, BY_CLAIM_ALONE, "mysql")
    .with_hint(run, BY_CLAIM_ALONE, "mariadb")
)

# The start mark of delivery at_most_once: only while the claim is mine and the lease not over.
MARK_STARTED = (
    update(run)
    .where(
        _of_claims,
        run.c.state == RunState.RUNNING.value,
        run.c.marked_at.is_(None),
        run.c.lease_ends_at > db_now(),
        run.c.cancel_asked_at.is_(None),
    )
    .values(
        marked_at=db_now(),
        started_at=case((run.c.started_at.is_not(None), run.c.started_at), else_=db_now()),
        deadline_from_at=case((run.c.deadline_from_at.is_not(None), run.c.deadline_from_at), else_=db_now()),
        reason=Reason.STARTED.value,
    )
    .with_hint(BY_CLAIM_ALONE, dialect_name="mysql")
    .with_hint(BY_CLAIM_ALONE, dialect_name="mariadb")
)
MARK_ATTEMPTS = (
    update(attempt)
    .where(
        attempt.c.claim_id.in_(bindparam("claim_ids", expanding=True)),
        attempt.c.state == AttemptState.CLAIMED.value,
        attempt.c.claim_id.in_(
            select(run.c.claim_id).where(
                _of_claims, run.c.state == RunState.RUNNING.value, run.c.marked_at.is_not(None)
            )
        ),
    )
    .values(state=AttemptState.RUNNING.value, started_at=db_now())
)
FIND_MARKED = select(run.c.claim_id).where(
    _of_claims, run.c.state == RunState.RUNNING.value, run.c.marked_at.is_not(None)
)

# Renew all the claims whose guardians have answered, in one statement for each length of lease, mostly one. A run that
# went to another node carries another claim id and does not match: the caller learns what it lost by asking which are
# left. A lease that is over but was not taken away yet goes on: whoever asks has counted its own deadline from before,
# and the database's clock may have stepped. The end is the database's clock plus the lease. Served by the unique claim.
RENEW_CLAIMS = (
    update(run)
    .where(_of_claims, run.c.state == RunState.RUNNING.value)
    .values(lease_ends_at=db_now_plus(bindparam("lease", type_=run.c.lease_seconds.type)))
    .with_hint(BY_CLAIM_ALONE, dialect_name="mysql")
    .with_hint(BY_CLAIM_ALONE, dialect_name="mariadb")
)
# The same rows beforehand. One that somebody keeps locked is passed over, or it would keep a renewal, and with it all
# the leases of the node, waiting; it is renewed the next time, if it is free by then.
FIND_RENEWABLE = (
    select(run.c.claim_id, run.c.lease_seconds, run.c.cancel_asked_at, run.c.cancel_asked_by, run.c.freeze_asked_at)
    .where(_of_claims, run.c.state == RunState.RUNNING.value)
    .order_by(run.c.id)
    .with_for_update(skip_locked=True)
    .with_hint(run, BY_CLAIM_ALONE, "mysql")
    .with_hint(run, BY_CLAIM_ALONE, "mariadb")
)
# Of those that were not found, what is locked and not lost.
FIND_CURRENT = select(run.c.claim_id).where(_of_claims, run.c.state == RunState.RUNNING.value)
# The same for whoever looks for ended ones too.
FIND_PRESENT = select(run.c.claim_id).where(_of_claims)
# What nobody keeps locked of what goes on, before it is written to. Served by the unique claim.
LOCK_FREE = (
    select(run.c.claim_id)
    .where(_of_claims, run.c.state == RunState.RUNNING.value)
    .order_by(run.c.id)
    .with_for_update(skip_locked=True)
    .with_hint(run, BY_CLAIM_ALONE, "mysql")
    .with_hint(run, BY_CLAIM_ALONE, "mariadb")
)
# A goodbye is the last word: a renewal that was under way then does not keep the name from others.
RENEW_NODE = (
    update(node)
    .where(
        node.c.name == bindparam("node_name"),
        node.c.holder == bindparam("node_holder"),
        node.c.state != NodeState.GONE.value,
    )
    .values(
        seen_at=db_now_plus(-bindparam("behind", type_=Number)),
        lease_ends_at=db_now_plus(bindparam("node_lease", type_=run.c.lease_seconds.type)),
    )
)
READ_NODE_STATE = select(node.c.state, db_now().label("now")).where(
    node.c.name == bindparam("node_name"), node.c.holder == bindparam("node_holder")
)


# The guardian of a claim has another worker now: the lease goes on under the same claim.
ADOPT = (
    update(run)
    .where(_of_claims, run.c.state == RunState.RUNNING.value)
    .values(node=bindparam("by_node"), holder=bindparam("by_holder"))
    .with_hint(BY_CLAIM_ALONE, dialect_name="mysql")
    .with_hint(BY_CLAIM_ALONE, dialect_name="mariadb")
)
TELL_ADOPTED = tell_runs(
    _of_claims,
    run.c.state == RunState.RUNNING.value,
    from_state=run.c.state,
    text=bindparam("told", type_=String),
    attempt=run.c.attempt,
    node=run.c.node,
)


def claim_runs(
    database: Database,
    identity: NodeIdentity,
    pools: Sequence[str],
    limit: int,
    lease_seconds: float,
    environments: Environments = NO_ENVIRONMENTS,
    secrets_of_node: Sequence[str] = (),
    labels: Mapping[str, str] | None = NO_LABELS,
    *,
    transactional: bool = True,
) -> list[Claim]:
    """Take up to ``limit`` ready runs of ``pools`` for this node: best priority first within a pool, then oldest.

    Runs of jobs that ask for an environment are taken if it is among ``environments``, and noted to run in it; those of
    jobs that name secrets, if all are among ``secrets_of_node``; those with delivery ``transactional`` only by who can
    commit their end with what they write. What jobs say of nodes is compared with this one's name and ``labels``; with
    None nothing is heeded. All claims commit together; the number of statements
    depends on the number of pools, not of runs. When the answer to COMMIT is lost, the claims are looked up by the
    batch's random id; what cannot be looked up either is not started, and its lease ends.

    Raises:
        DatabaseUnavailable: nothing was claimed that this node will start; calling again is safe.
    """
    batch = secrets.token_hex(16)
    candidates: list[int] = []
    by = {
        "batch": batch,
        "by_node": identity.name,
        "by_holder": identity.holder,
        "node_lease": lease_seconds,
        "why": f"{identity.name} has it",
    }
    form = database.dialect.claim_form
    placed = {} if labels is None else selector_parameters(identity.name, labels)
    counts = (len(secrets_of_node), len(placed))
    finding = {
        ClaimForm.AT_ONCE: claim_at_once,
        ClaimForm.LOCK_FIRST: find_claimable_locked,
        ClaimForm.COMPARE_ALONE: find_claimable,
    }[form](*counts, transactional=transactional)

    able: dict[str, Any] = {"for_node": identity.name, "environments": environments.wanted}
    able |= secret_parameters(secrets_of_node) | placed

    def ask(connection: Connection, free: int, refused: Refused) -> list[AnyRow]:
        found: list[AnyRow] = []
        which = by | able | refused.parameters()
        for pool_name in pools:
            if len(found) >= free:
                break
            found += connection.execute(finding, which | {"in_pool": pool_name, "limit": free - len(found)})
        return found

    def wait(connection: Connection, of_jobs: Sequence[int]) -> Iterable[AnyRow]:
        statement = find_waiting(*counts, transactional=transactional)
        for pool_name in pools:
            yield from connection.execute(statement, able | {"in_pool": pool_name, "of_jobs": of_jobs})

    def take(connection: Connection) -> list[Claim]:
        candidates.clear()
        with_permits: set[int] = set()
        refused = Refused()
        for _ in range(PASSES_MAX):
            found = ask(connection, limit - len(candidates), refused)
            limited = [row.id for row in found if row.is_limited]
            taken = take_permits(
                connection, limited, batch, partial(wait, connection), locks=form is not ClaimForm.COMPARE_ALONE
            )
            with_permits |= taken.granted
            chosen = [row.id for row in found if not row.is_limited] + sorted(taken.granted)
            if form is ClaimForm.AT_ONCE:
                candidates.extend(row.id for row in found if row.is_claimed)
                chosen = sorted(taken.granted)
            if chosen:
                connection.execute(CLAIM, by | {"ids": chosen})
                candidates.extend(chosen)
            refused.update(taken.refused)
            if not taken.refused or len(candidates) >= limit:
                break
        if not candidates:
            return []
        crash.at("claim.updated")
        claim_ids = [f"{batch}-{run_id}" for run_id in candidates]
        connection.execute(OPEN_ATTEMPTS, {"claim_ids": claim_ids, "boot_id": identity.boot_id})
        connection.execute(TELL_CLAIMS, {"claim_ids": claim_ids})
        claims = _read_new_claims(connection, claim_ids, with_permits, lease_seconds, environments)
        if with_permits:
            undo_permits(connection, sorted(set(claim_ids) - {claim.claim_id for claim in claims}))
        _note_environments(connection, claims)
        crash.at("claim.written")
        return claims

    crash.at("claim.before")
    try:
        claims = until_fresh(lambda: database.write(take, repeatable=False))
    except DatabaseUnavailable as error:
        if not error.outcome_unknown:
            raise
        claim_ids = [f"{batch}-{run_id}" for run_id in candidates]
        claims = database.read(lambda connection: read_claims(connection, claim_ids, lease_seconds, environments))
    crash.at("claim.committed")
    return claims


def read_claims(
    connection: Connection, claim_ids: Sequence[str], lease_seconds: float, environments: Environments
) -> list[Claim]:
    """Return those of ``claim_ids`` that are current."""
    rows = connection.execute(READ_CLAIMS, {"claim_ids": claim_ids, "node_lease": lease_seconds})
    return [_claim_of(row, environments) for row in rows]


def _read_new_claims(
    connection: Connection,
    claim_ids: Sequence[str],
    with_permits: Set[int],
    lease_seconds: float,
    environments: Environments,
) -> list[Claim]:
    rows = connection.execute(READ_NEW_CLAIMS, {"claim_ids": claim_ids, "node_lease": lease_seconds}).all()
    if any(row.is_limited and row.id not in with_permits for row in rows):
        raise Stale("a job got its first limit while its runs were claimed")
    if len(rows) < len(claim_ids):  # a job is gone
        return read_claims(connection, claim_ids, lease_seconds, environments)
    return [_claim_of(row, environments) for row in rows]


def _note_environments(connection: Connection, claims: Sequence[Claim]) -> None:
    by_environment: dict[tuple[str, str], list[str]] = {}
    for claim in claims:
        if claim.environment is not None:
            which = (claim.environment.name, claim.environment.version)
            by_environment.setdefault(which, []).append(claim.claim_id)
    for (name, version), claim_ids in by_environment.items():
        facts = {"claim_ids": claim_ids, "in_name": name, "in_version": version}
        connection.execute(NOTE_ENVIRONMENT, facts)
        connection.execute(NOTE_ENVIRONMENT_OF_ATTEMPTS, facts)


def _claim_of(row: AnyRow, environments: Environments) -> Claim:
    named: tuple[str, ...] = ()
    if row.kind is None:  # claimed all the same, so that the run ends and says why
        variables, problem = {}, "it was deleted meanwhile, so there is nothing to start"
    else:
        variables, problem = _read_variables(row.variables)
        try:
            named = read_names(row.secrets)
            read_mutexes(row.mutexes)
        except Invalid as error:
            problem = problem or str(error)
        problem = problem or problem_of(row.prefer, row.exclude, row.retry_node)
    return Claim(
        run_id=row.id,
        claim_id=row.claim_id,
        fence=row.fence,
        attempt=row.attempt,
        job=row.job,
        kind=row.kind or "",
        target=row.target or "",
        args=row.args,
        schedule=row.schedule,
        slot_at=row.slot_at,
        run_at=row.run_at,
        run_key=row.run_key,
        pool=row.pool,
        delivery=Delivery(row.delivery),
        lease_seconds=row.lease,
        timeout_seconds=row.timeout_seconds,
        retries=row.retries or 0,
        stdin=row.stdin,
        cwd=row.cwd,
        run_as=row.run_as,
        variables=variables,
        checkpoint=row.checkpoint,
        startup=row.startup or Startup.WARM.value,
        connection=row.connection,
        executor=row.executor or Executor.PROCESS.value,
        marked=row.marked_at is not None,
        problem=problem,
        limits={name: value for name in LIMIT_COLUMNS if (value := getattr(row, name)) is not None},
        env=row.env or None,
        environment=environments.find(row.env) if row.env else None,
        deadline_left_seconds=deadline_left(row, row.deadline_seconds),
        secrets=named,
        part=part_of(row),
    )


def part_of(row: AnyRow) -> PeriodPart | None:
    """Return what the run in ``row`` does of a period; None: it is for none, or the row does not say which."""
    moments = (row.period_start_at, row.period_end_at, row.range_start_at, row.range_end_at)
    return None if row.period is None or None in moments else PeriodPart(row.period, *moments)


def deadline_left(row: AnyRow, deadline_seconds: float | None) -> float | None:
    """Return how long attempts of the run in ``row`` may still go on, by its ``now``; None: there is no deadline."""
    if deadline_seconds is None:
        return None
    # Not started yet, or started by a program that did not note it: it counts from now.
    since = row.now if row.deadline_from_at is None else row.deadline_from_at
    return deadline_seconds - (row.now - since).total_seconds()


def _read_variables(text: str) -> tuple[dict[str, str], str | None]:
    # The row may have been written by hand: its run fails with a reason, and the others of the batch start.
    try:
        return {str(name): str(value) for name, value in json.loads(text).items()}, None
    except (ValueError, AttributeError, RecursionError):
        return {}, f"variables {text[:100]!r} of its job is not a JSON object: correct it with `rota job edit`"


def mark_started(database: Database, claim_ids: Iterable[str]) -> frozenset[str]:
    """Commit the start marks and return the claims that may be spawned. Doing it twice is doing it once.

    Raises:
        DatabaseUnavailable: the outcome is unknown; spawn nothing.
    """
    wanted = sorted(claim_ids)

    def mark(connection: Connection) -> frozenset[str]:
        parameters = {"claim_ids": wanted}
        connection.execute(MARK_STARTED, parameters)
        connection.execute(MARK_ATTEMPTS, parameters)
        marked = frozenset(connection.execute(FIND_MARKED, parameters).scalars())
        crash.at("mark.written")
        return marked

    if not wanted:
        return frozenset()
    crash.at("mark.before")
    marked = database.write(mark, repeatable=True)
    crash.at("mark.committed")
    return marked


def find_locked(connection: Connection, claim_ids: Sequence[str], found: Set[str]) -> frozenset[str]:
    """Return which of these claims are not in ``found`` only because somebody keeps their run locked.

    To be asked after the statement that passed over such runs: a claim that no run has then is lost, and not locked.
    """
    missing = [claim_id for claim_id in claim_ids if claim_id not in found]
    if not missing:
        return frozenset()
    return frozenset(connection.execute(FIND_PRESENT, {"claim_ids": missing}).scalars())


def lock_free(connection: Connection, claim_ids: Sequence[str]) -> tuple[list[str], frozenset[str]]:
    """Lock the running runs of these claims that nobody else keeps locked; return their claims, and the others'."""
    free = list(connection.execute(LOCK_FREE, {"claim_ids": claim_ids}).scalars())
    missing = [claim_id for claim_id in claim_ids if claim_id not in set(free)]
    if not missing:
        return free, frozenset()
    return free, frozenset(connection.execute(FIND_CURRENT, {"claim_ids": missing}).scalars())


def adopt_claims(database: Database, identity: NodeIdentity, claim_ids: Sequence[str]) -> frozenset[str]:
    """Say that these runs are in this node's hands now, their worker being gone; what was lost meanwhile stays lost.

    Return those whose run somebody keeps locked, of which nothing was said: ask again.

    Raises:
        DatabaseUnavailable: calling again is safe; it may be told twice then.
    """
    told = f"its worker is gone, and its job goes on: {identity.name} has taken it over"

    def adopt(connection: Connection) -> frozenset[str]:
        free, locked = lock_free(connection, claim_ids)
        if free:
            connection.execute(ADOPT, {"claim_ids": free, "by_node": identity.name, "by_holder": identity.holder})
            connection.execute(TELL_ADOPTED, {"claim_ids": free, "told": told})
        crash.at("adopt.written")
        return locked

    crash.at("adopt.before")
    locked = database.write(adopt, repeatable=True)
    crash.at("adopt.committed")
    return locked


def tell_stand_in(database: Database, claim_ids: Sequence[str], *, host: str) -> None:
    """Say that a stand-in renews the leases of these runs; they stay with the node that they were claimed by.

    Raises:
        DatabaseUnavailable: calling again is safe; it may be told twice then.
    """
    told = f"its worker is gone, and its job goes on: a stand-in on {host} renews"
    claims = {"claim_ids": list(claim_ids), "told": told}
    database.write(lambda connection: connection.execute(TELL_ADOPTED, claims), repeatable=True)


@dataclass(frozen=True, slots=True)
class Renewal:
    """What the database said to a renewal."""

    kept: frozenset[str]  # claims whose lease goes on
    lost: frozenset[str]  # claims that are not current any more; what is in neither is locked by somebody
    cancelled: dict[str, str]  # of these, whose cancellation was asked for, and by whom
    frozen: frozenset[str]  # of these, whose processes are to be held
    node_state: NodeState | None  # None: the node's name belongs to another process now


def renew_claims(
    writer: Writer,
    identity: NodeIdentity | None,
    claim_ids: Iterable[str],
    lease_seconds: float,
    *,
    leases: Mapping[str, float] | None = None,
    skew: Skew | None = None,
    behind_seconds: float = 0.0,
) -> Renewal:
    """Prolong the leases of ``claim_ids`` and the node's own, if there is a node, and return which are left.

    A claim gets as many seconds as ``leases`` says: what its guardian counts by, which may be the lease of a worker
    before this one. Were it less here, another node might start the job while it runs. Where that says nothing, it is
    the lease of the run, or else ``lease_seconds``, which is the node's own too.

    With ``skew`` the node's clock is compared with the database's on the way, and written where that is news.
    ``behind_seconds`` is how long ago the node's last good round was due: it counts as seen then.

    What is lost, its guardian stops, and reports nothing. What somebody keeps locked has the lease that it had, and
    holds up no other. The caller counts the new local deadline from before this call.

    Raises:
        DatabaseUnavailable: nothing is known to be prolonged.
    """
    wanted = sorted(claim_ids)
    leases = leases or {}
    written: list[float] = []

    def renew(connection: Connection) -> Renewal:
        kept: dict[str, AnyRow] = {}
        current: set[str] = set()
        written.clear()
        state: str | None = None
        if identity is not None:
            who = {"node_name": identity.name, "node_holder": identity.holder}
            connection.execute(RENEW_NODE, who | {"node_lease": lease_seconds, "behind": behind_seconds})
            before = skew.wall() if skew is not None else 0.0
            found = connection.execute(READ_NODE_STATE, who).one_or_none()
            if found is not None:
                state = found.state
                if skew is not None:
                    skew.measure(before, found.now, skew.wall())
                    if skew.is_news() and (seconds := skew.seconds) is not None:
                        connection.execute(WRITE_SKEW, who | {"seconds": seconds})
                        written.append(seconds)
        if wanted:
            kept = {row.claim_id: row for row in connection.execute(FIND_RENEWABLE, {"claim_ids": wanted})}
            if missing := [claim_id for claim_id in wanted if claim_id not in kept]:
                current.update(connection.execute(FIND_CURRENT, {"claim_ids": missing}).scalars())
        by_lease: dict[float, list[str]] = {}
        for claim_id, row in kept.items():
            lease = leases.get(claim_id, lease_seconds if row.lease_seconds is None else row.lease_seconds)
            by_lease.setdefault(lease, []).append(claim_id)
        for lease, of_lease in sorted(by_lease.items()):
            if connection.execute(RENEW_CLAIMS, {"claim_ids": of_lease, "lease": lease}).rowcount != len(of_lease):
                raise Stale("a lease was taken away while it was renewed")
        if wanted:
            crash.at("renew.written")
        return Renewal(
            kept=frozenset(kept),
            lost=frozenset(wanted) - kept.keys() - current,
            cancelled={
                claim_id: row.cancel_asked_by or "" for claim_id, row in kept.items() if row.cancel_asked_at is not None
            },
            frozen=frozenset(claim_id for claim_id, row in kept.items() if row.freeze_asked_at is not None),
            node_state=NodeState(state) if state is not None else None,
        )

    if wanted:
        crash.at("renew.before")
    renewal = write_fresh(writer, renew)
    if wanted:
        crash.at("renew.committed")
    if skew is not None and written:
        skew.wrote(written[-1])
    return renewal
