"""Accounts, tokens, sessions, and the audit.

Revision 0011. A program that knows only schema 10 works on, and what is done through it is in the history alone: nodes
and command lines of this version write the audit.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

from rota.store.migrations import steps
from rota.store.types import Id, Instant, LongText, Name, Token, Word

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
    "sqlite_autoincrement": True,
}
ROLES = "role in ('viewer', 'operator', 'admin')"


def upgrade() -> None:
    steps.create_table(
        "rota_user",
        sa.Column("id", Id, nullable=False),
        sa.Column("name", Name, nullable=False),
        sa.Column("role", Word, nullable=False),
        sa.Column("state", Word, server_default="active", nullable=False),
        sa.Column("password_hash", Name, nullable=True),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("created_by", Name, nullable=False),
        sa.Column("password_at", Instant(), nullable=True),
        sa.Column("last_login_at", Instant(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("rota_user_pkey")),
        sa.UniqueConstraint("name", name=op.f("rota_user_name_key")),
        sa.CheckConstraint(ROLES, name=op.f("rota_user_role_known")),
        sa.CheckConstraint("state in ('active', 'disabled')", name=op.f("rota_user_state_known")),
        **OPTIONS,
    )
    steps.create_table(
        "rota_token",
        sa.Column("id", Id, nullable=False),
        sa.Column("name", Name, nullable=False),
        sa.Column("public_id", Token, nullable=False),
        sa.Column("secret_hash", Token, nullable=False),
        sa.Column("user_id", Id, nullable=True),
        sa.Column("role", Word, nullable=False),
        sa.Column("scopes", LongText, nullable=True),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("created_by", Name, nullable=False),
        sa.Column("expires_at", Instant(), nullable=True),
        sa.Column("last_used_at", Instant(), nullable=True),
        sa.Column("revoked_at", Instant(), nullable=True),
        sa.Column("revoked_by", Name, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("rota_token_pkey")),
        sa.UniqueConstraint("name", name=op.f("rota_token_name_key")),
        sa.UniqueConstraint("public_id", name=op.f("rota_token_public_id_key")),
        sa.CheckConstraint(ROLES, name=op.f("rota_token_role_known")),
        **OPTIONS,
    )
    steps.create_table(
        "rota_session",
        sa.Column("id", Id, nullable=False),
        sa.Column("key_hash", Token, nullable=False),
        sa.Column("csrf", Token, nullable=False),
        sa.Column("user_id", Id, nullable=True),
        sa.Column("user_name", Name, nullable=False),
        sa.Column("role", Word, nullable=False),
        sa.Column("source", Word, nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("expires_at", Instant(), nullable=False),
        sa.Column("seen_at", Instant(), nullable=False),
        sa.Column("address", Token, nullable=True),
        sa.Column("user_agent", Name, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("rota_session_pkey")),
        sa.UniqueConstraint("key_hash", name=op.f("rota_session_key_hash_key")),
        sa.CheckConstraint(ROLES, name=op.f("rota_session_role_known")),
        sa.CheckConstraint("source in ('password', 'token', 'oidc', 'proxy')", name=op.f("rota_session_source_known")),
        **OPTIONS,
    )
    steps.create_table(
        "rota_login_failure",
        sa.Column("id", Id, nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("name_hash", Token, nullable=False),
        sa.Column("address", Token, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("rota_login_failure_pkey")),
        **OPTIONS,
    )
    steps.create_table(
        "rota_audit",
        sa.Column("id", Id, nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("actor", Name, nullable=False),
        sa.Column("door", Word, nullable=False),
        sa.Column("address", Token, nullable=True),
        sa.Column("via", Name, nullable=True),
        sa.Column("kind", Word, nullable=False),
        sa.Column("subject", Name, nullable=False),
        sa.Column("did", Word, nullable=False),
        sa.Column("text", LongText, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("rota_audit_pkey")),
        sa.CheckConstraint("door in ('cli', 'python', 'http', 'page', 'sql')", name=op.f("rota_audit_door_known")),
        **OPTIONS,
    )
    for index, table, columns in (
        ("rota_token_user", "rota_token", ["user_id"]),
        ("rota_session_user", "rota_session", ["user_name"]),
        ("rota_session_expires", "rota_session", ["expires_at"]),
        ("rota_login_failure_name", "rota_login_failure", ["name_hash", "at"]),
        ("rota_login_failure_address", "rota_login_failure", ["address", "at"]),
        ("rota_audit_actor", "rota_audit", ["actor", "id"]),
        ("rota_audit_door", "rota_audit", ["door", "id"]),
        ("rota_audit_kind", "rota_audit", ["kind", "id"]),
        ("rota_audit_subject", "rota_audit", ["subject", "id"]),
        ("rota_audit_at", "rota_audit", ["at"]),
    ):
        steps.create_index(index, table, columns)
    steps.insert_row("insert into rota_lock (name) values ('log-ins')")
    op.execute("update rota_schema set version = 11, compatible_from = 2")
