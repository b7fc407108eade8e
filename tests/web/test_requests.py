"""A request that is sent again is the same run; where that cannot be promised, the header is refused."""

from __future__ import annotations

import pytest

from rota.errors import Conflict, Invalid
from rota.model.accounts import Identity, Source
from rota.model.roles import Role
from rota.web import trust

KEY = {"idempotency-key": "order-17"}


@pytest.fixture
def job(rota):
    rota.jobs.add("load", shell="true", retries=0)
    return rota


@pytest.mark.parametrize("path", ["/api/v1/runs", "/api/v1/jobs/load/run"])
def test_it_is_the_same_run_also_when_that_has_ended(http, job, path):
    body = {"args": {"n": 1}} | ({"job": "load"} if path.endswith("runs") else {})

    first = http.post(path, json=body, headers=KEY)
    again = http.post(path, json=body, headers=KEY)
    job.runs[first.json()["id"]].cancel()
    after = http.post(path, json=body, headers=KEY)

    assert [answer.status_code for answer in (first, again, after)] == [201] * 3
    assert first.json() == again.json()
    assert first.headers["location"] == again.headers["location"] == after.headers["location"]
    assert len(job.runs.list()) == 1


def test_another_key_is_another_run_and_so_is_none(http, job):
    for headers in (KEY, {"idempotency-key": "order-18"}, {}, {}):
        http.post("/api/v1/jobs/load/run", headers=headers)

    assert len(job.runs.list()) == 4


@pytest.mark.parametrize("other", [{"job": "load", "args": {"n": 2}}, {"job": "other", "args": {"n": 1}}])
def test_a_key_that_has_asked_for_something_else_is_refused(http, job, other):
    job.jobs.add("other", shell="true")
    http.post("/api/v1/runs", json={"job": "load", "args": {"n": 1}}, headers=KEY)

    answer = http.post("/api/v1/runs", json=other, headers=KEY)

    assert answer.status_code == 409
    assert answer.json()["code"] == "conflict"
    assert len(job.runs.list()) == 1


def test_one_person_does_not_get_the_run_of_another(http, job, monkeypatch):
    http.post("/api/v1/jobs/load/run", headers=KEY)
    monkeypatch.setattr(trust, "identify", lambda *_: Identity("ann", Role.ADMIN, Source.LOCAL))
    http.post("/api/v1/jobs/load/run", headers=KEY)

    assert len(job.runs.list()) == 2


def test_it_may_stand_in_the_body_too_but_not_say_something_else(http, job):
    said = http.post("/api/v1/jobs/load/run", json={"request": "order-17"})
    both = http.post("/api/v1/jobs/load/run", json={"request": "order-17"}, headers=KEY)
    different = http.post("/api/v1/jobs/load/run", json={"request": "x"}, headers=KEY)

    assert said.json()["id"] == both.json()["id"]
    assert different.status_code == 400


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/v1/jobs/load/pause"),
        ("POST", "/api/v1/jobs"),
        ("PATCH", "/api/v1/jobs/load"),
        ("DELETE", "/api/v1/jobs/load"),
    ],
)
def test_where_it_cannot_be_promised_it_is_refused_and_nothing_is_done(http, job, method, path):
    answer = http.request(method, path, json={"name": "new", "shell": "true"}, headers=KEY)

    assert answer.status_code == 400
    assert answer.json()["code"] == "no-idempotency-key"
    assert [(view["name"], view["state"]) for view in job.jobs.list()] == [("load", "active")]


def test_python_asks_once_for_a_word(job):
    first = job.enqueue("load", {"n": 1}, request="a")

    assert job.enqueue("load", {"n": 1}, request="a").id == first.id
    with pytest.raises(Conflict, match="a word of its own"):
        job.enqueue("load", {"n": 2}, request="a")
    for wrong in ("", "x" * 201, 5):
        with pytest.raises(Invalid):
            job.enqueue("load", request=wrong)
    assert len(job.runs.list()) == 1


def test_a_key_of_a_run_and_one_of_a_request_go_together(job):
    first = job.enqueue("load", {"n": 1}, key="k", request="a")

    held = job.enqueue("load", {"n": 2}, key="k", request="b")

    assert held.id == first.id
    assert not held.is_new


def test_a_request_of_two_lengths_is_refused_and_nothing_more_is_read_from_who_sent_it(http):
    two = {"content-length": "2", "transfer-encoding": "chunked"}
    answer = http.post("/api/v1/jobs", content=b"{}", headers=two)

    assert (answer.status_code, answer.json()["code"]) == (400, "unreadable")
    assert answer.headers["connection"] == "close"
