"""Who is let in: when a log-in is demanded, and which names, addresses and headers are believed."""

from __future__ import annotations

import pytest

from rota.errors import ConfigError, Invalid
from rota.model.access import LOCAL_NAMES, choose_access, is_loopback, read_header, read_names, read_networks

PROXY = read_networks("--proxy-from", "127.0.0.1")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.9.9.9", "::ffff:127.0.0.1"])
def test_on_this_machine_nobody_logs_in(host):
    assert is_loopback(host)
    assert not choose_access(host).demands_login


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "rota.example.org", "localhost.example.org"])
def test_elsewhere_everybody_does(host):
    access = choose_access(host)

    assert (access.demands_login, access.is_behind_tls) == (True, True)


@pytest.mark.parametrize("said", [{"names": ["a.example"]}, {"behind_tls": True}, {"proxy_from": PROXY}])
def test_on_this_machine_too_when_something_says_that_others_come(said):
    assert choose_access("127.0.0.1", **said).demands_login


def test_cookies_go_by_tls_unless_that_is_said_or_the_server_is_this_machines():
    assert choose_access("0.0.0.0").is_behind_tls
    assert not choose_access("0.0.0.0", behind_tls=False).is_behind_tls
    assert not choose_access("127.0.0.1", names=["localhost"]).is_behind_tls
    assert choose_access("127.0.0.1", behind_tls=True).is_behind_tls


def test_without_a_log_in_only_this_machine_may_be_asked_for():
    access = choose_access("127.0.0.1", hostname="here")

    assert access.names == LOCAL_NAMES
    assert not any(access.knows(name) for name in ("here", "10.0.0.1", "evil.example", "0.0.0.0"))


def test_with_one_its_names_and_addresses_may():
    access = choose_access("0.0.0.0", hostname="Here", names=["rota.example.org"])

    assert all(access.knows(name) for name in ("here", "rota.example.org", "10.0.0.1", "fe80::1", "localhost"))
    assert not any(access.knows(name) for name in ("evil.example", "rota.example.org.evil.example", ""))


def test_a_header_is_believed_from_nobody_unless_that_is_said():
    with pytest.raises(ConfigError, match="name the addresses of the proxy with --proxy-from"):
        choose_access("127.0.0.1", trust_proxy="x-remote-user")


@pytest.mark.parametrize("given", ["0.0.0.0/0", "::/0", "10.0.0.1/8", "nowhere", "", [], [1], None])
def test_what_is_no_network_or_everybodys_is_refused(given):
    with pytest.raises(Invalid):
        read_networks("--proxy-from", given)


@pytest.mark.parametrize(
    ("address", "is_from"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("10.1.3.3", False),
        ("::1", False),
        ("unix", False),
        (None, False),
    ],
)
def test_a_proxy_is_known_by_its_address(address, is_from):
    proxy = choose_access("127.0.0.1", proxy_from=read_networks("proxy_from", "10.1.2.0/24 fd00::/8")).proxy

    assert proxy is not None
    assert proxy.is_from(address) is is_from


@pytest.mark.parametrize("given", ["", "Cookie", "authorization", "X-Forwarded-For", "host", "a b", "x:y", "\u00e9", 1])
def test_what_is_no_header_or_means_something_else_is_refused(given):
    with pytest.raises(Invalid):
        read_header("--trust-proxy", given)


def test_names_are_read_as_they_are_compared():
    assert read_names("--name", "Rota.Example.org., b.example 10.0.0.1") == (
        "rota.example.org",
        "b.example",
        "10.0.0.1",
    )
    for given in ("https://a.example", "a.example:80", "*", "", "a/b"):
        with pytest.raises(Invalid):
            read_names("--name", given)
    assert read_header("--trust-proxy", " X-Remote-User ") == "x-remote-user"
