"""Why a run is in the state it is in: one code for each, with the state it explains.

The code is stable and meant for programs; the sentence beside it, kept with the run, is written where the decision is
taken and names the values that decided. Every code is produced by a test through the engine.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """The code of a reason. Grouped by the state it explains."""

    # waiting
    DELAY = "delay"  # its slot has come, its delay has not passed
    NOT_BEFORE = "not_before"  # asked for at a later time
    QUEUED = "queued"  # an earlier slot of the same schedule is unfinished
    RETRY = "retry"  # the last attempt ended badly and retries are left
    UPSTREAM = "upstream"  # a job that its own runs after has not succeeded for its slot
    LOST_BACKOFF = "lost_backoff"  # nodes died with it more than once: wait before trying again

    # ready
    DUE = "due"  # its slot and delay have come
    ASKED = "asked"  # enqueued to run now
    RELEASED = "released"  # a worker gave it back unspent
    LEASE_OVER = "lease_over"  # the node that held it fell silent
    RERUN = "rerun"  # an operator asked for another attempt

    # running
    CLAIMED = "claimed"  # a node holds it and has not marked its start
    STARTED = "started"  # the start mark is committed

    # skipped
    OVERLAP = "overlap"  # the run before it has not finished
    REPLACED = "replaced"  # a newer slot is due at once, and overlap is replace
    CALENDAR = "calendar"  # it falls on what a calendar closes
    JOB_PAUSED = "job_paused"
    SCHEDULE_PAUSED = "schedule_paused"
    OPERATOR = "operator"  # a person said so
    UPSTREAM_FAILED = "upstream_failed"  # a job that its own runs after has ended otherwise, and that is not waited for
    NO_OP = "no_op"  # the job, or a hook before it, found nothing to do

    # missed
    WINDOW_PASSED = "window_passed"  # it could not start within its start window
    CATCH_UP_LATEST = "catch_up_latest"  # late, and a newer slot is due
    CATCH_UP_NONE = "catch_up_none"  # late, and late slots are not wanted
    CATCH_UP_LIMIT = "catch_up_limit"  # late, and more slots are late than are caught up
    NO_NODE = "no_node"  # it is for all nodes of its pool, or for one of them, and that is not registered

    NODE_FORGOTTEN = "node_forgotten"  # it was for one node alone, which nobody knows any more

    # cancelled
    CANCEL = "cancel"

    # succeeded
    ENDED_WELL = "ended_well"
    MARKED = "marked"  # an operator said it counts as done
    LATE_TRUTH = "late_truth"  # held lost until its own claim brought the end (succeeded or failed)

    # failed
    EXIT_CODE = "exit_code"
    SIGNAL = "signal"
    TIMEOUT = "timeout"
    CPU_LIMIT = "cpu_limit"  # it used more CPU time than cpu_max
    OUT_OF_MEMORY = "out_of_memory"  # it got no more memory, or the kernel killed it for want of some
    DEADLINE = "deadline"  # its deadline over all attempts passed, or would have before the next one
    EXCEPTION = "exception"
    START_ERROR = "start_error"  # the process could not be started
    BAD_RESULT = "bad_result"  # the result is not JSON, or too large
    NO_RESULT = "no_result"  # a callable's process ended well without saying what it returned
    LOST_MAX = "lost_max"  # too many attempts were lost with their node

    # lost
    LOST = "lost"  # the lease ended after the start mark, and delivery is at_most_once
