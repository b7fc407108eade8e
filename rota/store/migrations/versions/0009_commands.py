"""Commands that are asked for with SQL.

Revision 0009. A program that knows only schema 8 works on, and answers none of them: nodes of this version do.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

from rota.store.migrations import steps
from rota.store.types import Id, Instant, LongText, Name, Word, by_default

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
}

# Whoever writes a command wakes the nodes, with nothing but the statement that writes it.
ANNOUNCE = """create or replace function rota_announce() returns trigger language plpgsql as
$$ begin notify rota; return null; end $$"""
ANNOUNCED = """create trigger rota_command_announced after insert on rota_command
for each statement execute function rota_announce()"""


def upgrade() -> None:
    steps.create_table(
        "rota_command",
        sa.Column("id", Id, nullable=False),
        sa.Column("verb", Name, nullable=False),
        sa.Column("target", Name, nullable=True),
        sa.Column("params", LongText, nullable=True),
        sa.Column("state", Word, server_default="pending", nullable=False),
        sa.Column("outcome", LongText, nullable=True),
        sa.Column("error", LongText, nullable=True),
        sa.Column("requested_by", Name, server_default=by_default("user"), nullable=False),
        sa.Column("created_at", Instant(), server_default=by_default("now"), nullable=False),
        sa.Column("answered_at", Instant(), nullable=True),
        sa.Column("answered_by", Name, nullable=True),
        sa.CheckConstraint("state in ('pending', 'done', 'refused')", name=op.f("rota_command_state_known")),
        sa.PrimaryKeyConstraint("id", name=op.f("rota_command_pkey")),
        sqlite_autoincrement=True,
        **OPTIONS,
    )
    is_pending = sa.text("state = 'pending'")
    steps.create_index(
        "rota_command_pending",
        "rota_command",
        ["state", "id"],
        postgresql_where=is_pending,
        sqlite_where=is_pending,
    )
    if op.get_context().dialect.name == "postgresql":
        op.execute(ANNOUNCE)
        op.execute("drop trigger if exists rota_command_announced on rota_command")
        op.execute(ANNOUNCED)
    steps.insert_row("insert into rota_lock (name) values ('commands')")
    op.execute("update rota_schema set version = 9, compatible_from = 2")
