"""``rota job``: what to run, and how."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

import click

from rota.cli.door import IF_EXISTS, Door, Words, given, read_args, read_pairs, read_time, through_door
from rota.cli.paging import page_flags, tell_next
from rota.cli.run import follow_run
from rota.cli.screen import Columns, View
from rota.errors import Invalid
from rota.model.dependencies import UpstreamFailure
from rota.model.durations import format_duration
from rota.model.ending import Backoff
from rota.model.job import Executor, Startup
from rota.model.keeping import KEEP_RULE, format_keep
from rota.model.placement import RetryNode, RunsOn
from rota.model.states import Delivery, JobState
from rota.model.timeline import Blocking, PeriodMode

_WORD_LISTS = (
    "retry_on", "no_retry_on", "secrets", "prefer", "exclude", "mutexes", "after", "rolls_up", "alert", "alert_on",
)  # fmt: skip
_DURATIONS = (
    "timeout", "deadline", "start_within", "retry_delay", "retry_delay_max", "breaker_pause", "lease", "cpu_max",
    "settle", "refresh", "give_up_age", "alert_quiet",
)  # fmt: skip
COLUMNS: Columns = {
    "name": "name",
    "state": lambda view: view["state"] + (" (ghost)" if view["ghost_since"] else ""),
    "runs": lambda view: brief(describe_target(view)),
    "pool": "pool",
}


def describe_target(view: View) -> str:
    """Say in one line what a job runs."""
    if view.get("command"):
        return shlex.join(str(word) for word in view["command"])
    if view.get("sql"):
        return "; ".join(str(statement) for statement in view["sql"])
    return str(view.get("call") or view.get("shell") or "")


def write_as_flags(view: View) -> dict[str, Any]:
    """Write the facts of a job as its flags are written, where that is not how they are stored."""
    facts = dict(view)
    if view.get("command"):
        facts["command"] = describe_target(view)
    for name in _WORD_LISTS:
        facts[name] = ", ".join(view.get(name) or ())
    for name in _DURATIONS:
        if view.get(name) is not None:
            facts[name] = format_duration(view[name])
    facts["keep"] = format_keep(view.get("keep") or {})
    variables: dict[str, str] = view.get("variables") or {}
    facts["variables"] = ", ".join(f"{name}={value}" for name, value in variables.items())
    return facts


def brief(text: str) -> str:
    """Cut a long line for a table."""
    line = " ".join(text.split())
    return line if len(line) <= 70 else line[:69] + "…"


def definition_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """The flags that define a job, the same for ``add`` and ``edit``."""
    for flag in reversed(
        (
            click.option("--call", metavar="PKG.MOD:FUNC", help="Run a Python function."),
            click.option("--command", is_flag=True, help="Run the arguments after `--`, without a shell."),
            click.option("--shell", metavar="LINE", help="Run a line with /bin/sh."),
            click.option(
                "--sql", metavar="STATEMENT", multiple=True, help="Execute SQL in one transaction; repeatable."
            ),
            click.option("--connection", metavar="NAME", help="Where --sql goes: of the node's configuration. [rota]"),
            click.option("--pool", metavar="P", help="Where it runs. [default]"),
            click.option("--env", metavar="NAME[==VERSION]", help="The environment it runs in. [the worker's own]"),
            click.option("--timeout", metavar="D", help="The longest an attempt may take."),
            click.option("--start-within", metavar="D", help="How late a run may still start for the first time."),
            click.option(
                "--delivery",
                type=Words(*Delivery),
                help="When its node dies: start again, or not; or all in one transaction.",
            ),
            click.option("--retries", metavar="N|forever", help="How often to try again after a bad end. [0]"),
            click.option("--retry-delay", metavar="D", help="How long to wait before that."),
            click.option("--backoff", type=Words(*Backoff), help="The same delay, doubling, or anything up to that."),
            click.option("--retry-delay-max", metavar="D", help="Where doubling ends."),
            click.option(
                "--retry-on",
                metavar="END",
                multiple=True,
                help="Retry only this: OSError, exit:75, signal:SIGKILL, timeout, ... Repeatable.",
            ),
            click.option("--no-retry-on", metavar="END", multiple=True, help="Do not retry this; repeatable."),
            click.option("--deadline", metavar="D", help="The longest all attempts may take, from the first start."),
            click.option("--no-op-exit-code", metavar="N", help="An exit code that means: there was nothing to do."),
            click.option("--cancel-exit-code", metavar="N", help="An exit code that cancels the run."),
            click.option("--breaker-failures", metavar="N", help="Pause after so many bad attempts in a row."),
            click.option("--breaker-pause", metavar="D", help="How long that pause is. [5m]"),
            click.option("--lease", metavar="D", help="How soon another node may take over from a silent one."),
            click.option("--priority", metavar="N", help="Higher first. [0]"),
            click.option("--stdin", metavar="TEXT", help="Given to the process on standard input."),
            click.option("--cwd", metavar="DIR", help="Its working directory."),
            click.option("--run-as", metavar="USER", help="The user it runs as; the worker must be root."),
            click.option(
                "--run-as-group",
                "run_as_groups",
                metavar="G",
                multiple=True,
                help="A group it runs with, instead of its user's; repeatable, the first is its own.",
            ),
            click.option("--memory-max", metavar="SIZE", help="Address space of each process: 512M, 2G."),
            click.option("--cpu-max", metavar="D", help="CPU time of each process, in whole seconds."),
            click.option("--open-files-max", metavar="N", help="Open files of each process."),
            click.option("--processes-max", metavar="N", help="Processes and threads of its user; not for root."),
            click.option("--nice", metavar="N", help="From -20, most urgent, to 19; below the worker's takes root."),
            click.option("--ionice", metavar="C[:N]", help="At disks: idle, best-effort:0-7 or realtime:0-7."),
            click.option("--umask", metavar="OCTAL", help="Which rights its new files do not have. [022]"),
            click.option("--variable", metavar="K=V", multiple=True, help="An environment variable; repeatable."),
            click.option(
                "--secret",
                "secrets",
                metavar="NAME",
                multiple=True,
                help="A variable whose value the node has, kept out of all it says; repeatable.",
            ),
            click.option(
                "--startup", type=Words(*Startup), help="A function: forked where it is imported, or not. [warm]"
            ),
            click.option(
                "--executor",
                type=Words(*Executor),
                help="A function: in its own process, or with others in one. [process]",
            ),
            click.option("--on", type=Words(*RunsOn), help="One node of its pool, or each of them. [any]"),
            click.option("--max-parallel", metavar="N", help="With --on all: on so many nodes at once."),
            click.option("--prefer", metavar="NODE|K=V", multiple=True, help="These nodes first; repeatable."),
            click.option("--exclude", metavar="NODE|K=V", multiple=True, help="Never these nodes; repeatable."),
            click.option("--retry-node", type=Words(*RetryNode), help="After a bad end: another node first. [any]"),
            click.option("--max-running", metavar="N", help="So many of its runs at once, in the whole cluster."),
            click.option(
                "--mutex", "mutexes", metavar="NAME", multiple=True, help="Alone among jobs that name it; repeatable."
            ),
            click.option(
                "--after",
                metavar="JOB",
                multiple=True,
                help="When the same slot of this job has succeeded; repeatable.",
            ),
            click.option(
                "--upstream-failure",
                type=Words(*UpstreamFailure),
                help="When one of these does not succeed: wait for it, or skip. [wait]",
            ),
            click.option("--period", metavar="UNIT", help="It has periods: hour, day, month, year, or as `6 hours`."),
            click.option("--period-tz", metavar="ZONE", help="The zone whose clocks cut them. [UTC]"),
            click.option("--period-start", metavar="PERIOD", help="The first: a name or a time. [the present one]"),
            click.option("--period-mode", type=Words(*PeriodMode), help="When they are worked on. [discrete]"),
            click.option("--settle", metavar="D", help="So long after its end a period counts as closed. [0]"),
            click.option("--refresh", metavar="D", help="How often an open one is worked on. [5m]"),
            click.option("--rolls-up", metavar="JOB", multiple=True, help="Whose periods make up its own; repeatable."),
            click.option("--blocking", type=Words(*Blocking), help="What comes before a period. [children]"),
            click.option("--periods-at-once", metavar="N", help="So many, the oldest ones. [1]"),
            click.option("--give-up-failures", metavar="N", help="After so many bad ends a period is skipped."),
            click.option("--give-up-age", metavar="D", help="So long after its end, one not begun is skipped."),
            click.option("--concurrency-key", metavar="ARG", help="The argument whose value is a run's key."),
            click.option("--max-per-key", metavar="N", help="So many of its runs of one key at once."),
            click.option("--rate", metavar="N/D", help="So many starts in any stretch of that length: 100/1h."),
            click.option(
                "--keep", metavar="[END=]D", multiple=True, help="How long its runs are kept: failed=90d, 7d, forever."
            ),
            click.option("--alert", metavar="CHANNEL", multiple=True, help="Who is told of it; repeatable."),
            click.option(
                "--alert-on",
                metavar="KIND",
                multiple=True,
                help="Of what: failure, lost, missed, late, absent, long, recovered. [all but long]",
            ),
            click.option("--alert-quiet", metavar="D", help="So long more of the same is only counted. [15m]"),
            click.argument("arguments", metavar="[-- ARG...]", nargs=-1),
        )
    ):
        function = flag(function)
    return function


def read_definition(
    *,
    call: str | None,
    command: bool,
    shell: str | None,
    sql: tuple[str, ...],
    arguments: tuple[str, ...],
    run_as_groups: tuple[str, ...],
    **flags: Any,
) -> dict[str, Any]:
    """Turn the flags into what the client takes; only what was given."""
    if command and not arguments:
        raise Invalid("command", "", "the program and its arguments follow after `--`: --command -- ls -l")
    if arguments and not command:
        raise Invalid("command", shlex.join(arguments), "arguments belong to --command; put --command before `--`")
    variables = read_pairs("variable", flags.pop("variable"))
    words = {name: _read_words(name, flags.pop(name)) for name in _WORD_LISTS}
    words["keep"] = _read_keep(flags.pop("keep"))
    target = given(call=call, command=list(arguments) if command else None, shell=shell, sql=list(sql) or None)
    groups = "none" if run_as_groups == ("none",) else list(run_as_groups) or None
    return target | given(variables=variables, run_as_groups=groups, **words, **flags)


def _warn(door: Door, view: View) -> None:
    if view["max_per_key"] and not view["concurrency_key"]:
        told = "limits only runs that are asked for with a key: name the argument that is it with --concurrency-key"
        click.echo(f"warning: max_per_key {told}", err=True)


def _read_keep(words: tuple[str, ...]) -> Any:
    if not words or words == ("none",):
        return "none" if words else None
    if len(words) == 1 and "=" not in words[0]:
        return words[0]
    return read_pairs("keep", words, rule=KEEP_RULE)


def _read_words(field: str, words: tuple[str, ...]) -> list[str] | str | None:
    if "none" in words and len(words) > 1:
        raise Invalid(field, "none", "it takes all away, and goes alone")
    return "none" if words == ("none",) else list(words) or None


@click.group()
def job() -> None:
    """What to run, and how."""


@job.command()
@click.argument("name")
@definition_flags
@click.option("--if-exists", type=IF_EXISTS, default="error", help="What to do when the name is taken. [error]")
@through_door
def add(door: Door, *, name: str, if_exists: str, **flags: Any) -> None:
    """Add a job."""
    options = read_definition(**flags)
    if door.config.resolved["retry_delay"].origin != "default":
        options.setdefault("retry_delay", door.config.retry_delay_seconds)
    if door.config.alert_default:
        options.setdefault("alert", list(door.config.alert_default))
    view = door.rota.jobs.add(name, if_exists=if_exists, **options)
    _warn(door, view)
    door.screen.tell(f"job {view['name']}: {describe_target(view)}", view)


@job.command("list")
@click.option("--state", type=Words(*JobState), help="Only these.")
@click.option("--pool", metavar="P", help="Only those of this pool.")
@click.option("--ghosts", is_flag=True, help="Only what code declared once and declares no more.")
@page_flags
@through_door
def list_(door: Door, **filters: Any) -> None:
    """List jobs, in the order of their names."""
    views = door.rota.jobs.list(**filters)
    nothing = (
        "no ghosts"
        if filters["ghosts"]
        else "no such jobs"
        if any(filters.values())
        else "no jobs yet; add one with `rota job add`"
    )
    door.screen.show_list(views, COLUMNS, nothing=nothing)
    tell_next(views, as_json=door.screen.as_json)


@job.command()
@click.argument("name")
@through_door
def show(door: Door, *, name: str) -> None:
    """Show a job: its definition, schedules, last run and how long it takes."""
    view = door.rota.jobs.show(name)
    door.screen.show_one(view if door.screen.as_json else write_as_flags(view))


@job.command()
@click.argument("name")
@definition_flags
@through_door
def edit(door: Door, *, name: str, **flags: Any) -> None:
    """Change what is given; `none` takes a value away."""
    options = read_definition(**flags)
    if not options:
        raise Invalid("job", name, "say what to change; see `rota job edit --help`")
    view = door.rota.jobs.edit(name, **options)
    _warn(door, view)
    door.screen.tell(f"job {view['name']} is at revision {view['revision']}", view)


@job.command()
@click.argument("name")
@through_door
def pause(door: Door, *, name: str) -> None:
    """Start no more runs of it; those that run go on."""
    door.screen.tell(f"job {name} is paused", door.rota.jobs.pause(name))


@job.command()
@click.argument("name")
@through_door
def resume(door: Door, *, name: str) -> None:
    """Let its runs start again; an open breaker closes."""
    door.screen.tell(f"job {name} is active", door.rota.jobs.resume(name))


@job.command()
@click.argument("name")
@through_door
def reset(door: Door, *, name: str) -> None:
    """Forget what it has not done, so that it begins anew; its history stays."""
    view = door.rota.jobs.reset(name)
    count = len(view["skipped"])
    said = "1 run that waited is skipped" if count == 1 else f"{count} runs that waited are skipped"
    skipped = f"; {said}" if count else ""
    door.screen.tell(f"job {name} is reset{skipped}", view)


@job.command()
@click.argument("name")
@through_door
def delete(door: Door, *, name: str) -> None:
    """Delete a job that has no schedules and no unfinished runs; its history stays."""
    door.rota.jobs.delete(name)
    door.screen.tell(f"job {name} is deleted", {"name": name, "deleted": True})


@job.command()
@click.argument("name")
@click.option("--args", metavar="JSON", help="Its arguments, a JSON object; `-` reads standard input.")
@click.option("--at", metavar="TIME", help="Not before this time.")
@click.option("--in", "delay", metavar="D", help="Not before this long from now.")
@click.option("--start-within", metavar="D", help="How late it may still start.")
@click.option("--key", metavar="K", help="While a run with this key is unfinished, it is that one.")
@click.option("--unique-for", metavar="D|forever", help="So long after it was asked for too, however it ended.")
@click.option("--priority", metavar="N", help="Higher first.")
@click.option("--retries", metavar="N|forever", help="How often to try this run again, not the job's.")
@click.option("--retry-delay", metavar="D", help="How long this run waits before that, not the job's.")
@click.option("--concurrency-key", metavar="K", help="Its key for limits, not that of its arguments.")
@click.option("--force", is_flag=True, help="Whatever became of what its job runs after.")
@click.option("--request", metavar="TEXT", help="Any text: asked again with it, it gets the run that it made.")
@click.option("--wait", is_flag=True, help="Wait for the end; exit 0 only if it succeeded.")
@click.option("--follow", is_flag=True, help="Wait, and print what it writes as it comes.")
@through_door
def run(door: Door, *, name: str, args: str | None, wait: bool, follow: bool, at: str | None, **flags: Any) -> int:
    """Ask for a run now, or later."""
    moment = read_time("at", at, door.config.zone)
    handle = door.rota.enqueue(name, read_args(args), at=moment, **given(**flags))
    if wait or follow:
        return follow_run(door, handle, output=follow, timeout=None)
    view = handle.show()
    group = view.get("group")
    runs = view.get("runs")
    said = f"run {handle.id}" if not runs else f"runs {', '.join(str(one['id']) for one in runs)} of group {group}"
    if not handle.is_new:
        held = f"have the key {flags['key']}" if runs else f"has the key {flags['key']} and is {view['state']}"
        said += f" {held}: no other was made"
    door.screen.tell(said, view)
    return 0
