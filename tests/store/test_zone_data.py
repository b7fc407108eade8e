"""Nodes whose time zones have different rules: they say so, and each slot is decided once all the same."""

from __future__ import annotations

import contextlib
import zoneinfo
from collections.abc import Iterator
from datetime import datetime, timedelta
from importlib.resources import files
from itertools import cycle
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from rota import crash
from rota.model.findings import Finding, FindingCode, Severity
from rota.store.firing import Fired, fire_schedules
from rota.store.health import check_health
from rota.store.nodes import leave_node, read_node
from rota.store.status import read_status
from tests.clock import BEGINNING, Clock
from tests.store.ledger import Ledger, identity_of
from tests.store.living import start_node

ZONE = "Europe/Amsterdam"


@contextlib.contextmanager
def rules_in(folder: Path) -> Iterator[None]:
    """Take zones from ``folder`` where it has them."""
    path = zoneinfo.TZPATH
    zoneinfo.reset_tzpath(to=[str(folder), *path])
    ZoneInfo.clear_cache(only_keys=[ZONE])
    try:
        yield
    finally:
        zoneinfo.reset_tzpath(to=path)
        ZoneInfo.clear_cache(only_keys=[ZONE])


def found(ledger: Ledger) -> list[Finding]:
    return [one for one in check_health(ledger.database).findings if one.code is FindingCode.ZONE_DATA_DIFFERS]


def test_of_two_nodes_with_different_rules_whoever_fires_a_slot_first_decides_it_once(
    ledger: Ledger, clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hours = {"a": 12, "b": 13}  # at which it is 13:00 by the rules of each
    for node, rules in (("a", "Amsterdam"), ("b", "London")):
        (tmp_path / node / "Europe").mkdir(parents=True)
        (tmp_path / node / ZONE).write_bytes(files("tzdata").joinpath("zoneinfo", "Europe", rules).read_bytes())
    ledger.add_job()
    ledger.add_schedule(kind="weekly", expression="daily 13:00", zone=ZONE, overlap="allow", next_slot_at=BEGINNING)
    other = ledger.connect()

    def fire_both(slow: str, quick: str) -> bool:
        """Let ``quick`` fire what is due after ``slow`` has decided it, and before it writes."""
        overtaken: list[int] = []

        def overtake(point: str) -> None:
            if point == "fire.decided" and not overtaken:
                overtaken.append(1)
                with rules_in(tmp_path / quick):
                    assert fire_schedules(other, fired_by=quick).runs == 1

        with monkeypatch.context() as patch, rules_in(tmp_path / slow):
            patch.setattr(crash, "at", overtake)
            assert fire_schedules(ledger.database, fired_by=slow) == Fired()
        return bool(overtaken)

    def next_of(node: str, slot: datetime) -> datetime:
        days = 0 if slot.hour < hours[node] else 1
        return slot.replace(hour=hours[node]) + timedelta(days=days)

    deciders: list[str] = []
    for _, slow in zip(range(24 * 10), cycle("aababbb"), strict=False):
        quick = "b" if slow == "a" else "a"
        if fire_both(slow, quick):
            deciders.append(quick)
        clock.advance(hours=1)

    slots = [run.slot_at for run in ledger.runs()]
    assert set(deciders) == {"a", "b"}
    assert slots[0] == BEGINNING
    assert slots[1:] == [next_of(*decided) for decided in zip(deciders, slots, strict=True)][:-1]
    assert ledger.value("select cursor_version from rota_schedule") == 1 + len(slots)


def test_living_nodes_with_different_versions_are_a_warning_that_names_them(ledger: Ledger) -> None:
    start_node(ledger, "a", zone_data_version="2025b")
    start_node(ledger, "b", zone_data_version="2026a")
    start_node(ledger, "c", zone_data_version="2025b")
    start_node(ledger, "d")  # does not know

    (one,) = found(ledger)

    assert (one.severity, one.subject) == (Severity.WARNING, "cluster")
    assert "different versions of the zone data: 2026a on b; 2025b on a, c. " in one.text
    assert "zone_data_differs" in [finding["code"] for finding in read_status(ledger.database)["findings"]]
    assert [read_node(ledger.database, name)["zone_data_version"] for name in "abcd"] == [
        "2025b",
        "2026a",
        "2025b",
        None,
    ]


def test_a_hundred_nodes_are_named_by_a_few(ledger: Ledger) -> None:
    for number in range(100):
        start_node(ledger, f"n{number:02}", zone_data_version=f"20{number // 10:02}a")

    (one,) = found(ledger)

    assert "2009a on n90, n91, n92, n93, n94 and others; 2008a on n80" in one.text
    assert "2005a on n50, n51, n52, n53, n54 and others; and others. " in one.text


def test_one_version_and_that_of_nodes_that_are_gone_are_nothing(ledger: Ledger, clock: Clock) -> None:
    start_node(ledger, "left", zone_data_version="2024a")
    assert leave_node(ledger.database, identity_of("left"))
    start_node(ledger, "silent", zone_data_version="2025a")
    clock.advance(days=2)
    start_node(ledger, "a", zone_data_version="2026a")
    start_node(ledger, "b", zone_data_version="2026a")
    start_node(ledger, "c")

    assert found(ledger) == []


def test_a_worker_that_comes_back_with_other_zone_data_says_so(ledger: Ledger) -> None:
    start_node(ledger, "a", zone_data_version="2025b")
    start_node(ledger, "b", zone_data_version="2026a")
    assert found(ledger)

    start_node(ledger, "a", zone_data_version="2026a")

    assert found(ledger) == []
