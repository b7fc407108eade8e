"""Who serves a pool: which nodes may be offered its runs, and how many of their slots are free.

Invariant: nothing is guessed. A node is alive while its lease has not ended by the database's clock and it has not said
that it drains. Called by whoever explains or watches; claiming does not ask here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, bindparam, desc, func, select

from rota.errors import Invalid
from rota.model.durations import format_duration
from rota.model.instants import say_moment
from rota.model.job import POOL_DEFAULT
from rota.model.names import check_env, check_pool
from rota.model.placement import selectors_of
from rota.model.secret import read_names
from rota.model.states import NodeState
from rota.store.database import Database, now_of
from rota.store.pool_rules import labels_of
from rota.store.shown import say_span
from rota.store.tables import job, node, pool, run
from rota.store.types import AnyRow, db_now

NODES_MAX = 1000
NAMED_MAX = 5
# Who said goodbye may come back, as after an upgrade, or with the next pass of `rota tick`.
GOODBYE_SECONDS = 300.0

_LONG_AGO = datetime.min.replace(tzinfo=UTC)  # for a moment that cannot be read

# The latest ones: names of machines that are gone for good pile up.
READ_NODES = (
    select(
        node.c.name,
        node.c.state,
        node.c.pools,
        node.c.slots,
        node.c.environments,
        node.c.secrets,
        node.c.cgroups,
        node.c.seen_at,
        node.c.lease_ends_at,
        node.c.drain_asked_at,
        node.c.drain_asked_by,
        node.c.labels,
        node.c.skew_seconds,
        node.c.zone_data_version,
        node.c.keep_runs,
        (node.c.lease_ends_at > db_now()).label("is_held"),
        db_now().label("now"),
    )
    .order_by(desc(node.c.seen_at))
    .limit(NODES_MAX)
)
# Served by rota_run_lease.
COUNT_HELD = (
    select(run.c.node, func.count().label("number")).where(run.c.lease_ends_at.is_not(None)).group_by(run.c.node)
)
# Served by the unique name, as the next one.
READ_POOLS_OF = select(job.c.pool).where(job.c.name.in_(bindparam("jobs", expanding=True))).distinct()
KNOWN_POOLS = select(pool.c.name).where(pool.c.name.in_(bindparam("pools", expanding=True)))


@dataclass(frozen=True, slots=True)
class Server:
    """A node, as far as its pools are concerned."""

    name: str
    pools: frozenset[str]
    slots: int
    held: int
    seen_at: datetime | None
    lease_ends_at: datetime | None
    is_there: bool  # its lease goes on, also while it drains: it fires and rescues
    is_alive: bool  # it claims as well
    is_silent: bool  # it did not say goodbye, and its lease is over
    unseen_seconds: float | None = None  # how long it has not been seen, if that is longer than it ever should be
    environments: frozenset[str] = frozenset()  # NAME==VERSION
    secrets: frozenset[str] = frozenset()  # names of those that it can read
    uses_cgroups: bool = False
    drain_asked_at: datetime | None = None  # somebody asked it to claim nothing
    drain_asked_by: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    skew_seconds: float | None = None  # its clock less the database's
    zone_data_version: str | None = None
    keep_runs: str | None = None

    @property
    def is_drained(self) -> bool:
        """Whether it is there and claims nothing, since somebody asked it to."""
        return self.is_there and not self.is_alive and self.drain_asked_at is not None

    @property
    def free(self) -> int:
        """How many runs it has room for."""
        return max(0, self.slots - self.held)

    def answers_to(self, selectors: Iterable[str]) -> str | None:
        """Return the first of ``selectors`` that names it, by its name or a label; None: none does."""
        its = selectors_of(self.name, self.labels)
        return next((one for one in selectors if one in its), None)

    def versions(self, env: str) -> list[str]:
        """List what it has of the environment that ``env`` names, whatever the version."""
        name = env.partition("==")[0]
        return sorted(one for one in self.environments if one.partition("==")[0] == name)

    def has(self, env: str | None) -> bool:
        """Tell whether it may run jobs that ask for ``env``."""
        return not env or (env in self.environments if "==" in env else bool(self.versions(env)))

    def may_run(self, env: str | None, secrets: str | None) -> bool:
        """Tell whether it may run a job that asks for ``env`` and names ``secrets``, as its row holds them."""
        try:
            return self.has(env) and self.secrets.issuperset(read_names(secrets))
        except Invalid:  # written by hand
            return False


def read_servers(connection: Connection) -> list[Server]:
    """Return the nodes, the one that was seen last first."""
    rows = connection.execute(READ_NODES).all()
    held = {found.node: found.number for found in connection.execute(COUNT_HELD)}
    return [
        Server(
            name=row.name,
            pools=names_of(row.pools),
            slots=max(0, row.slots),  # one that a hand wrote may be less
            held=held.get(row.name, 0),
            seen_at=row.seen_at,
            lease_ends_at=row.lease_ends_at,
            is_there=row.state != NodeState.GONE.value and bool(row.is_held),
            is_alive=row.state == NodeState.ALIVE.value and bool(row.is_held),
            is_silent=row.state != NodeState.GONE.value and not row.is_held,
            unseen_seconds=_unseen_seconds(row),
            environments=names_of(row.environments or "[]"),
            secrets=names_of(row.secrets or "[]"),
            uses_cgroups=(row.cgroups or "").startswith("used"),
            drain_asked_at=row.drain_asked_at,
            drain_asked_by=row.drain_asked_by,
            labels=labels_of(row.labels),
            skew_seconds=row.skew_seconds,
            zone_data_version=row.zone_data_version,
            keep_runs=row.keep_runs,
        )
        for row in rows
    ]


def _unseen_seconds(row: AnyRow) -> float | None:
    # It renews every third of its lease. Past the middle of it something is wrong, though it may not be dead.
    if row.state == NodeState.GONE.value or not row.is_held or None in (row.seen_at, row.lease_ends_at):
        return None
    unseen, left = row.now - row.seen_at, row.lease_ends_at - row.now
    return unseen.total_seconds() if unseen > left else None


def names_of(text: str) -> frozenset[str]:
    """Read a list of names of a node's row; what a hand broke is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return frozenset()
    return frozenset(str(name) for name in found) if isinstance(found, list) else frozenset()  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def serving(servers: Sequence[Server], pool: str, target: str = "") -> list[Server]:
    """Return the nodes that serve ``pool``; with ``target``, the one of that name."""
    return [server for server in servers if pool in server.pools and target in ("", server.name)]


def say_nobody(servers: Sequence[Server], pool: str, target: str = "") -> str | None:
    """Say that no living node serves ``pool``; None when one does."""
    found = serving(servers, pool, target)
    if any(server.is_alive for server in found):
        return None
    draining = [server for server in found if server.is_there]
    if target and draining:
        return f"only node {target} may take it, and {_say_draining(draining[0])}"
    if target:
        seen = f", seen {say_moment(found[0].seen_at)}" if found else ""
        return f"only node {target} may take it, and it is not alive in pool {pool}{seen}"
    if not found and not _is_name(pool):  # written by hand
        return f"no node can serve pool {pool!r}: give its jobs another with `rota job edit`, and cancel its runs"
    if not found:
        return f"no node serves pool {pool}: start one with `rota worker --pool {pool}`"
    if draining:
        each = _name((_say_draining(server) for server in draining), "; ")
        return f"no node of pool {pool} claims anything: {each}"
    last = last_seen(found)
    return f"no node of pool {pool} is alive: {last.name} was the last one, seen {say_moment(last.seen_at)}"


def _is_name(pool: str) -> bool:
    try:
        check_pool(pool)
    except Invalid:
        return False
    return True


def have_just_left(servers: Sequence[Server], now: datetime) -> bool:
    """Tell whether none of these nodes fell silent, and one was seen a moment ago: it may be about to come back."""
    if not servers or any(server.is_silent for server in servers):
        return False
    since = last_seen(servers).seen_at
    return since is None or (now - since).total_seconds() < GOODBYE_SECONDS


def read_pools_of(database: Database, jobs: Sequence[str]) -> list[str]:
    """Return the pools of the jobs of these names, each once."""
    return database.read(lambda connection: list(connection.execute(READ_POOLS_OF, {"jobs": list(jobs)}).scalars()))


def say_unserved(database: Database, pools: Sequence[str], *, is_asked: bool) -> list[str]:
    """Say which of ``pools`` no living node serves, a sentence for each, so that whoever counts on it is warned.

    As in the look for what does not go on by itself, nothing is said of one whose nodes have just left. ``is_asked``
    tells that a run was asked for. Else a job or a schedule was defined, which usually comes before the first node of
    all is there: nothing is said of ``default`` then.
    """

    def say(connection: Connection) -> list[str]:
        servers = read_servers(connection)
        now = now_of(connection)
        known = {POOL_DEFAULT, *connection.execute(KNOWN_POOLS, {"pools": list(pools)}).scalars()}
        said: list[str] = []
        for name in pools:
            is_usual = name == POOL_DEFAULT and not servers and not is_asked
            nobody = say_nobody(servers, name)
            if nobody is None or is_usual or have_just_left(serving(servers, name), now):
                continue
            is_known = name in known or not _is_name(name)
            said.append(nobody if is_known else f"there is no pool {name} yet, and {nobody}")
        return said

    return database.read(say)


def say_lacking(servers: Sequence[Server], pool: str, env: str | None, target: str = "") -> str | None:
    """Say that no living node of ``pool`` has environment ``env``, and what they and others have of it.

    None when one has it, when ``env`` asks for nothing, and when none lives, which ``say_nobody`` tells.
    """
    alive = [server for server in serving(servers, pool, target) if server.is_alive]
    if not alive or any(server.has(env) for server in alive):
        return None
    try:
        check_env("env", env)
    except Invalid as error:  # written by hand
        return f"{error}: correct it with `rota job edit`"
    assert env is not None
    said = f"no node alive in pool {pool} has environment {env}"
    others: dict[str, list[str]] = {}
    for server in alive:
        for version in server.versions(env):
            others.setdefault(version, []).append(server.name)
    if others:
        return f"{said}; " + "; ".join(
            f"{_name(names)} {'has' if len(names) == 1 else 'have'} {version}" for version, names in others.items()
        )
    elsewhere = [server for server in servers if server.has(env) and server not in alive]
    if elsewhere:
        one = elsewhere[0]
        seen = f"is not alive, seen {say_moment(one.seen_at)}"
        return f"{said}; {one.name} has it, and {f'serves {_name(sorted(one.pools))}' if one.is_alive else seen}"
    return f"{said}: register it on one, in its configuration or by installing what registers it"


def say_unsupplied(
    servers: Sequence[Server], pool: str, env: str | None, secrets: str | None, target: str = ""
) -> str | None:
    """Say that no living node of ``pool`` with environment ``env`` has all the ``secrets`` of a job, as its row names
    them, and which each lacks; None when one has, and when there is no such node."""
    alive = [server for server in serving(servers, pool, target) if server.is_alive and server.has(env)]
    try:
        wanted = frozenset(read_names(secrets))
    except Invalid as error:  # written by hand
        return str(error)
    if not alive or any(wanted <= server.secrets for server in alive):
        return None
    each = _name((f"{server.name} has no {', '.join(sorted(wanted - server.secrets))}" for server in alive), "; ")
    advice = "say in a node's configuration where it is, or see in its log why it cannot be read"
    return f"no node alive in pool {pool} can read all secrets of its job: {each}: {advice}"


def say_excluded(
    servers: Sequence[Server], pool: str, exclude: Sequence[str], target: str = "", *, who: str = "its job"
) -> str | None:
    """Say which living nodes of ``pool`` a job excludes, ``who`` in words; None when none."""
    alive = [server for server in serving(servers, pool, target) if server.is_alive]
    found = [(server, by) for server in alive if (by := server.answers_to(exclude)) is not None]
    if not found:
        return None
    each = _name(server.name if by == server.name else f"{server.name} ({by})" for server, by in found)
    if len(found) == len(alive):
        return f"{who} excludes every node alive in pool {pool}: {each}"
    return f"{who} excludes {each}"


def excludes_all(servers: Sequence[Server], pool: str, exclude: Sequence[str]) -> bool:
    """Tell whether nodes of ``pool`` live, and a job excludes each of them."""
    alive = [server for server in serving(servers, pool) if server.is_alive]
    return bool(alive) and all(server.answers_to(exclude) is not None for server in alive)


def say_preferred(
    servers: Sequence[Server], pool: str, prefer: Sequence[str], left_seconds: float, target: str = ""
) -> str | None:
    """Say that nodes which a job prefers come first for ``left_seconds`` yet; None when that is over."""
    if not prefer or target or left_seconds <= 0:
        return None
    alive = [server for server in serving(servers, pool) if server.is_alive and server.answers_to(prefer) is not None]
    who = _name(server.name for server in alive) if alive else "none of them is alive in its pool, yet they"
    come = "comes" if len(alive) == 1 else "come"
    span = format_duration(math.ceil(left_seconds))
    return f"its job prefers {_name(prefer)}: {who} {come} first for another {span}, then any node"


def _say_draining(server: Server) -> str:
    if server.drain_asked_at is None:
        return f"{server.name} drains, and will leave"
    who = server.drain_asked_by or "somebody"
    since = say_moment(server.drain_asked_at)
    return f"{server.name} drains since {since}, as {who} asked: `rota node resume {server.name}`"


def is_drained(servers: Sequence[Server], pool: str) -> bool:
    """Tell whether nobody takes runs of ``pool`` because somebody asked its nodes to drain."""
    found = serving(servers, pool)
    return any(server.is_drained for server in found) and not any(server.is_alive for server in found)


def last_seen(servers: Sequence[Server]) -> Server:
    """Return the node that was seen last."""
    return max(servers, key=lambda server: server.seen_at or _LONG_AGO)


def say_full(servers: Sequence[Server], pool: str, target: str = "") -> str | None:
    """Say that the living nodes of ``pool`` have no free slot; None when one has, or when none lives."""
    alive = [server for server in serving(servers, pool, target) if server.is_alive]
    if not alive or any(server.free for server in alive):
        return None
    total = sum(server.slots for server in alive)
    if total == 0:
        return f"no node alive in pool {pool} has a slot: {_name(server.name for server in alive)}"
    return f"all {total} slots of pool {pool} are taken, on {_name(server.name for server in alive)}"


def say_offered(servers: Sequence[Server], pool: str, target: str = "") -> str | None:
    """Say to which nodes the runs of ``pool`` are offered; None when to none."""
    alive = [server for server in serving(servers, pool, target) if server.is_alive]
    if not alive:
        return None
    each = _name(f"{server.name} ({server.free} of {server.slots} slots free{_say_unseen(server)})" for server in alive)
    return f"it is offered to {each}"


def say_without_its_node(servers: Sequence[Server], name: str) -> str | None:
    """Say of a running run that node ``name``, which has it, is gone or may be; None when it is there, or no node."""
    server = next((server for server in servers if server.name == name), None)
    if server is None or (server.is_there and server.unseen_seconds is None):
        return None
    goes_on = "its job may go on without it: a worker that starts there takes it over, a stand-in renews it until then"
    if server.is_there:
        return f"{name} may be dead{_say_unseen(server)}; {goes_on}"
    how = "fell silent" if server.is_silent else "has left"
    return f"{name} {how}, seen {say_moment(server.seen_at)}; {goes_on}"


def _say_unseen(server: Server) -> str:
    if server.unseen_seconds is None:
        return ""
    return f", not seen for {say_span(timedelta(seconds=server.unseen_seconds))}"


def _name(words: Iterable[str], between: str = ", ") -> str:
    listed = list(words)
    more = f" and {len(listed) - NAMED_MAX} more" if len(listed) > NAMED_MAX else ""
    return between.join(listed[:NAMED_MAX]) + more
