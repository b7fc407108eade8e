"""The page of crash points, from the table in ``rota.crash``."""

from __future__ import annotations

from collections.abc import Iterator

from docs.generate.markdown import fence, prose, table
from rota.crash import AT_VARIABLE, NOTE_VARIABLE, POINTS


def write_crash_points() -> Iterator[str]:
    yield "# Crash points"
    yield prose(f"""
        Named places in the protocols at which a test can have a process killed. The one that has `{AT_VARIABLE}=NAME`
        in its environment sends itself SIGKILL when it gets there; with `NAME@2` it does so the second time. Nothing is
        tidied up, as when the machine kills it. Without the variable a point is a call and a comparison.
    """)
    yield prose(f"""
        `{NOTE_VARIABLE}` names a file that is made just before, with the name of the point and the process id, and
        synced: by it a test asserts that the point was reached. Once the file is there nobody dies any more: a worker
        that is started again in the same environment goes on, and so do the next guardian and the next stand-in.
        Without a note each process dies there.
    """)
    yield fence("sh", f"{AT_VARIABLE}=claim.committed {NOTE_VARIABLE}=/tmp/crashed rota worker")
    yield prose("""
        The worker hands the two on to its nursery, and so to guardians and keepers, and to the stand-in; the process of
        a transactional job, or of one of SQL, is told over its guardian's socket. No job has them in its environment.
        Whoever gets to any of these places refuses to start with a name that is not in the table. The table is `POINTS`
        in `rota/crash.py`; a test holds it against the calls of `crash.at` in the code.
    """)
    yield prose("""
        `worker` is whoever acts in its place too: the stand-in renews, adopts and ends, an application that claims by
        itself claims, renews and ends.
    """)
    yield table(
        ("point", "who dies", "what it has done"),
        ((f"`{name}`", process, meaning) for name, (process, meaning) in POINTS.items()),
    )
    yield "## The tests"
    yield prose("""
        `tests/cluster/test_crash_points.py` kills a real process at each of these, on each database, for jobs of
        `at_least_once` and of `at_most_once`, and has others bring the run to its end; those of the start mark concern
        `at_most_once` alone, and those of a transaction `transactional` jobs. It asserts that the point was
        reached; that every slot has one row; that a run of `at_least_once` ends `succeeded` and no two executions of it
        overlap, by a ledger outside the database; that one of `at_most_once` starts once at most and is `lost` only
        where its start mark was committed; that `rota_violations` is empty; and that no process is left. By itself it
        tries every third point with one of the deliveries, on one database; all of them take a while:
    """)
    yield fence("sh", "make test-crash")
    yield prose("""
        `tests/cluster/test_crash_points_beside.py` does so for what is beside the runs: that each end is counted once,
        a failure is told once, an act is done and noted or neither, a session is there or is not.
    """)
    yield prose("""
        A new step of a protocol gets a point on each side of its commit, a line in the table, and a line in the test
        that has the case.
    """)
