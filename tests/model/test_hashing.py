"""``H``: a time chosen by a hash of the schedule's name."""

from __future__ import annotations

import pytest

from rota.errors import Invalid
from rota.model.cron import parse_cron
from rota.model.hashing import replace_hashes
from tests.model.slow_cron import instant

AMSTERDAM = "Europe/Amsterdam"
# What the name "nightly" means in "H H(0-5) H H/3 H".
NIGHTLY = ("58", "2", "21", "3,6,9,12", "2")


@pytest.mark.parametrize(
    ("expression", "low", "high"),
    [
        ("H 7 * * *", 0, 59),
        ("H(10-12) 7 * * *", 10, 12),
        ("7 H * * *", 0, 23),
        ("7 H(22-23) * * *", 22, 23),
        ("0 0 H * *", 1, 28),
        ("0 0 1 H *", 1, 12),
        ("0 0 1 H(oct-dec) *", 10, 12),
        ("0 0 * * H", 0, 6),
        ("0 0 * * H(MON-FRI)", 1, 5),
        ("H 0 7 * * *", 0, 59),
    ],
)
def test_a_hash_chooses_by_the_name_and_uses_its_whole_range(expression: str, low: int, high: int) -> None:
    fields = tuple(expression.upper().split())
    place = next(number for number, field in enumerate(fields) if field.startswith("H"))

    chosen = [int(replace_hashes(fields, f"job-{number}")[place]) for number in range(1000)]

    assert set(chosen) == set(range(low, high + 1))
    assert chosen == [int(replace_hashes(fields, f"job-{number}")[place]) for number in range(1000)]


def test_a_hash_never_changes_since_running_schedules_would_move() -> None:
    fields = ("H", "H(0-5)", "H", "H/3", "H")

    assert replace_hashes(fields, "nightly") == NIGHTLY


def test_the_fields_of_one_expression_are_chosen_apart() -> None:
    pairs = {replace_hashes(("H(0-4)", "H(0-4)", "*", "*", "*"), f"job-{number}")[:2] for number in range(1000)}

    assert len(pairs) == 25


def test_a_step_of_a_hash_starts_within_the_first_step() -> None:
    for number in range(100):
        minutes = replace_hashes(("H/15", "*", "*", "*", "*"), f"job-{number}")[0].split(",")
        spans = replace_hashes(("H(10-30)/7,H(40-59)", "*", "*", "*", "*"), f"job-{number}")[0].split(",")

        assert [int(minute) - int(minutes[0]) for minute in minutes] == [0, 15, 30, 45]
        assert int(minutes[0]) < 15
        assert all(10 <= int(minute) <= 30 for minute in spans[:-1])
        assert len(spans) == 4
        assert 40 <= int(spans[-1]) <= 59


def test_a_schedule_with_a_hash_is_due_at_its_own_time_and_keeps_the_text() -> None:
    nightly = parse_cron("H 3 * * *", AMSTERDAM, name="nightly")
    other = parse_cron("H 3 * * *", AMSTERDAM, name="other")

    slot = nightly.next(instant("2026-11-21T00:00"))

    assert slot is not None
    assert slot.minute == int(NIGHTLY[0])
    assert slot != other.next(instant("2026-11-21T00:00"))
    assert nightly.expression == "H 3 * * *"


@pytest.mark.parametrize(
    ("expression", "is_fixed_time"),
    [("H H * * *", True), ("H/15 3 * * *", True), ("H * * * *", False), ("*/5 H * * *", False)],
)
def test_a_hash_is_a_fixed_time_whatever_it_turns_into(expression: str, is_fixed_time: bool) -> None:
    assert parse_cron(expression, "UTC", name="nightly").is_fixed_time is is_fixed_time


@pytest.mark.parametrize(
    ("expression", "rule"),
    [
        ("H(0-60) * * * *", "from 0 to 59"),
        ("H(5-2) * * * *", "from 0 to 59"),
        ("0 0 H(1-31) * *", "from 1 to 28"),
        ("0 0 * * H(MON-SUN)", "from 0 to 6"),
        ("H/0 * * * *", "n is 1 to the size"),
        ("H/61 * * * *", "here 60"),
        ("H(0-9)/11 * * * *", "here 10"),
        ("Hx * * * *", "H(a-b)/n"),
        ("H(a-b) * * * *", "H(a-b)/n"),
        ("H-5 * * * *", "H(a-b)/n"),
        ("0 0 31 H(2-2) *", "must fire"),
    ],
)
def test_a_hash_that_cannot_be_read_is_refused_with_its_rule(expression: str, rule: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_cron(expression, "UTC", name="nightly")

    assert (refused.value.field, refused.value.value) == ("cron", expression)
    assert rule in refused.value.rule
