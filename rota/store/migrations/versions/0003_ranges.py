"""Ranges: values by which one row, written by hand, would make the statement fail that moves a hundred others.

Revision 0003. SQLite adds no constraint to a table that is there: triggers hold the same rules, see ``guards``.
"""

from alembic import op

from rota.store.migrations import steps

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

PRIORITY = (-1_000_000, 1_000_000)
LEASE_SECONDS = (3, 86_400)
SECONDS = (0, 315_360_000)
COUNT = (0, 1_000_000_000)
VERSION = (0, 1_000_000_000_000_000)

RANGES: dict[str, dict[str, tuple[int, int]]] = {
    "rota_job": {
        "priority": PRIORITY,
        "lease_seconds": LEASE_SECONDS,
        "timeout_seconds": SECONDS,
        "start_within_seconds": SECONDS,
        "retry_delay_seconds": SECONDS,
        "retry_delay_max_seconds": SECONDS,
    },
    "rota_schedule": {
        "skips_in_row": COUNT,
        "cursor_version": VERSION,
    },
    "rota_run": {
        "priority": PRIORITY,
        "lease_seconds": LEASE_SECONDS,
        "slot_count": COUNT,
        "attempt": COUNT,
        "retries_used": COUNT,
        "losses": COUNT,
        "fence": VERSION,
    },
    "rota_attempt": {"attempt": COUNT},
}


def upgrade() -> None:
    if op.get_context().dialect.name != "sqlite":
        for table, ranges in RANGES.items():
            for column, (low, high) in ranges.items():
                steps.create_check(f"{table}_{column}_within", table, f"{column} between {low} and {high}")
    op.execute("update rota_schema set version = 3, compatible_from = 2")
