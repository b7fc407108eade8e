"""Leases: who may execute a run, and until when.

Invariant: a run has at most one current claim, its claim id is random, and its fence only grows. Every later write
names the claim. The lease ends by the database's clock. Called by the worker (claim, mark, renew) and, for runs whose
lease is over, by whichever node looks first (rescue). Ends are in ``endings``.
Long for its statements: claim, mark, renewal and adoption are read together.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Select,
    String,
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

from rota.errors import DatabaseUnavailable, Invalid
from rota.model.environment import NO_ENVIRONMENTS, Environments
from rota.model.job import Executor, Startup
from rota.model.limits import LIMIT_COLUMNS
from rota.model.reasons import Reason
from rota.model.run import Claim, NodeIdentity
from rota.model.secret import read_names
from rota.model.states import AttemptState, Delivery, NodeState, RunState
from rota.store.breakers import MAY_BE_CLAIMED
from rota.store.database import Database
from rota.store.events import tell_runs
from rota.store.moves import Stale, Writer, write_fresh
from rota.store.suspension import is_node_drained, is_pool_paused
from rota.store.tables import attempt, job, node, run
from rota.store.types import AnyRow, db_now, db_now_plus

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
# that is to drain. Served by rota_run_claim in its own order, so that no more rows are locked than are taken.
@cache
def find_claimable(secret_count: int = 0, *, transactional: bool = True) -> Select[Any]:
    """Return the statement for a node with so many secrets, and for one that takes no ``transactional`` runs."""
    others = () if transactional else (run.c.delivery != Delivery.TRANSACTIONAL.value,)
    return (
        select(run.c.id)
        .where(
            *others,
            run.c.state == RunState.READY.value,
            run.c.pool == bindparam("pool"),
            run.c.target_node.in_(["", bindparam("node")]),
            or_(run.c.start_by.is_(None), run.c.started_at.is_not(None), run.c.start_by >= db_now()),
            run.c.job_id.not_in(not_for_node(secret_count)),
            MAY_BE_CLAIMED,
            not_(is_pool_paused(bindparam("pool"))),
            not_(is_node_drained(bindparam("node"))),
        )
        .order_by(run.c.urgency, run.c.run_at, run.c.id)
        .limit(bindparam("limit"))
    )


@cache
def find_claimable_locked(secret_count: int = 0, *, transactional: bool = True) -> Select[Any]:
    """Return the statement for a database that passes over what others have locked."""
    return find_claimable(secret_count, transactional=transactional).with_for_update(skip_locked=True)


FIND_CLAIMABLE = find_claimable()
FIND_CLAIMABLE_LOCKED = find_claimable_locked()

# The claim: a new random id, the fence and the attempt one higher, a lease from now. But for delivery at_most_once it
# marks at once, since only what is spawned now is claimed. The condition on the state is what makes it a claim;
# the locks above only keep others from trying in vain. Served by the primary key.
CLAIM = (
    update(run)
    .where(run.c.id.in_(bindparam("ids", expanding=True)), run.c.state == RunState.READY.value)
    .values(
        state=RunState.RUNNING.value,
        reason=case((run.c.delivery != Delivery.AT_MOST_ONCE.value, Reason.STARTED.value), else_=Reason.CLAIMED.value),
        reason_text=bindparam("why"),
        claim_id=bindparam("batch", type_=String) + "-" + cast(run.c.id, String),
        fence=run.c.fence + 1,
        attempt=case((_next_attempt > run.c.attempt + 1, _next_attempt), else_=run.c.attempt + 1),
        node=bindparam("by_node"),
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
NOTE_ENVIRONMENT = update(run).where(_of_claims, run.c.state == RunState.RUNNING.value).values(_in_environment)
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
READ_CLAIMS = (
    select(
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
    )
    .outerjoin(job, job.c.id == run.c.job_id)
    .where(_of_claims, run.c.state == RunState.RUNNING.value)
    .order_by(run.c.urgency, run.c.run_at, run.c.id)
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
)
# The same rows beforehand, locked in the order in which ends lock them, so that the two never wait for each other.
FIND_RENEWABLE = (
    select(run.c.claim_id, run.c.lease_seconds, run.c.cancel_asked_at, run.c.cancel_asked_by, run.c.freeze_asked_at)
    .where(_of_claims, run.c.state == RunState.RUNNING.value)
    .order_by(run.c.id)
    .with_for_update()
)
RENEW_NODE = (
    update(node)
    .where(node.c.name == bindparam("node_name"), node.c.holder == bindparam("node_holder"))
    .values(seen_at=db_now(), lease_ends_at=db_now_plus(bindparam("node_lease", type_=run.c.lease_seconds.type)))
)
READ_NODE_STATE = select(node.c.state).where(
    node.c.name == bindparam("node_name"), node.c.holder == bindparam("node_holder")
)


# The guardian of a claim has another worker now: the lease goes on under the same claim.
ADOPT = (
    update(run)
    .where(_of_claims, run.c.state == RunState.RUNNING.value)
    .values(node=bindparam("by_node"), holder=bindparam("by_holder"))
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
    *,
    transactional: bool = True,
) -> list[Claim]:
    """Take up to ``limit`` ready runs of ``pools`` for this node: best priority first within a pool, then oldest.

    Runs of jobs that ask for an environment are taken if it is among ``environments``, and noted to run in it; those of
    jobs that name secrets, if all are among ``secrets_of_node``; those with delivery ``transactional`` only by who can
    commit their end with what they write. All claims commit together; the number of statements
    depends on the number of pools, not of runs. When the answer to COMMIT is lost, the claims are looked up by the
    batch's random id; what cannot be looked up either is not started, and its lease ends.

    Raises:
        DatabaseUnavailable: nothing was claimed that this node will start; calling again is safe.
    """
    batch = secrets.token_hex(16)
    candidates: list[int] = []

    def take(connection: Connection) -> list[Claim]:
        candidates.clear()
        count = len(secrets_of_node)
        finder = find_claimable_locked if database.dialect.skip_locked else find_claimable
        find = finder(count, transactional=transactional)
        for pool_name in pools:
            if (free := limit - len(candidates)) <= 0:
                break
            which = {"pool": pool_name, "node": identity.name, "environments": environments.wanted, "limit": free}
            which |= secret_parameters(secrets_of_node)
            candidates.extend(connection.execute(find, which).scalars())
        if not candidates:
            return []
        connection.execute(
            CLAIM,
            {
                "ids": candidates,
                "batch": batch,
                "by_node": identity.name,
                "by_holder": identity.holder,
                "node_lease": lease_seconds,
                "why": f"{identity.name} has it",
            },
        )
        claim_ids = [f"{batch}-{run_id}" for run_id in candidates]
        connection.execute(OPEN_ATTEMPTS, {"claim_ids": claim_ids, "boot_id": identity.boot_id})
        connection.execute(TELL_CLAIMS, {"claim_ids": claim_ids})
        claims = read_claims(connection, claim_ids, lease_seconds, environments)
        _note_environments(connection, claims)
        return claims

    try:
        return database.write(take, repeatable=False)
    except DatabaseUnavailable as error:
        if not error.outcome_unknown:
            raise
        claim_ids = [f"{batch}-{run_id}" for run_id in candidates]
        return database.read(lambda connection: read_claims(connection, claim_ids, lease_seconds, environments))


def read_claims(
    connection: Connection, claim_ids: Sequence[str], lease_seconds: float, environments: Environments
) -> list[Claim]:
    """Return those of ``claim_ids`` that are current."""
    rows = connection.execute(READ_CLAIMS, {"claim_ids": claim_ids, "node_lease": lease_seconds})
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
        except Invalid as error:
            problem = problem or str(error)
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
    )


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
        return frozenset(connection.execute(FIND_MARKED, parameters).scalars())

    return database.write(mark, repeatable=True) if wanted else frozenset()


def adopt_claims(database: Database, identity: NodeIdentity, claim_ids: Sequence[str]) -> None:
    """Say that these runs are in this node's hands now, their worker being gone; what was lost meanwhile stays lost.

    Raises:
        DatabaseUnavailable: calling again is safe; it may be told twice then.
    """
    told = f"its worker is gone, and its job goes on: {identity.name} has taken it over"

    def adopt(connection: Connection) -> None:
        claims = {"claim_ids": list(claim_ids)}
        connection.execute(ADOPT, claims | {"by_node": identity.name, "by_holder": identity.holder})
        connection.execute(TELL_ADOPTED, claims | {"told": told})

    database.write(adopt, repeatable=True)


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
) -> Renewal:
    """Prolong the leases of ``claim_ids`` and the node's own, if there is a node, and return which are left.

    A claim gets as many seconds as ``leases`` says: what its guardian counts by, which may be the lease of a worker
    before this one. Were it less here, another node might start the job while it runs. Where that says nothing, it is
    the lease of the run, or else ``lease_seconds``, which is the node's own too.

    What is not in the answer is lost: its guardian stops its job and reports nothing. The caller counts the new local
    deadline from before this call.

    Raises:
        DatabaseUnavailable: nothing is known to be prolonged.
    """
    wanted = sorted(claim_ids)
    leases = leases or {}

    def renew(connection: Connection) -> Renewal:
        kept: dict[str, AnyRow] = {}
        state: str | None = None
        if identity is not None:
            who = {"node_name": identity.name, "node_holder": identity.holder}
            connection.execute(RENEW_NODE, who | {"node_lease": lease_seconds})
            state = connection.execute(READ_NODE_STATE, who).scalar()
        if wanted:
            kept = {row.claim_id: row for row in connection.execute(FIND_RENEWABLE, {"claim_ids": wanted})}
        by_lease: dict[float, list[str]] = {}
        for claim_id, row in kept.items():
            lease = leases.get(claim_id, lease_seconds if row.lease_seconds is None else row.lease_seconds)
            by_lease.setdefault(lease, []).append(claim_id)
        for lease, of_lease in sorted(by_lease.items()):
            if connection.execute(RENEW_CLAIMS, {"claim_ids": of_lease, "lease": lease}).rowcount != len(of_lease):
                raise Stale("a lease was taken away while it was renewed")
        return Renewal(
            kept=frozenset(kept),
            cancelled={
                claim_id: row.cancel_asked_by or "" for claim_id, row in kept.items() if row.cancel_asked_at is not None
            },
            frozen=frozenset(claim_id for claim_id, row in kept.items() if row.freeze_asked_at is not None),
            node_state=NodeState(state) if state is not None else None,
        )

    return write_fresh(writer, renew)
