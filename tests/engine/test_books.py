"""What jobs have told, on its way into the database."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from sqlalchemy import Connection, select

import rota.engine.books as books_module
from rota.engine.backoff import SECONDS_FIRST
from rota.engine.books import LOCKED_REPORT_SECONDS, Books, Kept
from rota.model.run import Claim, End, NewRun, Piece, Report
from rota.store.endings import rescue_runs
from rota.store.leases import adopt_claims
from rota.store.tables import run
from tests.store.ledger import LEASE_SECONDS, Ledger, identity_of, output_of


class Clock:
    """In the place of the module ``time``: it moves when it is told to."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> Clock:
    steady = Clock()
    monkeypatch.setattr(books_module, "time", steady)
    return steady


def locked_by_hand(ledger: Ledger, run_id: int, act: Callable[[], None]) -> None:
    """Do ``act`` while somebody else keeps the row of a run locked."""

    def keep(connection: Connection) -> None:
        connection.execute(select(run.c.id).where(run.c.id == run_id).with_for_update())
        act()

    ledger.connect().write(keep, repeatable=False)


def two_started(ledger: Ledger) -> list[Claim]:
    """Have two runs started, among others: of a table with few rows MySQL and MariaDB read, and lock, all."""
    ledger.add_job()
    ledger.enqueue_many([NewRun("job")] * 50)
    return [ledger.started(claim) for claim in ledger.claim(limit=2)]


def end_of(claim: Claim) -> End:
    return End(claim.claim_id, claim.run_id, "exited", exit_code=0)


@pytest.mark.every_database
@pytest.mark.only_on("postgresql", "mariadb", "mysql")
def test_an_end_whose_run_somebody_keeps_locked_holds_up_no_other_and_is_delivered_later(
    ledger: Ledger, steady: Clock
) -> None:
    locked, free = two_started(ledger)
    books = Books(ledger.database, actor=lambda: "a", adopt=lambda _claim_ids: frozenset())
    books.ends.extend([end_of(locked), end_of(free)])
    kept: list[Kept] = []

    locked_by_hand(ledger, locked.run_id, lambda: kept.append(books.deliver()))

    assert kept[0].claim_ids == (free.claim_id,)
    assert (ledger.run(locked.run_id).state, ledger.run(free.run_id).state) == ("running", "succeeded")
    assert (books.is_due, books.is_empty) == (False, False)
    assert 0.0 < (books.seconds_until_due() or 0.0) <= SECONDS_FIRST
    steady.now += SECONDS_FIRST
    assert books.is_due
    books.bring_back()
    assert books.deliver().claim_ids == (locked.claim_id,)
    assert (ledger.run(locked.run_id).state, books.is_empty) == ("succeeded", True)


@pytest.mark.every_database
@pytest.mark.only_on("postgresql", "mariadb", "mysql")
def test_an_end_that_came_too_late_is_not_taken_for_a_locked_one(ledger: Ledger, steady: Clock) -> None:
    late = ledger.start_one()
    ledger.clock.advance(seconds=LEASE_SECONDS + 1)
    rescue_runs(ledger.database, rescuer="b")
    current = ledger.claim_one("b")
    books = Books(ledger.database, actor=lambda: "a", adopt=lambda _claim_ids: frozenset())
    books.ends.append(end_of(late))

    kept: list[Kept] = []

    locked_by_hand(ledger, late.run_id, lambda: kept.append(books.deliver()))

    assert kept[0].claim_ids == (late.claim_id,)
    assert (current.run_id, ledger.run(late.run_id).state, books.is_empty) == (late.run_id, "running", True)


@pytest.mark.every_database
@pytest.mark.only_on("postgresql", "mariadb", "mysql")
def test_a_guardian_that_died_is_told_later_where_somebody_keeps_its_run_locked(ledger: Ledger, steady: Clock) -> None:
    locked, free = two_started(ledger)
    books = Books(ledger.database, actor=lambda: "a", adopt=lambda _claim_ids: frozenset())
    books.dead.extend([locked.claim_id, free.claim_id])
    let_go: list[frozenset[str]] = []

    locked_by_hand(ledger, locked.run_id, lambda: let_go.append(books.surrender()))

    assert let_go == [{free.claim_id}]
    assert (ledger.run(locked.run_id).state, ledger.run(free.run_id).state) == ("running", "ready")
    steady.now += SECONDS_FIRST
    books.bring_back()
    assert books.surrender() == {locked.claim_id}
    assert ledger.run(locked.run_id).state == "ready"


@pytest.mark.every_database
@pytest.mark.only_on("postgresql", "mariadb", "mysql")
def test_a_takeover_is_told_later_where_somebody_keeps_the_run_locked(ledger: Ledger, steady: Clock) -> None:
    locked, free = two_started(ledger)
    adopt = partial(adopt_claims, ledger.database, identity_of("b"))
    books = Books(ledger.database, actor=lambda: "b", adopt=adopt)
    books.adopted.extend([locked.claim_id, free.claim_id])

    locked_by_hand(ledger, locked.run_id, books.adopt)

    assert (ledger.run(locked.run_id).node, ledger.run(free.run_id).node) == ("a", "b")
    steady.now += SECONDS_FIRST
    books.bring_back()
    books.adopt()
    assert (ledger.run(locked.run_id).node, books.is_empty) == ("b", True)


@pytest.mark.every_database
@pytest.mark.only_on("postgresql", "mariadb", "mysql")
def test_a_checkpoint_is_kept_later_where_somebody_keeps_the_run_locked(ledger: Ledger, steady: Clock) -> None:
    locked, free = two_started(ledger)
    books = Books(ledger.database, actor=lambda: "a", adopt=lambda _claim_ids: frozenset())
    for claim in (locked, free):
        books.hear_report(Report(claim.claim_id, checkpoint='{"row": 1}'))

    locked_by_hand(ledger, locked.run_id, books.tell)
    books.hear_report(Report(locked.claim_id, has_progress=True, progress=0.5))

    assert (ledger.run(locked.run_id).checkpoint, ledger.run(free.run_id).checkpoint) == (None, '{"row": 1}')
    steady.now += LOCKED_REPORT_SECONDS
    books.tell()
    row = ledger.run(locked.run_id)
    assert (row.checkpoint, row.progress, books.seconds_until_report()) == ('{"row": 1}', 0.5, None)


@pytest.mark.only_on("sqlite")
def test_what_is_refused_of_one_job_holds_up_what_no_other_has_told(ledger: Ledger) -> None:
    ledger.add_job()
    ledger.enqueue_many([NewRun("job")] * 3)
    first, refused, last = ledger.claim()
    ledger.execute(
        "create trigger by_hand before insert on rota_output when new.data = x'21'"
        " begin select raise(abort, 'refused by hand'); end"
    )
    books = Books(ledger.database, actor=lambda: "a", adopt=lambda _claim_ids: None)
    for claim, data in ((first, b"1"), (refused, b"!"), (last, b"3")):
        books.hear_report(Report(claim.claim_id, (Piece("stdout", 0, data),)))

    books.tell()

    assert [output_of(ledger.database, claim.run_id) for claim in (first, refused, last)] == [b"1", b"", b"3"]
    assert books.seconds_until_report() is None
