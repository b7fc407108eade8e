"""Jobs that are declared in code: ``@rota.job``.

Importing a module that declares jobs must cost next to nothing, since every process of a Python job does it: nothing
here imports SQLAlchemy or looks for a database before a declaration is brought into force or a run is asked for.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from rota.client.options import SCHEDULE_OPTIONS, check_job_options
from rota.errors import Invalid
from rota.model.dependencies import in_order
from rota.model.job import Executor, JobSpec
from rota.model.schedule import TIMINGS, ScheduleSpec

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.orm import Session

    from rota.client.rota import Rota
    from rota.client.runs import RunHandle

P = ParamSpec("P")
R = TypeVar("R")

# What `enqueue` takes for itself; a function's own parameters have other names.
ENQUEUE_OPTIONS = (
    "key", "unique_for", "at", "delay", "start_within", "priority", "retries", "retry_delay", "concurrency_key",
)  # fmt: skip
# Options of the decorator that belong to the schedule; all others are the job's. `start_within` is the job's.
_SCHEDULE_OPTIONS = frozenset(SCHEDULE_OPTIONS) - {"job", "start_within"}


@dataclass(frozen=True, slots=True)
class Declaration:
    """What became of one declared job or schedule."""

    kind: str  # job, schedule
    name: str
    outcome: str  # added, changed, unchanged, edited elsewhere, ghost
    difference: str  # what differs from what is stored, or how it was changed

    def __str__(self) -> str:
        if self.outcome == "edited elsewhere":
            return (
                f"{self.kind} {self.name} was edited elsewhere and stays as it is, other than declared: "
                f"{self.difference}; see `rota {self.kind} show {self.name}`"
            )
        if self.outcome == "ghost":
            return (
                f"{self.kind} {self.name} is {self.difference}, and goes on as it is: declare it again, or take it "
                f"away with `rota {self.kind} delete {self.name}`"
            )
        return f"{self.kind} {self.name}: {self.outcome}" + (f", {self.difference}" if self.difference else "")


class DeclaredJob(Generic[P, R]):
    """A function that is also a job. Called, it is the function; ``enqueue`` asks for a run of it."""

    def __init__(self, rota: Rota, function: Callable[P, R], name: str | None, options: Mapping[str, Any]) -> None:
        self.__rota_function__ = function  # what a process of the job calls
        self._rota = rota
        self._signature = inspect.signature(function)
        if taken := [option for option in ENQUEUE_OPTIONS if option in self._signature.parameters]:
            rule = f"enqueue() takes {', '.join(ENQUEUE_OPTIONS)} for itself: give the parameter another name"
            raise Invalid("parameter", taken[0], rule)
        self.module = function.__module__
        self.spec, self.schedule_spec = _read_options(
            rota, function, function.__name__ if name is None else name, options
        )
        functools.update_wrapper(self, function)

    @property
    def name(self) -> str:
        """The job's name."""
        return self.spec.name

    def __repr__(self) -> str:
        return f"<job {self.name}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function here and now; no run is made."""
        return self.__rota_function__(*args, **kwargs)

    def enqueue(self, **arguments: Any) -> RunHandle:
        """Ask for a run with these arguments; ``key`` and the other ENQUEUE_OPTIONS are those of ``Rota.enqueue``.

        Raises:
            Invalid: the function does not take these arguments, or they are not JSON; nothing was stored.
            NotFound: the job is not in the database yet: start a worker with ``-m``, or call ``Rota.declare``.
        """
        args, options = self.split(arguments)
        return self._rota.enqueue(self.name, args, **options)

    def using(self, transaction: Connection | Session) -> DeclaredWithin:
        """Return what asks for runs inside ``transaction``: they exist if, and from when, the caller commits."""
        return DeclaredWithin(self, self._rota, transaction)

    def split(self, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Part what the function takes from what ``enqueue`` takes for itself.

        Raises:
            Invalid: the function does not take these arguments.
        """
        args = {name: value for name, value in arguments.items() if name not in ENQUEUE_OPTIONS}
        try:
            self._signature.bind(**args)
        except TypeError as error:
            raise Invalid("args", args, f"{self.name}{self._signature} does not take them: {error}") from None
        return args, {name: value for name, value in arguments.items() if name in ENQUEUE_OPTIONS}


class DeclaredWithin:
    """Asking for runs of one declared job inside a transaction of the caller's own."""

    def __init__(self, job: DeclaredJob[Any, Any], rota: Rota, transaction: Connection | Session) -> None:
        self._job = job
        self._within = rota.using(transaction)

    def enqueue(self, **arguments: Any) -> RunHandle:
        """Ask for a run, as the job's own ``enqueue`` does."""
        args, options = self._job.split(arguments)
        return self._within.enqueue(self._job.name, args, **options)


def _read_options(
    rota: Rota, function: Callable[..., Any], name: str, options: Mapping[str, Any]
) -> tuple[JobSpec, ScheduleSpec | None]:
    of_schedule = {key: value for key, value in options.items() if key in _SCHEDULE_OPTIONS and value is not None}
    of_job = {key: value for key, value in options.items() if key not in _SCHEDULE_OPTIONS}
    for kind in ("call", "command", "shell", "sql", "connection"):
        if kind in of_job:
            raise Invalid(kind, of_job[kind], "a decorated job runs the function that it decorates")
    target = f"{function.__module__}:{function.__qualname__}"
    spec = JobSpec.checked(name, **check_job_options({**of_job, "call": target}, new=True))
    if spec.executor is Executor.ASYNC and not inspect.iscoroutinefunction(inspect.unwrap(function)):
        raise Invalid("executor", "async", f"{name} is no `async def`: use executor thread, or make it one")
    if not any(kind in of_schedule for kind in TIMINGS):
        if of_schedule:
            lonely = sorted(of_schedule)[0]
            rule = f"it belongs to a schedule: give one of {', '.join(TIMINGS)} too"
            raise Invalid(lonely, of_schedule[lonely], rule)
        return spec, None
    return spec, ScheduleSpec.checked(name, job=name, **{"tz": rota.default_zone, **of_schedule})


# Every job that this process has declared, on whichever connection. A module that is loaded anew replaces its own.
REGISTERED: dict[str, DeclaredJob[Any, Any]] = {}


def declare_all(rota: Rota, jobs: Sequence[DeclaredJob[Any, Any]] | None = None) -> list[Declaration]:
    """Bring declared jobs and their schedules into force in ``rota``'s database; all that are registered unless told.

    What somebody edited through another door since is reported and left alone; what is unchanged is not written. What
    was deleted is added again: to stop a declared schedule, pause it, or take it out of the code and delete it. What a
    module that is loaded here has declared once and declares no more is reported as a ghost, and goes on.

    Raises:
        Invalid: a job is declared in the program's main module, which no worker can import.
    """
    from rota.store.ghosts import note_ghosts
    from rota.store.jobs import declare_job
    from rota.store.schedules import declare_schedule

    wanted = list(REGISTERED.values()) if jobs is None else list(jobs)
    for job in wanted:
        if job.module == "__main__":
            rule = "a worker cannot import the main module of another program: move the job into a module of its own"
            raise Invalid("call", job.spec.target, rule)
    report: list[Declaration] = []
    # A job is known before those that run after it are.
    by_name = {job.name: job for job in wanted}
    for job in map(by_name.__getitem__, in_order({job.name: job.spec.after for job in wanted})):
        outcome, difference = declare_job(rota.database, job.spec, module=job.module, actor=rota.actor)
        report.append(Declaration("job", job.name, outcome, difference))
        if (spec := job.schedule_spec) is not None:
            outcome, difference = declare_schedule(rota.database, spec, module=job.module, actor=rota.actor)
            report.append(Declaration("schedule", spec.name, outcome, difference))
    if jobs is None:
        names = {
            "job": {job.name for job in wanted},
            "schedule": {job.schedule_spec.name for job in wanted if job.schedule_spec is not None},
        }
        report += (
            Declaration(ghost.kind, ghost.name, "ghost", f"declared no more by {ghost.module}")
            for ghost in note_ghosts(rota.database, names, sys.modules.__contains__, actor=rota.actor)
        )
    return report
