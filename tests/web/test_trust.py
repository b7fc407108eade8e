"""Who may ask, from where, and what a browser is told to do with what it gets."""

from __future__ import annotations

import pytest

from rota.errors import ConfigError
from rota.model.access import THIS_MACHINE, choose_access, is_loopback
from rota.model.accounts import Identity, Source
from rota.model.roles import Role
from rota.web import trust
from rota.web.trust import check_address


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_this_machine_is_served_without_a_login(host):
    access = choose_access(host)

    check_address(host, access)
    assert is_loopback(host)
    assert not access.demands_login


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org", ""])
def test_any_other_address_is_served_with_a_login_only(host):
    with pytest.raises(ConfigError, match="would reach it without a login"):
        check_address(host, THIS_MACHINE)

    check_address(host, access := choose_access(host))
    assert access.demands_login
    assert access.is_behind_tls


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8300", "127.0.0.1.evil.example", "localhost.evil", "", "["]
)
def test_a_name_that_somebody_has_pointed_here_is_refused(http, host):
    answer = http.get("/api/v1/jobs", headers={"host": host})

    assert answer.status_code == 421
    assert answer.json()["code"] == "wrong-host"


@pytest.mark.parametrize("host", ["localhost", "localhost:8300", "127.0.0.1:9", "[::1]:8300", "LOCALHOST:8300"])
def test_the_names_of_this_machine_are_not(http, host):
    assert http.get("/api/v1/jobs", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:9999"},
        {"origin": "http://localhost:8300", "sec-fetch-site": "cross-site"},
    ],
)
@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE", "PUT"])
def test_a_page_of_another_site_may_not_act(http, rota, headers, method):
    rota.jobs.add("load", shell="true")

    answer = http.request(method, "/api/v1/jobs/load", headers=headers, json={})

    assert answer.status_code == 403
    assert answer.json()["code"] == "cross-site"
    assert rota.jobs.show("load")


@pytest.mark.parametrize(
    "headers", [{}, {"sec-fetch-site": "same-origin"}, {"origin": "http://localhost:8300"}, {"sec-fetch-site": "none"}]
)
def test_a_program_and_a_page_of_ours_may(http, rota, headers):
    rota.jobs.add("load", shell="true")

    assert http.post("/api/v1/jobs/load/pause", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_what_a_form_can_send_is_no_body_that_acts(http, rota, kind):
    rota.jobs.add("load", shell="true")

    answer = http.post("/api/v1/jobs/load/pause", content=b"{}", headers={"content-type": kind})

    assert answer.status_code == 415
    assert rota.jobs.show("load")["state"] == "active"


@pytest.mark.parametrize("path", ["/api/v1/jobs", "/nothing", "/api/openapi.json", "/healthz", "/metrics"])
def test_every_answer_tells_browsers_to_do_nothing_with_it(http, path):
    headers = http.get(path).headers

    assert headers["content-security-policy"].startswith("default-src 'none'; frame-ancestors 'none'")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in headers


def test_whoever_has_not_the_role_is_refused(http, rota, monkeypatch):
    rota.jobs.add("load", shell="true")
    monkeypatch.setattr(trust, "identify", lambda *_: Identity("ann", Role.VIEWER, Source.LOCAL))

    answers = [http.get("/api/v1/jobs/load"), http.post("/api/v1/jobs/load/pause"), http.delete("/api/v1/jobs/load")]

    assert [answer.status_code for answer in answers] == [200, 403, 403]
    assert answers[1].json()["detail"] == "job.pause wants the role operator; ann is viewer"
    assert rota.jobs.show("load")["state"] == "active"


def test_who_acts_stands_in_the_history(http, rota, monkeypatch):
    rota.jobs.add("load", shell="true")
    monkeypatch.setattr(trust, "identify", lambda *_: Identity("ann", Role.ADMIN, Source.LOCAL))

    http.post("/api/v1/jobs/load/pause")

    assert rota.why.job("load")["events"][-1]["actor"] == "ann"


def test_a_token_says_who_asks_and_what_they_may(http, rota):
    rota.jobs.add("load", shell="true")
    secret = rota.tokens.add("ci", role="operator", scopes=["job.*"], expires="1d")["secret"]
    shown = {"Authorization": f"Bearer {secret}"}

    answers = [
        http.get("/api/v1/jobs/load", headers=shown),
        http.post("/api/v1/jobs/load/pause", headers=shown),
        http.delete("/api/v1/jobs/load", headers=shown),
        http.get("/api/v1/runs", headers=shown),
    ]

    assert [answer.status_code for answer in answers] == [200, 200, 403, 403]
    assert answers[2].json()["detail"] == "job.delete wants the role admin; token ci is operator"
    assert answers[3].json()["detail"] == "run.list is not in the scopes of the token ci"
    (act,) = rota.audit(kind="job", subject="load", door="http")
    assert (act["actor"], act["via"], act["did"]) == ("token ci", "ci", "paused")


@pytest.mark.parametrize(
    "given",
    ["Bearer rota_nobody", "Bearer ", "Bearer", "Basic YTpi", "Bearer " + "x" * 5000, "Bearer \u00e9\u00e9"],
    ids=["unknown", "empty", "none", "another scheme", "long", "no ASCII"],
)
def test_what_is_no_token_is_refused_and_is_not_this_machine(http, given):
    answer = http.get("/api/v1/jobs", headers={"Authorization": given.encode()})

    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.json()["code"] == "unauthorized"


def test_a_token_that_was_revoked_lets_nobody_in(http, rota):
    secret = rota.tokens.add("ci", role="viewer")["secret"]
    shown = {"Authorization": f"Bearer {secret}"}
    assert http.get("/api/v1/jobs", headers=shown).status_code == 200

    rota.tokens.revoke("ci")

    assert http.get("/api/v1/jobs", headers=shown).status_code == 401
