"""Fan-out: for which nodes a slot or a request of a job that runs on all of its pool is, and what binds these runs.

Invariant: who is registered is read once for each slot and each request, and never again: what was fired is not
extended by a node that joins later. The runs of one slot, or of one request, have the same ``group_id``, which depends
on nothing but the slot or the request, so that a repeated firing makes the same. Called where runs are made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, cast

from sqlalchemy import Connection, bindparam, desc, func, literal, or_, select

from rota.errors import Conflict, Invalid
from rota.model.instants import say_moment
from rota.model.names import NAME_LENGTH_MAX
from rota.model.placement import RunsOn, selectors_of
from rota.model.policy import Firing, SlotDecision, Unfinished, count_skips, miss_for_nobody
from rota.model.run import Made, NewRun
from rota.model.states import NodeState
from rota.store.clock import IS_HELD
from rota.store.keys import let_go_of_keys
from rota.store.placing import read_selectors
from rota.store.pool_rules import labels_of
from rota.store.shown import show_document
from rota.store.tables import node, run
from rota.store.types import AnyRow, db_now, db_now_plus, encode_rows, given_rows, in_portions

REGISTERED_DAYS = 7  # silent for so long, a node does not count any more
TARGETS_MAX = 1000  # nodes of a pool: beyond, those that were seen last
NODES_READ_MAX = 10_000
ROWS_MAX = 10_000  # of the ledger, that one look at a schedule makes: the rest of its late slots comes with the next

NAMED_MAX = 5
KEY_BYTES = 300  # about what a key that is asked for takes

ANY = ""  # the target of a run that any node may take

# When the clock has just stepped all of them seem silent for long.
IS_REGISTERED = or_(
    node.c.seen_at > db_now_plus(literal(-REGISTERED_DAYS * 86_400.0)), node.c.lease_ends_at > db_now(), IS_HELD
)
READ_REGISTERED = (
    select(node.c.name, node.c.pools, node.c.labels)
    .where(IS_REGISTERED)
    .order_by(desc(node.c.seen_at), node.c.name)
    .limit(NODES_READ_MAX)
)
# Served by the unique name.
READ_TARGETS = select(
    node.c.name,
    node.c.state,
    node.c.pools,
    node.c.seen_at,
    node.c.drain_asked_at,
    node.c.drain_asked_by,
    (node.c.lease_ends_at > db_now()).label("is_held"),
).where(node.c.name.in_(bindparam("names", expanding=True)))
# The first run of each of these groups. Served by rota_run_group.
FIND_FIRST_OF_GROUPS = (
    select(run.c.group_id, func.min(run.c.id).label("id"))
    .where(run.c.group_id.in_(bindparam("group_ids", expanding=True)))
    .group_by(run.c.group_id)
)
# Any node that a run with a key may have been made for: also one that left its pool, or was silent for long.
READ_NAMES = select(node.c.name).order_by(desc(node.c.seen_at), node.c.name).limit(NODES_READ_MAX)
_keys = given_rows("held", job_id="id", active_key="name")
# Who holds these keys. Served by rota_run_active_key.
FIND_HOLDERS = select(run.c.id, run.c.job_id, run.c.active_key, run.c.group_id, run.c.state).where(
    run.c.job_id == _keys.c.job_id, run.c.active_key == _keys.c.active_key
)


class Registered:
    """The nodes that count as registered, read when they are first asked for."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @cached_property
    def _pools(self) -> Mapping[str, list[tuple[str, frozenset[str]]]]:
        found: dict[str, list[tuple[str, frozenset[str]]]] = {}
        for row in self._connection.execute(READ_REGISTERED):
            member = (row.name, frozenset(selectors_of(row.name, labels_of(row.labels))))
            for pool in _names_of(row.pools):
                found.setdefault(pool, []).append(member)
        return found

    def of(self, pool: str, exclude: str | None = None) -> list[str]:
        """Return the names of those that serve ``pool`` and that a job with this ``exclude`` may run on, sorted."""
        left_out = _selectors_in(exclude)
        found = [name for name, selectors in self._pools.get(pool, []) if left_out.isdisjoint(selectors)]
        return sorted(found[:TARGETS_MAX])

    def targets(self, runs_on: object, pool: str, exclude: str | None = None) -> list[str]:
        """Return the targets of a slot: one that any node may take, or the nodes of the pool that its job may run on.

        Raises:
            Invalid: the job's row has no known word there.
        """
        return self.of(pool, exclude) if is_for_all(runs_on) else [ANY]


def _selectors_in(exclude: str | None) -> frozenset[str]:
    try:
        return frozenset(read_selectors("exclude", exclude))
    except Invalid:  # written by hand: whoever claims such a run fails it with the reason
        return frozenset()


def is_excluded(row: AnyRow) -> bool:
    """Tell whether the job in ``row`` excludes the node that its run is for."""
    return not _selectors_in(row.exclude).isdisjoint(selectors_of(row.target_node, labels_of(row.labels)))


def _names_of(text: str | None) -> list[str]:
    found: object = show_document(text)
    return [str(name) for name in cast("list[object]", found)] if isinstance(found, list) else []


def is_for_all(runs_on: object) -> bool:
    """Tell whether a job runs on all nodes of its pool, by what its row holds.

    Raises:
        Invalid: it is no known word; somebody has written it there.
    """
    if runs_on is None or runs_on == RunsOn.ANY.value:
        return False
    if runs_on == RunsOn.ALL.value:
        return True
    raise Invalid("on", runs_on, "its job runs on any node of its pool or on all: correct it with `rota job edit --on`")


def slot_group(schedule_id: int, slot: datetime) -> str:
    """Name the group of the runs of one slot."""
    return f"slot-{schedule_id}-{slot.astimezone(UTC):%Y%m%dT%H%M%S.%f}Z"


def say_targets(connection: Connection, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Say of each node why it has not taken a run that is for it, by node and pool: what is recorded of it now."""
    pairs = sorted(set(wanted))
    names = sorted({name for name, _ in pairs})
    rows = {row.name: row for row in connection.execute(READ_TARGETS, {"names": names})} if names else {}
    return {(name, pool): f"it is for node {name}, which {_say_node(rows.get(name), pool)}" for name, pool in pairs}


def _say_node(row: AnyRow, pool: str) -> str:
    if row is None:
        return "is not registered any more"
    if row.state == NodeState.GONE.value:
        return f"said goodbye {say_moment(row.seen_at)}"
    if not row.is_held:
        return f"is silent since {say_moment(row.seen_at)}"
    if row.drain_asked_at is not None:
        return f"drains since {say_moment(row.drain_asked_at)}, as {row.drain_asked_by or 'somebody'} asked"
    if row.state == NodeState.DRAINING.value:
        return "drains, and will leave"
    if pool not in _names_of(row.pools):
        return f"does not serve pool {pool} any more"
    return "is alive and had not taken it"


# -- slots


@dataclass(frozen=True, slots=True)
class Decided:
    """What becomes of the due slots of one schedule on each node that they are for."""

    slots: tuple[tuple[str, SlotDecision], ...]  # target and decision, by slot, then by target
    next_slot: datetime | None
    last_slot: datetime
    skips_in_row: int  # of the node that has the most
    skipping: tuple[str, ...] = ()  # the nodes that have so many
    replacing: tuple[str, ...] = ()  # the targets whose unfinished runs are to be cancelled


def decide_targets(
    targets: Sequence[str],
    opened: Mapping[str, Unfinished],
    skips_in_row: int,
    decide: Callable[[Unfinished], Firing],
    *,
    last_slot: datetime | None = None,
) -> Decided:
    """Decide the due slots for each of ``targets``, by what each has unfinished; for nobody, when there are none.

    Skips in a row are those of one target: whoever has a run of ``last_slot`` was not skipped then.
    ``decide`` gives the same slots whatever is unfinished. What would be more than ``ROWS_MAX`` rows is left for the
    next look, whole slots at a time.
    """
    firings: dict[Unfinished, Firing] = {}

    def decide_for(target: str) -> Firing:
        unfinished = unfinished_of(opened, target)
        if unfinished not in firings:
            firings[unfinished] = decide(unfinished)
        return firings[unfinished]

    if targets:
        of_targets = [(target, decide_for(target)) for target in targets]
    else:
        of_targets = [
            (
                ANY,
                miss_for_nobody(
                    decide(Unfinished()), f"no node that it may run on is registered in its pool: {_START_ONE}"
                ),
            )
        ]
    firing = of_targets[0][1]
    count = len(firing.decisions)
    kept = min(count, max(1, ROWS_MAX // len(of_targets))) if len(of_targets) > 1 else count
    last = firing.decisions[kept - 1]

    def skips_before(target: str) -> int:
        latest = unfinished_of(opened, target).latest_slot
        return 0 if latest is not None and latest == last_slot else skips_in_row

    skips = [(count_skips(one.decisions[:kept], skips_before(target)), target) for target, one in of_targets]
    most = max(number for number, _ in skips)
    return Decided(
        slots=tuple((target, one.decisions[number]) for number in range(kept) for target, one in of_targets),
        next_slot=firing.next_slot if kept == count else firing.decisions[kept].slot,
        last_slot=last.slot_last or last.slot,
        skips_in_row=most,
        skipping=tuple(target for number, target in skips if number == most and target != ANY),
        replacing=tuple(target for target, one in of_targets if any(each.replaces for each in one.decisions[:kept])),
    )


_START_ONE = "start one with `rota worker`"


def unfinished_of(opened: Mapping[str, Unfinished], target: str) -> Unfinished:
    """Return what stands in the way of a slot for ``target``: what is for that node, and what is for any.

    A run that any node may take is in the way of each, and each in its way: so it is right after a job was edited from
    one to the other.
    """
    found = [one for of, one in opened.items() if is_in_the_way(of, (target,))]
    latest = max((one.latest_slot for one in found if one.latest_slot is not None), default=None)
    return Unfinished(
        sum(one.runs for one in found),
        sum(one.queued for one in found),
        latest,
        backfilled=sum(one.backfilled for one in found),
    )


def is_in_the_way(of: str, targets: Collection[str]) -> bool:
    """Tell whether an unfinished run for ``of`` stands in the way of slots for ``targets``."""
    return of == ANY or of in targets or ANY in targets


def say_names(names: Sequence[str]) -> str:
    """Say some names, or the first of many."""
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return ", ".join(names[:NAMED_MAX]) + more


def leave_out_fired(connection: Connection, rows: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Return the rows of slots without those of groups that are there: a node that joined since begins with the next.

    A cursor goes back over a slot only by hand, or with a backup that was put back.
    """
    groups = {row["group_id"] for row in rows if row.get("group_id") is not None}
    fired = _find_firsts(connection, groups) if groups else {}
    return [row for row in rows if row.get("group_id") not in fired] if fired else rows


# -- requests


@dataclass(frozen=True, slots=True)
class Spread:
    """What becomes of one request for a run on all nodes."""

    made: Made | None  # it is there already
    rows: tuple[dict[str, Any], ...] = ()  # what the row of each node has besides


def spread_requests(
    connection: Connection, wanted: Sequence[tuple[NewRun, str]], jobs: Mapping[str, AnyRow]
) -> dict[str, Spread]:
    """Return, by request id, what becomes of those of the requests whose jobs run on all nodes, or did so before.

    A request that was sent before, and a key that a run of its job holds for one node, or for any, give the group that
    is there, whole and as it is. Of a job that ran on all nodes before, only such requests are told; the others are to
    be made as any.

    Raises:
        Conflict: no node is registered in the pool of one of these jobs.
        Invalid: a job's row does not say on how many nodes it runs.
    """
    for_all = [(new, request) for new, request in wanted if is_for_all(jobs[new.job].runs_on)]
    # An explicit word says that its job ran on all nodes before.
    for_any = [
        (new, request)
        for new, request in wanted
        if new.run_key is not None and jobs[new.job].runs_on == RunsOn.ANY.value
    ]
    holders = _find_group_holders(connection, for_any, jobs)
    found = {request: Spread(made) for request, made in holders.items() if made.group_id is not None}
    return found | (_spread_on_all(connection, for_all, jobs) if for_all else {})


def _spread_on_all(
    connection: Connection, wanted: Sequence[tuple[NewRun, str]], jobs: Mapping[str, AnyRow]
) -> dict[str, Spread]:
    registered = Registered(connection)
    firsts = _find_firsts(connection, [request for _, request in wanted])
    found = {request: Spread(Made(firsts[request], request)) for _, request in wanted if request in firsts}
    rows: dict[str, tuple[dict[str, Any], ...]] = {}
    for new, request in wanted:
        known = jobs[new.job]
        if request not in found:
            nodes = registered.of(known.pool, known.exclude)
            if not nodes:
                raise Conflict(
                    f"job {new.job} runs on all nodes of pool {known.pool}, and none {_of_those(known.exclude)}is "
                    f"registered there: start one with `rota worker --pool {known.pool}`"
                )
            rows[request] = tuple(_row_of(new, request, name) for name in nodes)
    holders = _find_group_holders(connection, [(new, request) for new, request in wanted if request in rows], jobs)
    return found | {request: Spread(holders.get(request), each) for request, each in rows.items()}


def _of_those(exclude: str | None) -> str:
    return "that it does not exclude " if _selectors_in(exclude) else ""


def _row_of(new: NewRun, request: str, name: str) -> dict[str, Any]:
    return {
        "target_node": name,
        "group_id": request,
        "request_id": f"{request}.{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}",
        "active_key": None if new.run_key is None else key_on(new.run_key, name),
    }


def key_on(run_key: str, name: str) -> str:
    """Return what a run of a key holds on one node: no name has an ``@``, so that nobody asks for the same by it."""
    spelled = f"{run_key}@{name}"
    if len(spelled) <= NAME_LENGTH_MAX:
        return spelled
    return f"@{hashlib.sha256(spelled.encode()).hexdigest()}"


def _find_firsts(connection: Connection, groups: Iterable[str]) -> dict[str, int]:
    rows = connection.execute(FIND_FIRST_OF_GROUPS, {"group_ids": sorted(set(groups))})
    return {row.group_id: row.id for row in rows}


def _find_group_holders(
    connection: Connection, wanted: Sequence[tuple[NewRun, str]], jobs: Mapping[str, AnyRow]
) -> dict[str, Made]:
    """Return, by request id, what holds the keys of requests already, for any node or for one."""
    by_key: dict[tuple[int, str], list[str]] = {}
    for new, request in wanted:
        if new.run_key is not None:
            by_key.setdefault((jobs[new.job].id, new.run_key), []).append(request)
    if not by_key:
        return {}
    held = find_holders_anywhere(connection, by_key)
    firsts = _find_firsts(connection, {row.group_id for rows in held.values() for row in rows if row.group_id})
    found: dict[str, Made] = {}
    for key, rows in held.items():
        newest = max(rows, key=lambda row: row.id)
        made = Made(firsts[newest.group_id], newest.group_id) if newest.group_id else Made(newest.id)
        found |= dict.fromkeys(by_key[key], made)
    return found


def find_holders_anywhere(
    connection: Connection, wanted: Iterable[tuple[int, str]]
) -> dict[tuple[int, str], list[AnyRow]]:
    """Return the runs that hold these keys (job, key), for any node or for one that is known.

    Beside the requests of a job for any node there may be groups that were asked for while it ran on all nodes, and
    groups for nodes that its pool has no more.
    """
    names = connection.execute(READ_NAMES).scalars().all()
    spelled = {
        (job_id, each): (job_id, key)
        for job_id, key in wanted
        for each in (key, *(key_on(key, name) for name in names))
    }
    found: dict[tuple[int, str], list[AnyRow]] = {}
    for portion in in_portions(sorted(spelled), lambda _: KEY_BYTES):
        let_go_of_keys(connection, portion)
        asked = encode_rows({"job_id": job_id, "active_key": key} for job_id, key in portion)
        for row in connection.execute(FIND_HOLDERS, {"held": asked}):
            found.setdefault(spelled[row.job_id, row.active_key], []).append(row)
    return found
