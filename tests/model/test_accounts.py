"""What passwords, names and scopes may look like, who may do what, and when an attempt to log in is looked at."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta

import pytest

from rota.errors import Invalid
from rota.model.accounts import (
    PASSWORD_LENGTH_MAX,
    Identity,
    Source,
    check_password,
    check_scopes,
    check_user,
    normalize_password,
    read_scopes,
)
from rota.model.attempts import PER_ADDRESS, PER_USER, PER_USER_AND_ADDRESS, Failure, network_of, waits_until
from rota.model.roles import Role, check_role, least
from rota.model.verb_words import VERB_WORDS
from rota.verbs.table import VERBS

NOW = datetime(2026, 11, 2, 12, tzinfo=UTC)


def test_the_words_of_verbs_are_those_of_the_verbs() -> None:
    assert set(VERBS) == VERB_WORDS


def test_verbs_about_users_and_tokens_are_for_admins() -> None:
    assert {verb.role for name, verb in VERBS.items() if name.startswith(("user.", "token."))} == {Role.ADMIN}


def test_each_role_may_what_the_one_before_it_may() -> None:
    viewer, operator, admin = Role
    assert [one.covers(operator) for one in (viewer, operator, admin)] == [False, True, True]
    assert least(admin, viewer, operator) is viewer
    assert check_role("admin") is admin
    for wrong in ("Admin", "", None, 3, ["admin"]):
        with pytest.raises(Invalid, match="role"):
            check_role(wrong)


def test_who_shows_a_token_may_what_role_and_scopes_both_allow() -> None:
    scoped = Identity("ann", Role.OPERATOR, Source.TOKEN, ("job.*", "run.list"), via="ci")

    assert {name for name, verb in VERBS.items() if scoped.may(verb)} == {
        "job.list", "job.show", "job.pause", "job.resume", "job.reset", "job.run", "run.list",
    }  # fmt: skip
    assert not any(Identity("ann", Role.ADMIN, Source.TOKEN, ()).may(verb) for verb in VERBS.values())
    assert all(Identity("ann", Role.ADMIN, Source.PASSWORD).may(verb) for verb in VERBS.values())
    actor = scoped.acting("http", "192.0.2.7")
    for one in (actor, copy.deepcopy(actor)):
        assert (one, one.door, one.address, one.via) == ("ann", "http", "192.0.2.7", "ci")


@pytest.mark.parametrize("scope", ["job.*", "*", "run.list", "*.list"])
def test_a_scope_matches_a_verb(scope: str) -> None:
    assert check_scopes([scope, scope]) == (scope,)
    assert check_scopes(scope) == (scope,)


@pytest.mark.parametrize(
    "scopes", [[], ["jobs.*"], [""], ["job.?un"], ["job.[r]un"], [3], 3, {"job.*": 1}, ["job.*"] * 101, ["*" * 101]]
)
def test_a_scope_that_matches_no_verb_is_refused(scopes: object) -> None:
    with pytest.raises(Invalid, match="scopes"):
        check_scopes(scopes)


def test_scopes_that_nobody_can_read_let_nothing_through() -> None:
    assert read_scopes(None) is None
    assert [read_scopes(text) for text in ("", "{", '"job.*"', "{}", "[3]", "[" * 100_000)] == [()] * 6


def test_a_user_may_be_named_by_an_address_of_mail_but_not_as_a_service_is() -> None:
    assert check_user("ann@example.org") == "ann@example.org"
    for wrong in ("token ci", "(somebody)", "", "a@ b", "x" * 201, None, "a\0b", "ann\n"):
        with pytest.raises(Invalid, match="user"):
            check_user(wrong)


def test_a_password_has_twelve_characters_whichever_they_are_and_is_normalized() -> None:
    assert check_password("correct horse") == "correct horse"
    assert check_password("ﬁ" * 12) == "fi" * 12
    assert normalize_password("A\u030a") == normalize_password("\u00c5") == normalize_password("\u212b")
    assert check_password("\0" * 12) == "\0" * 12
    assert normalize_password("x" * (PASSWORD_LENGTH_MAX + 1)) is None
    for wrong in ("elevenchars", "x" * 1001, "\ud800" * 12, None, b"correct horse", 123456789012):
        with pytest.raises(Invalid) as refused:
            check_password(wrong)
        assert wrong is None or str(wrong) not in f"{refused.value} {vars(refused.value)}"


def failures(*minutes: float, name: str = "n", address: str = "a") -> list[Failure]:
    return [Failure(NOW - timedelta(minutes=minute), name, address) for minute in minutes]


def wait(known: list[Failure]) -> float | None:
    until = waits_until(known, "n", "a", NOW)
    return None if until is None else (until - NOW).total_seconds()


def test_after_five_failures_within_five_minutes_there_is_a_wait_that_doubles() -> None:
    assert wait(failures(4, 3, 2, 1)) is None
    assert wait(failures(4, 3, 2, 1, 0)) == 60
    assert wait(failures(5.1, 3, 2, 1, 0)) is None  # not within five minutes
    assert wait(failures(6, 5, 4, 3, 2)) is None  # it is over
    # The wait goes on growing also when the first five are long ago.
    assert wait(failures(30, 30, 30, 30, 30, 0)) == 120
    assert wait(failures(30, 30, 30, 30, 30, 20, 0)) == 240
    assert wait(failures(*[30] * 5, 20, 15, 10, 0)) == 900
    assert wait(failures(*[30] * 5, *[20] * 50, 0)) == 900


def test_an_address_and_a_user_have_looser_limits_of_their_own() -> None:
    assert PER_USER_AND_ADDRESS.failures < PER_ADDRESS.failures < PER_USER.failures
    of_others = [one for number in range(50) for one in failures(1, name=f"n{number}")]
    assert wait(of_others[1:]) is None
    assert wait(of_others) is None  # a wait of a minute is just over
    assert wait([*of_others, *failures(0, name="x")]) == 120
    # A stranger keeps a user out at the stranger's own address, and not elsewhere.
    of_a_stranger = failures(*[0] * 49, address="b")
    assert wait(of_a_stranger) is None
    assert waits_until(of_a_stranger, "n", "b", NOW) is not None
    of_a_crowd = [one for number in range(199) for one in failures(0, address=f"b{number // 5}")]
    assert wait(of_a_crowd) is None
    assert wait([*of_a_crowd, *failures(0, address="c")]) == 60


def test_what_the_clock_puts_into_the_future_does_not_count() -> None:
    assert wait(failures(-60, -60, -60, -60, -60)) is None


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unix:", ""),
        ("", ""),
        (None, ""),
        ("x" * 1_000_000, ""),
    ],
)
def test_of_an_address_the_network_counts_that_one_subscriber_has(address: str | None, network: str) -> None:
    assert network_of(address) == network
