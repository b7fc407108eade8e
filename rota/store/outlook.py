"""The look: what there is to do and when the next thing will be, in one statement.

An idle node sends nothing else. Called by the scheduler of every node, over and over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Executable, Select, and_, bindparam, exists, func, not_, or_, select

from rota.model.environment import NO_ENVIRONMENTS, Environments
from rota.model.placement import NO_LABELS
from rota.model.run import NodeIdentity
from rota.model.states import JobState, RunState
from rota.store.breakers import MAY_BE_CLAIMED, NEXT_HALF_OPEN_AT
from rota.store.clock import IS_HELD
from rota.store.commands import HAS_PENDING
from rota.store.database import Database
from rota.store.findings import IS_LOOK_DUE
from rota.store.leases import not_for_node, secret_parameters
from rota.store.permits import NEXT_FREE_AT, WITHIN_LIMITS
from rota.store.placing import is_held_back, placing_conditions, selector_parameters
from rota.store.pool_rules import HAS_RULES
from rota.store.suspension import is_node_drained, is_pool_paused
from rota.store.tables import backfill, job, period, run, schedule
from rota.store.types import db_now

# Schedules that fire: neither paused nor set aside.
IS_ACTIVE = and_(schedule.c.state == JobState.ACTIVE.value, schedule.c.problem.is_(None))
_may_start_in_time = or_(run.c.start_by.is_(None), run.c.started_at.is_not(None), run.c.start_by >= db_now())

_next_slot_at = (
    select(schedule.c.next_slot_at)
    .where(IS_ACTIVE, schedule.c.next_slot_at.is_not(None))
    .order_by(schedule.c.next_slot_at)
    .limit(1)
    .scalar_subquery()
)
_next_due_at = select(func.min(run.c.due_at)).where(run.c.due_at.is_not(None)).scalar_subquery()
_next_upstreams_at = (
    select(func.min(run.c.upstreams_due_at)).where(run.c.upstreams_due_at.is_not(None)).scalar_subquery()
)
_next_backfill_at = select(func.min(backfill.c.due_at)).where(backfill.c.due_at.is_not(None)).scalar_subquery()
_next_period_at = select(func.min(period.c.due_at)).where(period.c.due_at.is_not(None)).scalar_subquery()
_next_ledger_at = select(func.min(job.c.periods_until)).where(job.c.periods_until.is_not(None)).scalar_subquery()
_ended_for_period = (
    select(run.c.open_period_id)
    .where(run.c.open_period_id.is_not(None), run.c.finished_at.is_not(None))
    .limit(1)
    .scalar_subquery()
)
_next_lease_end_at = select(func.min(run.c.lease_ends_at)).where(run.c.lease_ends_at.is_not(None)).scalar_subquery()


def _ready(pool: str, secret_count: int) -> Select[Any]:
    return (
        select(run.c.id)
        .where(
            run.c.state == RunState.READY.value,
            run.c.pool == bindparam(pool),
            run.c.target_node.in_(["", bindparam("for_node")]),
            _may_start_in_time,
            run.c.job_id.not_in(not_for_node(secret_count)),
            MAY_BE_CLAIMED,
            WITHIN_LIMITS,
            not_(is_pool_paused(bindparam(pool))),
            not_(is_node_drained(bindparam("for_node"))),
        )
        .order_by(run.c.urgency, run.c.run_at, run.c.id)
    )


def _has_ready(pool: str, secret_count: int, selector_count: int) -> ColumnElement[bool]:
    ready = _ready(pool, secret_count).where(*placing_conditions(selector_count))
    return ready.limit(1).scalar_subquery().is_not(None)


def _of_frozen(column: ColumnElement[Any]) -> ColumnElement[Any]:
    held = (run.c.lease_ends_at.is_not(None), run.c.holder == bindparam("holder"))
    return select(column).select_from(run).where(*held, run.c.freeze_asked_at.is_not(None)).scalar_subquery()


# All that a waiting node has to know, in one statement, built once for each number of pools. Each part is one look
# into an index: rota_schedule_due, rota_run_due, rota_run_upstreams_due, rota_backfill_due, rota_run_lease,
# rota_run_claim for each pool, and the unique names of pools and nodes. The spelling is for the planners: SQLite
# serves the least of a column from a partial index only if the query repeats its condition; MariaDB would read every
# schedule for the least one without a problem; and PostgreSQL, asked whether a ready run exists rather than for the
# first, would read the whole ledger up to it.
@cache
def look_statement(pool_count: int, secret_count: int = 0, selector_count: int = 0) -> Executable:
    """Return the look of a node of so many pools, secrets and selectors: its parameters are those of ``look``."""
    pools = [f"pool_{number}" for number in range(pool_count)]
    held_back = (is_held_back(_ready(pool, secret_count), selector_count) for pool in pools)
    return select(
        db_now().label("now"),
        _next_slot_at.label("next_slot_at"),
        _next_due_at.label("next_due_at"),
        _next_upstreams_at.label("next_upstreams_at"),
        _next_lease_end_at.label("next_lease_end_at"),
        _next_backfill_at.label("next_backfill_at"),
        (_next_backfill_at <= db_now()).label("backfill_has_come"),
        (_next_slot_at <= db_now()).label("slot_has_come"),
        (_next_due_at <= db_now()).label("due_has_come"),
        (_next_upstreams_at <= db_now()).label("upstreams_have_come"),
        _next_period_at.label("next_period_at"),
        _next_ledger_at.label("next_ledger_at"),
        or_(_next_period_at <= db_now(), _next_ledger_at <= db_now(), _ended_for_period.is_not(None)).label(
            "periods_have_come"
        ),
        (_next_lease_end_at < db_now()).label("lease_has_ended"),
        NEXT_HALF_OPEN_AT.label("next_half_open_at"),
        NEXT_FREE_AT.label("next_free_at"),
        (db_now() >= NEXT_HALF_OPEN_AT).label("half_open_has_come"),
        or_(*(_has_ready(pool, secret_count, selector_count) for pool in pools)).label("has_ready"),
        or_(*held_back).label("has_held_back"),
        HAS_RULES.label("has_rules"),
        exists()
        .where(
            run.c.lease_ends_at.is_not(None),
            run.c.holder == bindparam("holder"),
            run.c.cancel_asked_at.is_not(None),
        )
        .label("has_cancelled"),
        _of_frozen(func.count()).label("frozen_count"),
        _of_frozen(func.coalesce(func.sum(run.c.id), 0)).label("frozen_sum"),
        is_node_drained(bindparam("for_node")).label("is_drained"),
        IS_HELD.label("is_held"),
        IS_LOOK_DUE.label("health_is_due"),
        HAS_PENDING.label("has_commands"),
    )


@dataclass(frozen=True, slots=True)
class Outlook:
    """What lies ahead, by the database's clock."""

    now: datetime
    next_slot_at: datetime | None
    next_due_at: datetime | None
    next_lease_end_at: datetime | None
    slot_has_come: bool
    due_has_come: bool
    lease_has_ended: bool
    has_ready: bool
    has_cancelled: bool
    frozen_count: int = 0  # runs of this node that are to be frozen, or are
    frozen_sum: int = 0  # of their numbers, so that one in the place of another is noticed too
    is_drained: bool = False  # somebody asked this node to claim nothing
    health_is_due: bool = False  # for a minute nobody has looked for what does not go on by itself
    next_half_open_at: datetime | None = None  # when a breaker lets a run through; in the past while none is ready
    half_open_has_come: bool = False
    next_free_at: datetime | None = None  # when a rate that is spent lets the next run start
    has_held_back: bool = False  # of what is ready, something that other nodes may take first, for a while
    has_rules: bool = False  # pools have rules by which nodes serve them
    next_upstreams_at: datetime | None = None  # when to look at what a run waits for
    upstreams_have_come: bool = False
    next_backfill_at: datetime | None = None  # when to look at a backfill
    backfill_has_come: bool = False
    next_period_at: datetime | None = None  # when to look at a period
    next_ledger_at: datetime | None = None  # when the next period of a job begins
    periods_have_come: bool = False  # or a run for one has ended
    has_commands: bool = False  # somebody asks for something with SQL
    is_held: bool = False  # the clock has stepped: nothing late is decided, nothing missed or rescued

    def seconds_until(self, moment: datetime | None) -> float | None:
        """Return how far ahead ``moment`` lies; zero or less when it has come."""
        return None if moment is None else (moment - self.now).total_seconds()


def look(
    database: Database,
    identity: NodeIdentity,
    pools: Sequence[str],
    environments: Environments = NO_ENVIRONMENTS,
    secrets: Sequence[str] = (),
    labels: Mapping[str, str] | None = NO_LABELS,
) -> Outlook:
    """Ask, in one statement, what there is to do and when the next thing will be."""
    placed = {} if labels is None else selector_parameters(identity.name, labels)
    statement = look_statement(len(pools), len(secrets), len(placed))
    parameters: dict[str, Any] = {"for_node": identity.name, "holder": identity.holder}
    parameters["environments"] = environments.wanted
    parameters |= secret_parameters(secrets) | placed
    parameters |= {f"pool_{number}": pool for number, pool in enumerate(pools)}
    row = database.read(lambda connection: connection.execute(statement, parameters).one())
    return Outlook(
        row.now,
        row.next_slot_at,
        row.next_due_at,
        row.next_lease_end_at,
        bool(row.slot_has_come),
        bool(row.due_has_come),
        bool(row.lease_has_ended),
        bool(row.has_ready),
        bool(row.has_cancelled),
        int(row.frozen_count),
        int(row.frozen_sum),
        bool(row.is_drained),
        bool(row.health_is_due),
        row.next_half_open_at,
        bool(row.half_open_has_come),
        row.next_free_at,
        bool(row.has_held_back),
        bool(row.has_rules),
        next_upstreams_at=row.next_upstreams_at,
        upstreams_have_come=bool(row.upstreams_have_come),
        next_backfill_at=row.next_backfill_at,
        backfill_has_come=bool(row.backfill_has_come),
        next_period_at=row.next_period_at,
        next_ledger_at=row.next_ledger_at,
        periods_have_come=bool(row.periods_have_come),
        has_commands=bool(row.has_commands),
        is_held=bool(row.is_held),
    )
