"""The first schema: jobs, schedules, runs and their attempts, output, events, nodes, pools.

Revision 0001.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

from rota.store.migrations import steps
from rota.store.types import Blob, Id, Instant, LongText, Name, Number, Token, Word, YesNo

revision = "0001"
down_revision = None
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
        "rota_schema",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("compatible_from", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("rota_schema_pkey")),
        **OPTIONS,
    )
    steps.create_table(
        "rota_pool",
        sa.Column("id", Id, nullable=False),
        sa.Column("name", Name, nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("rota_pool_pkey")),
        sa.UniqueConstraint("name", name=op.f("rota_pool_name_key")),
        **OPTIONS,
    )
    steps.create_table(
        "rota_node",
        sa.Column("id", Id, nullable=False),
        sa.Column("name", Name, nullable=False),
        sa.Column("state", Word, nullable=False),
        sa.Column("boot_id", Token, nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("pid_started", Id, nullable=False),
        sa.Column("holder", Token, nullable=False),
        sa.Column("host", Name, nullable=False),
        sa.Column("version", Name, nullable=False),
        sa.Column("pools", LongText, nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("started_at", Instant(), nullable=False),
        sa.Column("seen_at", Instant(), nullable=False),
        sa.Column("lease_ends_at", Instant(), nullable=True),
        sa.CheckConstraint("state in ('alive', 'draining', 'gone')", name=op.f("rota_node_state_known")),
        sa.PrimaryKeyConstraint("id", name=op.f("rota_node_pkey")),
        sa.UniqueConstraint("name", name=op.f("rota_node_name_key")),
        **OPTIONS,
    )
    steps.create_table(
        "rota_job",
        sa.Column("id", Id, nullable=False),
        sa.Column("name", Name, nullable=False),
        sa.Column("state", Word, server_default="active", nullable=False),
        sa.Column("kind", Word, nullable=False),
        sa.Column("target", LongText, nullable=False),
        sa.Column("pool", Name, nullable=False),
        sa.Column("timeout_seconds", Number, nullable=True),
        sa.Column("start_within_seconds", Number, nullable=True),
        sa.Column("delivery", Word, nullable=False),
        sa.Column("retries", sa.Integer(), nullable=False),
        sa.Column("lost_max", sa.Integer(), nullable=False),
        sa.Column("retry_delay_seconds", Number, nullable=False),
        sa.Column("backoff", Word, nullable=False),
        sa.Column("retry_delay_max_seconds", Number, nullable=False),
        sa.Column("lease_seconds", Number, nullable=True),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("stdin", LongText, nullable=True),
        sa.Column("cwd", LongText, nullable=True),
        sa.Column("run_as", Name, nullable=True),
        sa.Column("variables", LongText, nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("declared", LongText, nullable=True),
        sa.Column("declared_by", Name, nullable=True),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("updated_at", Instant(), nullable=False),
        sa.CheckConstraint("delivery in ('at_least_once', 'at_most_once')", name=op.f("rota_job_delivery_known")),
        sa.CheckConstraint("state in ('active', 'paused')", name=op.f("rota_job_state_known")),
        sa.CheckConstraint("lost_max >= 0", name=op.f("rota_job_lost_max_counted")),
        sa.CheckConstraint("retries >= -1", name=op.f("rota_job_retries_counted")),
        sa.PrimaryKeyConstraint("id", name=op.f("rota_job_pkey")),
        sa.UniqueConstraint("name", name=op.f("rota_job_name_key")),
        **OPTIONS,
    )
    steps.create_table(
        "rota_schedule",
        sa.Column("id", Id, nullable=False),
        sa.Column("name", Name, nullable=False),
        sa.Column("job_id", Id, nullable=False),
        sa.Column("state", Word, server_default="active", nullable=False),
        sa.Column("kind", Word, nullable=False),
        sa.Column("expression", LongText, nullable=False),
        sa.Column("zone", Name, nullable=False),
        sa.Column("anchor_at", Instant(), nullable=True),
        sa.Column("delay_seconds", Number, nullable=False),
        sa.Column("start_within_seconds", Number, nullable=True),
        sa.Column("catch_up", Word, nullable=False),
        sa.Column("catch_up_limit", sa.Integer(), nullable=False),
        sa.Column("overlap", Word, nullable=False),
        sa.Column("args", LongText, nullable=False),
        sa.Column("next_slot_at", Instant(), nullable=True),
        sa.Column("last_slot_at", Instant(), nullable=True),
        sa.Column("cursor_version", Id, nullable=False),
        sa.Column("problem", LongText, nullable=True),
        sa.Column("paused_at", Instant(), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("declared", LongText, nullable=True),
        sa.Column("declared_by", Name, nullable=True),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("updated_at", Instant(), nullable=False),
        sa.CheckConstraint("state in ('active', 'paused')", name=op.f("rota_schedule_state_known")),
        sa.ForeignKeyConstraint(["job_id"], ["rota_job.id"], name=op.f("rota_schedule_job_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("rota_schedule_pkey")),
        sa.UniqueConstraint("name", name=op.f("rota_schedule_name_key")),
        **OPTIONS,
    )
    steps.create_index("rota_schedule_due", "rota_schedule", ["state", "next_slot_at"])
    steps.create_index("rota_schedule_job", "rota_schedule", ["job_id"])
    steps.create_table(
        "rota_run",
        sa.Column("id", Id, nullable=False),
        sa.Column("job_id", Id, nullable=False),
        sa.Column("job", Name, nullable=False),
        sa.Column("schedule_id", Id, nullable=True),
        sa.Column("schedule", Name, nullable=True),
        sa.Column("slot_at", Instant(), nullable=True),
        sa.Column("slot_count", sa.Integer(), nullable=False),
        sa.Column("slot_last_at", Instant(), nullable=True),
        sa.Column("target_node", Name, nullable=False),
        sa.Column("request_id", Token, nullable=True),
        sa.Column("run_key", Name, nullable=True),
        sa.Column("active_key", Name, nullable=True),
        sa.Column("state", Word, nullable=False),
        sa.Column("reason", Word, nullable=False),
        sa.Column("reason_text", LongText, nullable=False),
        sa.Column("args", LongText, nullable=False),
        sa.Column("result", LongText, nullable=True),
        sa.Column("pool", Name, nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("urgency", sa.Integer(), sa.Computed("-priority", persisted=True), nullable=True),
        sa.Column("delivery", Word, nullable=False),
        sa.Column("requested_by", Name, nullable=False),
        sa.Column("enqueued_at", Instant(), nullable=False),
        sa.Column("run_at", Instant(), nullable=False),
        sa.Column("start_by", Instant(), nullable=True),
        sa.Column("due_at", Instant(), nullable=True),
        sa.Column("queued", YesNo, nullable=False),
        sa.Column(
            "open_schedule_id",
            Id,
            sa.Computed("case when finished_at is null then schedule_id end", persisted=True),
            nullable=True,
        ),
        sa.Column("started_at", Instant(), nullable=True),
        sa.Column("finished_at", Instant(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("retries_used", sa.Integer(), nullable=False),
        sa.Column("losses", sa.Integer(), nullable=False),
        sa.Column("fence", Id, nullable=False),
        sa.Column("claim_id", Token, nullable=True),
        sa.Column("node", Name, nullable=True),
        sa.Column("holder", Token, nullable=True),
        sa.Column("marked_at", Instant(), nullable=True),
        sa.Column("lease_seconds", Number, nullable=True),
        sa.Column("lease_ends_at", Instant(), nullable=True),
        sa.Column("cancel_asked_at", Instant(), nullable=True),
        sa.Column("cancel_asked_by", Name, nullable=True),
        sa.CheckConstraint(
            "(state = 'running') = (lease_ends_at is not null)", name=op.f("rota_run_lease_while_running")
        ),
        sa.CheckConstraint("delivery in ('at_least_once', 'at_most_once')", name=op.f("rota_run_delivery_known")),
        sa.CheckConstraint(
            "state in ('waiting', 'ready', 'running', 'succeeded', 'failed', 'lost', 'missed', 'skipped', 'cancelled')",
            name=op.f("rota_run_state_known"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("rota_run_pkey")),
        sa.UniqueConstraint("claim_id", name=op.f("rota_run_claim_id_key")),
        sa.UniqueConstraint("job_id", "active_key", name="rota_run_active_key"),
        sa.UniqueConstraint("request_id", name=op.f("rota_run_request_id_key")),
        sa.UniqueConstraint("schedule_id", "slot_at", "target_node", name="rota_run_slot"),
        **OPTIONS,
    )
    steps.create_index(
        "rota_run_claim",
        "rota_run",
        ["state", "pool", "urgency", "run_at", "id"],
        postgresql_where=sa.text("state = 'ready'"),
        sqlite_where=sa.text("state = 'ready'"),
    )
    steps.create_index(
        "rota_run_due",
        "rota_run",
        ["due_at"],
        postgresql_where=sa.text("due_at IS NOT NULL"),
        sqlite_where=sa.text("due_at IS NOT NULL"),
    )
    steps.create_index("rota_run_job", "rota_run", ["job_id", "id"])
    steps.create_index(
        "rota_run_lease",
        "rota_run",
        ["lease_ends_at"],
        postgresql_where=sa.text("lease_ends_at IS NOT NULL"),
        sqlite_where=sa.text("lease_ends_at IS NOT NULL"),
    )
    steps.create_index(
        "rota_run_open_schedule",
        "rota_run",
        ["open_schedule_id"],
        postgresql_where=sa.text("open_schedule_id IS NOT NULL"),
        sqlite_where=sa.text("open_schedule_id IS NOT NULL"),
    )
    steps.create_table(
        "rota_attempt",
        sa.Column("id", Id, nullable=False),
        sa.Column("run_id", Id, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("state", Word, nullable=False),
        sa.Column("claim_id", Token, nullable=False),
        sa.Column("fence", Id, nullable=False),
        sa.Column("node", Name, nullable=False),
        sa.Column("boot_id", Token, nullable=True),
        sa.Column("pid", sa.Integer(), nullable=True),
        sa.Column("claimed_at", Instant(), nullable=False),
        sa.Column("started_at", Instant(), nullable=True),
        sa.Column("finished_at", Instant(), nullable=True),
        sa.Column("reason", Word, nullable=True),
        sa.Column("reason_text", LongText, nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("exit_signal", sa.SmallInteger(), nullable=True),
        sa.Column("error_type", LongText, nullable=True),
        sa.Column("error_message", LongText, nullable=True),
        sa.Column("traceback", LongText, nullable=True),
        sa.Column("result", LongText, nullable=True),
        sa.Column("seconds", Number, nullable=True),
        sa.Column("cpu_seconds", Number, nullable=True),
        sa.Column("memory_bytes_max", Id, nullable=True),
        sa.Column("stdout_bytes", Id, nullable=True),
        sa.Column("stderr_bytes", Id, nullable=True),
        sa.Column("orphan_at", Instant(), nullable=True),
        sa.Column("orphan", LongText, nullable=True),
        sa.CheckConstraint(
            "state in ('claimed', 'running', 'succeeded', 'failed', 'skipped', 'cancelled', 'released', 'lost')",
            name=op.f("rota_attempt_state_known"),
        ),
        sa.ForeignKeyConstraint(["run_id"], ["rota_run.id"], name=op.f("rota_attempt_run_id_fkey"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("rota_attempt_pkey")),
        sa.UniqueConstraint("claim_id", name=op.f("rota_attempt_claim_id_key")),
        sa.UniqueConstraint("run_id", "attempt", name="rota_attempt_number"),
        **OPTIONS,
    )
    steps.create_table(
        "rota_output",
        sa.Column("attempt_id", Id, nullable=False),
        sa.Column("stream", Word, nullable=False),
        sa.Column("position", Id, autoincrement=False, nullable=False),
        sa.Column("data", Blob, nullable=False),
        sa.ForeignKeyConstraint(
            ["attempt_id"], ["rota_attempt.id"], name=op.f("rota_output_attempt_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("attempt_id", "stream", "position", name=op.f("rota_output_pkey")),
        **OPTIONS,
    )
    steps.create_table(
        "rota_event",
        sa.Column("id", Id, nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("run_id", Id, nullable=True),
        sa.Column("schedule", Name, nullable=True),
        sa.Column("job", Name, nullable=True),
        sa.Column("kind", Word, nullable=False),
        sa.Column("from_state", Word, nullable=True),
        sa.Column("to_state", Word, nullable=True),
        sa.Column("reason", Word, nullable=True),
        sa.Column("text", LongText, nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("node", Name, nullable=True),
        sa.Column("actor", Name, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("rota_event_pkey")),
        **OPTIONS,
    )
    steps.create_index(
        "rota_event_kind",
        "rota_event",
        ["kind", "id"],
        postgresql_where=sa.text("kind != 'run'"),
        sqlite_where=sa.text("kind != 'run'"),
    )
    steps.create_index("rota_event_run", "rota_event", ["run_id", "id"])
    steps.insert_row("insert into rota_schema (id, version, compatible_from) values (1, 1, 1)")
