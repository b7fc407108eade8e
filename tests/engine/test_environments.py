"""What a job's order says where its job asks for an environment, and how a node gathers what it has."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rota.engine.environments import gather_environments
from rota.engine.orders import make_order
from rota.engine.settings import NodeSettings
from rota.engine.watch import Watch
from rota.execution.command import RUNNER_PATH
from rota.execution.crew import Crew
from rota.execution.order import Order
from rota.model.environment import Environment
from rota.model.run import Claim
from rota.model.states import Delivery
from tests.engine.node import Node
from tests.execution.test_registered import Install, install

__all__ = ["install"]

SETTINGS = NodeSettings(
    database_url="sqlite://",
    state_dir=Path("/nonexistent"),
    import_dirs=("/worker/jobs",),
    environment={"PATH": "/usr/bin:/bin", "PYTHONPATH": "/worker/lib", "HOME": "/root"},
)
SHOP = Environment.checked(
    "shop",
    version="1.2",
    interpreter="/srv/shop/venv/bin/python3",
    python_path=["/srv/shop", "/srv/lib"],
    variables={"LEVEL": "3", "REGION": "eu"},
)


def order(environment: Environment | None, *, kind: str = "call", target: str = "app:go", **variables: str) -> Order:
    claim: dict[str, Any] = {
        "run_id": 1, "claim_id": "c", "fence": 1, "attempt": 1, "job": "job", "kind": kind, "target": target,
        "args": "{}", "schedule": None, "slot_at": None, "run_at": datetime(2026, 11, 2, tzinfo=UTC), "run_key": None,
        "pool": "default", "delivery": Delivery.AT_LEAST_ONCE, "lease_seconds": 60.0, "timeout_seconds": None,
        "retries": 0, "stdin": None, "cwd": None, "run_as": None, "variables": variables, "marked": True,
    }  # fmt: skip
    return make_order(Claim(**claim, environment=environment), SETTINGS, "a", 100.0)


def test_a_callable_runs_by_the_interpreter_of_its_environment_and_on_its_path() -> None:
    made = order(SHOP)

    assert made.argv == ("/srv/shop/venv/bin/python3", RUNNER_PATH, "app:go", "shop==1.2")
    assert made.environment["PYTHONPATH"] == "/srv/shop:/srv/lib"


def test_nothing_of_the_worker_s_import_path_reaches_an_environment() -> None:
    bare = Environment.checked("bare", version="1")

    assert "PYTHONPATH" not in order(bare).environment
    assert order(bare).argv[0] == sys.executable
    assert order(None).environment["PYTHONPATH"] == "/worker/jobs:/worker/lib"


@pytest.mark.parametrize(
    ("kind", "target"), [("call", "app:go"), ("shell", "python report.py"), ("command", '["report"]')]
)
def test_the_programs_of_the_environment_come_first_for_every_kind_of_job(kind: str, target: str) -> None:
    made = order(SHOP, kind=kind, target=target)

    assert made.environment["PATH"] == "/srv/shop/venv/bin:/usr/bin:/bin"
    assert (made.environment["LEVEL"], made.environment["HOME"]) == ("3", "/root")


def test_what_the_job_declares_counts_more_than_its_environment_and_that_more_than_the_worker() -> None:
    told = Environment.checked(
        "told", version="1", interpreter="/venv/bin/python", variables={"PATH": "/only", "HOME": "/home/shop"}
    )

    made = order(told, HOME="/elsewhere")

    assert (made.environment["PATH"], made.environment["HOME"]) == ("/only", "/elsewhere")
    assert order(SHOP, LEVEL="4").environment["LEVEL"] == "4"


def test_what_is_configured_counts_more_than_what_is_registered(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rota.worker")
    install("shop_rota", "class Shop: name, version, python_path = 'shop', '1.2', ['/site']", "shop = shop_rota:Shop")
    install("more_rota", "class Shop: name, version, python_path = 'shop', '1.3', ['/site']", "more = more_rota:Shop")

    found = gather_environments([SHOP])

    assert found.spelled == ("shop==1.2", "shop==1.3")
    assert found.find("shop==1.2") == SHOP
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.INFO] == [
        "the entry point 'shop = shop_rota:Shop' of rota.environments is left out: the configuration has shop==1.2 too"
    ]


def test_what_an_environment_lacks_is_told_when_it_is_gathered_and_it_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gone = [str(tmp_path / "gone"), str(tmp_path / "venv/bin/python")]
    broken = Environment.checked("shop", version="1", interpreter=gone[1], python_path=[str(tmp_path), gone[0]])
    whole = Environment.checked("whole", version="1", interpreter=sys.executable, python_path=[str(tmp_path)])

    found = gather_environments([broken, whole])

    assert found.spelled == ("shop==1", "whole==1")
    assert [(record.levelname, record.getMessage().partition("; ")[0]) for record in caplog.records] == [
        (
            "WARNING",
            "environment shop==1 is broken, and runs that ask for it fail here: "
            f"there is no interpreter {gone[1]}, no folder {gone[0]}",
        )
    ]


def test_an_entry_point_that_cannot_be_used_is_told_and_left_out(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install("broken_rota", "import nowhere", "broken = broken_rota:Shop")
    install("wrong_rota", "class Shop: version, interpreter = '1', 'python3'", "wrong = wrong_rota:Shop")
    install("shop_rota", "class Shop: version = '1'", "shop = shop_rota:Shop")

    found = gather_environments([])

    assert found.spelled == ("shop==1",)
    assert [record.getMessage().partition(" of rota.environments is left out: ")[::2] for record in caplog.records] == [
        ("the entry point 'broken = broken_rota:Shop'", "ModuleNotFoundError: No module named 'nowhere'"),
        (
            "the entry point 'wrong = wrong_rota:Shop'",
            "interpreter 'python3' is refused: it is an absolute path; the worker's own place is no base for it",
        ),
    ]


def test_a_run_whose_job_was_edited_while_it_was_claimed_is_given_back_unspent(node: Node, tmp_path: Path) -> None:
    node.ledger.add_job()
    run_id = node.ledger.enqueue()
    claim = replace(node.start_one(), env="shop==2")  # as it is read when the edit comes in between
    watch = Watch(Crew(tmp_path), node.settings, "a")

    watch._start(claim, 100.0, node.bookkeeper)
    node.ledger.set_job(env="shop==2")
    node.settle()

    seen = node.ledger.run(run_id)
    assert (seen.state, seen.reason, seen.retries_used) == ("ready", "released", 0)
    assert "its job asks for environment shop==2 now, which a does not have" in seen.reason_text
    assert len(node.started) == 1
