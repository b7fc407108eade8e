"""Executor processes through a crew: what runs in them, how it ends, and what their deaths cost."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import uuid
from pathlib import Path
from typing import Any

import pytest

from rota.execution.command import argv_for_call
from rota.execution.crew import Crew
from rota.execution.linux import boottime
from rota.execution.order import Ended, Order, Outcome, Told
from rota.execution.report import read_wish
from tests.execution.harness import ROOT, Harness, is_alive, wait_until

KINDS = ("thread", "async")
JOBS = "tests.execution.inline_jobs"


def start(harness: Harness, kind: str, target: str, arguments: Any = None, **values: Any) -> Order:
    lease_seconds = values.setdefault("lease_seconds", 60.0)
    values.setdefault("deadline", boottime() + lease_seconds)
    environment = {"PATH": os.defpath, "PYTHONPATH": f"{harness.folder}/code:{ROOT}", **values.pop("variables", {})}
    facts = {"ROTA_RUN_ID": "7", "ROTA_JOB": "job", "ROTA_ATTEMPT": "1", "ROTA_NODE": "a", "ROTA_FENCE": "3"}
    target = target if ":" in target else f"{JOBS}:{target}"
    order = Order(
        run_id=7, job="job", attempt=1, fence=3, argv=argv_for_call(target), environment=environment | facts,
        claim_id=uuid.uuid4().hex, arguments=json.dumps(arguments or {}), expects_result=True, call=target,
        executor=kind, **values,
    )  # fmt: skip
    harness.crew.start(order)
    return order


def run(harness: Harness, kind: str, target: str, arguments: Any = None, **values: Any) -> Outcome:
    return harness.ended(start(harness, kind, target, arguments, **values))


def result_of(outcome: Outcome) -> Any:
    assert (outcome.ended, outcome.exit_code, outcome.error_type) == ("exited", 0, None), outcome
    return json.loads(outcome.result or "null")


def executor_of(harness: Harness, kind: str) -> int:
    """Give the pid of the process that runs are given to now."""
    return int(result_of(run(harness, kind, f"add_{kind}", [0, 0]))[1])


class Waiting:
    """A run that waits until it is told to go."""

    def __init__(self, harness: Harness, kind: str, *, target: str | None = None, **values: Any) -> None:
        self.harness = harness
        self.began = harness.folder.parent / f"began-{uuid.uuid4().hex}"
        self.until = harness.folder.parent / f"until-{uuid.uuid4().hex}"
        arguments: dict[str, Any] = {"began": str(self.began), "until": str(self.until)}
        if "obeys" in values:
            arguments["obeys"] = values.pop("obeys")
        self.order = start(harness, kind, target or f"wait_{kind}", arguments, **values)

    def pid(self) -> int:
        """Wait until it has begun, and give the process it is in."""

        def look() -> str:
            self.harness.seen += self.harness.crew.poll(0)
            return self.began.read_text() if self.began.exists() else ""

        return int(wait_until(look, "the run has begun"))

    def go(self) -> Outcome:
        self.until.touch()
        return self.harness.ended(self.order)

    @property
    def has_ended(self) -> bool:
        self.harness.seen += self.harness.crew.poll(0)
        ended = [event.outcome.claim_id for event in self.harness.seen if isinstance(event, Ended)]
        return self.order.claim_id in ended


# -- what runs there


@pytest.mark.parametrize("kind", KINDS)
def test_many_runs_share_a_process_and_each_gives_its_own_result(harness: Harness, kind: str) -> None:
    orders = [start(harness, kind, f"add_{kind}", [n, 1]) for n in range(200)]

    results = [result_of(harness.ended(order)) for order in orders]

    assert [result[0] for result in results] == [n + 1 for n in range(200)]
    (pid,) = {result[1] for result in results}
    assert Path(f"/proc/{pid}/comm").read_text() == f"rota-{kind}\n"


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_knows_itself_and_what_it_writes_and_tells_is_its_own(harness: Harness, kind: str) -> None:
    words = ["one", "two", "three"]
    orders = [start(harness, kind, f"tell_{kind}", {"word": word}, checkpoint=json.dumps([word])) for word in words]

    outcomes = [harness.ended(order) for order in orders]

    for word, outcome in zip(words, outcomes, strict=True):
        told = result_of(outcome)
        assert told == {"args": {"word": word}, "fence": 3, "attempt": 1, "before": [word], "after": word}
        assert outcome.stdout.head == f"{word} on stdout\n".encode() + b"\xff\n"
        assert outcome.stderr.head == f"{word} on stderr\nWARNING app: {word} logged\n".encode()
        assert outcome.checkpoint == json.dumps(word)


def test_what_a_run_tells_is_seen_while_it_goes_on(harness: Harness) -> None:
    waiting = Waiting(harness, "thread", target="report")
    waiting.pid()

    told = harness.next_event(waiting.order, Told)

    assert told.progress == (0.25, "a quarter")
    assert told.checkpoint == "[1]"
    assert [(piece.stream, piece.data) for piece in told.pieces] == [("stdout", b"busy\n")]
    waiting.go()


def test_what_a_run_writes_at_once_may_be_large_and_is_cut_as_always(harness: Harness) -> None:
    size = 100 << 20

    outcome = run(harness, "thread", "flood", {"size": size})

    assert result_of(outcome) == size
    assert outcome.stdout.bytes_total == size
    assert len(outcome.stdout.head) == len(outcome.stdout.tail) == 512 * 1024


def test_a_process_without_runs_is_given_up_after_a_while_and_ends_as_processes_do(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = harness.folder.parent / "hook"
    pid = result_of(run(harness, "thread", "hook", {"path": str(path)}))
    assert is_alive(pid)

    monkeypatch.setattr("rota.execution.executors.IDLE_SECONDS", 0.0)
    wait_until(lambda: harness.crew.poll(0) or not is_alive(pid), "it has left")

    assert path.read_text() == str(pid)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("how", "ended", "exit_code", "error_type"),
    [
        ("raise", "exited", 1, "ValueError"),
        ("retry", "exited", 1, "rota:retry 5.0"),
        ("release", "exited", 1, "rota:release"),
        ("skip", "exited", 1, "rota:skip"),
        ("exit", "exited", 3, None),
        ("exit well", "exited", 0, "NoResult"),
        ("interrupt", "exited", 1, "KeyboardInterrupt"),
        ("not json", "exited", 1, "BadResult"),
        ("large", "exited", 1, "BadResult"),
        ("cancel itself", "exited", 1, "asyncio.exceptions.CancelledError"),
    ],
)
def test_whatever_a_run_raises_ends_that_run_and_no_other(
    harness: Harness, kind: str, how: str, ended: str, exit_code: int, error_type: str | None
) -> None:
    other = Waiting(harness, kind)
    pid = other.pid()

    outcome = run(harness, kind, f"end_{kind}", {"how": how})

    assert (outcome.ended, outcome.exit_code, outcome.error_type) == (ended, exit_code, error_type)
    assert outcome.result is None
    if how == "raise":
        assert outcome.error_message == "as asked"
        assert (outcome.traceback or "").splitlines()[1].strip().startswith(f'File "{ROOT}/tests/execution/inline_jobs')
        assert outcome.error_bases == ("Exception", "BaseException")
    if how == "retry":
        assert read_wish(outcome.error_type) == ("retry", 5.0)
    assert result_of(other.go()) == pid


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("target", "error_type"),
    [
        (f"{JOBS}:nothing_there", "rota.errors.Invalid"),
        ("no_such_module:work", "ModuleNotFoundError"),
        ("raises:work", "RuntimeError"),
        ("exits:work", None),
    ],
)
def test_a_target_that_is_not_there_or_cannot_be_imported_is_the_end_of_its_run_only(
    harness: Harness, kind: str, target: str, error_type: str | None
) -> None:
    code = harness.folder / "code"
    code.mkdir()
    (code / "raises.py").write_text("raise RuntimeError('at import')")
    (code / "exits.py").write_text("import sys; sys.exit(4)")
    pid = executor_of(harness, kind)

    outcome = run(harness, kind, target)

    assert (outcome.ended, outcome.error_type) == ("exited", error_type)
    assert outcome.exit_code == (4 if error_type is None else 1)
    assert executor_of(harness, kind) == pid


def test_a_function_that_is_not_asynchronous_is_refused_by_the_loop_before_it_is_called(harness: Harness) -> None:
    outcome = run(harness, "async", "add_thread", [1, 1])

    assert (outcome.error_type, outcome.result) == ("rota.errors.Invalid", None)
    assert "declare it with executor thread" in (outcome.error_message or "")


def test_an_asynchronous_function_may_run_in_a_thread(harness: Harness) -> None:
    assert result_of(run(harness, "thread", "add_async", [1, 1]))[0] == 2


def test_a_thread_that_belongs_to_no_run_is_told_so(harness: Harness) -> None:
    said = result_of(run(harness, "thread", "ask_elsewhere"))

    assert said.startswith("StateError: this is no run")


def test_a_process_that_a_run_forks_is_no_run_and_disturbs_none(harness: Harness) -> None:
    pid = executor_of(harness, "thread")

    outcome = run(harness, "thread", "fork")

    assert result_of(outcome) == ["StateError", 1]
    assert outcome.stdout.bytes_total == 0
    assert executor_of(harness, "thread") == pid


def test_jobs_with_other_variables_have_another_process(harness: Harness) -> None:
    ours = executor_of(harness, "thread")

    other = result_of(run(harness, "thread", "add_thread", [1, 1], variables={"COLOUR": "red"}))[1]

    assert other != ours


@pytest.mark.parametrize("kind", KINDS)
def test_code_that_was_changed_is_imported_anew_and_what_runs_goes_on_with_the_old(harness: Harness, kind: str) -> None:
    code = harness.folder / "code"
    code.mkdir()
    (code / "changing.py").write_text("VALUE = 1\ndef work(): return VALUE\nasync def work_async(): return VALUE\n")
    target = "changing:work" if kind == "thread" else "changing:work_async"
    old = Waiting(harness, kind)
    old_pid = old.pid()
    assert result_of(run(harness, kind, target)) == 1

    (code / "changing.py").write_text("VALUE = 22\ndef work(): return VALUE\nasync def work_async(): return VALUE\n")
    wait_until(lambda: result_of(run(harness, kind, target)) == 22, "the new code runs")

    assert is_alive(old_pid)
    assert executor_of(harness, kind) != old_pid
    assert result_of(old.go()) == old_pid
    wait_until(lambda: harness.crew.poll(0) or not is_alive(old_pid), "the old process has left")


def test_a_process_that_has_grown_is_renewed(harness: Harness) -> None:
    pid = executor_of(harness, "thread")
    assert result_of(run(harness, "thread", "hoard", {"size": 280 << 20})) == pid

    pids = {executor_of(harness, "thread") for _ in range(101)}  # one run in a hundred looks

    assert len(pids - {pid}) == 1
    assert any("its memory grew by" in note for note in harness.crew.take_notes())

    def is_gone() -> bool:
        harness.crew.poll(0.01)
        return not is_alive(pid)

    wait_until(is_gone, "the grown one leaves")


def test_an_asynchronous_run_has_ended_when_its_tasks_and_calls_in_threads_have(harness: Harness) -> None:
    path = harness.folder.parent

    outcome = run(harness, "async", "leave_task", {"began": f"{path}/began", "ended": f"{path}/ended"})

    assert outcome.ended == "exited"
    assert (path / "ended-task").exists()
    assert (path / "ended-thread").exists()


# -- stopping


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("why", ["cancelled", "timeout"])
def test_a_run_that_obeys_is_stopped_and_no_other_notices(harness: Harness, kind: str, why: str) -> None:
    other = Waiting(harness, kind)
    values: dict[str, Any] = {"timeout_seconds": 0.1} if why == "timeout" else {}
    stopped = Waiting(harness, kind, **values)
    pid = stopped.pid()

    if why == "cancelled":
        harness.crew.stop(stopped.order.claim_id, "cancelled", 10.0)
    outcome = harness.ended(stopped.order)

    assert outcome.ended == why
    assert result_of(other.go()) == pid
    assert executor_of(harness, kind) == pid


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("why", ["cancelled", "timeout"])
def test_a_run_that_was_told_that_it_is_stopped_has_been_whatever_it_returns(
    harness: Harness, kind: str, why: str
) -> None:
    values: dict[str, Any] = {"timeout_seconds": 0.1} if why == "timeout" else {}
    told = Waiting(harness, kind, target=f"leave_{kind}", **values)
    pid = told.pid()

    if why == "cancelled":
        harness.crew.stop(told.order.claim_id, "cancelled", 10.0)
    outcome = harness.ended(told.order)

    assert outcome.ended == why
    assert executor_of(harness, kind) == pid


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("why", ["cancelled", "timeout"])
def test_a_run_that_ignores_its_stop_ends_when_its_process_is_killed_which_waits_for_the_others(
    harness: Harness, kind: str, why: str
) -> None:
    other = Waiting(harness, kind)
    values: dict[str, Any] = {"timeout_seconds": 0.1, "grace_seconds": 0.1} if why == "timeout" else {}
    stubborn = Waiting(harness, kind, obeys=False, **values)
    pid = stubborn.pid()

    if why == "cancelled":
        harness.crew.stop(stubborn.order.claim_id, "cancelled", 0.1)
    wait_until(lambda: executor_of(harness, kind) != pid, "new runs are given to a fresh process")

    assert is_alive(pid)
    assert not stubborn.has_ended
    assert result_of(other.go()) == pid
    outcome = harness.ended(stubborn.order)
    assert outcome.ended == why
    assert not is_alive(pid)
    limit = ", and its timeout is 0.1 s; it did not end when it was to be stopped, so its executor process was killed"
    assert why == "cancelled" or (outcome.error_message or "").endswith(limit)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_lost_to_another_node_is_killed_with_all_others_if_it_does_not_end(
    harness: Harness, kind: str
) -> None:
    other = Waiting(harness, kind)
    lost = Waiting(harness, kind, obeys=False)
    pid = lost.pid()

    harness.crew.stop(lost.order.claim_id, "lease_over", 0.0)

    assert harness.ended(lost.order).ended == "lease_over"
    outcome = harness.ended(other.order)
    assert (outcome.ended, outcome.error_type) == ("lease_over", "ExecutorLost")
    assert not is_alive(pid)


def test_a_blocked_loop_keeps_what_has_begun_and_all_else_goes_to_another_process(harness: Harness) -> None:
    blocking = Waiting(harness, "async", target="block")
    pid = blocking.pid()

    others = [start(harness, "async", "add_async", [n, 0]) for n in range(5)]
    results = [result_of(harness.ended(order)) for order in others]

    assert [result[0] for result in results] == [0, 1, 2, 3, 4]
    assert pid not in {result[1] for result in results}
    assert result_of(blocking.go()) == pid


def test_a_blocked_loop_is_killed_when_a_run_in_it_is_to_be_stopped(harness: Harness) -> None:
    blocking = Waiting(harness, "async", target="block", grace_seconds=0.1)
    pid = blocking.pid()

    harness.crew.stop(blocking.order.claim_id, "cancelled", 0.1)

    assert harness.ended(blocking.order).ended == "cancelled"
    assert not is_alive(pid)


# -- deaths


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["kill", "vanish"])
def test_when_the_process_dies_its_runs_are_lost_and_the_next_ones_have_another(
    harness: Harness, kind: str, how: str
) -> None:
    waiting = [Waiting(harness, kind) for _ in range(3)]
    (pid,) = {one.pid() for one in waiting}

    if how == "kill":
        os.kill(pid, signal.SIGKILL)
    else:
        assert run(harness, kind, f"vanish_{kind}").error_type == "ExecutorLost"

    for one in waiting:
        outcome = harness.ended(one.order)
        assert (outcome.ended, outcome.error_type) == ("lease_over", "ExecutorLost")
        said = "killed by signal 9" if how == "kill" else "with status 0"
        assert outcome.error_message == f"its executor process ended, {said}"
    assert executor_of(harness, kind) != pid


def test_what_had_not_begun_when_the_process_died_is_given_back_and_has_spent_nothing(harness: Harness) -> None:
    blocking = Waiting(harness, "async", target="block")
    pid = blocking.pid()
    orders = [start(harness, "async", "add_async", [1, 1]) for _ in range(3)]

    os.kill(pid, signal.SIGKILL)

    assert harness.ended(blocking.order).error_type == "ExecutorLost"
    for order in orders:
        outcome = harness.ended(order)
        # Those of which the keeper had not heard when the process died are given to another one.
        assert (outcome.ended, outcome.error_type) in {("released", None), ("exited", None)}


def test_what_a_run_has_detached_dies_with_the_process(harness: Harness) -> None:
    began = harness.folder.parent / "began"
    order = start(harness, "thread", "detach", {"began": str(began)})
    harness.ended(order)
    child = int(Path(f"{began}-child").read_text())
    assert is_alive(child)

    os.kill(int(began.read_text()), signal.SIGKILL)

    wait_until(lambda: harness.crew.poll(0) or not is_alive(child), "it is dead")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", ["running", "stopped"])
def test_without_a_renewal_the_process_is_killed_before_the_first_lease_ends(
    harness: Harness, kind: str, state: str
) -> None:
    waiting = Waiting(harness, kind, obeys=False)
    pid = waiting.pid()
    short = Waiting(harness, kind, obeys=False, lease_seconds=3.0, grace_seconds=0.5)
    short.pid()
    if state == "stopped":
        os.kill(pid, signal.SIGSTOP)

    outcomes = [harness.ended(one.order) for one in (short, waiting)]

    assert boottime() < short.order.deadline
    assert not is_alive(pid)
    assert [(outcome.ended, outcome.error_type) for outcome in outcomes] == [("lease_over", "ExecutorLost")] * 2


def test_a_process_whose_interpreter_is_held_up_in_c_is_killed_before_the_lease_ends(harness: Harness) -> None:
    began = harness.folder.parent / "began"
    order = start(harness, "thread", "hold", {"began": str(began), "seconds": 300}, lease_seconds=3.0)
    wait_until(began.exists, "it has begun")

    outcome = harness.ended(order)

    assert boottime() < order.deadline
    assert (outcome.ended, outcome.error_type) == ("lease_over", "ExecutorLost")
    assert not is_alive(int(began.read_text()))


def test_a_process_that_does_not_answer_is_not_answered_for(harness: Harness) -> None:
    waiting = Waiting(harness, "thread")
    pid = waiting.pid()

    def answers() -> bool:
        since = boottime()
        harness.crew.ask()
        give_up_at = since + 1.0
        while boottime() < give_up_at:
            harness.seen += harness.crew.poll(0.05)
            if waiting.order.claim_id in harness.crew.answered(since):
                return True
        return False

    assert answers()
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: not answers(), "it is silent")  # an answer may have been on its way
    os.kill(pid, signal.SIGCONT)
    wait_until(answers, "it answers again")
    waiting.go()


def test_a_stopped_keeper_is_stood_in_for_by_the_nursery(harness: Harness) -> None:
    waiting = Waiting(harness, "thread", obeys=False, lease_seconds=3.0)
    pid = waiting.pid()
    keeper = _parent_of(pid)
    os.kill(keeper, signal.SIGSTOP)

    wait_until(lambda: not is_alive(pid), "it is killed")

    assert boottime() < waiting.order.deadline
    os.kill(keeper, signal.SIGCONT)
    assert harness.ended(waiting.order).error_type == "ExecutorLost"


def test_a_keeper_that_is_killed_takes_its_process_along(harness: Harness) -> None:
    waiting = Waiting(harness, "thread", obeys=False)
    pid = waiting.pid()
    os.kill(_parent_of(pid), signal.SIGKILL)

    lost = harness.lost(waiting.order)

    assert lost.has_started
    wait_until(lambda: not is_alive(pid), "it is dead")
    assert executor_of(harness, "thread") != pid


def test_what_is_under_way_when_the_worker_closes_is_killed_and_its_ends_wait_on_disk(
    folder: Path, no_process_is_left: None
) -> None:
    first = Harness(folder / "w")
    running, done = Waiting(first, "thread", obeys=False), start(first, "thread", "add_thread", [1, 1])
    pid = running.pid()
    outcome = first.next_event(done, Ended).outcome
    first.crew.close()
    wait_until(lambda: not is_alive(pid), "it is dead")

    second = Crew(folder / "w")
    second.open()
    try:
        found = {outcome.claim_id: outcome for outcome in _recover(second, 2)}
    finally:
        second.close()

    assert found[done.claim_id].result == outcome.result
    told = found[running.order.claim_id]
    assert (told.ended, told.error_type) == ("lease_over", "ExecutorLost")


def test_an_executor_that_cannot_be_made_is_a_clear_end(harness: Harness) -> None:
    outcome = run(harness, "thread", "add_thread", [1, 1], cwd="/no/such/folder")

    assert (outcome.ended, outcome.error_type) == ("not_started", "ExecutorNotStarted")
    assert "entering folder '/no/such/folder' failed" in (outcome.error_message or "")


def test_an_interpreter_that_dies_at_its_start_is_a_clear_end(harness: Harness) -> None:
    code = harness.folder / "code"
    code.mkdir()
    (code / "sitecustomize.py").write_text("import os; os._exit(5)")

    outcome = run(harness, "thread", "add_thread", [1, 1])

    assert (outcome.ended, outcome.error_type) == ("not_started", "ExecutorNotStarted")
    assert "with status 5, before it was ready" in (outcome.error_message or "")


def _parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _recover(crew: Crew, count: int) -> list[Outcome]:
    found: dict[str, Outcome] = {}

    def look() -> bool:
        for outcome in crew.recover(found):
            found[outcome.claim_id] = outcome
        return len(found) == count

    with contextlib.suppress(AssertionError):
        wait_until(look, "the ends are on disk")
    return list(found.values())
