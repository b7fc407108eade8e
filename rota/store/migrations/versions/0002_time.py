"""Time: calendars, zones' gaps and folds, bounds, jitter, the order of catching up, a clock that stepped, and findings.

Revision 0002. A program that knows only schema 1 would run what a calendar closes, so it is refused.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

from rota.store.migrations import steps
from rota.store.types import Id, Instant, LongText, Name, Number, Word

revision = "0002"
down_revision = "0001"
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
    steps.add_column("rota_schema", sa.Column("clock_held_until", Instant(), nullable=True))
    steps.add_column("rota_schema", sa.Column("health_looked_at", Instant(), nullable=True))
    steps.create_table(
        "rota_calendar",
        sa.Column("id", Id, nullable=False),
        sa.Column("name", Name, nullable=False),
        sa.Column("definition", LongText, nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("updated_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("rota_calendar_pkey")),
        sa.UniqueConstraint("name", name=op.f("rota_calendar_name_key")),
        **OPTIONS,
    )
    for column in (
        sa.Column("gap", Word, nullable=False, server_default="shift"),
        sa.Column("fold", Word, nullable=False, server_default="first"),
        sa.Column("start_at", Instant(), nullable=True),
        sa.Column("end_at", Instant(), nullable=True),
        sa.Column("first_run_at", Instant(), nullable=True),
        sa.Column("calendars", LongText, nullable=True),
        sa.Column("on_closed", Word, nullable=False, server_default="skip"),
        sa.Column("jitter_seconds", Number, nullable=False, server_default=sa.text("0")),
        sa.Column("catch_up_order", Word, nullable=False, server_default="oldest"),
        sa.Column("skips_in_row", sa.Integer(), nullable=False, server_default=sa.text("0")),
    ):
        steps.add_column("rota_schedule", column)
    steps.create_index(
        "rota_schedule_skips",
        "rota_schedule",
        ["skips_in_row"],
        postgresql_where=sa.text("skips_in_row >= 3"),
        sqlite_where=sa.text("skips_in_row >= 3"),
    )
    steps.create_table(
        "rota_finding",
        sa.Column("id", Id, nullable=False),
        sa.Column("code", Word, nullable=False),
        sa.Column("subject", Name, nullable=False),
        sa.Column("severity", Word, nullable=False),
        sa.Column("text", LongText, nullable=False),
        sa.Column("since", Instant(), nullable=False),
        sa.Column("seen_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("rota_finding_pkey")),
        sa.UniqueConstraint("code", "subject", name="rota_finding_subject"),
        **OPTIONS,
    )
    op.execute("update rota_schema set version = 2, compatible_from = 2")
