"""The folder of a worker, and the nursery and the warm parents that are started in it.

Invariant: others can pass through to a control socket whose path they were told (jobs of other users), and list or read
nothing else. Called by the crew and the hearth.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from typing import BinaryIO

import rota
from rota import crash
from rota.errors import ConfigError
from rota.execution.command import argv_for_warm_parent
from rota.execution.control import CONTROL_FOLDER
from rota.execution.door import DOOR_FOLDER
from rota.execution.journal import JOURNAL_FOLDER
from rota.execution.order import Order
from rota.execution.warm_birth import BACKLOG, MARK, PLACEHOLDER
from rota.execution.wire import SOCKET_PATH_BYTES_MAX, Channel, listen_at

WARM_FOLDER = "w"
LOG_BYTES_MAX = 1024 * 1024  # of nursery.log and of warm.log, which begin anew above that
_NAME_BYTES_MAX = 40  # of a control socket: pid, random part, number of the attempt


def prepare_folder(folder: str) -> None:
    """Make the folder and what belongs into it.

    Raises:
        ConfigError: it cannot be used.
    """
    longest = len(os.fsencode(f"{folder}/{CONTROL_FOLDER}/")) + _NAME_BYTES_MAX
    if longest > SOCKET_PATH_BYTES_MAX:
        rule = f"{longest - SOCKET_PATH_BYTES_MAX} bytes too long for the sockets in it; choose a shorter one"
        raise ConfigError(f"the folder {folder!r} of the worker is {rule}")
    private = (DOOR_FOLDER, JOURNAL_FOLDER, WARM_FOLDER)
    for name, mode in (("", 0o711), (CONTROL_FOLDER, 0o711), *((name, 0o700) for name in private)):
        path = f"{folder}/{name}".rstrip("/")
        try:
            os.makedirs(path, mode, exist_ok=True)
            if os.path.islink(path) or os.lstat(path).st_uid != os.geteuid():
                raise ConfigError(f"the folder {path!r} belongs to somebody else; choose another for this worker")
            os.chmod(path, mode)
        except OSError as error:
            raise ConfigError(f"the folder {path!r} of the worker cannot be used: {error.strerror}") from None


def start_nursery(
    folder: str, nofile: tuple[int, int], output_bytes_max: int, cgroups: str = ""
) -> tuple[subprocess.Popen[bytes], Channel]:
    """Start a nursery in a session of its own, and give its process and the connection to it.

    It gets no environment but PATH (ours may hold the password of the database) and where it is to crash, if it is, and
    no descriptor but the connection and its log. ``nofile`` is the limit of descriptors for jobs, ``cgroups`` the
    directory for those of attempts, if there is one.

    Raises:
        OSError: the process could not be made.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    root = os.path.dirname(os.path.dirname(os.path.abspath(rota.__file__)))
    numbers = (theirs.fileno(), *nofile, output_bytes_max)
    program = (
        f"import sys; sys.path.insert(0, {root!r}); "
        f"from rota.execution.nursery import main; main({folder!r}, *{numbers!r}, cgroups={cgroups!r})"
    )
    with theirs, _open_log(f"{folder}/nursery.log") as log:
        process = subprocess.Popen(
            # utf8, so that arguments reach a job as the bytes they were, whatever the locale
            [sys.executable, "-X", "utf8", "-I", "-S", "-c", program],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
            env={"PATH": os.environ.get("PATH", os.defpath), **crash.environment()},
        )
    return process, Channel(ours)


def start_warm_parent(path: str, log_path: str, order: Order) -> tuple[subprocess.Popen[bytes], Channel]:
    """Start a warm parent for the environment of ``order``, listening at ``path``; give its process and connection.

    It listens already when this returns: whoever asks early waits. It gets the environment of the job without the facts
    of its run, and no descriptor but listener, connection and log.

    Raises:
        OSError: the process could not be made, or that folder is not there.
    """
    environment = {name: value for name, value in order.environment.items() if not name.startswith("ROTA_")}
    environment[MARK] = PLACEHOLDER
    with contextlib.ExitStack() as opened:
        listener = opened.enter_context(listen_at(path, BACKLOG))
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            opened.enter_context(theirs)
            log = opened.enter_context(_open_log(log_path))
            reader, writer = os.pipe()
            opened.callback(os.close, reader)
            opened.callback(os.close, writer)
            passed = (listener.fileno(), theirs.fileno(), log.fileno())
            process = subprocess.Popen(
                argv_for_warm_parent(order.argv, *passed, os.getpid()),
                stdin=subprocess.DEVNULL,
                stdout=writer,  # a pipe, as a job has it: the interpreter makes its streams accordingly
                stderr=writer,
                pass_fds=passed,
                start_new_session=True,
                cwd=order.cwd,
                umask=order.umask,
                # As the guardians encode it, whatever the locale of the worker.
                env={name.encode(): value.encode("utf-8", "surrogateescape") for name, value in environment.items()},
            )
        except BaseException:
            os.unlink(path)
            raise
    return process, Channel(ours)


def _open_log(path: str) -> BinaryIO:
    how = "ab" if os.path.exists(path) and os.path.getsize(path) < LOG_BYTES_MAX else "wb"
    return open(path, how)
