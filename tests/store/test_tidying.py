"""Output goes when it was kept long enough, and nothing else does."""

from __future__ import annotations

from rota.model.run import NewRun, Piece, Report, Written
from rota.store import runs
from rota.store.reports import keep_reports
from rota.store.tidying import BATCH_MAX, tidy_output
from tests.store.ledger import Ledger

DAY = 86400.0


def wrote(ledger: Ledger, run_id: int) -> bool:
    return bool(runs.read_transcript(ledger.database, run_id).pieces)


def end_one(ledger: Ledger) -> int:
    ledger.enqueue()
    claim = ledger.claim_one()
    ledger.end(claim, "exited", exit_code=0, stdout=Written(b"out", b"", 3))
    return claim.run_id


def test_what_ended_long_ago_loses_its_output_and_keeps_its_history(ledger: Ledger) -> None:
    ledger.add_job()
    old = end_one(ledger)
    ledger.clock.advance(days=2)
    young = end_one(ledger)

    assert [tidy_output(ledger.database, DAY), tidy_output(ledger.database, DAY)] == [1, 0]

    assert (wrote(ledger, old), wrote(ledger, young)) == (False, True)
    assert runs.read_run(ledger.database, old)["attempts"][0]["stdout_bytes"] == 3
    assert ledger.violations() == []


def test_what_a_job_that_runs_for_long_has_written_stays(ledger: Ledger) -> None:
    claim = ledger.start_one()
    keep_reports(ledger.database, {"c": Report(claim.claim_id, (Piece("stdout", 0, b"a"),))})
    ledger.clock.advance(days=2)

    assert tidy_output(ledger.database, DAY) == 0

    assert wrote(ledger, claim.run_id)


def test_it_goes_in_batches(ledger: Ledger) -> None:
    ledger.add_job()
    ledger.enqueue_many([NewRun("job")] * (BATCH_MAX + 1))
    for claim in ledger.claim("a", BATCH_MAX + 1):
        ledger.end(claim, "exited", exit_code=0, stdout=Written(b"x", b"", 1))
    ledger.clock.advance(days=2)

    assert [tidy_output(ledger.database, DAY) for _ in range(3)] == [BATCH_MAX, 1, 0]
