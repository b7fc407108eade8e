"""Turning a claim into an order for a guardian: what to execute, with which environment."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
from datetime import datetime
from typing import Any, cast

from rota import crash
from rota.engine.settings import NodeSettings
from rota.errors import Invalid
from rota.execution.command import (
    DEFAULT_PATH,
    account_variables,
    argv_for_call,
    argv_for_environment,
    argv_for_shell,
    argv_with_database,
    job_environment,
    python_path,
)
from rota.execution.order import Order, limits_message
from rota.model.instants import format_instant
from rota.model.job import OWN_CONNECTION, Executor, Startup, check_delivery, check_executor
from rota.model.limits import Limits
from rota.model.run import Claim, PeriodPart
from rota.model.states import Delivery
from rota.store.database import parse_url
from rota.store.dialects import dialect_of
from rota.store.transaction import check_time_of_transaction, url_for_job


def make_order(claim: Claim, settings: NodeSettings, node: str, deadline: float) -> Order:
    """Return what the guardian is told to do for ``claim``.

    Raises:
        Invalid: the job's definition cannot be executed; the attempt ends as not started.
        Unavailable: a secret of it cannot be had here now.
    """
    if claim.problem is not None:
        raise Invalid("job", claim.job, claim.problem)
    if claim.timeout_seconds is not None and not claim.timeout_seconds > 0:
        raise Invalid("timeout", claim.timeout_seconds, "it is more than 0 s: correct it with `rota job edit`")
    executor = _executor(claim)
    limits = _limits(claim)
    environment = job_environment(
        _inherited(claim, settings), _declared(claim, settings), _facts(claim, node), account=_account(claim.run_as)
    )
    return Order(
        claim_id=claim.claim_id,
        run_id=claim.run_id,
        job=claim.job,
        attempt=claim.attempt,
        fence=claim.fence,
        argv=_argv(claim, settings),
        environment=environment,
        arguments=claim.args,
        checkpoint=claim.checkpoint or "null",
        cwd=claim.cwd,
        needs=_needs(claim),
        user=claim.run_as,
        stdin=(claim.stdin or "").encode(),
        deadline=deadline,
        lease_seconds=claim.lease_seconds,
        grace_seconds=settings.grace_seconds,
        timeout_seconds=claim.limit_seconds,
        limited_by=claim.limited_by,
        expects_result=claim.kind in {"call", "sql"},
        database=_database(claim, settings),
        **({} if limits.umask is None else {"umask": int(limits.umask, 8)}),
        limits=limits_message(limits),
        call=claim.target if executor is not Executor.PROCESS or _may_be_warm(claim, settings) else None,
        secrets=settings.secrets.read(claim.secrets),
        executor=executor.value,
    )


def _executor(claim: Claim) -> Executor:
    if claim.executor not in tuple(Executor):
        rule = f"it is one of {', '.join(Executor)}: correct it with `rota job edit`"
        raise Invalid("executor", claim.executor, rule)
    executor = Executor(claim.executor)
    others = {**claim.limits, "env": claim.env, "stdin": claim.stdin, "run_as": claim.run_as}
    others["secrets"] = claim.secrets or None
    try:
        check_executor(executor, claim.kind, str(claim.delivery), others)
    except Invalid as error:
        raise Invalid(error.field, error.value, f"{error.rule}, with `rota job edit`") from None
    return executor


def _limits(claim: Claim) -> Limits:
    columns = dict(claim.limits)
    if isinstance(text := columns.get("run_as_groups"), str):
        with contextlib.suppress(ValueError):
            columns["run_as_groups"] = json.loads(text)
    try:
        return Limits.from_columns(columns)
    except Invalid as error:
        raise Invalid(error.field, error.value, f"{error.rule}: correct it with `rota job edit`") from None


def _may_be_warm(claim: Claim, settings: NodeSettings) -> bool:
    """Tell whether a process that has imported the job's module already may fork it.

    It runs as the worker's user, so that no module of another user's job is imported by it. What is limited starts
    anew: the memory of its parent would count as its own.
    """
    if claim.kind != "call":
        return False
    if claim.startup not in tuple(Startup):
        raise Invalid("startup", claim.startup, f"it is one of {', '.join(Startup)}: correct it with `rota job edit`")
    return (
        claim.startup == Startup.WARM
        and claim.delivery is not Delivery.TRANSACTIONAL
        and not claim.limits
        and (claim.run_as is None or claim.run_as == _own_user())
        and not any(name.startswith(("PYTHON", "LD_")) for name in (*claim.variables, *claim.secrets))
    )


def _own_user() -> str | None:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return None


def _argv(claim: Claim, settings: NodeSettings) -> tuple[str, ...]:
    match claim.kind:
        case "call" if claim.delivery is Delivery.TRANSACTIONAL:
            return argv_with_database(claim.target, settings.python)
        case "sql":
            return argv_with_database("--sql", settings.python)
        case "call":
            if claim.environment is None:
                return argv_for_call(claim.target, settings.python)
            return argv_for_environment(claim.target, interpreter_of(claim, settings), claim.environment.spelled)
        case "shell":
            return argv_for_shell(claim.target, claim.variables.get("SHELL", "/bin/sh"))
        case "command":
            return _command(claim)
        case _:
            raise Invalid("kind", claim.kind, "this program knows call, command, shell and sql: upgrade the worker")


def _needs(claim: Claim) -> tuple[str, ...]:
    """Return what of its environment must be there; a callable's interpreter is missed when it is executed."""
    if claim.environment is None:
        return ()
    interpreter = "" if claim.kind == "call" else claim.environment.interpreter or ""
    return (interpreter, *claim.environment.python_path)


def _command(claim: Claim) -> tuple[str, ...]:
    return tuple(_words(claim, "a command is a JSON list of words"))


def _words(claim: Claim, rule: str) -> list[str]:
    words: Any = None
    with contextlib.suppress(ValueError):
        words = json.loads(claim.target)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in cast("list[Any]", words)):
        raise Invalid("target", claim.target, f"{rule}: correct it with `rota job edit`")
    return cast("list[str]", words)


def _database(claim: Claim, settings: NodeSettings) -> str:
    """Return what a job that holds a connection is told; empty for all others."""
    is_transactional = claim.delivery is Delivery.TRANSACTIONAL
    if not is_transactional and claim.kind != "sql":
        return ""
    check_delivery(claim.kind, claim.delivery, claim.connection, claim.env)
    facts: dict[str, Any] = {"claim_id": claim.claim_id, "run_id": claim.run_id, "delivery": claim.delivery.value}
    facts |= {"crash": told} if (told := crash.environment()) else {}
    if claim.secrets:
        facts["secrets"] = list(claim.secrets)  # their names: it writes its result itself, and masks it
    if claim.kind == "sql":
        facts["statements"] = _words(claim, "statements are a JSON list of texts")
    if claim.kind == "sql" and claim.connection != OWN_CONNECTION:
        if (url := settings.connections.get(claim.connection or "")) is None:
            known = ", ".join([OWN_CONNECTION, *settings.connections])
            rule = f"this node has {known}: name it in its configuration, [connections.{claim.connection}] with url"
            raise Invalid("connection", claim.connection, rule)
        return json.dumps(facts | {"url": url})
    dialect, _ = dialect_of(parse_url(settings.database_url))
    check_time_of_transaction(dialect, claim.timeout_seconds, claim.lease_seconds)
    return json.dumps(facts | {"url": url_for_job(settings.database_url)})


def interpreter_of(claim: Claim, settings: NodeSettings) -> str:
    """Return the Python that a callable runs in: its environment's, or the worker's own."""
    environment = claim.environment
    return settings.python if environment is None or environment.interpreter is None else environment.interpreter


def import_path_of(claim: Claim, settings: NodeSettings) -> str | None:
    """Return the PYTHONPATH of a job. An environment has its own: nothing of the worker's reaches it."""
    if claim.environment is not None:
        return python_path(claim.environment.python_path, None)
    return python_path(settings.import_dirs, settings.environment.get("PYTHONPATH"))


def _inherited(claim: Claim, settings: NodeSettings) -> dict[str, str]:
    """Return what the job may have of the worker's variables, with the environment's programs first on PATH."""
    inherited = dict(settings.environment)
    if claim.environment is not None:
        inherited.pop("PYTHONPATH", None)
        if claim.environment.interpreter is not None:
            folder = os.path.dirname(claim.environment.interpreter)  # noqa: PTH120 - as it is written
            inherited["PATH"] = f"{folder}:{inherited.get('PATH') or DEFAULT_PATH}"
    return inherited


def _declared(claim: Claim, settings: NodeSettings) -> dict[str, str]:
    path = import_path_of(claim, settings)
    variables = {} if claim.environment is None else dict(claim.environment.variables)
    return ({} if path is None else {"PYTHONPATH": path}) | variables | dict(claim.variables)


def _account(user: str | None) -> dict[str, str] | None:
    if user is None:
        return None
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        return None  # refused by the process that is to become that user, with the reason
    return account_variables(entry.pw_name, entry.pw_dir, entry.pw_shell)


def _facts(claim: Claim, node: str) -> dict[str, str | None]:
    return {
        "ROTA_RUN_ID": str(claim.run_id),
        "ROTA_JOB": claim.job,
        "ROTA_ATTEMPT": str(claim.attempt),
        "ROTA_RUN_AT": format_instant(claim.run_at),
        "ROTA_NODE": node,
        "ROTA_FENCE": str(claim.fence),
        "ROTA_KEY": key_of_claim(claim),
        "ROTA_SCHEDULE": claim.schedule,
        "ROTA_SLOT": None if claim.slot_at is None else format_instant(claim.slot_at),
        "ROTA_ARGS": claim.args,
    } | _period_facts(claim.part)


def _period_facts(part: PeriodPart | None) -> dict[str, str | None]:
    if part is None:
        return {}
    return {
        "ROTA_PERIOD": part.name,
        "ROTA_PERIOD_START": format_instant(part.start),
        "ROTA_PERIOD_END": format_instant(part.end),
        "ROTA_RANGE_START": format_instant(part.range_start),
        "ROTA_RANGE_END": format_instant(part.range_end),
    }


def key_of_claim(claim: Claim) -> str:
    """Return what is the same for all attempts of one piece of work, for jobs that must not do it twice."""
    if claim.part is not None:
        return f"{claim.job}/{claim.part.key}"
    return stable_key(claim.schedule, claim.slot_at, claim.run_key, claim.run_id)


def stable_key(schedule: str | None, slot_at: datetime | None, run_key: str | None, run_id: int) -> str:
    """Return what is the same for all attempts of one piece of work, for jobs that must not do it twice."""
    if schedule is not None and slot_at is not None:
        return f"{schedule}/{format_instant(slot_at)}"
    return run_key if run_key is not None else f"run:{run_id}"
