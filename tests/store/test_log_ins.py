"""Log-ins: which attempts are looked at, what whoever tries is told, and how long somebody stays logged in."""

from __future__ import annotations

import threading
from typing import Any, Literal

import pytest
from sqlalchemy import insert

from rota import Rota
from rota.model.accounts import Identity, Refusal, Session, SessionRules, Source
from rota.model.roles import Role
from rota.store import log_ins, standing
from rota.store.log_ins import end_session, end_sessions, find_session, log_in, open_session, remove_log_ins
from rota.store.tables import login_failure, session
from rota.store.tokens import identify_token
from rota.store.turns import LOG_INS, take_turn
from tests.store.ledger import Ledger, statements_of
from tests.store.test_explain import explain
from tests.store.trouble import commit_breaks

pytestmark = pytest.mark.takes_turns  # hashing takes its time

PASSWORD = "correct horse battery"
HERE, THERE = "192.0.2.7", "198.51.100.9"


@pytest.fixture
def rota(ledger: Ledger) -> Rota:
    made = Rota.over(ledger.database, actor="boss", door="cli")
    ledger.database.write(lambda connection: take_turn(connection, LOG_INS), repeatable=True)  # its row is there
    made.users.add("ann", role="operator", password=PASSWORD)
    return made


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Compare passwords at once, where it is the counting that matters; return the hashes that were looked at."""
    looked: list[str | None] = []

    def compare(password: str | None, kept: str | None) -> bool:
        looked.append(kept)
        return kept is not None and password == PASSWORD

    monkeypatch.setattr(log_ins, "is_password", compare)
    monkeypatch.setattr(log_ins, "is_outdated", lambda _: False)
    return looked


def attempt(ledger: Ledger, name: Any = "ann", password: Any = "wrong", address: str | None = HERE) -> str:
    """Try, and return how it ended."""
    found = log_in(ledger.database, name, password, address=address, user_agent="Browser/1.0")
    return found.code if isinstance(found, Refusal) else "in"


def acts(ledger: Ledger) -> list[tuple[str, str, str]]:
    rows = ledger.rows("select actor, subject, did from rota_audit where door = 'page' order by id")
    return [tuple(row) for row in rows]


def session_of(ledger: Ledger, key: object, **rules: Any) -> Session | None:
    found = find_session(ledger.database, key, **rules)
    return found if isinstance(found, Session) else None


def test_a_right_password_opens_a_session_of_which_only_hashes_are_kept(rota: Rota, ledger: Ledger) -> None:
    key = log_in(ledger.database, "ann", PASSWORD, address=HERE, user_agent="Browser/1.0\n\x1b[31m" + "ü" * 300)

    assert isinstance(key, str)
    found = session_of(ledger, key)
    assert found is not None
    assert (found.identity.name, found.identity.role, found.identity.source) == ("ann", "operator", "password")
    assert len(found.csrf) == 43
    row = ledger.row("select * from rota_session")
    assert key not in str(row)
    assert (row.address, row.user_agent[:15], len(row.user_agent)) == (HERE, "Browser/1.0[31m", 200)
    assert rota.users.list()[0]["last_login_at"] == "2026-11-02T12:00:00.000000Z"
    assert acts(ledger) == [("ann", "ann", "logged-in")]
    assert ledger.rows("select * from rota_login_failure") == []


def test_the_same_letters_written_otherwise_are_the_same_password(rota: Rota, ledger: Ledger) -> None:
    rota.users.passwd("ann", "Ångström and ﬁne")

    assert attempt(ledger, password="A\u030angstro\u0308m and fine") == "in"


@pytest.mark.parametrize("name", ["nobody", "", "Ann", "ann\0", "\ud800", "x" * 1_000_000, None, 3, "a b", "ann "])
def test_of_a_user_who_is_not_there_all_is_the_same(
    rota: Rota, ledger: Ledger, quick: list[str | None], name: Any
) -> None:
    def try_out(who: Any) -> tuple[list[Any], list[str]]:
        with statements_of(ledger.database) as sent:
            found = [log_in(ledger.database, who, "wrong", address=f"{HERE}{who == 'ann':d}") for _ in range(6)]
        return found, sent

    assert try_out(name) == try_out("ann")
    assert quick.count(None) == 5
    assert len(quick) == 10
    # What was typed as a name may be a password.
    assert {actor for actor, _, _ in acts(ledger)} == {"ann", "(somebody)"}


def test_who_is_disabled_or_has_no_password_is_refused_as_if_they_were_not_there(
    rota: Rota, ledger: Ledger, quick: list[str | None]
) -> None:
    rota.users.add("ben", role="viewer")
    rota.users.edit("ann", disable=True)

    assert [attempt(ledger, name, PASSWORD) for name in ("ann", "ben")] == ["wrong", "wrong"]
    assert quick == [None, None]


@pytest.mark.parametrize("password", ["", "\0", "\ud800" * 20, "x" * 1_000_000, None, 3, b"correct horse battery"])
def test_whatever_is_given_as_a_password_is_plainly_refused(rota: Rota, ledger: Ledger, password: Any) -> None:
    assert attempt(ledger, password=password) == "wrong"


def test_after_five_failures_nothing_is_looked_at_for_a_while_and_that_grows(
    rota: Rota, ledger: Ledger, quick: list[str | None]
) -> None:
    assert [attempt(ledger) for _ in range(5)] == ["wrong"] * 5
    assert attempt(ledger, password=PASSWORD) == "too-many"
    assert len(quick) == 5

    waits: list[float | None] = []
    for _ in range(6):
        refusal = log_in(ledger.database, "ann", PASSWORD, address=HERE)
        assert isinstance(refusal, Refusal)
        waits.append(refusal.retry_after_seconds)
        ledger.clock.advance(seconds=refusal.retry_after_seconds or 0)
        assert attempt(ledger) == "wrong"
        assert attempt(ledger) == "too-many"

    assert waits == [60, 120, 240, 480, 900, 900]
    assert "15 minutes" in refusal.text
    ledger.clock.advance(minutes=15)
    assert attempt(ledger, password=PASSWORD) == "in"
    assert [attempt(ledger) for _ in range(5)] == ["wrong"] * 5  # all was forgotten
    # What was not looked at leaves no row.
    assert [did for _, _, did in acts(ledger)].count("log-in-refused") == 16


def test_a_stranger_keeps_nobody_out_elsewhere(rota: Rota, ledger: Ledger, quick: list[str | None]) -> None:
    assert [attempt(ledger, address=THERE) for _ in range(6)][-1] == "too-many"

    assert attempt(ledger, password=PASSWORD) == "in"
    assert attempt(ledger, password=PASSWORD, address=THERE) == "too-many"
    assert attempt(ledger, "ben", address=THERE) == "wrong"


def test_an_address_that_names_one_user_after_the_other_is_refused_too(
    rota: Rota, ledger: Ledger, quick: list[str | None]
) -> None:
    assert [attempt(ledger, f"user{number}", address=f"2001:db8::{number:x}") for number in range(50)] == ["wrong"] * 50

    assert attempt(ledger, password=PASSWORD, address="2001:db8::ffff") == "too-many"
    assert attempt(ledger, password=PASSWORD, address="2001:db8:0:1::1") == "in"


def test_no_more_are_looked_at_than_the_limits_allow_however_many_come_at_once(
    rota: Rota, ledger: Ledger, quick: list[str | None]
) -> None:
    together, ended, failures = threading.Barrier(8), [], []
    databases = [ledger.connect() for _ in range(8)]

    def guess(database: Any) -> None:
        try:
            together.wait(30)
            for _ in range(3):
                found = log_in(database, "ann", "wrong", address=HERE)
                ended.append(found.code if isinstance(found, Refusal) else "in")
        except Exception as error:  # noqa: BLE001 - raised in the test itself
            failures.append(error)

    threads = [threading.Thread(target=guess, args=(database,)) for database in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if failures:
        raise failures[0]

    assert sorted(ended) == ["too-many"] * 19 + ["wrong"] * 5
    assert len(quick) == 5


class Died(BaseException):
    """Stands for the death of the process."""


def test_an_attempt_counts_though_the_server_dies_while_it_looks(
    rota: Rota, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> bool:
        raise Died

    monkeypatch.setattr(log_ins, "is_password", die)
    for _ in range(5):
        with pytest.raises(Died):
            attempt(ledger)
    monkeypatch.undo()

    assert attempt(ledger, password=PASSWORD) == "too-many"


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_log_in_is_one_though_the_answer_to_a_commit_is_lost(
    rota: Rota, ledger: Ledger, quick: list[str | None], when: Literal["before", "after"]
) -> None:
    with commit_breaks(ledger.database, when, times=2):
        key = log_in(ledger.database, "ann", PASSWORD, address=HERE)

    assert session_of(ledger, key) is not None
    assert ledger.value("select count(*) from rota_session") == 1
    assert acts(ledger) == [("ann", "ann", "logged-in")]
    assert ledger.rows("select * from rota_login_failure") == []


def test_a_password_that_is_changed_while_it_is_looked_at_lets_nobody_in(
    rota: Rota, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change_meanwhile(*_: Any) -> bool:
        rota.users.passwd("ann", "another one altogether")
        return True

    monkeypatch.setattr(log_ins, "is_password", change_meanwhile)

    assert attempt(ledger, password=PASSWORD) == "wrong"
    assert ledger.rows("select * from rota_session") == []


def test_a_session_ends_after_two_idle_hours_and_after_twelve_in_all(
    rota: Rota, ledger: Ledger, quick: list[str | None]
) -> None:
    used, idle = (log_in(ledger.database, "ann", PASSWORD) for _ in range(2))

    for _ in range(11):
        ledger.clock.advance(minutes=61)
        assert session_of(ledger, used) is not None
    assert session_of(ledger, idle) is None
    ledger.clock.advance(minutes=48)
    assert session_of(ledger, used) is not None
    ledger.clock.advance(minutes=1)
    assert session_of(ledger, used) is None
    short = SessionRules(lasts_seconds=600, idle_seconds=60)
    key = log_in(ledger.database, "ann", PASSWORD, rules=short)
    ledger.clock.advance(seconds=59)
    assert session_of(ledger, key, rules=short) is not None
    ledger.clock.advance(seconds=2)
    assert session_of(ledger, key, rules=short) is None


def test_when_somebody_was_seen_is_written_once_a_minute(rota: Rota, ledger: Ledger, quick: list[str | None]) -> None:
    key = log_in(ledger.database, "ann", PASSWORD)
    counts: list[int] = []

    for _ in range(2):
        ledger.clock.advance(seconds=61)
        for _ in range(2):
            with statements_of(ledger.database) as sent:
                session_of(ledger, key)
            counts.append(sum(statement.startswith("UPDATE") for statement in sent))

    assert counts == [1, 0, 1, 0]


def test_who_logs_out_is_out_and_others_are_not(rota: Rota, ledger: Ledger, quick: list[str | None]) -> None:
    one, other, third = (log_in(ledger.database, "ann", PASSWORD) for _ in range(3))

    assert end_session(ledger.database, one, address=HERE) is True
    assert end_session(ledger.database, one) is False
    assert [session_of(ledger, key) is not None for key in (one, other, third)] == [False, True, True]
    assert end_sessions(ledger.database, "ann", actor="boss") == 2
    assert [session_of(ledger, key) for key in (other, third)] == [None, None]
    assert acts(ledger)[3:] == [("ann", "ann", "logged-out")]


@pytest.mark.parametrize("key", ["", "x" * 43, "ü" * 43, "\0", "\ud800", "x" * 1_000_000, None, 3, b"x" * 43, "'--"])
def test_what_is_no_key_of_a_session_is_refused_whatever_it_is(ledger: Ledger, key: Any) -> None:
    assert find_session(ledger.database, key) == Refusal("expired", "nobody is logged in: log in again")
    assert end_session(ledger.database, key) is False


def test_who_was_identified_elsewhere_has_a_session_without_a_row_of_theirs(ledger: Ledger) -> None:
    key = open_session(ledger.database, "eve@example.org", role=Role.VIEWER, source=Source.OIDC, address=HERE)

    found = session_of(ledger, key)
    assert found is not None
    assert (found.identity.name, found.identity.role, found.identity.source) == (
        "eve@example.org", "viewer", "oidc",
    )  # fmt: skip
    assert acts(ledger) == [("eve@example.org", "eve@example.org", "logged-in")]


def test_of_who_was_identified_elsewhere_a_user_who_is_disabled_here_gets_no_session(
    rota: Rota, ledger: Ledger
) -> None:
    rota.users.edit("ann", disable=True)

    found = open_session(ledger.database, "ann", role=Role.ADMIN, source=Source.OIDC, address=HERE)

    assert isinstance(found, Refusal)
    assert ledger.rows("select * from rota_session") == []
    assert acts(ledger) == [("ann", "ann", "log-in-refused")]


def test_sessions_are_listed_by_user_the_latest_first_and_those_that_are_over_are_not(
    rota: Rota, ledger: Ledger, quick: list[str | None]
) -> None:
    open_session(ledger.database, "zoe", role=Role.VIEWER, source=Source.OIDC)
    ledger.clock.advance(minutes=119)
    for address in (HERE, THERE):
        log_in(ledger.database, "ann", PASSWORD, address=address, user_agent="Browser/1.0")

    def listed(*name: str) -> list[tuple[Any, ...]]:
        return [tuple(one[key] for key in ("user", "role", "source", "address")) for one in rota.users.sessions(*name)]

    anns = [("ann", "operator", "password", THERE), ("ann", "operator", "password", HERE)]
    assert listed() == [*anns, ("zoe", "viewer", "oidc", None)]
    assert listed("ann") == anns
    ledger.clock.advance(minutes=1)
    assert listed("zoe") == []
    assert rota.users.end_sessions("ann") == {"name": "ann", "ended": 2}
    assert listed() == []


def test_who_still_may_is_told_of_many_at_once(rota: Rota, ledger: Ledger, quick: list[str | None]) -> None:
    keys = [log_in(ledger.database, "ann", PASSWORD) for _ in range(2)]
    guest = open_session(ledger.database, "zoe", role=Role.VIEWER, source=Source.OIDC)
    secret = rota.tokens.add("ci", user="ann", expires="1h")["secret"]
    found = [session_of(ledger, key) for key in (*keys, guest)]
    people = [one.identity for one in found if one is not None] + [identify_token(ledger.database, secret)]
    local = Identity("local@host", Role.ADMIN, Source.LOCAL)
    people += [Identity("ann", Role.VIEWER, Source.PROXY), Identity("bob", Role.VIEWER, Source.PROXY), local]

    def may() -> list[bool]:
        standing_now = standing.find_standing(ledger.database, people)
        return [one in standing_now for one in people]

    assert may() == [True, True, True, True, True, False, True]
    end_session(ledger.database, keys[0])
    assert may() == [False, True, True, True, True, False, True]
    ledger.clock.advance(minutes=60)
    assert may() == [False, True, True, False, True, False, True]
    ledger.clock.advance(minutes=60)
    assert may() == [False, False, False, False, True, False, True]
    rota.users.edit("ann", disable=True)
    assert may() == [False, False, False, False, False, False, True]


def test_what_is_over_is_removed(rota: Rota, ledger: Ledger, quick: list[str | None]) -> None:
    for _ in range(3):
        attempt(ledger, password=PASSWORD)
    attempt(ledger)

    assert remove_log_ins(ledger.database) == 0
    ledger.clock.advance(minutes=61)
    assert remove_log_ins(ledger.database) == 1
    ledger.clock.advance(hours=11)
    assert remove_log_ins(ledger.database) == 3
    assert ledger.rows("select * from rota_session") + ledger.rows("select * from rota_login_failure") == []


def test_what_is_asked_with_each_request_and_log_in_is_served_by_an_index(rota: Rota, ledger: Ledger) -> None:
    now = ledger.clock.now
    failures = [{"at": now, "name_hash": str(number), "address": f"a{number % 100}"} for number in range(3000)]
    made = {
        "csrf": "c",
        "role": "viewer",
        "source": "oidc",
        "created_at": now,
        "expires_at": ledger.clock.after(60),
        "seen_at": now,
    }
    sessions = [made | {"key_hash": str(number), "user_name": f"u{number}"} for number in range(3000)]
    for table, rows in ((login_failure, failures), (session, sessions)):
        ledger.database.write(lambda c, of=table, given=rows: c.execute(insert(of), given), repeatable=False)
        analyze = {"sqlite": "analyze", "postgresql": "analyze"}
        ledger.execute(analyze.get(ledger.database.dialect.name, f"analyze table {table}"))
    asked: dict[str, tuple[Any, dict[str, Any]]] = {
        "of a name": (log_ins.READ_FAILURES_OF_NAME, {"name_hash": "7"}),
        "of an address": (log_ins.READ_FAILURES_OF_ADDRESS, {"address": "a7"}),
        "a session": (log_ins.FIND_SESSION, {"key_hash": "7", "minus_idle_seconds": -7200.0}),
        "the sessions of a user": (log_ins.END_SESSIONS, {"name": "u7"}),
        "the list of a user": (log_ins.LIST_SESSIONS[True], {"name": "u7", "minus_idle_seconds": -7200.0}),
        "who looks on": (standing.FIND_SESSIONS, {"ids": [7, 70, 700], "minus_idle_seconds": -7200.0}),
    }

    plans = {name: explain(ledger, statement, given) for name, (statement, given) in asked.items()}

    scans = {
        name: plan for name, (used, plan) in plans.items() if {"SCANS rota_login_failure", "SCANS rota_session"} & used
    }
    assert scans == {}
