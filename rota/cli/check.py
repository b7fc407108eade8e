"""``rota check``: health for monitoring, by its exit status."""

from __future__ import annotations

import click

from rota.cli.door import Door, through_door
from rota.cli.screen import View, clean, print_json
from rota.cli.status import tell_finding
from rota.errors import RotaError

# As monitoring plugins end.
STATUSES = {"ok": 0, "warning": 1, "critical": 2, "unknown": 3}
TOLD_MAX = 3


@click.command()
@click.option("--nagios", is_flag=True, help="One line for a monitoring plugin, with performance data.")
@click.option("--warning-late", metavar="D", help="How late is worth a warning. [1m]")
@click.option("--critical-late", metavar="D", help="How late is critical. [10m]")
@through_door
def check(door: Door, *, nagios: bool, warning_late: str | None, critical_late: str | None) -> int:
    """Health for monitoring: 0 ok, 1 warning, 2 critical, 3 unknown.

    Looks for what does not go on by itself: slots and runs that are late, pools and schedulers without a living node,
    schedules that stopped, jobs that keep failing. Any node may be asked, and any machine that reaches the database.
    `cgroups` counts the living nodes whose jobs run in cgroups; `rota node show` says why one does not use them.
    """
    view: View
    try:
        view = door.rota.check(warning_late=warning_late, critical_late=critical_late)
    except RotaError as error:
        # Whatever keeps us from knowing is unknown, not critical: another check watches the database itself.
        view = {"state": "unknown", "error": {"code": error.code, "message": str(error)}}
    if door.screen.as_json:
        print_json(view)
    elif nagios:
        click.echo(write_plugin_line(view))
    else:
        _show(view)
    return STATUSES[view["state"]]


def _show(view: View) -> None:
    if "error" in view:
        click.echo(clean(f"unknown: {view['error']['message']}"), err=True)
        return
    for found in view["findings"]:
        click.echo(tell_finding(found))
    counts = ", ".join(f"{name} {count}" for name, count in view["counts"].items())
    click.echo(f"{view['state']}: {counts}")


def write_plugin_line(view: View) -> str:
    """Write how things stand as monitoring plugins do: one line, worst first, performance data behind a bar."""
    if "error" in view:
        return _one_line(f"ROTA UNKNOWN - {view['error']['message']}")
    counts = view["counts"]
    bad = [found["text"] for found in view["findings"] if found["severity"] in STATUSES]
    more = f"; and {len(bad) - TOLD_MAX} more" if len(bad) > TOLD_MAX else ""
    told = "; ".join(bad[:TOLD_MAX]) + more or f"nodes {counts['nodes']}, running {counts['running']}"
    performance = " ".join(f"{name}={counts[name]}" for name in ("ready", "running", "late", "nodes"))
    return _one_line(f"ROTA {view['state'].upper()} - {told}") + f" | {performance}"


def _one_line(text: str) -> str:
    # A bar begins the performance data, wherever it stands.
    return clean(" ".join(text.replace("|", "/").split()))
