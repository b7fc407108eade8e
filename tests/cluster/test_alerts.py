"""A job that fails is told by a run of a worker's own, whoever dies meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select

from rota.alerts.webhook import sign
from rota.store.history import why_run
from rota.store.tables import metadata, run
from tests.alerts.authority import Authority
from tests.alerts.receiver import Receiver, Request, receive
from tests.cluster.cluster import Cluster, descendants_of

SECRET = "whsec-of-ops-4711"
OPS = {"alert": '["ops"]'}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receive() as found:
        yield found


def channels(receiver: Receiver) -> dict[str, Any]:
    return {"ops": {"webhook": receiver.url, "private": True, "secret": SECRET}}


def telling(cluster: Cluster) -> Any:
    """The run that tells, once it is there."""
    statement = select(run).where(run.c.job == "rota:alert:ops")
    return cluster.wait(lambda: cluster.database.read(lambda c: c.execute(statement).first()), "a run that tells")


def is_signed(request: Request) -> bool:
    alert_id, at = request.headers["Rota-Id"], int(request.headers["Rota-Timestamp"])
    return request.headers["Rota-Signature"] == sign(SECRET, alert_id, at, request.body)


def test_a_job_that_fails_is_told_by_a_signed_request(cluster: Cluster, receiver: Receiver) -> None:
    cluster.add_shell("job", "exit 3", **OPS)
    cluster.start("a", alerts=channels(receiver))

    (run_id,) = cluster.enqueue("job")

    (request,) = receiver.wait(1)
    told = json.loads(request.body)
    assert (told["kind"], told["job"], told["run"], told["reason"]["code"]) == ("failure", "job", run_id, "exit_code")
    assert is_signed(request)
    made = telling(cluster)
    assert cluster.wait_for_end(made.id) == {"succeeded"}
    held = [str(row) for table in metadata.sorted_tables for row in read_all(cluster, table)]
    assert [row for row in held if SECRET in row or "by=rota" in row] == []


def read_all(cluster: Cluster, table: Any) -> list[Any]:
    return list(cluster.database.read(lambda connection: connection.execute(select(table)).all()))


def test_what_a_machine_dies_over_is_sent_by_another_with_the_same_id(cluster: Cluster, receiver: Receiver) -> None:
    cluster.add_shell("job", "exit 3", **OPS)
    receiver.goes_on.clear()  # the first request is there, and not answered
    first = cluster.start("a", alerts=channels(receiver), lease_seconds=3.0)
    cluster.enqueue("job")
    receiver.wait(1)

    first.kill(*descendants_of(first.pid))
    receiver.goes_on.set()
    cluster.start("b", alerts=channels(receiver), lease_seconds=3.0)

    requests = receiver.wait(2)
    assert {request.headers["Rota-Id"] for request in requests} == {json.loads(requests[0].body)["id"]}
    assert len({request.body for request in requests}) == 1
    assert all(is_signed(request) for request in requests)
    made = telling(cluster)
    assert cluster.wait_for_end(made.id) == {"succeeded"}
    assert [attempt.state for attempt in cluster.attempts(made.id)] == ["lost", "succeeded"]


def test_an_alert_waits_for_a_node_that_has_its_channel(cluster: Cluster, receiver: Receiver) -> None:
    cluster.add_shell("job", "exit 3", **OPS)
    cluster.start("without")
    (run_id,) = cluster.enqueue("job")
    cluster.wait_for_end(run_id)
    made = telling(cluster)
    why = " ".join(why_run(cluster.database, made.id)["because"])

    cluster.start("a", alerts=channels(receiver))

    assert "without has no ROTA_ALERT_ops" in why
    receiver.wait(1)
    assert cluster.wait_for_end(made.id) == {"succeeded"}
    assert cluster.run(made.id).node == "a"


def test_an_alert_that_would_be_refused_again_fails_at_once(cluster: Cluster, receiver: Receiver) -> None:
    receiver.answers = [(410, {})]
    cluster.add_shell("job", "exit 3", **OPS)
    cluster.start("a", alerts=channels(receiver))

    cluster.enqueue("job")

    made = telling(cluster)
    assert cluster.wait_for_end(made.id) == {"failed"}
    (attempt,) = cluster.attempts(made.id)
    assert attempt.error_type == "rota.alerts.refused.Refused"
    assert "answered 410" in attempt.error_message


def test_why_a_certificate_is_not_trusted_is_kept_with_the_attempt(cluster: Cluster) -> None:
    authority = Authority(cluster.folder)
    with receive(authority.context("ended")) as secured:
        cluster.add_shell("job", "exit 3", **OPS)
        url = secured.url.replace("http:", "https:")
        cluster.start("a", alerts={"ops": {"webhook": url, "private": True, "ca": authority.ca}})

        cluster.enqueue("job")

        made = telling(cluster)
        attempts = cluster.wait(
            lambda: [one for one in cluster.attempts(made.id) if one.finished_at], "an attempt has ended"
        )
    assert "shows a certificate that is not trusted" in attempts[0].error_message
    assert "certificate has expired" in attempts[0].error_message
    assert secured.got == []
