"""``rota import``: the way in for those who have a crontab."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rota.cli.door import IF_EXISTS, Door, through_door
from rota.cli.screen import Columns, View, clean, make_table, print_json, print_table
from rota.errors import AlreadyExists, Invalid

if TYPE_CHECKING:
    from rota.model.crontab import CrontabEntry, CrontabLine, CrontabPlan

COLUMNS: Columns = {"line": "line", "kind": "kind", "text": "text", "becomes": "job", "note": "note"}


@click.group("import")
def import_() -> None:
    """Bring jobs and schedules from elsewhere."""


@import_.command()
@click.argument("file", metavar="FILE")
@click.option("--plan", is_flag=True, help="Only show what would be done.")
@click.option("--system", is_flag=True, help="Entries name a user. [so for /etc/crontab and etc/cron.d/*]")
@click.option("--user", metavar="USER", help="Whose crontab it is. [the worker's]")
@click.option("--tz", metavar="ZONE", help="The zone of the machine it comes from, where CRON_TZ names no other.")
@click.option("--prefix", metavar="P", help="What the names begin with. [the file's name]")
@click.option("--if-exists", type=IF_EXISTS, default="error", help="What to do when a name is taken. [error]")
@through_door
def crontab(
    door: Door,
    *,
    file: str,
    plan: bool,
    system: bool,
    user: str | None,
    tz: str | None,
    prefix: str | None,
    if_exists: str,
) -> int:
    """Make a job and a schedule of each entry of a crontab; `-` reads standard input.

    Every line is accounted for. Lines that cannot be used are named with the reason, the others are imported, and the
    exit code is 1.
    """
    from rota.model.crontab import read_crontab
    from rota.model.instants import check_zone

    found = read_crontab(
        _read_file(file),
        system=system or is_system_file(file),
        source="crontab" if file == "-" else file,
        zone=check_zone("tz", tz or door.config.zone).key,
        prefix=prefix,
        user=user,
        home_of=_find_home,
    )
    taken = _find_taken(door, found)
    if not plan:
        _store(door, found, if_exists, taken)
    absent = _find_absent(door, found)
    if door.screen.as_json:
        print_json({**_describe(found, planned=plan), "taken": taken, "not_in_file": absent})
    else:
        _show(found)
        _tell_what_was_done(found, taken, planned=plan, if_exists=if_exists)
        if not (system or is_system_file(file)) and (users := _find_users(found)):
            named = f"begin with the name of a user and no program ({', '.join(users)})"
            click.echo(f"commands {named}: if this is a system crontab, import it with --system", err=True)
        if absent:
            named = ", ".join(absent)
            click.echo(f"not in the file, as it was before, and left as they are: {named}", err=True)
            click.echo("a line that is gone leaves its schedule: `rota schedule delete KEY`", err=True)
    return 1 if found.refused else 0


def is_system_file(file: str) -> bool:
    """Tell whether a file's place says that its entries name a user, as Debian's system crontabs do."""
    path = Path(file).absolute()
    return path.name == "crontab" or path.parent.name == "cron.d"


def _read_file(file: str) -> str:
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise Invalid("file", file, f"it cannot be read: {error.strerror}") from error
    # A line in another encoding is refused like any other bad line; it must not take the file with it.
    return data.decode("utf-8", "surrogateescape")


def _find_home(user: str) -> str | None:
    import pwd

    try:
        return pwd.getpwnam(user).pw_dir
    except KeyError:
        return None


def _find_users(plan: CrontabPlan) -> list[str]:
    """Name the users with whose names commands begin, as the entries of a system crontab do when read as a user's."""
    words = {str(entry.job.target).split(maxsplit=1)[0] for entry in plan.entries if entry.job.target}
    return sorted(word for word in words if _find_home(word) is not None and shutil.which(word) is None)


def _find_absent(door: Door, plan: CrontabPlan) -> list[str]:
    """Name the schedules that an import under this prefix has made before, and that the file no longer has."""
    kept = {entry.schedule.name for entry in plan.entries}
    keys = [view["key"] for view in door.rota.schedules.list()]
    return [key for key in keys if key.startswith(plan.prefix) and key not in kept]


def _find_taken(door: Door, plan: CrontabPlan) -> list[str]:
    """Name what is there already: a job and its schedule have one name."""
    names = {view["name"] for view in door.rota.jobs.list()} | {view["key"] for view in door.rota.schedules.list()}
    return [entry.job.name for entry in plan.entries if entry.job.name in names]


def _store(door: Door, plan: CrontabPlan, if_exists: str, taken: Sequence[str]) -> None:
    if if_exists == "error" and taken:
        # Before the first is stored: a name that is taken must not leave half of a crontab behind.
        raise AlreadyExists("job", taken[0])
    for entry in plan.entries:
        _store_entry(door, entry, if_exists)


def _store_entry(door: Door, entry: CrontabEntry, if_exists: str) -> None:
    job, schedule = entry.job, entry.schedule
    options: dict[str, Any] = {
        job.kind.value: list(job.target) if isinstance(job.target, tuple) else job.target,
        "stdin": job.stdin,
        "cwd": job.cwd,
        "run_as": job.run_as,
        "variables": dict(job.variables),
    }
    door.rota.jobs.add(job.name, if_exists=if_exists, **options)
    door.rota.schedules.add(
        schedule.name,
        schedule.job,
        cron=schedule.expression,
        tz=schedule.zone,
        overlap=schedule.overlap.value,
        if_exists=if_exists,
    )


def _describe(plan: CrontabPlan, *, planned: bool) -> View:
    return {
        "source": plan.source,
        "planned_only": planned,
        "counts": {str(kind): count for kind, count in plan.counts().items()},
        "lines": [_describe_line(line) for line in plan.lines],
    }


def _describe_line(line: CrontabLine) -> View:
    facts: dict[str, Any] = {
        "line": line.number,
        "kind": str(line.kind),
        "text": clean(line.text),
        "note": clean(line.note),
    }
    if line.entry is not None:
        job, schedule = line.entry.job, line.entry.schedule
        facts |= {
            "job": job.name,
            "schedule": schedule.name,
            "cron": schedule.expression,
            "tz": schedule.zone,
            "user": job.run_as,
            "cwd": job.cwd,
            "target": job.target,
            "stdin": job.stdin,
            "variables": dict(job.variables),
        }
    return facts


def _show(plan: CrontabPlan) -> None:
    from rota.model.crontab import LineKind

    # Blank lines and comments say nothing; they are counted below.
    told = [line for line in plan.lines if line.kind not in {LineKind.BLANK, LineKind.COMMENT}]
    if told:
        print_table(make_table([_describe_line(line) for line in told], COLUMNS))
        click.echo()


def _tell_what_was_done(plan: CrontabPlan, taken: Sequence[str], *, planned: bool, if_exists: str) -> None:
    counts = ", ".join(f"{count} {kind}" for kind, count in plan.counts().items() if count)
    click.echo(clean(f"{plan.source}: {len(plan.lines)} lines: {counts or 'nothing in it'}"))
    count = len(plan.entries) - (len(taken) if if_exists != "update" else 0)
    jobs = f"{count} jobs and schedules"
    click.echo(f"{jobs} would be imported; nothing was changed" if planned else f"{jobs} are imported")
    if taken:
        what = {"error": "the import is refused then", "skip": "they are left as they are", "update": "they get this"}
        click.echo(clean(f"there already, and with --if-exists {if_exists} {what[if_exists]}: {', '.join(taken)}"))
