"""The stand-in's place: who goes on renewing and ending for the guardians of a folder while it has no worker.

Invariants: a folder has one stand-in at most, which holds the lock; the program to start is handed to the nursery by
the worker and stands in its memory only, since it holds the password of the database. A worker that comes asks the
stand-in to leave, by connecting to its socket, and sees by the end of that connection that it has.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket

from rota import crash
from rota.execution.attempt import open_stdin
from rota.execution.linux import boottime
from rota.execution.wire import listen_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rota.execution.wire import Message

SOCKET_NAME = "stand-in"
LOCK_NAME = "stand-in.lock"
AGAIN_SECONDS = 1.0  # after one that ended badly, doubled each time
AGAIN_SECONDS_MAX = 60.0
TRIES_MAX = 60  # an hour of that: what waits is on disk for the next worker


class Program:
    """What the nursery executes as the stand-in: its words, its whole environment, and what it reads first."""

    __slots__ = ("argv", "environment", "stdin")

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str], stdin: bytes) -> None:
        self.argv = list(argv)
        self.environment = dict(environment)
        self.stdin = stdin

    def message(self) -> Message:
        """Put it into a frame's message; what it reads first is the frame's blob."""
        return {"op": "stand_in", "argv": self.argv, "environment": self.environment}

    def spawn(self) -> int:
        """Start it in a session of its own, and give its pid.

        Raises:
            OSError: no process could be made.
        """
        stdin = open_stdin(self.stdin)
        pid = os.fork()
        if pid:
            os.close(stdin)
            return pid
        try:
            os.setsid()
            os.dup2(stdin, 0)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            os.execve(self.argv[0], self.argv, self.environment)
        except OSError as error:
            os.write(2, f"the stand-in {self.argv[0]!r} cannot be started: {error}\n".encode())
        finally:
            os._exit(127)


class Caller:
    """The nursery's side: starts a stand-in when a guardian calls for one, and again when it ended badly."""

    def __init__(self) -> None:
        self.program: Program | None = None
        self.pid = 0
        self._start_at: float | None = None
        self._failures = 0

    @property
    def is_busy(self) -> bool:
        """Whether one is at work, or about to be."""
        return bool(self.pid) or self._start_at is not None

    def call(self) -> None:
        """Have one started; one that is at work, and may be about to leave, is followed by another."""
        if self.program is not None and self._start_at is None:
            self._start_at = boottime()

    def seconds_until_start(self) -> float | None:
        """Tell how long until ``start`` has something to do; None for not before ``call`` or ``ended``."""
        return None if self.pid or self._start_at is None else max(0.0, self._start_at - boottime())

    def start(self) -> None:
        """Start one if it is time.

        Raises:
            OSError: no process could be made; it is tried again later.
        """
        if self.program is None or self.seconds_until_start() != 0.0:
            return
        self._start_at = boottime() + AGAIN_SECONDS_MAX  # unless it is made
        crash.at("stand_in.before")
        self.pid = self.program.spawn()
        self._start_at = None

    def ended(self, status: int) -> None:
        """Take in that the one at work has ended."""
        self.pid = 0
        if status == 0:
            self._failures = 0
            return
        self._failures += 1
        seconds = min(AGAIN_SECONDS_MAX, AGAIN_SECONDS * 2.0 ** min(self._failures, 10))
        self._start_at = boottime() + seconds if self._failures < TRIES_MAX else None


class Place:
    """The stand-in's side: the one place of a folder, and the ear for a worker that wants it back."""

    def __init__(self, lock: int, listener: socket.socket) -> None:
        self._lock = lock
        self._listener = listener

    @classmethod
    def take(cls, folder: str) -> Place | None:
        """Take the place, unless somebody has it.

        Raises:
            OSError: the folder cannot be used.
        """
        lock = os.open(f"{folder}/{LOCK_NAME}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        return cls(lock, listen_at(f"{folder}/{SOCKET_NAME}", 8))

    def fileno(self) -> int:
        """Give a descriptor that is readable as soon as a worker wants the place back."""
        return self._listener.fileno()

    def is_wanted_back(self) -> bool:
        """Tell whether a worker is there. It waits until ``leave``, or the end of this process."""
        try:
            self._listener.accept()[0].detach()  # left open: its end is the answer
        except OSError:
            return False
        return True


def ask_to_leave(folder: str) -> socket.socket | None:
    """Ask the stand-in of a folder to leave, if there is one. What is returned becomes readable once it has."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        connection.connect(f"{folder}/{SOCKET_NAME}")
    except OSError:
        connection.close()  # nobody is there, or somebody who is about to leave
        return None
    return connection
