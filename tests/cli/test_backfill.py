"""``rota backfill``: the words, what is shown, and refusals; what becomes of the slots is tested in the store."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rota import Conflict, Invalid, Rota
from tests.cli.conftest import Call

RANGE = ("--from", "2026-03-01", "--to", "2026-03-04")


@pytest.fixture
def daily(rota: Call) -> Call:
    rota("job", "add", "load", "--shell", "true")
    rota("schedule", "add", "load-daily", "load", "--cron", "0 2 * * *", "--tz", "Europe/Amsterdam")
    return rota


def view(result: Any) -> Any:
    return json.loads(result.stdout)


def test_the_word_start_may_be_left_out(daily: Call):
    said = daily("backfill", "load", *RANGE).stdout
    assert said == "backfill 1: 3 slots of load-daily; `rota backfill show 1`\n"

    assert view(daily("backfill", "start", "load-daily", *RANGE, "--json"))["id"] == 2


def test_local_times_are_in_the_zone_of_the_schedule(daily: Call):
    found = view(daily("backfill", "load", *RANGE, "--order", "newest", "--max-active", "2", "--json"))

    assert (found["from"], found["to"]) == ("2026-02-28T23:00:00.000000Z", "2026-03-03T23:00:00.000000Z")
    assert (found["order"], found["max_active"], found["slots"], found["left"]) == ("newest", 2, 3, 3)
    assert found["schedules"][0]["next_slot"] == "2026-03-03T01:00:00.000000Z"


def test_it_is_shown_paused_resumed_and_cancelled(daily: Call):
    daily("backfill", "load", *RANGE)

    assert daily("backfill", "pause", "1").stdout == "backfill 1 is paused\n"
    assert "paused" in daily("backfill", "list").stdout
    assert daily("backfill", "resume", "1").stdout == "backfill 1 is active\n"
    shown = daily("backfill", "show", "1").stdout
    assert "load-daily" in shown
    assert "2026-03-01 01:00:00" in shown
    assert daily("backfill", "cancel", "1").stdout == "backfill 1 is cancelled\n"
    result = daily("backfill", "resume", "1")
    assert result.exit_code == 1
    assert "backfill 1 was cancelled: see `rota backfill show 1`" in result.stderr


def test_a_dry_run_shows_what_would_be_done(daily: Call):
    result = daily("backfill", "load", *RANGE, "--dry-run")

    assert result.stdout.splitlines()[1].split() == [
        *"load-daily load 3 2026-03-01 01:00:00 2026-03-03 01:00:00 3 0 0 0".split(),
    ]
    assert "no backfills" in daily("backfill", "list").output
    assert view(daily("backfill", "load", *RANGE, "--dry-run", "--json"))["slots"] == 3


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["backfill", "load"], 2, "say which slots of load with --from TIME and --to TIME"),
        (["backfill", "nobody", *RANGE], 1, "there is no job or schedule 'nobody'"),
        (["backfill", "load", *RANGE, "--again", "--failed-only"], 2, "choose one of them"),
        (["backfill", "load", *RANGE, "--max-active", "0"], 2, "a whole number from 1 to 1000"),
        (["backfill", "load", "--from", "yesterday", "--to", "2026-03-01"], 2, "from 'yesterday' is refused"),
        (["backfill", "show", "x"], 2, "a backfill has a number, from 1; see `rota backfill list`"),
        (["backfill", "show", "7"], 1, "there is no backfill '7'"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(daily: Call, words: list[str], status: int, message: str):
    result = daily(*words)

    assert result.exit_code == status
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_same_in_python(daily: Call, url: str):
    with Rota(url, actor="ann") as rota:
        handle = rota.backfills.start("load", "2026-03-01", "2026-03-04", order="newest")

        assert handle.show()["requested_by"] == "ann"
        assert handle.pause()["state"] == "paused"
        assert rota.backfills[handle.id].resume()["state"] == "active"
        assert handle.cancel()["state"] == "cancelled"
        assert [one["id"] for one in rota.backfills.list()] == [handle.id]
        assert rota.backfills.preview("load", "2026-03-01", "2026-03-04")["slots"] == 3
        with pytest.raises(Conflict):
            handle.resume()
        with pytest.raises(Invalid):
            rota.backfills.list(limit=0)
