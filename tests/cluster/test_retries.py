"""What real workers retry, and what they do not."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select, update

from rota.model.run import NewRun
from rota.store.creation import enqueue_runs, request_ids
from rota.store.tables import event, job, run
from rota.store.wakeup import announce
from tests.cluster.cluster import Cluster


def events_of_job(cluster: Cluster, name: str) -> list[str]:
    statement = select(event.c.to_state).where(event.c.job == name, event.c.kind == "job").order_by(event.c.id)
    return [state or "" for state in cluster.database.read(lambda c: c.execute(statement).scalars().all())]


def test_an_exception_is_retried_by_the_name_of_its_base_class(cluster: Cluster) -> None:
    for name, raised in (("chosen", "ConnectionError"), ("other", "ValueError")):
        target = "tests.cluster.callables:fail_with"
        cluster.add_job(name, "call", target, retries=1, retry_on='["OSError"]')
        cluster.enqueue(name, args={"name": raised})
    cluster.start("a")

    assert cluster.wait_for_end(1, 2) == {"failed"}

    assert [attempt.error_type for attempt in cluster.attempts(1)] == ["ConnectionError"] * 2
    assert [attempt.error_type for attempt in cluster.attempts(2)] == ["ValueError"]
    assert cluster.run(2).reason_text.endswith("not retried: retry_on names only OSError")


def test_exit_codes_choose_skip_cancel_or_retry(cluster: Cluster) -> None:
    rule: dict[str, Any] = {"retries": 1, "no_op_exit_code": 99, "cancel_exit_code": 98, "retry_on": '["exit:75"]'}
    runs = {}
    for code in (99, 98, 75, 1):
        cluster.add_shell(f"exit-{code}", f"exit {code}", **rule)
        (runs[code],) = cluster.enqueue(f"exit-{code}")
    cluster.start("a")

    cluster.wait_for_end(*runs.values())

    ends = {code: (cluster.run(run_id).state, len(cluster.attempts(run_id))) for code, run_id in runs.items()}
    assert ends == {99: ("skipped", 1), 98: ("cancelled", 1), 75: ("failed", 2), 1: ("failed", 1)}


def test_a_job_is_stopped_at_the_deadline_of_its_run_and_not_tried_again(cluster: Cluster) -> None:
    cluster.add_shell("slow", "note start; exec sleep 1000", retries=-1, deadline_seconds=1.0, timeout_seconds=500.0)
    cluster.add_shell("again", "note again; exit 1", retries=-1, retry_delay_seconds=2000.0, deadline_seconds=1000.0)
    slow, again = cluster.enqueue("slow") + cluster.enqueue("again")
    cluster.start("a")

    assert cluster.wait_for_end(slow, again) == {"failed"}

    row, (attempt,) = cluster.run(slow), cluster.attempts(slow)
    assert (row.reason, attempt.reason, attempt.exit_signal) == ("deadline", "deadline", 15)
    assert "ran into the deadline of its run" in row.reason_text
    row = cluster.run(again)
    assert row.reason == "deadline"
    assert "in 2000 s it would begin after its deadline" in row.reason_text
    assert len(cluster.attempts(again)) == 1


def test_a_run_that_is_claimed_after_its_deadline_does_not_start(cluster: Cluster) -> None:
    cluster.add_shell("late", "note start", retries=-1, retry_delay_seconds=0.0, deadline_seconds=60.0)
    (run_id,) = cluster.enqueue("late")
    first_start = update(run).where(run.c.id == run_id).values(deadline_from_at=datetime(2026, 1, 1, tzinfo=UTC))
    cluster.database.write(lambda connection: connection.execute(first_start), repeatable=True)
    cluster.start("a")

    assert cluster.wait_for_end(run_id) == {"failed"}

    assert (cluster.run(run_id).reason, len(cluster.attempts(run_id))) == ("deadline", 1)
    assert cluster.ledger.entries("start") == []


def test_a_run_is_retried_as_it_was_asked_for(cluster: Cluster) -> None:
    cluster.add_shell("bad", "exit 1", retries=0, retry_delay_seconds=1000.0)

    def ask(connection: Any) -> list[int]:
        announce(connection)
        wanted = [NewRun("bad", retries=2, retry_delay_seconds=0.0)]
        return enqueue_runs(connection, wanted, request_ids(1))

    (run_id,) = cluster.database.write(ask, repeatable=False)
    cluster.start("a")

    assert cluster.wait_for_end(run_id) == {"failed"}

    assert len(cluster.attempts(run_id)) == 3
    assert "its 2 retries are used" in cluster.run(run_id).reason_text


def test_a_breaker_stops_a_storm_lets_one_run_through_after_its_pause_and_closes(cluster: Cluster) -> None:
    line = "note start; test -e $FOLDER/mended"
    cluster.add_shell("storm", line, retries=-1, retry_delay_seconds=0.0, breaker_failures=3, breaker_pause_seconds=2.0)
    run_ids = cluster.enqueue("storm", 6)
    for name in ("a", "b"):
        cluster.start(name, slots=1)
    cluster.wait(lambda: events_of_job(cluster, "storm"), "the breaker has opened")

    (cluster.folder / "mended").touch()

    assert cluster.wait_for_end(*run_ids) == {"succeeded"}
    told = events_of_job(cluster, "storm")
    assert told[:2] == ["breaker_opened", "breaker_half_open"]
    assert told[-1] == "breaker_closed"
    # Those that opened it, one more that may have been under way on the other node, and what was let through before.
    bad = len(cluster.ledger.entries("start")) - len(run_ids)
    assert 3 <= bad <= 4 + told.count("breaker_half_open")
    row = cluster.database.read(lambda c: c.execute(select(job).where(job.c.name == "storm")).one())
    assert (row.failures_in_row, row.breaker_until, row.breaker_run_id) == (0, None, None)
