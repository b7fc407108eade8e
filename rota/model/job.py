"""What to run and how: the definition of a job, checked.

Every door makes a ``JobSpec`` through ``JobSpec.checked`` from what the user typed (durations as text, ``forever``),
and the store keeps its fields as columns of the same names. ``definition`` is the same as JSON-able values: what code
declared is compared with what is stored by it. A row read back goes through ``from_definition`` before it acts.
Long, since a job has many fields, and each stands here once with its check.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, cast

from rota.errors import Invalid
from rota.model.alerts import ALERT_CALL, VARIABLE_PREFIX, check_alert, check_alert_on, check_alert_quiet
from rota.model.bad_ends import check_words
from rota.model.breaker import BREAKER_FAILURES_MAX, BREAKER_PAUSE_SECONDS
from rota.model.concurrency import check_count, check_key_argument, check_mutexes, check_rate, format_rate
from rota.model.dependencies import UpstreamFailure, check_after
from rota.model.durations import parse_duration
from rota.model.ending import FOR_EVER, LOST_MAX, RETRY_DELAY_SECONDS, RETRY_DELAY_SECONDS_MAX, Backoff
from rota.model.keeping import FOR_EVER as KEEP_FOR_EVER
from rota.model.keeping import check_keep
from rota.model.limits import LIMIT_COLUMNS, Limits
from rota.model.names import check_env, check_name, check_pool
from rota.model.placement import RetryNode, RunsOn, check_selectors
from rota.model.secret import check_secrets
from rota.model.states import Delivery
from rota.model.timeline import PARAMETERS as TIMELINE_PARAMETERS
from rota.model.timeline import Timeline, check_timeline
from rota.model.values import check_whole, check_word

POOL_DEFAULT = "default"
RETRIES_MAX = 1_000_000
LOST_MAX_MAX = 1000
PRIORITY_MAX = 1_000_000
LEASE_SECONDS = 60.0  # of a worker that is told no other
LEASE_SECONDS_MIN = 3.0
LEASE_SECONDS_MAX = 86400.0
START_WITHIN_SECONDS_MIN = 1.0
STATEMENTS_MAX = 100
OWN_CONNECTION = "rota"  # the one to Rota's own database
TEXT_BYTES_MAX = 1024 * 1024  # of a target, of standard input
ARGUMENT_BYTES_MAX = (
    128 * 1024 - 1
)  # of one argument or variable: what Linux hands to a process (MAX_ARG_STRLEN, execve(2))
VARIABLES_MAX = 1000

_CALL = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*(?:\.[^\W\d]\w*)*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_USER = re.compile(r"[^\s:/\x00-\x1f]{1,64}")


class JobKind(StrEnum):
    """What a job's target is."""

    CALL = "call"  # package.module:function
    COMMAND = "command"  # a list of arguments, run without a shell
    SHELL = "shell"  # a line for /bin/sh
    SQL = "sql"  # statements, in one transaction on a named connection


class Startup(StrEnum):
    """How the process of a callable comes to be."""

    WARM = "warm"  # forked by a process that has imported its module, where that is safe
    COLD = "cold"  # a fresh interpreter each time


class Executor(StrEnum):
    """Where a callable is called."""

    PROCESS = "process"  # in a process of its own
    THREAD = "thread"  # in a thread of a process that it shares with others
    ASYNC = "async"  # as a task of an event loop that it shares with others


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A job's definition. Made by ``checked`` or ``from_definition``; a value made directly is not checked."""

    name: str
    kind: JobKind
    target: str | tuple[str, ...]
    pool: str = POOL_DEFAULT
    env: str | None = None  # NAME or NAME==VERSION of an environment; None: the worker's own
    timeout_seconds: float | None = None
    start_within_seconds: float | None = None
    delivery: Delivery = Delivery.AT_LEAST_ONCE
    retries: int = 0  # -1: for ever
    lost_max: int = LOST_MAX
    retry_delay_seconds: float = RETRY_DELAY_SECONDS
    backoff: Backoff = Backoff.FIXED
    retry_delay_max_seconds: float = RETRY_DELAY_SECONDS_MAX
    retry_on: tuple[str, ...] = ()  # the bad ends that are retried; none: all of them
    no_retry_on: tuple[str, ...] = ()  # the bad ends that are not
    deadline_seconds: float | None = None  # over all attempts of a run, from its first start
    no_op_exit_code: int | None = None
    cancel_exit_code: int | None = None
    breaker_failures: int | None = None  # attempts in a row that ended badly; None: no breaker
    breaker_pause_seconds: float = BREAKER_PAUSE_SECONDS
    lease_seconds: float | None = None  # None: the worker's
    priority: int = 0
    stdin: str | None = None
    cwd: str | None = None
    run_as: str | None = None  # a user of the node; None: the worker's own
    # What ``Limits`` holds, one by one: each is a column.
    run_as_groups: tuple[str, ...] | None = None  # the first is its own; None: those of its user
    memory_max_bytes: int | None = None
    cpu_max_seconds: float | None = None
    open_files_max: int | None = None
    processes_max: int | None = None
    nice: int | None = None
    ionice: str | None = None
    umask: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    secrets: tuple[str, ...] = ()  # names of variables whose values its node has
    startup: Startup = Startup.WARM
    connection: str | None = None  # of statements: OWN_CONNECTION, or one of the node's configuration
    executor: Executor = Executor.PROCESS
    runs_on: RunsOn = RunsOn.ANY
    max_parallel: int | None = None  # of the runs of one slot on all nodes
    prefer: tuple[str, ...] = ()  # names of nodes and labels K=V: these first
    exclude: tuple[str, ...] = ()  # never these
    retry_node: RetryNode = RetryNode.ANY
    max_running: int | None = None
    mutexes: tuple[str, ...] = ()
    concurrency_key: str | None = None  # the argument whose value is a run's key
    max_per_key: int | None = None
    rate_count: int | None = None  # so many starts
    rate_seconds: float | None = None  # in any stretch of so long
    keep: Mapping[str, float | None] = field(default_factory=dict[str, float | None])  # seconds, by how a run ended
    after: tuple[str, ...] = ()  # its upstreams: jobs whose same slot is to succeed first
    upstream_failure: UpstreamFailure = UpstreamFailure.WAIT
    timeline: Timeline | None = None  # how it is cut into periods
    alert: tuple[str, ...] = ()  # channels: who is told of it
    alert_on: tuple[str, ...] = ()  # kinds of alerts; none: those that jobs usually have
    alert_quiet_seconds: float | None = None  # in which more of the same is only counted; None: as usual

    @classmethod
    def checked(
        cls,
        name: object,
        *,
        kind: object,
        target: object,
        pool: object = POOL_DEFAULT,
        env: object = None,
        timeout: object = None,
        start_within: object = None,
        delivery: object = None,
        retries: object = 0,
        lost_max: object = LOST_MAX,
        retry_delay: object = RETRY_DELAY_SECONDS,
        backoff: object = Backoff.FIXED,
        retry_delay_max: object = RETRY_DELAY_SECONDS_MAX,
        retry_on: object = None,
        no_retry_on: object = None,
        deadline: object = None,
        no_op_exit_code: object = None,
        cancel_exit_code: object = None,
        breaker_failures: object = None,
        breaker_pause: object = BREAKER_PAUSE_SECONDS,
        lease: object = None,
        priority: object = 0,
        stdin: object = None,
        cwd: object = None,
        run_as: object = None,
        run_as_groups: object = None,
        memory_max: object = None,
        cpu_max: object = None,
        open_files_max: object = None,
        processes_max: object = None,
        nice: object = None,
        ionice: object = None,
        umask: object = None,
        variables: object = None,
        secrets: object = None,
        startup: object = None,
        connection: object = None,
        executor: object = None,
        on: object = RunsOn.ANY,
        max_parallel: object = None,
        prefer: object = None,
        exclude: object = None,
        retry_node: object = RetryNode.ANY,
        max_running: object = None,
        mutexes: object = None,
        concurrency_key: object = None,
        max_per_key: object = None,
        rate: object = None,
        keep: object = None,
        after: object = None,
        upstream_failure: object = UpstreamFailure.WAIT,
        period: object = None,
        period_tz: object = None,
        period_start: object = None,
        period_mode: object = None,
        settle: object = None,
        refresh: object = None,
        rolls_up: object = None,
        blocking: object = None,
        periods_at_once: object = None,
        give_up_failures: object = None,
        give_up_age: object = None,
        alert: object = None,
        alert_on: object = None,
        alert_quiet: object = None,
    ) -> JobSpec:
        """Make a definition from what a user gave.

        Raises:
            Invalid: a value breaks its rule; ``field`` is the name of the parameter.
        """
        known_kind = check_word("kind", kind, JobKind)
        known_connection = _check_connection(known_kind, connection)
        limits = Limits.checked(
            memory_max=memory_max,
            cpu_max=cpu_max,
            open_files_max=open_files_max,
            processes_max=processes_max,
            nice=nice,
            ionice=ionice,
            umask=umask,
            run_as_groups=run_as_groups,
        )
        no_op = _check_exit_code("no_op_exit_code", no_op_exit_code)
        cancel = _check_exit_code("cancel_exit_code", cancel_exit_code)
        known_variables = check_variables("variables", variables)
        if cancel is not None and cancel == no_op:
            raise Invalid("cancel_exit_code", cancel_exit_code, "it is another one than no_op_exit_code")
        known_executor = Executor.PROCESS if executor is None else check_word("executor", executor, Executor)
        found = {name: getattr(limits, name) for name in LIMIT_COLUMNS} | {"env": env, "stdin": stdin, "run_as": run_as}
        found["secrets"] = secrets or None
        check_executor(
            known_executor, known_kind, delivery, found | {"startup": None if startup == Startup.WARM else startup}
        )
        runs_on = RunsOn.ANY if on is None else check_word("on", on, RunsOn)
        known_parallel = None if max_parallel is None else check_count("max_parallel", max_parallel)
        if max_parallel is not None and runs_on is not RunsOn.ALL:
            raise Invalid("max_parallel", max_parallel, "it is for a job that runs on all nodes: give on=all too")
        rate_count, rate_seconds = (None, None) if rate is None else check_rate(rate)
        known_name, known_after = check_name("name", name), check_after(after)
        if known_name in known_after:
            raise Invalid("after", known_name, "a job cannot run after itself")
        timeline = check_timeline(
            {
                "period": period,
                "period_tz": period_tz,
                "period_start": period_start,
                "period_mode": period_mode,
                "settle": settle,
                "refresh": refresh,
                "rolls_up": rolls_up,
                "blocking": blocking,
                "periods_at_once": periods_at_once,
                "give_up_failures": give_up_failures,
                "give_up_age": give_up_age,
            }
        )
        _check_beside_timeline(timeline, known_name, known_after, runs_on, start_within, retries)
        sends_alerts = known_kind is JobKind.CALL and target == ALERT_CALL
        if sends_alerts and (given_alert := check_alert(alert)):
            raise Invalid("alert", given_alert[0], "nothing is told of a job that sends alerts: leave it out")
        return cls(
            name=known_name,
            kind=known_kind,
            target=_check_target(known_kind, target),
            pool=check_pool(pool),
            env=None if env is None else check_env("env", env),
            timeout_seconds=None if timeout is None else parse_duration("timeout", timeout),
            start_within_seconds=check_start_within(start_within),
            delivery=check_delivery(known_kind, delivery, known_connection, env),
            retries=check_retries(retries),
            lost_max=check_whole("lost_max", lost_max, 0, LOST_MAX_MAX),
            retry_delay_seconds=check_retry_delay(retry_delay),
            backoff=check_word("backoff", backoff, Backoff),
            retry_delay_max_seconds=parse_duration("retry_delay_max", retry_delay_max, zero_ok=True),
            retry_on=check_words("retry_on", retry_on),
            no_retry_on=check_words("no_retry_on", no_retry_on),
            deadline_seconds=None if deadline is None else parse_duration("deadline", deadline),
            no_op_exit_code=no_op,
            cancel_exit_code=cancel,
            breaker_failures=_check_breaker(breaker_failures),
            breaker_pause_seconds=parse_duration("breaker_pause", breaker_pause),
            lease_seconds=_check_lease(lease),
            priority=check_priority(priority),
            stdin=None if stdin is None else check_text("stdin", stdin),
            cwd=_check_cwd(cwd),
            run_as=_check_user(run_as),
            variables=known_variables,
            secrets=check_secrets(secrets, known_variables, own=VARIABLE_PREFIX if sends_alerts else None),
            **{name: getattr(limits, name) for name in LIMIT_COLUMNS},
            startup=Startup.WARM if startup is None else check_word("startup", startup, Startup),
            connection=known_connection,
            executor=known_executor,
            runs_on=runs_on,
            max_parallel=known_parallel,
            prefer=check_selectors("prefer", prefer),
            exclude=check_selectors("exclude", exclude),
            retry_node=RetryNode.ANY if retry_node is None else check_word("retry_node", retry_node, RetryNode),
            max_running=None if max_running is None else check_count("max_running", max_running),
            mutexes=check_mutexes(mutexes),
            concurrency_key=None if concurrency_key is None else check_key_argument(concurrency_key),
            max_per_key=None if max_per_key is None else check_count("max_per_key", max_per_key),
            rate_count=rate_count,
            rate_seconds=rate_seconds,
            keep=check_keep("keep", keep),
            after=known_after,
            upstream_failure=UpstreamFailure.WAIT
            if upstream_failure is None
            else check_word("upstream_failure", upstream_failure, UpstreamFailure),
            timeline=timeline,
            alert=check_alert(alert),
            alert_on=check_alert_on(alert_on),
            alert_quiet_seconds=check_alert_quiet(alert_quiet),
        )

    @classmethod
    def from_definition(cls, definition: Mapping[str, Any]) -> JobSpec:
        """Read back what ``definition`` gave, which somebody may have changed in SQL since.

        Raises:
            Invalid: a value breaks its rule, or a name is not known.
        """
        return cls.checked(**_to_parameters(definition))

    def edited(self, **changes: object) -> JobSpec:
        """Return this definition with some of the parameters of ``checked`` changed; None gives one back its default.

        Raises:
            Invalid: a value breaks its rule, or a job has no such parameter; a new kind needs a new target.
        """
        if "kind" in changes and "target" not in changes and changes["kind"] != self.kind:
            raise Invalid("target", None, "it changes with the kind; give the new one")
        given = _to_parameters(self.definition())
        if "kind" in changes and changes["kind"] != self.kind:
            given.pop("connection", None)  # of the kind that it was
        if "period" in changes and changes["period"] is None:  # all that is said of periods goes with them
            given = {name: value for name, value in given.items() if name not in TIMELINE_PARAMETERS}
        return JobSpec.checked(**apply_changes("job", _PARAMETERS, given, changes, keep=("kind", "target")))

    def definition(self) -> dict[str, Any]:
        """Return the definition as JSON-able values; equal definitions have equal ones."""
        found: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(self)}
        found["target"] = list(self.target) if isinstance(self.target, tuple) else self.target
        found["run_as_groups"] = None if self.run_as_groups is None else list(self.run_as_groups)
        found["retry_on"], found["no_retry_on"] = list(self.retry_on), list(self.no_retry_on)
        for name in ("secrets", "prefer", "exclude", "mutexes", "after", "alert", "alert_on"):
            found[name] = list(found[name])
        found["keep"] = dict(self.keep)
        found["timeline"] = None if self.timeline is None else self.timeline.parameters()
        found["variables"] = dict(sorted(self.variables.items()))
        # Plain strings instead of enums, for writers that look at the type.
        return {name: str(value) if isinstance(value, StrEnum) else value for name, value in found.items()}

    def describe_target(self) -> str:
        """Say in one line what it runs."""
        return " ".join(self.target) if isinstance(self.target, tuple) else self.target


_PARAMETERS = (
    "name", "kind", "target", "pool", "env", "timeout", "start_within", "delivery", "retries", "lost_max",
    "retry_delay", "backoff", "retry_delay_max", "retry_on", "no_retry_on", "deadline", "no_op_exit_code",
    "cancel_exit_code", "breaker_failures", "breaker_pause", "lease", "priority", "stdin", "cwd", "run_as",
    "run_as_groups", "memory_max", "cpu_max", "open_files_max", "processes_max", "nice", "ionice", "umask", "variables",
    "secrets", "startup", "connection", "executor", "on", "max_parallel", "prefer", "exclude", "retry_node",
    "max_running", "mutexes", "concurrency_key", "max_per_key", "rate", "keep",
    "after", "upstream_failure", *TIMELINE_PARAMETERS, "alert", "alert_on", "alert_quiet",
)  # fmt: skip


def _to_parameters(definition: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a definition into the parameters of ``checked``: ``timeout_seconds`` is ``timeout`` in seconds."""
    known = [item.name for item in fields(JobSpec)]
    for name, value in definition.items():
        if name not in known:
            raise Invalid(name, value, f"a job has no such field; it has {', '.join(known)}")
    given = {name.removesuffix("_seconds").removesuffix("_bytes"): value for name, value in definition.items()}
    if "runs_on" in given:
        given["on"] = given.pop("runs_on")
    count, seconds = given.pop("rate_count", None), given.pop("rate", None)
    if count is not None or seconds is not None:
        given["rate"] = _spell_rate(count, seconds)
    if isinstance(given.get("keep"), Mapping):
        given["keep"] = {end: KEEP_FOR_EVER if time is None else time for end, time in given["keep"].items()}
    if isinstance(timeline := given.pop("timeline", None), Mapping):
        given |= cast("Mapping[str, Any]", timeline)
    elif timeline is not None:
        raise Invalid("timeline", timeline, "it is a JSON object")
    if given.get("retries") == FOR_EVER:  # as the column keeps it; at a door it is a word
        given["retries"] = "forever"
    return given


def _spell_rate(count: object, seconds: object) -> str:
    try:
        return format_rate(cast("int", count), cast("float", seconds))
    except (TypeError, ValueError, AssertionError):  # written by hand, one without the other perhaps
        return f"{count}/{seconds}"


def apply_changes(
    what: str, known: Sequence[str], given: Mapping[str, Any], changes: Mapping[str, object], *, keep: Sequence[str]
) -> dict[str, Any]:
    """Return the parameters ``given`` with ``changes``; None takes one away, except those to ``keep``."""
    found = dict(given)
    for name, value in changes.items():
        if name not in known:
            raise Invalid(name, value, f"a {what} has no such field; it has {', '.join(known)}")
        if value is not None:
            found[name] = value
        elif name not in keep:
            found.pop(name, None)
    return found


def check_executor(executor: Executor, kind: str, delivery: object, others: Mapping[str, object]) -> None:
    """Refuse what an executor process, which many runs share, cannot do for one of them.

    ``others`` are the values that a process of its own can have; None: it is not given.

    Raises:
        Invalid: there is such a value.
    """
    if executor is Executor.PROCESS:
        return
    if kind != JobKind.CALL:
        raise Invalid("executor", str(executor), f"only a Python function can have it, and this job is a {kind}")
    if delivery == "transactional":
        rule = f"a job with executor {executor} is at_least_once or at_most_once: leave the executor out for this"
        raise Invalid("delivery", delivery, rule)
    for name, value in others.items():
        if value is not None:
            rule = f"a job with executor {executor} shares its process with others, so it cannot have this of its own"
            raise Invalid(name.removesuffix("_bytes").removesuffix("_seconds"), value, f"{rule}: take one away")


def check_priority(value: object) -> int:
    """Return ``value`` if it is a priority: higher goes first."""
    return check_whole("priority", value, -PRIORITY_MAX, PRIORITY_MAX)


def check_start_within(value: object) -> float | None:
    """Return the seconds of a start window; None when there is none of its own."""
    return None if value is None else parse_duration("start_within", value, minimum=START_WITHIN_SECONDS_MIN)


def check_text(name: str, value: object) -> str:
    """Return ``value`` if it is text that every database and every process takes."""
    if not isinstance(value, str):
        raise Invalid(name, value, "it must be text")
    if "\0" in value:
        raise Invalid(name, value, "it must not hold the character NUL, which no process can be given")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise Invalid(name, value, "it must be text that UTF-8 can write; it holds half of a surrogate pair") from None
    if size > TEXT_BYTES_MAX:
        raise Invalid(name, value, f"it must be at most {TEXT_BYTES_MAX} bytes; it has {size}")
    return value


def check_argument(name: str, value: object) -> str:
    """Return ``value`` if it is text that a process takes as one argument."""
    text = check_text(name, value)
    if (size := len(text.encode())) > ARGUMENT_BYTES_MAX:
        rule = f"Linux hands a process at most {ARGUMENT_BYTES_MAX} bytes in one argument or variable; it has {size}"
        raise Invalid(name, value, f"{rule}: put it into a file, or into the standard input")
    return text


def check_variables(name: str, value: object) -> dict[str, str]:
    """Return environment variables, sorted by name."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise Invalid(name, value, "it maps names of environment variables to text")
    given = cast("Mapping[object, object]", value)
    if len(given) > VARIABLES_MAX:
        raise Invalid(name, f"{len(given)} variables", f"there are at most {VARIABLES_MAX}")
    found: dict[str, str] = {}
    for variable, text in given.items():
        if not isinstance(variable, str) or not _VARIABLE.fullmatch(variable):
            raise Invalid(name, variable, "the name of a variable has letters, digits and _, and begins with no digit")
        if variable.startswith("ROTA_"):
            raise Invalid(name, variable, "names that begin with ROTA_ are Rota's own; choose another")
        found[variable] = check_text(f"{name}.{variable}", text)
        check_argument(f"{name}.{variable}", f"{variable}={text}")
    return dict(sorted(found.items()))


def _check_target(kind: JobKind, value: object) -> str | tuple[str, ...]:
    match kind:
        case JobKind.CALL:
            return _check_call(value)
        case JobKind.COMMAND:
            return _check_command(value)
        case JobKind.SHELL:
            line = check_argument("shell", value)
            if not line.strip():
                raise Invalid("shell", value, "a shell line must not be empty")
            return line
        case JobKind.SQL:
            return _check_statements(value)


def _check_call(value: object) -> str:
    if not isinstance(value, str) or len(value) > 500 or not _CALL.fullmatch(value):
        raise Invalid("call", value, "a callable is package.module:function")
    return value


def _check_command(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise Invalid("command", value, "a command is a list: the program, then each argument")
    words = tuple(check_argument("command", word) for word in cast("list[object]", value))
    if not words or not words[0]:
        raise Invalid("command", list(words), "a command begins with a program")
    check_text("command", " ".join(words))  # for its length
    return words


def _check_statements(value: object) -> tuple[str, ...]:
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        raise Invalid("sql", value, "it is a statement, or a list of statements")
    statements = tuple(check_text("sql", statement) for statement in cast("list[object]", given))
    if not statements or not all(statement.strip() for statement in statements):
        raise Invalid("sql", list(statements), "there is at least one statement, and none is empty")
    if len(statements) > STATEMENTS_MAX:
        raise Invalid("sql", f"{len(statements)} statements", f"there are at most {STATEMENTS_MAX}")
    check_text("sql", " ".join(statements))  # for its length
    return statements


def _check_connection(kind: JobKind, value: object) -> str | None:
    if kind is JobKind.SQL:
        return OWN_CONNECTION if value is None else check_name("connection", value)
    if value is not None:
        raise Invalid("connection", value, "it belongs to a job of SQL: give sql too, or leave it out")
    return None


def check_delivery(kind: str, value: object, connection: str | None, env: object) -> Delivery:
    """Return the delivery of a job of that kind, its own default for None."""
    if kind == JobKind.SQL and env is not None:
        raise Invalid("env", env, "statements need no environment: leave it out")
    if value is None:
        return Delivery.TRANSACTIONAL if connection == OWN_CONNECTION else Delivery.AT_LEAST_ONCE
    delivery = check_word("delivery", value, Delivery)
    if delivery is Delivery.TRANSACTIONAL:
        if kind not in {JobKind.CALL, JobKind.SQL}:
            rule = "a command cannot share Rota's transaction: make it a function (call) or statements (sql)"
            raise Invalid("delivery", value, rule)
        if connection not in {None, OWN_CONNECTION}:
            rule = f"connection {connection} leads to another database than Rota's, which commits by itself"
            raise Invalid("delivery", value, f"{rule}: choose at_least_once or at_most_once")
        if env is not None:
            raise Invalid("env", env, "a transactional job runs in the worker's own environment: leave it out")
    return delivery


def check_retries(value: object) -> int:
    """Return how often an attempt that ended badly is followed by another; -1 is for ever."""
    if value == "forever":
        return FOR_EVER
    try:
        return check_whole("retries", value, 0, RETRIES_MAX)
    except Invalid as error:
        raise Invalid("retries", value, f"{error.rule}, or forever") from None


def check_retry_delay(value: object) -> float:
    """Return the seconds to wait before a retry."""
    return parse_duration("retry_delay", value, zero_ok=True)


def _check_beside_timeline(
    timeline: Timeline | None,
    name: str,
    after: tuple[str, ...],
    runs_on: RunsOn,
    start_within: object,
    retries: object,
) -> None:
    if timeline is None:
        return
    if runs_on is RunsOn.ALL:
        raise Invalid("on", str(runs_on), "a period is worked on by one node: leave the period out, or on")
    if start_within is not None:
        raise Invalid("start_within", start_within, "no period is given up for being late: see give_up_age")
    if timeline.give_up_failures is not None and retries not in {0, "0"}:
        rule = "it says how many attempts there are, and so does retries: give one of them"
        raise Invalid("give_up_failures", timeline.give_up_failures, rule)
    if name in timeline.rolls_up:
        raise Invalid("rolls_up", name, "a job cannot roll up itself")
    if both := sorted({*timeline.rolls_up} & {*after}):
        raise Invalid("after", both[0], "it is rolled up, so its periods come first already: name it once")


def _check_exit_code(name: str, value: object) -> int | None:
    return None if value is None else check_whole(name, value, 1, 255)


def _check_breaker(value: object) -> int | None:
    return None if value is None else check_whole("breaker_failures", value, 1, BREAKER_FAILURES_MAX)


def _check_lease(value: object) -> float | None:
    if value is None:
        return None
    return parse_duration("lease", value, minimum=LEASE_SECONDS_MIN, maximum=LEASE_SECONDS_MAX)


def _check_cwd(value: object) -> str | None:
    if value is None:
        return None
    path = check_text("cwd", value)
    if not path.startswith("/"):
        raise Invalid("cwd", value, "a working directory is an absolute path; the worker's own place is no base for it")
    return path


def _check_user(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not _USER.fullmatch(value):
        raise Invalid("run_as", value, "it is the name of a user on the nodes")
    return value
