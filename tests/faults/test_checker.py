"""The checker of the fault suite finds what is wrong in made-up ledgers, and nothing in a good one."""

from __future__ import annotations

import ast
import copy
import sys
from pathlib import Path
from typing import Any

import pytest

from faults import checker
from faults.checker import PROMISES, check

ANCHOR = 1_000_000.0
OFFSET = 900_000.0  # the wall clock less CLOCK_BOOTTIME
LEASE = 6.0


class World:
    """Three slots of one schedule and one request, each executed once and well, as everybody tells it."""

    def __init__(self, delivery: str = "at_least_once", overlap: str = "skip") -> None:
        self.expected: dict[str, Any] = {
            "lease": LEASE,
            "boottime_offset": OFFSET,
            "schedules": [
                {"name": "s", "every": 5, "anchor": ANCHOR, "until": ANCHOR + 15.5, "overlap": overlap},
            ],
            "requests": [{"key": "k", "job": "j", "acknowledged": True}],
            "faults": [],
        }
        self.runs: list[dict[str, Any]] = []
        self.attempts: list[dict[str, Any]] = []
        self.lines: list[dict[str, Any]] = []
        for number in (1, 2, 3, 4):
            slot = ANCHOR + 5 * number
            self.runs.append(
                {
                    "id": number,
                    "job": "j",
                    "schedule": "s",
                    "slot_at": slot,
                    "slot_count": 1,
                    "slot_last_at": None,
                    "run_key": None,
                    "state": "succeeded",
                    "reason": "ended_well",
                    "reason_text": "it ended well",
                    "delivery": delivery,
                    "attempt": 1,
                    "retries_used": 0,
                    "enqueued_at": slot,
                    "run_at": slot,
                    "started_at": slot,
                    "finished_at": slot + 1,
                }
            )
            self.executed(number, fence=1, at=slot, seconds=1.0)
        self.runs[3] |= {"schedule": None, "slot_at": None, "run_key": "k"}

    def run(self, number: int) -> dict[str, Any]:
        return next(row for row in self.runs if row["id"] == number)

    def executed(
        self, run: int, *, fence: int, at: float, seconds: float, node: str = "h1", ends: bool = True, **more: Any
    ) -> None:
        """Have the job of a run say that it began at a moment of the wall clock, and all that goes with it."""
        facts = {"run": run, "fence": fence, "attempt": fence, "node": node, "delivery": self.run(run)["delivery"]}
        self.lines.append({"what": "start", **facts, "at": at - OFFSET, "wall": at, **more})
        self.lines.append({"what": "beat", **facts, "at": at - OFFSET + seconds, "wall": at + seconds})
        if ends:
            self.lines.append({"what": "end", **facts, "at": at - OFFSET + seconds, "wall": at + seconds, "ok": True})
        self.attempts.append(
            {
                "run_id": run,
                "attempt": fence,
                "fence": fence,
                "node": node,
                "started_at": at,
                "claimed_at": at,
                "state": "succeeded" if ends else "lost",
                "finished_at": at + seconds if ends else at + LEASE,
            }
        )
        self.run(run)["attempt"] = fence

    def dies(self, run: int, *, after: float = 0.5) -> None:
        """Have the first execution of a run die."""
        began = self.run(run)["run_at"]
        self.lines = [line for line in self.lines if line["run"] != run]
        self.attempts = [row for row in self.attempts if row["run_id"] != run]
        self.executed(run, fence=1, at=began, seconds=after, ends=False)

    def fault(self, at: float, until: float, *, hosts: tuple[str, ...] = (), cannot_kill: bool = False) -> None:
        everyone = not hosts
        self.expected["faults"].append(
            {
                "at": at - OFFSET,
                "until": until - OFFSET,
                "hosts": hosts,
                "cannot_kill": cannot_kill,
                "everyone": everyone,
            }
        )

    def broken(self) -> dict[str, int]:
        report = check(self.expected, self.lines, self.runs, self.attempts)
        return {promise: report.counts[promise] for promise in PROMISES if report.counts[promise]}


def test_where_all_is_well_nothing_is_found() -> None:
    world = World()

    report = check(world.expected, world.lines, world.runs, world.attempts)

    assert report.findings == []
    assert report.holds
    assert (report.counts["slots"], report.counts["requests"], report.counts["executions"]) == (3, 1, 4)


def test_a_slot_without_a_row_is_lost() -> None:
    world = World()
    world.runs = [row for row in world.runs if row["id"] != 2]
    world.lines = [line for line in world.lines if line["run"] != 2]
    world.attempts = [row for row in world.attempts if row["run_id"] != 2]

    assert world.broken() == {"lost": 1}


def test_a_row_may_stand_for_several_slots_and_must_say_for_how_many() -> None:
    world = World()
    world.runs = [row for row in world.runs if row["id"] != 3]
    world.lines = [line for line in world.lines if line["run"] not in (2, 3)]
    world.attempts = [row for row in world.attempts if row["run_id"] not in (2, 3)]
    world.run(2).update(state="missed", reason="catch_up", slot_count=2, slot_last_at=ANCHOR + 15)
    assert world.broken() == {}

    world.run(2)["slot_count"] = 3

    assert world.broken() == {"doubled": 1}


def test_a_slot_with_two_rows_is_doubled() -> None:
    world = World()
    world.runs.append(copy.deepcopy(world.run(1)) | {"id": 9})
    world.executed(9, fence=1, at=ANCHOR + 8, seconds=1.0)

    assert world.broken() == {"doubled": 1}


@pytest.mark.parametrize(
    "change", [{"state": "running"}, {"reason": ""}, {"state": "lost", "reason_text": "its lease ended"}]
)
def test_a_run_that_has_not_finished_or_does_not_say_why_is_lost(change: dict[str, Any]) -> None:
    world = World()
    world.run(1).update(change)

    assert world.broken() == {"lost": 1}


def test_what_was_asked_for_and_acknowledged_has_one_row() -> None:
    world = World()
    world.run(4)["run_key"] = "another"
    assert world.broken() == {"lost": 1}

    world.expected["requests"][0]["acknowledged"] = False
    assert world.broken() == {}

    world.run(4)["run_key"] = "k"
    world.runs.append(copy.deepcopy(world.run(4)) | {"id": 9})
    world.executed(9, fence=1, at=ANCHOR + 30, seconds=1.0)
    assert world.broken() == {"doubled": 1}


def test_a_run_that_may_run_once_and_was_executed_twice_is_doubled() -> None:
    world = World(delivery="at_most_once")
    world.executed(1, fence=2, at=ANCHOR + 7, seconds=1.0)

    assert world.broken() == {"doubled": 1}


def test_a_run_that_may_run_again_and_did_is_counted_and_is_no_fault() -> None:
    world = World()
    world.executed(1, fence=2, at=ANCHOR + 7, seconds=1.0)

    report = check(world.expected, world.lines, world.runs, world.attempts)

    assert report.holds
    assert (report.counts["ended_well_twice"], report.counts["executed_again"]) == (1, 1)


def test_a_claim_that_was_executed_twice_is_doubled() -> None:
    world = World()
    world.lines.append(world.lines[0] | {"at": world.lines[0]["at"] + 2})

    assert world.broken() == {"doubled": 1}


def test_two_executions_of_a_run_at_the_same_time_overlap() -> None:
    world = World()
    world.dies(1, after=3.0)
    world.executed(1, fence=2, at=ANCHOR + 7, seconds=1.0, node="h2")

    assert world.broken() == {"overlapping": 1}


def test_an_execution_that_found_an_earlier_one_alive_overlaps_although_that_said_nothing_more() -> None:
    world = World()
    world.dies(1, after=0.5)
    world.executed(1, fence=2, at=ANCHOR + 7, seconds=1.0, node="h2", clash_with=1)

    assert world.broken() == {"overlapping": 1}


def test_an_overlap_is_excused_only_while_all_that_could_kill_was_stopped_on_that_host() -> None:
    world = World()
    world.dies(1, after=3.0)
    world.executed(1, fence=2, at=ANCHOR + 7, seconds=1.0, node="h2")
    world.fault(ANCHOR, ANCHOR + 8, hosts=("h2",), cannot_kill=True)
    world.fault(ANCHOR, ANCHOR + 8, hosts=("h1",))
    assert world.broken() == {"overlapping": 1}

    world.fault(ANCHOR, ANCHOR + 8, hosts=("h1",), cannot_kill=True)

    report = check(world.expected, world.lines, world.runs, world.attempts)
    assert (report.counts["overlapping"], report.counts["excused"]) == (0, 1)


@pytest.mark.parametrize(("overlap", "count"), [("skip", 1), ("queue", 1), ("allow", 0)])
def test_two_runs_of_a_schedule_overlap_only_where_it_allows_that(overlap: str, count: int) -> None:
    world = World(overlap=overlap)
    world.lines[1]["at"] += 5  # the first beat of run 1 now comes after run 2 began

    assert world.broken().get("overlapping", 0) == count


def test_a_success_that_no_execution_ended_with_is_false() -> None:
    world = World()
    world.lines = [line for line in world.lines if line["run"] != 1 or line["what"] != "end"]

    assert set(world.broken()) == {"false_success"}


def test_what_was_executed_without_a_claim_or_after_it_is_a_zombie() -> None:
    world = World()
    world.attempts = [row for row in world.attempts if row["run_id"] != 1]
    assert world.broken() == {"zombie": 1}

    world = World()
    world.dies(1)
    world.attempts[-1]["finished_at"] = ANCHOR + 4.0
    world.run(1).update(state="failed")
    assert world.broken() == {"zombie": 1}


def test_rows_of_rota_violations_are_found() -> None:
    world = World()

    report = check(world.expected, world.lines, world.runs, world.attempts, [("fence_falls", 1, None)])

    assert not report.holds
    assert report.counts["violation"] == 1


def test_recovery_counts_from_the_last_sign_of_life_or_from_the_end_of_a_fault_that_all_have() -> None:
    world = World()
    world.dies(1, after=0.5)  # at 5.5 s
    world.executed(1, fence=2, at=ANCHOR + 25.5, seconds=1.0, node="h2")
    report = check(world.expected, world.lines, world.runs, world.attempts)
    assert report.recovery_max == pytest.approx(20.0)
    assert not report.holds
    assert [finding["what"] for finding in report.findings] == ["slow"]

    world.fault(ANCHOR + 5, ANCHOR + 20)

    report = check(world.expected, world.lines, world.runs, world.attempts)
    assert report.recovery_max == pytest.approx(5.5)
    assert report.holds


def test_later_losses_of_a_run_may_wait_as_long_as_is_documented_also_those_before_it_began() -> None:
    world = World()
    world.dies(1, after=0.5)
    world.executed(1, fence=2, at=ANCHOR + 8, seconds=1.0, ends=False)
    world.attempts.append(world.attempts[-1] | {"fence": 3, "attempt": 3, "claimed_at": ANCHOR + 20})  # never began
    world.executed(1, fence=4, at=ANCHOR + 33, seconds=1.0)  # 13 s later, of which 10 are the documented delay

    report = check(world.expected, world.lines, world.runs, world.attempts)

    assert sorted(report.recoveries) == pytest.approx([2.5, 3.0])


def test_how_late_a_run_began_is_told() -> None:
    world = World()
    world.run(4).update(run_at=ANCHOR, enqueued_at=ANCHOR)  # and it began 20 s later

    report = check(world.expected, world.lines, world.runs, world.attempts)

    assert report.late_max == pytest.approx(20.0)


def test_the_checker_imports_nothing_of_rota() -> None:
    tree = ast.parse(Path(checker.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}

    others = {name for name in names if name.partition(".")[0] not in sys.stdlib_module_names}

    assert others == {"psycopg", "pymysql"}
