"""Cgroups of attempts, with the kernel's own: nothing escapes, all of it is held, and nobody else's is touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rota.execution.cgroup import Cgroup, Usage, kill_one_by_one, processes_in, sweep
from rota.execution.delegation import prepare
from rota.execution.linux import boottime
from rota.execution.order import Adopted, Ended, Order
from tests.execution.cgroups import attempts_in, cgroup_of, facts_of, given_directory, pids_in, the_attempt_in
from tests.execution.harness import ROOT, Harness, WorkerProcess, is_alive, wait_until
from tests.execution.test_adoption import doors
from tests.execution.test_freezing import are_held, state_of
from tests.execution.test_warm_parent import Warm

# A process that nobody but the kernel knows as the job's: it has no mark, a session of its own, and between it and the
# job another process that takes in orphans. It ignores TERM and holds nothing of the job's open.
ESCAPE = """
import ctypes, os, signal, sys, time
if os.fork() == 0:
    os.setsid()
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    if os.fork() == 0:
        if os.fork():
            os._exit(0)
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        program = "import os, sys, time; open(sys.argv[1] + '.new', 'w').write(str(os.getpid())); "
        program += "os.rename(sys.argv[1] + '.new', sys.argv[1]); time.sleep(1000)"
        for descriptor in (0, 1, 2):
            os.dup2(os.open("/dev/null", os.O_RDWR), descriptor)
        os.execve(sys.executable, [sys.executable, "-I", "-S", "-c", program, sys.argv[1]], {})
    os.wait()
    os.execve("/bin/sleep", ["sleep", "1000"], {})
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
print("ready", flush=True)
if sys.argv[2] == "stay":
    time.sleep(1000)
"""


@pytest.fixture
def given() -> Iterator[Path]:
    with given_directory() as path:
        yield path


@pytest.fixture
def cgroups(given: Path) -> str:
    return prepare(given).folder


@pytest.fixture
def held(folder: Path, cgroups: str, no_process_is_left: None) -> Iterator[Harness]:
    """A crew whose attempts get cgroups."""
    made = Harness(folder / "w", cgroups=cgroups)
    yield made
    made.crew.close()
    assert (made.folder / "nursery.log").read_text() == ""
    assert attempts_in(cgroups) == []


def escape(harness: Harness, folder: Path, then: str, **values: object) -> tuple[Order, int]:
    """Start a job that lets a process escape, and give that one's pid."""
    order = harness.start(sys.executable, "-c", ESCAPE, str(folder / "escaped"), then, **values)
    wait_until((folder / "escaped").exists, "it has escaped")
    return order, int((folder / "escaped").read_text())


def bring_from_elsewhere(cgroup: Path) -> subprocess.Popen[bytes]:
    """Put a process into a cgroup that no guardian is an ancestor of."""
    process = subprocess.Popen(["sleep", "1000"], env={})
    (cgroup / "cgroup.procs").write_text(str(process.pid))
    return process


def test_a_job_runs_in_a_cgroup_that_is_named_after_it_and_gone_with_it(held: Harness, cgroups: str) -> None:
    order = held.start("sh", "-c", "sleep 1000 & wait")
    started = held.started(order)

    path = the_attempt_in(cgroups)
    assert path.name.startswith("run-7-1-")
    assert cgroup_of(started.pid).endswith(f"/rota/{path.name}")
    assert cgroup_of(started.guardian_pid) == cgroup_of(held.crew.nursery_pid) == cgroup_of(os.getpid())
    held.crew.stop(order.claim_id, "cancelled", 5)

    assert held.ended(order).ended == "cancelled"
    assert not path.exists()


@pytest.mark.parametrize("then", ["leave", "stay"])
def test_nothing_escapes_from_an_attempt_that_ends_or_is_stopped(
    held: Harness, folder: Path, cgroups: str, then: str
) -> None:
    order, escaped = escape(held, folder, then)
    if then == "stay":
        held.crew.stop(order.claim_id, "cancelled", 0.0)

    outcome = held.ended(order)

    assert outcome.leftovers >= 2
    assert not is_alive(escaped)
    assert attempts_in(cgroups) == []


def test_what_is_in_the_cgroup_and_below_no_guardian_ends_with_the_attempt(held: Harness, cgroups: str) -> None:
    order = held.start("sleep", "1000")
    held.started(order)
    with bring_from_elsewhere(the_attempt_in(cgroups)) as stranger:
        held.crew.stop(order.claim_id, "cancelled", 5)

        outcome = held.ended(order)

        # Before the end was told, not some time after.
        assert stranger.poll() == -signal.SIGKILL
        assert outcome.leftovers == 1


def test_the_kill_of_a_stop_reaches_what_is_below_no_guardian(held: Harness, folder: Path, cgroups: str) -> None:
    order = held.start("sh", "-c", f"trap '' TERM; touch {folder}/deaf; while :; do sleep 0.02; done")
    wait_until((folder / "deaf").exists, "it ignores TERM")
    with bring_from_elsewhere(the_attempt_in(cgroups)) as stranger:
        held.crew.stop(order.claim_id, "cancelled", 0.0)

        assert held.ended(order).signal == signal.SIGKILL
        assert stranger.poll() == -signal.SIGKILL


def test_a_killed_guardian_takes_its_cgroup_along_and_no_other(held: Harness, folder: Path, cgroups: str) -> None:
    other = held.start("sleep", "1000")
    other_pid = held.started(other).pid
    the_other = the_attempt_in(cgroups)
    order, escaped = escape(held, folder, "stay")
    guardian_pid = held.started(order).guardian_pid
    (mine,) = set(attempts_in(cgroups)) - {the_other}
    with bring_from_elsewhere(mine) as stranger:
        os.kill(guardian_pid, signal.SIGKILL)

        # The worker has not looked: this is the nursery's work.
        assert stranger.wait(20) == -signal.SIGKILL
        wait_until(lambda: not is_alive(escaped) and not mine.exists(), "nothing is left")
    held.lost(order)
    assert is_alive(other_pid)
    held.crew.stop(other.claim_id, "cancelled", 5)
    held.ended(other)


def test_with_nursery_and_guardian_killed_the_worker_finds_what_escaped(
    held: Harness, folder: Path, cgroups: str
) -> None:
    order, escaped = escape(held, folder, "stay")
    guardian_pid = held.started(order).guardian_pid
    os.kill(held.crew.nursery_pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(held.crew.nursery_pid), "the nursery is dead")

    os.kill(guardian_pid, signal.SIGKILL)
    held.lost(order)

    wait_until(
        lambda: held.crew.poll(0.05) == [] and not is_alive(escaped) and attempts_in(cgroups) == [], "nothing is left"
    )


def test_the_next_worker_clears_away_what_the_dead_have_left_and_nothing_of_the_living(
    folder: Path, cgroups: str, no_process_is_left: None
) -> None:
    neighbour = Harness(folder / "n", cgroups=cgroups)
    theirs = neighbour.start("sleep", "1000")
    their_pid = neighbour.started(theirs).pid
    their_cgroup = the_attempt_in(cgroups)
    worker = WorkerProcess(
        folder / "w", sys.executable, "-c", ESCAPE, str(folder / "escaped"), "stay", settings={"cgroups": cgroups}
    )
    wait_until((folder / "escaped").exists, "it has escaped")
    escaped = int((folder / "escaped").read_text())
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in (worker.process.pid, worker.nursery_pid, worker.guardian_pid):
            os.kill(pid, number)
    worker.kill()
    wait_until(lambda: not is_alive(worker.job_pid), "the job dies of its death signal")
    assert is_alive(escaped)

    harness = Harness(folder / "w", cgroups=cgroups)
    swept = harness.crew.sweep()

    assert swept >= 2
    assert not is_alive(escaped)
    assert attempts_in(cgroups) == [their_cgroup]
    assert is_alive(their_pid)
    harness.crew.close()
    neighbour.crew.stop(theirs.claim_id, "cancelled", 5)
    assert neighbour.ended(theirs).ended == "cancelled"
    neighbour.crew.close()


def test_a_job_that_lives_on_without_its_worker_is_left_alone_by_the_next_one(
    folder: Path, cgroups: str, no_process_is_left: None
) -> None:
    worker = WorkerProcess(folder / "w", "sh", "-c", "sleep 1000", settings={"cgroups": cgroups})
    worker.kill()
    wait_until(lambda: doors(folder / "w"), "its guardian has a door")
    harness = Harness(folder / "w", cgroups=cgroups)

    assert harness.crew.sweep() == 0
    harness.crew.adopt()
    adopted = wait_until(
        lambda: next((event for event in harness.crew.poll(0.05) if isinstance(event, Adopted)), None), "adopted"
    )

    assert is_alive(worker.job_pid)
    path = the_attempt_in(cgroups)
    harness.crew.freeze(adopted.claim_id, is_frozen=True)
    wait_until(lambda: facts_of(path)["frozen"] == "1", "the new worker holds it")
    harness.crew.stop(adopted.claim_id, "cancelled", 5)
    wait_until(lambda: any(isinstance(event, Ended) for event in harness.crew.poll(0.05)), "its end")
    assert not path.exists()
    harness.crew.acknowledge([adopted.claim_id])
    harness.crew.close()


def test_a_frozen_job_is_held_whole_and_goes_on(held: Harness, folder: Path, cgroups: str) -> None:
    order = held.start("sh", "-c", f"until test -e {folder}/go; do sleep 0.01; done; exit 3")
    started = held.started(order)
    path = the_attempt_in(cgroups)
    with bring_from_elsewhere(path) as stranger:
        held.crew.freeze(order.claim_id, is_frozen=True)
        wait_until(lambda: facts_of(path)["frozen"] == "1", "it is held")
        # Held by its cgroup, not by a signal that it, or its parent, could see.
        assert "T" not in {state_of(pid) for pid in pids_in(path)}
        (folder / "go").touch()
        held.crew.ask()
        asked_at = boottime()
        held.crew.ask()
        wait_until(lambda: held.crew.poll(0.02) or held.crew.answered(asked_at), "its guardian is not")
        assert is_alive(started.pid)
        assert stranger.poll() is None

        held.crew.freeze(order.claim_id, is_frozen=False)

        assert held.ended(order).exit_code == 3
        assert stranger.poll() == -signal.SIGKILL


@pytest.mark.parametrize("how", ["stop", "lease", "guardian"])
def test_a_frozen_job_is_killed_whole(held: Harness, folder: Path, cgroups: str, how: str) -> None:
    lease = {"lease_seconds": 3.0, "grace_seconds": 0.0} if how == "lease" else {}
    order, escaped = escape(held, folder, "stay", **lease)
    started = held.started(order)
    path = the_attempt_in(cgroups)
    held.crew.freeze(order.claim_id, is_frozen=True)
    wait_until(lambda: not path.exists() or facts_of(path)["frozen"] == "1", "it is held")

    if how == "guardian":
        os.kill(started.guardian_pid, signal.SIGKILL)
        held.lost(order)
    elif how == "stop":
        held.crew.stop(order.claim_id, "cancelled", 20.0)
        assert held.ended(order).ended == "cancelled"
    else:
        assert held.ended(order).ended == "lease_over"

    wait_until(lambda: not is_alive(escaped) and not path.exists(), "nothing is left")


def test_the_nursery_kills_the_cgroup_of_a_stopped_guardian_before_the_lease_ends(held: Harness, cgroups: str) -> None:
    deadline = boottime() + 2.5
    order = held.start("sleep", "1000", lease_seconds=3.0, deadline=deadline)
    guardian_pid = held.started(order).guardian_pid
    with bring_from_elsewhere(the_attempt_in(cgroups)) as stranger:
        os.kill(guardian_pid, signal.SIGSTOP)

        assert stranger.wait(20) == -signal.SIGKILL
        assert boottime() < deadline
    os.kill(guardian_pid, signal.SIGCONT)
    assert held.ended(order).ended == "lease_over"


def test_cgroups_that_a_job_makes_in_its_own_are_killed_and_removed(held: Harness, cgroups: str) -> None:
    script = (
        f"cd {cgroups}/run-*; mkdir -p a/b; (echo 0 > a/b/cgroup.procs; exec sleep 1000) & "
        "until read x < a/b/cgroup.procs; do sleep 0.01; done"
    )

    outcome = held.run("sh", "-c", script)

    assert (outcome.exit_code, outcome.leftovers) == (0, 1)
    assert attempts_in(cgroups) == []


def test_all_that_a_job_has_computed_counts_also_what_nobody_waited_for(held: Harness, cgroups: str) -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass\nopen({0!r}, 'w').close()\ntime.sleep(1000)"
    done = f"{held.folder}/done"
    script = f'{sys.executable} -I -S -c "$0" & until test -e {done}; do sleep 0.01; done'

    outcome = held.run("sh", "-c", script, burn.format(done))

    assert outcome.exit_code == 0
    assert outcome.cpu_seconds > 0.3


def test_a_warm_job_is_in_its_cgroup_before_its_code_runs(folder: Path, cgroups: str, no_process_is_left: None) -> None:
    (folder / "where.py").write_text(
        "import os\ndef cgroup(): return open('/proc/self/cgroup').read()\ndef parent(): return os.getppid()\n"
    )
    harness = Harness(folder / "w", cgroups=cgroups)
    warm = Warm(harness, folder)
    parent = warm.await_parent("where")

    outcome = warm.run("where:cgroup")

    assert "/rota/run-7-1-" in (outcome.result or "")
    assert outcome.cold_because is None
    assert cgroup_of(parent) == cgroup_of(os.getpid())
    assert attempts_in(cgroups) == []
    harness.crew.close()
    assert (harness.folder / "w").exists()


def test_a_frozen_warm_job_is_held_and_killed_whole(folder: Path, cgroups: str, no_process_is_left: None) -> None:
    harness = Harness(folder / "w", cgroups=cgroups)
    warm = Warm(harness, folder)
    warm.await_parent()
    order = warm.start("detach", {"folder": str(folder)})
    pids = warm.told_pids()
    path = the_attempt_in(cgroups)

    harness.crew.freeze(order.claim_id, is_frozen=True)
    wait_until(lambda: facts_of(path)["frozen"] == "1", "it is held")
    assert set(pids_in(path)) == set(pids)
    with bring_from_elsewhere(path) as stranger:
        harness.crew.stop(order.claim_id, "cancelled", 0.0)
        assert harness.ended(order).ended == "cancelled"
        assert stranger.poll() == -signal.SIGKILL

    assert not any(is_alive(pid) for pid in pids)
    assert attempts_in(cgroups) == []
    harness.crew.close()


# -- doing without


def test_a_refused_directory_costs_a_line_in_the_log_and_nothing_else(
    folder: Path, given: Path, cgroups: str, no_process_is_left: None
) -> None:
    (given / "cgroup.max.descendants").write_text("1")
    harness = Harness(folder / "w", cgroups=cgroups)

    outcome = harness.run("sh", "-c", "setsid sleep 1000 & exit 3")

    assert (outcome.exit_code, outcome.leftovers) == (3, 1)
    assert attempts_in(cgroups) == []
    assert harness.run("true").exit_code == 0
    # Said once by each guardian, which serves a thousand attempts.
    assert (harness.folder / "nursery.log").read_text().count("no cgroup") == 1
    order = harness.start("sleep", "1000")
    pid = harness.started(order).pid
    harness.crew.freeze(order.claim_id, is_frozen=True)
    wait_until(lambda: are_held([pid]), "held by a signal")
    harness.crew.stop(order.claim_id, "cancelled", 5)
    assert harness.ended(order).ended == "cancelled"
    harness.crew.close()


def test_a_job_that_may_not_enter_its_cgroup_runs_without_and_is_frozen_by_signals(
    folder: Path, given: Path, no_process_is_left: None
) -> None:
    # Below a threaded cgroup, directories can be made, and no process can enter them.
    threaded = given / "threaded"
    threaded.mkdir()
    (threaded / "cgroup.type").write_text("threaded")
    harness = Harness(folder / "w", cgroups=str(threaded))
    script = f"ulimit -v; touch {folder}/told; sleep 1000"
    order = harness.start("sh", "-c", script, limits={"memory_max_bytes": 1 << 30})
    pid = harness.started(order).pid
    wait_until((folder / "told").exists, "it has told its limit")

    harness.crew.freeze(order.claim_id, is_frozen=True)

    wait_until(lambda: are_held([pid]), "held by a signal")
    harness.crew.stop(order.claim_id, "cancelled", 5)
    outcome = harness.ended(order)
    assert outcome.ended == "cancelled"
    assert outcome.stdout.head == b"1048576\n"
    assert f"no cgroup {threaded}/run-7-1-" in (harness.folder / "nursery.log").read_text()
    assert attempts_in(threaded) == []
    harness.crew.close()


def test_a_warm_job_that_may_not_enter_runs_all_the_same(folder: Path, given: Path, no_process_is_left: None) -> None:
    threaded = given / "threaded"
    threaded.mkdir()
    (threaded / "cgroup.type").write_text("threaded")
    harness = Harness(folder / "w", cgroups=str(threaded))
    warm = Warm(harness, folder)
    parent = warm.await_parent()

    outcome = warm.run("parent")

    assert (outcome.result, outcome.cold_because) == (str(parent), None)
    assert "no cgroup" in (harness.folder / "warm.log").read_text()
    harness.crew.close()


# -- sweeping and killing, seen from near


def test_a_sweep_spares_what_is_locked_and_takes_the_rest(cgroups: str) -> None:
    locked = Cgroup.make(f"{cgroups}/run-1-1-locked")
    (Path(cgroups) / "run-2-1-left").mkdir()
    (Path(cgroups) / "something-else").mkdir()
    with (
        bring_from_elsewhere(Path(locked.path)) as living,
        bring_from_elsewhere(Path(cgroups) / "run-2-1-left") as dead,
    ):
        assert sweep(cgroups, 5.0) == 1

        assert dead.wait(20) == -signal.SIGKILL
        assert living.poll() is None
        assert [path.name for path in attempts_in(cgroups)] == ["run-1-1-locked"]
        assert locked.kill_rest() == 1
        assert locked.wait_until_empty(5.0)
        locked.remove()
    assert attempts_in(cgroups) == []
    assert sweep(f"{cgroups}/not-there", 5.0) == 0


def test_a_worker_looks_for_leftovers_of_its_neighbours_now_and_then(held: Harness, cgroups: str, monkeypatch) -> None:
    left = Path(cgroups) / "run-2-1-left"
    left.mkdir()
    with bring_from_elsewhere(left) as dead:
        monkeypatch.setattr(held.crew, "_sweep_at", 0.0)

        held.crew.poll(0)

        assert dead.wait(20) == -signal.SIGKILL
    wait_until(lambda: attempts_in(cgroups) == [], "it is removed")


def test_a_job_of_another_user_cannot_take_the_lock_that_tells_that_its_guardian_lives(cgroups: str) -> None:
    cgroup = Cgroup.make(f"{cgroups}/run-1-1-locked")

    opened, looked_up = (
        subprocess.run(["/bin/sh", "-c", f"exec 3< {path}"], user=65534, capture_output=True, check=False, cwd="/")
        for path in (cgroup.path, f"{cgroup.path}/cgroup.events")
    )

    assert b"Permission denied" in opened.stderr
    assert looked_up.returncode == 0
    cgroup.remove()


FORKING = """
import os, sys, time
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
while True:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(1000)
        os._exit(0)
    time.sleep(0.005)
    os.waitpid(-1, os.WNOHANG)
"""


def test_a_kernel_that_cannot_kill_a_cgroup_has_it_killed_one_by_one(cgroups: str) -> None:
    path = Path(cgroups) / "run-1-1-forking"
    path.mkdir()
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", FORKING, str(path)]) as process:
        wait_until(lambda: len(processes_in(str(path))) > 20, "there are many")

        kill_one_by_one(str(path))

        assert process.wait(20) == -signal.SIGKILL
        wait_until(lambda: not processes_in(str(path)), "all are dead")
    assert (path / "cgroup.freeze").read_text() == "0\n"


# -- limits


def test_a_limit_that_a_cgroup_holds_is_not_set_for_each_process_besides(given: Path) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom rota.execution.spawn import Birth, set_up\n"
        "cgroup = {'path': sys.argv[1], 'holds': ['memory_max_bytes']}\n"
        "birth = Birth([], {}, cwd=None, user=None, umask=0o22, limits={'memory_max_bytes': 1 << 32, 'nice': 3},\n"
        "    nofile=(64, 64), stdin=0, stdout=1, stderr=2, cgroup=cgroup)\n"
        "set_up(birth)\nprint(sorted(birth.limits))"
    )

    told = [
        subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
        for path in (str(given), str(given / "not-there"))
    ]

    assert [one.stdout.strip() for one in told] == ["['nice']", "['memory_max_bytes', 'nice']"]
    assert "no cgroup" not in told[0].stderr
    assert "no cgroup" in told[1].stderr


# The controllers for memory and processes are not to be had everywhere, so what is made of them is tried on plain files
# that look like the kernel's; that the kernel writes them like this is not tested.
FILES = {
    "cgroup.events": "populated 0\nfrozen 0\n",
    "cpu.stat": "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n",
    "memory.peak": "734003200\n",
    "memory.events": "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n",
    "io.stat": "8:0 rbytes=4096000 wbytes=8000000000 rios=1 wios=1 dbytes=0 dios=0\n8:16 rbytes=5 wbytes=2\n",
}


def write_files(folder: Path, **others: str) -> None:
    for name, text in (FILES | {name.replace("_", "."): text for name, text in others.items()}).items():
        (folder / name).write_text(text)


def test_what_was_used_is_read_off_the_files_of_the_controllers(tmp_path: Path) -> None:
    write_files(tmp_path)

    usage = Usage(str(tmp_path))

    assert (usage.cpu_seconds, usage.memory_bytes_max, usage.memory_kills) == (2.5, 734003200, 2)
    assert (usage.read_bytes, usage.written_bytes) == (4096005, 8000000002)


def test_what_no_controller_tells_is_not_known(tmp_path: Path) -> None:
    usage = Usage(str(tmp_path))

    assert (usage.cpu_seconds, usage.memory_bytes_max, usage.memory_kills) == (None, None, None)
    assert (usage.read_bytes, usage.written_bytes) == (None, None)


def test_the_limits_that_have_a_controller_are_its_business_and_the_rest_is_not(tmp_path: Path) -> None:
    cgroup = Cgroup.make(f"{tmp_path}/run-1-1-x")
    limits = {"memory_max_bytes": 1 << 28, "processes_max": 50, "nice": 5, "cpu_max_seconds": 3.0}
    path = Path(cgroup.path)

    cgroup.limit(limits)
    assert cgroup.holds == []
    for name in ("memory.max", "memory.oom.group", "pids.max"):
        (path / name).touch()
    cgroup.limit(limits)

    assert cgroup.holds == ["memory_max_bytes", "processes_max"]
    read = [(path / name).read_text() for name in ("memory.max", "memory.oom.group", "pids.max")]
    assert read == [str(1 << 28), "1", "50"]


@pytest.mark.parametrize(("events", "error_type"), [("oom_kill 0\n", None), ("oom 1\noom_kill 2\n", "OutOfMemory")])
def test_only_a_kill_of_the_own_cgroup_is_want_of_memory(
    folder: Path, no_process_is_left: None, events: str, error_type: str | None
) -> None:
    # A directory of plain files: nobody can enter it, and the job writes what the kernel would.
    plain = folder / "plain"
    plain.mkdir()
    lines = [f"printf '{text}' > {name}" for name, text in {**FILES, "memory.events": events}.items()]
    harness = Harness(folder / "w", cgroups=str(plain))

    outcome = harness.run("sh", "-c", f"cd {plain}/run-*; {'; '.join(lines)}; kill -9 $$".replace("\n", "\\n"))

    assert (outcome.signal, outcome.error_type) == (signal.SIGKILL, error_type)
    assert (outcome.cpu_seconds, outcome.memory_bytes_max) == (2.5, 734003200)
    assert (outcome.read_bytes, outcome.written_bytes) == (4096005, 8000000002)
    if error_type:
        assert "2 processes for want of memory; its memory peaked at 700.0 MiB" in (outcome.error_message or "")
    harness.crew.close()
