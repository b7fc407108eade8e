"""Commands: what their process sees, and what is told about their end."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from pathlib import Path

import pytest

from rota.errors import ConfigError, Conflict, Invalid
from rota.execution.crew import Crew
from rota.execution.linux import children_of
from tests.execution.harness import Harness, count_files, is_alive, make_order, wait_until

MIB = 1024 * 1024


def test_a_command_that_ends_well_is_reported_with_its_facts(harness: Harness) -> None:
    order = harness.start("sh", "-c", "echo out; echo err >&2")

    started = harness.started(order)
    outcome = harness.ended(order)

    assert started.pid > 0
    assert (outcome.claim_id, outcome.run_id, outcome.attempt, outcome.fence) == (order.claim_id, 7, 1, 3)
    assert (outcome.ended, outcome.exit_code, outcome.signal, outcome.error_type) == ("exited", 0, None, None)
    assert (outcome.stdout.head, outcome.stdout.tail, outcome.stdout.bytes_total) == (b"out\n", b"", 4)
    assert outcome.stderr.head == b"err\n"
    assert min(outcome.seconds, outcome.cpu_seconds, outcome.memory_bytes_max) > 0
    assert (outcome.result, outcome.leftovers) == (None, 0)


def test_exit_codes_and_signals_are_told_apart(harness: Harness) -> None:
    assert harness.run("sh", "-c", "exit 3").exit_code == 3
    outcome = harness.run("sh", "-c", "kill -SEGV $$")
    assert (outcome.ended, outcome.exit_code, outcome.signal) == ("signalled", None, signal.SIGSEGV)


@pytest.mark.parametrize(
    ("argv", "values", "kind", "words"),
    [
        (("no-such-program",), {}, "FileNotFoundError", "running 'no-such-program' failed"),
        (("/no/such",), {}, "FileNotFoundError", "running '/no/such' failed: No such file"),
        (("/etc/passwd",), {}, "PermissionError", "Permission denied"),
        (("true", "x" * 3_000_000), {}, "OSError", "Argument list too long"),
        (("true", "a\0b"), {}, "ValueError", "null"),
        (("true",), {"cwd": "/no/such"}, "FileNotFoundError", "entering folder '/no/such' failed"),
        (("true",), {"user": "no-such-user"}, "LookupError", "there is no such user"),
    ],
)
def test_a_program_that_cannot_be_started_says_why(
    harness: Harness, argv: tuple[str, ...], values: dict[str, str], kind: str, words: str
) -> None:
    outcome = harness.run(*argv, **values)

    assert (outcome.ended, outcome.error_type, outcome.exit_code) == ("not_started", kind, None)
    assert words in (outcome.error_message or "")


def test_a_job_sees_three_descriptors_only(harness: Harness) -> None:
    program = "import os; print(*sorted(os.listdir('/proc/self/fd'))); os.fstat(3)"

    outcome = harness.run(sys.executable, "-I", "-S", "-c", program)

    # 3 is the listing itself, closed by the time of fstat.
    assert outcome.stdout.head == b"0 1 2 3\n"
    assert b"Bad file descriptor" in outcome.stderr.head


def test_a_job_has_the_worker_s_first_limit_of_descriptors(folder: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
    harness = Harness(folder / "w")

    raised = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    outcome = harness.run("sh", "-c", "ulimit -Sn; ulimit -Hn")

    harness.crew.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert raised == before[1]
    assert outcome.stdout.head.split() == [b"512", str(before[1]).encode()]


def test_a_job_has_default_signals_an_empty_mask_its_own_session_and_a_known_umask(harness: Harness) -> None:
    program = (
        "import os, signal; print([n for n in range(1, 32) if signal.getsignal(n) is signal.SIG_IGN],"
        "signal.pthread_sigmask(0, []), os.getsid(0) == os.getpid() == os.getpgid(0), oct(os.umask(0)))"
    )
    # Python itself ignores PIPE and XFSZ, so ask the kernel.
    outcome = harness.run("sh", "-c", "grep -E 'Sig(Blk|Ign)' /proc/self/status")
    assert {_signals(line) for line in outcome.stdout.head.splitlines()} == {0}

    outcome = harness.run(sys.executable, "-I", "-S", "-c", program, umask=0o027)
    assert outcome.stdout.head.split(maxsplit=2)[2] == b"set() True 0o27\n"


def _signals(line: bytes) -> int:
    # 32 and 33 are the C library's own: whoever started the tests may have left them ignored, and no program can ask.
    return int(line.split()[1], 16) & ~(0b11 << 31)


def test_signals_that_the_worker_was_told_to_ignore_reach_jobs(folder: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    harness = Harness(folder / "w")

    outcome = harness.run("sh", "-c", "grep SigIgn /proc/self/status")

    harness.crew.close()
    signal.signal(signal.SIGHUP, before)
    assert _signals(outcome.stdout.head) == 0


def test_a_job_s_environment_is_the_order_s_and_the_socket(harness: Harness) -> None:
    outcome = harness.run("env", environment={"PATH": "/usr/bin:/bin", "A": "ü"})

    names = {line.partition(b"=")[0] for line in outcome.stdout.head.splitlines()}
    assert names == {b"PATH", b"A", b"ROTA_CONTROL"}
    assert "A=ü\n".encode() in outcome.stdout.head


def test_names_that_are_not_utf8_reach_the_job_as_they_are(harness: Harness) -> None:
    outcome = harness.run("printf", "%s", os.fsdecode(b"\xff\xfe"))

    assert outcome.stdout.head == b"\xff\xfe"


def test_standard_input_folder_and_nice_are_as_ordered(harness: Harness, folder: Path) -> None:
    data = os.urandom(300_000)

    assert harness.run("cat", stdin=data).stdout.head == data
    assert harness.run("cat").stdout.head == b""
    assert harness.run("pwd", cwd=str(folder)).stdout.head.strip() == str(folder).encode()
    assert harness.run("nice", limits={"nice": 5}).stdout.head == b"5\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user takes root")
def test_a_job_of_another_user_has_that_user_s_rights_and_reaches_its_guardian(harness: Harness) -> None:
    outcome = harness.run("sh", "-c", 'id -u; id -g; id -G; test -w "$ROTA_CONTROL" && echo reached', user="nobody")

    assert outcome.stdout.head.split() == [b"65534", b"65534", b"65534", b"reached"], outcome
    assert (harness.folder / "journal").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("user", [None, "nobody"])
def test_a_job_dies_with_its_guardian_whoever_it_runs_as(harness: Harness, user: str | None) -> None:
    # A change of user takes back what was set before it.
    outcome = harness.run("setpriv", "--dump", user=user)

    assert b"Parent death signal: KILL\n" in outcome.stdout.head.replace(b"SIGKILL", b"KILL"), outcome


def test_output_is_kept_within_the_cap_by_head_and_tail(folder: Path) -> None:
    harness = Harness(folder / "w", output_bytes_max=1000)

    outcome = harness.run("sh", "-c", "seq 1 20000; seq 1 10 >&2")

    harness.crew.close()
    everything = "".join(f"{number}\n" for number in range(1, 20001)).encode()
    assert outcome.stdout.head == everything[:500]
    assert outcome.stdout.tail == everything[-500:]
    assert outcome.stdout.bytes_total == len(everything)
    assert outcome.stdout.bytes_dropped == len(everything) - 1000
    assert outcome.stderr.bytes_dropped == 0


def _resident_bytes(pid: int | str, field: str = "VmRSS") -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise AssertionError(field)


def test_a_flood_on_both_streams_ends_and_grows_neither_worker_nor_guardian(harness: Harness) -> None:
    before = _resident_bytes("self")
    order = harness.start("sh", "-c", "head -c 100000000 /dev/zero & head -c 100000000 /dev/zero >&2; wait")
    guardian_pid = harness.started(order).guardian_pid

    outcome = harness.ended(order)

    assert (outcome.ended, outcome.exit_code) == ("exited", 0)
    for stream in (outcome.stdout, outcome.stderr):
        assert stream.bytes_total == 100_000_000
        assert len(stream.head) + len(stream.tail) == MIB
    assert _resident_bytes("self") - before < 50 * MIB
    assert _resident_bytes(guardian_pid, "VmHWM") < 40 * MIB


def test_a_grandchild_that_holds_the_pipe_does_not_delay_the_end(harness: Harness) -> None:
    outcome = harness.run("sh", "-c", "sleep 1000 & setsid sleep 1000 & echo done")

    assert (outcome.exit_code, outcome.leftovers) == (0, 2)
    assert outcome.stdout.head == b"done\n"
    assert outcome.seconds < 10


def test_closing_its_output_does_not_end_a_job(harness: Harness, folder: Path) -> None:
    os.mkfifo(folder / "go")
    order = harness.start("sh", "-c", f"exec >&- 2>&-; read line < {folder}/go; exit 4")
    harness.started(order)

    assert harness.crew.poll(0.3) == []
    (folder / "go").write_text("now\n")

    assert harness.ended(order).exit_code == 4


def test_orphans_of_a_running_job_do_not_stay_as_zombies(harness: Harness, folder: Path) -> None:
    os.mkfifo(folder / "go")
    orphan = f"(sh -c 'echo $$ >> {folder}/pids' &)"
    order = harness.start("sh", "-c", f"{orphan}; {orphan}; {orphan}; read line < {folder}/go")
    harness.started(order)

    def are_reaped() -> bool:
        harness.crew.ask()  # the guardian looks whenever it wakes
        harness.crew.poll(0.01)
        pids = (folder / "pids").read_text().split() if (folder / "pids").exists() else []
        return len(pids) == 3 and not any(Path(f"/proc/{pid}").exists() for pid in pids)

    wait_until(are_reaped, "the guardian has reaped the orphans")
    (folder / "go").write_text("now\n")
    assert harness.ended(order).leftovers == 0


def test_a_thousand_quick_runs_leave_no_descriptor_and_no_zombie(harness: Harness) -> None:
    first = harness.start("true")
    guardian_pid = harness.started(first).guardian_pid
    harness.ended(first)
    before = count_files("/proc/self/fd")
    guardian_before = count_files(f"/proc/{guardian_pid}/fd")

    for _ in range(1000):
        order = harness.start("true")
        assert harness.ended(order).exit_code == 0
        harness.seen.clear()

    # The first guardian has been retired on the way; the one that serves now is as lean as it was.
    serving = harness.start("true")
    second_pid = harness.started(serving).guardian_pid
    harness.ended(serving)
    assert second_pid != guardian_pid
    assert count_files(f"/proc/{second_pid}/fd") == guardian_before
    assert count_files("/proc/self/fd") == before
    wait_until(lambda: not Path(f"/proc/{guardian_pid}").exists(), "the retired guardian is reaped")
    for parent in (harness.crew.nursery_pid, second_pid):
        assert [pid for pid in children_of(parent) if not is_alive(pid)] == []
    assert count_files(harness.folder / "c") == 0


def test_sixteen_at_a_time_are_told_apart(harness: Harness) -> None:
    orders = [harness.start("sh", "-c", f"echo {number}; exit {number}") for number in range(16)]

    for number, order in enumerate(orders):
        outcome = harness.ended(order)
        assert (outcome.exit_code, outcome.stdout.head) == (number, f"{number}\n".encode())


def test_reuse_of_one_gives_each_attempt_a_guardian_of_its_own(folder: Path) -> None:
    harness = Harness(folder / "w", reuse=1)
    pids: set[int] = set()

    for _ in range(3):
        order = harness.start("true")
        pids.add(harness.started(order).guardian_pid)
        harness.ended(order)

    harness.crew.close()
    assert len(pids) == 3


def test_a_claim_is_started_once_and_has_a_name_that_can_be_a_file_s(harness: Harness) -> None:
    order = harness.start("true")

    with pytest.raises(Conflict, match="has been started already"):
        harness.crew.start(order)
    with pytest.raises(Invalid, match="claim_id"):
        make_order("true", claim_id="../x")
    with pytest.raises(Invalid, match="argv"):
        make_order()
    harness.ended(order)


def test_a_folder_that_cannot_hold_sockets_or_is_another_s_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="too long"):
        Crew(folder / ("x" * 80)).open()
    (folder / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be used"):
        Crew(folder / "file").open()
    if os.geteuid() == 0:
        (folder / "theirs").mkdir()
        os.chown(folder / "theirs", 65534, 65534)
        with pytest.raises(ConfigError, match="somebody else"):
            Crew(folder / "theirs").open()


def test_events_come_in_order_and_the_wait_ends_when_one_comes(harness: Harness) -> None:
    order = harness.start("true")

    kinds = [type(harness.next_event(order, object)).__name__ for _ in range(2)]

    assert kinds == ["Started", "Ended"]
    assert harness.crew.claim_ids == {order.claim_id}
    harness.crew.acknowledge([order.claim_id])
    assert harness.crew.claim_ids == frozenset()


def test_facts_travel_as_json_and_nothing_else(harness: Harness) -> None:
    outcome = harness.run("sh", "-c", 'printf %s "$0"', json.dumps({"a": "'\"\n"}))

    assert json.loads(outcome.stdout.head) == {"a": "'\"\n"}
