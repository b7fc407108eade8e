"""Calendars through the Python door: what they close, who names them, and what a change of one does."""

from __future__ import annotations

import pytest

from rota import AlreadyExists, Conflict, Invalid, NotFound, Rota
from tests.clock import BEGINNING
from tests.engine.node import Node
from tests.store.ledger import Ledger

# BEGINNING is Monday 2 November 2026, 12:00 UTC.


@pytest.fixture
def job(rota: Rota) -> str:
    rota.jobs.add("job", shell="true")
    return "job"


def slots(rota: Rota, key: str, n: int = 3) -> list[str]:
    return [slot.strftime("%a %d") for slot in rota.schedules[key].next(n)]


def test_a_calendar_is_shown_with_the_schedules_that_name_it(rota: Rota, job: str) -> None:
    rota.calendars.add("rest", weekdays=["sat", "sun"], dates=["2026-12-24..2026-12-26"], open_dates=["2026-12-26"])
    rota.schedules.add("daily", job, cron="0 7 * * *", calendars=["rest"])

    view = rota.calendars.show("rest")

    assert (view["weekdays"], view["schedules"], view["revision"]) == (["sat", "sun"], ["daily"], 1)
    assert [one["name"] for one in rota.calendars.list()] == ["rest"]
    assert rota.schedules["daily"].show()["calendars"] == ["rest"]


def test_a_country_closes_its_holidays(rota: Rota, job: str) -> None:
    view = rota.calendars.add("nl", country="NL")
    rota.schedules.add("christmas", job, cron="0 7 25 12 *", calendars=["nl"], on_closed="next")

    assert view["holidays"]["2026-12-25"] == "Christmas Day"
    assert view["holidays_until"] == 2036
    assert slots(rota, "christmas", 1) == ["Sun 27"]  # the 26th is one too


def test_what_is_closed_is_skipped_and_has_its_row(rota: Rota, job: str, ledger: Ledger) -> None:
    rota.calendars.add("mondays", weekdays=["mon"])
    rota.schedules.add("each", job, cron="30 12 * * *", calendars=["mondays"])
    node = Node(ledger)

    ledger.clock.advance(minutes=30)
    node.round()

    (run,) = rota.runs.list()
    assert (run["state"], run["reason"]["code"]) == ("skipped", "calendar")
    assert run["reason"]["text"] == "calendar mondays is closed: Monday"


def test_a_change_moves_the_next_slot_of_an_idle_schedule(rota: Rota, job: str) -> None:
    rota.calendars.add("rest", weekdays=["tue"])
    rota.schedules.add("moves", job, cron="0 7 * * *", calendars=["rest"], on_closed="next")
    assert rota.schedules["moves"].show()["next_slot"].startswith("2026-11-04")

    rota.calendars.add("rest", weekdays=["wed"], if_exists="update")

    assert rota.schedules["moves"].show()["next_slot"].startswith("2026-11-03")
    assert rota.calendars.show("rest")["revision"] == 2


def test_a_calendar_that_is_named_is_not_deleted(rota: Rota, job: str) -> None:
    rota.calendars.add("rest", weekdays=["tue"])
    rota.schedules.add("daily", job, cron="0 7 * * *", calendars=["rest"])

    with pytest.raises(Conflict, match="named by schedule daily"):
        rota.calendars.delete("rest")
    rota.schedules["daily"].edit(calendars=None)
    rota.calendars.delete("rest")

    assert rota.calendars.list() == []
    with pytest.raises(NotFound):
        rota.calendars.show("rest")


def test_a_name_is_given_once(rota: Rota) -> None:
    rota.calendars.add("rest", weekdays=["tue"])

    with pytest.raises(AlreadyExists):
        rota.calendars.add("rest", weekdays=["wed"])
    assert rota.calendars.add("rest", weekdays=["wed"], if_exists="skip")["weekdays"] == ["tue"]


def test_a_schedule_whose_calendar_is_gone_is_set_aside_and_stops_no_other(
    rota: Rota, job: str, ledger: Ledger
) -> None:
    rota.calendars.add("rest", weekdays=["tue"])
    rota.schedules.add("closed", job, every="60s", calendars=["rest"])
    rota.schedules.add("open", job, every="60s")
    ledger.execute("delete from rota_calendar")
    node = Node(ledger)

    ledger.clock.advance(minutes=1)
    node.round()

    assert "no calendar of that name" in rota.schedules["closed"].show()["problem"]
    assert [run["schedule"] for run in rota.runs.list()] == ["open"]


def test_many_schedules_are_added_at_once_or_none_of_their_thousand(rota: Rota, job: str, ledger: Ledger) -> None:
    requests = [{"key": f"s{number}", "job": job, "every": "1h"} for number in range(1500)]

    assert rota.schedules.add_many(requests) == 1500
    assert ledger.value("select count(*) from rota_schedule") == 1500
    assert ledger.value("select count(*) from rota_event where kind = 'schedule' and to_state = 'added'") == 1500
    assert rota.schedules["s7"].show()["anchor"].startswith(BEGINNING.strftime("%Y-%m-%dT%H:%M"))
    with pytest.raises(AlreadyExists):
        rota.schedules.add_many([{"key": "new", "job": job, "every": "1h"}, requests[3]])
    with pytest.raises(AlreadyExists):
        rota.schedules.add_many([{"key": "new", "job": job, "every": "1h"}] * 2)
    with pytest.raises(NotFound):
        rota.schedules.add_many([{"key": "new", "job": job, "every": "1h"}, {"key": "n", "job": "no", "every": "1h"}])
    with pytest.raises(Invalid):
        rota.schedules.add_many([{"key": "new", "job": job, "every": "1h"}, {"key": "n", "job": job, "every": "0s"}])
    assert not rota.schedules["new"].exists()
    assert rota.schedules.add_many([*requests, {"key": "new", "job": job, "every": "1h"}], if_exists="skip") == 1
