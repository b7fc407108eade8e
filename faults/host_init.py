"""The first process of a host: keeps its worker running as systemd would, and takes everything with it when it ends.

``python -I -S host_init.py ISOLATED BOOT_ID_FILE PAUSE -- WORKER...`` starts the worker when it reads ``up`` on its
standard input, and starts it again whenever it dies. When its input ends it ends, and as process 1 of its own namespace
the kernel kills all others with it. Where there are no namespaces it is a subreaper and kills them itself.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

MS_BIND = 4096
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
BOOT_ID = "/proc/sys/kernel/random/boot_id"
libc = ctypes.CDLL(None, use_errno=True)


def kill_all() -> None:
    """Kill what hangs below this process, until nothing comes after."""
    while True:
        pids = [int(word) for word in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
        if not pids:
            return
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for _ in pids:
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                return


def main() -> None:
    isolated, boot_id, pause = sys.argv[1] == "yes", sys.argv[2], float(sys.argv[3])
    command = sys.argv[sys.argv.index("--") + 1 :]
    if isolated:
        # Another boot of the machine, for all who ask in here.
        if libc.mount(boot_id.encode(), BOOT_ID.encode(), None, MS_BIND, None) != 0:
            sys.exit(f"{BOOT_ID} cannot be another one: {os.strerror(ctypes.get_errno())}")
    else:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda *_: (kill_all(), os._exit(0)))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the suite
    worker: subprocess.Popen[bytes] | None = None
    is_up, start_at, said = False, 0.0, b""
    while True:
        if select.select([0], [], [], 0.1)[0]:
            data = os.read(0, 4096)
            if not data:
                break
            *lines, said = (said + data).split(b"\n")
            for line in lines:
                is_up = line == b"up"
        if worker is not None and worker.poll() is not None:
            worker, start_at = None, time.monotonic() + pause
        if worker is None and is_up and time.monotonic() >= start_at:
            worker = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        reap_others(worker)
    kill_all()


def reap_others(worker: subprocess.Popen[bytes] | None) -> None:
    """Reap orphans. The worker is left to its Popen."""
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or (worker is not None and found.si_pid == worker.pid):
            return
        os.waitpid(found.si_pid, os.WNOHANG)


if __name__ == "__main__":
    main()
