"""``rota up --demo``: a minute that shows the point.

Real schedules fire, real processes run, and what is missed or skipped is so through the scheduler. It never touches the
database in force: it makes one of its own, unless one is named by ``--db``. Its pages are served meanwhile, wherever
there is a port for them.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rota.cli.door import Door
from rota.cli.node import answer_in, read_settings
from rota.cli.schedule import describe_when
from rota.cli.screen import Columns, View, clean, make_table, short_time, write_value
from rota.cli.web import decide_access, make_server
from rota.config import mask_password
from rota.errors import ConfigError
from rota.model.states import RunState

if TYPE_CHECKING:
    from rich.console import Group

    from rota.client import Rota
    from rota.engine.settings import NodeSettings

REFRESH_SECONDS = 1.0
RUNS_SHOWN_MIN = 5
LINES_AROUND_RUNS = 18  # the schedules, the nodes, their headings, and what is between and below
ANY_PORT = 0  # that is free
DOWN_SECONDS = 3.0  # before the node starts: a slot falls due meanwhile, and its start window passes
READY_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 30.0

# name, what it shows, the job, the schedule; `at` is an offset from the database's now
DEMO: tuple[tuple[str, str, dict[str, Any], dict[str, Any]], ...] = (
    ("often", "fires every few seconds", {"shell": 'echo "slot $ROTA_SLOT on $ROTA_NODE"'}, {"every": "3s"}),
    (
        "flaky",
        "fails twice, is retried, succeeds",
        {"shell": 'echo "attempt $ROTA_ATTEMPT"; test "$ROTA_ATTEMPT" -ge 3', "retries": 5, "retry_delay": "2s"},
        {"every": "12s"},
    ),
    (
        "report",
        "a Python function; its result is kept as JSON",
        {"call": "rota.cli.demo_jobs:count_machine"},
        {"every": "10s", "args": {"folder": "/"}},
    ),
    (
        "overlapping",
        "takes longer than its period: the slots in between are skipped",
        {"shell": "sleep 7"},
        {"every": "5s"},
    ),
    (
        "too-late",
        "is due while no node works, and may start at most a second late: missed",
        {"shell": "echo this is never printed"},
        {"at": timedelta(seconds=1), "start_within": "1s"},
    ),
    (
        "long",
        "takes a minute, and can be cancelled",
        {"shell": "for second in $(seq 60); do echo $second; sleep 1; done"},
        {"at": timedelta(seconds=8)},
    ),
)

SCHEDULE_COLUMNS: Columns = {
    "schedule": "key",
    "when": lambda view: describe_when(view),
    "next slot": lambda view: short_time(view["next_slot"])[11:],
    "what it shows": lambda view: next((text for name, text, _, _ in DEMO if name == view["key"]), ""),
}
RUN_COLUMNS: Columns = {
    "run": "id",
    "job": "job",
    "slot": lambda view: short_time(view["slot"])[11:],
    "state": "state",
    "attempt": "attempt",
    "reason": lambda view: (
        view["reason"]["text"] if view["result"] is None else f"result {write_value(view['result'])}"
    ),
}
NODE_COLUMNS: Columns = {
    "node": "name",
    "state": "state",
    "running": lambda view: f"{len(view['running'])} of {view['slots']}",
    "seen": lambda view: short_time(view["seen_at"]),
}


def show_demo(door: Door, seconds: float | None, *, host: str, port: int, **flags: Any) -> int:
    """Load the demo, work on it and serve its pages in this process, and show what happens until Ctrl-C or for
    ``seconds``.
    """
    folder = Path(tempfile.mkdtemp(prefix="rota-demo-"))
    url = door.db_flag or f"sqlite:///{folder / 'rota.db'}"
    door = Door(db=url, config_file=None, as_json=False)
    given = {"state_dir": str(folder / "state"), "log_file": str(folder / "rota.log")}
    flags |= {name: flags[name] or value for name, value in given.items()}
    # Told to go by TERM, it leaves as by Ctrl-C: no job outlives the demo.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _load(door, url)
        click.echo(f"database {mask_password(url)}\nlog      {flags['log_file']}")
        with _serving(door, host, port) as pages:
            click.echo(f"for {DOWN_SECONDS:g} s no node works, as after a power cut: what is due meanwhile is late\n")
            time.sleep(DOWN_SECONDS)
            with _working(door, read_settings(door, **flags), flags["log_file"]):
                _watch(door, _say_where(url, pages), time.monotonic() + seconds if seconds is not None else None)
    finally:
        door.close()
    _tell_commands(url)
    return 0


def _load(door: Door, url: str) -> None:
    from rota.client import schema

    schema.upgrade(url)
    for name, _, job, schedule in DEMO:
        door.rota.jobs.add(name, if_exists="update", **job)
        at = schedule.get("at")
        # The database's clock decides what is late, also here; asked each time, since adding may take long.
        timing = {"at": door.rota.database.now() + at} if at is not None else {}
        door.rota.schedules.add(name, name, if_exists="update", **(schedule | timing))


@contextlib.contextmanager
def _serving(door: Door, host: str, port: int) -> Generator[str | None, None, None]:
    """Serve the pages, and tell where; where the port is taken, at one that is free.

    Raises:
        ConfigError: others than this machine would be served, and nobody could log in.
    """
    access = decide_access(door, host)
    server = None
    for wanted in (port, ANY_PORT):
        try:
            server = make_server(door, host, wanted, access)
            break
        except ConfigError as error:
            click.echo(f"no pages: {error}")
    if server is None:
        yield None
        return
    click.echo(f"pages    {server.url}")
    server.start()
    try:
        yield server.url
    finally:
        server.stop()


def _say_where(url: str, pages: str | None) -> str:
    look = "" if pages is None else f"in a browser: {pages}\n"
    return f"{look}in another terminal: ROTA_DB={mask_password(url)} {_program()} why run 1 — Ctrl-C ends the demo"


@contextlib.contextmanager
def _working(door: Door, settings: NodeSettings, log_file: str) -> Generator[None, None, None]:
    """Be a node, in a thread: this one has the screen and hears Ctrl-C."""
    from rota.cli.logs import Logs
    from rota.engine.node import Node

    Logs(Path(log_file))
    ready, failure = threading.Event(), list[Exception]()
    node = Node(settings, on_ready=lambda _: ready.set(), answer=answer_in("UTC"))

    def work() -> None:
        try:
            node.run()
        except Exception as error:  # noqa: BLE001 - raised again by the thread that has the screen
            failure.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=work, name="node")
    thread.start()
    try:
        ready.wait(READY_SECONDS_MAX)
        if failure:
            raise failure[0]
        yield
    finally:
        if thread.is_alive():
            click.echo("\nstopping: jobs that run are stopped, and their runs given back")
            node.stop()
            node.stop()
            thread.join(STOP_SECONDS_MAX)


def _watch(door: Door, where: str, ends: float | None) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        if sys.stdout.isatty():
            _watch_live(door, where, ends)
        else:
            _watch_lines(door.rota, ends)


def _pause(ends: float | None) -> bool:
    """Wait for the next look; tell whether there is one."""
    left = REFRESH_SECONDS if ends is None else min(REFRESH_SECONDS, ends - time.monotonic())
    if left > 0:
        time.sleep(left)
    return ends is None or time.monotonic() < ends


def _watch_live(door: Door, where: str, ends: float | None) -> None:
    from rich.live import Live

    with Live(_draw(door.rota, where), auto_refresh=False) as live:
        while _pause(ends):
            live.update(_draw(door.rota, where), refresh=True)


def _draw(rota: Rota, where: str) -> Group:
    from rich.console import Group
    from rich.text import Text

    lines = shutil.get_terminal_size().lines - LINES_AROUND_RUNS
    return Group(
        make_table(rota.schedules.list(), SCHEDULE_COLUMNS, one_line=True),
        Text(),
        make_table(rota.runs.list(limit=max(RUNS_SHOWN_MIN, lines)), RUN_COLUMNS, one_line=True),
        Text(),
        make_table(rota.nodes.list(), NODE_COLUMNS),
        Text(f"\n{where}", style="dim"),
    )


def _watch_lines(rota: Rota, ends: float | None) -> None:
    """Tell each event once, a line each; for a log, or a test."""
    told: dict[int, int] = {}
    while True:
        for view in reversed(rota.runs.list(limit=100)):
            for event in view["events"][told.get(view["id"], 0) :]:
                click.echo(clean(_describe_event(view, event)))
            told[view["id"]] = len(view["events"])
        if not _pause(ends):
            return


def _describe_event(view: View, event: View) -> str:
    slot = f" slot {short_time(view['slot'])}" if view["slot"] else ""
    what = f"{event.get('to', '')}: {event.get('text', '')}"
    if event.get("to") == RunState.SUCCEEDED and view["result"] is not None:
        what += f"; result {write_value(view['result'])}"
    return f"{short_time(event['at'])} {view['job']} run {view['id']}{slot}: {what}"


def _program() -> str:
    """Name this program as a shell here finds it."""
    return "rota" if shutil.which("rota") else str(Path(sys.argv[0]).absolute())


def _tell_commands(url: str) -> None:
    program = _program()
    path = "" if program == "rota" else f"  export PATH={Path(program).parent}:$PATH\n"
    click.echo(
        f"""
Look at what happened:
{path}  export ROTA_DB={url}
  rota status                      one screen
  rota run list                    every slot has its row
  rota why schedule too-late       why it did not run
  rota why run 1
  rota run list --job flaky        then: rota run show ID, rota run logs ID
  rota schedule next often -n 3
And go on from there:
  rota up &                        this machine works again, and serves the pages
  rota job add hello --shell 'echo hello'
  rota job run hello --follow"""
    )
