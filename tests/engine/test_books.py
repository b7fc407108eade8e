"""What jobs have told, on its way into the database."""

from __future__ import annotations

import pytest

from rota.engine.books import Books
from rota.model.run import NewRun, Piece, Report
from tests.store.ledger import Ledger, output_of


def test_what_is_refused_of_one_job_holds_up_what_no_other_has_told(ledger: Ledger) -> None:
    if ledger.database.dialect.name != "sqlite":
        pytest.skip("what refuses it here is written for SQLite")
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
