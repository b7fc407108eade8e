"""Rota: highly available cron and long-running tasks on the SQL database you already have.

The public names are loaded when they are first used: a job that only asks ``current_run()``, and the small processes
that guard jobs, must not pay for importing SQLAlchemy.
"""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rota.client.claims import Claim
    from rota.client.dispatch import Dispatch
    from rota.client.groups import GroupHandle
    from rota.client.rota import Rota
    from rota.client.runs import RunHandle
    from rota.errors import (
        AlreadyExists,
        AlreadyFinished,
        ConfigError,
        Conflict,
        DatabaseUnavailable,
        DatabaseVersion,
        Invalid,
        NotFound,
        NotSupported,
        PeriodTimeout,
        Preempted,
        RotaError,
        RunFailed,
        RunTimeout,
    )
    from rota.execution.context import current_run
    from rota.model.outcomes import Release, Retry, Skip

__all__ = [
    "AlreadyExists",
    "AlreadyFinished",
    "Claim",
    "ConfigError",
    "Conflict",
    "DatabaseUnavailable",
    "DatabaseVersion",
    "Dispatch",
    "GroupHandle",
    "Invalid",
    "NotFound",
    "NotSupported",
    "PeriodTimeout",
    "Preempted",
    "Release",
    "Retry",
    "Rota",
    "RotaError",
    "RunFailed",
    "RunHandle",
    "RunTimeout",
    "Skip",
    "__version__",
    "current_run",
]

_HOMES = {
    "Claim": "rota.client.claims",
    "Dispatch": "rota.client.dispatch",
    "Release": "rota.model.outcomes",
    "Retry": "rota.model.outcomes",
    "GroupHandle": "rota.client.groups",
    "Rota": "rota.client.rota",
    "RunHandle": "rota.client.runs",
    "Skip": "rota.model.outcomes",
    "current_run": "rota.execution.context",
}


def __getattr__(name: str) -> Any:
    if name.startswith("_") or name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES.get(name, "rota.errors")), name)
