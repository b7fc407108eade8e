"""What passes between the parts about one run: what to create, what was claimed, how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from rota.model.states import Delivery


@dataclass(frozen=True, slots=True)
class NewRun:
    """One run that is asked for, not belonging to any slot. Values are checked before they get here."""

    job: str
    args: str = "{}"  # JSON text
    run_key: str | None = None
    run_at: datetime | None = None  # not before; None: now
    in_seconds: float | None = None  # not before, counted from the database's now
    start_within_seconds: float | None = None  # None: the job's
    priority: int | None = None  # None: the job's
    requested_by: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to one attempt, with all that is needed to start it. Valid until the lease ends."""

    run_id: int
    claim_id: str
    fence: int
    attempt: int
    job: str
    kind: str
    target: str
    args: str
    schedule: str | None
    slot_at: datetime | None
    run_at: datetime
    run_key: str | None
    pool: str
    delivery: Delivery
    lease_seconds: float
    timeout_seconds: float | None
    retries: int
    stdin: str | None
    cwd: str | None
    run_as: str | None
    variables: Mapping[str, str]
    marked: bool  # whether the start mark was committed with the claim
    problem: str | None = None  # why its job's row cannot be carried out as it stands


@dataclass(frozen=True, slots=True)
class Written:
    """What a job wrote on one stream: all of it, or its head and its tail."""

    head: bytes = b""
    tail: bytes = b""
    bytes_total: int = 0


@dataclass(frozen=True, slots=True)
class End:
    """How an attempt ended, as its guardian or its own worker tells it.

    ``kind`` is one of exited, signalled, not_started, timeout, cancelled, released, lease_over, exception, bad_result,
    no_result, no_op, succeeded.
    """

    claim_id: str
    run_id: int
    kind: str
    exit_code: int | None = None
    signal: int | None = None
    error_type: str | None = None
    error_message: str | None = None
    traceback: str | None = None
    result: str | None = None  # JSON text
    retry_after_seconds: float | None = None  # asked for by the job, instead of its retry delay
    seconds: float | None = None
    cpu_seconds: float | None = None
    memory_bytes_max: int | None = None
    pid: int | None = None
    stdout: Written = field(default_factory=Written)
    stderr: Written = field(default_factory=Written)


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """Who claims: a node's name, and the process that goes by it now."""

    name: str
    holder: str  # random
    boot_id: str
