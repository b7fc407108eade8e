"""What runs tell while they run: fenced by their claim, and replaced by the end."""

from __future__ import annotations

import pytest

from rota.model.run import NewRun, Piece, Report, Written
from rota.store import interventions, runs
from rota.store.advancing import advance_runs
from rota.store.endings import rescue_runs
from rota.store.reports import LIVE_BYTES_MAX, keep_reports
from tests.store.ledger import LEASE_SECONDS, Ledger, output_of, statements_of

pytestmark = pytest.mark.cases_take_turns


def tell(ledger: Ledger, *told: Report) -> None:
    keep_reports(ledger.database, {report.claim_id: report for report in told})


def test_progress_checkpoint_and_output_are_seen_while_it_runs(ledger: Ledger) -> None:
    claim = ledger.start_one()

    tell(
        ledger,
        Report(
            claim.claim_id, (Piece("stdout", 0, b"a\n", ((0, 5),)),), True, 0.25, "loading", '{"page": 3}'
        ),
    )  # fmt: skip

    view = runs.read_run(ledger.database, claim.run_id)
    assert (view["progress"]["fraction"], view["progress"]["message"]) == (0.25, "loading")
    assert view["checkpoint"] == {"page": 3}
    assert output_of(ledger.database, claim.run_id) == b"a\n"


def test_what_is_not_told_again_stays(ledger: Ledger) -> None:
    claim = ledger.start_one()
    tell(ledger, Report(claim.claim_id, (), True, 0.25, "loading", "[1]"))

    tell(ledger, Report(claim.claim_id, (Piece("stdout", 0, b"a\n"),)))

    view = runs.read_run(ledger.database, claim.run_id)
    assert (view["progress"]["fraction"], view["checkpoint"]) == (0.25, [1])


def test_a_report_that_is_told_twice_counts_once(ledger: Ledger) -> None:
    claim = ledger.start_one()
    report = Report(
        claim.claim_id, (Piece("stdout", 0, b"a\n"), Piece("stderr", 0, b"b\n"), Piece("stdout", 2, b"c\n"))
    )

    tell(ledger, report)
    tell(ledger, report)

    assert output_of(ledger.database, claim.run_id) == b"a\nc\nb\n"


def test_one_whose_lease_went_to_another_changes_nothing(ledger: Ledger) -> None:
    stale = ledger.start_one()
    ledger.clock.advance(seconds=LEASE_SECONDS + 1)
    assert rescue_runs(ledger.database, rescuer="b") == 1
    current = ledger.claim_one()

    tell(ledger, Report(stale.claim_id, (Piece("stdout", 0, b"zombie\n"),), True, 0.9, "mine", "[9]"))

    view = runs.read_run(ledger.database, current.run_id)
    assert (view["progress"], view["checkpoint"]) == (None, None)
    assert output_of(ledger.database, current.run_id) == b""


def test_the_next_attempt_gets_the_checkpoint_and_begins_without_progress(ledger: Ledger) -> None:
    first = ledger.start_one(retries=1, retry_delay_seconds=0.0)
    tell(ledger, Report(first.claim_id, (), True, 0.5, None, "[1]"))
    ledger.end(first, "exited", exit_code=1, checkpoint="[2]")
    advance_runs(ledger.database)

    second = ledger.claim_one()

    assert (first.checkpoint, second.checkpoint) == (None, "[2]")
    assert runs.read_run(ledger.database, first.run_id)["progress"] is None


@pytest.mark.parametrize(("exit_code", "kept"), [(0, None), (1, "[1]")])
def test_a_rerun_of_what_succeeded_begins_anew(ledger: Ledger, exit_code: int, kept: str | None) -> None:
    first = ledger.start_one()
    ledger.end(first, "exited", exit_code=exit_code, checkpoint="[1]")

    interventions.rerun_run(ledger.database, first.run_id, actor="ann@desk")

    assert ledger.claim_one().checkpoint == kept


def test_the_end_replaces_what_was_told_before(ledger: Ledger) -> None:
    claim = ledger.start_one()
    tell(ledger, Report(claim.claim_id, (Piece("stdout", 0, b"be"), Piece("stdout", 2, b"fore\n"))))

    ledger.end(claim, "exited", exit_code=0, seconds=2.0, stdout=Written(b"before\nafter\n", b"", 13, ((0, 1),)))

    assert output_of(ledger.database, claim.run_id) == b"before\nafter\n"


def test_of_a_long_output_the_first_and_the_last_bytes_are_kept_meanwhile(ledger: Ledger) -> None:
    claim = ledger.start_one()
    size = LIVE_BYTES_MAX // 8
    for number in range(20):
        tell(ledger, Report(claim.claim_id, (Piece("stdout", number * size, bytes([65 + number]) * size),)))

    pieces = runs.read_transcript(ledger.database, claim.run_id).pieces

    assert [piece.position // size for piece in pieces] == [0, 1, 2, 3, 16, 17, 18, 19]


@pytest.mark.parametrize("count", [1, 20])
def test_reports_of_many_runs_share_their_statements(ledger: Ledger, count: int) -> None:
    ledger.add_job()
    ledger.enqueue_many([NewRun("job")] * count)
    claims = ledger.claim("a", count)

    with statements_of(ledger.database) as sent:
        tell(ledger, *(Report(claim.claim_id, (), True, 0.5) for claim in claims))

    assert len([one for one in sent if "rota_run" in one]) == 3
    assert {found.progress for found in ledger.runs()} == {0.5}


@pytest.mark.parametrize(
    "marks", ["nonsense", "5", "[[0]]", '[[0, "x"]]', "[[0, 1e300]]", "[[-5, 5]]", f"[[0, {10**22}]]"]
)
def test_marks_that_were_broken_by_hand_are_left_out(ledger: Ledger, marks: str) -> None:
    claim = ledger.start_one()
    tell(ledger, Report(claim.claim_id, (Piece("stdout", 0, b"a\n"),)))

    ledger.execute("update rota_output set marks = :marks", marks=marks)

    (piece,) = runs.read_transcript(ledger.database, claim.run_id).pieces
    assert (piece.data, piece.marks) == (b"a\n", ())
