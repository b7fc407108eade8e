"""Which job runs after which, kept as pairs beside the definitions.

Invariant: the pairs of a job are those of its column ``after`` and are written in the same transaction; together they
have no cycle, since whoever changes some of them holds one lock. Called where jobs are written.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from rota.errors import Conflict, Invalid
from rota.model.dependencies import find_cycle
from rota.store.tables import dependency, job, run, schema
from rota.store.types import db_now

_upstream = job.alias("upstream")

# One change of the pairs at a time: two of them, each without a cycle, could make one together.
_LOCK_PAIRS = update(schema).values(version=schema.c.version)
FIND_IDS = select(job.c.id, job.c.name).where(job.c.name.in_(bindparam("names", expanding=True)))
READ_PAIRS = (
    select(job.c.name, _upstream.c.name.label("upstream"))
    .select_from(dependency)
    .join(job, job.c.id == dependency.c.job_id)
    .join(_upstream, _upstream.c.id == dependency.c.upstream_id)
)
_FORGET_UPSTREAMS = delete(dependency).where(dependency.c.job_id == bindparam("of_job"))
# What waits for other upstreams now. Served by rota_run_awaiting.
_LOOK_AT_ONCE = (
    update(run)
    .where(run.c.awaiting_job_id == bindparam("of_job"), run.c.run_at <= db_now())
    .values(upstreams_due_at=db_now())
)
# Served by rota_dependency_upstream.
DEPENDANTS_OF = (
    select(job.c.name)
    .join(dependency, dependency.c.job_id == job.c.id)
    .where(dependency.c.upstream_id == bindparam("of_job"))
    .order_by(job.c.name)
)


def replace_upstreams(connection: Connection, job_id: int, name: str, builds_on: Mapping[str, bool]) -> None:
    """Let a job build on these, and no others, in the transaction that writes it; True for those that it rolls up.

    Raises:
        Invalid: there is no such job, or they run after this one already; the message names the path.
    """
    connection.execute(_LOCK_PAIRS)
    connection.execute(_FORGET_UPSTREAMS, {"of_job": job_id})
    connection.execute(_LOOK_AT_ONCE, {"of_job": job_id})
    if not builds_on:
        return
    ids = {row.name: row.id for row in connection.execute(FIND_IDS, {"names": sorted(builds_on)})}
    for upstream, is_child in builds_on.items():
        if upstream not in ids:
            rule = "there is no such job: add it first, or see `rota job list` for its name"
            raise Invalid("rolls_up" if is_child else "after", upstream, rule)
    upstreams = read_upstreams(connection) | {name: frozenset(builds_on)}
    if (cycle := find_cycle(upstreams, name)) is not None:
        field = "rolls_up" if builds_on[cycle[1]] else "after"
        raise Invalid(field, cycle[1], f"it closes a cycle: {' after '.join(cycle)}")
    connection.execute(
        insert(dependency),
        [
            {"job_id": job_id, "upstream_id": ids[upstream], "is_child": True if is_child else None}
            for upstream, is_child in builds_on.items()
        ],
    )


def read_upstreams(connection: Connection) -> dict[str, frozenset[str]]:
    """Return the upstreams of each job that has some."""
    found: dict[str, set[str]] = {}
    for row in connection.execute(READ_PAIRS):
        found.setdefault(row.name, set()).add(row.upstream)
    return {name: frozenset(upstreams) for name, upstreams in found.items()}


def read_dependants(connection: Connection, job_id: int) -> list[str]:
    """Return the jobs that run after this one, by name."""
    return list(connection.execute(DEPENDANTS_OF, {"of_job": job_id}).scalars())


def forget_job(connection: Connection, job_id: int, name: str) -> None:
    """Take a job out of all pairs, in the transaction that deletes its row.

    Raises:
        Conflict: others run after it.
    """
    connection.execute(_LOCK_PAIRS)
    if dependants := read_dependants(connection, job_id):
        shown_names = ", ".join(dependants[:3]) + (", …" if len(dependants) > 3 else "")
        raise Conflict(
            f"others build on job {name!r} ({shown_names}): edit these first with `rota job edit --after`, `--rolls-up`"
        )
    connection.execute(_FORGET_UPSTREAMS, {"of_job": job_id})
