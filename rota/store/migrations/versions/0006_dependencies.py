"""Jobs that run after others, and slots that run in order.

Revision 0006. A program that knows only schema 5 works on: what waits for upstreams it leaves alone, and it makes runs
that do not wait. To it a schedule with ``in_order`` is one that catches up all.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

from rota.store.migrations import steps
from rota.store.types import Id, Instant, LongText, Word, YesNo

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
}


def upgrade() -> None:
    steps.add_column("rota_job", sa.Column("after", LongText, nullable=True))
    steps.add_column("rota_job", sa.Column("upstream_failure", Word, nullable=True))
    steps.add_column("rota_schedule", sa.Column("in_order", YesNo, nullable=True))
    for table in ("rota_job", "rota_schedule"):
        steps.add_column(table, sa.Column("ghost_since", Instant(), nullable=True))
    steps.add_column("rota_run", sa.Column("upstreams_due_at", Instant(), nullable=True))
    steps.add_column("rota_run", sa.Column("awaiting_job_id", Id, nullable=True))
    for index, columns in (
        ("rota_run_upstreams_due", ["upstreams_due_at"]),
        ("rota_run_awaiting", ["awaiting_job_id", "slot_at"]),
    ):
        condition = sa.text(f"{columns[0]} is not null")
        steps.create_index(index, "rota_run", columns, postgresql_where=condition, sqlite_where=condition)
    steps.create_table(
        "rota_dependency",
        sa.Column("job_id", Id, autoincrement=False, nullable=False),
        sa.Column("upstream_id", Id, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("job_id", "upstream_id", name=op.f("rota_dependency_pkey")),
        **OPTIONS,
    )
    steps.create_index("rota_dependency_upstream", "rota_dependency", ["upstream_id", "job_id"])
    op.execute("update rota_schema set version = 6, compatible_from = 2")
