"""``rota up``, ``worker`` and ``tick``: what makes this machine work; and ``rota node``: the machines that do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from rota.cli.door import Door, Words, through_door
from rota.cli.paging import page_flags, tell_next
from rota.cli.status import NODE_COLUMNS
from rota.cli.web import decide_access, serve_beside, web_flags
from rota.model.states import OnTerm

if TYPE_CHECKING:
    from rota.cli.logs import Logs
    from rota.engine.scheduler import Answer
    from rota.engine.settings import NodeSettings
    from rota.model.access import Access


def node_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """The flags of everything that runs jobs."""
    for flag in reversed(
        (
            click.option("--name", metavar="N", help="Of this node. [the host's, then host:2, host:3]"),
            click.option("--pool", "pools", metavar="P", multiple=True, help="Work for it; repeatable. [ROTA_POOLS]"),
            click.option(
                "--label", "labels", metavar="K=V", multiple=True, help="Of this node; repeatable. [ROTA_LABELS]"
            ),
            click.option("--slots", metavar="N", allow_from_autoenv=False, help="Runs at once. [ROTA_SLOTS]"),
            click.option("-I", "import_dirs", metavar="DIR", multiple=True, help="Import Python jobs from here, too."),
            click.option(
                "-m", "modules", metavar="MODULE", multiple=True, help="Bring the jobs it declares into force."
            ),
            click.option(
                "--lease", metavar="D", allow_from_autoenv=False, help="How long a silent node keeps its runs."
            ),
            click.option("--poll", metavar="D", allow_from_autoenv=False, help="How often to look. [ROTA_POLL]"),
            click.option(
                "--drain-timeout", metavar="D", allow_from_autoenv=False, help="When told to drain: jobs may end."
            ),
            click.option(
                "--on-term",
                type=Words(*OnTerm),
                allow_from_autoenv=False,
                help="Leave jobs to the next worker, or drain. [leave; process 1 drains]",
            ),
            click.option("--state-dir", metavar="DIR", allow_from_autoenv=False, help="For sockets and journals."),
            click.option(
                "--log-file", metavar="FILE", allow_from_autoenv=False, help="USR2 opens it anew. [standard error]"
            ),
        )
    ):
        function = flag(function)
    return function


def read_settings(
    door: Door, *, name: str | None, import_dirs: tuple[str, ...], modules: tuple[str, ...], **flags: object
) -> NodeSettings:
    """Merge flags, variables and the file anew, into what a node is told."""
    import os
    from pathlib import Path

    from rota.client.location import database_url, state_folder
    from rota.engine.environments import gather_environments
    from rota.engine.secrets import NodeSecrets
    from rota.engine.settings import NodeSettings, slots_default

    config = door.read_config(**flags)
    secrets = NodeSecrets(config.secrets, channels=config.alerts)
    return NodeSettings(
        database_url=config.database or database_url(os.environ),
        state_dir=config.state_dir or state_folder(os.environ),
        name=name,
        pools=config.pools,
        slots=config.slots or slots_default(),
        labels=config.labels,
        lease_seconds=config.lease_seconds,
        drain_timeout_seconds=config.drain_timeout_seconds,
        on_term=config.on_term,
        cgroup=config.cgroup,
        keep_output_seconds=config.keep_output_seconds,
        keep_audit_seconds=config.keep_audit_seconds,
        keep_runs=config.keep_runs,
        poll_seconds=config.poll_seconds,
        modules=modules,
        import_dirs=tuple(str(Path(folder).absolute()) for folder in import_dirs),
        connections={one.name: one.url for one in config.connections.values()},
        environments=gather_environments(config.environments, without=secrets.variables),
        secrets=secrets,
    )


def declare_modules(door: Door, settings: NodeSettings) -> None:
    """Import the modules and bring the jobs and schedules that they declare into force, and say what became of each."""
    import importlib
    import sys
    from pathlib import Path

    from rota.client.declared import declare_all
    from rota.errors import ConfigError

    sys.path[:0] = [folder for folder in settings.import_dirs if folder not in sys.path]
    for module in settings.modules:
        try:
            importlib.import_module(module)
        except Exception as error:
            hint = ""
            if isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]:
                absent = [folder for folder in settings.import_dirs if not Path(folder).is_dir()]
                hint = "; name the folder that it is in with -I"
                if absent:
                    hint = f"; there is no folder {', '.join(absent)}, named with -I"
            raise ConfigError(f"module {module!r} cannot be imported: {type(error).__name__}: {error}{hint}") from error
    for folder in settings.import_dirs:
        if not Path(folder).is_dir():
            click.echo(f"there is no folder {folder}, named with -I", err=True)
    # Without the client's warnings: this node is about to serve its pools, and tells of others what it finds.
    declared = declare_all(door.rota)
    if not declared:
        click.echo(f"no jobs are declared in {', '.join(settings.modules)}", err=True)
    for line in declared:
        click.echo(line, err=True)


def start_logs(door: Door, *, is_quiet: bool = False, **flags: object) -> Logs:
    """Send this process's log where the settings say; a quiet one without a file says only what went wrong."""
    import logging

    from rota.cli.logs import Logs

    log_file = door.read_config(**flags).log_file
    return Logs(log_file, level=logging.WARNING if is_quiet and log_file is None else logging.INFO)


def answer_in(zone: str) -> Answer:
    """Return what carries out commands that are asked for with SQL; local times in them are in this zone."""
    from rota.verbs.answering import answer_commands

    return lambda database, node: answer_commands(database, node=node, zone=zone)


def run_node(door: Door, *, one_pass: bool = False, web: tuple[str, int, Access] | None = None, **flags: Any) -> int:
    """Be a node until told to stop, or for one pass; and serve the web there meanwhile."""
    from rota.engine.node import Node, RunUntil

    def read() -> NodeSettings:
        return read_settings(door, **flags)

    logs = start_logs(door, is_quiet=one_pass, log_file=flags["log_file"])  # first: reading may have much to tell
    settings = read()
    if settings.modules:
        declare_modules(door, settings)

    def read_again() -> NodeSettings:
        logs.warn_of_another(door.read_config(log_file=flags["log_file"]).log_file)
        return read()

    run_until = RunUntil.IDLE if one_pass else RunUntil.STOPPED
    answer = answer_in(door.config.zone)
    node = Node(settings, run_until=run_until, reload=read_again, reopen_logs=logs.reopen, answer=answer)
    node.install_signal_handlers()
    server = serve_beside(door, *web) if web is not None else None
    try:
        return node.run()
    finally:
        if server is not None:
            server.stop()


@click.command()
@node_flags
@through_door
def worker(door: Door, **flags: Any) -> int:
    """Fire schedules and run jobs until told to stop.

    TERM leaves at once: jobs go on, and the next worker of this machine takes them over. INT and QUIT drain: no new
    claims, running jobs may end; a second one stops them and gives their runs back. Process 1 of a container drains on
    TERM too. HUP and USR1 read the configuration again, USR2 opens the log file anew.
    """
    return run_node(door, **flags)


@click.command()
@node_flags
@through_door
def tick(door: Door, **flags: Any) -> int:
    """One pass for a crontab line: fire what is due, claim, run to the end, exit.

    Only trouble is told on standard error, so that cron sends no mail for nothing; a log file gets everything. Passes
    may overlap, on one host and on several. Exit code 3 says that another one was at work on this host.
    """
    return run_node(door, one_pass=True, **flags)


@click.command()
@click.option("--demo", is_flag=True, help="Load jobs that show the point, and watch them, here and in a browser.")
@click.option("--seconds", metavar="N", type=float, help="With --demo: end by itself after so long.")
@web_flags
@node_flags
@through_door
def up(door: Door, *, demo: bool, seconds: float | None, host: str, port: int, **flags: Any) -> int:
    """Everything on this machine: bring the schema up to date, then schedule, work, and serve the web."""
    if demo:
        from rota.cli.demo import show_demo

        return show_demo(door, seconds, host=host, port=port, **flags)
    if seconds is not None:
        raise click.UsageError("--seconds goes with --demo")
    from rota.client import schema

    schema.upgrade(door.database_url())
    return run_node(door, web=(host, port, decide_access(door, host)), **flags)


@click.group()
def node() -> None:
    """The machines that share the database."""


@node.command("list")
@page_flags
@through_door
def list_(door: Door, **filters: Any) -> None:
    """List nodes, in the order of their names."""
    views = door.rota.nodes.list(**filters)
    nothing = "no such nodes" if any(filters.values()) else "no node is registered; start one with `rota worker`"
    door.screen.show_list(views, NODE_COLUMNS, nothing=nothing)
    tell_next(views, as_json=door.screen.as_json)


@node.command()
@click.argument("name")
@through_door
def show(door: Door, *, name: str) -> None:
    """Show a node, what it runs and its history."""
    door.screen.show_one(door.rota.nodes.show(name))


@node.command()
@click.argument("name")
@through_door
def drain(door: Door, *, name: str) -> None:
    """Claim nothing more there; what runs goes on. Holds over restarts, until `resume`."""
    view = door.rota.nodes.drain(name)
    count = len(view["running"])
    goes_on = {0: "nothing of it runs", 1: "1 run goes on"}.get(count, f"{count} runs go on")
    door.screen.tell(f"node {name} claims nothing more; {goes_on}", view)


@node.command()
@click.argument("name")
@through_door
def resume(door: Door, *, name: str) -> None:
    """Let it claim again."""
    door.screen.tell(f"node {name} may claim again", door.rota.nodes.resume(name))


@node.command()
@click.argument("name")
@through_door
def forget(door: Door, *, name: str) -> None:
    """Forget one that is gone for good; runs that were for it alone are missed."""
    missed = door.rota.nodes.forget(name)
    also = f"; {missed} runs that were for it alone are missed" if missed else ""
    door.screen.tell(f"node {name} is forgotten{also}", {"name": name, "forgotten": True, "missed": missed})
