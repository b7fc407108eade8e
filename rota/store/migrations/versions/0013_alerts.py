"""Alerts: who is told of a job, and how each kind of alert of it stands.

Revision 0013. A program that knows only schema 12 works on: of what ends by it, nobody is told.
"""

import sqlalchemy as sa
from alembic import op

from rota.store.migrations import steps
from rota.store.types import Id, Instant, LongText, Number, Word, YesNo

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    steps.add_column("rota_job", sa.Column("alert", LongText, nullable=True))
    steps.add_column("rota_job", sa.Column("alert_on", LongText, nullable=True))
    steps.add_column("rota_job", sa.Column("alert_quiet_seconds", Number, nullable=True))
    if op.get_context().dialect.name != "sqlite":  # there, by the triggers of `guards`
        within = "alert_quiet_seconds between 0 and 315360000"
        steps.create_check("rota_job_alert_quiet_seconds_within", "rota_job", within)
    steps.create_table(
        "rota_alert",
        sa.Column("job_id", Id, nullable=False, autoincrement=False),
        sa.Column("kind", Word, nullable=False),
        sa.Column("told_at", Instant(), nullable=True),
        sa.Column("held_count", Id, server_default=sa.text("0"), nullable=False),
        sa.Column("held_last", LongText, nullable=True),
        sa.Column("due_at", Instant(), nullable=True),
        sa.Column("open_since", Instant(), nullable=True),
        sa.Column("is_told", YesNo, nullable=True),
        sa.Column("seen_at", Instant(), nullable=True),
        sa.PrimaryKeyConstraint("job_id", "kind", name=op.f("rota_alert_pkey")),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mariadb_engine="InnoDB",
        mariadb_charset="utf8mb4",
    )
    is_due = sa.text("due_at IS NOT NULL")
    steps.create_index("rota_alert_due", "rota_alert", ["due_at"], postgresql_where=is_due, sqlite_where=is_due)
    op.execute("update rota_schema set version = 13, compatible_from = 2")
