"""Tidying: output that was kept long enough goes. What happened stays: runs, attempts and events.

Called by the scheduler of whichever node looked for findings, once a minute.
"""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, select

from rota.store.database import Database
from rota.store.reports import FORGET_OUTPUT
from rota.store.tables import attempt, output
from rota.store.types import Number, db_now_plus

BATCH_MAX = 500

# The attempts with the lowest numbers that have output. Served by the primary key, in its order.
_oldest = select(output.c.attempt_id).distinct().order_by(output.c.attempt_id).limit(BATCH_MAX).subquery()
# Of these, the ones that ended so long ago. Numbers rise with time: whoever has none old here has none old at all,
# unless hundreds of older attempts still run.
FIND_OLD_OUTPUT = (
    select(attempt.c.id)
    .join(_oldest, _oldest.c.attempt_id == attempt.c.id)
    .where(attempt.c.finished_at < db_now_plus(bindparam("minus_seconds", type_=Number)))
    .order_by(attempt.c.id)
)


def tidy_output(database: Database, keep_seconds: float) -> int:
    """Delete the output of up to ``BATCH_MAX`` attempts that ended more than ``keep_seconds`` ago; return of how many.

    Raises:
        DatabaseUnavailable: calling again is safe.
    """

    def tidy(connection: Connection) -> int:
        attempt_ids = connection.execute(FIND_OLD_OUTPUT, {"minus_seconds": -keep_seconds}).scalars().all()
        if attempt_ids:
            connection.execute(FORGET_OUTPUT, {"attempt_ids": list(attempt_ids)})
        return len(attempt_ids)

    return database.write(tidy, repeatable=True)
