"""Roll-ups: how runs and attempts ended, counted by quarters of an hour, hours and days.

Revision 0010. A program that knows only schema 9 works on: what ends by it is not counted, and what it makes has no
moment.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

from rota.store.migrations import steps
from rota.store.types import Id, Instant, Name, Number, Word

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
}
NUMBER = {
    "postgresql": "extract(epoch from {moment} at time zone 'UTC')::bigint / {seconds}",
    "mysql": "timestampdiff(second, '1970-01-01', {moment}) div {seconds}",
    "sqlite": "cast(strftime('%s', {moment}) as integer) / {seconds}",
}
NUMBER["mariadb"] = NUMBER["mysql"]
START = {
    "postgresql": "to_timestamp(({number}) * {seconds})",
    "mysql": "timestampadd(second, ({number}) * {seconds}, '1970-01-01 00:00:00.000000')",
    "sqlite": "strftime('%Y-%m-%d %H:%M:00.000000', ({number}) * {seconds}, 'unixepoch')",
}
START["mariadb"] = START["mysql"]
UNITS = {"quarter": 900, "hour": 3600, "day": 86400}


def upgrade() -> None:
    steps.add_column("rota_run", sa.Column("moment_at", Instant(), nullable=True))
    counts = (
        sa.Column("ended_count", Id, nullable=False),
        sa.Column("delay_seconds", Number, nullable=False),
        sa.Column("delay_count", Id, nullable=False),
    )
    steps.create_table(
        "rota_tally",
        sa.Column("id", Id, nullable=False),
        sa.Column("job_id", Id, nullable=False),
        sa.Column("node", Name, nullable=False),
        sa.Column("quarter", Id, nullable=False),
        sa.Column("quarter_last", Id, nullable=True),
        sa.Column("state", Word, nullable=False),
        sa.Column("ended_count", Id, nullable=False),
        sa.Column("busy_seconds", Number, nullable=False),
        sa.Column("delay_seconds", Number, nullable=False),
        sa.Column("delay_count", Id, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("rota_tally_pkey")),
        sqlite_autoincrement=True,
        **OPTIONS,
    )
    steps.create_table(
        "rota_job_rollup",
        sa.Column("unit", Word, nullable=False),
        sa.Column("job_id", Id, nullable=False, autoincrement=False),
        sa.Column("start_at", Instant(), nullable=False),
        sa.Column("state", Word, nullable=False),
        *counts,
        sa.PrimaryKeyConstraint("unit", "job_id", "start_at", "state", name=op.f("rota_job_rollup_pkey")),
        **OPTIONS,
    )
    steps.create_table(
        "rota_node_rollup",
        sa.Column("unit", Word, nullable=False),
        sa.Column("node", Name, nullable=False),
        sa.Column("start_at", Instant(), nullable=False),
        sa.Column("state", Word, nullable=False),
        sa.Column("ended_count", Id, nullable=False),
        sa.Column("busy_seconds", Number, nullable=False),
        sa.PrimaryKeyConstraint("unit", "node", "start_at", "state", name=op.f("rota_node_rollup_pkey")),
        **OPTIONS,
    )
    ended_badly = sa.text("state in ('failed', 'lost', 'missed')")
    steps.create_index(
        "rota_job_rollup_state",
        "rota_job_rollup",
        ["unit", "state", "start_at", "job_id"],
        postgresql_where=ended_badly,
        sqlite_where=ended_badly,
    )
    op.execute(
        "update rota_run set moment_at = coalesce(slot_at, period_start_at, enqueued_at) where moment_at is null"
    )
    count_all()
    steps.create_index("rota_run_moment", "rota_run", ["job_id", "moment_at"])
    is_unfinished = sa.text("finished_at is null")
    steps.create_index(
        "rota_run_unfinished",
        "rota_run",
        ["finished_at", "job_id"],
        postgresql_where=is_unfinished,
        sqlite_where=is_unfinished,
    )
    steps.insert_row("insert into rota_lock (name) values ('rollups')")
    op.execute("update rota_schema set version = 10, compatible_from = 2")


def count_all() -> None:
    """Count what is there already: rows that stand for many slots are told, and spread by the first node."""
    kind = op.get_context().dialect.name
    for table in ("rota_job_rollup", "rota_node_rollup", "rota_tally"):
        op.execute(f"delete from {table}")  # of an upgrade that was cut off
    for unit, seconds in UNITS.items():
        of_run, of_attempt = (
            START[kind].format(number=NUMBER[kind].format(moment=moment, seconds=seconds), seconds=seconds)
            for moment in ("moment_at", "finished_at")
        )
        for job_id in ("job_id", "0"):
            op.execute(
                "insert into rota_job_rollup (unit, job_id, start_at, state, ended_count, delay_seconds, delay_count) "
                f"select '{unit}', {job_id}, {of_run}, state, count(*), 0, 0 from rota_run "
                "where finished_at is not null and slot_count = 1 group by 2, 3, 4"
            )
        op.execute(
            "insert into rota_node_rollup (unit, node, start_at, state, ended_count, busy_seconds) "
            f"select '{unit}', node, {of_attempt}, state, count(*), sum(coalesce(seconds, 0)) from rota_attempt "
            "where finished_at is not null group by 2, 3, 4"
        )
    first, last = (NUMBER[kind].format(moment=moment, seconds=900) for moment in ("slot_at", "slot_last_at"))
    op.execute(
        "insert into rota_tally "
        "(job_id, node, quarter, quarter_last, state, ended_count, busy_seconds, delay_seconds, delay_count) "
        f"select job_id, '', {first}, {last}, state, slot_count, 0, 0, 0 from rota_run "
        "where finished_at is not null and slot_count > 1"
    )
