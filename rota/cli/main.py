"""The root of the command line: finds the command, runs it, and turns what was raised into one line and an exit status.

Invariant: commands are imported only when they are used, so ``rota --help`` and ``rota current`` start in a moment.
Every error leaves as one line on standard error, as JSON where ``--json`` was given, with 1 for *failed, refused or not
found* and 2 for *misuse*.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from rota import __version__, errors
from rota.cli.screen import clean
from rota.errors import RotaError

INTERRUPTED = 130  # as a shell says it of a command ended by SIGINT

# fmt: off
COMMANDS: dict[str, tuple[str, str]] = {
    # name       where it is                       what `rota --help` says of it
    "up":       ("rota.cli.node:up",               "Everything on this machine: schema, scheduler, worker, web."),
    "worker":   ("rota.cli.node:worker",           "Fire schedules and run jobs until told to stop."),
    "tick":     ("rota.cli.node:tick",             "One pass for a crontab line: fire, claim, run to the end, exit."),
    "web":      ("rota.cli.web:web",               "Pages, and the HTTP API: all that this command line does."),
    "status":   ("rota.cli.status:status",         "One screen: nodes, what runs, what is late, what failed."),
    "job":      ("rota.cli.job:job",               "What to run, and how."),
    "schedule": ("rota.cli.schedule:schedule",     "When a job is due, and what happens when it is late."),
    "calendar": ("rota.cli.calendar:calendar",     "When schedules rest: weekdays, dates, holidays, windows."),
    "backfill": ("rota.cli.backfill:backfill",     "Run the slots of the past, on request."),
    "run":      ("rota.cli.run:run",               "One execution wanted: look, wait, cancel, rerun."),
    "period":   ("rota.cli.period:period",         "The intervals of a job's timeline: list, tree, reprocess, skip."),
    "node":     ("rota.cli.node:node",             "The machines that share the database."),
    "pool":     ("rota.cli.pool:pool",             "Named sets of nodes: what is ready there, pause and resume."),
    "board": ("rota.cli.board:board",              "Jobs, and nodes, by time."),
    "forecast": ("rota.cli.forecast:forecast",     "What will run when, and how full the pool will be."),
    "check":    ("rota.cli.check:check",           "Health for monitoring: 0 ok, 1 warning, 2 critical, 3 unknown."),
    "user":     ("rota.cli.user:user",             "Who may log in over HTTP, and what each may do then."),
    "token":    ("rota.cli.token:token",           "What programs show to act over HTTP."),
    "audit":    ("rota.cli.audit:audit",           "Who did what, through which door."),
    "command":  ("rota.cli.command:command",       "What was asked for with SQL, and how it was answered."),
    "why":      ("rota.cli.why:why",               "Why it has not started, was skipped, missed, retried, lost."),
    "alert":    ("rota.cli.alert:alert",           "Where alerts go: try a channel of this machine."),
    "import":   ("rota.cli.importing:import_",     "Bring jobs and schedules from elsewhere: crontab."),
    "current":  ("rota.cli.current:current",       "Inside a running job: progress, checkpoint, result."),
    "db":       ("rota.cli.db:db",                 "The schema: upgrade, check, or print as SQL."),
    "config":   ("rota.cli.configuration:config",  "The settings in force, and where each comes from."),
}
# fmt: on


class Root(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def main(self, args: Sequence[str] | None = None, *positional: Any, **keywords: Any) -> NoReturn:
        """Run the command and leave with its exit status; nothing but ``SystemExit`` comes out."""
        words = list(sys.argv[1:] if args is None else args)
        keywords["standalone_mode"] = False
        try:
            status = super().main(words, *positional, **keywords)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            status = 2
        except click.ClickException as error:
            status = tell_error(error, words)
        except RotaError as error:
            status = tell_error(error, words)
        except (KeyboardInterrupt, click.Abort):
            status = INTERRUPTED
        except BrokenPipeError:
            # Whoever read our output has gone, as `| head` does: not worth a word. Python must not try to flush again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = 1
        sys.exit(status or 0)


def tell_error(error: RotaError | click.ClickException, words: Sequence[str]) -> int:
    """Write the error to standard error, one line, and return the exit status."""
    facts = describe_error(error)
    wants_json = "--json" in words[: words.index("--")] if "--" in words else "--json" in words
    if wants_json or os.environ.get("ROTA_JSON") == "1":
        click.echo(json.dumps({"error": facts}, ensure_ascii=False, default=str), err=True)
    else:
        click.echo(clean(f"error: {facts['message']}"), err=True)
    return error.exit_status if isinstance(error, RotaError) else error.exit_code


def describe_error(error: RotaError | click.ClickException) -> dict[str, Any]:
    """Return code, message, and what else the error knows: field, value, rule, the name that was not found."""
    if isinstance(error, RotaError):
        return errors.describe_error(error)
    facts: dict[str, Any] = {"code": "usage", "message": _one_line(error.format_message())}
    if isinstance(error, click.BadParameter) and error.param is not None:
        facts["field"] = error.param.name
    if "unexpected extra argument" in facts["message"] and "--cron" in sys.argv:
        facts["message"] = facts["message"].rstrip(".") + "; quote the expression: --cron '0 2 * * *'"
    if isinstance(error, click.UsageError) and error.ctx is not None:
        facts["message"] = f"{facts['message'].rstrip('.')}; see `{error.ctx.command_path} --help`"
    return facts


def _one_line(text: str) -> str:
    return " ".join(text.split())


@click.group(cls=Root, context_settings={"auto_envvar_prefix": "ROTA", "help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rota", message="%(prog)s %(version)s")
@click.option(
    "--db", metavar="URL", allow_from_autoenv=False, help="The database. [ROTA_DB, or ROTA_DB_FILE: a file holding it]"
)
@click.option("--config", metavar="FILE", allow_from_autoenv=False, help="A TOML file with settings. [ROTA_CONFIG]")
@click.pass_context
def main(context: click.Context, db: str | None, config: str | None) -> None:
    """Highly available cron and long-running tasks on the SQL database you already have.

    Every flag can be given as a variable: `rota job add --pool P` is ROTA_JOB_ADD_POOL=P. Exit codes: 0 done, 1 failed,
    refused or not found, 2 misuse.
    """
    context.obj = {"db": db, "config": config}
