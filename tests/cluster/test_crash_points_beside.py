"""A process is killed at what is beside the runs: counts, alerts, sessions, the audit, and what SQL asks for.

Nothing of it is lost, nothing is there twice, and nothing is left of what did not happen.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, func, insert, select, text, update

from rota import Rota
from rota.model.accounts import Session
from rota.store.database import now_of
from rota.store.log_ins import find_session, log_in
from rota.store.rollups import Unit, fold_tallies, remove_counts
from rota.store.tables import audit, event, job, job_rollup, login_failure, run, schema, session, tally
from rota.store.types import db_now
from tests.alerts.receiver import Receiver, receive
from tests.cluster.cluster import Cluster
from tests.cluster.scene import LEASE_SECONDS_LONG, LEAST, Scene, each_point
from tests.store.counted import miscounted

PASSWORD = "correct horse battery"
WITH_DATABASE = "import sys; from rota.store.database import Database; database = Database(sys.argv[1]); "
FOLD = WITH_DATABASE + "from rota.store.rollups import fold_tallies; fold_tallies(database)"
REMOVE = WITH_DATABASE + "from rota.store.rollups import Unit, remove_counts; remove_counts(database, Unit.QUARTER)"
LOG_IN = WITH_DATABASE + "from rota.store.log_ins import log_in; log_in(database, 'ann', sys.argv[2])"
# What another program does with SQL, and dies over.
ENQUEUE = """
import os, signal, sys, psycopg
connection = psycopg.connect(sys.argv[1])
print(connection.execute("select rota_enqueue('job', key => 'once')").fetchone()[0], flush=True)
if sys.argv[2] == "after":
    connection.commit()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def scene(cluster: Cluster, point: str) -> Scene:
    return Scene(cluster, point, LEAST)


def count(cluster: Cluster, table: Any, *where: Any) -> int:
    statement = select(func.count()).select_from(table).where(*where)
    return cluster.database.read(lambda connection: connection.execute(statement).scalar_one())


# -- counts


@each_point("fold.added", "fold.written", "fold.committed")
def test_each_end_is_counted_once_when_a_node_has_died_folding(scene: Scene) -> None:
    cluster = scene.cluster
    # Somebody has looked just now, so that no worker folds meanwhile.
    cluster.database.write(lambda c: c.execute(update(schema).values(health_looked_at=db_now())), repeatable=True)
    cluster.add_shell("well", "true")
    cluster.add_shell("badly", "exit 3")
    worker = cluster.start("a")
    ran = [*cluster.enqueue("well", 5), *cluster.enqueue("badly", 3)]
    cluster.wait_for_end(*ran)
    assert worker.stop() == 0
    before = count(cluster, tally)
    assert before > 1

    scene.die_doing("-c", FOLD, cluster.url)

    is_done = scene.point == "fold.committed"
    assert count(cluster, tally) == (0 if is_done else before)
    assert (count(cluster, job_rollup) > 0) is is_done
    assert cluster.database.read(miscounted) == []

    def fold() -> bool:
        while fold_tallies(cluster.database):
            pass
        return count(cluster, tally) == 0

    scene.wait(fold, "the turn of who has died is free, and all is folded")
    assert cluster.database.read(miscounted) == []


@each_point("counts.removed", "counts.committed")
def test_old_counts_go_and_others_stay_when_a_node_has_died_removing_them(scene: Scene) -> None:
    cluster = scene.cluster

    def add(connection: Connection) -> None:
        old = now_of(connection).replace(minute=0, second=0, microsecond=0) - timedelta(days=9)
        facts = {"job_id": 1, "state": "succeeded", "ended_count": 1, "delay_seconds": 0.0, "delay_count": 0}
        rows = [("quarter", old), ("quarter", old + timedelta(days=8)), ("hour", old), ("day", old)]
        connection.execute(insert(job_rollup), [facts | {"unit": unit, "start_at": at} for unit, at in rows])

    cluster.database.write(add, repeatable=False)

    scene.die_doing("-c", REMOVE, cluster.url)

    assert count(cluster, job_rollup) == (3 if scene.point == "counts.committed" else 4)
    assert remove_counts(cluster.database, Unit.QUARTER) is None
    assert count(cluster, job_rollup, job_rollup.c.unit == "quarter") == 1
    assert count(cluster, job_rollup) == 3


# -- alerts


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receive() as found:
        yield found


ALERT = {"alert": '["ops"]'}


def channels(receiver: Receiver) -> dict[str, Any]:
    return {"ops": {"webhook": receiver.url, "private": True}}


def assert_told_once(scene: Scene, run_id: int, receiver: Receiver) -> None:
    """Wait until all have ended, and see that one run of the job has failed, and one has told it."""
    cluster = scene.cluster
    assert scene.wait_for_end(run_id) == {"failed"}
    telling = select(run.c.id).where(run.c.job == "rota:alert:ops")
    (made,) = cluster.database.read(lambda connection: connection.execute(telling).scalars().all())
    assert scene.wait_for_end(made) == {"succeeded"}
    requests = receiver.wait(1)
    assert {request.headers["Rota-Id"] for request in requests} == {json.loads(requests[0].body)["id"]}
    assert json.loads(requests[0].body)["run"] == run_id
    # It was sent once: whoever has died, the machine was there, and knew how it went.
    assert len(requests) == 1
    assert len(cluster.attempts(made)) == 1
    assert cluster.database.read(miscounted) == []


@each_point("alert.made")
def test_a_run_that_fails_is_told_once_when_a_worker_has_died_making_the_alert(
    scene: Scene, receiver: Receiver
) -> None:
    cluster = scene.cluster
    cluster.add_shell("job", "exit 3", **ALERT)
    doomed = scene.doomed(alerts=channels(receiver))
    (run_id,) = cluster.enqueue("job")

    scene.wait_for_crash_of(doomed)
    assert count(cluster, run) == 1
    cluster.begin("a", lease_seconds=LEASE_SECONDS_LONG, alerts=channels(receiver))

    assert_told_once(scene, run_id, receiver)


@each_point("end.heard", "end.written", "end.committed")
def test_an_alert_is_sent_once_when_a_worker_has_died_over_the_end_of_its_run(scene: Scene, receiver: Receiver) -> None:
    cluster = scene.cluster
    scene.variables["ROTA_CRASH_AT"] += "@2"  # the first end is that of what is told
    cluster.add_shell("job", "exit 3", **ALERT)
    doomed = scene.doomed(alerts=channels(receiver))
    (run_id,) = cluster.enqueue("job")

    scene.wait_for_crash_of(doomed)
    assert cluster.states([run_id]) == {"failed"}
    cluster.begin("a", lease_seconds=LEASE_SECONDS_LONG, alerts=channels(receiver))

    assert_told_once(scene, run_id, receiver)


# -- people


@each_point("session.written", "session.committed")
def test_a_log_in_leaves_a_session_or_nothing_when_the_server_has_died(scene: Scene) -> None:
    cluster = scene.cluster
    with Rota(cluster.url) as rota:
        rota.users.add("ann", role="operator", password=PASSWORD)
    is_logged_in = audit.c.did == "logged-in"

    scene.die_doing("-c", LOG_IN, cluster.url, PASSWORD)

    made = int(scene.point == "session.committed")
    assert (count(cluster, session), count(cluster, audit, is_logged_in)) == (made, made)
    assert count(cluster, login_failure) == 1 - made  # until it has succeeded, an attempt counts as failed
    key = log_in(cluster.database, "ann", PASSWORD)
    assert isinstance(find_session(cluster.database, key), Session)
    assert (count(cluster, session), count(cluster, audit, is_logged_in)) == (made + 1, made + 1)
    assert count(cluster, login_failure) == 0


def state_of_job(cluster: Cluster) -> str:
    return cluster.database.read(lambda connection: connection.execute(select(job.c.state)).scalar_one())


@each_point("act.noted")
def test_an_act_is_done_and_noted_or_neither_when_its_caller_has_died(scene: Scene) -> None:
    cluster = scene.cluster
    cluster.add_shell("job", "true")
    words = ("-m", "rota", "--db", cluster.url, "job", "pause", "job")

    scene.die_doing(*words)

    assert state_of_job(cluster) == "active"
    assert (count(cluster, audit), count(cluster, event)) == (0, 0)
    assert scene.do(*words) == 0
    assert state_of_job(cluster) == "paused"
    assert (count(cluster, audit), count(cluster, event)) == (1, 1)


# -- SQL


@pytest.mark.only_on("postgresql")
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_asked_for_with_sql_is_there_exactly_if_its_caller_has_committed(cluster: Cluster, when: str) -> None:
    scene = Scene(cluster, "enqueue.written", LEAST)
    cluster.add_shell("job", "true")
    url = cluster.database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    made = int(when == "after")

    assert scene.do("-c", ENQUEUE, url, when) == -signal.SIGKILL

    def counts() -> tuple[int, int, int]:
        return count(cluster, run), count(cluster, event, event.c.run_id.is_not(None)), count(cluster, audit)

    assert counts() == (made, made, made)
    ask = text("select rota_enqueue('job', key => 'once')")
    cluster.start("a")
    run_id = cluster.database.write(lambda connection: connection.execute(ask).scalar_one(), repeatable=False)
    assert cluster.wait_for_end(run_id) == {"succeeded"}
    assert count(cluster, run) == 1
