"""One host: its worker and all processes below it, and how they are found, stopped and killed.

A host has a first process (``host_init``), which keeps a worker running. With namespaces that is process 1 of a machine
of its own, with a network and a boot id of its own: when it is killed all others die at that instant, as when the power
fails. Without, they are found below it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESTART_SECONDS = 1.0  # as systemd's RestartSec
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
WAIT_SECONDS = 15.0


class Host:
    """A machine with a worker on it. Its name is also the node's."""

    def __init__(self, name: str, folder: Path, *, namespace: str | None, url: str, options: list[str]) -> None:
        self.name = name
        self.folder = folder
        self.log = folder / "log"
        self._namespace = namespace
        self._options = options
        self._environment = {"PATH": PATH, "ROTA_DB": url, "PYTHONPATH": str(ROOT), "TZ": "UTC"}
        self._child: subprocess.Popen[bytes] | None = None
        folder.mkdir(exist_ok=True)

    @property
    def is_on(self) -> bool:
        return self._child is not None

    def said(self) -> str:
        """Return the end of what its worker told."""
        told = [
            path.read_text(errors="replace")[-3000:] for path in (self.log, self.folder / "stderr") if path.exists()
        ]
        return "\n".join(told)

    def switch_on(self) -> None:
        """Boot it, and let its worker start."""
        boot_id = self.folder / "boot_id"
        boot_id.write_text(f"{uuid.uuid4()}\n")
        worker = [
            sys.executable, "-P", "-m", "rota", "worker", "--name", self.name, "--state-dir", str(self.folder / "s"),
            "--log-file", str(self.log), *self._options,
        ]  # fmt: skip
        isolated = self._namespace is not None
        init = [
            sys.executable, "-I", "-S", str(ROOT / "faults" / "host_init.py"),
            "yes" if isolated else "no", str(boot_id), str(RESTART_SECONDS), "--", *worker,
        ]  # fmt: skip
        if isolated:
            assert self._namespace is not None
            # Should the suite die, the kernel kills `unshare`, with it the host's first process, and so all others.
            init = [
                "setpriv", "--pdeathsig", "KILL", "--", "ip", "netns", "exec", self._namespace,
                "unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *init,
            ]  # fmt: skip
        with (self.folder / "stderr").open("ab") as stderr:
            self._child = subprocess.Popen(
                init, cwd="/", env=self._environment, stdin=subprocess.PIPE, stdout=stderr, stderr=stderr,
                start_new_session=True,
            )  # fmt: skip
        self._tell("up")

    def switch_off(self) -> None:
        """Take the power away."""
        child, self._child = self._child, None
        if child is None:
            return
        first = self._first(child.pid)
        if self._namespace is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(first, signal.SIGKILL)
        else:
            everyone = below(first)
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for pid in [*everyone, first]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
        child.kill()
        child.wait(WAIT_SECONDS)
        assert child.stdin is not None
        child.stdin.close()

    def processes(self, role: str) -> list[int]:
        """Return the pids of those with this role, in order; ``host``: of everyone but the first process."""
        if self._child is None:
            return []
        first = self._first(self._child.pid)
        if role == "host":
            return below(first)
        found: list[int] = []
        for pid in below(first):
            name, parent = name_and_parent(pid)
            match role:
                case "worker":
                    fits = parent == first and not name.startswith("rota-")
                case "guardian":
                    fits = name in ("rota-guardian", "rota-keeper")
                case _:
                    fits = name == f"rota-{role}"
            if fits:
                found.append(pid)
        return sorted(found)

    def _first(self, pid: int) -> int:
        if self._namespace is None:
            return pid
        return next(iter(children_of(pid)), pid)

    def _tell(self, word: str) -> None:
        assert self._child is not None
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.write(f"{word}\n".encode())
            self._child.stdin.flush()


def children_of(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (task / "children").read_text().split())
    return found


def below(pid: int) -> list[int]:
    """Return all descendants, parents first."""
    found: list[int] = []
    for child in children_of(pid):
        found += [child, *below(child)]
    return found


def name_and_parent(pid: int) -> tuple[str, int]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "", 0
    head, _, rest = text.rpartition(")")
    return head.partition("(")[2], int(rest.split()[1])


def kill_abandoned(prefix: str) -> None:
    """Kill the processes of suites that died without namespaces: their state folders are in their arguments."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            said = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            place = said.partition(prefix.encode())[2][:32]
            pid = place.partition(b"-")[0]
            if pid.isdigit() and not Path("/proc", pid.decode()).exists():
                os.kill(int(entry.name), signal.SIGKILL)


def remove_abandoned(parent: Path, prefix: str) -> None:
    """Remove the folders of suites that died, and what is mounted there."""
    for folder in parent.glob(f"{prefix}*"):
        pid = folder.name.removeprefix(prefix).partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            subprocess.run(["umount", "-l", str(folder / "disk")], capture_output=True, check=False)
            shutil.rmtree(folder, ignore_errors=True)
