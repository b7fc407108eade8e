"""Long runs: what a run says of itself while it runs, what may be asked of it meanwhile, and what is retried.

Revision 0004. A program that knows only schema 3 works on: it does not show, ask for or heed any of this.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

from rota.store.migrations import steps
from rota.store.types import Id, Instant, LongText, Name, Number, Word

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ADDED: dict[str, tuple[sa.Column[Any], ...]] = {
    "rota_node": (
        sa.Column("environments", LongText, nullable=True),
        sa.Column("secrets", LongText, nullable=True),
        sa.Column("cgroups", LongText, nullable=True),
        sa.Column("drain_asked_at", Instant(), nullable=True),
        sa.Column("drain_asked_by", Name, nullable=True),
    ),
    "rota_pool": (
        sa.Column("state", Word, nullable=False, server_default="active"),
        sa.Column("paused_at", Instant(), nullable=True),
        sa.Column("paused_by", Name, nullable=True),
    ),
    "rota_job": (
        sa.Column("env", Name, nullable=True),
        sa.Column("retry_on", LongText, nullable=True),
        sa.Column("no_retry_on", LongText, nullable=True),
        sa.Column("deadline_seconds", Number, nullable=True),
        sa.Column("no_op_exit_code", sa.Integer(), nullable=True),
        sa.Column("cancel_exit_code", sa.Integer(), nullable=True),
        sa.Column("breaker_failures", sa.Integer(), nullable=True),
        sa.Column("breaker_pause_seconds", Number, nullable=False, server_default=sa.text("300")),
        sa.Column("failures_in_row", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("breaker_until", Instant(), nullable=True),
        sa.Column("breaker_run_id", Id, nullable=True),
        sa.Column("run_as_groups", LongText, nullable=True),
        sa.Column("memory_max_bytes", Id, nullable=True),
        sa.Column("cpu_max_seconds", Number, nullable=True),
        sa.Column("open_files_max", sa.Integer(), nullable=True),
        sa.Column("processes_max", sa.Integer(), nullable=True),
        sa.Column("nice", sa.Integer(), nullable=True),
        sa.Column("ionice", Word, nullable=True),
        sa.Column("umask", Word, nullable=True),
        sa.Column("startup", Word, nullable=True),
        sa.Column("connection", Name, nullable=True),
        sa.Column("secrets", LongText, nullable=True),
        sa.Column("executor", Word, nullable=True),
    ),
    "rota_run": (
        sa.Column("retries", sa.Integer(), nullable=True),
        sa.Column("retry_delay_seconds", Number, nullable=True),
        sa.Column("deadline_from_at", Instant(), nullable=True),
        sa.Column("progress", Number, nullable=True),
        sa.Column("progress_message", LongText, nullable=True),
        sa.Column("progress_at", Instant(), nullable=True),
        sa.Column("checkpoint", LongText, nullable=True),
        sa.Column("freeze_asked_at", Instant(), nullable=True),
        sa.Column("freeze_asked_by", Name, nullable=True),
        sa.Column("environment", Name, nullable=True),
        sa.Column("environment_version", Name, nullable=True),
    ),
    "rota_attempt": (
        sa.Column("environment", Name, nullable=True),
        sa.Column("environment_version", Name, nullable=True),
        sa.Column("read_bytes", Id, nullable=True),
        sa.Column("written_bytes", Id, nullable=True),
        sa.Column("cold_because", LongText, nullable=True),
        sa.Column("executor", Word, nullable=True),
    ),
    "rota_output": (sa.Column("marks", LongText, nullable=True),),
}

# Values by which one row, written by hand, would make a statement fail that moves others too.
RANGES: dict[str, dict[str, tuple[int, int]]] = {
    "rota_job": {
        "deadline_seconds": (0, 315_360_000),
        "breaker_pause_seconds": (0, 315_360_000),
        "failures_in_row": (0, 1_000_000_000),
        "memory_max_bytes": (0, 1 << 50),
        "cpu_max_seconds": (0, 315_360_000),
        "open_files_max": (0, 1 << 30),
        "processes_max": (0, 4_194_304),
        "nice": (-20, 19),
    },
    "rota_run": {
        "progress": (0, 1),
        "retry_delay_seconds": (0, 315_360_000),
        "retries": (-1, 1_000_000_000),
    },
}


# A delivery more than schema 3 knows.
DELIVERIES = "delivery in ('at_least_once', 'at_most_once')"
DELIVERIES_NOW = "delivery in ('at_least_once', 'at_most_once', 'transactional')"


def upgrade() -> None:
    if op.get_context().dialect.name == "sqlite":
        _rewrite_deliveries()
    for table, columns in ADDED.items():
        for column in columns:
            steps.add_column(table, column)
    if op.get_context().dialect.name != "sqlite":
        for table, ranges in RANGES.items():
            for name, (low, high) in ranges.items():
                steps.create_check(f"{table}_{name}_within", table, f"{name} between {low} and {high}")
        steps.create_check("rota_pool_state_known", "rota_pool", "state in ('active', 'paused')")
        for table in ("rota_job", "rota_run"):
            steps.drop_check(f"{table}_delivery_known", table)
            steps.create_check(f"{table}_delivery_known", table, DELIVERIES_NOW)
    op.execute("update rota_schema set version = 4, compatible_from = 2")


def _rewrite_deliveries() -> None:
    """Widen the check in the stored text of the tables; the change of their columns that follows has it read again.

    It touches no content, so SQLite allows it: https://www.sqlite.org/lang_altertable.html, "Making Other Kinds Of
    Table Schema Changes". Copying the tables instead would break off what refers to them.
    """
    old, new = (text.replace("'", "''") for text in (DELIVERIES, DELIVERIES_NOW))
    op.execute("pragma writable_schema = on")
    op.execute(f"update sqlite_schema set sql = replace(sql, '{old}', '{new}') where name in ('rota_job', 'rota_run')")
    op.execute("pragma writable_schema = off")
