"""A year with outages, under every policy: each slot has its row, or is in a row that stands for many.

Which slots there are is found out a second time, by walking over minutes and days (``tests.model.slow_cron`` for cron),
so that a mistake of the timing cannot hide itself. Seeds are fixed: a failure comes again.
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from itertools import cycle, product
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from rota.testing import SimulatedRun, Simulation
from tests.model.slow_cron import make_fields, slots_between

START = datetime(2026, 1, 1, tzinfo=UTC)
END = datetime(2027, 1, 1, tzinfo=UTC)
SPRING = datetime(2026, 5, 1, tzinfo=UTC)  # after the nights of the year that have a gap
AMSTERDAM, NEW_YORK = ZoneInfo("Europe/Amsterdam"), ZoneInfo("America/New_York")
CLOSED_DATES = frozenset({date(2026, 4, 27), date(2026, 12, 25), date(2026, 12, 26)})

POLICIES = [
    (catch_up, overlap)
    for catch_up, overlap in product(("latest", "all", "none"), ("skip", "queue", "replace", "allow"))
    if (catch_up, overlap) != ("all", "replace")  # refused: the one wants what the other cancels
]
CATCH_UP_LIMIT = 5  # small, so that it is reached, and queues stay short enough for the time a test may take
ENDED = {"succeeded", "failed", "skipped", "missed", "cancelled", "lost"}


@dataclass(frozen=True)
class Rhythm:
    """What makes a schedule due, and the slow opinion about it."""

    options: dict[str, Any]
    expected: Callable[[], list[datetime]]


def by_cron(expression: str, zone: ZoneInfo) -> Callable[[], list[datetime]]:
    return cache(lambda: slots_between(make_fields(*expression.split()), zone, START, END))


def by_day(times_of: Callable[[date], list[time]], zone: ZoneInfo) -> Callable[[], list[datetime]]:
    """Walk over the local days; none of the times may lie in a gap or a fold."""

    def walk() -> Iterator[datetime]:
        day = START.date() - timedelta(days=2)
        while day <= END.date() + timedelta(days=2):
            for at in times_of(day):
                yield datetime.combine(day, at, zone).astimezone(UTC)
            day += timedelta(days=1)

    return cache(lambda: sorted({slot for slot in walk() if START < slot <= END}))


def every_eight_hours() -> list[datetime]:
    return [START + timedelta(hours=8 * number) for number in range(1, 365 * 3 + 1)]


def is_closed(day: date) -> bool:
    return day.weekday() >= 5 or day in CLOSED_DATES


def open_day_after(day: date) -> date:
    while is_closed(day):
        day += timedelta(days=1)
    return day


def moved_days() -> set[date]:
    return {open_day_after(date(2025, 12, 20) + timedelta(days=number)) for number in range(390)}


MOVED = moved_days()
HALF_PAST_TWO, SIX, NINE, NOON = time(2, 30), time(6), time(9), time(12)

RHYTHMS = {
    "fixed": Rhythm(
        {"cron": "30 2 * * *", "tz": "Europe/Amsterdam"},
        by_cron("30 2 * * *", AMSTERDAM),
    ),
    "interval-like": Rhythm(
        {"cron": "*/30 */8 * * *", "tz": "America/New_York"},
        by_cron("*/30 */8 * * *", NEW_YORK),
    ),
    "every": Rhythm({"every": "8h", "anchor": START}, every_eight_hours),
    "interval": Rhythm(
        {"interval": "2 days at 09:00", "anchor": "2026-01-02T00:00", "tz": "Europe/Amsterdam"},
        by_day(
            lambda day: [NINE] if day >= date(2026, 1, 2) and (day - date(2026, 1, 2)).days % 2 == 0 else [], AMSTERDAM
        ),
    ),
    "weekly": Rhythm(
        {"weekly": "mon-fri 06:00,12:00; sat 09:00", "tz": "Europe/Amsterdam"},
        by_day(lambda day: [SIX, NOON] if day.weekday() < 5 else [NINE] if day.weekday() == 5 else [], AMSTERDAM),
    ),
    "any": Rhythm(
        {"cron": ["0 12 * * 1", "0 12 1,15 * *"], "weekly": "daily 09:00", "tz": "Europe/Amsterdam"},
        by_day(
            lambda day: [NINE, NOON] if day.weekday() == 0 or day.day in {1, 15} else [NINE],
            AMSTERDAM,
        ),
    ),
    "skipping": Rhythm(
        {"cron": "0 6 * * *", "tz": "Europe/Amsterdam", "calendars": ["rest"]},
        by_day(lambda _: [SIX], AMSTERDAM),
    ),
    "shifting": Rhythm(
        {"cron": "0 6 * * *", "tz": "Europe/Amsterdam", "calendars": ["rest"], "on_closed": "next"},
        by_day(lambda day: [SIX] if day in MOVED else [], AMSTERDAM),
    ),
}


def make_outages(chance: random.Random, end: datetime) -> list[tuple[datetime, datetime]]:
    """Return outages of a few minutes to a few weeks, which are more than half of a year together."""
    found: list[tuple[datetime, datetime]] = []
    moment = START
    while True:
        moment += timedelta(minutes=chance.choice((7, 300, 2000, 6000)) * chance.uniform(0.5, 2.0))
        length = timedelta(minutes=chance.choice((3, 90, 1500, 12_000, 55_000)) * chance.uniform(0.5, 1.5))
        if moment + length > end - timedelta(days=1):
            return found
        found.append((moment, moment + length))
        moment += length


def some_duration(chance: random.Random) -> Callable[[SimulatedRun], timedelta]:
    return lambda _: timedelta(minutes=chance.choice((0, 0, 0, 30, 30, 240, 720)))  # even ones end together


def simulate(seed: int, chosen: dict[str, tuple[str, str, str]], until: datetime = END) -> Simulation:
    """Run the year, or its beginning; the caller closes what it gets."""
    chance = random.Random(seed)
    sim = Simulation(START, slots=10_000)
    sim.rota.jobs.add("job", command=["true"], retries=1)
    sim.handle("job", lambda _: None, takes=some_duration(chance))
    sim.rota.calendars.add("rest", weekdays=["sat", "sun"], dates=[day.isoformat() for day in sorted(CLOSED_DATES)])
    for key, (kind, catch_up, overlap) in chosen.items():
        options = RHYTHMS[kind].options
        policy = {"catch_up": catch_up, "overlap": overlap, "catch_up_limit": CATCH_UP_LIMIT}
        sim.rota.schedules.add(key, job="job", **policy, **options)
    for start, end in make_outages(chance, until):
        sim.down(start, end)
    sim.run_until(until)
    return sim


def account(sim: Simulation, key: str, kind: str, until: datetime = END) -> list[datetime]:
    """Compare the rows of a schedule with what is expected, and return all its slots."""
    expected = [slot for slot in RHYTHMS[kind].expected() if slot <= until]
    runs = sim.runs(schedule=key)
    covered: list[datetime] = []
    for run in runs:
        first = datetime.fromisoformat(run["slot"])
        last = first if run["slot_last"] is None else datetime.fromisoformat(run["slot_last"])
        among = expected[bisect_left(expected, first) : bisect_right(expected, last)]
        assert len(among) == run["slot_count"], f"{key}: run {run['id']} stands for other slots than {first} to {last}"
        covered += among
    assert sorted(covered) == expected, f"{key}: a slot has no row, or two"
    assert sum(run["slot_count"] for run in runs) == len(expected)
    return expected


def explain(sim: Simulation, key: str, slots: list[datetime]) -> None:
    for slot in slots:
        answer = sim.rota.why.schedule(key, slot)
        assert answer["state"] in ENDED | {"running", "waiting", "ready"}, f"{key}, {slot}: {answer['because']}"
        assert answer["events"], f"{key}, {slot}: nothing is told"


def one_kind_each() -> dict[str, tuple[str, str, str]]:
    """Give each policy one kind, in turn: all pairs are a matter of many minutes."""
    return {
        f"{kind}-{catch_up}-{overlap}": (kind, catch_up, overlap)
        for kind, (catch_up, overlap) in zip(cycle(RHYTHMS), POLICIES, strict=False)
    }


@pytest.mark.parametrize("until", [SPRING, pytest.param(END, marks=pytest.mark.long)], ids=lambda at: f"{at:%B}")
def test_a_year_with_outages_accounts_for_every_slot_under_every_policy(until: datetime) -> None:
    chosen = one_kind_each()
    with simulate(20260101, chosen, until) as sim:
        chance = random.Random(7)
        summed_up = [run for run in sim.runs() if run["slot_count"] > 1]
        for key, (kind, _, _) in chosen.items():
            slots = account(sim, key, kind, until)
            explain(sim, key, chance.sample(slots, 8))

        assert {policy[1:] for policy in chosen.values()} == set(POLICIES)
        assert {kind for kind, _, _ in chosen.values()} == set(RHYTHMS)
        assert len(summed_up) > 3, "no outage was long enough for a row that stands for many"
        for run in summed_up[:10]:
            first, last = datetime.fromisoformat(run["slot"]), datetime.fromisoformat(run["slot_last"])
            within = [slot for slot in RHYTHMS[chosen[run["schedule"]][0]].expected() if first <= slot <= last]
            explain(sim, run["schedule"], [within[0], within[len(within) // 2], within[-1]])


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(3))
def test_many_years_with_outages_and_why_finds_every_slot(seed: int) -> None:
    chosen = {
        f"{kind}-{catch_up}-{overlap}": (kind, catch_up, overlap)
        for kind, (catch_up, overlap) in product(RHYTHMS, POLICIES)
    }
    with simulate(seed, chosen) as sim:
        for key, (kind, _, _) in chosen.items():
            explain(sim, key, account(sim, key, kind))
