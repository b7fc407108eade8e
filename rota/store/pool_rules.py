"""The rules of pools: which nodes serve one besides those that say so themselves.

Invariant: a rule that a hand broke names nobody, and stops neither a node nor another rule. Read by each worker, again
and again, and by whoever shows a pool.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, exists, or_, select

from rota.errors import Invalid
from rota.model.placement import NO_LABELS, PoolRule, check_labels, pools_served
from rota.store.database import Database
from rota.store.shown import show_document
from rota.store.tables import pool
from rota.store.types import AnyRow

RULES_MAX = 1000

_has_rule = or_(pool.c.members.is_not(None), pool.c.patterns.is_not(None), pool.c.labels.is_not(None))
# Whether there is any rule, to be a part of the look.
HAS_RULES = exists().where(_has_rule)
# Pools are few.
READ_RULES = (
    select(pool.c.name, pool.c.members, pool.c.patterns, pool.c.labels)
    .where(_has_rule)
    .order_by(pool.c.name)
    .limit(RULES_MAX)
)


def rule_of(row: AnyRow) -> PoolRule:
    """Read the rule of a pool's row.

    Raises:
        Invalid: somebody wrote there what no door would have accepted.
    """
    members, patterns, labels = (show_document(text) for text in (row.members, row.patterns, row.labels))
    for field, found, kind in (("members", members, list), ("nodes", patterns, list), ("labels", labels, dict)):
        if found is not None and not isinstance(found, kind):
            raise Invalid(field, str(found)[:100], f"it is a JSON {'object' if kind is dict else 'list'}")
    return PoolRule.checked(row.name, members, patterns, labels)


def read_rules(connection: Connection) -> list[PoolRule]:
    """Return the rules that can be read, in the order of their pools."""
    found: list[PoolRule] = []
    for row in connection.execute(READ_RULES):
        try:
            found.append(rule_of(row))
        except Invalid:
            continue  # the health of the pool tells it
    return found


def read_served(database: Database, own: Sequence[str], name: str, labels: Mapping[str, str]) -> tuple[str, ...]:
    """Return the pools that a node serves which names ``own`` itself: one statement."""
    return database.read(lambda connection: pools_served(own, name, labels, read_rules(connection)))


def labels_of(text: str | None) -> Mapping[str, str]:
    """Read the labels of a node's row; what a hand broke is none."""
    try:
        return check_labels("labels", show_document(text))
    except Invalid:
        return NO_LABELS
