"""What people mean by a moment that they name roughly."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from rota.errors import Invalid
from rota.model.named_time import NamedTime, parse_named_time

AMSTERDAM = ZoneInfo("Europe/Amsterdam")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "start", "seconds"),
    [
        ("2026-11-02", "2026-11-01T23:00", 86400.0),
        ("2026-11-02T12:01", "2026-11-02T11:01", 60.0),
        ("2026-11-02 12:01", "2026-11-02T11:01", 60.0),
        ("2026-11-02T12:01:30", "2026-11-02T11:01:30", 1.0),
        ("2026-11-02T12:01:30.5", "2026-11-02T11:01:30.500000", 0.000001),
        ("2026-11-02T12:01Z", "2026-11-02T12:01", 60.0),
        ("2026-11-02t12:01:30z", "2026-11-02T12:01:30", 1.0),
        ("2026-11-02T12:01-05:00", "2026-11-02T17:01", 60.0),
        ("2026-11-02T12:01:30+01:00", "2026-11-02T11:01:30", 1.0),
        (datetime(2026, 11, 2, 12, 1), "2026-11-02T11:01", 1.0),  # noqa: DTZ001
        (datetime(2026, 11, 2, 12, 1, tzinfo=UTC), "2026-11-02T12:01", 1.0),
        (datetime(2026, 11, 2, 12, 1, 0, 5, tzinfo=UTC), "2026-11-02T12:01:00.000005", 0.000001),
    ],
)
def test_a_moment_is_as_long_as_it_is_written(value: object, start: str, seconds: float) -> None:
    assert parse_named_time("slot", value, AMSTERDAM) == [NamedTime(at(start), at(start) + timedelta(seconds=seconds))]


def test_a_day_of_a_change_has_23_or_25_hours() -> None:
    (short,) = parse_named_time("slot", "2026-03-29", AMSTERDAM)
    (long,) = parse_named_time("slot", "2026-10-25", AMSTERDAM)

    assert short.end - short.start == timedelta(hours=23)
    assert long.end - long.start == timedelta(hours=25)


def test_a_local_time_that_comes_twice_means_either() -> None:
    spans = parse_named_time("slot", "2026-10-25T02:30", AMSTERDAM)

    assert [span.start for span in spans] == [at("2026-10-25T00:30"), at("2026-10-25T01:30")]
    half = parse_named_time("slot", "2026-04-05T01:45", LORD_HOWE)
    assert half[1].start - half[0].start == timedelta(minutes=30)


def test_a_local_time_that_is_skipped_is_the_end_of_the_gap_and_says_so() -> None:
    (span,) = parse_named_time("slot", "2026-03-29T02:30", AMSTERDAM)

    assert span.start == at("2026-03-29T01:00")
    assert span.gap == "2026-03-29 02:30"
    assert span.last == at("2026-03-29T01:00:59.999999")


@pytest.mark.parametrize("value", ["yesterday", "2026-13-01", "2026-11-02T12", 5, None])
def test_what_cannot_be_read_is_refused(value: object) -> None:
    with pytest.raises(Invalid):
        parse_named_time("slot", value, AMSTERDAM)
