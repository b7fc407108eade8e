"""The folder of a worker, and the nursery that is started in it.

Invariant: others can pass through to a control socket whose path they were told (jobs of other users), and list or read
nothing else. Called by the crew.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import rota
from rota.errors import ConfigError
from rota.execution.control import CONTROL_FOLDER, SOCKET_PATH_BYTES_MAX
from rota.execution.door import DOOR_FOLDER
from rota.execution.journal import JOURNAL_FOLDER
from rota.execution.wire import Channel

LOG_BYTES_MAX = 1024 * 1024  # of nursery.log, which begins anew above that
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
    for name, mode in (("", 0o711), (CONTROL_FOLDER, 0o711), (DOOR_FOLDER, 0o700), (JOURNAL_FOLDER, 0o700)):
        path = f"{folder}/{name}".rstrip("/")
        try:
            os.makedirs(path, mode, exist_ok=True)
            if os.path.islink(path) or os.lstat(path).st_uid != os.geteuid():
                raise ConfigError(f"the folder {path!r} belongs to somebody else; choose another for this worker")
            os.chmod(path, mode)
        except OSError as error:
            raise ConfigError(f"the folder {path!r} of the worker cannot be used: {error.strerror}") from None


def start_nursery(
    folder: str, nofile: tuple[int, int], output_bytes_max: int
) -> tuple[subprocess.Popen[bytes], Channel]:
    """Start a nursery in a session of its own, and give its process and the connection to it.

    It gets no environment but PATH (ours may hold the password of the database), and no descriptor but the connection
    and its log. ``nofile`` is the limit of descriptors for jobs.

    Raises:
        OSError: the process could not be made.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    root = os.path.dirname(os.path.dirname(os.path.abspath(rota.__file__)))
    numbers = (theirs.fileno(), *nofile, output_bytes_max)
    program = (
        f"import sys; sys.path.insert(0, {root!r}); "
        f"from rota.execution.nursery import main; main({folder!r}, *{numbers!r})"
    )
    log_path = f"{folder}/nursery.log"
    how = "ab" if os.path.exists(log_path) and os.path.getsize(log_path) < LOG_BYTES_MAX else "wb"
    with theirs, open(log_path, how) as log:
        process = subprocess.Popen(
            # utf8, so that arguments reach a job as the bytes they were, whatever the locale
            [sys.executable, "-X", "utf8", "-I", "-S", "-c", program],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
            env={"PATH": os.environ.get("PATH", os.defpath)},
        )
    return process, Channel(ours)
