"""``rota.periods``, and ``rota.backfills`` of jobs that have some."""

from __future__ import annotations

import pytest

from rota import Conflict, Invalid, PeriodTimeout, Rota
from rota.client.periods import Periods
from rota.store.periods import look_at_periods
from tests.store.ledger import Ledger
from tests.store.timelines import Timelines


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
    with pytest.raises(Conflict, match="period 2026-11-02T23 of job hits has not begun"):
        rota.periods.skip(hits, "2026-11-02")
    with pytest.raises(Invalid, match="the periods of job hits begin with 2026-11-02T10"):
        rota.periods.skip(hits, "2026-11-01")


@pytest.fixture
def timelines(ledger: Ledger) -> Timelines:
    """Hours of three days, of which one failed and was given up, and the days that roll them up."""
    timelines = Timelines(ledger)
    timelines.add("hits", period_start="2026-10-30", give_up_failures=1)
    timelines.add("daily", "day", period_start="2026-10-30", rolls_up=["hits"])
    bad = {"2026-10-30T05", "2026-10-31T07", "2026-10-31T08"}
    timelines.work(lambda claim: "failed" if claim.part is not None and claim.part.key in bad else "succeeded")
    return timelines


def test_a_backfill_of_periods_does_them_again_with_what_is_built_on_them_and_no_others(
    rota: Rota, timelines: Timelines
) -> None:
    timelines.done.clear()

    preview = rota.backfills.preview("hits", "2026-10-30T22:00", "2026-10-31T02:00", downstream=True)
    assert timelines.states("daily")["2026-10-30"] == "processed"
    started = rota.backfills.start("hits", "2026-10-30T22:00", "2026-10-31T02:00", downstream=True)
    timelines.work()

    hours = ["2026-10-30T22", "2026-10-30T23", "2026-10-31T00", "2026-10-31T01"]
    assert started.show() == preview == {
        "count": 6,
        "jobs": [
            {"job": "hits", "count": 4, "periods": hours},
            {"job": "daily", "count": 2, "periods": ["2026-10-30", "2026-10-31"]},
        ],
        "notes": [],
    }  # fmt: skip
    assert timelines.done[:6] == [
        *(("hits", one) for one in hours[:2]),
        ("daily", "2026-10-30"),
        *(("hits", one) for one in hours[2:]),
        ("daily", "2026-10-31"),
    ]


@pytest.mark.parametrize("wish", [{}, {"failed_only": True}, {"failed_only": True, "downstream": True}])
def test_a_backfill_of_periods_may_be_of_the_failed_ones_only(
    rota: Rota, timelines: Timelines, wish: dict[str, bool]
) -> None:
    timelines.done.clear()

    started = rota.backfills.start("hits", "2026-10-30", "2026-11-02", **wish)

    assert [(one["job"], one["periods"]) for one in started.show()["jobs"]] == [
        ("hits", ["2026-10-30T05", "2026-10-31T07", "2026-10-31T08"]),
        ("daily", ["2026-10-30", "2026-10-31"]),
    ]
    timelines.work()
    assert len(timelines.done) == 5
    assert rota.periods.reprocess("hits", "2026-10-30", "2026-11-01", failed_only=True)["count"] == 0


def test_what_a_person_did_without_is_backfilled_unless_only_the_failed_are(rota: Rota, timelines: Timelines) -> None:
    timelines.edit("hits", period_start="2026-10-29T22")
    timelines.look()
    timelines.skip("hits", "2026-10-29T22")
    timelines.work()

    assert rota.backfills.preview("hits", "2026-10-29T22:00", "2026-10-30", failed_only=True)["count"] == 0
    assert rota.backfills.preview("hits", "2026-10-29T22:00", "2026-10-30")["jobs"][0]["periods"] == ["2026-10-29T22"]


@pytest.mark.parametrize(
    ("start", "end", "options", "says"),
    [
        ("2026-10-30T00:10", "2026-10-30T00:50", {}, "no period of job hits begins .*2026-10-30T00 goes on then"),
        ("2026-10-31", "2026-10-30", {}, "swap them"),
        ("2026-10-28", "2026-10-30", {}, "the periods of job hits begin with 2026-10-30T00"),
        ("2026-10-31", "2026-10-31", {}, "nothing lies between"),
        ("2026-10-31", "2027-01-01", {}, "period 2026-12-31T23 of job hits has not begun"),
        ("2026-10-30", "2026-10-31", {"order": "newest"}, "order 'newest' is .* are done oldest first: leave it out"),
        ("2026-10-30", "2026-10-31", {"max_active": 3}, "max_active 3 is .*`rota job edit hits --periods-at-once N`"),
    ],
)
def test_a_backfill_that_the_periods_do_not_have_is_refused(
    rota: Rota, timelines: Timelines, start: str, end: str, options: dict[str, object], says: str
) -> None:
    before = timelines.states("hits"), timelines.states("daily")

    for ask in (rota.backfills.start, rota.backfills.preview):
        with pytest.raises((Invalid, Conflict), match=says):
            ask("hits", start, end, again=True, **options)

    assert (timelines.states("hits"), timelines.states("daily")) == before


def test_of_a_day_in_which_the_periods_begin_the_part_that_there_is_is_meant(rota: Rota, timelines: Timelines) -> None:
    timelines.edit("hits", period_start="2026-10-29T22")
    timelines.work()

    for ask in (rota.periods.reprocess("hits", "2026-10-29", dry_run=True),
                rota.backfills.preview("hits", "2026-10-29", "2026-10-30", again=True)):  # fmt: skip
        assert ask["jobs"][0]["periods"] == ["2026-10-29T22", "2026-10-29T23"]
    with pytest.raises(Invalid, match="the periods of job hits begin with 2026-10-29T22"):
        rota.periods.reprocess("hits", "2026-10-29T21")


def test_periods_are_listed_from_the_earlier_to_the_later_only(rota: Rota, hits: str) -> None:
    with pytest.raises(Invalid, match="it lies before 2026-11-02T11: write the earlier one first"):
        rota.periods.list(hits, first="2026-11-02T11", last="2026-11-02T10")


def test_the_first_period_may_be_an_hour_that_the_clocks_show_twice(rota: Rota) -> None:
    for written in ("2026-10-25T02+01:00", "2026-10-25T02:00+01:00"):
        view = rota.jobs.add(
            "hits", shell="true", period="hour", period_tz="Europe/Amsterdam", period_start=written, if_exists="update"
        )
        assert view["period_start"] == "2026-10-25T01:00:00.000000Z"
    with pytest.raises(Invalid, match=r"write 2026-10-25T02\+02:00 or 2026-10-25T02\+01:00"):
        rota.jobs.edit("hits", period_start="2026-10-25T02")


def test_whoever_takes_back_what_would_be_skipped_again_is_told(rota: Rota, timelines: Timelines) -> None:
    rota.periods.skip("daily", "2026-11-01")
    rota.periods.reprocess("hits", "2026-11-01")
    rota.periods.skip("hits", "2026-11-01")
    timelines.work()

    touched = rota.periods.reprocess("daily", "2026-11-01", dry_run=True)

    assert touched["notes"] == ["all within 2026-11-01 was skipped, and it is skipped again unless hits is done again"]


def test_a_paused_job_makes_no_runs_so_that_it_can_be_reset_and_cut_otherwise(
    rota: Rota, hits: str, ledger: Ledger
) -> None:
    timelines = Timelines(ledger)
    timelines.work()
    with pytest.raises(Conflict, match="2 periods of job hits were worked on: with `rota job pause hits`"):
        rota.jobs.edit(hits, period="2 hours")

    rota.jobs.pause(hits)
    rota.jobs.reset(hits)
    timelines.work()
    assert rota.periods.list(hits)[0]["reason"] == "paused"
    assert rota.why.period(hits, "2026-11-02T10")["because"] == ["hits 2026-11-02T10 is open: its job is paused"]
    rota.jobs.edit(hits, period="2 hours")
    timelines.work()
    assert set(timelines.states(hits).values()) == {"open"}
    rota.jobs.resume(hits)
    timelines.work()

    assert timelines.states(hits) == {
        "2026-11-02T10..2026-11-02T11": "processed",
        "2026-11-02T12..2026-11-02T13": "open",
    }


def test_a_run_of_a_period_is_done_again_with_what_builds_on_it_by_its_period(
    rota: Rota, hits: str, ledger: Ledger
) -> None:
    timelines = Timelines(ledger)
    timelines.work()

    with pytest.raises(Conflict, match="`rota period reprocess hits 2026-11-02T10` does"):
        rota.runs[timelines.runs(hits)[0].id].rerun(downstream=True)
