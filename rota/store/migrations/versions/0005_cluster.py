"""The cluster: labels, rules of pools, runs on all nodes, limits that hold everywhere, keys, how long runs are kept.

Revision 0005. A program that knows only schema 4 works on: it does not heed limits and exclusions, and does not know of
labels. The order of claims becomes one in which waiting counts.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

from rota.store.migrations import steps
from rota.store.types import Id, Instant, LongText, Name, Number, Token, Word

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
    "sqlite_autoincrement": True,
}

ADDED: dict[str, tuple[sa.Column[Any], ...]] = {
    "rota_pool": (
        sa.Column("members", LongText, nullable=True),
        sa.Column("patterns", LongText, nullable=True),
        sa.Column("labels", LongText, nullable=True),
    ),
    "rota_node": (
        sa.Column("labels", LongText, nullable=True),
        sa.Column("skew_seconds", Number, nullable=True),
        sa.Column("own_pools", LongText, nullable=True),
        sa.Column("zone_data_version", Name, nullable=True),
        sa.Column("keep_runs", LongText, nullable=True),
    ),
    "rota_job": (
        sa.Column("runs_on", Word, nullable=True),
        sa.Column("max_parallel", sa.Integer(), nullable=True),
        sa.Column("prefer", LongText, nullable=True),
        sa.Column("exclude", LongText, nullable=True),
        sa.Column("retry_node", Word, nullable=True),
        sa.Column("max_running", sa.Integer(), nullable=True),
        sa.Column("mutexes", LongText, nullable=True),
        sa.Column("concurrency_key", Name, nullable=True),
        sa.Column("max_per_key", sa.Integer(), nullable=True),
        sa.Column("rate_count", sa.Integer(), nullable=True),
        sa.Column("rate_seconds", Number, nullable=True),
        sa.Column("keep", LongText, nullable=True),
    ),
    "rota_run": (
        sa.Column("behind_seconds", sa.Integer(), nullable=True),
        sa.Column("group_id", Token, nullable=True),
        sa.Column("concurrency_key", Name, nullable=True),
        sa.Column("unique_seconds", Number, nullable=True),
        sa.Column("avoid_node", Name, nullable=True),
    ),
}

# Values by which one row, written by hand, would make a statement fail that moves others too.
RANGES: dict[str, dict[str, tuple[int, int]]] = {
    "rota_job": {
        "max_parallel": (1, 10_000),
        "max_running": (1, 10_000),
        "max_per_key": (1, 10_000),
        "rate_count": (1, 10_000),
        "rate_seconds": (0, 315_360_000),
    },
    "rota_run": {
        "unique_seconds": (-1, 315_360_000),
        "behind_seconds": (-1_000_000_000, 1_000_000_000),
    },
}

_RUN_SECONDS = {
    "postgresql": "extract(epoch from run_at at time zone 'UTC')::bigint",
    "mysql": "timestampdiff(second, '1970-01-01', run_at)",
    "sqlite": "cast(strftime('%s', run_at) as integer)",
}


def upgrade() -> None:
    name = op.get_context().dialect.name
    kind = "mysql" if name == "mariadb" else name
    for table, added in ADDED.items():
        for column in added:
            steps.add_column(table, column)
    if not _lost_old_urgency():
        steps.drop_index("rota_run_claim", "rota_run")
        steps.drop_column("rota_run", "urgency")
    # SQLite adds no stored column to a table, and reads one that is made on the fly from an index all the same.
    is_stored = kind != "sqlite"
    urgency = f"{_RUN_SECONDS[kind]} - 600 * priority + coalesce(behind_seconds, 0)"
    steps.add_column("rota_run", sa.Column("urgency", Id, sa.Computed(urgency, persisted=is_stored)))
    open_key = "case when finished_at is null then concurrency_key end"
    steps.add_column("rota_run", sa.Column("open_concurrency_key", Name, sa.Computed(open_key, persisted=is_stored)))
    ready_key = "case when state = 'ready' and concurrency_key is not null then job_id end"
    steps.add_column("rota_run", sa.Column("ready_key_job_id", Id, sa.Computed(ready_key, persisted=is_stored)))
    _create_indexes()
    steps.create_table(
        "rota_permit",
        sa.Column("id", Id, nullable=False),
        sa.Column("scope", Word, nullable=False),
        sa.Column("job_id", Id, nullable=False),
        sa.Column("name", Name, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("claim_id", Token, nullable=True),
        sa.Column("taken_at", Instant(), nullable=True),
        sa.Column("free_at", Instant(), nullable=True),
        sa.CheckConstraint("number between 1 and 10000", name=op.f("rota_permit_number_within")),
        sa.PrimaryKeyConstraint("id", name=op.f("rota_permit_pkey")),
        sa.UniqueConstraint("scope", "job_id", "name", "number", name="rota_permit_number"),
        **OPTIONS,
    )
    for index, columns, condition in (
        ("rota_permit_claim", ["claim_id", "scope", "job_id", "name"], "claim_id is not null"),
        ("rota_permit_free", ["free_at", "job_id"], "free_at is not null"),
    ):
        steps.create_index(
            index,
            "rota_permit",
            columns,
            postgresql_where=sa.text(condition),
            sqlite_where=sa.text(condition),
        )
    if kind != "sqlite":
        for table, ranges in RANGES.items():
            for column_name, (low, high) in ranges.items():
                rule = f"{column_name} between {low} and {high}"
                steps.create_check(f"{table}_{column_name}_within", table, rule)
    op.execute("update rota_schema set version = 5, compatible_from = 2")


def _lost_old_urgency() -> bool:
    """Tell whether an upgrade that was cut off has dropped it: the new one, and the indexes on it, are to stay."""
    return steps.commits_each() and isinstance(
        steps.columns_of("rota_run").get("urgency", sa.BigInteger()), sa.BigInteger
    )


def _create_indexes() -> None:
    for name, columns, condition in (
        ("rota_run_claim", ["state", "pool", "urgency", "run_at", "id"], "state = 'ready'"),
        (
            "rota_run_concurrency_key",
            ["open_concurrency_key", "job_id", "urgency"],
            "open_concurrency_key is not null",
        ),
        ("rota_run_ready_key", ["ready_key_job_id", "priority", "urgency"], "ready_key_job_id is not null"),
        ("rota_run_group", ["group_id"], "group_id is not null"),
    ):
        steps.create_index(
            name,
            "rota_run",
            columns,
            postgresql_where=sa.text(condition),
            sqlite_where=sa.text(condition),
        )
