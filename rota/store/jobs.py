"""Jobs: adding, changing, pausing and deleting them, and showing them.

Invariant: a name is given once; every change raises the revision by compare-and-set and leaves an event that names who
asked for it. Values are checked by ``rota.model`` before they get here. Called by the doors. Long, since all that may
happen to a job, from its addition to its deletion, moves the same row.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, cast

from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import DBAPIError

from rota.errors import AlreadyExists, Conflict, Invalid, NotFound
from rota.model.concurrency import format_rate
from rota.model.dependencies import UpstreamFailure
from rota.model.ending import FOR_EVER
from rota.model.environment import ENVIRONMENTS_MAX, Environment, Environments
from rota.model.job import LEASE_SECONDS, Executor, JobKind, JobSpec, Startup
from rota.model.placement import RetryNode, RunsOn
from rota.model.secret import SECRETS_MAX, read_names
from rota.model.states import Delivery, JobState
from rota.model.timeline import PARAMETERS as TIMELINE_PARAMETERS
from rota.store.breakers import CLOSED, state_of
from rota.store.database import Database
from rota.store.dependencies import forget_job, read_dependants, replace_upstreams
from rota.store.dialects import Trouble
from rota.store.durations import read_durations, show_durations
from rota.store.events import tell_change
from rota.store.job_rows import WORD_LISTS, columns_of, encode_definition
from rota.store.listing import PAGE_ROWS, Listing, has_part
from rota.store.moves import Stale, write_fresh
from rota.store.period_ledger import forget_ledger, resume_ledger, settle_ledger
from rota.store.permits import shorten_rate
from rota.store.shown import show_document, shown
from rota.store.tables import alert, job, run, schedule
from rota.store.transaction import check_time_of_transaction
from rota.store.types import db_now
from rota.store.wakeup import announce

T = TypeVar("T")

IfExists = Literal["error", "update", "skip"]
Declared = Literal["added", "changed", "unchanged", "edited elsewhere"]

PAGE_MAX = 500
LIST_KINDS = frozenset({JobKind.COMMAND.value, JobKind.SQL.value})  # whose target is a JSON list
_SPEC_FIELDS = tuple(field.name for field in dataclasses.fields(JobSpec))

INSERT_JOB = insert(job).values(state=JobState.ACTIVE.value, revision=1, created_at=db_now(), updated_at=db_now())
# Change a job, if nobody has meanwhile. Served by the unique name.
CHANGE_JOB = (
    update(job)
    .where(job.c.name == bindparam("of_name"), job.c.revision == bindparam("of_revision"))
    .values(revision=job.c.revision + 1, updated_at=db_now())
)
# What code declares is noted beside what is in force; it is no change of the job.
NOTE_DECLARED = (
    update(job)
    .where(job.c.name == bindparam("of_name"))
    .values(declared=bindparam("definition"), declared_by=bindparam("module"))
)
FORGET_STANDINGS = delete(alert).where(alert.c.job_id == bindparam("job_id"))
DELETE_JOB = delete(job).where(job.c.id == bindparam("job_id"))

_SHOWN = [*shown(job.c), (job.c.breaker_until <= db_now()).label("breaker_is_over")]
READ_JOB = select(*_SHOWN).where(job.c.name == bindparam("name"))
LOCK_JOB = READ_JOB.with_for_update()
LIST_JOBS = Listing(
    select(*_SHOWN),
    job.c.name,
    {
        "search": has_part(job.c.name),
        "state": job.c.state == bindparam("state"),
        "pool": job.c.pool == bindparam("pool"),
        "ghosts": job.c.ghost_since.is_not(None),
    },
)

READ_ENVS = select(job.c.env).where(job.c.env.is_not(None)).distinct().order_by(job.c.env).limit(ENVIRONMENTS_MAX)

READ_SECRETS = select(job.c.secrets).where(job.c.secrets.is_not(None)).distinct().limit(PAGE_MAX)

# Served by rota_schedule_job.
SCHEDULES_OF = (
    select(schedule.c.name).where(schedule.c.job_id == bindparam("job_id")).order_by(schedule.c.name).limit(20)
)
# Served by rota_run_job.
FIND_UNFINISHED = (
    select(run.c.id).where(run.c.job_id == bindparam("job_id"), run.c.finished_at.is_(None)).order_by(run.c.id).limit(1)
)
LAST_RUN = select(func.max(run.c.id)).where(run.c.job_id == bindparam("job_id"))


def check_if_exists(value: str) -> IfExists:
    """Read what to do with a name that is taken.

    Raises:
        Invalid: it is none of the three words.
    """
    if value in ("error", "update", "skip"):
        return value
    raise Invalid("if_exists", value, "choose from error, update, skip")


def adding(database: Database, kind: str, name: str, work: Callable[[Connection], T]) -> T:
    """Run ``work``, which inserts the row of ``name``, and tell a name that is taken apart from all other trouble.

    Raises:
        AlreadyExists: another row has the name.
    """
    try:
        # A repeated insert would meet its own row and call it somebody else's.
        return database.write(work, repeatable=False)
    except DBAPIError as error:
        if database.dialect.classify(error) is Trouble.TAKEN:
            raise AlreadyExists(kind, name) from error
        raise


def add_job(
    database: Database, spec: JobSpec, *, actor: str, if_exists: IfExists = "error", declared_by: str | None = None
) -> dict[str, Any]:
    """Add a job and return how it is shown.

    Raises:
        AlreadyExists: the name is taken, and ``if_exists`` does not say what to do.
    """

    _check_transaction(database, spec)

    def add(connection: Connection) -> dict[str, Any]:
        values = columns_of(spec)
        if declared_by is not None:
            values |= {"declared": encode_definition(spec.definition()), "declared_by": declared_by}
        connection.execute(INSERT_JOB, values)
        row = _read(connection, spec.name)
        if builds_on := _builds_on(spec):
            replace_upstreams(connection, row.id, spec.name, builds_on)
        settle_ledger(connection, row.id, spec.name, None, spec)
        tell_change(connection, "job", "added", f"job {spec.name} was added", actor=actor, job=spec.name)
        return show_job(row)

    try:
        return adding(database, "job", spec.name, add)
    except AlreadyExists:
        if if_exists == "skip":
            return read_job(database, spec.name)
        if if_exists == "update":
            return replace_job(database, spec, actor=actor)
        raise


def edit_job(database: Database, name: str, change: Callable[[JobSpec], JobSpec], *, actor: str) -> dict[str, Any]:
    """Replace a job's definition by what ``change`` makes of it, and return how it is shown. Runs keep their arguments.

    Raises:
        NotFound: there is no such job.
        Invalid: ``change`` refuses, or what stands in the row cannot be understood; nothing was changed.
    """

    def edit(connection: Connection) -> dict[str, Any]:
        row = _read(connection, name)
        old = spec_of(row)
        new = change(old)
        _check_transaction(database, new)
        _replace(connection, row, new, differences_from=old, actor=actor)
        return show_job(_read(connection, name))

    return write_fresh(database, edit)


def replace_job(database: Database, spec: JobSpec, *, actor: str) -> dict[str, Any]:
    """Put ``spec`` in the place of the job of its name, also when what stands there cannot be understood."""
    _check_transaction(database, spec)

    def replace(connection: Connection) -> dict[str, Any]:
        row = _read(connection, spec.name)
        try:
            old = spec_of(row)
        except Invalid:
            old = None
        _replace(connection, row, spec, differences_from=old, actor=actor)
        return show_job(_read(connection, spec.name))

    return write_fresh(database, replace)


def _replace(
    connection: Connection, row: Row[Any], new: JobSpec, *, differences_from: JobSpec | None, actor: str
) -> None:
    if new == differences_from:
        return
    _replace_definition(connection, row, new, differences_from)
    was, is_now = differences_from.definition() if differences_from else None, new.definition()
    said = f"job {new.name} was edited"
    text, audited = f"{said}: {differences(was, is_now)}", f"{said}: {changed_names(was, is_now)}"
    tell_change(connection, "job", "edited", text, actor=actor, job=new.name, audited=audited)


def _replace_definition(connection: Connection, row: Row[Any], new: JobSpec, old: JobSpec | None) -> None:
    _change(connection, row, columns_of(new, row))
    if old is None or _builds_on(new) != _builds_on(old):
        replace_upstreams(connection, row.id, new.name, _builds_on(new))
    settle_ledger(connection, row.id, new.name, old, new)


def _builds_on(spec: JobSpec) -> dict[str, bool]:
    """Return the names of what a job builds on, and whether it rolls that up."""
    return dict.fromkeys(spec.after, False) | dict.fromkeys(
        () if spec.timeline is None else spec.timeline.rolls_up, True
    )


def declare_job(database: Database, spec: JobSpec, *, module: str, actor: str) -> tuple[Declared, str]:
    """Bring what code declares into force, unless somebody has edited the job through another door since.

    Returns what became of it and, where the job was edited elsewhere, how the two differ. The declaration is noted in
    any case, so that the next one can tell whether the code or the row has moved.
    """
    wanted = encode_definition(spec.definition())
    _check_transaction(database, spec)

    def declare(connection: Connection) -> tuple[Declared, str]:
        row = connection.execute(READ_JOB, {"name": spec.name}).one_or_none()
        assert row is not None
        try:
            held = spec_of(row).definition()
        except Invalid as error:
            return "edited elsewhere", f"what stands there cannot be understood: {error}"
        if row.declared != wanted or row.declared_by != module:
            connection.execute(NOTE_DECLARED, {"of_name": spec.name, "definition": wanted, "module": module})
        if encode_definition(held) == wanted:
            return "unchanged", ""
        difference = differences(held, spec.definition())
        if _declared_then(row.declared) != held:
            return "edited elsewhere", difference
        _replace_definition(connection, row, spec, spec_of(row))
        said = f"job {spec.name} was declared anew by {module}"
        audited = f"{said}: {changed_names(held, spec.definition())}"
        tell_change(connection, "job", "edited", f"{said}: {difference}", actor=actor, job=spec.name, audited=audited)
        return "changed", difference

    if database.read(lambda connection: connection.execute(READ_JOB, {"name": spec.name}).one_or_none()) is None:
        try:
            add_job(database, spec, actor=actor, declared_by=module)
        except AlreadyExists:
            pass  # another worker of the same code was faster
        else:
            return "added", ""
    return write_fresh(database, declare)


def _declared_then(text: str | None) -> dict[str, Any] | None:
    """Read what code declared, perhaps for an earlier program: what jobs did not have then has its default."""
    try:
        return JobSpec.from_definition(show_document(text)).definition()
    except (Invalid, TypeError, AttributeError):  # changed by hand, or never declared
        return None


def pause_job(database: Database, name: str, *, actor: str) -> dict[str, Any]:
    """Start no more runs of the job; those that run go on. Its schedules go on, and their slots are skipped."""
    return _set_state(database, name, JobState.PAUSED, "paused", actor)


def resume_job(database: Database, name: str, *, actor: str) -> dict[str, Any]:
    """Let the job's runs start again: those that wait, and those of the slots to come. Closes its breaker, too."""
    return _set_state(database, name, JobState.ACTIVE, "resumed", actor)


def _set_state(database: Database, name: str, state: JobState, became: str, actor: str) -> dict[str, Any]:
    def set_state(connection: Connection) -> dict[str, Any]:
        row = _read(connection, name)
        closes = state is JobState.ACTIVE and row.breaker_until is not None
        if row.state != state.value or closes:
            _change(connection, row, {"state": state.value} | (dict(CLOSED) if closes else {}))
            tell_change(connection, "job", became, f"job {name} was {became}", actor=actor, job=name)
            if state is JobState.ACTIVE:
                resume_ledger(connection, row.id)
            announce(connection)
        return show_job(_read(connection, name))

    return write_fresh(database, set_state)


def delete_job(database: Database, name: str, *, actor: str) -> None:
    """Delete a job that nothing needs any more; its finished runs stay in the ledger.

    Raises:
        NotFound: there is no such job.
        Conflict: it has schedules or unfinished runs; the message says what to do.
    """

    def remove(connection: Connection) -> None:
        row = connection.execute(LOCK_JOB, {"name": name}).one_or_none()
        if row is None:
            raise NotFound("job", name)
        of_job = {"job_id": row.id}
        if keys := connection.execute(SCHEDULES_OF, of_job).scalars().all():
            shown_keys = ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")
            raise Conflict(f"job {name!r} has schedules ({shown_keys}): delete them first with `rota schedule delete`")
        if (run_id := connection.execute(FIND_UNFINISHED, of_job).scalar()) is not None:
            raise Conflict(
                f"job {name!r} has unfinished runs (run {run_id} is one): wait for them, or cancel them with "
                "`rota run cancel`"
            )
        forget_job(connection, row.id, name)
        forget_ledger(connection, row.id)
        connection.execute(FORGET_STANDINGS, of_job)
        connection.execute(DELETE_JOB, of_job)
        tell_change(connection, "job", "deleted", f"job {name} was deleted", actor=actor, job=name)

    database.write(remove, repeatable=False)


def read_job(database: Database, name: str) -> dict[str, Any]:
    """Return how a job is shown, with its schedules, its last run and how long it usually takes.

    Raises:
        NotFound: there is no such job.
    """

    def read(connection: Connection) -> dict[str, Any]:
        row = _read(connection, name)
        of_job = {"job_id": row.id}
        return show_job(row) | {
            "schedules": list(connection.execute(SCHEDULES_OF, of_job).scalars()),
            "dependants": read_dependants(connection, row.id),
            "last_run": connection.execute(LAST_RUN, of_job).scalar(),
            "durations": show_durations(read_durations(connection, row.id)),
        }

    return database.read(read)


def list_jobs(database: Database, *, limit: int = PAGE_ROWS, **filters: Any) -> list[dict[str, Any]]:
    """Return up to ``limit`` jobs in the order of their names: ``after`` a name, and those that pass the filters."""
    return [show_job(row) for row in database.read(lambda c: LIST_JOBS.read(c, limit=limit, **filters))]


def read_environments(database: Database) -> Environments:
    """Return what jobs ask for, as a node would have it that has all of it; a name alone as version 0."""
    found: list[Environment] = []
    for env in database.read(lambda connection: connection.execute(READ_ENVS).scalars().all()):
        name, _, version = env.partition("==")
        with contextlib.suppress(Invalid):  # written by hand
            found.append(Environment.checked(name, version=version or "0"))
    return Environments(found)


def read_secret_names(database: Database) -> tuple[str, ...]:
    """Return the names of all secrets that jobs name, sorted, up to ``SECRETS_MAX``."""
    found: set[str] = set()
    for text in database.read(lambda connection: connection.execute(READ_SECRETS).scalars().all()):
        with contextlib.suppress(Invalid):  # written by hand
            found.update(read_names(text))
    return tuple(sorted(found)[:SECRETS_MAX])


def _read(connection: Connection, name: str) -> Row[Any]:
    row = connection.execute(READ_JOB, {"name": name}).one_or_none()
    if row is None:
        raise NotFound("job", name)
    return row


def _change(connection: Connection, row: Row[Any], values: Mapping[str, Any]) -> None:
    which = {"of_name": row.name, "of_revision": row.revision}
    if connection.execute(CHANGE_JOB, which | dict(values)).rowcount != 1:
        raise Stale(f"job {row.name} was changed meanwhile")
    if (seconds := values.get("rate_seconds")) is not None and seconds != row.rate_seconds:
        shorten_rate(connection, row.id, seconds)


def _check_transaction(database: Database, spec: JobSpec) -> None:
    if spec.delivery is Delivery.TRANSACTIONAL:
        # A job without a lease of its own has its worker's, who looks again.
        lease_seconds = LEASE_SECONDS if spec.lease_seconds is None else spec.lease_seconds
        check_time_of_transaction(database.dialect, spec.timeout_seconds, lease_seconds)


def spec_of(row: Row[Any]) -> JobSpec:
    """Read a job's row back, checked as at the doors.

    Raises:
        Invalid: somebody wrote into the row what no door would have accepted.
    """
    values: dict[str, Any] = {name: getattr(row, name) for name in _SPEC_FIELDS}
    for name in ("variables", "run_as_groups", "keep", "timeline", *WORD_LISTS):
        values[name] = show_document(values[name])
    if row.kind in LIST_KINDS:
        values["target"] = show_document(row.target)
    return JobSpec.from_definition(values)


def show_job(row: Row[Any]) -> dict[str, Any]:
    """Show a job with the words of the doors; seconds and bytes. What stands in the row is never refused."""
    return {
        "name": row.name,
        "state": row.state,
        "kind": row.kind,
        "call": row.target if row.kind == JobKind.CALL.value else None,
        "command": show_document(row.target) if row.kind == JobKind.COMMAND.value else None,
        "shell": row.target if row.kind == JobKind.SHELL.value else None,
        "sql": show_document(row.target) if row.kind == JobKind.SQL.value else None,
        "connection": row.connection,
        "pool": row.pool,
        "on": row.runs_on or RunsOn.ANY.value,
        "max_parallel": row.max_parallel,
        "prefer": show_document(row.prefer) or [],
        "exclude": show_document(row.exclude) or [],
        "retry_node": row.retry_node or RetryNode.ANY.value,
        "max_running": row.max_running,
        "mutexes": show_document(row.mutexes) or [],
        "concurrency_key": row.concurrency_key,
        "max_per_key": row.max_per_key,
        "rate": None if row.rate_count is None else format_rate(row.rate_count, row.rate_seconds or 0.0),
        "keep": show_document(row.keep) or {},
        "after": show_document(row.after) or [],
        "upstream_failure": row.upstream_failure or UpstreamFailure.WAIT.value,
        **_show_timeline(row.timeline),
        "alert": show_document(row.alert) or [],
        "alert_on": show_document(row.alert_on) or [],
        "alert_quiet": row.alert_quiet_seconds,
        "env": row.env,
        "timeout": row.timeout_seconds,
        "start_within": row.start_within_seconds,
        "delivery": row.delivery,
        "retries": "forever" if row.retries == FOR_EVER else row.retries,
        "lost_max": row.lost_max,
        "retry_delay": row.retry_delay_seconds,
        "backoff": row.backoff,
        "retry_delay_max": row.retry_delay_max_seconds,
        "retry_on": show_document(row.retry_on) or [],
        "no_retry_on": show_document(row.no_retry_on) or [],
        "deadline": row.deadline_seconds,
        "no_op_exit_code": row.no_op_exit_code,
        "cancel_exit_code": row.cancel_exit_code,
        "breaker_failures": row.breaker_failures,
        "breaker_pause": row.breaker_pause_seconds,
        "breaker": _show_breaker(row),
        "lease": row.lease_seconds,
        "priority": row.priority,
        "stdin": row.stdin,
        "cwd": row.cwd,
        "run_as": row.run_as,
        "run_as_groups": show_document(row.run_as_groups),
        "memory_max": row.memory_max_bytes,
        "cpu_max": row.cpu_max_seconds,
        "open_files_max": row.open_files_max,
        "processes_max": row.processes_max,
        "nice": row.nice,
        "ionice": row.ionice,
        "umask": row.umask,
        "variables": show_document(row.variables),
        "secrets": show_document(row.secrets) or [],
        "startup": row.startup or Startup.WARM.value,
        "executor": row.executor or Executor.PROCESS.value,
        "revision": row.revision,
        "declared_by": row.declared_by,
        "ghost_since": row.ghost_since,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }


def _show_timeline(text: str | None) -> dict[str, Any]:
    found = show_document(text)
    known = cast("Mapping[str, Any]", found) if isinstance(found, dict) else {"period": found}
    return {name: known.get(name) for name in TIMELINE_PARAMETERS} | {"rolls_up": known.get("rolls_up") or []}


def _show_breaker(row: Row[Any]) -> dict[str, Any] | None:
    state = state_of(row, bool(row.breaker_is_over))
    if state is None:
        return None
    found = {"state": state.value, "failures_in_row": row.failures_in_row, "until": row.breaker_until}
    return found | {"run": row.breaker_run_id}


def changed_names(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> str:
    """Say in one line which values differ, and nothing of what they are."""
    if old is None:
        return "all of it was replaced"
    return ", ".join(name for name in sorted({*old, *new}) if old.get(name) != new.get(name)) or "nothing"


def differences(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> str:
    """Say in one line which values differ, and how. None: what was there could not be understood."""
    if old is None:
        return "all of it was replaced"
    changed = [
        f"{name} {_brief(old.get(name))} -> {_brief(new.get(name))}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    return ", ".join(changed) or "nothing"


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
