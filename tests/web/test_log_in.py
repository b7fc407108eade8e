"""Logging in and out where that is demanded: who is let in, what their cookie is, and where they are sent."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from sqlalchemy import update

from rota import Rota
from rota.model.access import Access, choose_access, read_networks
from rota.store import log_ins
from rota.store.passwords import is_password
from rota.store.tables import login_failure, session
from rota.store.types import db_now
from rota.web.app import make_app
from rota.web.pages import log_in as log_in_page
from tests.web.conftest import TestClient
from tests.web.pages.markup import check_page

HOST = "rota.example.org"
PASSWORD = "correct horse battery"
PEER = "192.0.2.7"
FORM = {"content-type": "application/x-www-form-urlencoded", "accept": "text/html"}
Connect = Callable[..., TestClient]


@pytest.fixture
def connect(database_url: str, rota: Rota) -> Iterator[Connect]:
    """A browser, or a program, that comes from elsewhere over TLS."""
    opened: list[TestClient] = []

    def make(access: Access | None = None, *, peer: str = PEER) -> TestClient:
        app = make_app(Rota(database_url), access=access or choose_access("0.0.0.0", names=[HOST]))
        made = TestClient(
            app,
            base_url=f"https://{HOST}",
            raise_server_exceptions=False,
            client=(peer, 4711),
            follow_redirects=False,
        )
        opened.append(made.__enter__())
        return made

    yield make
    for one in opened:
        one.__exit__(None, None, None)


@pytest.fixture
def ann(rota: Rota) -> str:
    rota.users.add("ann", role="operator", password=PASSWORD)
    return "ann"


def token_of(page: Any) -> str:
    return check_page(page.text).find("input", name="csrf")[0].attributes["value"]


def send(http: TestClient, path: str, headers: dict[str, str] | None = None, **fields: str) -> Any:
    return http.post(path, content=urlencode(fields), headers=FORM | {"origin": f"https://{HOST}"} | (headers or {}))


def log_in(http: TestClient, user: str = "ann", password: str = PASSWORD, *, to: str = "/") -> Any:
    token = token_of(http.get("/login", headers={"accept": "text/html"}))
    return send(http, "/login", csrf=token, user=user, password=password, next=to)


def cookie_of(answer: Any, name: str = "rota_session") -> str:
    found = [one for one in answer.headers.get_list("set-cookie") if one.startswith(f"{name}=")]
    assert len(found) == 1, answer.headers
    return found[0]


def test_whoever_logs_in_is_let_in_and_acts_by_name(connect, rota, ann):
    rota.jobs.add("load", shell="true")
    http = connect()

    answer = log_in(http)
    page = http.get("/")
    again = send(http, "/runs/act", csrf=token_of(page), do="cancel", run=str(rota.enqueue("load").id))

    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert page.status_code == 200
    assert "ann, operator" in page.text
    assert again.status_code == 303, again.text
    acts = rota.audit(actor="ann")
    assert [(one["did"], one["door"], one["address"]) for one in acts] == [
        ("cancelled", "page", PEER),
        ("logged-in", "page", PEER),
    ]


def test_the_cookie_is_for_this_server_alone_and_for_no_script(connect, ann):
    cookie = cookie_of(log_in(connect()))

    assert [one.strip().lower() for one in cookie.split(";")[1:]] == ["httponly", "path=/", "samesite=lax", "secure"]
    assert "domain" not in cookie.lower()


def test_without_tls_it_goes_without_where_that_is_said(connect, ann):
    http = connect(choose_access("0.0.0.0", names=[HOST], behind_tls=False))

    assert "secure" not in cookie_of(log_in(http)).lower()


@pytest.mark.parametrize(
    ("user", "password"),
    [("ann", "wrong"), ("nobody", PASSWORD), ("", ""), ("ann", ""), ("ann\0", PASSWORD), ("a" * 9000, "b" * 9000)],
    ids=["password", "user", "nothing", "no password", "NUL", "long"],
)
def test_a_wrong_name_or_password_is_refused_with_the_same_words(connect, ann, user, password):
    http = connect()

    answer = log_in(http, user, password)

    if "\0" in user:
        assert answer.status_code == 400
    else:
        assert answer.status_code == 401
        page = check_page(answer.text)
        assert page.find("p", class_="problem")[0].text == "the name or the password is wrong"
        assert "value" not in page.find("input", name="password")[0].attributes
    assert "rota_session" not in http.cookies
    assert http.get("/").status_code == 401


def test_after_too_many_nothing_is_looked_at_and_it_says_for_how_long(connect, rota, ann):
    http = connect()
    for _ in range(5):
        assert log_in(http, password="wrong wrong wrong").status_code == 401

    answer = log_in(http)

    assert answer.status_code == 429
    assert 50 <= int(answer.headers["retry-after"]) <= 60
    assert "there were too many attempts" in check_page(answer.text).find("p", class_="problem")[0].text
    assert "rota_session" not in http.cookies
    assert log_in(connect(peer="192.0.2.8")).status_code == 303  # who is elsewhere is not kept out
    assert len(rota.audit(kind="user", actor="ann", limit=50)) == 6


def test_no_more_passwords_are_looked_at_together_than_are_said_and_who_waits_too_long_is_told(
    connect, rota, ann, monkeypatch
):
    monkeypatch.setattr(log_in_page, "AT_ONCE_MAX", 1)
    monkeypatch.setattr(log_in_page, "TURN_SECONDS_MAX", 0.0)
    rota.users.add("bob", role="viewer", password=PASSWORD)
    http = connect()
    token = token_of(http.get("/login", headers={"accept": "text/html"}))
    looked_at, go_on = threading.Event(), threading.Event()

    def slow(password: str | None, kept: str | None) -> bool:
        looked_at.set()
        assert go_on.wait(60)
        return is_password(password, kept)

    monkeypatch.setattr(log_ins, "is_password", slow)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(send, http, "/login", csrf=token, user="ann", password=PASSWORD, next="/")
        assert looked_at.wait(60)
        try:
            refused = send(http, "/login", csrf=token, user="bob", password=PASSWORD, next="/runs")
            other = http.get("/healthz")
        finally:
            go_on.set()
        answer = first.result()

    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    page = check_page(refused.text)
    assert page.find("p", class_="problem")[0].text == log_in_page.BUSY
    assert [one.attributes["value"] for one in page.find("input", name="next")] == ["/runs"]
    assert PASSWORD not in refused.text
    assert (answer.status_code, other.status_code) == (303, 200)
    rows = rota.database.read(lambda c: c.execute(login_failure.select()).all())
    assert rows == []  # who was not looked at has not failed
    assert log_in(connect(), "bob").status_code == 303


def test_a_session_begins_with_a_key_that_nobody_knew_and_the_one_before_ends(connect, ann):
    http, other = connect(), connect()
    planted = "A" * 43
    http.cookies.set("rota_session", planted, domain=HOST)
    log_in(http)
    first = cookie_of(log_in(other)).partition(";")[0].partition("=")[2]
    csrf = token_of(other.get("/"))

    second = cookie_of(log_in(other)).partition(";")[0].partition("=")[2]

    assert second not in (first, planted)
    assert token_of(other.get("/")) != csrf
    stale = connect()
    for key in (planted, first):
        stale.cookies.clear()
        stale.cookies.set("rota_session", key, domain=HOST)
        assert stale.get("/api/v1/jobs").status_code == 401


@pytest.mark.parametrize("to", ["/runs?state=failed&job=a%2Fb", "/jobs/\u00fc"])
def test_one_goes_on_to_the_page_that_one_wanted(connect, ann, to):
    http = connect()
    asked = http.get(to, headers={"accept": "text/html"})
    assert asked.status_code == 303
    (wanted,) = parse_qs(urlsplit(asked.headers["location"]).query)["next"]

    assert log_in(http, to=wanted).headers["location"] == to.replace("\u00fc", "%C3%BC")


@pytest.mark.parametrize(
    "to",
    [
        "//evil.example", "/\\evil.example", "\\\\evil.example", "https://evil.example", "https:evil.example",
        "javascript:alert(1)", "/\t/evil.example", " //evil.example", "evil.example", "",
    ],
)  # fmt: skip
def test_one_does_not_go_on_to_anywhere_else(connect, ann, to):
    http = connect()
    page = http.get(f"/login?{urlencode({'next': to})}", headers={"accept": "text/html"})

    assert check_page(page.text).find("input", name="next")[0].attributes["value"] == "/"
    assert log_in(http, to=to).headers["location"] == "/"


@pytest.mark.parametrize("csrf", ["", "x", "A" * 43, "\u00e9" * 43])
@pytest.mark.parametrize("path", ["/login", "/logout", "/runs/act"])
def test_a_form_without_the_token_of_its_page_does_nothing(connect, rota, ann, path, csrf):
    rota.jobs.add("load", shell="true")
    run = rota.enqueue("load").id
    http = connect()
    log_in(http)

    answer = send(http, path, csrf=csrf, user="ann", password=PASSWORD, do="cancel", run=str(run))

    assert answer.status_code == 403
    assert rota.runs[run].state == "ready"
    assert http.get("/").status_code == 200


def test_the_token_of_a_cookie_is_none_for_whoever_has_logged_in(connect, rota, ann):
    http = connect()
    log_in(http)
    http.cookies.set("rota_csrf", "B" * 43, domain=HOST)  # as one who controls a neighbouring name could

    assert send(http, "/logout", csrf="B" * 43).status_code == 403


def test_what_acts_by_a_log_in_through_the_api_wants_the_secret_of_the_session(connect, rota, ann):
    rota.jobs.add("load", shell="true")
    http = connect()
    log_in(http)
    token = token_of(http.get("/"))

    answers = [
        http.post("/api/v1/jobs/load/pause", headers=headers)
        for headers in ({}, {"X-CSRF-Token": "x"}, {"X-CSRF-Token": token})
    ]

    assert [one.status_code for one in answers] == [403, 403, 200]
    assert answers[0].json()["code"] == "no-csrf-token"
    assert http.get("/api/v1/jobs").status_code == 200


@pytest.mark.parametrize("ends", ["time", "idle", "password", "disabled", "deleted", "logged out elsewhere"])
def test_when_a_session_is_over_what_is_sent_is_not_done_and_one_is_told(connect, rota, ann, ends):
    rota.jobs.add("load", shell="true")
    run = rota.enqueue("load").id
    http = connect()
    log_in(http)
    token = token_of(http.get("/"))
    match ends:
        case "time":
            rota.database.write(lambda c: c.execute(update(session).values(expires_at=db_now())), repeatable=True)
        case "idle":
            long_ago = rota.database.read(lambda c: c.execute(session.select()).one()).seen_at - timedelta(hours=2)
            rota.database.write(lambda c: c.execute(update(session).values(seen_at=long_ago)), repeatable=True)
        case "password":
            rota.users.passwd("ann", password="another correct horse")
        case "disabled":
            rota.users.edit("ann", disable=True)
        case "deleted":
            rota.users.delete("ann")
        case _:
            other = connect()
            other.cookies.update(http.cookies)
            assert send(other, "/logout", csrf=token).headers["location"] == "/login"

    sent = send(
        http,
        "/runs/act",
        {"referer": f"https://{HOST}/runs?job=load"},
        csrf=token, do="cancel", run=str(run),
    )  # fmt: skip
    form = http.get(sent.headers["location"])

    assert sent.status_code == 303
    assert sent.headers["location"] == "/login?next=%2Fruns%3Fjob%3Dload"
    assert "max-age=0" in cookie_of(sent).lower()
    page = check_page(form.text)
    assert page.find("p", class_="notice")[0].text == "your log-in is over: log in again; what you sent was not done"
    assert page.find("input", name="next")[0].attributes["value"] == "/runs?job=load"
    assert rota.runs[run].state == "ready"
    assert http.get("/api/v1/jobs").status_code == 401


def test_what_renews_an_open_page_is_told_and_takes_no_notice_away(connect, ann):
    http = connect()
    http.cookies.set("rota_session", "A" * 43, domain=HOST)

    fetched = http.get("/runs?live=1", headers={"accept": "text/html", "sec-fetch-dest": "empty"})

    assert fetched.status_code == 401
    assert "set-cookie" not in fetched.headers
    shown = http.get("/runs", headers={"accept": "text/html", "sec-fetch-dest": "document"})
    assert shown.headers["location"] == "/login?next=%2Fruns"


def test_who_logs_out_is_out(connect, rota, ann):
    http = connect()
    log_in(http)
    key = http.cookies["rota_session"]

    answer = send(http, "/logout", csrf=token_of(http.get("/")))

    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert "rota_session" not in http.cookies
    http.cookies.set("rota_session", key, domain=HOST)
    assert http.get("/api/v1/jobs").status_code == 401
    assert [one["did"] for one in rota.audit(actor="ann")] == ["logged-out", "logged-in"]


@pytest.mark.parametrize(
    "path",
    [
        "/", "/runs", "/api/v1/jobs", "/api/openapi.json", "/api/v1/events", "/metrics", "/readyz", "/nothing",
        "/login/", "/static", "/healthz/", "/static/../api/v1/jobs", "/static%2F..%2Fapi", "//healthz",
    ],
)  # fmt: skip
def test_nobody_is_served_who_has_not_said_who_they_are(connect, path):
    answer = connect().get(path, headers={"accept": "*/*"})

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["code"] == "unauthorized"


def test_every_route_but_four_is_closed(connect):
    http = connect()
    app: Any = http.app
    found = set()
    for route in app.routes:
        for method in route.methods:
            answer = http.request(method, route.path, headers={"accept": "*/*"})
            if answer.status_code != 401:
                found.add((method, route.path))

    assert found == {("GET", "/healthz"), ("GET", "/login"), ("POST", "/login"), ("GET", "/static/{mark}/{name}")}


def test_a_token_is_enough_for_programs(connect, rota):
    http = connect()
    shown = {"Authorization": f"Bearer {rota.tokens.add('scrape', role='viewer')['secret']}"}
    narrow = {"Authorization": f"Bearer {rota.tokens.add('ci', role='operator', scopes=['job.*'])['secret']}"}

    for path in ("/metrics", "/readyz", "/api/v1/jobs", "/"):
        assert http.get(path, headers=shown).status_code == 200
    for path in ("/metrics", "/readyz", "/api/v1/events"):
        assert http.get(path, headers=narrow).status_code == 403
    assert http.get("/metrics", headers={"Authorization": "Bearer rota_none"}).status_code == 401


def test_monitoring_needs_no_token_where_that_is_said(connect):
    http = connect(choose_access("0.0.0.0", names=[HOST], open_metrics=True))

    assert [http.get(path).status_code for path in ("/metrics", "/readyz", "/api/v1/jobs")] == [200, 200, 401]


def test_on_this_machine_there_is_no_log_in_and_no_session(http, rota, ann):
    http.cookies.set("rota_session", "A" * 43)

    assert http.get("/login", follow_redirects=False).headers["location"] == "/"
    assert http.get("/api/v1/jobs").status_code == 200


@pytest.mark.parametrize(
    "name", ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"]
)
def test_a_proxy_that_nobody_has_told_of_makes_nobody_an_administrator(http, name):
    answer = http.get("/api/v1/jobs", headers={name: "192.0.2.1"})

    assert (answer.status_code, answer.json()["code"]) == (403, "proxied")


class TestProxy:
    """What a proxy says, and what others say that only it may."""

    NEAR, FAR = "10.1.2.3", "10.1.3.3"

    @pytest.fixture
    def access(self) -> Access:
        proxies = read_networks("--proxy-from", ["10.1.2.0/24"])
        return choose_access("127.0.0.1", names=[HOST], trust_proxy="x-remote-user", proxy_from=proxies)

    def test_the_user_whom_it_names_is_let_in_with_their_own_role(self, connect, rota, ann, access):
        rota.jobs.add("load", shell="true")
        http = connect(access, peer=self.NEAR)
        named = {"X-Remote-User": "ann", "X-Forwarded-For": "203.0.113.9, 192.0.2.44"}

        answers = [
            http.post("/api/v1/jobs/load/pause", headers=named),
            http.delete("/api/v1/jobs/load", headers=named),
            http.get("/", headers=named),
        ]

        assert [one.status_code for one in answers] == [200, 403, 200]
        (act,) = rota.audit(actor="ann")
        assert (act["did"], act["address"]) == ("paused", "192.0.2.44")

    def test_its_form_wants_the_token_of_its_page(self, connect, rota, ann, access):
        rota.jobs.add("load", shell="true")
        run = rota.enqueue("load").id
        http = connect(access, peer=self.NEAR)
        named = {"X-Remote-User": "ann"}
        http.get("/", headers=named)

        answers = [
            send(http, "/runs/act", named, csrf=csrf, do="cancel", run=str(run))
            for csrf in ("x", http.cookies["rota_csrf"])
        ]

        assert [one.status_code for one in answers] == [403, 303]

    @pytest.mark.parametrize("peer", [FAR, "192.0.2.7", "::1", "testclient"])
    def test_from_anybody_else_the_header_is_refused(self, connect, rota, ann, access, peer):
        http = connect(access, peer=peer)
        token = rota.tokens.add("ci", role="viewer")["secret"]

        for more in ({}, {"X-Forwarded-For": self.NEAR}, {"Authorization": f"Bearer {token}"}):
            assert http.get("/api/v1/jobs", headers={"X-Remote-User": "ann"} | more).status_code == 401
        assert http.get("/api/v1/jobs", headers={"Authorization": f"Bearer {token}"}).status_code == 200

    @pytest.mark.parametrize("peer", [NEAR, f"::ffff:{NEAR}"])
    @pytest.mark.parametrize("named", [["ann", "bob"], ["ann", "ann"], ["nobody"], [""], ["ann, bob"], ["ann\u00e9"]])
    def test_who_is_no_user_or_several_is_refused(self, connect, rota, ann, access, peer, named):
        rota.users.add("bob", role="admin", password=None)
        http = connect(access, peer=peer)

        answer = http.get("/api/v1/jobs", headers=[("X-Remote-User", one.encode()) for one in named])

        assert answer.status_code == 401
        assert http.get("/api/v1/jobs", headers={"X-Remote-User": "bob"}).status_code == 200

    def test_who_may_not_log_in_is_refused(self, connect, rota, ann, access):
        rota.users.edit("ann", disable=True)

        assert connect(access, peer=self.NEAR).get("/", headers={"X-Remote-User": "ann"}).status_code == 401

    def test_without_the_header_its_requests_are_nobodys(self, connect, ann, access):
        assert connect(access, peer=self.NEAR).get("/api/v1/jobs").status_code == 401

    def test_what_others_say_of_where_they_come_from_is_not_believed(self, connect, rota, ann, access):
        log_in_from = [(self.FAR, "192.0.2.1"), (self.NEAR, "1.1.1.1, nonsense"), (self.NEAR, "1.1.1.1, 192.0.2.2")]
        for peer, said in log_in_from:
            http = connect(access, peer=peer)
            token = token_of(http.get("/login"))
            answer = send(http, "/login", {"X-Forwarded-For": said}, csrf=token, user="ann", password=PASSWORD)
            assert answer.status_code == 303

        assert [one["address"] for one in rota.audit(actor="ann")] == ["192.0.2.2", self.NEAR, self.FAR]
