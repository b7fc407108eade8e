"""A server as a direct child of this process, in a folder that goes away with it.

Invariant: whatever happens to this process, the server ends (PDEATHSIG; it fires when the starting *thread* ends, so
start servers from the main thread). Neither PostgreSQL nor MariaDB nor MySQL wants to be root, so as root the child
becomes another user.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.servers.base import Unavailable

FOLDER_PREFIX = "rota-server-"
START_SECONDS_MAX = 60
MEMORY = Path("/dev/shm")
MEMORY_MIN_BYTES = 4 << 30
# Servers read their locale, zone and options from the environment: give them one that is always the same.
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "TZ": "UTC"}


def choose_user(*candidates: str) -> str | None:
    """Return the user that a server runs as: None for our own, unless we are root."""
    if os.getuid() != 0:
        return None
    for name in candidates:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise Unavailable(f"as root a server must run as another user, and there is none of {', '.join(candidates)}")


def as_user(user: str | None, args: Sequence[str | Path], *, death_signal: str = "KILL") -> list[str]:
    """Wrap a command so that it runs as ``user`` and gets ``death_signal`` when we end."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise Unavailable("setpriv is missing: apt-get install -y util-linux")
    wrapped = [setpriv, "--pdeathsig", death_signal]
    if user is not None:
        entry = pwd.getpwnam(user)
        wrapped += [f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--init-groups"]
    return [*wrapped, "--", *map(str, args)]


def choose_parent(user: str | None = None, *, durable: bool = False) -> Path:
    """Tell where the folder of a server of this user goes: into memory where there is room, unless it is to be durable.

    Making and dropping hundreds of databases is what disks are slow at.
    """
    if not durable and os.access(MEMORY, os.W_OK):
        state = os.statvfs(MEMORY)
        if state.f_bavail * state.f_frsize >= MEMORY_MIN_BYTES and not state.f_flag & os.ST_NOEXEC:
            return MEMORY
    parent = Path(tempfile.gettempdir())
    if user is not None and not all(folder.stat().st_mode & 0o001 for folder in [parent, *parent.parents]):
        parent = Path("/tmp")
    return parent


@contextlib.contextmanager
def server_folder(user: str | None, *, durable: bool = False) -> Iterator[Path]:
    """Make a temporary folder that ``user`` may enter, and remove it at the end."""
    parent = choose_parent(user, durable=durable)
    _remove_abandoned(parent)
    folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-", dir=parent))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(parent: Path) -> None:
    """Remove the folders of test runs that were killed before they could."""
    for folder in parent.glob(f"{FOLDER_PREFIX}*-*"):
        pid = folder.name.removeprefix(FOLDER_PREFIX).partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """Return a TCP port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_once(user: str | None, args: Sequence[str | Path]) -> None:
    """Run a command that prepares a server, and show what it said if it fails."""
    done = subprocess.run(
        as_user(user, args),
        cwd="/",
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{args[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


class ServerProcess:
    """One server process, which may be stopped, killed and started again."""

    def __init__(
        self,
        args: Sequence[str | Path],
        *,
        user: str | None,
        log: Path,
        is_ready: Callable[[], bool],
        stop_with: signal.Signals,  # what the server takes as: stop fast, but in order
    ) -> None:
        self._args = as_user(user, args, death_signal=stop_with.name.removeprefix("SIG"))
        self._log = log
        self._is_ready = is_ready
        self._stop_with = stop_with
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._child is not None, "the server has not been started"
        return self._child.pid

    def start(self) -> None:
        """Start the server and return once it answers."""
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(
                self._args, cwd="/", env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,  # a Ctrl-C meant for the tests must not take the server before their clean-up
            )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self._is_ready():
            if self._child.poll() is not None or time.monotonic() > deadline:
                self.stop(signal.SIGKILL)
                raise RuntimeError(f"{self._args} did not start:\n{self._log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.02)

    def stop(self, with_signal: int | None = None) -> None:
        """Stop the server and wait until it is gone."""
        child, self._child = self._child, None
        if child is None:
            return
        child.send_signal(with_signal or self._stop_with)
        try:
            child.wait(timeout=30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
