"""Whether tallies and roll-ups say what the ledger does."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import Connection, text

IN_LEDGER = "select job_id, state, sum(slot_count) from rota_run where finished_at is not null group by job_id, state"
TOLD = "select job_id, state, sum(ended_count) from rota_tally where node = '' group by job_id, state"
FOLDED = (
    "select job_id, state, sum(ended_count) from rota_job_rollup where unit = '{}' and job_id <> 0 "
    "group by job_id, state"
)
CLOSED = "select node, state, count(*) from rota_attempt where finished_at is not null group by node, state"
NODES_TOLD = "select node, state, sum(ended_count) from rota_tally where node <> '' group by node, state"
NODES_FOLDED = "select node, state, sum(ended_count) from rota_node_rollup where unit = '{}' group by node, state"


def miscounted(connection: Connection) -> list[tuple[object, ...]]:
    """Return what is counted otherwise than it is: unit, job or node, state, counted, there are."""

    def count(*statements: str) -> Counter[tuple[object, str]]:
        found: Counter[tuple[object, str]] = Counter()
        for statement in statements:
            for whose, state, number in connection.execute(text(statement)):
                found[whose, state] += int(number)
        return found

    # What was removed is counted for ever.
    is_whole = connection.execute(
        text("select coalesce(max(id), 0) = count(*) and count(*) > 0 from rota_run")
    ).scalar()
    wrong: list[tuple[object, ...]] = []
    for unit in ("quarter", "hour", "day"):
        for is_so, said in (
            (count(IN_LEDGER), count(TOLD, FOLDED.format(unit))),
            (count(CLOSED), count(NODES_TOLD, NODES_FOLDED.format(unit))),
        ):
            wrong += [
                (unit, *key, said[key], is_so[key])
                for key in sorted(is_so | said, key=str)
                if said[key] < is_so[key] or (said[key] > is_so[key] and is_whole)
            ]
    return wrong
