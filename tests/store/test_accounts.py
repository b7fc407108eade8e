"""Users and tokens: what is kept of their secrets, who is let in by one, and what becomes of what they could do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from rota import Rota
from rota.errors import AlreadyExists, Invalid, NotFound
from rota.model.accounts import Identity, Refusal, Session
from rota.model.roles import Role
from rota.store import passwords
from rota.store.log_ins import find_session, log_in, remove_log_ins
from rota.store.tables import account, token
from rota.store.tokens import identify_token
from tests.store.ledger import Ledger, statements_of

pytestmark = pytest.mark.cases_take_turns

PASSWORD = "correct horse battery"
OTHER = "staple of another kind"


@pytest.fixture
def rota(ledger: Ledger) -> Rota:
    return Rota.over(ledger.database, actor="boss", door="cli")


def let_in(ledger: Ledger, secret: object) -> Identity:
    found = identify_token(ledger.database, secret)
    assert isinstance(found, Identity), found
    return found


def refused(ledger: Ledger, secret: object) -> str:
    found = identify_token(ledger.database, secret)
    assert isinstance(found, Refusal), found
    return found.code


def told(ledger: Ledger) -> list[tuple[str, str, str]]:
    return [(row.kind, row.subject, row.did) for row in ledger.rows("select * from rota_audit order by id")]


def test_of_a_password_a_hash_is_kept_that_takes_what_owasp_asks_for(rota: Rota, ledger: Ledger) -> None:
    rota.users.add("ann", role="admin", password=PASSWORD)
    rota.users.add("ben", role="viewer", password=PASSWORD)

    ann, ben = ledger.rows(select(account).order_by(account.c.name))
    assert ann.password_hash.startswith("$argon2id$v=19$m=47104,t=2,p=1$")
    assert ann.password_hash != ben.password_hash
    assert len(ann.password_hash) <= 200
    assert PASSWORD not in str(ledger.rows("select * from rota_audit")) + str(rota.users.list())
    assert [view["has_password"] for view in rota.users.list()] == [True, True]
    assert "hash" not in str(rota.users.list())


def test_a_name_is_taken_once_and_what_is_not_there_is_told(rota: Rota, ledger: Ledger) -> None:
    rota.users.add("ann", role="admin")

    with pytest.raises(AlreadyExists, match="rota user edit ann"):
        rota.users.add("ann", role="viewer")
    assert rota.users.add("Ann", role="viewer")["name"] == "Ann"
    for act in (
        lambda: rota.users.edit("eve", role="admin"),
        lambda: rota.users.passwd("eve", PASSWORD),
        lambda: rota.users.delete("eve"),
        lambda: rota.tokens.add("t", user="eve"),
    ):
        with pytest.raises(NotFound, match="eve"):
            act()
    with pytest.raises(Invalid, match="say what to change"):
        rota.users.edit("ann")
    assert told(ledger) == [("user", "ann", "added"), ("user", "Ann", "added")]


def enter(ledger: Ledger, password: str = PASSWORD) -> str:
    key = log_in(ledger.database, "ann", password, address="192.0.2.7")
    assert isinstance(key, str), key
    return key


@pytest.mark.parametrize(
    "change",
    [
        lambda rota: rota.users.edit("ann", role="viewer"),
        lambda rota: rota.users.edit("ann", disable=True),
        lambda rota: rota.users.passwd("ann", OTHER),
        lambda rota: rota.users.delete("ann"),
    ],
    ids=["role", "disable", "password", "delete"],
)
def test_the_sessions_of_a_user_end_with_what_they_could_do(rota: Rota, ledger: Ledger, change: Any) -> None:
    for name in ("ann", "ben"):
        rota.users.add(name, role="admin", password=PASSWORD)
    keys = [enter(ledger), enter(ledger)]
    of_ben = log_in(ledger.database, "ben", PASSWORD)

    change(rota)

    assert [type(find_session(ledger.database, key)) for key in keys] == [Refusal, Refusal]
    assert isinstance(find_session(ledger.database, of_ben), Session)


def test_what_changes_nothing_ends_no_session(rota: Rota, ledger: Ledger) -> None:
    rota.users.add("ann", role="admin", password=PASSWORD)
    key = enter(ledger)

    rota.users.edit("ann", role="admin", enable=True)

    assert isinstance(find_session(ledger.database, key), Session)


def test_a_password_is_hashed_anew_at_a_log_in_when_the_parameters_rise(
    rota: Rota, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as low:
        low.setattr(passwords, "MEMORY_KIB", 8192)
        passwords._hasher.cache_clear()
        rota.users.add("ann", role="admin", password=PASSWORD)
    passwords._hasher.cache_clear()
    kept = "select password_hash, password_at from rota_user"
    before = ledger.row(kept)
    assert "m=8192," in before.password_hash

    enter(ledger)
    after = ledger.row(kept)
    enter(ledger)

    assert "m=47104," in after.password_hash
    assert ledger.row(kept) == after
    assert after.password_at == before.password_at


def test_a_token_is_shown_once_and_lets_in_who_shows_it(rota: Rota, ledger: Ledger) -> None:
    rota.users.add("ann", role="operator")
    added = rota.tokens.add("ci", user="ann", scopes=["job.*"])
    service = rota.tokens.add("backup")

    assert replace(let_in(ledger, added["secret"]), shown=None) == Identity(
        "ann", Role.OPERATOR, "token", ("job.*",), via="ci"
    )
    assert replace(let_in(ledger, service["secret"]), shown=None) == Identity(
        "token backup", Role.VIEWER, "token", None, via="backup"
    )
    assert added["secret"].startswith(added["begins"] + "_")
    assert added["secret"] not in str(ledger.rows(select(token))) + str(rota.tokens.list()) + str(
        ledger.rows("select * from rota_audit")
    )
    assert [(view["name"], view["role"], view["scopes"]) for view in rota.tokens.list()] == [
        ("backup", "viewer", None),
        ("ci", "operator", ["job.*"]),
    ]


def test_a_token_may_never_more_than_its_user_may_now(rota: Rota, ledger: Ledger) -> None:
    rota.users.add("ann", role="admin")
    secret = rota.tokens.add("ci", user="ann")["secret"]

    rota.users.edit("ann", role="viewer")
    assert let_in(ledger, secret).role is Role.VIEWER
    with pytest.raises(Invalid, match="user ann is viewer, and a token may not do more than its user"):
        rota.tokens.add("more", user="ann", role="operator")
    rota.users.edit("ann", disable=True)
    assert refused(ledger, secret) == "disabled"
    rota.users.edit("ann", enable=True, role="operator")
    assert let_in(ledger, secret).role is Role.OPERATOR
    rota.users.delete("ann")
    assert refused(ledger, secret) == "unknown"
    assert told(ledger)[-1] == ("user", "ann", "deleted")


def test_a_token_ends_and_is_revoked_and_deleted(rota: Rota, ledger: Ledger) -> None:
    secrets = {name: rota.tokens.add(name, expires="1h")["secret"] for name in ("one", "two")}

    rota.tokens.revoke("one")
    rota.tokens.revoke("one")
    assert refused(ledger, secrets["one"]) == "revoked"
    ledger.clock.advance(minutes=59)
    let_in(ledger, secrets["two"])
    ledger.clock.advance(minutes=1)
    assert refused(ledger, secrets["two"]) == "expired"
    with pytest.raises(AlreadyExists, match="rota token delete one"):
        rota.tokens.add("one")
    rota.tokens.delete("one")
    rota.tokens.add("one")
    for act in (rota.tokens.revoke, rota.tokens.delete):
        with pytest.raises(NotFound, match="three"):
            act("three")
    assert told(ledger)[2:] == [("token", "one", "revoked"), ("token", "one", "deleted"), ("token", "one", "added")]


def test_when_a_token_was_used_is_written_once_a_minute(rota: Rota, ledger: Ledger) -> None:
    secret = rota.tokens.add("ci")["secret"]
    counts: list[int] = []

    for _ in range(3):
        for _ in range(2):
            with statements_of(ledger.database) as sent:
                let_in(ledger, secret)
            counts.append(sum(statement.startswith("UPDATE") for statement in sent))
        ledger.clock.advance(seconds=61)

    assert counts == [1, 0] * 3
    assert ledger.value("select last_used_at from rota_token") is not None


def test_what_is_no_token_is_refused_whatever_it_is(rota: Rota, ledger: Ledger) -> None:
    secret = rota.tokens.add("ci")["secret"]
    wrong: list[Any] = [
        "", "rota_", secret[:-1], secret + "x", secret.upper(), secret[:-1] + ("A" if secret[-1] != "A" else "B"),
        f" {secret}", f"{secret}\n", secret.replace("rota", "röta"), "rota_0000000000_" + secret[16:], "x" * 1_000_000,
        "rota_\0", "\ud800", "' or 1=1 --", None, 3, secret.encode(), [secret], "rota_" + "٣" * 10 + secret[15:],
    ]  # fmt: skip

    assert [refused(ledger, one) for one in wrong] == ["unknown"] * len(wrong)
    let_in(ledger, secret)


def test_tokens_that_are_over_go_after_a_month(rota: Rota, ledger: Ledger) -> None:
    rota.tokens.add("for ever".replace(" ", "-"))
    rota.tokens.add("short", expires="1d")
    rota.tokens.add("revoked")
    rota.tokens.revoke("revoked")

    ledger.clock.advance(days=29)
    remove_log_ins(ledger.database)
    assert [view["name"] for view in rota.tokens.list()] == ["for-ever", "revoked", "short"]
    ledger.clock.advance(days=1.5)
    remove_log_ins(ledger.database)
    assert [view["name"] for view in rota.tokens.list()] == ["for-ever", "short"]
    ledger.clock.advance(days=1)
    assert remove_log_ins(ledger.database) == 1
    assert [view["name"] for view in rota.tokens.list()] == ["for-ever"]
