"""Who did what: a row for each act of a person, in the transaction of the act."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Literal

import pytest
from sqlalchemy import Connection, insert, select

from rota import Rota
from rota.model.actor import Actor, Door
from rota.store import audit as auditing
from rota.store.audit import list_audit, remove_audit
from rota.store.interventions import cancel_run
from rota.store.jobs import pause_job
from rota.store.tables import audit
from tests.clock import BEGINNING
from tests.store.ledger import Ledger
from tests.store.test_explain import explain
from tests.store.trouble import commit_breaks

pytestmark = pytest.mark.cases_take_turns

ANN = Actor("ann", door=Door.HTTP, address="192.0.2.7", via="ci")


def acts(ledger: Ledger) -> list[Any]:
    return ledger.rows(select(audit).order_by(audit.c.id))


def through(ledger: Ledger, door: str) -> Rota:
    return Rota.over(ledger.database, actor="ann", door=door)


def test_a_row_says_who_did_what_to_what_when_and_through_which_door(ledger: Ledger) -> None:
    ledger.add_job()

    pause_job(ledger.database, "job", actor=ANN)

    (row,) = acts(ledger)
    assert (row.actor, row.door, row.address, row.via) == ("ann", "http", "192.0.2.7", "ci")
    assert (row.kind, row.subject, row.did, row.text) == ("job", "job", "paused", "job job was paused")
    assert row.at == ledger.clock.now
    (shown,) = list_audit(ledger.database)
    assert (shown["id"], shown["at"], shown["actor"]) == (row.id, "2026-11-02T12:00:00.000000Z", "ann")


def test_what_changes_nothing_and_what_no_person_does_leaves_none(ledger: Ledger) -> None:
    ledger.add_job()
    run_id = ledger.enqueue()

    pause_job(ledger.database, "job", actor="a node")
    pause_job(ledger.database, "job", actor=ANN)
    cancel_run(ledger.database, run_id, actor="a node")

    assert acts(ledger) == []


def pause(ledger: Ledger) -> None:
    pause_job(ledger.database, "job", actor=ANN)


def cancel(ledger: Ledger) -> None:
    cancel_run(ledger.database, 1, actor=ANN)


def ask(ledger: Ledger) -> None:
    through(ledger, "http").enqueue("job")


def add(ledger: Ledger) -> None:
    through(ledger, "cli").users.add("ben", role="viewer")


class Died(BaseException):
    """Stands for the death of the process: its transaction is never committed."""


@pytest.mark.parametrize("act", [pause, cancel, ask, add])
def test_an_act_and_its_row_come_into_force_together_or_not_at_all(
    ledger: Ledger, act: Callable[[Ledger], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.add_job()
    ledger.enqueue()

    def standing() -> list[Any]:
        tables = ("rota_job", "rota_run", "rota_event", "rota_user", "rota_audit")
        return [ledger.rows(f"select * from {table} order by id") for table in tables]

    before = standing()
    deaths = 0
    execute = Connection.execute
    for deaths in range(100):
        statements = itertools.count()

        def die_after(*given: Any, after: int = deaths, counted: Iterator[int] = statements, **more: Any) -> Any:
            answer = execute(*given, **more)
            if next(counted) == after:
                raise Died
            return answer

        monkeypatch.setattr(Connection, "execute", die_after)
        try:
            act(ledger)
            break
        except Died:
            pass
        finally:
            monkeypatch.setattr(Connection, "execute", execute)
        if acts(ledger):
            break  # it has been committed, and the death was behind that
        assert standing() == before

    assert deaths >= 3
    assert len(acts(ledger)) == 1
    assert standing()[:-1] != before[:-1]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("act", [pause, ask])
def test_an_act_leaves_one_row_though_the_answer_to_its_commit_is_lost(
    ledger: Ledger, act: Callable[[Ledger], None], when: Literal["before", "after"]
) -> None:
    ledger.add_job()

    with commit_breaks(ledger.database, when):
        act(ledger)

    assert len(acts(ledger)) == 1


def test_what_a_program_asks_to_run_leaves_none_and_what_is_asked_through_other_doors_one_each(ledger: Ledger) -> None:
    ledger.add_job()

    through(ledger, "python").enqueue("job")
    through(ledger, "python").enqueue_many([("job", None)] * 3)
    assert acts(ledger) == []
    for door in ("cli", "http", "page", "sql"):
        through(ledger, door).enqueue("job", {"password": "hidden"}, key=door)
        through(ledger, door).enqueue("job", key=door)  # it is there already

    assert [(row.door, row.kind, row.subject, row.did, row.text) for row in acts(ledger)] == [
        (door, "job", "job", "run", f"asked for run {number}")
        for number, door in enumerate(("cli", "http", "page", "sql"), 5)
    ]


def test_no_row_holds_a_value_that_somebody_gave(ledger: Ledger) -> None:
    rota = through(ledger, "cli")

    rota.jobs.add("load", shell="echo hidden", variables={"TOKEN": "hidden"})
    rota.jobs.edit("load", variables={"TOKEN": "hidden too"}, stdin="hidden", shell="cat hidden")
    rota.schedules.add("each", "load", cron="* * * * *", args={"secret": "hidden"})
    rota.schedules["each"].edit(args={"secret": "hidden, too"})
    rota.jobs.add("load", shell="hidden", if_exists="update")
    handle = rota.enqueue("load", {"secret": "hidden"})
    (claim,) = ledger.claim()
    ledger.end(claim, "exited", exit_code=1, error_message="hidden")
    handle.rerun()
    handle.cancel()

    texts = [row.text for row in acts(ledger)]
    assert len(texts) == 8
    assert not any("hidden" in text for text in texts)
    assert "job load was edited: stdin, target, variables" in texts


def test_the_names_of_actors_and_addresses_are_cut_to_what_a_row_takes(ledger: Ledger) -> None:
    ledger.add_job()
    actor = Actor("ä" * 300, door="page", address="fe80::1%\x1b\x00ü" + "x" * 100)

    pause_job(ledger.database, "job", actor=actor)

    (row,) = acts(ledger)
    assert row.actor == "ä" * 200
    assert row.address == ("fe80::1%" + "x" * 100)[:64]


def test_a_list_is_filtered_and_paged_by_number(ledger: Ledger) -> None:
    ledger.add_job()
    for number in range(6):
        who = Actor("ann" if number % 2 else "ben", door="cli" if number < 2 else "http")
        auditing_write(ledger, who, "job", f"job{number % 3}")
        ledger.clock.advance(minutes=1)

    def numbers(**asked: Any) -> list[int]:
        return [view["id"] for view in list_audit(ledger.database, **asked)]

    assert numbers() == [6, 5, 4, 3, 2, 1]
    assert numbers(limit=2) == [6, 5]
    assert numbers(limit=2, before=5) == [4, 3]
    assert numbers(actor="ann") == [6, 4, 2]
    assert numbers(door="cli") == [2, 1]
    assert numbers(kind="job", subject="job1") == [5, 2]
    assert numbers(since=BEGINNING + timedelta(minutes=4)) == [6, 5]
    assert numbers(since=BEGINNING + timedelta(minutes=4), actor="ben", door="http") == [5]
    assert numbers(since=BEGINNING + timedelta(days=1)) == []
    assert numbers(until=BEGINNING + timedelta(minutes=2)) == [2, 1]
    assert numbers(since=BEGINNING + timedelta(minutes=1), until=BEGINNING + timedelta(minutes=3)) == [3, 2]
    assert numbers(kind="job", did="did") == [6, 5, 4, 3, 2, 1]
    assert numbers(kind="job", did="undone") == []
    assert [list_audit(ledger.database, limit=2, before=at).next for at in (7, 5, 3)] == [5, 3, None]


def auditing_write(ledger: Ledger, actor: Actor, kind: str, subject: str) -> None:
    ledger.database.write(
        lambda connection: auditing.note_act(connection, actor, kind, subject, "did", "text"), repeatable=False
    )


def test_since_a_time_finds_what_the_clock_has_put_out_of_order(ledger: Ledger) -> None:
    auditing_write(ledger, ANN, "job", "before")
    ledger.clock.step(seconds=-1800)
    auditing_write(ledger, ANN, "job", "after")

    assert [view["subject"] for view in list_audit(ledger.database, since=BEGINNING)] == ["before"]


def test_until_a_time_finds_what_the_clock_has_put_out_of_order(ledger: Ledger) -> None:
    auditing_write(ledger, ANN, "job", "late")
    ledger.clock.step(seconds=-1800)
    auditing_write(ledger, ANN, "job", "early")

    assert [view["subject"] for view in list_audit(ledger.database, until=BEGINNING)] == ["early"]


def test_rows_are_kept_as_long_as_is_said_and_the_oldest_go_first(ledger: Ledger) -> None:
    for number in range(3):
        auditing_write(ledger, ANN, "job", str(number))
        ledger.clock.advance(days=1)

    assert remove_audit(ledger.database, 4 * 86400.0) == 0
    assert remove_audit(ledger.database, 1.5 * 86400.0) == 2
    assert [row.subject for row in acts(ledger)] == ["2"]


ROWS = 30_000


def _rows() -> Iterator[dict[str, Any]]:
    for number in range(ROWS):
        yield {
            "at": BEGINNING + timedelta(seconds=number), "actor": f"user{number % 1000}", "kind": "job",
            "door": "cli" if number % 1000 == 0 else "http", "subject": f"job{number % 1000}", "did": "x", "text": "x",
        }  # fmt: skip


@pytest.fixture
def long_audit(ledger: Ledger) -> Ledger:
    ledger.database.write(lambda connection: connection.execute(insert(audit), list(_rows())), repeatable=False)
    analyze = {"sqlite": "analyze", "postgresql": "analyze", "mysql": "analyze table rota_audit"}
    ledger.execute(analyze[ledger.database.dialect.name])
    return ledger


SOME = {"limit": 50}
LATE = BEGINNING + timedelta(seconds=ROWS - 100)
PRIMARY = {"rota_audit_pkey", "PRIMARY"}
# what is asked: its parameters, and the indexes of which one is to serve it; none: the numbers of the rows themselves
ASKED: dict[str, tuple[Any, dict[str, Any], set[str]]] = {
    "all": (auditing.list_statement(()), SOME, PRIMARY),
    "a page": (auditing.list_statement(["before"]), SOME | {"before": 5000}, PRIMARY),
    "an actor": (auditing.list_statement(["actor"]), SOME | {"actor": "user7"}, {"rota_audit_actor"}),
    "nobody": (auditing.list_statement(["actor"]), SOME | {"actor": "nobody"}, {"rota_audit_actor"}),
    "a page of an actor": (
        auditing.list_statement(["actor", "before"]),
        SOME | {"actor": "user7", "before": 5000},
        {"rota_audit_actor"},
    ),
    "a door": (auditing.list_statement(["door"]), SOME | {"door": "cli"}, {"rota_audit_door"}),
    "a door of nobody": (auditing.list_statement(["door"]), SOME | {"door": "sql"}, {"rota_audit_door"}),
    "a subject": (
        auditing.list_statement(["kind", "subject"]),
        SOME | {"kind": "job", "subject": "job7"},
        {"rota_audit_subject"},
    ),
    "a kind": (auditing.list_statement(["kind"]), SOME | {"kind": "token"}, {"rota_audit_kind"}),
    "since": (
        auditing.list_statement(["since", "first"]),
        SOME | {"since": LATE, "first": ROWS - 4000},
        {*PRIMARY, "rota_audit_at"},
    ),
    "until a time": (
        auditing.list_statement(["until", "last"]),
        SOME | {"until": LATE, "last": 20_000},
        {*PRIMARY, "rota_audit_at"},
    ),
    "after a time": (auditing.FIND_AFTER, {"at": LATE}, {"rota_audit_at"}),
    "before a time": (auditing.FIND_BEFORE, {"at": LATE}, {"rota_audit_at"}),
    "the oldest": (auditing.FIND_OLD, {"minus_seconds": -1.0}, PRIMARY),
}


def test_no_list_reads_more_than_it_shows(long_audit: Ledger) -> None:
    wrong: dict[str, list[str]] = {}

    for name, (statement, parameters, expected) in ASKED.items():
        used, plan = explain(long_audit, statement, parameters)
        # SQLite has no name for the order of the rows themselves, in which it reads, and stops at the limit.
        if any("SCAN rota_audit" in line or "USING INTEGER PRIMARY KEY" in line for line in plan):
            used = (used - {"SCANS rota_audit"}) | {"rota_audit_pkey"}
        # The few of one who has done little may be sorted; all there are may not.
        bad = {one for one in used if one.startswith("SCANS")} | (used & {"SORTS"} if expected is PRIMARY else set())
        if not used & expected or bad:
            wrong[name] = [f"uses {sorted(used)}, expected {sorted(expected)}", *plan]

    assert not wrong, "\n".join(f"{name}: {line}" for name, lines in wrong.items() for line in lines)


def test_what_was_done_to_one_thing_is_found_by_its_name_without_statistics(ledger: Ledger) -> None:
    used, plan = explain(ledger, *ASKED["a subject"][:2])

    if ledger.database.dialect.name == "sqlite":  # the others keep statistics by themselves
        assert "rota_audit_subject" in used, plan
