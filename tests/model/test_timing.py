"""When a schedule is due, of each kind: what is due, what is counted, what is kept and what is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.errors import Invalid
from rota.model.calendars import Calendar
from rota.model.grids import ElapsedGrid, LocalGrid
from rota.model.timing import Fold, Gap, Timing, parse_any
from rota.model.values import check_word
from tests.model.slow_cron import instant

ANCHOR = instant("2026-03-28T12:00:00.250000")
OFFSETS = st.timedeltas(timedelta(days=-3), timedelta(days=400))


def test_every_keeps_its_grid_through_a_change_of_the_clock() -> None:
    timing = Timing.every("1d", ANCHOR, "Europe/Amsterdam")

    assert list(islice(timing.preview(ANCHOR), 2)) == [ANCHOR + timedelta(days=1), ANCHOR + timedelta(days=2)]


@given(st.integers(1_000_000, 10**12), OFFSETS)
def test_every_is_later_on_its_grid_and_not_further_than_one_interval(micros: int, offset: timedelta) -> None:
    timing = Timing.every(timedelta(microseconds=micros), ANCHOR)
    after = ANCHOR + offset

    slot = timing.next(after)

    assert slot is not None
    assert after < slot
    assert slot - max(after, ANCHOR) <= timedelta(microseconds=micros)
    assert (slot - ANCHOR) % timedelta(microseconds=micros) == timedelta(0)
    assert slot > ANCHOR


@given(st.integers(3600, 10**6), OFFSETS, st.integers(0, 10**7), st.integers(1, 30))
def test_counting_and_the_last_slots_of_every_agree_with_visiting_each(
    seconds: int, offset: timedelta, length: int, limit: int
) -> None:
    timing = Timing.every(seconds, ANCHOR)
    after, until = ANCHOR + offset, ANCHOR + offset + timedelta(seconds=length)
    visited = timing.slots(after, until, 100_000)

    assert timing.count(after, until) == len(visited)
    assert timing.last(after, until, limit) == visited[-limit:]


def test_at_is_due_once() -> None:
    timing = Timing.at("2026-11-20T07:00", "Europe/Amsterdam")
    slot = instant("2026-11-20T06:00")

    assert timing.next(slot - timedelta(microseconds=1)) == slot
    assert timing.next(slot) is None
    assert timing.count(slot - timedelta(days=1), slot) == 1
    assert timing.count(slot, slot + timedelta(days=1)) == 0
    assert timing.last(slot - timedelta(days=1), slot, 5) == [slot]
    assert timing.period_seconds(slot) is None


def test_a_period_is_the_distance_to_the_next_slot() -> None:
    assert Timing.cron("0 9 * * mon-fri").period_seconds(instant("2026-11-20T09:00")) == 3 * 86400
    assert Timing.every("90s", ANCHOR).period_seconds(ANCHOR + timedelta(seconds=90)) == 90


@pytest.mark.parametrize(
    "timing",
    [
        Timing.cron("0 7 * * *", "Europe/Amsterdam"),
        Timing.cron("@daily"),
        Timing.every(1.5, ANCHOR),
        Timing.every("30d", ANCHOR, "Asia/Tokyo"),
        Timing.at(ANCHOR),
        Timing.cron("H H(0-5) * * *", "Asia/Tokyo", name="nightly"),
        Timing.cron("30 2 * * *", "Europe/Amsterdam", gap=Gap.SKIP, fold=Fold.LAST),
        Timing.interval("3 Months at 7:00", ANCHOR, "Europe/Amsterdam"),
        Timing.interval("1 day", ANCHOR),
        Timing.weekly("Mon-Fri 7:30, 12:00; sat 09:00", "Europe/Amsterdam", fold=Fold.BOTH),
        Timing.checked([("cron", "0 7 * * *"), ("at", "2026-12-24T10:00"), ("every", "6h")], "Asia/Tokyo", ANCHOR),
        Timing.checked([("cron", "H 7 * * *"), ("weekly", "daily 12:00")], name="nightly"),
    ],
)
def test_what_the_store_keeps_is_read_back(timing: Timing) -> None:
    again = Timing.from_stored(
        str(timing.kind),
        timing.expression,
        timing.zone,
        timing.anchor,
        name="nightly",
        gap=str(timing.gap),
        fold=str(timing.fold),
    )

    assert again == timing
    assert again.next(ANCHOR - timedelta(days=1)) == timing.next(ANCHOR - timedelta(days=1))
    assert timing.describe()


@pytest.mark.parametrize(
    ("kind", "expression", "zone", "anchor", "field"),
    [
        ("cron", "60 * * * *", "UTC", None, "cron"),
        ("cron", "* * * * *", "JST-9", None, "tz"),
        ("every", "soon", "UTC", ANCHOR, "every"),
        ("every", "0", "UTC", ANCHOR, "every"),
        ("every", "0.5", "UTC", ANCHOR, "every"),
        ("every", "5", "UTC", None, "anchor_at"),
        ("at", "tomorrow", "UTC", None, "at"),
        ("weekly", "", "UTC", None, "weekly"),
        ("interval", "1 day", "UTC", None, "anchor_at"),
        ("interval", "1 day", "UTC", datetime(9999, 1, 1, tzinfo=UTC), "anchor_at"),
        ("cron", "H * * * *", "UTC", None, "cron"),
        ("yearly", "", "UTC", None, "kind"),
        ("any", "", "UTC", None, "expression"),
        ("any", "{}", "UTC", None, "expression"),
        ("any", "[" * 100_000, "UTC", None, "expression"),
        ("any", '[["cron","0 7 * * *"]]', "UTC", None, "expression"),
        ("any", '[["cron","0 7 * * *"],["cron","0 7 * * *"]]', "UTC", None, "expression"),
        ("any", '[["cron","0 7 * * *"],["cron",7]]', "UTC", None, "expression"),
        ("any", '[["cron","0 7 * * *"],["any","[]"]]', "UTC", None, "expression"),
        ("any", '[["cron","0 7 * * *"],[["cron"],"0 8 * * *"]]', "UTC", None, "expression"),
        ("any", '[["cron","0 7 * * *"],["cron"]]', "UTC", None, "expression"),
        ("any", '[["cron","0 7 * * *"],["cron","61 * * * *"]]', "UTC", None, "cron"),
        ("any", '[["cron","0 7 * * *"],["every","60"]]', "UTC", None, "anchor_at"),
        (None, "", "UTC", None, "kind"),
    ],
)
def test_a_row_broken_by_hand_is_refused(
    kind: Any, expression: str, zone: str, anchor: datetime | None, field: str
) -> None:
    with pytest.raises(Invalid) as refused:
        Timing.from_stored(kind, expression, zone, anchor)

    assert refused.value.field == field


@pytest.mark.parametrize(("gap", "fold", "field"), [("sometimes", "first", "gap"), ("shift", None, "fold")])
def test_a_choice_broken_by_hand_is_refused(gap: Any, fold: Any, field: str) -> None:
    with pytest.raises(Invalid) as refused:
        Timing.from_stored("cron", "0 7 * * *", "UTC", None, gap=gap, fold=fold)

    assert refused.value.field == field


TIMINGS = [
    Timing.cron("30 2 * * *", "Europe/Amsterdam"),
    Timing.cron("0,30 0-3 * * *", "Africa/Cairo", fold=Fold.BOTH),
    Timing.cron("*/20 * * * *", "Australia/Lord_Howe"),
    Timing.cron("*/13 30 2 * * *", "America/Havana", fold=Fold.LAST),
    Timing.cron("0 0 L * *", "Pacific/Apia"),
    Timing.cron("H/20 H * * *", "Asia/Tokyo", name="nightly"),
    Timing.every("5h", ANCHOR),
    Timing.every("1d1h0.25s", ANCHOR),
    Timing.at("2026-04-01T00:00"),
    Timing.interval("1 day at 02:30", ANCHOR, "Europe/Amsterdam", fold=Fold.BOTH),
    Timing.interval("2 weeks at 07:00", ANCHOR, "Asia/Kathmandu"),
    Timing.interval("1 month", instant("2026-01-31T12:00"), "America/Sao_Paulo"),
    Timing.weekly("sat,sun 01:30,02:30; mon 00:00", "Europe/Amsterdam", gap=Gap.SKIP),
    Timing.checked(
        [("cron", "*/15 * * * *"), ("every", "100m"), ("weekly", "daily 02:30"), ("at", "2026-03-29T01:00Z")],
        "Europe/Amsterdam",
        ANCHOR,
    ),
    Timing.checked([("interval", "1 day at 07:00"), ("cron", "0 7 * * MON")], "Europe/Amsterdam", ANCHOR),
]
RESTED = Calendar.checked("rested", weekdays=["sat", "sun"], windows=["2026-03-30T00:00..2026-04-02T12:00"])
ALL_TIMINGS = [
    *TIMINGS,
    *(timing.within(instant("2026-03-29T00:30"), instant("2026-10-25T01:00")) for timing in TIMINGS),
    *(timing.shifted([RESTED], "next") for timing in TIMINGS),
    *(timing.shifted([RESTED], "previous").within(instant("2026-03-29T00:30"), None) for timing in TIMINGS),
]


@given(st.sampled_from(ALL_TIMINGS), OFFSETS, st.integers(0, 40 * 86400), st.integers(1, 30))
@settings(deadline=None, max_examples=300)
def test_counting_and_the_last_slots_of_every_kind_agree_with_visiting_each(
    timing: Timing, offset: timedelta, seconds: int, limit: int
) -> None:
    after = ANCHOR + offset
    until = after + timedelta(seconds=seconds, microseconds=limit % 2)

    visited = timing.slots(after, until, 100_000)

    assert all(earlier < later for earlier, later in pairwise([after, *visited]))
    assert all(slot.tzinfo is UTC for slot in visited)
    assert timing.count(after, until) == len(visited)
    assert timing.last(after, until, limit) == visited[-limit:]


@pytest.mark.parametrize("timing", ALL_TIMINGS)
def test_no_kind_goes_past_the_years_that_can_be_kept(timing: Timing) -> None:
    for text in ("0001-01-01", "2998-12-31T23:59:59.999999", "9999-12-31T23:59:59.999999"):
        found = timing.next(instant(text))

        assert found is None or instant(text) < found < instant("2999-01-01")
        assert timing.count(instant("2998-12-30"), instant("9999-12-31")) < 400
        assert all(slot.year <= 2998 for slot in timing.last(instant("2998-12-30"), instant("9999-12-31"), 5))


def test_any_of_several_is_due_once_where_they_meet() -> None:
    timing = Timing.checked([("cron", "0 * * * *"), ("cron", "0 */2 * * *"), ("at", "2026-03-28T13:30Z")])

    assert timing.kind == "any"
    assert timing.slots(ANCHOR, instant("2026-03-28T15:00"), 10) == [
        instant("2026-03-28T13:00"),
        instant("2026-03-28T13:30"),
        instant("2026-03-28T14:00"),
        instant("2026-03-28T15:00"),
    ]
    assert timing.expression == '[["cron","0 * * * *"],["cron","0 */2 * * *"],["at","2026-03-28T13:30:00.000000Z"]]'


def test_the_same_thing_twice_is_one_and_no_any() -> None:
    assert Timing.checked([("every", "1h"), ("every", 3600)], "UTC", ANCHOR) == Timing.every("60m", ANCHOR)


def test_counting_any_of_several_does_not_visit_the_slots_of_the_densest(monkeypatch: pytest.MonkeyPatch) -> None:
    timing = Timing.checked([("cron", "* * * * * *"), ("cron", "0 7 * * *"), ("every", "100.5s")], "UTC", ANCHOR)
    asked = Counter[str]()
    for grid in (LocalGrid, ElapsedGrid):
        monkeypatch.setattr(grid, "next", counting(asked, grid.next))

    counted = timing.count(ANCHOR, ANCHOR + timedelta(days=1))

    assert counted == 86400 + 86400 * 2 // 201
    assert asked["next"] < 1000


def counting(asked: Counter[str], ask: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*args: Any) -> Any:
        asked["next"] += 1
        return ask(*args)

    return wrapped


def test_an_anchor_is_needed_for_what_counts_from_one() -> None:
    assert Timing.every("1h").needs_anchor
    assert Timing.interval("1 day").needs_anchor
    assert Timing.checked([("cron", "0 7 * * *"), ("every", "1h")]).needs_anchor
    assert not Timing.checked([("cron", "0 7 * * *"), ("weekly", "daily 08:00")]).needs_anchor
    assert not Timing.cron("0 7 * * *").needs_anchor
    assert Timing.from_stored("cron", "0 7 * * *", "UTC", ANCHOR).anchor is None


@pytest.mark.parametrize("expression", [None, "[]", '[["cron","0 7 * * *"]]', "7", "nonsense"])
def test_what_is_no_list_of_several_is_not_parted(expression: Any) -> None:
    with pytest.raises(Invalid) as refused:
        parse_any(expression)

    assert refused.value.field == "expression"


def test_too_many_parts_are_refused() -> None:
    with pytest.raises(Invalid):
        Timing.checked([("every", seconds) for seconds in range(1, 100)])


def test_a_start_and_an_end_are_slots_themselves() -> None:
    start, end = instant("2026-04-01T07:00"), instant("2026-04-03T07:00")
    timing = Timing.cron("0 7 * * *").within(start, end)

    assert list(timing.preview(ANCHOR)) == [start, start + timedelta(days=1), end]
    assert timing.count(ANCHOR, instant("2027-01-01")) == 3
    assert timing.last(ANCHOR, instant("2027-01-01"), 2) == [start + timedelta(days=1), end]
    assert timing.period_seconds(end) is None
    assert timing.within(None, None) == Timing.cron("0 7 * * *")
    assert timing.within(start + timedelta(hours=1), start + timedelta(hours=2)).next(ANCHOR) is None


def test_an_end_before_the_start_is_refused() -> None:
    with pytest.raises(Invalid) as refused:
        Timing.cron("0 7 * * *").within(ANCHOR, ANCHOR - timedelta(seconds=1))

    assert refused.value.field == "end"


def test_notes_tell_what_a_change_of_the_clocks_does_to_a_slot() -> None:
    gap, fold, other = instant("2027-03-28T01:00"), instant("2026-10-25T00:30"), instant("2026-10-26T01:30")
    zone = "Europe/Amsterdam"

    for timing in (
        Timing.cron("30 2 * * *", zone),
        Timing.weekly("daily 02:30", zone),
        Timing.checked([("weekly", "daily 02:30"), ("cron", "0 3 * * *")], zone),
    ):
        assert timing.notes(gap) == ["02:30 does not exist on 2027-03-28 in Europe/Amsterdam: fires at 03:00"]
        assert timing.notes(fold) == ["02:30 comes twice on 2026-10-25 in Europe/Amsterdam: the first one"]
        assert timing.notes(other) == []
    both = Timing.cron("30 2 * * *", zone, gap=Gap.SKIP, fold=Fold.BOTH)
    assert [note[-10:] for slot in (fold, fold + timedelta(hours=1)) for note in both.notes(slot)] == [
        " first one", "second one",
    ]  # fmt: skip
    assert Timing.cron("0-59 2 * * *", zone).notes(gap)[3:] == ["and others"]
    assert Timing.cron("*/30 * * * *", zone).notes(fold) == []
    assert Timing.every("30m", ANCHOR).notes(fold) == []


def test_what_may_surprise_in_an_expression_is_said() -> None:
    timing = Timing.checked([("cron", "0 7 13 * FRI"), ("cron", "0 7 * * *")])

    assert ["either matches" in note for note in timing.describe_notes()] == [True]


@pytest.mark.parametrize(("words", "value"), [(Gap, "never"), (Fold, None), (Fold, 1)])
def test_a_choice_that_there_is_not_is_refused(words: type[Gap | Fold], value: object) -> None:
    with pytest.raises(Invalid) as refused:
        check_word("choice", value, words)

    assert (refused.value.field, refused.value.value) == ("choice", value)
