"""A frozen job: every process of it is held, its guardian and its lease are not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rota.execution.delegation import prepare
from rota.execution.linux import boottime
from rota.execution.order import Adopted, Order
from tests.execution.cgroups import facts_of, find_tree, given_directory
from tests.execution.harness import Harness, is_alive, wait_until
from tests.execution.test_adoption import doors

# A child in its own session, and a grandchild of that which has been orphaned.
FAMILY = (
    'setsid sh -c \'(sh -c "echo \\$\\$ > {0}/orphan; while :; do sleep 0.02; done" &) ; '
    "echo $$ > {0}/session; while :; do sleep 0.02; done' & "
    "until test -s {0}/orphan -a -s {0}/session; do sleep 0.01; done; echo ready; "
    "until test -e {0}/go; do sleep 0.02; done; kill $(cat {0}/session) $(cat {0}/orphan); exit 3"
)


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def are_held(pids: list[int]) -> bool:
    # A shell that was about to start a program waits, uninterruptible, for that child, which is stopped.
    return all(state_of(pid) in {"T", "D"} or is_held_by_cgroup(pid) for pid in pids)


def is_held_by_cgroup(pid: int) -> bool:
    own = Path(f"/proc/{pid}/cgroup").read_text().rpartition("0::/")[2].strip()
    return "/run-" in own and facts_of(find_tree() / own)["frozen"] == "1"


@pytest.fixture(params=["by signals", "by their cgroup"])
def harness(request: pytest.FixtureRequest, folder: Path, no_process_is_left: None) -> Iterator[Harness]:
    with ExitStack() as opened:
        is_in_cgroup = request.param == "by their cgroup"
        cgroups = prepare(opened.enter_context(given_directory())).folder if is_in_cgroup else ""
        made = Harness(folder / "w", cgroups=cgroups)
        yield made
        made.crew.close()
        assert (made.folder / "nursery.log").read_text() == ""


def family_of(folder: Path, pid: int) -> list[int]:
    return [pid, int((folder / "session").read_text()), int((folder / "orphan").read_text())]


def begin(folder: Path, harness: Harness, **values: object) -> tuple[Order, list[int]]:
    order = harness.start("sh", "-c", FAMILY.format(folder), **values)
    started = harness.started(order)
    wait_until(lambda: (folder / "orphan").exists() and (folder / "orphan").read_text(), "all of them run")
    wait_until(lambda: (folder / "session").exists() and (folder / "session").read_text(), "all of them run")
    return order, family_of(folder, started.pid)


def test_every_process_of_a_job_is_held_and_let_go_again(folder: Path, harness: Harness) -> None:
    order, pids = begin(folder, harness)

    harness.crew.freeze(order.claim_id, is_frozen=True)
    wait_until(lambda: are_held(pids), "all are held")
    harness.crew.ask()
    asked_at = boottime()
    harness.crew.ask()
    wait_until(lambda: harness.crew.poll(0.02) or harness.crew.answered(asked_at), "its guardian is not")
    harness.crew.freeze(order.claim_id, is_frozen=False)
    (folder / "go").touch()

    assert harness.ended(order).exit_code == 3


def test_a_frozen_job_is_stopped_with_all_that_belongs_to_it(folder: Path, harness: Harness) -> None:
    order, pids = begin(folder, harness)
    harness.crew.freeze(order.claim_id, is_frozen=True)
    wait_until(lambda: are_held(pids), "all are held")

    harness.crew.stop(order.claim_id, "cancelled", 20.0)

    assert harness.ended(order).ended == "cancelled"
    assert not any(is_alive(pid) for pid in pids)


def test_the_time_in_which_it_is_frozen_does_not_count(folder: Path, harness: Harness) -> None:
    order, pids = begin(folder, harness, timeout_seconds=2.0)
    harness.crew.freeze(order.claim_id, is_frozen=True)
    wait_until(lambda: are_held(pids), "all are held")
    frozen_at = boottime()
    wait_until(lambda: boottime() > frozen_at + 2.5, "its time would be over")
    harness.crew.poll(0)
    assert all(is_alive(pid) for pid in pids)

    harness.crew.freeze(order.claim_id, is_frozen=False)
    (folder / "go").touch()

    assert harness.ended(order).exit_code == 3


def test_a_frozen_job_whose_lease_ends_is_killed(folder: Path, harness: Harness) -> None:
    order, pids = begin(folder, harness, lease_seconds=3.0, grace_seconds=0.0)

    harness.crew.freeze(order.claim_id, is_frozen=True)

    assert harness.ended(order).ended == "lease_over"
    assert not any(is_alive(pid) for pid in pids)


def test_who_takes_it_over_knows_that_it_is_frozen(folder: Path, harness: Harness) -> None:
    order, pids = begin(folder, harness)
    harness.crew.freeze(order.claim_id, is_frozen=True)
    wait_until(lambda: are_held(pids), "all are held")
    harness.crew.close()
    wait_until(lambda: doors(harness.folder), "its guardian has a door")
    again = Harness(harness.folder)
    again.crew.adopt()

    adopted = again.next_event(order, Adopted)

    assert adopted.is_frozen
    assert are_held(pids)
    again.crew.freeze(order.claim_id, is_frozen=False)
    (folder / "go").touch()
    assert again.ended(order).exit_code == 3
    again.crew.close()


def test_the_deadline_of_its_run_comes_while_it_is_frozen_too(harness: Harness) -> None:
    order = harness.start("sleep", "1000", timeout_seconds=0.5, limited_by="deadline")
    pid = harness.started(order).pid
    harness.crew.freeze(order.claim_id, is_frozen=True)

    outcome = harness.ended(order)

    assert outcome.ended == "deadline"
    assert not is_alive(pid)
