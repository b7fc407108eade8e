"""Logging in by an OpenID provider: who is let in, as whom and with which role, and everybody else is not."""

from __future__ import annotations

import hmac
import json
import logging
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from joserfc import jwt

from rota import Rota
from rota.model.access import choose_access
from rota.model.oidc import read_provider
from rota.web import oidc
from rota.web.app import make_app
from rota.web.oidc import OpenIdProvider
from rota.web.pages import oidc_log_in
from tests.web.conftest import TestClient
from tests.web.openid import CLIENT_ID, CLIENT_SECRET, Provider, new_key
from tests.web.pages.markup import check_page

HOST = "rota.example.org"
PEER = "192.0.2.7"
ROLES = {"admin": ["boss"], "operator": ["ops"], "viewer": ["staff"]}
HTML = {"accept": "text/html"}


class Uptime:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def provider() -> Iterator[Provider]:
    made = Provider()
    yield made
    made.close()


@pytest.fixture
def uptime() -> Uptime:
    return Uptime()


@pytest.fixture
def connect(database_url: str, rota: Rota, provider: Provider, uptime: Uptime):
    opened: list[TestClient] = []

    def make(**more: Any) -> TestClient:
        section = {
            "issuer": provider.issuer, "client_id": CLIENT_ID, "client_secret": {"env": "X"},
            "public_url": f"https://{HOST}", "roles": ROLES,
        }  # fmt: skip
        settings = read_provider({name: value for name, value in (section | more).items() if value is not None})
        access = choose_access("127.0.0.1", public_host=settings.host, is_public_tls=settings.is_behind_tls)
        asks = OpenIdProvider(settings, CLIENT_SECRET, clock=uptime)
        app = make_app(Rota(database_url), access=access, provider=asks)
        made = TestClient(
            app, base_url=f"https://{HOST}", raise_server_exceptions=False, client=(PEER, 4711), follow_redirects=False
        )
        opened.append(made.__enter__())
        return made

    yield make
    for one in opened:
        one.__exit__(None, None, None)


def begin(http: TestClient, to: str = "/runs") -> str:
    """Follow the link of the log-in, and return where that leads."""
    answer = http.get("/login/oidc", params={"next": to}, headers=HTML)
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


def come_back(http: TestClient, provider: Provider, to: str = "/runs", **others: str) -> Any:
    """Log in at the provider, and come back; ``others`` are sent instead of what it says."""
    address = provider.log_in(begin(http, to))
    given = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()} | others
    return http.get(f"/login/oidc/callback?{urlencode(given)}", headers=HTML)


def check_kept_out(http: TestClient, answer: Any, status: int, text: str) -> None:
    assert answer.status_code == status, answer.text
    page = check_page(answer.text)
    assert page.find("p", class_="problem")[0].text == text
    assert page.find("a", href="/login/oidc")  # to begin again
    assert "rota_session" not in http.cookies
    assert "rota_oidc" not in http.cookies
    assert http.get("/api/v1/jobs").status_code == 401
    for secret in (CLIENT_SECRET, "an access token"):
        assert secret not in answer.text
    assert not re.search(r"eyJ[\w-]+\.eyJ", answer.text)  # how a signed token begins; random ones hold the like of eyJ


def test_whoever_logs_in_there_is_let_in_with_the_role_of_their_groups(connect, rota, provider):
    http = connect()
    page = check_page(http.get("/login?next=%2Fruns", headers=HTML).text)
    (link,) = [one for one in page.find("a") if one.attributes["href"].startswith("/login/oidc")]
    assert parse_qs(urlsplit(link.attributes["href"]).query) == {"next": ["/runs"]}

    answer = come_back(http, provider)

    assert (answer.status_code, answer.headers["location"]) == (303, "/runs")
    assert "ann, operator" in http.get("/runs", headers=HTML).text
    assert [(one["did"], one["address"], one["door"]) for one in rota.audit(actor="ann")] == [
        ("logged-in", PEER, "page")
    ]
    (session,) = rota.users.sessions()
    assert (session["source"], session["role"]) == ("oidc", "operator")
    assert http.delete("/api/v1/jobs/x", headers={"X-CSRF-Token": "x"}).status_code == 403
    rota.users.end_sessions("ann")
    assert http.get("/api/v1/jobs").status_code == 401


def test_the_cookies_are_for_this_server_alone_and_for_no_script(connect, provider):
    http = connect()
    sent = http.get("/login/oidc", headers=HTML)
    (cookie,) = sent.headers.get_list("set-cookie")
    assert [one.strip().lower() for one in cookie.split(";")[1:]] == [
        "httponly", "max-age=600", "path=/login/oidc", "samesite=lax", "secure",
    ]  # fmt: skip

    address = provider.log_in(sent.headers["location"])
    answer = http.get(address, headers=HTML)

    cookies = answer.headers.get_list("set-cookie")
    (session,) = [one for one in cookies if one.startswith("rota_session=")]
    assert [one.strip().lower() for one in session.split(";")[1:]] == ["httponly", "path=/", "samesite=lax", "secure"]
    assert any(one.startswith("rota_oidc=") and "max-age=0" in one.lower() for one in cookies)


def test_the_way_there_names_our_address_whatever_was_asked_for(connect, provider):
    http = connect()
    answer = http.get("/login/oidc", headers=HTML | {"host": "127.0.0.1:8300", "x-forwarded-host": "evil.example"})

    given = parse_qs(urlsplit(answer.headers["location"]).query)

    assert answer.headers["location"].startswith(f"{provider.issuer}/authorize?")
    assert given["redirect_uri"] == [f"https://{HOST}/login/oidc/callback"]
    assert given["scope"] == ["openid profile email"]
    assert {len(given[name][0]) >= 43 for name in ("state", "nonce", "code_challenge")} == {True}
    assert CLIENT_SECRET not in answer.headers["location"]
    again = parse_qs(urlsplit(begin(http)).query)
    assert all(again[name] != given[name] for name in ("state", "nonce", "code_challenge"))


@pytest.mark.parametrize(
    ("claims", "more", "role"),
    [
        ({"groups": ["staff"]}, {}, "viewer"),
        ({"groups": ["boss", "staff"]}, {}, "admin"),
        ({"groups": "ops"}, {}, "operator"),
        ({"groups": ["none"]}, {"default_role": "viewer"}, "viewer"),
        ({"groups": None}, {"default_role": "viewer"}, "viewer"),
        ({"groups": ["ops"]}, {"default_role": "viewer"}, "operator"),
        ({"groups": ["boss"], "teams": ["staff"]}, {"groups_claim": "teams"}, "viewer"),
        ({"groups": ["none"]}, {}, None),
        ({"groups": None}, {}, None),
        ({"groups": [["boss"], {"boss": 1}, None, 1, "Boss", "boss "]}, {}, None),
        ({"groups": {"boss": True}}, {}, None),
    ],
)
def test_the_role_is_that_of_the_groups_or_the_default_and_who_has_none_is_refused(
    connect, rota, provider, claims, more, role
):
    provider.claims = claims
    http = connect(**more)

    answer = come_back(http, provider)

    if role is None:
        check_kept_out(http, answer, 403, oidc.NO_ROLE)
        assert [one["did"] for one in rota.audit(actor="ann")] == ["log-in-refused"]
    else:
        assert answer.status_code == 303
        assert f"ann, {role}" in http.get("/", headers=HTML).text


@pytest.mark.parametrize(
    ("claims", "more", "name"),
    [
        ({"email": "ann@example.org", "email_verified": True}, {}, "ann"),
        ({"preferred_username": None, "email": "ann@example.org", "email_verified": True}, {}, "ann@example.org"),
        ({"preferred_username": None, "email": "ann@example.org", "email_verified": False}, {}, None),
        ({"preferred_username": None, "email": "ann@example.org", "email_verified": "true"}, {}, None),
        ({"preferred_username": None, "email": "ann@example.org"}, {}, None),
        ({"email": "ann@example.org"}, {"user_claim": "email"}, None),
        ({"login": "bob"}, {"user_claim": "login"}, "bob"),
        ({}, {"user_claim": "login"}, None),
        ({"preferred_username": "a b"}, {}, None),
        ({"preferred_username": "token ci"}, {}, None),
        ({"preferred_username": ["ann"]}, {}, None),
        ({"preferred_username": "a" * 300}, {}, None),
    ],
)
def test_the_name_is_what_the_settings_say_and_an_address_only_when_it_was_verified(
    connect, rota, provider, claims, more, name
):
    provider.claims = claims
    http = connect(**more)

    answer = come_back(http, provider)

    if name is None:
        check_kept_out(http, answer, 403, oidc.NO_NAME)
        assert rota.users.sessions() == []
    else:
        assert [one["user"] for one in rota.users.sessions()] == [name]


def test_a_user_who_is_disabled_here_is_not_let_in_and_others_of_a_name_keep_their_own_role(connect, rota, provider):
    rota.users.add("ann", role="admin")
    http = connect()
    assert come_back(http, provider).status_code == 303
    assert "ann, operator" in http.get("/", headers=HTML).text

    rota.users.edit("ann", disable=True)

    assert http.get("/api/v1/jobs").status_code == 401
    http.cookies.clear()
    answer = come_back(http, provider)
    assert answer.status_code == 403
    assert rota.users.sessions() == []
    assert rota.audit(actor="ann")[0]["did"] == "log-in-refused"


def forged_none(provider: Provider, claims: dict[str, Any]) -> str:
    def write(value: Any) -> str:
        return urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{write({'alg': 'none', 'kid': 'first'})}.{write(claims)}."


def forged_hs256(provider: Provider, claims: dict[str, Any]) -> str:
    """Signed with what everybody knows: the public key, as if it were a secret."""
    text = ".".join(
        urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
        for part in ({"alg": "HS256", "kid": "first"}, claims)
    )
    digest = hmac.digest(provider.key.as_pem(private=False), text.encode(), "sha256")
    return f"{text}.{urlsafe_b64encode(digest).decode().rstrip('=')}"


def tampered(provider: Provider, claims: dict[str, Any]) -> str:
    header, body, signature = provider._sign(claims).split(".")
    said = json.loads(urlsafe_b64decode(body + "=" * (-len(body) % 4))) | {"groups": ["boss"]}
    body = urlsafe_b64encode(json.dumps(said).encode()).decode().rstrip("=")
    return f"{header}.{body}.{signature}"


def of_another_key(provider: Provider, claims: dict[str, Any]) -> str:
    return jwt.encode({"alg": "RS256", "kid": "first"}, claims, new_key("first", "a stranger"))


def of_a_key_of_nobody(provider: Provider, claims: dict[str, Any]) -> str:
    return jwt.encode({"alg": "RS256", "kid": "other"}, claims, new_key("other"))


def of_a_key_that_comes_along(provider: Provider, claims: dict[str, Any]) -> str:
    key = new_key("mine")
    return jwt.encode({"alg": "RS256", "jwk": key.as_dict(private=False)}, claims, key)


SIGNS = [forged_none, forged_hs256, tampered, of_another_key, of_a_key_of_nobody, of_a_key_that_comes_along]


@pytest.mark.parametrize("sign", SIGNS)
def test_what_the_provider_has_not_signed_is_not_believed(connect, rota, provider, sign):
    provider.sign = lambda claims: sign(provider, claims)
    http = connect(default_role="admin")

    answer = come_back(http, provider)

    check_kept_out(http, answer, 401, oidc.NOT_BELIEVED)
    assert rota.users.sessions() == []


@pytest.mark.parametrize("supported", [["none"], ["HS256"], ["none", "RS256", "HS256"]])
@pytest.mark.parametrize("sign", [forged_none, forged_hs256])
def test_what_needs_no_key_of_the_provider_is_not_believed_even_if_it_says_so(connect, provider, supported, sign):
    provider.description = {"id_token_signing_alg_values_supported": supported}
    provider.sign = lambda claims: sign(provider, claims)
    http = connect()

    check_kept_out(http, come_back(http, provider), 401, oidc.NOT_BELIEVED)


@pytest.mark.parametrize(
    ("claims", "text"),
    [
        ({"nonce": "another"}, oidc.NOT_BELIEVED),
        ({"nonce": None}, oidc.NOT_BELIEVED),
        ({"iss": "https://evil.example"}, oidc.NOT_BELIEVED),
        ({"iss": None}, oidc.NOT_BELIEVED),
        ({"aud": "another"}, oidc.FOR_ANOTHER),
        ({"aud": ["another"], "azp": "rota"}, oidc.FOR_ANOTHER),
        ({"aud": ["rota", "another"]}, oidc.NOT_BELIEVED),
        ({"aud": ["rota", "another"], "azp": "another"}, oidc.NOT_BELIEVED),
        ({"aud": None}, oidc.NOT_BELIEVED),
        ({"exp": 1_000_000_000}, oidc.EXPIRED),
        ({"exp": None}, oidc.NOT_BELIEVED),
        ({"exp": "tomorrow"}, oidc.NOT_BELIEVED),
        ({"nbf": 4_000_000_000}, oidc.NOT_BELIEVED),
        ({"sub": None}, oidc.NOT_BELIEVED),
        ({"at_hash": "AAAA"}, oidc.NOT_BELIEVED),
    ],
)
def test_what_is_not_for_this_log_in_is_not_believed(connect, rota, provider, caplog, claims, text):
    caplog.set_level(logging.DEBUG, "rota")
    provider.claims = claims
    http = connect()

    answer = come_back(http, provider)

    check_kept_out(http, answer, 401, text)
    assert rota.users.sessions() == []
    assert any(record.levelno == logging.WARNING for record in caplog.records)
    for secret in (CLIENT_SECRET, "an access token", "eyJ"):
        assert secret not in caplog.text


@pytest.mark.parametrize(
    ("given", "status", "text"),
    [
        ({"state": "A" * 43}, 400, oidc.NOT_BEGUN),
        ({"state": ""}, 400, oidc.NOT_BEGUN),
        ({"state": "\u00e9"}, 400, oidc.NOT_BEGUN),
        ({"code": ""}, 400, oidc.NOT_BEGUN),
        ({"code": "another"}, 401, oidc.NOT_BELIEVED),
        ({"iss": "https://evil.example"}, 401, oidc.NOT_BELIEVED),
        ({"error": "access_denied", "error_description": "<script>alert(1)</script>"}, 403, oidc.NOT_LET_IN),
    ],
)
def test_who_comes_back_with_something_else_is_not_let_in(connect, provider, given, status, text):
    http = connect()

    answer = come_back(http, provider, **given)

    check_kept_out(http, answer, status, text)
    assert "script>alert" not in answer.text


@pytest.mark.parametrize("cookie", ["", "x", "bnVsbA", "W10", "WzEsMiwzLDRd", "A" * 5000, "{}"])
def test_who_did_not_begin_here_is_not_let_in(connect, provider, cookie):
    """As when somebody is sent the link by which somebody else has logged in."""
    other, http = connect(), connect()
    address = provider.log_in(begin(other))
    if cookie:
        http.cookies.set("rota_oidc", cookie, domain=HOST, path="/login/oidc")

    answer = http.get(address, headers=HTML)

    assert answer.status_code == 400
    assert check_page(answer.text).find("p", class_="problem")[0].text == oidc.NOT_BEGUN
    assert "/token" not in provider.asked  # the code is still theirs who began
    assert other.get(address, headers=HTML).status_code == 303


def test_one_comes_back_once(connect, rota, provider):
    http = connect()
    address = provider.log_in(begin(http))
    kept = http.cookies["rota_oidc"]
    assert http.get(address, headers=HTML).status_code == 303

    again = http.get(address, headers=HTML)
    http.cookies.set("rota_oidc", kept, domain=HOST, path="/login/oidc")
    replayed = http.get(address, headers=HTML)

    assert (again.status_code, replayed.status_code) == (400, 401)
    assert len(rota.users.sessions()) == 1


def test_the_code_of_another_browser_is_of_no_use(connect, rota, provider):
    """PKCE: the code was asked for with a secret that only the other one has."""
    theirs, mine = connect(), connect()
    stolen = parse_qs(urlsplit(provider.log_in(begin(theirs))).query)["code"][0]

    answer = come_back(mine, provider, code=stolen)

    check_kept_out(mine, answer, 401, oidc.NOT_BELIEVED)


@pytest.mark.parametrize(
    "to", ["//evil.example", "/\\evil.example", "https://evil.example", "javascript:alert(1)", "", "/" + "a" * 5000]
)
def test_one_goes_on_to_no_other_place(connect, provider, to):
    http = connect()

    assert come_back(http, provider, to).headers["location"] == "/"


def test_a_cookie_that_was_changed_leads_to_no_other_place(connect, provider):
    http = connect()
    address = provider.log_in(begin(http))
    kept = http.cookies["rota_oidc"]
    begun = json.loads(urlsafe_b64decode(kept + "=" * (-len(kept) % 4)))
    begun[3] = "//evil.example"
    changed = urlsafe_b64encode(json.dumps(begun).encode()).decode().rstrip("=")
    http.cookies.clear()
    http.cookies.set("rota_oidc", changed, domain=HOST, path="/login/oidc")

    assert http.get(address, headers=HTML).headers["location"] == "/"


def test_while_the_provider_is_down_one_is_told_and_logs_in_by_password(connect, rota, provider, uptime):
    rota.users.add("bob", role="viewer", password="correct horse battery")
    http = connect()
    address = provider.log_in(begin(http))
    provider.status = 503

    for path in (address, "/login/oidc"):
        uptime.now += oidc.KEPT_SECONDS
        answer = http.get(path, headers=HTML)
        check_kept_out(http, answer, 503, oidc.AWAY)
        assert answer.headers["retry-after"]
    page = check_page(answer.text)
    token = page.find("input", name="csrf")[0].attributes["value"]
    fields = {"csrf": token, "user": "bob", "password": "correct horse battery", "next": "/"}
    form = {"content-type": "application/x-www-form-urlencoded", "origin": f"https://{HOST}"}
    assert http.post("/login", content=urlencode(fields), headers=form).status_code == 303


def test_a_provider_that_is_not_there_is_away(connect, provider):
    http = connect()
    provider.close()
    try:
        check_kept_out(http, http.get("/login/oidc", headers=HTML), 503, oidc.AWAY)
    finally:
        provider.__init__()


@pytest.mark.parametrize(
    "description",
    [
        {"issuer": "https://evil.example"},
        {"issuer": None},
        {"token_endpoint": "http://evil.example/token"},
        {"token_endpoint": None},
        {"jwks_uri": "ftp://127.0.0.1/keys"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"authorization_endpoint": "//evil.example"},
    ],
)
def test_a_provider_that_says_what_cannot_be_is_not_asked_further(connect, provider, description):
    provider.description = description
    http = connect()

    check_kept_out(http, http.get("/login/oidc", headers=HTML), 502, oidc.BROKEN)
    assert provider.asked == ["/.well-known/openid-configuration"]


def test_what_the_provider_says_of_itself_is_kept_and_new_keys_are_found_at_once(connect, provider, uptime):
    http = connect()
    for _ in range(3):
        assert come_back(http, provider).status_code == 303
    assert provider.asked.count("/.well-known/openid-configuration") == 1
    assert provider.asked.count("/keys") == 1

    provider.key = new_key("second")
    uptime.now += oidc.KEYS_SECONDS_MIN
    assert come_back(http, provider).status_code == 303
    assert provider.asked.count("/keys") == 2
    provider.sign = lambda claims: of_a_key_of_nobody(provider, claims)
    for _ in range(3):  # nobody makes us ask for keys again and again
        assert come_back(http, provider).status_code == 401
    assert provider.asked.count("/keys") == 2


def test_no_more_come_back_together_than_are_said(connect, provider, monkeypatch):
    monkeypatch.setattr(oidc_log_in, "TURN_SECONDS_MAX", 0.0)
    monkeypatch.setattr(oidc_log_in.Threads, "run_soon", _nobody_has_a_turn)
    http = connect()

    answer = http.get("/login/oidc", headers=HTML)

    check_kept_out(http, answer, 503, oidc_log_in.BUSY)
    assert answer.headers["retry-after"]


async def _nobody_has_a_turn(*_: object) -> None:
    raise TimeoutError


def test_without_a_provider_there_is_no_such_way(http):
    for path in ("/login/oidc", "/login/oidc/callback"):
        assert http.get(path).status_code == 404
