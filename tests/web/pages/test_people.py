"""Who may do what, and who did it: the pages of users, tokens and the audit."""

from __future__ import annotations

import logging

import pytest

from rota import Rota
from rota.model.access import choose_access
from rota.model.accounts import Identity, Source
from rota.model.roles import Role
from rota.store.log_ins import find_session, log_in, open_session
from rota.store.tokens import identify_token
from rota.web import trust
from rota.web.app import make_app
from tests.web.conftest import TestClient
from tests.web.pages.markup import check_page

PASSWORD = "correct horse battery"
OTHER = "staple of another kind"
HOST = "rota.example.org"


def rows_of(page, at: str) -> list[list[str]]:
    (table,) = [one for one in page.walk() if one.attributes.get("id") == at]
    return [[" ".join(cell.text.split()) for cell in row.find("td")] for row in table.find("tr")[1:]]


def test_the_navigation_ends_with_what_only_an_admin_may(browser, monkeypatch):
    titles = [one.text for one in browser.open("/").find("nav")[0].find("a")]
    assert titles[-5:] == ["Calendars", "Forecast", "Audit", "Users", "Tokens"]

    monkeypatch.setattr(trust, "identify", lambda *_: Identity("ann", Role.OPERATOR, Source.LOCAL))

    assert [one.text for one in browser.open("/").find("nav")[0].find("a")] == titles[:-3]
    for path in ("/audit", "/users", "/users/ann", "/tokens", "/tokens/ci", "/new/user", "/new/token"):
        browser.open(path, 403)


class TestAudit:
    @pytest.fixture
    def acts(self, database_url, rota: Rota) -> Rota:
        for actor, door in (("ann", "http"), ("bob", "cli")):
            with Rota(database_url, actor=actor, door=door) as made:
                made.jobs.add(f"of-{actor}", shell="true")
                made.jobs.pause(f"of-{actor}")
        return rota

    def test_it_says_who_did_what_when_and_through_which_door(self, browser, acts):
        page = browser.open("/audit")

        found = rows_of(page, "audit")
        assert [(row[1], row[2], row[4], row[5]) for row in found] == [
            ("bob", "cli", "job of-bob", "paused"),
            ("bob", "cli", "job of-bob", "added"),
            ("ann", "http", "job of-ann", "paused"),
            ("ann", "http", "job of-ann", "added"),
        ]
        assert page.find("a", href="/jobs/of-ann")

    @pytest.mark.parametrize(
        ("query", "subjects"),
        [
            ("actor=ann", ["of-ann", "of-ann"]),
            ("door=cli", ["of-bob", "of-bob"]),
            ("kind=job&subject=of-ann", ["of-ann", "of-ann"]),
            ("kind=job&did=paused", ["of-bob", "of-ann"]),
            ("kind=job&did=paused&actor=ann", ["of-ann"]),
            ("since=2000-01-01", ["of-bob", "of-bob", "of-ann", "of-ann"]),
            ("until=2000-01-01", []),
            ("kind=run", []),
        ],
    )
    def test_it_is_narrowed(self, browser, acts, query, subjects):
        page = browser.open(f"/audit?{query}")

        found = rows_of(page, "audit") if subjects else []
        assert [row[4].removeprefix("job ") for row in found] == subjects
        assert bool(page.find("p", class_="nothing")) == (not subjects)

    @pytest.mark.parametrize("query", ["door=window", "did=paused", "since=never", "before=x"])
    def test_what_cannot_be_asked_is_refused(self, browser, acts, query):
        browser.open(f"/audit?{query}", 422)

    def test_it_goes_on_from_page_to_page_with_the_same_filters(self, browser, acts, monkeypatch):
        monkeypatch.setattr("rota.web.pages.lists.PAGE_THINGS", 1)
        seen, address = [], "/audit?kind=job&did=paused"
        while address:
            page = browser.open(address)
            seen += [row[4] for row in rows_of(page, "audit")]
            address = next((one.attributes["href"] for one in page.find("a", rel="next")), None)

        assert seen == ["job of-bob", "job of-ann"]


class TestUsers:
    def test_one_is_added_edited_and_deleted_by_forms(self, browser, rota):
        browser.open("/new/user")
        browser.send("/new/user", name="ann", role="viewer", password=PASSWORD, again=PASSWORD)
        assert browser.notice == "user ann is viewer"
        first = log_in(rota.database, "ann", PASSWORD)
        assert find_session(rota.database, first).identity.role is Role.VIEWER

        browser.send("/users/ann/role", role="operator")
        assert browser.notice == "user ann is operator"
        second = log_in(rota.database, "ann", PASSWORD)
        browser.send("/users/ann/password", password=OTHER, again=OTHER)
        third = log_in(rota.database, "ann", OTHER)
        assert isinstance(third, str)
        browser.open("/users/ann")
        browser.send("/users/ann/ask/disable")
        browser.send("/users/ann/do/disable")
        assert rota.users.list()[0]["state"] == "disabled"
        browser.send("/users/ann/do/enable")
        assert rota.users.list()[0]["state"] == "active"
        browser.send("/users/ann/ask/delete")
        assert rota.users.list()
        browser.send("/users/ann/do/delete")

        assert rota.users.list() == []
        for key in (first, second, third):
            assert find_session(rota.database, key).code == "expired"
        assert [one["did"] for one in rota.audit(kind="user", door="page", actor="local@host")] == [
            "deleted", "edited", "edited", "password-set", "edited", "added",
        ]  # fmt: skip

    def test_a_password_that_is_refused_is_nowhere_in_the_answer(self, browser, rota, caplog):
        caplog.set_level(logging.DEBUG)
        rota.users.add("ann", role="viewer")
        for password, again in ((PASSWORD, OTHER), ("tooshort", "tooshort"), ("", "")):
            browser.open("/users/ann")
            page = browser.send("/users/ann/password", 422, password=password, again=again)
            assert "password" in page.text
            assert not password or password not in browser.answer.text
        assert PASSWORD not in caplog.text
        assert rota.users.list()[0]["has_password"] is False

    def test_the_spaces_of_a_password_are_kept(self, browser, rota):
        spaced = f" {PASSWORD} "
        browser.open("/new/user")
        browser.send("/new/user", name="ann", role="viewer", password=spaced, again=spaced)

        assert isinstance(log_in(rota.database, "ann", spaced), str)

    def test_sessions_are_shown_and_ended(self, browser, rota):
        rota.users.add("ann", role="viewer", password=PASSWORD)
        keys = [log_in(rota.database, "ann", PASSWORD, address="192.0.2.7", user_agent="<b>Firefox") for _ in range(2)]
        page = browser.open("/users/ann")
        assert page.text.count("192.0.2.7") == 2
        assert "<b>Firefox" in page.text
        assert rows_of(browser.open("/users"), "users")[0][5] == "2"

        browser.open("/users/ann")
        browser.send("/users/ann/ask/end-sessions")
        browser.send("/users/ann/do/end-sessions")

        assert [find_session(rota.database, key).code for key in keys] == ["expired", "expired"]
        assert "Logged in nowhere" in browser.open("/users/ann").text

    def test_whom_a_provider_has_identified_is_shown_and_logged_out_without_being_a_user(self, browser, rota):
        key = open_session(rota.database, "guest@example.org", role=Role.OPERATOR, source=Source.OIDC)
        page = browser.open("/users")
        assert "Logged in without being a user here" in page.text

        page = browser.open("/users/guest@example.org")
        assert not page.find("form", action="/users/guest%40example.org/password")
        browser.send("/users/guest%40example.org/ask/end-sessions")
        browser.send("/users/guest%40example.org/do/end-sessions")
        browser.open("/users/guest@example.org", 404)  # they are nobody any more

        assert find_session(rota.database, key).code == "expired"

    def test_who_is_nobody_is_not_found(self, browser):
        browser.open("/users/nobody", 404)
        browser.open("/tokens/nobody", 404)

    def test_where_nobody_logs_in_it_says_so(self, browser, database_url, rota):
        for path in ("/users", "/tokens"):
            assert "Nobody has to log in here" in browser.open(path).text

        secret = rota.tokens.add("boss", role="admin")["secret"]
        app = make_app(Rota(database_url), access=choose_access("0.0.0.0", names=[HOST]))
        with TestClient(app, base_url=f"https://{HOST}") as http:
            for path in ("/users", "/tokens"):
                answer = http.get(path, headers={"accept": "text/html", "authorization": f"Bearer {secret}"})
                assert answer.status_code == 200
                assert "Nobody has to log in here" not in check_page(answer.text).text


class TestTokens:
    def test_the_secret_is_on_one_page_and_nowhere_else(self, browser, http, rota, caplog):
        caplog.set_level(logging.DEBUG)
        rota.users.add("ann", role="operator")
        browser.open("/new/token?user=ann")
        page = browser.send("/new/token", name="ci", user="ann", role="", scopes="job.*\r\nrun.list", expires="90d")

        (secret,) = [one.text for one in page.find("pre") if one.attributes.get("id") == "secret"]
        assert identify_token(rota.database, secret).scopes == ("job.*", "run.list")
        assert browser.answer.headers["cache-control"] == "no-store"
        assert not browser.answer.history
        assert secret not in str(browser.answer.url)
        assert secret not in str(http.cookies)
        assert secret not in browser.answer.headers.get("set-cookie", "")
        for path in ("/tokens", "/tokens/ci", "/users/ann", "/audit", "/api/v1/tokens", "/api/v1/audit"):
            assert secret not in http.get(path).text
        assert secret not in caplog.text
        assert not [act for act in rota.audit() if secret in str(act)]

    def test_a_page_that_is_sent_twice_shows_no_secret_again(self, browser):
        browser.open("/new/token")
        fields = {"name": "ci", "user": "", "role": "viewer", "scopes": "", "expires": ""}
        browser.send("/new/token", **fields)
        browser.open("/new/token")

        page = browser.send("/new/token", 409, **fields)

        assert "rota_" not in page.text

    def test_it_is_revoked_and_deleted_after_a_question(self, browser, rota):
        secret = rota.tokens.add("ci")["secret"]
        browser.open("/tokens/ci")
        browser.send("/tokens/ci/ask/revoke")
        assert identify_token(rota.database, secret).name == "token ci"
        browser.send("/tokens/ci/do/revoke")
        assert identify_token(rota.database, secret).code == "revoked"
        assert "revoked" in browser.open("/tokens").text
        browser.open("/tokens/ci")
        browser.send("/tokens/ci/ask/delete")
        browser.send("/tokens/ci/do/delete")

        assert rota.tokens.list() == []

    @pytest.mark.parametrize(
        "wrong", [{"role": "king"}, {"scopes": "nothing.*"}, {"expires": "soon"}, {"name": "a b"}, {"name": ""}]
    )
    def test_what_is_refused_makes_none(self, browser, rota, wrong):
        browser.open("/new/token")
        fields = {"name": "ci", "user": "", "role": "viewer", "scopes": "", "expires": ""} | wrong

        browser.send("/new/token", 422, **fields)

        assert rota.tokens.list() == []
