"""What a claim is turned into: which callables a warm parent may fork, and what a row written by hand ends as."""

from __future__ import annotations

import pwd
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rota.engine.orders import make_order
from rota.engine.settings import NodeSettings
from rota.errors import Invalid
from rota.execution.command import argv_for_warm_parent
from rota.execution.order import Order
from rota.model.environment import Environment
from rota.model.run import Claim
from rota.model.states import Delivery


def order_of(settings: dict[str, Any] | None = None, **facts: Any) -> Order:
    claim: dict[str, Any] = {
        "run_id": 1, "claim_id": "c", "fence": 1, "attempt": 1, "job": "job", "kind": "call", "target": "app:work",
        "args": "{}", "schedule": None, "slot_at": None, "run_at": datetime(2026, 11, 20, tzinfo=UTC), "run_key": None,
        "pool": "default", "delivery": Delivery.AT_LEAST_ONCE, "lease_seconds": 60.0, "timeout_seconds": None,
        "retries": 0, "stdin": None, "cwd": None, "run_as": None, "variables": {}, "marked": True,
    }  # fmt: skip
    made = NodeSettings("sqlite://", Path("/nonexistent"), environment={}, **(settings or {}))
    return make_order(Claim(**claim | facts), made, "a", 0.0)


def test_a_callable_may_be_forked_by_a_warm_parent_and_can_start_cold() -> None:
    order = order_of(settings={"import_dirs": ("/srv/app",)}, variables={"COLOUR": "red"})

    assert order.call == "app:work"
    assert order.argv[-1] == "app:work"


def test_the_worker_s_own_user_may_be_named() -> None:
    import os

    assert order_of(run_as=pwd.getpwuid(os.geteuid()).pw_name).call == "app:work"


def test_a_callable_in_an_environment_may_be_forked_by_a_parent_that_runs_there() -> None:
    shop = Environment("shop", "1.2", "/srv/shop/bin/python", ("/srv/shop/src",))

    order = order_of(environment=shop)

    assert order.call == "app:work"
    assert argv_for_warm_parent(order.argv, 5, 6)[::2] == ("/srv/shop/bin/python", "--warm", "6")


@pytest.mark.parametrize(
    "facts",
    [
        {"startup": "cold"},
        {"kind": "shell"},
        {"variables": {"PYTHONPATH": "/srv/other"}},
        {"variables": {"LD_PRELOAD": "libother.so"}},
        # Its modules are not to be imported by a process of the worker's user, who may be root.
        {"run_as": "nobody"},
    ],
)
def test_these_start_cold(facts: dict[str, Any]) -> None:
    assert order_of(**facts).call is None


@pytest.mark.parametrize("executor", ["thread", "async"])
def test_an_executor_process_calls_what_the_job_names(executor: str) -> None:
    order = order_of(executor=executor, startup="cold", variables={"PYTHONHASHSEED": "0"})

    assert (order.executor, order.call) == (executor, "app:work")
    assert order_of().executor == "process"


@pytest.mark.parametrize(
    ("facts", "field"),
    [
        ({"executor": "fibre"}, "executor"),
        ({"kind": "shell"}, "executor"),
        ({"stdin": "x"}, "stdin"),
        ({"run_as": "nobody"}, "run_as"),
        ({"limits": {"memory_max_bytes": 1 << 30}}, "memory_max"),
        ({"env": "shop"}, "env"),
        ({"secrets": ("TOKEN",)}, "secrets"),
    ],
)
def test_what_an_executor_process_cannot_do_is_refused_with_the_next_step(facts: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid, match="with `rota job edit`") as refused:
        order_of(**{"executor": "thread", **facts})

    assert refused.value.field == field


def test_a_way_to_start_that_nobody_knows_is_refused_with_the_next_step() -> None:
    with pytest.raises(Invalid, match="one of warm, cold: correct it with `rota job edit`"):
        order_of(startup="hot")
