"""``rota current``: what a command may do inside a running job. It speaks to the guardian and needs no database."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from rota.cli.screen import Screen


@click.group()
def current() -> None:
    """Inside a running job: leave a result, see what runs."""


@current.command()
@click.argument("json_text", metavar="JSON")
def result(json_text: str) -> None:
    """Leave JSON as the result of this run, or `-` to read it from standard input. The last one counts."""
    from rota.execution.report import control_path, report_result
    from rota.model.documents import check_document_text

    control_path()  # outside a job, say so before finding fault with the JSON
    if json_text == "-":
        json_text = sys.stdin.read()
    report_result(check_document_text("result", json_text))


@current.command()
@click.option("--json", "as_json", is_flag=True, envvar="ROTA_JSON", help="Show JSON. [ROTA_JSON=1]")
def show(as_json: bool) -> None:
    """Show the run that this process works for."""
    from rota.execution.context import current_run
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
        "args": json.loads(json.dumps(run.args)),
    }
    Screen(as_json=as_json).show_one(view)
