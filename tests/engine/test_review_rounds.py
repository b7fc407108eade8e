"""What keeps a node going: runs that cannot be started, locked rows, a database that is away at a bad moment."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import pytest

from rota.engine.node import GOODBYE_SECONDS, is_dead_process, process_started, this_boot
from rota.engine.node import Node as WholeNode
from rota.engine.renewer import RenewalAsked, Renewer
from rota.engine.watch import Watch
from rota.errors import DatabaseUnavailable
from rota.execution.linux import boottime
from rota.execution.order import GuardianLeft
from rota.model.run import End, NewRun
from rota.model.states import NodeState
from tests.engine.node import Node
from tests.store.ledger import LEASE_SECONDS, Ledger, identity_of


@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
def test_a_run_whose_lease_was_ending_before_its_job_could_start_is_started_again(
    node: Node, ledger: Ledger, delivery: str
) -> None:
    ledger.add_job(delivery=delivery, retries=0)
    run_id = ledger.enqueue()
    claim = node.start_one()

    node.end(claim, "not_started", error_type="LeaseOver", error_message="the lease was about to end")

    assert ledger.attempts(run_id)[0].state == "lost"
    assert (ledger.run(run_id).losses, ledger.run(run_id).retries_used) == (1, 0)
    assert node.start_one().attempt == 2


@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
def test_a_run_that_got_no_guardian_on_its_machine_is_started_again_and_spends_no_retry(
    node: Node, ledger: Ledger, delivery: str
) -> None:
    ledger.add_job(delivery=delivery, retries=0, breaker_failures=1)
    run_id = ledger.enqueue()
    claim = node.start_one()

    node.end(claim, "not_started", error_type="GuardianNotStarted", error_message="the nursery made none")

    first = ledger.attempts(run_id)[0]
    assert (first.state, first.reason) == ("lost", "lease_over")
    assert first.reason_text.startswith("attempt 1 got no guardian on a: the nursery made none")
    assert (ledger.run(run_id).losses, ledger.run(run_id).retries_used) == (1, 0)
    assert node.start_one().attempt == 2


@pytest.mark.only_on("postgresql", "mariadb", "mysql")
def test_a_due_run_that_somebody_has_locked_does_not_make_the_node_spin(node: Node, ledger: Ledger) -> None:
    ledger.add_job()
    run_id = ledger.enqueue(in_seconds=1.0)
    ledger.clock.advance(seconds=2)

    def hold(connection: Any) -> None:
        connection.exec_driver_sql(f"select id from rota_run where id = {run_id} for update")
        node.round()
        assert node.bookkeeper._look_at > time.monotonic()

    ledger.connect().write(hold, repeatable=False)
    assert ledger.run(run_id).state == "waiting"
    node.round()


class Deaf:
    """A bookkeeper, or a crew, that takes everything and does nothing."""

    def __init__(self) -> None:
        self.ends: list[End] = []

    def hear_end(self, end: End) -> None:
        self.ends.append(end)

    def start(self, _order: object) -> None:
        raise OSError(24, "Too many open files")


@pytest.mark.parametrize("changes", [{"run_at": None}, {"args": 7}, {}], ids=["no moment", "no text", "no descriptor"])
def test_a_run_that_cannot_be_started_ends_and_the_watch_lives(
    node: Node, ledger: Ledger, changes: dict[str, Any]
) -> None:
    ledger.add_job()
    ledger.enqueue()
    claim = dataclasses.replace(node.start_one(), **changes)
    deaf = Deaf()
    watch = Watch(cast("Any", deaf), node.settings, "a")

    watch._start(claim, 1e9, cast("Any", deaf))

    assert [(end.kind, end.claim_id) for end in deaf.ends] == [("not_started", claim.claim_id)]
    assert watch.count == 0


class Answering(Deaf):
    """A crew whose guardians have answered, as told, and a renewer that notes what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.heard_at: dict[str, float] = {}
        self.asked: list[set[str]] = []
        self.orders: list[Any] = []

    def start(self, order: object) -> None:
        self.orders.append(order)

    def answered(self, since: float) -> set[str]:
        return {claim_id for claim_id, moment in self.heard_at.items() if moment >= since}

    def ask(self, asked: RenewalAsked | None = None) -> None:
        if asked is not None:
            self.asked.append(set(asked.claims))


class Leaving(Answering):
    """A crew, and a bookkeeper, of a worker that stood still past a lease: its guardian says that it has left."""

    def __init__(self, claim_id: str) -> None:
        super().__init__()
        self._told: list[object] = [GuardianLeft(claim_id)]
        self._signal = os.eventfd(1)
        self.is_accepting = False
        self.let_go_of: list[str] = []

    def fileno(self) -> int:
        return self._signal

    def poll(self, _seconds: float) -> list[object]:
        told, self._told = self._told, []
        return told

    def take_notes(self) -> list[str]:
        return []

    def recover(self, _but: object) -> list[object]:
        return []

    def let_go(self, claim_id: str) -> None:
        self.let_go_of.append(claim_id)


def test_a_guardian_that_left_is_heard_of_after_its_claim_was_let_go_and_the_watch_lives(
    node: Node, ledger: Ledger
) -> None:
    ledger.add_job()
    ledger.enqueue()
    claim = node.start_one()
    crew = Leaving(claim.claim_id)
    watch = Watch(cast("Any", crew), node.settings, "a")
    watch._start(claim, boottime() - LEASE_SECONDS, cast("Any", crew))

    watch._let_silent_go(cast("Any", crew))
    watch.round(cast("Any", crew), cast("Any", crew), crew.fileno(), until=0.0)

    assert crew.let_go_of == [claim.claim_id]
    assert watch.count == 0


def test_renewals_that_follow_each_other_at_once_leave_no_guardian_out_but_one_that_is_silent(
    node: Node, ledger: Ledger
) -> None:
    ledger.add_job()
    ledger.enqueue_many([NewRun("job")] * 2)
    node.settle()
    crew = Answering()
    watch = Watch(cast("Any", crew), node.settings, "a")
    answering, silent = node.started
    for claim in node.started:
        watch._start(claim, boottime() + LEASE_SECONDS, cast("Any", crew))
    crew.heard_at = {answering.claim_id: boottime(), silent.claim_id: boottime() - LEASE_SECONDS / 3 - 1}
    watch._asked_at = boottime()

    for _ in range(2):  # nobody has had time to answer in between
        watch._renew(crew)

    assert crew.asked == [{answering.claim_id}] * 2


def test_a_worker_that_lost_its_name_while_the_database_is_away_lives_and_asks_again(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = WholeNode(dataclasses.replace(node.settings, state_dir=tmp_path))
    watch = Watch(cast("Any", Deaf()), node.settings, "a")
    watch.node_state = None
    old = identity_of("a")

    def away(_database: object) -> None:
        raise DatabaseUnavailable("away")

    monkeypatch.setattr(whole, "_register", away)

    for _ in range(5):
        now = whole._take_another_name(node.database, old, watch, node.bookkeeper, cast("Any", None))

        assert now is old
    assert watch.node_state is NodeState.ALIVE  # so that the next renewal that finds the name lost says so again
    assert [record.getMessage()[-4:] for record in caplog.records] == ["away"] * 3  # at the 1st, 2nd and 4th time


def test_a_worker_that_lost_its_name_starts_jobs_under_the_new_one(
    node: Node, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.add_job()
    ledger.enqueue()
    whole = WholeNode(dataclasses.replace(node.settings, state_dir=tmp_path))
    crew = Answering()
    watch = Watch(cast("Any", crew), node.settings, "a")
    monkeypatch.setattr(whole, "_register", lambda _: identity_of("a:2"))
    renewer = Renewer(node.database, identity_of("a"), LEASE_SECONDS, watch.tell, node.bookkeeper.hint)

    whole._take_another_name(node.database, identity_of("a"), watch, node.bookkeeper, renewer)
    claim = node.start_one()
    watch._start(claim, boottime() + LEASE_SECONDS, cast("Any", crew))

    (order,) = crew.orders
    assert ledger.run(claim.run_id).node == "a:2"
    assert order.environment["ROTA_NODE"] == "a:2"


def test_a_worker_that_gave_its_runs_back_leaves_also_when_the_database_does_not_take_their_ends(
    node: Node, ledger: Ledger, tmp_path: Path
) -> None:
    ledger.add_job()
    ledger.enqueue()
    node.start_one()
    whole = WholeNode(dataclasses.replace(node.settings, state_dir=tmp_path, grace_seconds=0.0))
    watch = Watch(cast("Any", Deaf()), node.settings, "a")
    whole._hear_stop(signal.SIGINT, watch, node.bookkeeper)
    assert not whole._is_done(watch, node.bookkeeper)

    whole._hear_stop(signal.SIGINT, watch, node.bookkeeper)
    assert not whole._is_done(watch, node.bookkeeper)
    assert whole._leaves_at is not None
    whole._leaves_at -= GOODBYE_SECONDS

    assert whole._is_done(watch, node.bookkeeper)


def test_a_process_in_another_container_is_not_taken_for_dead() -> None:
    here = is_dead_process(this_boot(), os.getpid(), process_started(os.getpid()) or 0)
    question = f"is_dead_process({this_boot()!r}, {os.getpid()}, {process_started(os.getpid())})"
    program = f"from rota.engine.node import is_dead_process; print({question})"
    elsewhere = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", sys.executable, "-c", program],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if elsewhere.returncode != 0:
        pytest.skip(f"no other process namespace may be made here: {elsewhere.stderr.strip()[:200]}")

    assert not here
    assert elsewhere.stdout.strip() == "False"


def test_a_process_that_has_ended_and_that_nobody_has_reaped_yet_is_dead() -> None:
    with subprocess.Popen(["sleep", "600"]) as process:
        began = process_started(process.pid) or 0
        assert began
        assert not is_dead_process(this_boot(), process.pid, began)

        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie

        assert Path(f"/proc/{process.pid}").exists()
        assert is_dead_process(this_boot(), process.pid, began)
