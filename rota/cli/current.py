"""``rota current``: what a command may do inside a running job. It speaks to the guardian and needs no database."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from rota.cli.screen import Screen
from rota.errors import Invalid

if TYPE_CHECKING:
    from rota.model.outcomes import Outcome


@click.group()
def current() -> None:
    """Inside a running job: tell how far it is, keep a checkpoint, leave a result, choose the end, see what runs."""


@current.command()
@click.argument("json_text", metavar="JSON")
def result(json_text: str) -> None:
    """Leave JSON as the result of this run, or `-` to read it from standard input. The last one counts."""
    from rota.execution.report import report_result

    report_result(_read_json("result", json_text))


@current.command()
@click.argument("fraction", metavar="FRACTION")
@click.argument("message", required=False)
def progress(fraction: str, message: str | None) -> None:
    """Tell how far it is, from 0 to 1 or in percent (40%), and with what it is busy."""
    from rota.execution.context import current_run

    run = current_run()
    text = fraction.strip()
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise Invalid("progress", fraction, "it is a fraction from 0 to 1, or a percentage: 0.4 or 40%")
    run.progress(value, message)


@current.command()
@click.argument("json_text", metavar="JSON")
def checkpoint(json_text: str) -> None:
    """Keep JSON for the next attempt, or `-` to read it from standard input. `rota current show` shows it."""
    from rota.execution.report import report_checkpoint

    report_checkpoint(_read_json("checkpoint", json_text))


@current.command()
@click.option("--after", metavar="D", help="How long to wait before. [the job's retry delay]")
@click.argument("reason", required=False)
def retry(after: str | None, reason: str | None) -> None:
    """Have the attempt tried again.

    So it ends once its process has ended, whatever its exit status. It spends one of the job's retries; when none is
    left, the run fails.
    """
    from rota.model.outcomes import Retry

    _choose_end(Retry(after=after) if reason is None else Retry(reason, after=after))


@current.command()
@click.argument("reason", required=False)
def release(reason: str | None) -> None:
    """Have the run given back unspent, for any node to take.

    So its attempt ends once its process has ended, whatever its exit status.
    """
    from rota.model.outcomes import Release

    _choose_end(Release() if reason is None else Release(reason))


@current.command()
@click.argument("reason", required=False)
def skip(reason: str | None) -> None:
    """Have the run end as skipped, since there was nothing to do.

    So it ends once its process has ended, whatever its exit status.
    """
    from rota.model.outcomes import Skip

    _choose_end(Skip() if reason is None else Skip(reason))


def _choose_end(wish: Outcome) -> None:
    from rota.execution.report import report_outcome

    report_outcome(wish.__rota_outcome__, str(wish), getattr(wish, "after_seconds", None))


@current.command()
def cancelled() -> int:
    """Exit 0 if this attempt is being stopped, else 1.

    What is printed is why: `cancelled`, `timeout`, `deadline`, `released` or `lease_over`.
    """
    from rota.execution.report import why_stopping

    why = why_stopping()
    if why is None:
        return 1
    click.echo(why)
    return 0


def _read_json(what: str, text: str) -> str:
    from rota.execution.report import control_path
    from rota.model.documents import check_document_text

    control_path()  # outside a job, say so before finding fault with the JSON
    return check_document_text(what, sys.stdin.read() if text == "-" else text)


@current.command()
@click.option("--json", "as_json", is_flag=True, envvar="ROTA_JSON", help="Show JSON. [ROTA_JSON=1]")
def show(as_json: bool) -> None:
    """Show the run that this process works for."""
    from rota.execution.context import current_run
    from rota.execution.report import why_stopping
    from rota.model.instants import format_instant

    run = current_run()
    view: dict[str, Any] = {
        "id": run.run_id,
        "job": run.job,
        "schedule": run.schedule,
        "attempt": run.attempt,
        "slot": format_instant(run.slot) if run.slot else None,
        "run_at": format_instant(run.run_at) if run.run_at else None,
        "node": run.node,
        "fence": run.fence,
        "key": run.key,
        "args": run.args,
        "checkpoint": run.checkpoint,
        "stopping": why_stopping(),
    }
    Screen(as_json=as_json).show_one(view)
