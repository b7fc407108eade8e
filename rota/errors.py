"""Every error Rota raises, in one tree, sorted by who has to act.

    RotaError
    ├── UsageError            the caller: correct the input
    │   ├── Invalid           a value breaks a rule (field, value, rule)
    │   ├── ConfigError       the configuration cannot be used
    │   └── NotSupported      this database or platform cannot do that
    ├── StateError            the caller: the world is not as assumed
    │   ├── NotFound
    │   ├── AlreadyExists
    │   ├── AlreadyFinished   the run has ended already
    │   └── Conflict          somebody else changed it, or its state forbids it
    ├── Preempted             the worker: another node owns the run now, stop
    ├── RunFailed             the waiting caller: the run ended badly
    ├── RunTimeout            the waiting caller: the run has not ended yet
    ├── PeriodTimeout         the waiting caller: the period is not finished yet
    └── DatabaseError         the operator
        ├── DatabaseUnavailable   nobody answers, or the answer to COMMIT was lost
        ├── DatabaseRefused       a statement was refused: no right, no space, a broken row
        └── DatabaseVersion       the schema is not the one this program needs

``code`` is stable: exit statuses, problem types and anchors in the documentation hang on it. Messages start in lower
case, name the thing and say what to do next.
"""

from __future__ import annotations

from typing import Any


class RotaError(Exception):
    """Root of everything Rota raises on purpose."""

    code = "error"
    exit_status = 1


class UsageError(RotaError):
    """The caller's input cannot be used as it is."""

    code = "usage"
    exit_status = 2


class Invalid(UsageError):
    """A value was refused at the door: nothing was stored."""

    code = "invalid"

    def __init__(self, field: str, value: object, rule: str) -> None:
        try:
            shown = repr(value)
        except Exception:  # noqa: BLE001 - nested too deep, or its author's: no reason to tell something else than the rule
            shown = f"of type {type(value).__name__}"
        if len(shown) > 120:
            shown = shown[:117] + "..."
        nothing = {"None": f"{field} is not given", "[]": f"{field} is refused"}  # which nobody has written so
        super().__init__(f"{nothing.get(shown, f'{field} {shown} is refused')}: {rule}")
        self.field = field
        self.value = value
        self.rule = rule


class ConfigError(UsageError):
    """The configuration cannot be used; the message names the key and where it came from."""

    code = "config"


class NotSupported(UsageError):
    """This database, platform or version cannot do what was asked."""

    code = "not-supported"


class StateError(RotaError):
    """What was asked does not fit the state of the world."""

    code = "state"


class NotFound(StateError):
    """There is nothing of that name or number."""

    code = "not-found"

    def __init__(self, kind: str, name: object, hint: str = "") -> None:
        super().__init__(f"there is no {kind} {str(name)!r}" + (f"; {hint}" if hint else f"; see `rota {kind} list`"))
        self.kind = kind
        self.name = name


class AlreadyExists(StateError):
    """The name is taken."""

    code = "already-exists"

    def __init__(
        self, kind: str, name: str, hint: str = "choose another name, or say what to do with --if-exists"
    ) -> None:
        super().__init__(f"{kind} {name!r} exists already; {hint}")
        self.kind = kind
        self.name = name


class AlreadyFinished(StateError):
    """The run has ended already; nothing was changed."""

    code = "already-finished"

    def __init__(self, run_id: int, state: str) -> None:
        super().__init__(f"run {run_id} has ended already ({state}); see `rota run show {run_id}`")
        self.run_id = run_id
        self.state = state


class Conflict(StateError):
    """The row's state forbids it, or somebody changed the row meanwhile; nothing was changed."""

    code = "conflict"


class Preempted(RotaError):
    """Another node owns this run now: stop, and report nothing."""

    code = "preempted"

    def __init__(self, run_id: int, fence: int) -> None:
        super().__init__(f"run {run_id} is no longer held under fence {fence}; stop this attempt")
        self.run_id = run_id
        self.fence = fence


class RunFailed(RotaError):
    """The run that was waited for did not succeed."""

    code = "run-failed"

    def __init__(self, run_id: int, state: str, reason: str) -> None:
        super().__init__(f"run {run_id} ended {state}: {reason}")
        self.run_id = run_id
        self.state = state
        self.reason = reason


class RunTimeout(RotaError):
    """The run that was waited for has not ended in the time given; it goes on."""

    code = "run-timeout"

    def __init__(self, run_id: int, timeout_seconds: float) -> None:
        super().__init__(f"run {run_id} has not ended within {timeout_seconds:g} s; it goes on, wait again")
        self.run_id = run_id
        self.timeout_seconds = timeout_seconds


class PeriodTimeout(RotaError):
    """The period that was waited for is not finished in the time given; it is worked on as before."""

    code = "period-timeout"

    def __init__(self, job: str, period: str, timeout_seconds: float) -> None:
        super().__init__(
            f"period {period} of job {job} is not finished within {timeout_seconds:g} s: "
            f"`rota why period {job} {period}` tells what it waits for"
        )
        self.job = job
        self.period = period
        self.timeout_seconds = timeout_seconds


class DatabaseError(RotaError):
    """The database refuses or cannot be reached."""

    code = "database"


class DatabaseUnavailable(DatabaseError):
    """Nobody answers, or the connection broke.

    ``outcome_unknown`` is true when it broke during COMMIT: the transaction may or may not have happened.
    """

    code = "database-unavailable"

    def __init__(self, message: str, *, outcome_unknown: bool = False) -> None:
        super().__init__(message)
        self.outcome_unknown = outcome_unknown


class DatabaseRefused(DatabaseError):
    """The database refused a statement, and trying again at once will not help; nothing was written."""

    code = "database-refused"


class DatabaseVersion(DatabaseError):
    """The schema in the database is not one this program can work with."""

    code = "database-version"


def describe_error(error: RotaError) -> dict[str, Any]:
    """Return code, message, and what else an error knows: field, value, rule, the name that was not found."""
    return {"code": error.code, "message": " ".join(str(error).split()), **vars(error)}
