"""What the worker asks of a guardian, and what it gets back. Plain values; the frames for them are made here too.

Called by the engine's worker through the crew. Guardians do not import this: they read the frames.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rota.errors import Invalid
from rota.model.limits import Limits, ionice_numbers

EndedHow = Literal["exited", "signalled", "not_started", "timeout", "deadline", "cancelled", "released", "lease_over"]
StopWhy = Literal["cancelled", "released", "timeout", "lease_over"]

# It becomes a file's name in the journal.
_CLAIM_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Order:
    """One attempt to carry out, complete: the guardian asks nobody else."""

    claim_id: str
    run_id: int
    attempt: int
    fence: int
    job: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]  # all of it; the guardian adds ROTA_CONTROL only
    deadline: float  # CLOCK_BOOTTIME seconds at which the lease ends, counted from before the claim was sent
    lease_seconds: float
    grace_seconds: float = 10.0
    timeout_seconds: float | None = None
    limited_by: Literal["timeout", "deadline"] = "timeout"  # how it has ended when it is stopped after that
    cwd: str | None = None  # None: the folder in which the worker was started
    # What must be there when it starts: the program of its environment, or "", and folders of its import path.
    needs: tuple[str, ...] = ()
    user: str | None = None
    stdin: bytes = b""
    arguments: str = "{}"  # JSON text, for jobs that ask over the control socket
    checkpoint: str = "null"  # JSON text: what an earlier attempt has kept
    expects_result: bool = False  # a callable: ending well without a result is a failure
    umask: int = 0o022
    limits: Mapping[str, Any] = field(default_factory=dict[str, Any])  # what ``limits_message`` makes
    # JSON text, for jobs that hold a connection: URL and what goes with it.
    database: str = field(default="", repr=False)
    call: str | None = None  # package.module:function, where a warm parent may fork the job; argv starts it cold
    secrets: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)  # variables for its process alone
    executor: str = "process"  # or thread, async: ``call`` is called in an executor process, made by argv[0]

    def __post_init__(self) -> None:
        if not _CLAIM_ID.fullmatch(self.claim_id):
            raise Invalid("claim_id", self.claim_id, "it has 1 to 64 letters, digits, - or _")
        if not self.argv:
            raise Invalid("argv", self.argv, "it names at least the program")


@dataclass(frozen=True, slots=True)
class Captured:
    """What is kept of one stream: its beginning and its end, and how much there was."""

    head: bytes = b""
    tail: bytes = b""
    bytes_total: int = 0
    marks: tuple[tuple[int, int], ...] = ()  # position of a byte, and microseconds from the start to when it came

    @property
    def bytes_dropped(self) -> int:
        """How much between head and tail is not kept."""
        return self.bytes_total - len(self.head) - len(self.tail)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended.

    ``error_type`` is set by a callable that raised or returned nothing (``NoResult``), for ``not_started``
    (``FileNotFoundError``, ``LeaseOver``, ``GuardianNotStarted``...), and by the guardian where it knows which limit
    ended the job (``CpuLimit``, ``OutOfMemory``, ``Killed``, see ``rota.model.ending``): with ``ended == "exited"`` and
    ``exit_code == 0`` it still means failure. ``result`` is text in UTF-8 of at most 1 MiB that nobody has parsed.
    ``memory_bytes_max`` includes what the process was before exec: it is never below some 10 MB.
    """

    claim_id: str
    run_id: int
    attempt: int
    fence: int
    ended: EndedHow
    exit_code: int | None = None
    signal: int | None = None
    error_type: str | None = None
    error_message: str | None = None
    traceback: str | None = None
    error_bases: tuple[str, ...] = ()  # the types above error_type
    result: str | None = None
    seconds: float = 0.0
    cpu_seconds: float | None = 0.0  # None: nobody knows
    memory_bytes_max: int = 0
    read_bytes: int | None = None  # from disks; None: nobody knows, and so below
    written_bytes: int | None = None
    stdout: Captured = field(default_factory=Captured)
    stderr: Captured = field(default_factory=Captured)
    checkpoint: str | None = None  # JSON text, the last that this attempt has kept
    leftovers: int = 0  # descendants that had to be killed
    cold_because: str | None = None  # why a callable was not forked by a warm parent, if there is a reason to tell
    executor: str | None = None  # thread, async: it shared its process, so nobody knows how much memory was its own


@dataclass(frozen=True, slots=True)
class Started:
    """The job's program runs."""

    claim_id: str
    pid: int
    guardian_pid: int


@dataclass(frozen=True, slots=True)
class Piece:
    """New output of a job that runs."""

    stream: str
    position: int
    data: bytes
    marks: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Told:
    """What a job that runs has said or written since it was told last. ``progress``: fraction and message."""

    claim_id: str
    pieces: tuple[Piece, ...]
    progress: tuple[float | None, str | None] | None
    checkpoint: str | None


@dataclass(frozen=True, slots=True)
class Ended:
    """The attempt is over. Acknowledge the claim once this is committed."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class GuardianLost:
    """The guardian died; its job has been killed and its end will never be known. Nothing is to be acknowledged."""

    claim_id: str
    run_id: int
    attempt: int
    fence: int
    has_started: bool  # as far as the guardian could say


@dataclass(frozen=True, slots=True)
class Adopted:
    """A guardian that had lost its worker has taken us for it. Its attempt goes on; ``Started`` follows."""

    claim_id: str
    run_id: int
    job: str
    attempt: int
    fence: int
    lease_seconds: float
    deadline: float  # of its lease as it knows it, CLOCK_BOOTTIME
    is_frozen: bool = False
    is_transactional: bool = False  # it writes the end of its run itself


@dataclass(frozen=True, slots=True)
class GuardianLeft:
    """This worker stood still for so long that the guardian took another: the attempt goes on without it."""

    claim_id: str


CrewEvent = Started | Told | Ended | GuardianLost | GuardianLeft | Adopted


def order_message(
    order: Order, uid: int | None, *, warm: Mapping[str, str] | None = None, cold_because: str | None = None
) -> dict[str, Any]:
    """Put an order into a frame's message; its standard input is the frame's blob."""
    return {
        "op": "order",
        "claim_id": order.claim_id,
        "run_id": order.run_id,
        "job": order.job,
        "attempt": order.attempt,
        "fence": order.fence,
        "argv": list(order.argv),
        "environment": dict(order.environment),
        "deadline": order.deadline,
        "lease_seconds": order.lease_seconds,
        "grace_seconds": order.grace_seconds,
        "timeout_seconds": order.timeout_seconds,
        "limited_by": order.limited_by,
        "cwd": order.cwd,
        "needs": list(order.needs),
        "user": order.user,
        "uid": uid,
        "arguments": order.arguments,
        "checkpoint": order.checkpoint,
        "database": order.database,
        "expects_result": order.expects_result,
        "umask": order.umask,
        "limits": dict(order.limits),
        "warm": warm,
        "cold_because": cold_because,
        **({"secrets": dict(order.secrets)} if order.secrets else {}),
    }


def inline_message(order: Order, deadline: float) -> tuple[dict[str, Any], bytes]:
    """Put an order for an executor process into a frame; ``deadline`` may have been renewed since it was made."""
    facts = {name: text for name, text in order.environment.items() if name.startswith("ROTA_") and name != "ROTA_ARGS"}
    message = {
        "op": "order",
        "claim_id": order.claim_id,
        "run_id": order.run_id,
        "job": order.job,
        "attempt": order.attempt,
        "fence": order.fence,
        "target": order.call,
        "facts": facts,
        "deadline": deadline,
        "lease_seconds": order.lease_seconds,
        "grace_seconds": order.grace_seconds,
        "timeout_seconds": order.timeout_seconds,
        "limited_by": order.limited_by,
        "checkpoint": order.checkpoint,
    }
    return message, order.arguments.encode()


def limits_message(limits: Limits) -> dict[str, Any]:
    """Put what was limited into the words of guardians; what is as usual is left out."""
    found = {
        "memory_max_bytes": limits.memory_max_bytes,
        "cpu_max_seconds": limits.cpu_max_seconds,
        "open_files_max": limits.open_files_max,
        "processes_max": limits.processes_max,
        "nice": limits.nice,
        "ionice": None if limits.ionice is None else list(ionice_numbers(limits.ionice)),
        "groups": None if limits.run_as_groups is None else list(limits.run_as_groups),
    }
    return {name: value for name, value in found.items() if value is not None}


def read_outcome(message: Mapping[str, Any], blob: bytes) -> Outcome:
    """Read an end out of a frame.

    Raises:
        KeyError, TypeError, ValueError: this frame is no end.
    """
    parts: list[bytes] = []
    position = 0
    for size in message["sizes"]:
        parts.append(blob[position : position + size])
        position += size
    out_head, out_tail, err_head, err_tail = parts
    out_total, err_total = message["totals"]
    out_marks, err_marks = (_marks_of(marks) for marks in message.get("marks", ((), ())))  # a guardian from before
    return Outcome(
        claim_id=message["claim_id"],
        run_id=message["run_id"],
        attempt=message["attempt"],
        fence=message["fence"],
        ended=message["ended"],
        exit_code=message["exit_code"],
        signal=message["signal"],
        error_type=message["error_type"],
        error_message=message["error_message"],
        traceback=message["traceback"],
        error_bases=tuple(message.get("error_bases", ())),  # an earlier program's guardian tells none
        result=blob[position:].decode("utf-8") if message["has_result"] else None,
        seconds=message["seconds"],
        cpu_seconds=message["cpu_seconds"],
        memory_bytes_max=message["memory_bytes_max"],
        read_bytes=message.get("read_bytes"),  # not told by guardians of the version before
        written_bytes=message.get("written_bytes"),
        stdout=Captured(out_head, out_tail, out_total, out_marks),
        stderr=Captured(err_head, err_tail, err_total, err_marks),
        checkpoint=message.get("checkpoint"),
        leftovers=message["leftovers"],
        cold_because=message.get("cold_because"),  # guardians of the version before do not say
        executor=message.get("executor"),
    )


def read_report(message: Mapping[str, Any], blob: bytes) -> Told:
    """Read what a job that runs has told out of a frame.

    Raises:
        KeyError, TypeError, ValueError: this frame is no report.
    """
    pieces: list[Piece] = []
    at = 0
    for stream, position, size, marks in message["pieces"]:
        pieces.append(Piece(stream, position, blob[at : at + size], _marks_of(marks)))
        at += size
    progress = message.get("progress")
    return Told(
        claim_id=message["claim_id"],
        pieces=tuple(pieces),
        progress=None if progress is None else (progress[0], progress[1]),
        checkpoint=blob[at:].decode() or None,
    )


def _marks_of(marks: Iterable[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((position, at) for position, at in marks)


def not_started(order: Order, error_type: str, error_message: str) -> Outcome:
    """Describe an attempt whose job was certainly not started."""
    return Outcome(
        claim_id=order.claim_id,
        run_id=order.run_id,
        attempt=order.attempt,
        fence=order.fence,
        ended="not_started",
        error_type=error_type,
        error_message=error_message,
    )
