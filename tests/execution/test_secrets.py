"""The way of a secret from an order to the job's process, and to no other."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rota.execution.order import Order, Told
from tests.execution.harness import Harness, make_order
from tests.execution.test_warm_parent import Warm

TOKEN = "tok-4711-of-the-warehouse"
SECRETS = {"TOKEN": TOKEN, "KEY": "x" * 20_000}


@pytest.fixture
def warm(harness: Harness, folder: Path) -> Iterator[Warm]:
    yield Warm(harness, folder)
    log = harness.folder / "warm.log"
    assert not log.exists() or log.read_text() == ""


def test_a_job_has_its_secrets_warm_and_cold_and_nothing_else_changes(warm: Warm) -> None:
    warm.await_parent(secrets=SECRETS)

    cold, hot = (json.loads(warm.run("see", secrets=SECRETS, warm=is_warm).result or "") for is_warm in (False, True))

    assert (cold["environment"]["TOKEN"], cold["environment"]["KEY"]) == ("'***'", "'***'")
    assert hot == cold
    assert "***" not in json.dumps(json.loads(warm.run("see").result or ""))


def test_a_parent_has_no_secret_itself_and_serves_each_attempt_with_its_own(warm: Warm) -> None:
    parent = warm.await_parent(secrets={"TOKEN": "another-one"})
    program = "import os\ndef size(): return [os.getppid(), len(os.environ['TOKEN'])]\n"
    (warm.folder / "sizes.py").write_text(program)

    sizes = [json.loads(warm.run("parent", secrets={"TOKEN": value}).result or "") for value in (TOKEN, "other")]
    told = Path(f"/proc/{parent}/environ").read_bytes()

    assert sizes == [parent, parent]
    assert b"TOKEN" not in told
    for _ in range(2):
        warm.run("sizes:size", secrets={"TOKEN": "another-one"})
    assert json.loads(warm.run("sizes:size", secrets={"TOKEN": "four"}).result or "")[1] == 4


def test_a_parent_that_cannot_be_asked_costs_no_secret(warm: Warm) -> None:
    warm.await_parent(secrets=SECRETS)
    (warm.folder / "jobs_here.py").write_text("import os\ndef peek(): return len(os.environ['TOKEN'])\n")

    outcome = warm.run("peek", secrets=SECRETS)

    assert (outcome.result, "was changed" in (outcome.cold_because or "")) == (str(len(TOKEN)), True)


@pytest.mark.parametrize(
    "look",
    [
        "os.environ['TOKEN']",
        "os.getenv('TOKEN')",
        "os.environb.get(b'TOKEN')",
        "'TOKEN' in os.environ",
        "os.environ.copy()",
        "dict(os.environ)",
        "{k.lower(): v for k, v in os.environ.items()}",
    ],
)
def test_a_module_that_looks_for_a_secret_at_import_has_no_parent(warm: Warm, look: str) -> None:
    (warm.folder / "early.py").write_text(f"import os\nfound = {look}\ndef work(): return os.environ['TOKEN'] and 1\n")

    outcomes = [warm.run("early:work", secrets=SECRETS)]
    while outcomes[-1].cold_because is None and len(outcomes) < 100:
        outcomes.append(warm.run("early:work", secrets=SECRETS))

    assert {outcome.result for outcome in outcomes} == {"1"}
    assert "TOKEN" in (outcomes[-1].cold_because or "")
    assert TOKEN not in str(outcomes)


def test_a_module_that_looks_for_something_else_at_import_has_one(warm: Warm) -> None:
    (warm.folder / "early.py").write_text(
        "import os\nHOME = os.environ.get('PATH'), os.getenv('LEVEL'), 'X' in os.environ\n"
        "def parent(): return os.getppid()\n"
    )

    assert warm.await_parent("early", secrets=SECRETS)


def test_the_worker_keeps_no_value_while_the_job_runs(harness: Harness) -> None:
    harness.crew.start(make_order("sleep", "1000", claim_id="c", secrets={"TOKEN": TOKEN}))
    harness.started(make_order("sleep", claim_id="c"))

    gc.collect()
    held = [one.secrets for one in gc.get_objects() if isinstance(one, Order) and one.secrets]

    assert held == [{"TOKEN": ""}]
    harness.crew.stop("c", "cancelled", 5)
    harness.ended(make_order("sleep", claim_id="c"))


def test_what_is_told_live_is_masked_and_a_beginning_is_held_back_until_it_is_none(
    harness: Harness, folder: Path
) -> None:
    program = (
        "import os, time\n"
        f"os.write(1, b'[' + os.environb[b'TOKEN'] + b'] {TOKEN[:6]}')\n"
        f"while not os.path.exists('{folder}/go'): time.sleep(0.01)\n"
        "os.write(1, b'!')\n"
    )
    order = harness.start(sys.executable, "-S", "-c", program, secrets={"TOKEN": TOKEN})

    (piece,) = harness.next_event(order, Told).pieces
    (folder / "go").touch()
    outcome = harness.ended(order)

    assert piece.data == b"[***] "
    assert outcome.stdout.head == f"[***] {TOKEN[:6]}!".encode()


def test_a_secret_that_a_program_is_given_wins_over_a_variable_of_its_name(harness: Harness) -> None:
    order = make_order(
        "sh", "-c", 'test "$TOKEN" = ' + TOKEN, environment={"TOKEN": "x", "PATH": "/bin"}, secrets={"TOKEN": TOKEN}
    )
    harness.crew.start(order)

    assert harness.ended(order).exit_code == 0
