"""Waiting for thousands of runs, looking a few times a second: what is watched needs the machine more than we do."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from sqlalchemy import func, select

from rota.store.tables import run
from tests.cluster.cluster import Cluster

LOOK_SECONDS = 0.1


def wait_slowly(cluster: Cluster, condition: Callable[[], object], what: str, seconds: float) -> None:
    def look() -> object:
        return condition() or time.sleep(LOOK_SECONDS)

    cluster.wait(look, what, seconds)


def wait_for_notes(cluster: Cluster, what: str, least: int, seconds: float) -> None:
    """Wait until jobs have said ``what`` so many times at least."""
    said = f"{what} ".encode()

    def is_said() -> bool:
        return cluster.ledger.path.read_bytes().count(said) >= least

    wait_slowly(cluster, is_said, f"{what!r} is {least} times in the ledger", seconds)


def count_states(cluster: Cluster, job: str) -> Counter[str]:
    """How many runs of a job are in which state."""
    statement = select(run.c.state, func.count()).where(run.c.job == job).group_by(run.c.state)
    rows = cluster.database.read(lambda c: c.execute(statement).all())
    return Counter({row.state: row[1] for row in rows})


def wait_for_all(cluster: Cluster, job: str, seconds: float) -> Counter[str]:
    """Wait until every run of a job has finished, and return how many ended how."""
    going = ("waiting", "ready", "running")

    def have_ended() -> bool:
        states = count_states(cluster, job)
        return not any(states[state] for state in going)

    wait_slowly(cluster, have_ended, f"all runs of {job} have finished", seconds)
    return count_states(cluster, job)
