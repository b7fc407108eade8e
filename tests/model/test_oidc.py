"""The settings of an OpenID provider: what is refused, and what they mean."""

from __future__ import annotations

import pytest

from rota.errors import Invalid
from rota.model.access import choose_access
from rota.model.oidc import read_provider
from rota.model.roles import Role

SECTION = {
    "issuer": "https://login.example.org/realms/staff",
    "client_id": "rota",
    "client_secret": {"file": "/run/secrets/oidc"},
    "public_url": "https://rota.example.org",
    "roles": {"admin": ["ops"], "viewer": ["staff", "ops"]},
}


def test_what_is_said_is_what_holds():
    made = read_provider(SECTION | {"default_role": "viewer", "scopes": ["groups"]})

    assert made.redirect_url == "https://rota.example.org/login/oidc/callback"
    assert made.roles == {"ops": Role.ADMIN, "staff": Role.VIEWER}
    assert made.default_role is Role.VIEWER
    assert made.scopes == ("openid", "groups")
    assert str(made.secret) == "file /run/secrets/oidc"


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080", "http://localhost:8080", "http://[::1]:8080"])
def test_on_this_machine_it_may_be_http(url):
    made = read_provider(SECTION | {"issuer": url, "public_url": url})

    assert not made.is_behind_tls


@pytest.mark.parametrize(
    "wrong",
    [
        {"issuer": "http://login.example.org"},
        {"issuer": "http://127.0.0.1.example.org"},
        {"issuer": "http://localhost@evil.example"},
        {"issuer": "https://user:word@login.example.org"},
        {"issuer": "https://login.example.org?x=1"},
        {"issuer": "login.example.org"},
        {"issuer": None},
        {"public_url": "http://rota.example.org"},
        {"public_url": "https://rota.example.org/rota"},
        {"public_url": "https://rota.example.org\n"},
        {"public_url": None},
        {"client_id": ""},
        {"client_secret": "hunter2"},
        {"client_secret": {"text": "hunter2"}},
        {"client_secret": {}},
        {"client_secret": {"file": "/x", "env": "X"}},
        {"roles": {}},
        {"roles": {"king": ["ops"]}},
        {"roles": {"admin": "ops"}},
        {"roles": {"admin": [1]}},
        {"roles": ["ops"]},
        {"default_role": "king"},
        {"scopes": "openid"},
        {"scopes": ["a b"]},
        {"isuer": "https://login.example.org"},
    ],
)
def test_what_cannot_be_is_refused_and_no_secret_is_shown(wrong):
    with pytest.raises(Invalid) as error:
        read_provider(SECTION | wrong)

    assert "hunter2" not in str(error.value)


def test_with_a_provider_a_log_in_is_demanded_and_its_name_is_known():
    access = choose_access("127.0.0.1", public_host="rota.example.org", is_public_tls=True)

    assert (access.demands_login, access.has_provider, access.is_behind_tls) == (True, True, True)
    assert access.knows("rota.example.org")
    assert not choose_access("127.0.0.1").has_provider
