"""Placing: which nodes of its pool a run goes to, by what its job says of nodes.

Invariant: it is a part of the claim itself, so it holds for every node from the commit of an edit on. What a job
excludes never takes its runs; what it does not prefer, and where its last attempt ended badly, takes them late. Asked
by the claim, the look, and whoever explains.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Select, String, and_, bindparam, desc, func, literal, not_, or_, select

from rota.errors import Invalid
from rota.model.placement import RetryNode, check_selectors, selectors_of
from rota.store.tables import event, job, run
from rota.store.types import db_now_plus

PREFER_SECONDS = 10.0  # so long a run is ready before a node takes it that its job does not prefer
AVOID_SECONDS = 30.0  # and before the node takes it again where its last attempt ended badly
HELD_BACK_LOOKED_AT = 100


def selector_parameters(name: str, labels: Mapping[str, str]) -> dict[str, str]:
    """Return what the statements of a node of that name are sent: its selectors, as they stand in a JSON list."""
    found = selectors_of(name, labels)
    return {f"selector_{number}": json.dumps(one, ensure_ascii=False) for number, one in enumerate(found)}


def _names_it(column: ColumnElement[Any], selector_count: int) -> ColumnElement[bool]:
    # Without the selector the list is another one. There is no LIKE: names have its signs.
    def without(number: int) -> ColumnElement[str]:
        return func.replace(column, bindparam(f"selector_{number}", type_=String), literal("", String), type_=String)

    return or_(*(without(number) != column for number in range(selector_count)))


# Two lists of jobs, each made once for a statement, whatever the number of runs. What is no list, a hand wrote: whoever
# claims such a run fails it with the reason.
@cache
def jobs_excluding(selector_count: int) -> Select[Any]:
    """Select the jobs that exclude a node with so many selectors."""
    return select(job.c.id).where(job.c.exclude.like("[%"), _names_it(job.c.exclude, selector_count))


@cache
def jobs_preferring_others(selector_count: int) -> Select[Any]:
    """Select the jobs that prefer nodes, and not the one with so many selectors."""
    return select(job.c.id).where(
        job.c.prefer.like("[%"), job.c.prefer != "[]", not_(_names_it(job.c.prefer, selector_count))
    )


# Since when a ready run is ready: what became of it last is told by an event. Served by rota_event_run.
READY_SINCE = func.coalesce(
    select(event.c.at).where(event.c.run_id == run.c.id).order_by(desc(event.c.id)).limit(1).scalar_subquery(),
    run.c.enqueued_at,
)


def _has_been_ready(seconds: float) -> ColumnElement[bool]:
    # A run is not ready before its moment, so that its event need not be looked for while that is near.
    edge = db_now_plus(literal(-seconds))
    return and_(run.c.run_at <= edge, edge >= READY_SINCE)


@cache
def is_not_for_others_first(selector_count: int) -> ColumnElement[bool]:
    """Whether a run is preferred here, or has waited for those that its job prefers; for another statement."""
    has_no_choice = or_(run.c.target_node != "", run.c.job_id.not_in(jobs_preferring_others(selector_count)))
    return or_(has_no_choice, _has_been_ready(PREFER_SECONDS))


# Whether a run does not avoid this node, or has waited for another one.
IS_NOT_AVOIDED = or_(
    run.c.target_node != "",
    func.coalesce(run.c.avoid_node, "") != bindparam("for_node", type_=run.c.avoid_node.type),
    _has_been_ready(AVOID_SECONDS),
)


@cache
def placing_conditions(selector_count: int) -> Sequence[ColumnElement[bool]]:
    """Return the conditions of the claim of a node with so many selectors; 0: one that heeds none."""
    if not selector_count:
        return ()
    return (
        run.c.job_id.not_in(jobs_excluding(selector_count)),
        is_not_for_others_first(selector_count),
        IS_NOT_AVOIDED,
    )


def is_held_back(ready: Select[Any], selector_count: int) -> ColumnElement[bool]:
    """Whether the first of ``ready``, a statement over runs, are held back from this node for a while yet."""
    if not selector_count:
        return literal(0) != 0
    first = ready.with_only_columns(run.c.id).limit(HELD_BACK_LOOKED_AT).subquery("first_ready")
    waits_here = or_(not_(is_not_for_others_first(selector_count)), not_(IS_NOT_AVOIDED))
    found = select(run.c.id).join(first, first.c.id == run.c.id).where(waits_here).limit(1)
    return found.scalar_subquery().is_not(None)


def problem_of(prefer: str | None, exclude: str | None, retry_node: str | None) -> str | None:
    """Say what no door would have written of these columns of a job's row; None: they can be read."""
    try:
        for field, text in (("prefer", prefer), ("exclude", exclude)):
            read_selectors(field, text)
    except Invalid as error:
        return str(error)
    if retry_node not in (None, *RetryNode):
        return str(Invalid("retry_node", retry_node, "it is any or other: correct it with `rota job edit`"))
    return None


def read_selectors(field: str, text: str | None) -> tuple[str, ...]:
    """Read a list of selectors of a job's row.

    Raises:
        Invalid: somebody wrote there what no door would have accepted.
    """
    if not text:
        return ()
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise Invalid(field, text[:100], "it is a JSON list of names and labels: correct it with `rota job edit`")
    try:
        return check_selectors(field, found)  # pyright: ignore[reportUnknownArgumentType]
    except Invalid as error:
        raise Invalid(error.field, error.value, f"{error.rule}: correct it with `rota job edit`") from None
