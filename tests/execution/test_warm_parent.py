"""Python jobs that a warm parent forks: the same as cold ones, guarded as well, and refused where forking is unsafe."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rota.engine.watch import end_of
from rota.execution import hearth
from rota.execution.command import argv_for_call, argv_for_environment
from rota.execution.linux import boottime, children_of
from rota.execution.order import Order, Outcome
from tests.execution.harness import ROOT, Harness, count_files, is_alive, make_order, wait_until
from tests.execution.pythons import FORKING, YOUNG_ENOUGH
from tests.execution.test_freezing import are_held

JOBS = '''
import atexit, os, signal, subprocess, sys, threading, time
from rota.execution.context import current_run
from rota.execution.report import report_result

atexit.register(lambda: print("goodbye of the import"))
imported_by = os.getpid()
made_at_import = [object() for _ in range(3)]

def parent(): return os.getppid()
def value(a=1): return a
def run(): return [current_run().run_id, current_run().args, current_run().key]

def status():
    names = ("SigBlk", "SigIgn", "SigCgt", "Umask", "NoNewPrivs")
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return {name: lines[name].strip() for name in names}

def see():
    import gc, locale, resource, select
    signals = "import json; print([l for l in open('/proc/self/status') if l[:6] in ('SigIgn', 'SigBlk')])"
    return {
        "descriptors": sorted(n for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{n}")),
        "status": status(),
        "in a child": subprocess.run([sys.executable, "-S", "-c", signals], capture_output=True, text=True).stdout,
        "session": os.getsid(0) == os.getpid() == os.getpgid(0),
        "cwd": os.getcwd(),
        "nice": os.nice(0),
        "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "argv": sys.argv,
        "path": sys.path,
        "flags": str(sys.flags),
        "environment": {n: ascii(v) for n, v in os.environ.items() if n != "ROTA_CONTROL"},
        "encodings": [sys.stdout.encoding, sys.stdin.encoding, sys.getfilesystemencoding()],
        "locale": locale.getpreferredencoding(),
        "streams": [str(stream) for stream in (sys.stdin, sys.stdout, sys.stderr)],
        "buffered": [sys.stdout.line_buffering, sys.stdout.seekable(), sys.stderr.line_buffering],
        "gc": [gc.isenabled(), gc.get_threshold()],
        "standard input": sys.stdin.read(),
        "threads": threading.active_count(),
        "main thread": threading.current_thread() is threading.main_thread(),
        "root handler": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
    }

def sleep(folder):
    tell(folder, os.getpid())
    time.sleep(1000)

def detach(folder, told=None):
    """Leave a grandchild in a session of its own, which holds the output open; TERM ends neither."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    grandchild = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    tell(folder, os.getpid(), grandchild.pid)
    if told is not None:
        return told
    time.sleep(1000)

def tell(folder, *pids):
    with open(f"{folder}/new", "w") as file:
        print(*pids, file=file)
    os.rename(f"{folder}/new", f"{folder}/pids")

def wait_then(folder, told):
    tell(folder, os.getpid())
    while not os.path.exists(f"{folder}/go"):
        time.sleep(0.01)
    return told

def tell_then_wait(folder):
    current_run().result("told")
    sleep(folder)

def orphan(folder):
    """Detach a grandchild, and end its parent: it becomes the child of the nearest subreaper."""
    program = "import subprocess as s; print(s.Popen(['sleep', '1000'], stdout=-3, start_new_session=True).pid)"
    done = subprocess.run([sys.executable, "-S", "-c", program], stdout=subprocess.PIPE, text=True)
    tell(folder, os.getpid(), int(done.stdout))
    time.sleep(1000)

def touch(folder): open(f"{folder}/touched", "w").close()

def side_by_side(method):
    import multiprocessing
    with multiprocessing.get_context(method).Pool(2) as pool:
        return pool.map(abs, [-1, -2])

async def shell():
    import asyncio
    process = await asyncio.create_subprocess_shell("exit 3")
    return await process.wait()

def leave(code): sys.exit(code)
def vanish(code): os._exit(code)
def die(): os.kill(os.getpid(), signal.SIGSEGV)
def fail(): raise ValueError("no good")
def stop(): raise GeneratorExit
def flood(): print("x" * 300000)

def forget_to_close(folder):
    global text, packed
    import gzip
    text = open(f"{folder}/text", "w"); text.write("written")
    packed = gzip.open(f"{folder}/packed", "wt"); packed.write("packed")
    atexit.register(lambda: print("goodbye of the job"))
    threading.Thread(target=lambda: (time.sleep(0.05), print("from a thread"))).start()

def cycle():
    class Node:
        def __del__(self): print("collected")
    node = Node(); node.self = node

def fork():
    pid = os.fork()
    if not pid:
        os.setsid()
        if os.fork(): os._exit(0)
        time.sleep(1000)
    os.waitpid(pid, 0)
    return "left a child that never executed anything"

'''  # fmt: skip

FACTS = {
    "ROTA_RUN_ID": "7", "ROTA_JOB": "j", "ROTA_ATTEMPT": "1", "ROTA_NODE": "n", "ROTA_FENCE": "5", "ROTA_KEY": "s/1",
}  # fmt: skip


class Warm:
    """Orders for callables of modules in a folder, and the waiting for the parent that forks them."""

    def __init__(self, harness: Harness, folder: Path) -> None:
        self.harness = harness
        self.folder = folder
        self.interpreter: str | None = None  # of an environment
        (folder / "jobs_here.py").write_text(JOBS)

    def order(self, target: str, arguments: Any = None, *, warm: bool = True, **values: Any) -> Order:
        text = json.dumps({} if arguments is None else arguments)
        environment = {
            "PATH": os.environ["PATH"], "PYTHONPATH": f"{self.folder}:{ROOT}", **FACTS, "ROTA_ARGS": text,
            **values.pop("variables", {}),
        }  # fmt: skip
        target = target if ":" in target else f"jobs_here:{target}"
        values = {"arguments": text, "expects_result": True, "environment": environment} | values
        argv = argv_for_call(target)
        if self.interpreter is not None:
            argv = argv_for_environment(target, self.interpreter, "shop==1.2")
            environment["PYTHONPATH"] = str(self.folder)
        return make_order(*argv, call=target if warm else None, **values)

    def start(self, target: str, arguments: Any = None, **values: Any) -> Order:
        order = self.order(target, arguments, **values)
        self.harness.crew.start(order)
        return order

    def run(self, target: str, arguments: Any = None, **values: Any) -> Outcome:
        return self.harness.ended(self.start(target, arguments, **values))

    def await_parent(self, module: str = "jobs_here", function: str = "parent", **values: Any) -> int:
        """Run jobs until one was forked by a warm parent, and give that parent's pid."""

        def forked_by() -> int | None:
            order = self.start(f"{module}:{function}", **values)
            guardian_pid = self.harness.started(order).guardian_pid
            outcome = self.harness.ended(order)
            assert outcome.exit_code == 0, outcome
            pid = int(outcome.result or "")
            return pid if pid != guardian_pid else None

        return wait_until(forked_by, "a warm parent has forked a job")

    def told_pids(self) -> list[int]:
        wait_until((self.folder / "pids").exists, "the job has told its pids")
        pids = [int(word) for word in (self.folder / "pids").read_text().split()]
        (self.folder / "pids").unlink()
        return pids


@pytest.fixture
def warm(harness: Harness, folder: Path) -> Iterator[Warm]:
    yield Warm(harness, folder)
    log = harness.folder / "warm.log"
    assert not log.exists() or log.read_text() == ""


@pytest.fixture(params=[None, "bare", *FORKING])
def warm_anywhere(request: pytest.FixtureRequest, warm: Warm) -> Warm:
    """The same in no environment, in a bare virtual environment, and under each other Python of this machine."""
    warm.interpreter = request.getfixturevalue("bare_python") if request.param == "bare" else request.param
    return warm


def _gone(*pids: int) -> bool:
    return not any(is_alive(pid) for pid in pids)


def test_the_parent_imports_once_and_every_job_is_a_process_of_its_own(warm_anywhere: Warm) -> None:
    warm = warm_anywhere
    parent = warm.await_parent()

    pids = [warm.run("parent").result for _ in range(5)]

    assert pids == [str(parent)] * 5
    assert len(list(Path(f"/proc/{parent}/task").iterdir())) == 1
    assert os.getsid(parent) == parent


@pytest.mark.parametrize("path", [path for path in YOUNG_ENOUGH if path not in FORKING])
def test_an_interpreter_that_cannot_fork_like_this_one_starts_every_job_cold(warm: Warm, path: str) -> None:
    warm.interpreter = path

    def why() -> str | None:
        assert warm.run("value", {"a": 2}).result == "2"
        return warm.run("value").cold_because

    assert "its interpreter is pypy" in wait_until(why, "its parent was asked to import")


def test_an_interpreter_that_was_changed_starts_the_next_jobs_anew(warm: Warm, folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--copies", str(folder / "venv")], check=True)
    warm.interpreter = str(folder / "venv/bin/python")
    parent = warm.await_parent()

    os.utime(folder / "venv/bin/python")

    wait_until(lambda: "was changed" in (warm.run("value").cold_because or ""), "it looked again")
    assert warm.await_parent() != parent


def test_a_job_sees_the_same_warm_as_cold(warm_anywhere: Warm, folder: Path) -> None:
    warm = warm_anywhere
    values: dict[str, Any] = {"cwd": str(folder), "umask": 0o027, "limits": {"nice": 3}, "stdin": b"hello\n" * 1000}
    warm.await_parent(cwd=str(folder))

    outcomes = [warm.run("see", **values, warm=is_warm) for is_warm in (False, True)]

    cold, hot = (json.loads(outcome.result or "") for outcome in outcomes)
    assert cold == hot
    assert hot["descriptors"] == ["0", "1", "2"]
    assert hot["session"] is True
    assert [outcome.stdout.head for outcome in outcomes] == [b"goodbye of the import\n"] * 2


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "de_DE.ISO-8859-1", None])
def test_locale_and_bytes_of_variables_are_the_same_warm_as_cold(warm: Warm, locale: str | None) -> None:
    variables = {"WORD": "ü\udcff"} | ({} if locale is None else {"LANG": locale})
    warm.await_parent(variables=variables)

    cold, hot = (json.loads(warm.run("see", variables=variables, warm=w).result or "") for w in (False, True))

    assert cold == hot


def test_what_the_run_is_comes_to_the_job(warm: Warm) -> None:
    warm.await_parent()

    first, second = (
        warm.run("run", {}, variables={"ROTA_RUN_ID": number, "ROTA_ARGS": "{}"}).result for number in ("8", "9")
    )

    assert (json.loads(first or ""), json.loads(second or "")) == ([8, {}, "s/1"], [9, {}, "s/1"])
    assert warm.run("value", {"a": "x" * 900_000}, variables={"ROTA_ARGS": json.dumps({"a": "y"})}).result == '"y"'


def test_ends_are_the_same_warm_as_cold(warm_anywhere: Warm) -> None:
    warm = warm_anywhere
    warm.await_parent()

    for target, arguments in (
        ("leave", {"code": 3}), ("leave", {"code": None}), ("leave", {"code": "said"}), ("leave", {"code": -1}),
        ("vanish", {"code": 0}), ("vanish", {"code": 7}), ("die", {}), ("fail", {}), ("stop", {}), ("value", {"b": 1}),
        ("missing", {}), ("made_at_import", {}), ("flood", {}), ("cycle", {}),
        ("shell", {}), ("side_by_side", {"method": "fork"}), ("side_by_side", {"method": "spawn"}),
        ("side_by_side", {"method": "forkserver"}),
    ):  # fmt: skip
        cold, hot = (warm.run(target, arguments, warm=is_warm) for is_warm in (False, True))
        for name in ("ended", "exit_code", "signal", "error_type", "error_message", "error_bases", "result"):
            assert getattr(cold, name) == getattr(hot, name), (target, arguments, name)
        assert (cold.stdout.head, cold.stderr.head) == (hot.stdout.head, hot.stderr.head), target
        assert (cold.traceback or "") == (hot.traceback or "")


def test_a_job_ends_as_an_interpreter_does(warm: Warm, folder: Path) -> None:
    import gzip

    warm.await_parent()

    outcome = warm.run("forget_to_close", {"folder": str(folder)})

    assert outcome.stdout.head == b"from a thread\ngoodbye of the job\ngoodbye of the import\n"
    assert (folder / "text").read_text() == "written"
    assert gzip.decompress((folder / "packed").read_bytes()) == b"packed"
    assert outcome.stderr.head == b""


def test_usage_and_leftovers_are_told_by_the_parent(warm: Warm, folder: Path) -> None:
    warm.await_parent()

    for is_warm in (False, True):
        outcome = warm.run("detach", {"folder": str(folder), "told": 5}, warm=is_warm)

        assert (outcome.result, outcome.leftovers) == ("5", 1)
        assert outcome.cpu_seconds > 0
        assert outcome.memory_bytes_max > 1 << 20
        assert _gone(*warm.told_pids())


def test_one_s_orphans_are_swept_and_a_neighbour_s_are_not(warm: Warm, folder: Path) -> None:
    parent = warm.await_parent()
    neighbour = warm.start("orphan", {"folder": str(folder)})
    warm.harness.started(neighbour)
    kept = warm.told_pids()

    outcome = warm.run("fork")

    assert outcome.result == '"left a child that never executed anything"'
    assert outcome.leftovers == 1
    assert all(is_alive(pid) for pid in kept)
    assert children_of(parent) == [kept[0]]
    warm.harness.crew.stop(neighbour.claim_id, "cancelled", 0)
    assert warm.harness.ended(neighbour).ended == "cancelled"
    assert _gone(*kept)


def test_a_stop_reaches_the_whole_group(warm: Warm, folder: Path) -> None:
    warm.await_parent()
    order = warm.start("sleep", {"folder": str(folder)})
    warm.harness.started(order)
    warm.told_pids()

    warm.harness.crew.stop(order.claim_id, "cancelled", 20)

    outcome = warm.harness.ended(order)
    assert (outcome.ended, outcome.signal) == ("cancelled", signal.SIGTERM)


def test_a_time_limit_and_the_end_of_a_lease_stop_it(warm: Warm, folder: Path) -> None:
    warm.await_parent()

    assert warm.run("sleep", {"folder": str(folder)}, timeout_seconds=0.1, grace_seconds=0.1).ended == "timeout"
    outcome = warm.run("sleep", {"folder": str(folder)}, lease_seconds=3.0, deadline=boottime() + 2.5)
    assert outcome.ended == "lease_over"
    late = warm.run("parent", lease_seconds=3.0, deadline=boottime() + 1.0)
    assert (late.ended, late.error_type) == ("not_started", "LeaseOver")


def test_what_waits_for_its_parent_past_its_lease_or_is_stopped_is_never_started(warm: Warm, folder: Path) -> None:
    parent = warm.await_parent()
    os.kill(parent, signal.SIGSTOP)
    late = warm.start("touch", {"folder": str(folder)}, lease_seconds=3.0, deadline=boottime() + 1.8)
    unwanted = warm.start("touch", {"folder": str(folder)}, lease_seconds=600.0)

    warm.harness.crew.stop(unwanted.claim_id, "cancelled", 10)

    stopped, missed = warm.harness.ended(unwanted), warm.harness.ended(late)
    assert (missed.ended, missed.error_type) == ("not_started", "LeaseOver")
    assert (stopped.ended, stopped.exit_code) == ("cancelled", None)
    os.kill(parent, signal.SIGCONT)
    outcome = warm.run("parent")
    assert (outcome.result, outcome.cold_because) == (str(parent), None)
    assert children_of(parent) == []
    assert not (folder / "touched").exists()


def test_a_killed_guardian_takes_its_job_along_and_no_other(warm: Warm, folder: Path) -> None:
    warm.await_parent()
    other = warm.start("sleep", {"folder": str(folder)})
    warm.harness.started(other)
    (other_pid,) = warm.told_pids()
    order = warm.start("detach", {"folder": str(folder)})
    guardian_pid = warm.harness.started(order).guardian_pid
    pids = warm.told_pids()
    os.kill(warm.harness.crew.nursery_pid, signal.SIGSTOP)  # which would do it too, as the worker when it looks

    os.kill(guardian_pid, signal.SIGKILL)

    wait_until(lambda: _gone(*pids), "the tree is gone")
    os.kill(warm.harness.crew.nursery_pid, signal.SIGCONT)
    assert warm.harness.lost(order).has_started
    assert is_alive(other_pid)
    warm.harness.crew.stop(other.claim_id, "cancelled", 0)
    warm.harness.ended(other)


def test_with_the_parent_stopped_the_nursery_kills_the_job_of_a_killed_guardian(warm: Warm, folder: Path) -> None:
    parent = warm.await_parent()
    order = warm.start("detach", {"folder": str(folder)})
    guardian_pid = warm.harness.started(order).guardian_pid
    pids = warm.told_pids()
    os.kill(parent, signal.SIGSTOP)

    os.kill(guardian_pid, signal.SIGKILL)

    wait_until(lambda: _gone(*pids), "the tree is gone")
    os.kill(parent, signal.SIGCONT)
    warm.harness.lost(order)


@pytest.mark.parametrize("is_stopped", [False, True])
def test_the_job_of_a_frozen_guardian_is_killed_before_its_lease_ends(
    warm: Warm, folder: Path, is_stopped: bool
) -> None:
    parent = warm.await_parent()
    deadline = boottime() + 2.5
    order = warm.start("detach", {"folder": str(folder)}, lease_seconds=3.0, deadline=deadline)
    guardian_pid = warm.harness.started(order).guardian_pid
    pids = warm.told_pids()
    if is_stopped:
        os.kill(parent, signal.SIGSTOP)

    os.kill(guardian_pid, signal.SIGSTOP)

    wait_until(lambda: _gone(*pids), "the tree is gone")
    assert boottime() < deadline
    os.kill(parent, signal.SIGCONT)
    os.kill(guardian_pid, signal.SIGCONT)
    outcome = warm.harness.ended(order)
    assert (outcome.ended, outcome.signal) == ("lease_over", signal.SIGKILL)


def test_a_job_outlives_its_parent_and_its_result_counts(warm: Warm, folder: Path) -> None:
    parent = warm.await_parent()
    order = warm.start("wait_then", {"folder": str(folder), "told": "kept"})
    job_pid = warm.harness.started(order).pid
    warm.told_pids()

    os.kill(parent, signal.SIGKILL)
    wait_until(lambda: not is_alive(parent), "the parent is dead")
    assert is_alive(job_pid)
    (folder / "go").write_text("")

    outcome = warm.harness.ended(order)
    assert (outcome.ended, outcome.exit_code, outcome.result, outcome.error_type) == ("exited", 0, '"kept"', None)
    assert outcome.stdout.head == b"goodbye of the import\n"
    assert end_of(outcome).kind == "exited"
    assert any("died" in note for note in warm.harness.crew.take_notes())
    assert warm.run("value").result == "1"


@pytest.mark.parametrize(
    ("target", "ended", "error_type", "result"),
    [("detach", "exited", "StatusLost", None), ("tell_then_wait", "exited", None, '"told"')],
)
def test_without_its_parent_a_job_that_dies_is_judged_by_what_it_told(
    warm: Warm, folder: Path, target: str, ended: str, error_type: str | None, result: str | None
) -> None:
    parent = warm.await_parent()
    order = warm.start(target, {"folder": str(folder)})
    warm.harness.started(order)
    pids = warm.told_pids()
    os.kill(parent, signal.SIGKILL)
    wait_until(lambda: not is_alive(parent), "the parent is dead")

    os.kill(pids[0], signal.SIGKILL)

    outcome = warm.harness.ended(order)
    assert (outcome.ended, outcome.error_type, outcome.result) == (ended, error_type, result)
    assert end_of(outcome).kind == ("exited" if error_type is None else "exception")
    assert _gone(*pids)  # what it had detached, too


def test_with_its_parent_stopped_what_a_job_detached_is_still_killed_with_it(warm: Warm, folder: Path) -> None:
    parent = warm.await_parent()
    order = warm.start("detach", {"folder": str(folder)})
    warm.harness.started(order)
    pids = warm.told_pids()
    os.kill(parent, signal.SIGSTOP)

    warm.harness.crew.stop(order.claim_id, "cancelled", 0)

    wait_until(lambda: _gone(*pids), "the tree is gone")
    os.kill(parent, signal.SIGCONT)
    outcome = warm.harness.ended(order)
    assert (outcome.ended, outcome.signal) == ("cancelled", signal.SIGKILL)  # not given up: it was killed at once


def test_without_its_parent_a_job_is_still_stopped(warm: Warm, folder: Path) -> None:
    parent = warm.await_parent()
    order = warm.start("detach", {"folder": str(folder)})
    warm.harness.started(order)
    pids = warm.told_pids()
    os.kill(parent, signal.SIGKILL)
    wait_until(lambda: not is_alive(parent), "the parent is dead")

    warm.harness.crew.stop(order.claim_id, "cancelled", 0)

    assert warm.harness.ended(order).ended == "cancelled"
    wait_until(lambda: _gone(*pids), "the tree is gone")


def test_with_parent_and_guardian_killed_the_worker_kills_what_is_left(warm: Warm, folder: Path) -> None:
    parent = warm.await_parent()
    order = warm.start("detach", {"folder": str(folder)})
    guardian_pid = warm.harness.started(order).guardian_pid
    pids = warm.told_pids()
    os.kill(warm.harness.crew.nursery_pid, signal.SIGSTOP)
    os.kill(parent, signal.SIGKILL)
    wait_until(lambda: not is_alive(parent), "the parent is dead")

    os.kill(guardian_pid, signal.SIGKILL)
    warm.harness.lost(order)

    wait_until(lambda: _gone(*pids), "the tree is gone")
    os.kill(warm.harness.crew.nursery_pid, signal.SIGCONT)


def test_a_parent_that_does_not_answer_costs_a_cold_start(warm: Warm) -> None:
    parent = warm.await_parent()
    os.kill(parent, signal.SIGSTOP)

    outcome = warm.run("parent")

    assert outcome.exit_code == 0
    assert outcome.result != str(parent)
    assert "did not answer" in (outcome.cold_because or "")
    assert "did not answer" in (warm.run("parent").cold_because or "")
    os.kill(parent, signal.SIGCONT)
    wait_until(lambda: not is_alive(parent), "the parent leaves when it can")


def test_the_mark_of_a_forked_job_is_seen_by_the_sweep(warm: Warm, folder: Path) -> None:
    parent = warm.await_parent()
    order = warm.start("sleep", {"folder": str(folder)})
    guardian_pid = warm.harness.started(order).guardian_pid
    (job_pid,) = warm.told_pids()
    marks = [
        variable
        for variable in Path(f"/proc/{job_pid}/environ").read_bytes().split(b"\0")
        if variable.startswith(b"ROTA_CONTROL=")
    ]
    assert len(marks) == 1
    assert Path(os.fsdecode(marks[0].partition(b"=")[2])).is_socket()
    for pid in (warm.harness.crew.nursery_pid, parent, guardian_pid):
        os.kill(pid, signal.SIGSTOP)
    for pid in (warm.harness.crew.nursery_pid, parent, guardian_pid):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: _gone(parent, guardian_pid), "nobody watches")
    assert is_alive(job_pid)

    assert warm.harness.crew.sweep() >= 1

    wait_until(lambda: not is_alive(job_pid), "it is swept")
    warm.harness.lost(order)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("import threading, time; threading.Thread(target=time.sleep, args=(999,), daemon=True).start()", "leaves 2"),
        ("file = open(__file__)", "picky.py open"),
        ("import socket; pair = socket.socketpair()", "socket:"),
        ("import subprocess; child = subprocess.Popen(['sleep', '1000'])", "process running"),
        ("import signal; signal.signal(signal.SIGCHLD, lambda *_: None)", "SIGCHLD"),
        ("import os\nif 'ROTA_RUN_ID' not in os.environ: raise RuntimeError('only in a run')", "only in a run"),
        ("import os, sys\nif 'ROTA_RUN_ID' not in os.environ: sys.exit(3)", "SystemExit: 3"),
        ("import os\nif 'ROTA_RUN_ID' not in os.environ: os._exit(3)", "died of it"),
        ("import os\nif 'ROTA_RUN_ID' not in os.environ: os.kill(os.getpid(), 9)", "died of it"),
        ("from rota import current_run; run = current_run()", "not a job"),
    ],
)
def test_imports_that_make_forking_unsafe_start_cold_and_say_why(
    warm: Warm, folder: Path, source: str, why: str
) -> None:
    (folder / "picky.py").write_text(f"{source}\nimport os\ndef parent(): return os.getppid()\n")

    def said() -> str | None:
        outcome = warm.run("picky:parent")
        assert (outcome.exit_code, outcome.error_type) == (0, None), outcome
        return outcome.cold_because

    assert why in wait_until(said, "a reason")
    assert len(warm.harness.crew.take_notes()) == 1
    # Not tried again for now, and nobody else's trouble.
    assert why in (warm.run("picky:parent").cold_because or "")
    warm.await_parent()
    assert why in (warm.run("picky:parent").cold_because or "")


def test_an_import_that_hangs_costs_nobody_anything(warm: Warm, folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(hearth, "IMPORT_SECONDS_MAX", 1.0)
    parent = warm.await_parent()
    (folder / "stuck.py").write_text(
        "import os, time\nif 'ROTA_RUN_ID' not in os.environ: time.sleep(1000)\ndef value(): return 1\n"
    )

    outcomes = [warm.run("stuck:value") for _ in range(3)]

    assert [outcome.result for outcome in outcomes] == ["1"] * 3
    assert warm.run("parent").result == str(parent)
    wait_until(lambda: "longer than" in (warm.run("stuck:value").cold_because or ""), "it is given up")
    assert warm.run("parent").result == str(parent)


def test_a_thread_that_begins_late_ends_the_forking(warm: Warm, folder: Path) -> None:
    (folder / "late.py").write_text(
        "import os, threading, time\n"
        "def begin(): threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n"
        "os.register_at_fork(after_in_parent=begin)\n"
        "def parent(): return os.getppid()\n"
    )
    warm.await_parent("late")

    outcome = warm.run("late:parent")

    assert outcome.exit_code == 0
    assert "2 threads run in it" in (outcome.cold_because or "")


def test_an_import_that_failed_is_tried_again_after_a_while(warm: Warm, folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(hearth, "SET_ASIDE_SECONDS", 0.1)
    (folder / "later.py").write_text(
        f"import os\nif 'ROTA_RUN_ID' not in os.environ and not os.path.exists({str(folder / 'go')!r}):\n"
        "    raise RuntimeError('not yet')\ndef parent(): return os.getppid()\n"
    )
    wait_until(lambda: warm.run("later:parent") and warm.harness.crew.take_notes(), "it was tried")

    (folder / "go").write_text("")

    warm.await_parent("later")


def test_new_code_is_run_as_soon_as_it_is_there(warm: Warm, folder: Path) -> None:
    (folder / "inner.py").write_text("number = 1\n")
    (folder / "fresh.py").write_text(
        "import os, inner\ndef value(): return inner.number\ndef parent(): return os.getppid()\n"
    )
    first = warm.await_parent("fresh")
    assert warm.run("fresh:value").result == "1"

    (folder / "inner.py").write_text("number = 22\n")
    # Not the very next one: what was looked at milliseconds ago is not looked at again.
    outcome = wait_until(lambda: (seen := warm.run("fresh:value")).result == "22" and seen, "the new code")

    assert "inner.py was changed" in (outcome.cold_because or "")
    assert warm.await_parent("fresh") != first
    assert warm.run("fresh:value").result == "22"
    wait_until(lambda: not is_alive(first), "the old parent leaves")


def test_a_parent_is_renewed_after_so_many_runs_and_leaves_with_its_last_job(folder: Path, no_process_is_left) -> None:
    harness = Harness(folder / "w", warm_reuse=3)
    warm = Warm(harness, folder)
    first = warm.await_parent()
    order = warm.start("wait_then", {"folder": str(folder), "told": "kept"})
    harness.started(order)
    warm.told_pids()

    wait_until(lambda: (pid := warm.await_parent()) != first and pid, "a successor")

    assert is_alive(first)  # for its job
    (folder / "go").write_text("")
    outcome = harness.ended(order)
    assert (outcome.exit_code, outcome.result) == (0, '"kept"')
    wait_until(lambda: not is_alive(first), "the old one leaves")
    harness.crew.close()


def test_a_parent_that_grows_is_renewed(warm: Warm, folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(hearth, "GROWTH_BYTES_MAX", 20 << 20)
    (folder / "hoard.py").write_text(
        "import os\nkept = []\nos.register_at_fork(before=lambda: kept.append(b'x' * (15 << 20)))\n"
        "def parent(): return os.getppid()\n"
    )
    first = warm.await_parent("hoard")

    wait_until(lambda: warm.await_parent("hoard") != first, "a successor")

    wait_until(lambda: not is_alive(first), "the old parent leaves")


def test_other_modules_of_an_environment_share_a_parent(warm: Warm, folder: Path) -> None:
    (folder / "second.py").write_text("import os\ndef parent(): return os.getppid()\n")
    warm.await_parent()
    both = warm.await_parent("second")

    assert warm.run("parent").result == str(both)


def test_environments_that_differ_have_parents_of_their_own(warm: Warm, folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(hearth, "PARENTS_MAX", 2)
    first = warm.await_parent()
    second = warm.await_parent(variables={"COLOUR": "red"})

    assert first != second
    assert b"COLOUR" not in Path(f"/proc/{first}/environ").read_bytes()
    assert b"ROTA_RUN_ID" not in Path(f"/proc/{second}/environ").read_bytes()
    for _ in range(2):
        outcome = warm.run("parent", variables={"COLOUR": "blue"})
    assert "which is the most" in (outcome.cold_because or "")


def test_a_job_that_may_not_be_warm_and_one_that_runs_once_start_cold(warm: Warm, folder: Path) -> None:
    first = warm.run("value")
    for _ in range(3):
        warm.run("value", warm=False)

    assert (first.result, first.cold_because) == ("1", None)
    assert count_files(folder / "w" / "w") == 0


def test_an_idle_parent_leaves(warm: Warm, monkeypatch) -> None:
    parent = warm.await_parent()
    monkeypatch.setattr(hearth, "IDLE_SECONDS", 0.0)

    wait_until(lambda: warm.harness.crew.poll(0.05) == [] and not is_alive(parent), "it leaves")

    assert count_files(warm.folder / "w" / "w") == 0


def test_parents_leave_with_their_worker(folder: Path, no_process_is_left: None) -> None:
    harness = Harness(folder / "w")
    parent = Warm(harness, folder).await_parent()

    harness.crew.close()

    wait_until(lambda: not is_alive(parent), "it leaves")
    assert count_files(folder / "w" / "w") == 0


def test_what_cannot_be_set_up_in_a_fork_starts_cold_and_shows_the_error(warm: Warm, folder: Path) -> None:
    warm.await_parent()

    outcome = warm.run("parent", user="nobody-of-that-name")

    assert (outcome.ended, outcome.error_type) == ("not_started", "LookupError")
    assert "becoming user" in (outcome.error_message or "")


def test_a_folder_of_the_import_path_that_is_gone_ends_warm_and_cold_starts_alike(warm: Warm, folder: Path) -> None:
    warm.await_parent()

    for is_warm in (False, True):
        outcome = warm.run("value", {"a": 2}, warm=is_warm, needs=("", str(folder), str(folder / "gone")))

        assert (outcome.ended, outcome.error_type) == ("not_started", "FileNotFoundError")
        assert outcome.error_message == f"looking for '{folder}/gone' failed: No such file or directory"


def test_many_quick_jobs_at_once_all_end_well(warm: Warm) -> None:
    parent = warm.await_parent()

    orders = [warm.start("parent") for _ in range(100)]
    outcomes = [warm.harness.ended(order) for order in orders]

    assert {outcome.result for outcome in outcomes} == {str(parent)}
    assert children_of(parent) == []
    assert len(list(Path(f"/proc/{parent}/fd").iterdir())) < 20


def test_a_frozen_job_is_held_with_what_it_detached_and_its_parent_is_not(warm: Warm, folder: Path) -> None:
    parent_pid = warm.await_parent()
    order = warm.start("detach", {"folder": str(folder)})
    pids = warm.told_pids()

    warm.harness.crew.freeze(order.claim_id, is_frozen=True)
    wait_until(lambda: are_held(pids), "all of it is held")

    assert not are_held([parent_pid])
    assert warm.run("value", {"a": 5}).result == "5"
    warm.harness.crew.stop(order.claim_id, "cancelled", 0.0)
    assert warm.harness.ended(order).ended == "cancelled"
    wait_until(lambda: _gone(*pids), "nothing of it is left")


def test_a_job_that_is_frozen_before_its_parent_has_forked_it_is_held_as_soon_as_it_is_there(
    warm: Warm, folder: Path
) -> None:
    crew = warm.harness.crew
    parent_pid = warm.await_parent()
    os.kill(parent_pid, signal.SIGSTOP)
    order = warm.start("sleep", {"folder": str(folder)})
    crew.freeze(order.claim_id, is_frozen=True)
    asked_at = boottime()
    crew.ask()
    wait_until(lambda: crew.poll(0.01) == [] and crew.answered(asked_at), "its guardian has heard both")

    os.kill(parent_pid, signal.SIGCONT)

    (pid,) = wait_until(lambda: children_of(parent_pid), "it is there")
    wait_until(lambda: are_held([pid]), "it is held")
    crew.freeze(order.claim_id, is_frozen=False)
    assert warm.told_pids() == [pid]
    crew.stop(order.claim_id, "cancelled", 0.0)
    assert warm.harness.ended(order).ended == "cancelled"
