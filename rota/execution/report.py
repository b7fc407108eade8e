"""A job speaking to its guardian: over the socket whose path is in ``ROTA_CONTROL``.

Imports stay few: this is loaded in every Python job, and in ``rota current``.
"""

from __future__ import annotations

import os
import socket

from rota.errors import Conflict, Invalid, Preempted, StateError
from rota.execution.inline import EXECUTOR_VARIABLE, current, fact
from rota.execution.wire import RESULT_BYTES_MAX, WISH_MARK, Decoder, WireError, pack_frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rota.execution.wire import Frame, Message

CONTROL_VARIABLE = "ROTA_CONTROL"
ANSWER_SECONDS_MAX = 30.0


def report_result(text: str) -> None:
    """Tell the guardian the job's result, JSON text. It is kept when the attempt ends well; the last one counts.

    Raises:
        Invalid: it is above 1 MiB.
        StateError: this process is no job, or its guardian is gone.
    """
    data = text.encode("utf-8")
    if len(data) > RESULT_BYTES_MAX:
        raise Invalid("result", text, f"it must be at most {RESULT_BYTES_MAX} bytes of JSON; it has {len(data)}")
    _ask_guardian({"op": "result"}, data)


def report_error(kind: str, message: str, traceback: str, bases: Sequence[str] = ()) -> None:
    """Tell the guardian what the job failed of: the error's type, and the types above that.

    Raises:
        StateError: this process is no job, or its guardian is gone.
    """
    told: Message = {"op": "error", "type": kind, "message": message, "traceback": traceback, "bases": list(bases)}
    _ask_guardian(told)


def report_outcome(wish: str, message: str, after_seconds: float | None) -> None:
    """Tell the guardian how the attempt is to end, other than well or badly: skip, release, or retry after a while.

    It travels as an error whose type no exception has; ``read_wish`` reads it.

    Raises:
        StateError: this process is no job, or its guardian is gone.
    """
    after = "" if after_seconds is None else f" {after_seconds!r}"
    report_error(f"{WISH_MARK}{wish}{after}", message, "")


def report_progress(fraction: float | None, message: str | None) -> None:
    """Tell the guardian how far the job is.

    Raises:
        Preempted: the lease of this attempt goes.
        Conflict: the fraction is not from 0 to 1.
        StateError: this process is no job, or its guardian is gone.
    """
    _ask_guardian({"op": "progress", "fraction": fraction, "message": message})


def report_checkpoint(text: str) -> None:
    """Have the guardian keep the job's checkpoint, JSON text, for the next attempt.

    Raises:
        Invalid: it is above 1 MiB.
        Preempted: the lease of this attempt goes.
        StateError: this process is no job, or its guardian is gone.
    """
    data = text.encode("utf-8")
    if len(data) > RESULT_BYTES_MAX:
        raise Invalid("checkpoint", text, f"it must be at most {RESULT_BYTES_MAX} bytes of JSON; it has {len(data)}")
    _ask_guardian({"op": "checkpoint"}, data)


def read_checkpoint() -> str:
    """Give the last checkpoint, of this attempt or of an earlier one: JSON text, ``null`` when there is none.

    Raises:
        StateError: this process is no job, or its guardian is gone.
    """
    return _ask_guardian({"op": "saved"})[1].decode("utf-8")


def why_stopping() -> str | None:
    """Tell why this attempt is being stopped: cancelled, timeout, released, lease_over; None: it is not.

    Raises:
        StateError: this process is no job, or its guardian is gone.
    """
    why = _ask_guardian({"op": "stopping"})[0].get("why")
    return None if why is None else str(why)


def read_database() -> str:
    """Give what a transactional job, or one of SQL, is told of its database, JSON text.

    Raises:
        Conflict: this job is neither.
        StateError: this process is no job, or its guardian is gone.
    """
    return _ask_guardian({"op": "database"})[1].decode("utf-8")


def read_wish(error_type: str | None) -> tuple[str, float | None] | None:
    """Return what a job told by ``report_outcome``: the wish, and after how many seconds; None for any other error."""
    if error_type is None or not error_type.startswith(WISH_MARK):
        return None
    wish, _, after = error_type.removeprefix(WISH_MARK).partition(" ")
    try:
        return wish, float(after) if after else None
    except ValueError:  # written to the socket by a job that does without Rota's modules
        return wish, None


def read_arguments() -> str:
    """Give the run's arguments, JSON text: from ``ROTA_ARGS``, or from the guardian where they were too long for it.

    Raises:
        StateError: this process is no job, or its guardian is gone.
    """
    text = fact("ROTA_ARGS")
    return text if text is not None else _ask_guardian({"op": "args"})[1].decode("utf-8")


def control_path() -> str:
    """Give the path of the guardian's socket.

    Raises:
        StateError: this process is no job.
    """
    path = os.environ.get(CONTROL_VARIABLE)
    if EXECUTOR_VARIABLE in os.environ:
        sentence = (
            "this is no run: threads and processes that a run of an executor process starts have none of their own"
        )
        raise StateError(f"{sentence}; call this in the function itself, or hand on contextvars.copy_context()")
    if not path:
        raise StateError("this process is not a job of Rota: ROTA_CONTROL is not set; call this inside a job only")
    return path


def _ask_guardian(message: Message, blob: bytes = b"") -> Frame:
    inline = current.get()
    answer, answer_blob = _ask_socket(message, blob) if inline is None else inline.ask(message, blob)
    if answer.get("preempted"):
        raise Preempted(int(fact("ROTA_RUN_ID") or 0), int(fact("ROTA_FENCE") or 0))
    if not answer.get("ok"):
        raise Conflict(f"the guardian of this job refuses: {answer.get('error')}")
    return answer, answer_blob


def _ask_socket(message: Message, blob: bytes) -> Frame:
    path = control_path()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(ANSWER_SECONDS_MAX)
            connection.connect(path)
            connection.sendall(pack_frame(message, blob))
            return _read_frame(connection)
    except (OSError, WireError) as error:
        raise StateError(f"the guardian of this job does not answer on {path}: {error}") from None


def _read_frame(connection: socket.socket) -> Frame:
    decoder = Decoder()
    while True:
        data = connection.recv(65536)
        if not data:
            raise WireError("it closed the connection")
        frames = decoder.feed(data)
        if frames:
            return frames[0]
