"""``rota.periods``: waiting for one."""

from __future__ import annotations

import pytest

from rota import Conflict, Invalid, PeriodTimeout, Rota
from rota.client.periods import Periods
from rota.store.periods import look_at_periods
from tests.store.ledger import Ledger


@pytest.fixture
def hits(rota: Rota) -> str:
    rota.jobs.add("hits", shell="true", period="hour", period_start="2026-11-02T10")
    return "hits"


def test_waiting_for_a_period_ends_when_it_is_finished(rota: Rota, hits: str, ledger: Ledger) -> None:
    def work(_seconds: float) -> None:
        look_at_periods(ledger.database)
        if claims := ledger.claim(limit=1):
            ledger.end(ledger.started(claims[0]))

    found = Periods(rota, sleep=work).wait(hits, "2026-11-02T11", timeout=60)

    assert (found["period"], found["state"]) == ("2026-11-02T11", "processed")


def test_waiting_for_a_period_gives_up_in_time_also_for_one_that_has_not_begun(rota: Rota, hits: str) -> None:
    with pytest.raises(PeriodTimeout, match="`rota why period hits 2030-01-01T00`"):
        rota.periods.wait(hits, "2030-01-01T00", timeout=0)


def test_a_period_before_the_first_is_not_waited_for(rota: Rota, hits: str) -> None:
    with pytest.raises(Invalid, match="the periods of job hits begin with 2026-11-02T10"):
        rota.periods.wait(hits, "2026-11-02T09")


def test_whoever_asks_for_a_period_that_is_not_there_is_told_where_they_begin_and_end(rota: Rota, hits: str) -> None:
    for ask in (rota.periods.reprocess, rota.why.period):
        with pytest.raises(Invalid, match="the periods of job hits begin with 2026-11-02T10"):
            ask(hits, "2026-11-02T09")  # before any node has looked at them
    with pytest.raises(
        Conflict, match="period 2026-11-02T13 of job hits has not begun: it does at 2026-11-02T13:00:00Z"
    ):
        rota.why.period(hits, "2026-11-02T13")


def test_a_first_period_far_ahead_is_refused_in_whole_seconds(rota: Rota) -> None:
    with pytest.raises(Invalid, match="2027-01-01T00, begins in 59d12h: choose one that has begun"):
        rota.jobs.add("hits", shell="true", period="hour", period_start="2027")


def test_what_waits_for_older_periods_says_so_from_the_beginning(rota: Rota, hits: str, ledger: Ledger) -> None:
    look_at_periods(ledger.database)

    assert rota.why.period(hits, "2026-11-02T11")["because"] == [
        "hits 2026-11-02T11 is open: older periods of its job come first",
        f"hits 2026-11-02T10 is in_progress: {rota.periods.list(hits)[0]['reason_text']}; `rota why run 1` tells more",
    ]


def test_the_name_of_a_day_stands_for_its_hours(rota: Rota, hits: str, ledger: Ledger) -> None:
    rota.jobs.add("shifts", shell="true", period="6 hours", period_start="2026-11-01")
    look_at_periods(ledger.database)
    look_at_periods(ledger.database)

    listed = rota.periods.list("shifts", first="2026-11-01", last="2026-11-01")

    assert [one["period"][11:13] for one in listed] == ["00", "06", "12", "18"]
    assert rota.periods.skip("shifts", "2026-11-01")["count"] == 4
    with pytest.raises(Conflict, match="period 2026-11-02T23 of job hits has not begun"):
        rota.periods.skip(hits, "2026-11-02T10", "2026-11-02")
    with pytest.raises(Invalid, match="the periods of job hits begin with 2026-11-02T10"):
        rota.periods.skip(hits, "2026-11-02")
