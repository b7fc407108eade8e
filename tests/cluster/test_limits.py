"""Jobs that cannot be started, use too much, or write what no table is made for: each ends with its state and reason,
the worker lives, and a retry comes after its delay and not at once."""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cluster import Cluster
from tests.store.ledger import output_of

RETRY_SECONDS = 0.5
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="it takes root to become another user")
FORK_BOMB = "bomb() { while :; do bomb & done; }; bomb"  # a shell that cannot fork ends, with 2


def reasons_of(
    cluster: Cluster, jobs: dict[str, dict[str, Any]], args: dict[str, dict[str, Any]] | None = None
) -> dict[str, tuple[str, str]]:
    """Run each of ``jobs``, given by its columns, with one retry; return the reasons, once the worker has shown that
    it lives and that no attempt came before its time."""
    run_ids: dict[str, int] = {}
    for number, (what, columns) in enumerate(jobs.items()):
        values = {"kind": "shell", "target": "true", "retries": 1, "retry_delay_seconds": RETRY_SECONDS, **columns}
        cluster.add_job(f"job{number}", **values)
        (run_ids[what],) = cluster.enqueue(f"job{number}", args=args.get(what) if args else None)
    cluster.add_job("good", "shell", "true")
    worker = cluster.start("a", slots=20)

    states = cluster.wait_for_end(*run_ids.values())

    assert states == {"failed"}
    for what, run_id in run_ids.items():
        first, second = cluster.attempts(run_id)
        # The delay counts from a moment before the attempt was closed, by the statements between the two.
        assert second.claimed_at - first.finished_at > timedelta(seconds=RETRY_SECONDS) / 2, what
    assert cluster.wait_for_end(*cluster.enqueue("good")) == {"succeeded"}
    assert worker.trouble() == []
    runs = {what: cluster.run(run_id) for what, run_id in run_ids.items()}
    return {what: (run.reason, run.reason_text) for what, run in runs.items()}


def test_a_job_that_cannot_be_started_says_why_and_its_attempts_are_not_burnt(cluster: Cluster) -> None:
    plain = cluster.folder / "plain"
    plain.write_text("no program\n")
    words = ["x" * 100_000] * 30
    told = {
        "not there": ({"kind": "command", "target": '["/no/such/program"]'}, "running '/no/such/program' failed"),
        "not along PATH": ({"kind": "command", "target": '["no-such-program"]'}, "no such program along PATH"),
        "not executable": ({"kind": "command", "target": json.dumps([str(plain)])}, "Permission denied"),
        "a folder": ({"kind": "command", "target": '["/tmp"]'}, "Permission denied"),
        "3 MB of arguments": (
            {"kind": "command", "target": json.dumps(["true", *words])},
            "running 'true' failed: Argument list too long",
        ),
        "3 MB in one": (
            {"kind": "command", "target": json.dumps(["true", "".join(words)])},
            "running 'true' failed: Argument list too long",
        ),
        "no such user": ({"run_as": "no-such-user"}, "there is no such user on this machine"),
        "no such group": ({"run_as_groups": '["no-such-group"]'}, "there is no group 'no-such-group' on this machine"),
    }

    reasons = reasons_of(cluster, {what: columns for what, (columns, _) in told.items()})

    for what, (_, words_of_it) in told.items():
        code, text = reasons[what]
        assert code == "start_error", what
        assert words_of_it in text, what


def test_a_limit_that_makes_no_sense_fails_its_own_run_and_says_which_it_is(cluster: Cluster) -> None:
    broken: dict[str, dict[str, Any]] = {
        "memory_max": {"memory_max_bytes": 5},
        "cpu_max": {"cpu_max_seconds": 0.0},
        "open_files_max": {"open_files_max": 0},
        "processes_max": {"processes_max": 0},
        "ionice": {"ionice": "fast"},
        "umask": {"umask": "999"},
        "run_as_groups": {"run_as_groups": "[not json"},
    }

    reasons = reasons_of(cluster, broken)

    for what, (code, text) in reasons.items():
        assert code == "start_error"
        assert f": {what} " in text
        assert "correct it with `rota job edit`" in text


def test_jobs_that_reach_a_limit_or_die_are_told_apart(cluster: Cluster) -> None:
    variables = json.dumps({"PYTHONPATH": str(Path(__file__).parents[2])})
    jobs: dict[str, dict[str, Any]] = {
        "cpu": {"target": "while :; do :; done", "cpu_max_seconds": 1.0},
        "memory": {
            "kind": "call",
            "target": "tests.cluster.callables:eat",
            "memory_max_bytes": 256 << 20,
            "variables": variables,
        },
        "killed": {"target": "kill -9 $$"},
        "violates": {"target": "kill -SEGV $$"},
        "vanishes": {"kind": "call", "target": "tests.cluster.callables:vanish", "variables": variables},
    }

    reasons = reasons_of(cluster, jobs)

    assert {what: code for what, (code, _) in reasons.items()} == {
        "cpu": "cpu_limit",
        "memory": "out_of_memory",
        "killed": "signal",
        "violates": "signal",
        "vanishes": "no_result",
    }
    assert " s, and cpu_max is 1 s" in reasons["cpu"][1]
    assert "more address space than memory_max allows, 256.0 MiB a process" in reasons["memory"][1]
    assert "SIGKILL: that came from outside Rota" in reasons["killed"][1]
    assert "was ended by signal SIGSEGV" in reasons["violates"][1]
    assert "ended without saying what it returned" in reasons["vanishes"][1]


def test_what_a_job_tells_and_nobody_can_keep_fails_it_and_says_why(cluster: Cluster) -> None:
    call = {
        "kind": "call",
        "target": "tests.cluster.callables:tell",
        "variables": json.dumps({"PYTHONPATH": str(Path(__file__).parents[2])}),
    }
    rota = f"{sys.executable} -m rota current"
    long = "head -c 2000000 /dev/zero | tr '\\0' 1"
    told = {
        "progress of 1.7": (call, "exception", "progress 1.7 is refused: it is a fraction from 0 to 1"),
        "progress of NaN": (call, "exception", "progress nan is refused: it is a fraction from 0 to 1"),
        "a checkpoint that is not JSON": (call, "exception", "which has no object"),
        "a checkpoint of 2 MB": (call, "exception", "it must be at most 1048576 bytes of JSON; it has 2000002"),
        "a result of 2 MB": (call, "bad_result", "it must be at most 1048576 bytes of JSON; it has 2000002"),
        "170%": ({"target": f"{rota} progress 170%"}, "exit_code", "exited with 2"),
        "a command's checkpoint": ({"target": f"{rota} checkpoint '{{page: 3}}'"}, "exit_code", "exited with 2"),
        "a command's result of 2 MB": ({"target": f"{long} | {rota} result -"}, "exit_code", "exited with 2"),
    }

    reasons = reasons_of(
        cluster,
        {what: columns for what, (columns, _, _) in told.items()},
        args={what: {"what": what} for what, (columns, _, _) in told.items() if columns is call},
    )

    for what, (_, code, words_of_it) in told.items():
        assert reasons[what][0] == code, (what, reasons[what])
        assert words_of_it in reasons[what][1], what


@pytest.mark.usefixtures("alone_as_nobody")
@as_root
def test_a_fork_bomb_ends_with_its_reason_and_leaves_neither_a_process_nor_a_dead_worker(cluster: Cluster) -> None:
    reasons = reasons_of(cluster, {"bomb": {"target": FORK_BOMB, "run_as": "nobody", "processes_max": 40}})

    code, text = reasons["bomb"]
    assert code == "exit_code"
    assert "exited with 2: processes_max is 40" in text


@as_root
def test_a_limit_of_processes_is_refused_for_root_whom_it_would_not_hold(cluster: Cluster) -> None:
    code, text = reasons_of(cluster, {"bomb": {"target": FORK_BOMB, "processes_max": 40}})["bomb"]

    assert code == "start_error"
    assert "Linux does not count the processes of root: name another user in run_as" in text


def test_output_that_is_no_text_is_kept_as_it_is_and_a_gigabyte_of_it_within_its_cap(cluster: Cluster) -> None:
    cluster.add_job("odd", "shell", r"printf 'a\000b\303'; printf '\377\033[31m' >&2")
    cluster.add_job("huge", "shell", r"head -c 1000000000 /dev/zero; printf '\303'")
    (odd,), (huge,) = cluster.enqueue("odd"), cluster.enqueue("huge")
    worker = cluster.start("a")

    assert cluster.wait_for_end(odd, huge, seconds=120) == {"succeeded"}

    assert output_of(cluster.database, odd, stream="stdout") == b"a\0b\xc3"
    assert output_of(cluster.database, odd, stream="stderr") == b"\xff\x1b[31m"
    (attempt,) = cluster.attempts(huge)
    assert attempt.stdout_bytes == 1_000_000_001
    kept = output_of(cluster.database, huge)
    assert len(kept) < 1_100_000
    assert kept.endswith(b"\0\xc3")
    assert b"left out ...]" in kept
    assert worker.trouble() == []
