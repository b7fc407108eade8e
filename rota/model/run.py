"""What passes between the parts about one run: what to create, what was claimed, how it ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from rota.model.instants import format_instant
from rota.model.states import Delivery

if TYPE_CHECKING:
    from rota.model.environment import Environment


@dataclass(frozen=True, slots=True)
class PeriodPart:
    """What a run does of a period: all of it, or the part of it that it is for."""

    name: str
    start: datetime
    end: datetime
    range_start: datetime
    range_end: datetime

    @property
    def key(self) -> str:
        """The name of this part: that of the period when it is all of it."""
        is_whole = (self.range_start, self.range_end) == (self.start, self.end)
        return self.name if is_whole else f"{self.name}/{format_instant(self.range_end)}"


@dataclass(frozen=True, slots=True)
class NewRun:
    """One run that is asked for, not belonging to any slot. Values are checked before they get here."""

    job: str
    args: str = "{}"  # JSON text
    run_key: str | None = None
    unique_seconds: float | None = None  # after it was asked for the key holds; None: until its end; -1: for ever
    run_at: datetime | None = None  # not before; None: now
    in_seconds: float | None = None  # not before, counted from the database's now
    start_within_seconds: float | None = None  # None: the job's
    priority: int | None = None  # None: the job's
    retries: int | None = None  # None: the job's; -1: for ever
    retry_delay_seconds: float | None = None  # None: the job's
    concurrency_key: str | None = None  # None: what its arguments say
    is_forced: bool = False  # whatever became of what its job runs after
    requested_by: str = ""
    period_id: int | None = None  # in the ledger of periods; with ``part``
    part: PeriodPart | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """What a request has made, or found. It is the same whoever made it."""

    run_id: int  # of a group, its first run
    group_id: str | None = None  # of the runs on all nodes; None: it is one run
    is_new: bool = field(default=True, compare=False)  # False: it held the key of the request


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
    startup: str = "warm"  # or cold
    connection: str | None = None  # of a job of SQL
    executor: str = "process"  # or thread, async
    problem: str | None = None  # why its job's row cannot be carried out as it stands
    checkpoint: str | None = None  # JSON text: what an earlier attempt has kept
    limits: Mapping[str, Any] = field(default_factory=dict[str, Any])  # those of its job's row, by their columns
    env: str | None = None  # what its job asks for
    environment: Environment | None = None  # what it gets for that here; None: the worker's own
    deadline_left_seconds: float | None = None  # when it was claimed; None: there is no deadline
    secrets: tuple[str, ...] = ()  # names of what its node is to supply
    part: PeriodPart | None = None  # of a period of its job

    @property
    def is_too_late(self) -> bool:
        """Whether its deadline had passed when it was claimed: it must not start, and ends as ``deadline``."""
        return self.deadline_left_seconds is not None and self.deadline_left_seconds <= 0

    @property
    def limit_seconds(self) -> float | None:
        """How long the attempt may take: its time limit, or what is left of its deadline if that is less."""
        limits = [limit for limit in (self.timeout_seconds, self.deadline_left_seconds) if limit is not None]
        return min(limits, default=None)

    @property
    def limited_by(self) -> Literal["timeout", "deadline"]:
        """The kind of end of an attempt that is stopped at ``limit_seconds``."""
        left = self.deadline_left_seconds
        return "deadline" if left is not None and left == self.limit_seconds else "timeout"


@dataclass(frozen=True, slots=True)
class Written:
    """What a job wrote on one stream: all of it, or its head and its tail."""

    head: bytes = b""
    tail: bytes = b""
    bytes_total: int = 0
    marks: tuple[tuple[int, int], ...] = ()  # position of a byte, and microseconds from the start to when it came

    def pieces(self, stream: str) -> Iterator[Piece]:
        """Give what is kept, with the marks of each piece."""
        for position, data in ((0, self.head), (self.bytes_total - len(self.tail), self.tail)):
            if data:
                end = position + len(data)
                yield Piece(stream, position, data, tuple(mark for mark in self.marks if position <= mark[0] < end))


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes of a stream, and where they stand in it."""

    stream: str
    position: int
    data: bytes
    marks: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What a job that runs has told since the last report."""

    claim_id: str
    pieces: tuple[Piece, ...] = ()
    has_progress: bool = False
    progress: float | None = None  # from 0 to 1
    progress_message: str | None = None
    checkpoint: str | None = None  # JSON text

    def followed_by(self, later: Report) -> Report:
        """Return both as one: all output, and the later of what is said."""
        said = later if later.has_progress else self
        return Report(
            self.claim_id,
            self.pieces + later.pieces,
            said.has_progress,
            said.progress,
            said.progress_message,
            self.checkpoint if later.checkpoint is None else later.checkpoint,
        )


@dataclass(frozen=True, slots=True)
class End:
    """How an attempt ended, as its guardian or its own worker tells it.

    ``kind`` is one of exited, signalled, not_started, timeout, deadline, cancelled, released, lease_over, exception,
    bad_result, no_result, no_op, succeeded, undone (a transaction, by trouble of the database).
    """

    claim_id: str
    run_id: int
    kind: str
    exit_code: int | None = None
    signal: int | None = None
    error_type: str | None = None
    error_message: str | None = None
    traceback: str | None = None
    error_bases: tuple[str, ...] = ()  # names of the classes above error_type
    result: str | None = None  # JSON text
    checkpoint: str | None = None  # JSON text, the last that this attempt has kept
    retry_after_seconds: float | None = None  # asked for by the job, instead of its retry delay
    seconds: float | None = None
    cpu_seconds: float | None = None
    memory_bytes_max: int | None = None
    read_bytes: int | None = None
    written_bytes: int | None = None
    pid: int | None = None
    cold_because: str | None = None  # why a callable was started in a fresh interpreter although it might be warm
    executor: str | None = None  # thread, async: its pid is that of a process that it shared
    stdout: Written = field(default_factory=Written)
    stderr: Written = field(default_factory=Written)


CLIENT_PREFIX = "client:"  # of the names of those who bring a worker of their own


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """Who claims: a node's name, and the process that goes by it now."""

    name: str
    holder: str  # random
    boot_id: str
