"""``rota run``: look at runs, wait for them, act on them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from rota.cli.door import Door, read_time, through_door
from rota.cli.output import OutputWriter
from rota.cli.paging import tell_next
from rota.cli.screen import Columns, View, clean, short_time, write_value
from rota.model.states import RunState

if TYPE_CHECKING:
    from rota.client.groups import GroupHandle
    from rota.client.runs import RunHandle

COLUMNS: Columns = {
    "id": "id",
    "job": "job",
    "schedule": "schedule",
    "slot": lambda view: view["period"]["name"] if view["period"] else short_time(view["slot"]),
    "state": lambda view: view["state"] + (" (frozen)" if view["freeze_asked_at"] else ""),
    "attempt": "attempt",
    "node": "node",
    "reason": lambda view: view["reason"]["text"],
}


HOLDING_TOLD_AFTER_SECONDS = 3.0


@click.group()
def run() -> None:
    """One execution wanted: look, wait, cancel, rerun."""


@run.command("list")
@click.option("--job", metavar="J", help="Of this job.")
@click.option("--schedule", metavar="S", help="Of this schedule.")
@click.option("--group", metavar="G", help="Of this group: of one slot, or one request, on all nodes.")
@click.option("--state", metavar="S", multiple=True, help="In this state; repeatable.")
@click.option("--since", metavar="TIME", help="Asked for since this time.")
@click.option("--until", metavar="TIME", help="Asked for before this time.")
@click.option("--from", "first", metavar="TIME", help="With --job: for slots from this time on, latest first.")
@click.option("--to", "end", metavar="TIME", help="With --job: for slots before this time.")
@click.option("--brief", is_flag=True, help="With --json: without attempts, events and the error.")
@click.option("--limit", metavar="N", type=int, default=50, show_default=True, help="At most so many.")
@click.option("--before", metavar="ID", type=int, help="The next page: older than this run.")
@click.option("--within", metavar="N", type=int, help="Look through at most so many. [all]")
@through_door
def list_(
    door: Door,
    *,
    since: str | None,
    until: str | None,
    first: str | None,
    end: str | None,
    state: tuple[str, ...],
    limit: int,
    group: str | None,
    **flags: Any,
) -> None:
    """List runs, newest first."""
    times = {
        "since": read_time("since", since, door.config.zone),
        "until": read_time("until", until, door.config.zone),
        "first": read_time("from", first, door.config.zone),
        "end": read_time("to", end, door.config.zone),
    }
    views = door.rota.runs.list(state=list(state) or None, limit=limit, group=group, **times, **flags)
    columns = COLUMNS if group is None else {"for node": "target_node", **COLUMNS}
    door.screen.show_list(views, columns, nothing="no such runs")
    tell_next(views, "before", as_json=door.screen.as_json)
    if group is not None and not door.screen.as_json:
        click.echo(clean(door.rota.runs.group(group).show()["summary"]))


@run.command()
@click.argument("run_id", metavar="ID")
@through_door
def show(door: Door, *, run_id: str) -> None:
    """Show a run: its state and reason, attempts and history."""
    view = door.rota.runs[run_id].show()
    if door.screen.as_json:
        door.screen.show_one(view)
    else:
        _show_run(door, view)


def _show_run(door: Door, view: View) -> None:
    facts = dict(view) | {"reason": f"{view['reason']['text']} ({view['reason']['code']})"}
    if view["freeze_asked_at"]:
        since = f"since {short_time(view['freeze_asked_at'])}, by {view['freeze_asked_by']}"
        facts["state"] = f"{view['state']} (frozen {since}; `rota run thaw {view['id']}`)"
    error: dict[str, Any] = view["error"] or {}
    facts["error"] = ": ".join(part for part in (error.get("type"), error.get("message")) if part)
    if view.get("slot_count") == 1:
        facts.pop("slot_count")
    if view["period"] is not None:
        facts["period"] = view["period"]["name"]
    if view.get("completeness"):
        facts["completeness"] = view["completeness"]["summary"]
    door.screen.show_one(facts, leave_out=("attempts", "events", "on"))
    if error.get("traceback"):
        click.echo(f"\n{clean(error['traceback'])}")
    if view["attempts"]:
        click.echo()
        door.screen.show_list(view["attempts"], ATTEMPT_COLUMNS, nothing="")
    if view["events"]:
        click.echo()
        door.screen.show_list(view["events"], EVENT_COLUMNS, nothing="")


def _write_size(size: int | None) -> str:
    return "" if not size else f"{size / 2**20:.1f} MiB"


BUILT_COLUMNS: Columns = {
    "id": "id",
    "job": "job",
    "slot": lambda view: short_time(view["slot"]),
    "state": "state",
    "node": "target_node",
}
ATTEMPT_COLUMNS: Columns = {
    "attempt": "attempt",
    "state": "state",
    "node": "node",
    "started": lambda view: short_time(view["started_at"]),
    "seconds": lambda view: "" if view["seconds"] is None else f"{view['seconds']:.3f}",
    "cpu": lambda view: "" if view["cpu_seconds"] is None else f"{view['cpu_seconds']:.3f}",
    "memory": lambda view: _write_size(view["memory_bytes_max"]),
    "read": lambda view: _write_size(view["read_bytes"]),
    "written": lambda view: _write_size(view["written_bytes"]),
    "exit": lambda view: view["exit_code"] if view["signal"] is None else f"signal {view['signal']}",
    "reason": lambda view: view["reason"]["text"] if view["reason"] else "",
}
EVENT_COLUMNS: Columns = {
    "at": lambda view: short_time(view.get("at")),
    "to": "to",
    "what": "text",
    "by": lambda view: view.get("actor") or view.get("node"),
}


@run.command()
@click.argument("run_id", metavar="ID")
@click.option("--timeout", metavar="D", help="Wait no longer than this.")
@through_door
def wait(door: Door, *, run_id: str, timeout: str | None) -> int:
    """Wait until a run has ended; exit 0 only if it succeeded."""
    return follow_run(door, door.rota.runs[run_id], output=False, timeout=timeout)


def follow_run(door: Door, handle: RunHandle, *, output: bool, timeout: str | None) -> int:
    """Wait for a run, show how it ended, and return the exit status: 0 only if it succeeded."""
    from rota.client.groups import GroupHandle

    try:
        if not door.screen.as_json and sys.stderr.isatty():
            click.echo(f"run {handle.id}: waiting for its end; Ctrl-C leaves it alone", err=True)
        if isinstance(handle, GroupHandle):
            return _follow_group(door, handle, output=output, timeout=timeout)
        if output and not door.screen.as_json:
            write_as_it_comes(handle, OutputWriter())
        _wait(door, handle, timeout)
    except KeyboardInterrupt:
        click.echo(f"run {handle.id} goes on; see `rota run wait {handle.id}`", err=True)
        raise
    view = handle.show()
    text = f"run {view['id']} {view['state']}: {view['reason']['text']}"
    if view["result"] is not None:
        text += f"; result {write_value(view['result'])}"
    # Beside the job's own output, ours must not get into a pipe.
    if output and not door.screen.as_json:
        click.echo(clean(text), err=True)
    else:
        door.screen.tell(text, view)
    return 0 if view["state"] == RunState.SUCCEEDED else 1


def _follow_group(door: Door, handle: GroupHandle, *, output: bool, timeout: str | None) -> int:
    """Wait for all runs of a group, show how each ended, and return the exit status: 0 only if all succeeded."""
    handle.wait(timeout)
    view = handle.show()
    if door.screen.as_json:
        door.screen.show_one(view)
    else:
        for node, one in handle.runs.items() if output else ():
            # One after the other: lines of several nodes at once would be nobody's.
            click.echo(clean(f"--- {node}, run {one.id}"), err=True)
            started_at, parts = one.transcript()
            OutputWriter().write(parts, started_at)
        for one in view["runs"]:
            said = f"{one['node']}: run {one['id']} {one['state']}: {one['reason']['text']}"
            result = "" if one["result"] is None else f"; result {write_value(one['result'])}"
            click.echo(clean(said + result), err=output)
        click.echo(clean(view["summary"]), err=output)
    return 0 if view["state"] == RunState.SUCCEEDED else 1


def _wait(door: Door, handle: RunHandle, timeout: str | None) -> None:
    """Wait for the end; say what holds a run that has not started soon."""
    from rota.errors import RunTimeout
    from rota.model.durations import parse_duration

    seconds = None if timeout is None else parse_duration("timeout", timeout, zero_ok=True)
    if seconds is None or seconds > HOLDING_TOLD_AFTER_SECONDS:
        try:
            handle.wait(HOLDING_TOLD_AFTER_SECONDS)
        except RunTimeout:
            if handle.state in {RunState.WAITING, RunState.READY}:
                reason = door.rota.why.run(handle.id)["because"][0]
                click.echo(clean(f"run {handle.id} has not started: {reason}"), err=True)
            seconds = None if seconds is None else seconds - HOLDING_TOLD_AFTER_SECONDS
    handle.wait(seconds)


@run.command()
@click.argument("run_id", metavar="ID")
@click.option("--attempt", metavar="N", type=int, help="Of this attempt. [the last]")
@click.option("--stream", metavar="stdout|stderr", help="Only this stream. [both]")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run has ended; also before it starts.")
@click.option("--times", is_flag=True, help="Say of each line when it came, and on which stream.")
@click.option("--search", metavar="TEXT", help="Only the lines that hold it.")
@click.option("--raw", is_flag=True, help="To a terminal too, bytes as they are: colours, and whatever else it obeys.")
@through_door
def logs(
    door: Door,
    *,
    run_id: str,
    attempt: int | None,
    stream: str | None,
    follow: bool,
    times: bool,
    search: str | None,
    raw: bool,
) -> None:
    """Print what a run wrote, both streams in the order in which it came; also of a run that is running.

    Of more than 1 MiB a stream, the head and the tail. A terminal is shown control characters, a pipe gets the bytes.
    """
    handle = door.rota.runs[run_id]
    writer = OutputWriter(times=times, search=search, raw=raw)
    if follow:
        if attempt is not None:
            raise click.UsageError("--follow goes on from attempt to attempt; leave out --attempt")
        if door.screen.as_json:
            raise click.UsageError("--follow writes as it comes; leave out --json")
        write_as_it_comes(handle, writer, stream)
        return
    started_at, parts = handle.transcript(attempt, stream)
    if not parts:
        click.echo(say_silence(handle), err=True)
    if door.screen.as_json:
        text = b"".join(writer.render(parts, started_at)).decode("utf-8", "replace")
        door.screen.show_one({"id": handle.id, "attempt": attempt, "output": text})
    else:
        writer.write(parts, started_at)


def say_silence(handle: RunHandle) -> str:
    """Say why there is no output."""
    view = handle.show()
    if not view["attempts"]:
        return f"run {handle.id} is {view['state']} and has not started: `rota why run {handle.id}`"
    return f"run {handle.id} is {view['state']} and has written nothing there"


def write_as_it_comes(handle: RunHandle, writer: OutputWriter, stream: str | None = None) -> None:
    """Write what a run writes until it has ended."""
    for output in handle.follow(stream):
        if output.parts:
            writer.write(output.parts, output.started_at)
        elif output.attempt > 1:
            click.echo(f"--- attempt {output.attempt}", err=True)


@run.command()
@click.argument("run_id", metavar="ID")
@through_door
def cancel(door: Door, *, run_id: str) -> None:
    """Withdraw a run, or stop it where it runs."""
    handle = door.rota.runs[run_id]
    state = handle.cancel()
    text = "is cancelled" if state == RunState.CANCELLED else "runs: its node was asked to stop it"
    door.screen.tell(f"run {handle.id} {text}", handle.show())


@run.command()
@click.argument("run_id", metavar="ID")
@through_door
def freeze(door: Door, *, run_id: str) -> None:
    """Hold all processes of a running run; its lease goes on."""
    handle = door.rota.runs[run_id]
    text = "is to be frozen: its node was asked to" if handle.freeze() else "is frozen already"
    door.screen.tell(f"run {handle.id} {text}", handle.show())


@run.command()
@click.argument("run_id", metavar="ID")
@through_door
def thaw(door: Door, *, run_id: str) -> None:
    """Let a frozen run go on."""
    handle = door.rota.runs[run_id]
    text = "is to go on: its node was asked to let it" if handle.thaw() else "is not frozen"
    door.screen.tell(f"run {handle.id} {text}", handle.show())


@run.command()
@click.argument("run_id", metavar="ID")
@click.option("--force", is_flag=True, help="Whatever became of what its job runs after.")
@click.option("--downstream", is_flag=True, help="And all that builds on it, in order.")
@click.option("--dry-run", is_flag=True, help="Only list what builds on it.")
@through_door
def rerun(door: Door, *, run_id: str, force: bool, downstream: bool, dry_run: bool) -> None:
    """Do a finished run again: the same run, its next attempt."""
    handle = door.rota.runs[run_id]
    built = handle.downstream() if downstream or dry_run else []
    if dry_run:
        door.screen.show_list(built, BUILT_COLUMNS, nothing=f"nothing builds on run {handle.id}")
        return
    handle.rerun(force=force, downstream=downstream)
    after = f", and {len(built)} that build on it wait for it" if built else ""
    door.screen.tell(f"run {handle.id} is ready again{after}", handle.show() | ({"downstream": built} if built else {}))


@run.command()
@click.argument("run_id", metavar="ID")
@through_door
def skip(door: Door, *, run_id: str) -> None:
    """Do without a run that has not started."""
    handle = door.rota.runs[run_id]
    handle.skip()
    door.screen.tell(f"run {handle.id} is skipped", handle.show())


@run.command("mark-succeeded")
@click.argument("run_id", metavar="ID")
@through_door
def mark_succeeded(door: Door, *, run_id: str) -> None:
    """Let a run that ended otherwise count as done."""
    handle = door.rota.runs[run_id]
    handle.mark_succeeded()
    door.screen.tell(f"run {handle.id} counts as succeeded", handle.show())
