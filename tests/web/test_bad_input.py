"""Whatever is sent: a problem that says what is wrong, and nothing is changed. Never a server error."""

from __future__ import annotations

import asyncio
import json

import pytest

from rota.web.app import make_app
from rota.web.bodies import BODY_BYTES_MAX, _once

JSON = {"content-type": "application/json"}
DEEP = b'{"args":' + b"[" * 5000 + b"]" * 5000 + b"}"
UNREADABLE = {
    "UTF-16": '{"args":{}}'.encode("utf-16"),
    "UTF-16 without a mark": '{"args":{}}'.encode("utf-16-le"),
    "invalid UTF-8": b'{"args":{"a":"\xff"}}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "half a surrogate pair": b'{"args":{"a":"\\ud800"}}',
    "NUL": b'{"args":{"a":"\\u0000"}}',
    "NUL in a name": b'{"args":{"\\u0000":1}}',
    "NaN": b'{"args":{"a":NaN}}',
    "Infinity": b'{"args":{"a":-Infinity}}',
    "a float that is infinite": b'{"args":{"a":1e999}}',
    "a number of 5,000 digits": b'{"args":{"a":' + b"9" * 5000 + b"}}",
    "a name twice": b'{"force":true,"force":false}',
    "a name twice within": b'{"args":{"a":1,"a":2}}',
    "too deep": DEEP,
    "a list": b"[]",
    "a text": b'"x"',
    "null": b"null",
    "half of it": b'{"args":',
    "two of them": b"{}{}",
    "white space": b"  ",
}


@pytest.fixture
def job(rota):
    rota.jobs.add("load", shell="true")
    return rota


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE)
def test_a_body_that_cannot_be_read_is_refused(http, job, body):
    answer = http.post("/api/v1/jobs/load/run", content=body, headers=JSON)

    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "unreadable"
    assert job.runs.list() == []


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-16", "application/json; charset=latin1", "application/xml"]
)
def test_another_kind_or_encoding_is_refused_by_its_name(http, job, kind):
    assert http.post("/api/v1/jobs/load/run", content=b"{}", headers={"content-type": kind}).status_code == 415


def test_a_compressed_body_is_refused(http, job):
    answer = http.post("/api/v1/jobs/load/run", content=b"{}", headers=JSON | {"content-encoding": "gzip"})

    assert answer.status_code == 415


def test_a_large_body_is_refused_while_it_is_read(http, job):
    sent = 0

    def pieces():
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield b" " * 2**20

    answer = http.post("/api/v1/jobs/load/run", content=pieces(), headers=JSON)
    told = http.post("/api/v1/jobs/load/run", content=b" " * (BODY_BYTES_MAX + 1), headers=JSON)

    assert (answer.status_code, told.status_code) == (413, 413)
    assert answer.json()["code"] == "too-large"


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/api/v1/jobs/load/run", b"application/json"), ("/runs/act", b"application/x-www-form-urlencoded")],
)
def test_whoever_goes_before_a_body_is_whole_is_no_error_of_the_server(rota, job, caplog, path, kind):
    headers = [(b"host", b"localhost:8300"), (b"content-type", kind), (b"content-length", b"100")]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers,
        "client": ("127.0.0.1", 50_000), "server": ("127.0.0.1", 8300),
    }  # fmt: skip
    come = iter([{"type": "http.request", "body": b"{", "more_body": True}])
    said = []

    async def receive():
        return next(come, {"type": "http.disconnect"})

    async def send(message):
        said.append(message)

    asyncio.run(make_app(rota)(scope, receive, send))

    assert said[0]["status"] == 400
    assert caplog.records == []
    assert rota.runs.list() == []


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/runs/99999999999999999999999999",
        "/api/v1/runs/9223372036854775808",
        "/api/v1/runs/9223372036854775807",
        "/api/v1/runs/-1",
        "/api/v1/runs/0",
        "/api/v1/runs/abc",
        "/api/v1/runs/1.0",
        "/api/v1/runs/%D9%A1",
        "/api/v1/backfills/99999999999999999999",
        "/api/v1/commands/99999999999999999999",
        "/api/v1/commands/9223372036854775807",
        "/api/v1/commands/abc",
        "/api/v1/jobs/no%20such",
        "/api/v1/jobs/" + "x" * 300,
        "/api/v1/jobs/nobody",
        "/api/v1/jobs/",
        "/api/v1//jobs",
        "/api/v1/jobs/..%2F..%2Fetc%2Fpasswd",
        "/api/v1/jobs/%25252F",
        "/api/v2/jobs",
    ],
)
def test_what_is_not_there_is_not_found(http, path):
    answer = http.get(path)

    assert answer.status_code == 404
    assert answer.json()["status"] == 404


@pytest.mark.parametrize(
    "path", ["/api/v1/jobs/%FF", "/api/v1/jobs/a%00b", "/api/v1/jobs?search=%FF", "/api/v1/jobs?search=%00"]
)
def test_an_address_that_cannot_be_read_is_refused(http, path):
    assert http.get(path).status_code == 400


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/api/v1/runs?limit=x", "limit"),
        ("/api/v1/runs?limit=0", "limit"),
        ("/api/v1/runs?limit=501", "limit"),
        ("/api/v1/runs?limit=9999999999999999999999", "limit"),
        ("/api/v1/runs?limit=", "limit"),
        ("/api/v1/runs?within=x", "within"),
        ("/api/v1/runs?within=999999999", "within"),
        ("/api/v1/runs?state=broken", "state"),
        ("/api/v1/runs?state=failed&state=broken", "state"),
        ("/api/v1/runs?since=yesterday", "since"),
        ("/api/v1/runs?before=3", "before"),
        ("/api/v1/runs?nope=1", "nope"),
        ("/api/v1/jobs?ghosts=perhaps", "ghosts"),
        ("/api/v1/jobs?state=x", "state"),
        ("/api/v1/forecast?days=0", "days"),
        ("/api/v1/check?warning_late=x", "warning_late"),
    ],
)
def test_a_filter_that_breaks_a_rule_is_refused_by_its_name(http, path, field):
    answer = http.get(path)

    assert answer.status_code == 422
    assert answer.json()["field"] == field
    assert answer.json()["rule" if "rule" in answer.json() else "detail"]


def test_a_name_that_comes_twice_is_found_without_comparing_each_with_all():
    compared = []

    class Name(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other):
            compared.append(other)
            return str.__eq__(self, other)

    pairs = [(Name(f"n{number}"), 1) for number in range(1000)] + [(Name("n999"), 2)]

    with pytest.raises(ValueError, match="'n999' comes twice"):
        _once(pairs)

    assert len(compared) < 2 * len(pairs)


def test_a_parameter_that_comes_twice_is_refused(http):
    assert http.get("/api/v1/runs?limit=1&limit=2").status_code == 400


@pytest.mark.parametrize("key", ["", "x", "AAAA", "=" * 8, "é", "a" * 5000, "AAAAAAAAIg"])
def test_a_key_of_no_page_is_refused(http, key):
    answer = http.get("/api/v1/jobs", params={"after": key})

    assert answer.status_code == 400
    assert answer.json()["code"] == "bad-page-key"


def test_a_page_key_belongs_to_its_list_and_filters(http, rota):
    for name in ("a", "b", "c"):
        rota.jobs.add(name, shell="true")
    key = http.get("/api/v1/jobs?limit=1&state=active").json()["next"]

    good = http.get("/api/v1/jobs", params={"limit": 2, "state": "active", "after": key})
    others = [
        http.get("/api/v1/jobs", params={"after": key}),
        http.get("/api/v1/schedules", params={"state": "active", "after": key}),
        http.get("/api/v1/jobs", params={"state": "active", "after": key[:-1]}),
        http.get(
            "/api/v1/jobs", params={"state": "active", "after": key[:-2] + ("A" if key[-2] != "A" else "B") + key[-1]}
        ),
    ]

    assert [view["name"] for view in good.json()["items"]] == ["b", "c"]
    assert good.json()["next"] is None
    assert [answer.status_code for answer in others] == [400] * 4


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/jobs", {"name": 5, "shell": "true"}),
        ("/api/v1/jobs", {"shell": "true"}),
        ("/api/v1/jobs", {"name": "x", "shell": {"a": 1}}),
        ("/api/v1/jobs", {"name": "x", "self": 1}),
        ("/api/v1/jobs", {"name": "x", "rota": 1, "shell": "true"}),
        ("/api/v1/jobs", {"name": "x", "shell": "true", "retries": [1]}),
        ("/api/v1/jobs", {"name": "x", "command": [1, None]}),
        ("/api/v1/jobs", {"name": "x", "shell": "true", "if_exists": True}),
        ("/api/v1/runs", {"job": "load", "args": 5}),
        ("/api/v1/runs", {"job": "load", "force": "yes"}),
        ("/api/v1/runs", {"job": "load", "in": {}}),
        ("/api/v1/schedules", {"key": "k", "job": "load", "cron": 7}),
        ("/api/v1/pools", {"name": "p", "labels": 7}),
        ("/api/v1/calendars", {"name": "c", "weekdays": 7}),
        ("/api/v1/backfills", {"name": "load"}),
    ],
)
def test_values_of_another_kind_are_refused_and_nothing_is_stored(http, job, path, body):
    answer = http.post(path, json=body)

    assert answer.status_code == 422
    assert answer.json()["code"] in {"invalid", "usage"}
    assert job.runs.list() == []
    assert len(job.jobs.list()) == 1


def test_parameters_of_what_acts_stand_in_the_body(http, job):
    assert http.post("/api/v1/jobs/load/pause?force=1").status_code == 400


def test_other_methods_are_refused_with_those_that_there_are(http, job):
    answer = http.put("/api/v1/jobs/load")

    assert answer.status_code == 405
    assert answer.headers["allow"] == "DELETE, GET, PATCH"
    assert answer.json()["code"] == "no-such-method"


def test_a_value_that_is_refused_is_quoted_in_part(http, job):
    answer = http.patch("/api/v1/jobs/load", json={"timeout": "x" * 100_000})

    assert answer.status_code == 422
    assert len(answer.content) < 5000


def test_what_nobody_foresaw_says_nothing_but_a_number(http, job, monkeypatch, caplog):
    def burst(*_: object) -> None:
        raise ZeroDivisionError("the secret")

    monkeypatch.setattr("rota.store.jobs.read_job", burst)

    answer = http.get("/api/v1/jobs/load")

    assert answer.status_code == 500
    assert b"secret" not in answer.content
    assert answer.json()["error_id"] in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_a_database_that_is_away_is_waited_for(tmp_path):
    from starlette.testclient import TestClient

    from rota import Rota
    from rota.web.app import make_app

    app = make_app(Rota(f"sqlite:///{tmp_path}/none.db"))
    with TestClient(app, base_url="http://localhost") as http:
        answer = http.get("/api/v1/jobs")
        ready = http.get("/readyz")
        alive = http.get("/healthz")

    assert (answer.status_code, ready.status_code, alive.status_code) == (503, 503, 200)
    assert answer.json()["code"] == "database-version"
    assert int(answer.headers["retry-after"]) > 0
    assert json.loads(alive.content)["status"] == "alive"
