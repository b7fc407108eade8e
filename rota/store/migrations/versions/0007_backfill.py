"""Backfills: slots of the past that are run on request.

Revision 0007. A program that knows only schema 6 works on: it leaves the backfills to those that know them, and runs
what they have made. It takes their runs for the schedule's own: where ``overlap`` is ``skip``, a slot that comes while
one of them is unfinished is skipped by it.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

from rota.store.migrations import steps
from rota.store.types import Id, Instant, LongText, Name, Word, YesNo

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
    "sqlite_autoincrement": True,
}


def upgrade() -> None:
    steps.create_table(
        "rota_backfill",
        sa.Column("id", Id, nullable=False),
        sa.Column("name", Name, nullable=False),
        sa.Column("state", Word, nullable=False),
        sa.Column("from_at", Instant(), nullable=False),
        sa.Column("to_at", Instant(), nullable=False),
        sa.Column("slot_order", Word, server_default="oldest", nullable=False),
        sa.Column("max_active", sa.Integer(), nullable=False),
        sa.Column("again", YesNo, nullable=False),
        sa.Column("failed_only", YesNo, nullable=False),
        sa.Column("downstream", YesNo, nullable=False),
        sa.Column("requested_by", Name, nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("changed_by", Name, nullable=True),
        sa.Column("changed_at", Instant(), nullable=True),
        sa.Column("finished_at", Instant(), nullable=True),
        sa.Column("due_at", Instant(), nullable=True),
        sa.Column("version", Id, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("rota_backfill_pkey")),
        sa.CheckConstraint(
            "state in ('active', 'paused', 'cancelled', 'ended')", name=op.f("rota_backfill_state_known")
        ),
        sa.CheckConstraint("max_active between 1 and 1000", name=op.f("rota_backfill_max_active_within")),
        **OPTIONS,
    )
    steps.create_table(
        "rota_backfill_part",
        sa.Column("id", Id, nullable=False),
        sa.Column("backfill_id", Id, nullable=False),
        sa.Column("schedule_id", Id, nullable=False),
        sa.Column("schedule", Name, nullable=False),
        sa.Column("job_id", Id, nullable=False),
        sa.Column("job", Name, nullable=False),
        sa.Column("built_on", YesNo, nullable=False),
        sa.Column("from_at", Instant(), nullable=False),
        sa.Column("to_at", Instant(), nullable=True),
        sa.Column("next_slot_at", Instant(), nullable=True),
        sa.Column("slots_total", Id, nullable=False),
        sa.Column("slots_seen", Id, nullable=False),
        sa.Column("slots_passed", Id, nullable=False),
        sa.Column("problem", LongText, nullable=True),
        sa.Column("ended_at", Instant(), nullable=True),
        sa.Column("succeeded_count", Id, nullable=True),
        sa.Column("failed_count", Id, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("rota_backfill_part_pkey")),
        sa.UniqueConstraint("backfill_id", "schedule_id", name=op.f("rota_backfill_part_schedule")),
        sa.ForeignKeyConstraint(
            ["backfill_id"],
            ["rota_backfill.id"],
            name=op.f("rota_backfill_part_backfill_id_fkey"),
            ondelete="CASCADE",
        ),
        **OPTIONS,
    )
    steps.add_column("rota_run", sa.Column("backfill_id", Id, nullable=True))
    for index, table, columns in (
        ("rota_backfill_due", "rota_backfill", ["due_at"]),
        ("rota_run_backfill", "rota_run", ["backfill_id", "schedule_id"]),
    ):
        condition = sa.text(f"{columns[0]} is not null")
        steps.create_index(index, table, columns, postgresql_where=condition, sqlite_where=condition)
    op.execute("update rota_schema set version = 7, compatible_from = 2")
