"""Plans of the fault suite: the same from the same seed, and never more than the cluster is said to bear."""

from __future__ import annotations

import pytest

from faults.plan import Step, make_plan

HOSTS = ["h1", "h2", "h3", "h4", "h5"]
LEASE = 6.0


def plan(seed: int, *, has_server: bool = True) -> list[Step]:
    return make_plan(seed, HOSTS, 300.0, LEASE, has_server=has_server)


def test_a_seed_makes_the_same_plan_each_time_and_another_seed_another_one() -> None:
    assert plan(1) == plan(1)
    assert plan(1) != plan(2)


@pytest.mark.parametrize("seed", range(20))
def test_at_most_three_of_five_hosts_are_down_at_a_time_and_the_database_has_one_fault(seed: int) -> None:
    steps = plan(seed)
    for moment in (step.at for step in steps):
        present = [step for step in steps if step.at <= moment < step.at + max(step.seconds, 0.01)]
        down = [host for step in present for host in step.hosts]
        assert len(down) == len(set(down)) <= 3
        assert sum(step.kind == "database" for step in present) <= 1


@pytest.mark.parametrize("seed", range(20))
def test_all_faults_end_before_the_rest_begins(seed: int) -> None:
    assert all(step.at + step.seconds <= 300.0 for step in plan(seed))


def test_a_few_seeds_draw_every_kind_of_fault() -> None:
    drawn = {(step.kind, step.what) for seed in range(5) for step in plan(seed)}

    assert {kind for kind, _ in drawn} == {"kill", "stop", "network", "database"}
    assert {what for kind, what in drawn if kind == "database"} == {"restart", "crash", "lock rows", "lock table"}


def test_a_file_has_no_network_and_no_server_that_restarts() -> None:
    drawn = {(step.kind, step.what) for seed in range(5) for step in plan(seed, has_server=False)}

    assert {what for kind, what in drawn if kind == "database"} == {"lock file", "disk full"}
    assert not {what for kind, what in drawn if kind == "network"}
