"""Periods: the ledger of those of each job, and the runs that are made for them.

Revision 0008. A program that knows only schema 7 works on: it makes no runs for periods. It carries those out that are
there without telling the job which period it is, so the first job with periods is to be added when no such worker is
left.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

from rota.store.migrations import steps
from rota.store.types import Id, Instant, LongText, Name, Word, YesNo

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
}


def upgrade() -> None:
    steps.add_column("rota_job", sa.Column("timeline", LongText, nullable=True))
    steps.add_column("rota_job", sa.Column("periods_until", Instant(), nullable=True))
    steps.add_column("rota_schedule", sa.Column("order_from_at", Instant(), nullable=True))
    steps.add_column("rota_dependency", sa.Column("is_child", YesNo, nullable=True))
    for name, type_ in (
        ("period_id", Id),
        ("period", Name),
        ("period_start_at", Instant()),
        ("period_end_at", Instant()),
        ("range_start_at", Instant()),
        ("range_end_at", Instant()),
        ("open_period_id", Id),
    ):
        steps.add_column("rota_run", sa.Column(name, type_, nullable=True))
    unfinished_at = "case when state in ('open', 'in_progress', 'final_run') then start_at end"
    steps.create_table(
        "rota_period",
        sa.Column("id", Id, nullable=False),
        sa.Column("job_id", Id, nullable=False),
        sa.Column("name", Name, nullable=False),
        sa.Column("start_at", Instant(), nullable=False),
        sa.Column("end_at", Instant(), nullable=False),
        sa.Column("state", Word, nullable=False),
        sa.Column("reason", Word, nullable=False),
        sa.Column("reason_text", LongText, nullable=False),
        sa.Column("due_at", Instant(), nullable=True),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("run_id", Id, nullable=True),
        sa.Column("is_void", YesNo, nullable=False),
        sa.Column("covered_until", Instant(), nullable=True),
        sa.Column("asked_by", Name, nullable=True),
        sa.Column("updated_at", Instant(), nullable=False),
        sa.Column("finished_at", Instant(), nullable=True),
        sa.Column("unfinished_at", Instant(), sa.Computed(unfinished_at, persisted=True), nullable=True),
        sa.CheckConstraint("round between 0 and 1000000000", name=op.f("rota_period_round_within")),
        sa.CheckConstraint(
            "state in ('open', 'in_progress', 'final_run', 'processed', 'noop', 'skipped')",
            name=op.f("rota_period_state_known"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("rota_period_pkey")),
        sa.UniqueConstraint("job_id", "start_at", name="rota_period_start"),
        sqlite_autoincrement=True,
        **OPTIONS,
    )
    steps.create_table(
        "rota_lock",
        sa.Column("name", Word, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("rota_lock_pkey")),
        **OPTIONS,
    )
    for index, table, columns in (
        ("rota_job_periods", "rota_job", ["periods_until"]),
        ("rota_run_open_period", "rota_run", ["open_period_id", "finished_at"]),
        ("rota_period_due", "rota_period", ["due_at"]),
        ("rota_period_unfinished", "rota_period", ["job_id", "unfinished_at"]),
    ):
        condition = sa.text(f"{columns[0] if table != 'rota_period' else columns[-1]} is not null")
        steps.create_index(index, table, columns, postgresql_where=condition, sqlite_where=condition)
    steps.insert_row("insert into rota_lock (name) values ('periods')")
    op.execute("update rota_schema set version = 8, compatible_from = 2")
