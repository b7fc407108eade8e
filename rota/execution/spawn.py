"""The birth of a job's process: fork, set up, exec. One way for every kind of job.

Invariants: the job sees the descriptors 0, 1 and 2 only, default signal dispositions and an empty mask; it dies with
its guardian; and whatever goes wrong before its program runs is reported, with the step, through a pipe that exec
closes. Called by the guardian, which has one thread: only then is it safe to run Python between fork and exec. A job
that a warm parent has forked is set up by the same ``set_up``, and executes nothing.
"""

from __future__ import annotations

import json
import os
import resource
import signal

from rota.execution.cgroup import enter
from rota.execution.limits import become_groups, set_limits, set_urgency
from rota.execution.linux import die_with_parent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
_REPORT_BYTES_MAX = 4096  # one atomic write


class Birth:
    """Everything a new process needs to become the job."""

    __slots__ = (
        "argv", "cgroup", "cwd", "environment", "limits", "needs", "nofile", "secrets", "stderr", "stdin", "stdout",
        "step", "umask", "user",
    )  # fmt: skip

    def __init__(
        self,
        argv: list[str],
        environment: dict[str, str],
        *,
        cwd: str | None,
        user: str | None,
        umask: int,
        limits: dict[str, Any],
        nofile: tuple[int, int],
        stdin: int,
        stdout: int,
        stderr: int,
        secrets: dict[str, str] | None = None,
        cgroup: dict[str, Any] | None = None,  # its path, and the limits that it holds
        needs: list[str] | None = None,  # what must be there: a program, or "", and folders
    ) -> None:
        self.cgroup = cgroup
        self.argv = argv
        self.environment = environment
        self.cwd = cwd
        self.needs = needs or []
        self.user = user
        self.umask = umask
        self.limits = limits
        self.nofile = nofile
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.secrets = secrets or {}  # variables, too, that the job's own process alone gets to see
        self.step = "setting up"  # what is being done, should it fail


def fork_job(birth: Birth, report: int) -> int:
    """Fork a process that becomes the job, and give its pid. Failures of the child arrive on the pipe ``report``.

    Raises:
        OSError: no process could be made.
    """
    guardian_pid = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        set_up(birth)
        # Python ignores these two, and exec would keep that.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        signal.signal(signal.SIGXCPU, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        # After the change of user, which clears it.
        die_with_parent(guardian_pid)
        birth.step = "limiting what it may use"
        set_limits(birth.limits)
        birth.step = f"running {birth.argv[0]!r}"
        _exec(birth.argv, {**birth.environment, **birth.secrets})
    except BaseException as error:  # noqa: BLE001 - whatever it is, the parent must hear of it
        report_failure(report, birth.step, error)
    finally:
        os._exit(127)


def set_up(birth: Birth) -> None:
    """Become what the job is to be, in a process that was just forked, and note the steps; all but the last limits.

    Raises:
        Exception: that step failed.
    """
    if birth.cgroup is not None and enter(birth.cgroup["path"]):  # first: nothing that it does may be left outside
        held = birth.cgroup["holds"]
        birth.limits = {name: value for name, value in birth.limits.items() if name not in held}
    limits = birth.limits
    os.setsid()
    for target, source in enumerate((birth.stdin, birth.stdout, birth.stderr)):
        os.dup2(source, target)
    open_files = limits.get("open_files_max")
    birth.step = "limiting descriptors" if open_files is None else f"setting open_files_max {open_files}"
    resource.setrlimit(resource.RLIMIT_NOFILE, birth.nofile if open_files is None else (open_files, open_files))
    os.umask(birth.umask)
    birth.step = f"setting nice {limits.get('nice')} and ionice {limits.get('ionice')}"
    set_urgency(limits.get("nice"), limits.get("ionice"))
    groups = limits.get("groups")
    if birth.user is not None:
        birth.step = f"becoming user {birth.user!r}"
        _become_user(birth.user, groups)
    elif groups is not None:
        birth.step = f"becoming groups {', '.join(groups)}"
        become_groups(groups)
    if birth.cwd is not None:
        birth.step = f"entering folder {birth.cwd!r}"
        os.chdir(birth.cwd)
    _look_for(birth)


def _look_for(birth: Birth) -> None:
    """See that what it needs is there: without it another program of the same name might be found along PATH.

    Here, in the child, with the rights of the job: a disk that does not answer holds up nobody else.

    Raises:
        OSError: something is not there.
    """
    for number, path in enumerate(birth.needs):
        if path:
            birth.step = f"looking for {path!r}"
            os.stat(path)
            if number == 0 and not os.access(path, os.X_OK):
                raise PermissionError(13, "Permission denied")


def _become_user(name: str, groups: list[str] | None) -> None:
    import pwd  # here, in the child: asking a directory service may take its time

    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise LookupError("there is no such user on this machine") from None
    if os.geteuid() != 0 and entry.pw_uid == os.geteuid() and groups is None:
        return  # already that user, and not allowed to set groups
    if groups is not None:
        become_groups(groups)
    else:
        os.initgroups(name, entry.pw_gid)
        os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
    os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)


def _exec(argv: list[str], environment: dict[str, str]) -> NoReturn:
    """Replace this process; a name without a slash is looked up along the PATH of the job."""
    program = argv[0]
    if "/" in program:
        os.execve(program, argv, environment)
    refused: OSError | None = None
    for folder in environment.get("PATH", DEFAULT_PATH).split(":"):
        try:
            os.execve(os.path.join(folder or ".", program), argv, environment)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError as error:
            refused = error
    raise refused or FileNotFoundError(2, "no such program along PATH")


def report_failure(report: int, step: str, error: BaseException) -> None:
    """Tell on the pipe ``report`` what went wrong at which step."""
    text = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    data = json.dumps([step[:500], type(error).__name__, text[:500]]).encode("ascii")
    os.write(report, data[:_REPORT_BYTES_MAX])


def read_report(data: bytes) -> tuple[str, str]:
    """Turn a child's report into an error type and a sentence."""
    try:
        step, kind, text = json.loads(data)
    except ValueError:
        return "StartError", "the process could not be started, and its report is cut off"
    return str(kind), f"{step} failed: {text}"
