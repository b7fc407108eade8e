"""A process is killed at each named point of the protocols (``rota/crash.py``), and others bring its run to the end.

Each test asserts that its point was reached, by the note that the process leaves on disk, and then what the promises
say: every slot has one row; a run of ``at_least_once`` succeeds, and no two executions of it overlap; one of
``at_most_once`` starts once at most, and is ``lost`` exactly where its start mark was committed and nobody is left who
knows better. By default every third point is tried, with one delivery; ``make test-crash`` tries all of them, on every
database.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, func, insert, select, text, update

from rota.crash import POINTS
from rota.model.backfill import Wish
from rota.model.run import NewRun
from rota.store.backfill_steps import step_backfills
from rota.store.backfills import read_backfill, start_backfill
from rota.store.creation import enqueue_runs, request_ids
from rota.store.database import now_of
from rota.store.jobs import edit_job
from rota.store.period_view import list_periods
from rota.store.periods import look_at_periods
from rota.store.tables import command, job, run, schedule
from rota.store.wakeup import announce
from tests.cluster.cluster import PATH, ROOT, Cluster, Worker, parent_of
from tests.cluster.scene import (
    LEASE_SECONDS,
    LEASE_SECONDS_LONG,
    LEAST,
    LIMIT_SECONDS,
    LOST,
    MOST,
    SUCCEEDED,
    WORKS,
    Scene,
    points,
    tried,
)

ENQUEUE = "import sys; from rota import Rota; Rota(sys.argv[1]).enqueue('job', key='once')"


@pytest.fixture
def scene(cluster: Cluster, point: str, delivery: str) -> Scene:
    return Scene(cluster, point, delivery)


@points(dict.fromkeys(["enqueue.inserted", "enqueue.written", "enqueue.committed"], SUCCEEDED))
def test_a_caller_that_died_asks_again_and_has_one_run(scene: Scene, expected: str) -> None:
    scene.add_job()
    scene.go()

    def ask(**variables: str) -> int:
        words = [sys.executable, "-c", ENQUEUE, scene.cluster.url]
        return subprocess.run(words, env={"PATH": PATH, "PYTHONPATH": str(ROOT), **variables}, check=False).returncode

    assert ask(**scene.variables) == -signal.SIGKILL
    scene.wait_for_crash()
    assert ask() == 0

    (run_id,) = scene.cluster.database.read(lambda c: c.execute(select(run.c.id)).scalars().all())
    scene.survivor("b")
    scene.check(run_id, expected=expected)


@points(
    dict.fromkeys(["fire.decided", "fire.moved", "fire.inserted", "fire.written", "fire.committed"], SUCCEEDED),
)
def test_each_slot_has_one_run_when_a_worker_has_died_firing(scene: Scene, expected: str) -> None:
    scene.add_job()
    scene.go()
    slots = add_schedule(scene.cluster)

    scene.wait_for_crash_of(scene.doomed())
    scene.survivor("b")

    rows = wait_for_slots(scene)
    assert [(row.slot_at, row.slot_count) for row in rows] == [(slot, 1) for slot in slots]
    scene.check(*(row.id for row in rows), expected=expected)


@points({"fan_out.inserted": SUCCEEDED})
def test_each_slot_has_a_run_on_every_node_when_a_worker_has_died_fanning_out(scene: Scene, expected: str) -> None:
    cluster = scene.cluster
    for name in "ab":  # registered, and gone
        cluster.begin(name).ready().kill()
    cluster.add_shell("job", WORKS, delivery=scene.delivery, runs_on="all")
    scene.go()
    slots = add_schedule(cluster, first_in_seconds=2)

    scene.wait_for_crash_of(scene.doomed())
    assert cluster.database.read(lambda c: c.execute(select(func.count()).select_from(run)).scalar()) == 0
    for name in "ab":
        scene.survivor(name)

    rows = wait_for_slots(scene)
    found = sorted((row.slot_at, row.target_node) for row in rows)
    assert found == sorted(itertools.product(slots, "ab"))
    scene.check(*(row.id for row in rows), expected=expected)


def wait_for_slots(scene: Scene) -> list[Any]:
    """Wait until all slots of all schedules are decided, and return their runs."""
    cluster = scene.cluster
    undecided = select(func.count()).where(schedule.c.next_slot_at.is_not(None))
    scene.wait(lambda: not cluster.database.read(lambda c: c.execute(undecided).scalar()), "all slots are decided")
    return list(cluster.database.read(lambda c: c.execute(select(run).order_by(run.c.slot_at)).all()))


def add_schedule(cluster: Cluster, first_in_seconds: int = -2) -> list[datetime]:
    """Add a schedule of four slots, one a second: of three in the past and one ahead. Return them."""

    def add(connection: Connection) -> list[datetime]:
        first = now_of(connection).replace(microsecond=0) + timedelta(seconds=first_in_seconds)
        slots = [first + timedelta(seconds=second) for second in range(4)]
        row = {
            "name": "s", "job_id": connection.execute(select(job.c.id)).scalar_one(), "kind": "every",
            "expression": "1", "zone": "UTC", "anchor_at": first, "next_slot_at": first, "end_at": slots[-1],
            "delay_seconds": 0.0, "catch_up": "all", "catch_up_limit": 100, "overlap": "allow", "args": "{}",
            "cursor_version": 1, "revision": 1, "created_at": first, "updated_at": first,
        }  # fmt: skip
        connection.execute(insert(schedule), row)
        return slots

    return cluster.database.write(add, repeatable=False)


@points(dict.fromkeys(["backfill.written", "backfill.committed"], SUCCEEDED))
def test_each_slot_of_the_past_has_one_run_when_a_worker_has_died_making_them(scene: Scene, expected: str) -> None:
    cluster = scene.cluster
    scene.add_job()
    scene.go()
    slots = add_past_schedule(cluster)
    wish = Wish.checked(max_active=2)
    made = start_backfill(cluster.database, "s", slots[0], slots[-1] + timedelta(seconds=1), wish, actor="test")["id"]

    scene.wait_for_crash_of(scene.doomed(lease_seconds=LEASE_SECONDS))
    scene.survivor("b")

    scene.wait(lambda: read_backfill(cluster.database, made)["state"] == "ended", "the backfill has ended")
    rows = list(cluster.database.read(lambda c: c.execute(select(run).order_by(run.c.slot_at)).all()))
    assert [(row.slot_at, row.slot_count) for row in rows] == [(slot, 1) for slot in slots]
    scene.check(*(row.id for row in rows), expected=expected)


@points({"backfill.cancelled": SUCCEEDED})
def test_a_caller_that_died_cancelling_asks_again_and_nothing_is_half_cancelled(scene: Scene, expected: str) -> None:
    cluster = scene.cluster
    scene.add_job()
    slots = add_past_schedule(cluster)
    made = start_backfill(cluster.database, "s", slots[0], slots[-1], Wish.checked(), actor="test")["id"]
    step_backfills(cluster.database)

    def cancel(**variables: str) -> int:
        program = f"import sys; from rota import Rota; Rota(sys.argv[1]).backfills[{made}].cancel()"
        words = [sys.executable, "-c", program, cluster.url]
        return subprocess.run(words, env={"PATH": PATH, "PYTHONPATH": str(ROOT), **variables}, check=False).returncode

    assert expected == SUCCEEDED
    assert cancel(**scene.variables) == -signal.SIGKILL
    scene.wait_for_crash()
    view = read_backfill(cluster.database, made)
    assert (view["state"], view["active"]) == ("active", 1)
    assert cancel() == 0
    view = read_backfill(cluster.database, made)
    assert (view["state"], view["active"], view["failed"]) == ("cancelled", 0, 1)


def add_past_schedule(cluster: Cluster) -> list[datetime]:
    """Add a schedule that is over and of which nothing was decided, and return its slots."""
    slots = add_schedule(cluster, first_in_seconds=-10)
    over = update(schedule).values(next_slot_at=None)
    cluster.database.write(lambda connection: connection.execute(over), repeatable=False)
    return slots[1:]  # a grid has no slot at its anchor


@points(
    dict.fromkeys(["advance.written", "advance.committed"], SUCCEEDED)
    | dict.fromkeys(["claim.before", "claim.updated", "claim.written", "claim.committed"], SUCCEEDED)
    | {"order.before": LOST}
)
def test_a_run_goes_to_another_node_when_its_worker_has_died_before_it_started(scene: Scene, expected: str) -> None:
    check_another_node_runs_it(scene, expected)


@points(dict.fromkeys(["upstreams.written", "upstreams.committed"], SUCCEEDED))
def test_a_run_is_let_go_once_although_who_did_it_has_died(scene: Scene, expected: str) -> None:
    cluster = scene.cluster
    cluster.add_shell("upstream", "true")
    cluster.add_shell("job", WORKS, delivery=scene.delivery)
    change = {"after": ["upstream"]}
    edit_job(cluster.database, "job", lambda spec: spec.edited(**change), actor="test")
    scene.go()
    doomed = scene.doomed(lease_seconds=LEASE_SECONDS)
    run_id, upstream = cluster.enqueue("job") + cluster.enqueue("upstream")

    scene.wait_for_crash_of(doomed)
    assert cluster.states([upstream]) == {"succeeded"}
    scene.survivor("b")

    scene.check(run_id, expected=expected)


@points(dict.fromkeys(["periods.written", "periods.committed"], SUCCEEDED))
def test_each_period_has_one_run_when_a_worker_has_died_looking_at_it(scene: Scene, expected: str) -> None:
    cluster = scene.cluster
    scene.add_job()
    add_day_job(cluster)
    scene.go()

    scene.wait_for_crash_of(scene.doomed(lease_seconds=LEASE_SECONDS))
    scene.survivor("b")

    rows = scene.wait(lambda: list_finished(cluster, 2), "two days are finished")
    assert [row["state"] for row in rows] == ["processed", "processed"]
    assert [row["runs"] for row in rows] == [1, 1]
    scene.check(*(row["run"] for row in rows), expected=expected)


@points(dict.fromkeys(["commands.answered", "commands.committed"], SUCCEEDED))
def test_what_is_asked_for_with_sql_is_done_once_when_a_worker_has_died_doing_it(scene: Scene, expected: str) -> None:
    cluster = scene.cluster
    scene.add_job()
    scene.go()

    def ask(connection: Connection) -> None:
        connection.execute(text("insert into rota_command (verb, target) values ('job.run', 'job')"))

    cluster.database.write(ask, repeatable=False)
    scene.wait_for_crash_of(scene.doomed(lease_seconds=LEASE_SECONDS))
    made = select(run.c.id)
    is_done = scene.point == "commands.committed"
    assert len(cluster.database.read(lambda c: c.execute(made).all())) == int(is_done)
    scene.survivor("b")

    (run_id,) = scene.wait(lambda: cluster.database.read(lambda c: c.execute(made).scalars().all()), "its run is made")
    scene.check(run_id, expected=expected)
    (answered,) = cluster.database.read(lambda c: c.execute(select(command)).all())
    assert (answered.state, answered.answered_by) == ("done", "a" if is_done else "b")
    assert json.loads(answered.outcome)["id"] == run_id


@points({"reprocess.written": SUCCEEDED, "skip_periods.written": SUCCEEDED})
def test_a_caller_that_died_taking_periods_back_or_skipping_them_asks_again(scene: Scene, expected: str) -> None:
    cluster = scene.cluster
    assert expected == SUCCEEDED
    scene.add_job()
    add_day_job(cluster)
    while look_at_periods(cluster.database).moved:
        pass
    (first, *_) = list_periods(cluster.database, "job")
    verb = "reprocess" if scene.point == "reprocess.written" else "skip"
    program = f"import sys; from rota import Rota; Rota(sys.argv[1]).periods.{verb}('job', {first['period']!r})"

    def ask(**variables: str) -> int:
        words = [sys.executable, "-c", program, cluster.url]
        return subprocess.run(words, env={"PATH": PATH, "PYTHONPATH": str(ROOT), **variables}, check=False).returncode

    assert ask(**scene.variables) == -signal.SIGKILL
    scene.wait_for_crash()
    assert list_periods(cluster.database, "job")[0] == first
    assert cluster.states([first["run"]]) == {"ready"}
    assert ask() == 0
    assert list_periods(cluster.database, "job")[0]["state"] == ("open" if verb == "reprocess" else "skipped")
    assert cluster.states([first["run"]]) == {"cancelled"}


def add_day_job(cluster: Cluster) -> None:
    """Let the job have days, of which two have closed."""
    start = cluster.database.read(now_of) - timedelta(days=2)
    edit_job(
        cluster.database, "job", lambda spec: spec.edited(period="day", period_start=start), actor="test"
    )  # fmt: skip


def list_finished(cluster: Cluster, count: int) -> list[Any]:
    rows = [row for row in list_periods(cluster.database, "job") if row["finished_at"] is not None]
    return rows if len(rows) >= count else []


@points({"mark.before": SUCCEEDED, "mark.written": SUCCEEDED, "mark.committed": LOST}, (MOST,))
def test_a_run_is_lost_from_the_commit_of_its_start_mark_on(scene: Scene, expected: str) -> None:
    check_another_node_runs_it(scene, expected)

    starts = scene.cluster.ledger.entries("start")
    assert len(starts) == (0 if expected == LOST else 1)


def check_another_node_runs_it(scene: Scene, expected: str) -> None:
    scene.add_job()
    scene.go()
    doomed = scene.doomed(lease_seconds=LEASE_SECONDS)
    (run_id,) = ask_for_a_moment_from_now(scene.cluster)

    scene.wait_for_crash_of(doomed)
    scene.survivor("b")

    scene.check(run_id, expected=expected)


def ask_for_a_moment_from_now(cluster: Cluster) -> list[int]:
    def work(connection: Any) -> list[int]:
        announce(connection)
        return enqueue_runs(connection, [NewRun("job", requested_by="test", in_seconds=0.2)], request_ids(1))

    return cluster.database.write(work, repeatable=False)


@points(
    {
        "guardian.before": SUCCEEDED,  # the worker knows that there was none
        "guardian.forked": SUCCEEDED,  # a guardian goes on without its nursery
        "spawn.before": LOST,
        "spawn.forked": LOST,
        "spawn.told": LOST,
        "end.reached": LOST,
        "end.told": SUCCEEDED,
        "end.taken": SUCCEEDED,
    }
)
def test_a_worker_goes_on_when_a_guardian_or_the_nursery_has_died(scene: Scene, expected: str) -> None:
    scene.add_job()
    scene.go()
    worker = scene.doomed()
    (run_id,) = scene.cluster.enqueue("job")

    assert scene.wait_for_crash() != worker.pid

    scene.check(run_id, expected=expected)
    (after,) = scene.cluster.enqueue("job")
    scene.check(after)


@points({"spawn.at_gate": LOST, "spawn.let_through": LOST})
def test_a_worker_goes_on_when_a_guardian_has_died_at_the_gate_of_a_warm_job(scene: Scene, expected: str) -> None:
    cluster = scene.cluster
    # Its import path is the worker's, or it would start anew each time.
    variables = json.dumps({"LEDGER": str(cluster.ledger.path)})
    cluster.add_job("job", "call", "tests.cluster.callables:burn", delivery=scene.delivery, variables=variables)
    scene.doomed(import_dirs=[str(ROOT)], environment={"PATH": PATH})
    ended: list[int] = []

    def run_one() -> bool:
        ended.extend(cluster.enqueue("job", args={"seconds": 0.05}))
        scene.wait_for_end(ended[-1])
        return scene.note.exists()

    cluster.wait(run_one, "a warm parent has been asked, and the guardian has died", LIMIT_SECONDS)

    scene.wait_for_crash()
    scene.check(ended[-1], expected=expected)
    if ended[:-1]:
        scene.check(*ended[:-1])
    if scene.point == "spawn.at_gate":
        assert not cluster.ledger.entries(run_id=ended[-1], attempt=1)


def order_sent(scene: Scene, worker: Worker) -> int:
    worker.ready()
    scene.add_job()
    scene.go()
    return scene.cluster.enqueue("job")[0]


def renewing(scene: Scene, worker: Worker) -> int:
    return scene.start_job(worker)[0]


def leaving(scene: Scene, worker: Worker) -> int:
    run_id, _ = scene.start_job(worker)
    worker.signal(signal.SIGTERM)
    return run_id


UNDER_WAY: dict[str, tuple[Callable[[Scene, Worker], int], float]] = {
    "order.sent": (order_sent, LEASE_SECONDS_LONG),
    "renew.before": (renewing, 12.0),
    "renew.written": (renewing, 12.0),
    "renew.committed": (renewing, 12.0),
    "end.heard": (order_sent, LEASE_SECONDS_LONG),
    "end.written": (order_sent, LEASE_SECONDS_LONG),
    "end.committed": (order_sent, LEASE_SECONDS_LONG),
    "end.acknowledged": (order_sent, LEASE_SECONDS_LONG),
    "leave.before": (leaving, LEASE_SECONDS_LONG),
    "leave.renewed": (leaving, LEASE_SECONDS_LONG),
}


@points(dict.fromkeys(UNDER_WAY, SUCCEEDED))
def test_a_job_runs_once_when_its_worker_has_died_and_is_started_again(scene: Scene, expected: str) -> None:
    begin, lease_seconds = UNDER_WAY[scene.point]
    worker = scene.doomed(lease_seconds=lease_seconds)

    run_id = begin(scene, worker)
    scene.wait_for_crash_of(worker)
    scene.go()
    again = scene.survivor("a")

    scene.check(run_id, expected=expected)
    assert len(scene.cluster.ledger.entries("start")) == len(scene.cluster.attempts(run_id)) == 1
    scene.cluster.wait(lambda: not list((again.guardians / "journal").iterdir()), "the journal is empty")


@points(dict.fromkeys(["end.written", "end.committed", "end.acknowledged"], SUCCEEDED))
def test_an_end_of_the_journal_is_recorded_once_when_a_worker_has_died_delivering_it(
    scene: Scene, expected: str
) -> None:
    first = scene.cluster.begin("a", lease_seconds=LEASE_SECONDS_LONG)
    run_id, started = scene.start_job(first)
    guardian_pid = parent_of(started.pid)
    first.kill(first.nursery_pid)  # without which there is no stand-in either
    scene.go()
    scene.cluster.wait_for_death(guardian_pid)
    assert [path.suffix for path in (first.guardians / "journal").iterdir()] == [".end"]

    scene.wait_for_crash_of(scene.doomed())
    again = scene.survivor("a")

    scene.check(run_id, expected=expected)
    assert len(scene.cluster.attempts(run_id)) == 1
    scene.cluster.wait(lambda: not list((again.guardians / "journal").iterdir()), "the journal is empty")


@points({"journal.written": LOST, "journal.kept": SUCCEEDED})
def test_an_end_counts_from_when_it_is_in_the_journal_under_its_name(scene: Scene, expected: str) -> None:
    first = scene.doomed(lease_seconds=6.0)
    run_id, _ = scene.start_job(first)
    first.kill()
    scene.go()

    scene.wait_for_crash()
    scene.survivor("a")

    scene.check(run_id, expected=expected)
    assert len(scene.cluster.attempts(run_id)) == (2 if scene.point == "journal.written" and expected != LOST else 1)
    scene.wait(lambda: not list((first.guardians / "journal").iterdir()), "nothing is left in the journal")


@points({"rescue.written": LOST, "rescue.committed": LOST})
def test_a_run_is_rescued_once_when_its_rescuer_has_died(scene: Scene, expected: str) -> None:
    first = scene.cluster.begin("a", lease_seconds=LEASE_SECONDS)
    run_id, started = scene.start_job(first)
    first.kill(parent_of(started.pid))
    scene.go()

    scene.wait_for_crash_of(scene.doomed("b"))
    scene.survivor("c")

    scene.check(run_id, expected=expected)
    assert scene.cluster.run(run_id).losses == 1


@points({"surrender.written": LOST, "surrender.committed": LOST})
def test_a_run_is_let_go_once_when_its_worker_has_died_after_its_guardian(scene: Scene, expected: str) -> None:
    first = scene.doomed(lease_seconds=LEASE_SECONDS)
    run_id, started = scene.start_job(first)
    os.kill(parent_of(started.pid), signal.SIGKILL)
    scene.go()

    scene.wait_for_crash_of(first)
    scene.survivor("b")

    scene.check(run_id, expected=expected)
    assert scene.cluster.run(run_id).losses == 1


@points(dict.fromkeys(["adopt.before", "adopt.written", "adopt.committed"], SUCCEEDED))
def test_a_job_runs_once_when_the_worker_that_took_it_over_has_died_too(scene: Scene, expected: str) -> None:
    first = scene.cluster.begin("a", lease_seconds=LEASE_SECONDS_LONG)
    run_id, _ = scene.start_job(first)
    first.kill()

    scene.wait_for_crash_of(scene.doomed())
    scene.survivor("a")
    scene.go()

    scene.check(run_id, expected=expected)
    assert len(scene.cluster.ledger.entries("start")) == 1


@points({"adopt.let_in": LOST})
def test_a_run_is_rescued_when_its_guardian_has_died_letting_in_the_next_worker(scene: Scene, expected: str) -> None:
    first = scene.doomed(lease_seconds=9.0)
    run_id, _ = scene.start_job(first)
    first.kill()
    scene.survivor("a")

    scene.wait_for_crash()
    scene.go()

    scene.check(run_id, expected=expected)


@points(dict.fromkeys(["stand_in.before", "stand_in.started", "stand_in.renewed"], SUCCEEDED))
def test_a_job_runs_once_when_its_stand_in_has_died(scene: Scene, expected: str) -> None:
    first = scene.doomed()
    run_id, _ = scene.start_job(first)
    first.kill()

    scene.wait_for_crash()
    if scene.point == "stand_in.before":  # with the nursery, so that there is none
        scene.survivor("a")
    scene.go()

    scene.check(run_id, expected=expected)
    assert len(scene.cluster.ledger.entries("start")) == 1


@points(dict.fromkeys(["transaction.written", "transaction.committed"], SUCCEEDED), ("transactional",))
def test_the_rows_of_a_transactional_job_are_there_once_when_it_has_died_at_its_commit(
    scene: Scene, expected: str
) -> None:
    cluster = scene.cluster
    make = text("create table kept (run_id integer not null, n integer not null, attempt integer not null)")
    cluster.database.write(lambda connection: connection.execute(make), repeatable=False)
    cluster.add_job(
        "job", "call", "tests.cluster.transactional:keep",
        delivery=scene.delivery, timeout_seconds=20.0, lease_seconds=60.0, retries=1,
    )  # fmt: skip
    scene.doomed()
    (run_id,) = cluster.enqueue("job")

    scene.wait_for_crash()

    assert scene.wait_for_end(run_id) == {expected}
    attempt = 2 if scene.point == "transaction.written" else 1
    kept = cluster.database.read(lambda c: c.execute(text("select n, attempt from kept order by n")).all())
    assert [tuple(row) for row in kept] == [(n, attempt) for n in range(3)]
    assert len(cluster.attempts(run_id)) == attempt


def test_guardians_know_where_to_die_and_jobs_do_not(cluster: Cluster) -> None:
    scene = Scene(cluster, "rescue.committed", LEAST)  # which nobody gets to here
    cluster.add_shell("job", 'env > "$FOLDER/environment"')
    worker = scene.doomed().ready()

    assert cluster.wait_for_end(*cluster.enqueue("job")) == {SUCCEEDED}

    told = (cluster.folder / "environment").read_text()
    assert "ROTA_RUN_ID=1" in told
    assert "ROTA_CRASH" not in told
    nursery = Path(f"/proc/{worker.nursery_pid}/environ").read_bytes()
    assert all(f"{name}={value}".encode() in nursery for name, value in scene.variables.items())


def test_every_point_of_the_table_is_tried() -> None:
    importlib.import_module("tests.cluster.test_crash_points_beside")
    assert tried == set(POINTS)
