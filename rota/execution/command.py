"""What a process attempt executes, and the environment it sees. Pure: values in, values out.

Invariants: nothing of the worker's own environment reaches a job but the few variables listed here, so no password of
the database and no locale that Python had put in for itself; ``ROTA_*`` come from the run's facts. Called by the
engine's worker when it writes an order.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

# From the worker's environment. LC_CTYPE is not among them: Python sets it to C.UTF-8 in its own environment when there
# is no locale, and jobs would inherit that.
KEPT_VARIABLES = ("HOME", "LANG", "LOGNAME", "PATH", "PYTHONPATH", "SHELL", "TMPDIR", "TZ", "USER")
RUNNER_PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "runner.py")
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Linux takes no string above 128 KiB into an environment. Longer arguments are asked for over ROTA_CONTROL.
ARGUMENTS_BYTES_MAX = 100_000


def argv_for_call(target: str, python: str = sys.executable) -> tuple[str, ...]:
    """Build the command that calls ``package.module:function``. ``-P``: the working directory is not on the path."""
    return (python, "-P", "-m", "rota.execution.python_job", target)


def argv_with_database(target: str, python: str = sys.executable) -> tuple[str, ...]:
    """Build the command that calls ``target`` in a transaction; ``--sql`` executes the statements it asks for."""
    return (python, "-P", "-m", "rota.engine.transactional_job", target)


def argv_for_environment(target: str, interpreter: str, environment: str) -> tuple[str, ...]:
    """Build the command that calls ``target`` in an environment, whose Python may be another and know no Rota."""
    return (interpreter, RUNNER_PATH, target, environment)


def argv_for_warm_parent(argv: Sequence[str], *numbers: int) -> tuple[str, ...]:
    """Build the command of the warm parent that serves Python jobs which, started cold, would execute ``argv``."""
    how = (RUNNER_PATH, "--warm") if argv[1] == RUNNER_PATH else ("-P", "-m", "rota.execution.warm_parent")
    return (argv[0], *how, *map(str, numbers))


def argv_for_shell(line: str, shell: str = "/bin/sh") -> tuple[str, ...]:
    """Build the command that has a shell read ``line``."""
    return (shell, "-c", line)


def python_path(folders: Sequence[str], inherited: str | None) -> str | None:
    """Join the folders of ``-I`` and the inherited PYTHONPATH; None when there is neither."""
    parts = [*folders, *([inherited] if inherited else [])]
    return ":".join(parts) if parts else None


def job_environment(
    base: Mapping[str, str],
    declared: Mapping[str, str],
    facts: Mapping[str, str | None],
    *,
    account: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Build the complete environment of a job, but ``ROTA_CONTROL``, which its guardian adds.

    ``base`` is the worker's environment, ``account`` what is known of another user that the job runs as (see
    ``account_variables``), ``declared`` what the job declares, ``facts`` the ``ROTA_*`` of this run. The later wins.
    A fact that is None is left out, and so is ``ROTA_ARGS`` when it is too long: jobs then ask for it.
    """
    environment = {name: base[name] for name in KEPT_VARIABLES if name in base}
    environment.setdefault("PATH", DEFAULT_PATH)
    environment |= account or {}
    environment |= declared
    for name, value in facts.items():
        if value is None or (name == "ROTA_ARGS" and len(value.encode()) > ARGUMENTS_BYTES_MAX):
            environment.pop(name, None)
        else:
            environment[name] = value
    return environment


def account_variables(name: str, home: str, shell: str) -> dict[str, str]:
    """Give the variables of an account, for a job that runs as another user than its worker."""
    return {"HOME": home, "LOGNAME": name, "SHELL": shell or "/bin/sh", "USER": name}
