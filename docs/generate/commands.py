"""The pages about what is typed: commands, settings, jobs and schedules, and what a job sees."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from docs.generate.markdown import expect_keys, fence, prose, table, table_of_enum
from rota import config
from rota.alerts.channel import CHANNEL_KEYS, SMTP_KEYS
from rota.cli.main import main as root_command
from rota.engine.orders import make_order
from rota.engine.settings import NodeSettings
from rota.execution.command import KEPT_VARIABLES
from rota.model import states
from rota.model.durations import format_duration
from rota.model.job import JobKind, JobSpec
from rota.model.oidc import OIDC_KEYS
from rota.model.run import Claim, PeriodPart
from rota.model.schedule import TIMINGS, ScheduleSpec

HELP_WIDTH = 100
SETTINGS_SAMPLE = """
# rota.toml
database = "sqlite:///rota.db"
zone = "Europe/Amsterdam"
lease = "30s"
pools = ["default", "reports"]

[connections.warehouse]
url = "postgresql://reader@warehouse/facts"
"""

SETTING_MEANINGS = {
    "database": "Where everything is kept: a SQLAlchemy URL. `ROTA_DB_FILE` may name a file that holds it, for those "
    "who keep passwords out of the environment. Without any, SQLite in the user's state folder.",
    "zone": "The zone of new schedules that name none, and of times without an offset.",
    "poll": "How long an idle node waits before it looks, should no wake-up reach it.",
    "lease": "How long a node keeps a run without renewing: how soon another takes over from one that died.",
    "retry_delay": "How long a run of a new job waits before a retry, unless the job says so.",
    "alert_default": "Who is told of a job that `rota job add` adds, unless `--alert` is said: channels, separated by "
    "commas in a variable. See [alerts](../alerts.md).",
    "log_file": "Where a worker logs to; opened anew at USR2.",
    "slots": "How many runs a worker takes at once: four for each processor, unless told.",
    "pools": "The pools a worker takes runs of; a variable separates them by commas.",
    "labels": "Labels of the node, a table of names and values in the file; a variable has `K=V`, separated by commas. "
    "See [nodes and pools](../pools.md#which-nodes-serve-a-pool).",
    "drain_timeout": "How long a worker that was told to drain waits for its jobs.",
    "keep_output": "How long what an attempt wrote is kept after its end, or `forever`. Any node deletes what is older "
    "by its own setting, so give all of them the same.",
    "keep_audit": "How long the [audit](../trust.md#the-audit) is kept, or `forever`. Any node deletes what is older "
    "by its own setting, so give all of them the same.",
    "web_names": "The names by which `rota web` and `rota up` are asked for, besides this machine's own; with one, "
    "nobody is served without a login. See [who is let in](../trust.md#who-is-let-in), also for the next four.",
    "behind_tls": "Whether a proxy does TLS, so that browsers send cookies no other way: `yes` or `no`.",
    "trust_proxy": "The header in which a proxy names the user whom it has let in.",
    "proxy_from": "The addresses and networks of that proxy; a variable separates them by commas.",
    "open_metrics": "Whether `/metrics` and `/readyz` are answered without a token: `yes` or `no`.",
    "keep_runs": "How long finished runs are kept with their history, by how they ended, of jobs that do not say so "
    "(`--keep`): a section, a duration or `forever` for all ends, or as a text `failed=90d,lost=forever`; ends that "
    "are not named keep their default. Any node removes what is older by its own setting, so give all of them the "
    "same. See [operating](../operating.md#how-long-runs-are-kept).",
    "on_term": "What a worker that is told TERM makes of its jobs: `leave` them to the next one, or `drain`; `auto` "
    "drains as process 1 of a container, and leaves otherwise.",
    "cgroup": "Where each attempt gets a cgroup (v2) of its own: `auto` uses a directory that systemd has delegated to "
    "the worker, or the container's if the worker is its process 1, and otherwise does without; `off` always does; the "
    "absolute path of a directory that was prepared makes the worker refuse to start if it cannot be used. See "
    "[operating](../operating.md#cgroups).",
    "state_dir": "Where the workers of this machine keep sockets and ends that wait for delivery. On a local disk, and "
    "with a path of at most 50 characters: that of a socket in it ends at 107.",
}
OIDC_MEANINGS = {
    "issuer": "The address of the provider, exactly as it names itself; needed.",
    "client_id": "As what Rota is registered there; needed.",
    "client_secret": '`{ file = "/path" }` or `{ env = "VARIABLE" }`; without one Rota is a public client.',
    "public_url": "Where browsers find Rota: `https://NAME`, without a path; needed.",
    "user_claim": "The claim that names the user: `preferred_username`, or else a verified `email`, unless told.",
    "groups_claim": "The claim that holds the groups: `groups`, unless told.",
    "roles": "A table: for each of `viewer`, `operator` and `admin` the list of its groups. The highest counts.",
    "default_role": "The role of who is in none of them; without one they are refused.",
    "scopes": "What is asked for: `openid`, `profile` and `email`, unless told.",
    "label": "What the button says.",
}
ENVIRONMENT_MEANINGS = {
    "version": "Which one it is, as text; needed.",
    "interpreter": "The absolute path of a Python from 3.9 on; without one it is the worker's.",
    "python_path": "The import path: a list of absolute folders.",
    "variables": "Environment variables, a table of texts.",
}
CHANNEL_MEANINGS = {
    "webhook": "Where each alert is sent by a POST: an https or http URL.",
    "email": "Who gets a mail: a list of addresses; needs `[smtp]`.",
    "apprise": "What apprise tells: a URL, or several with spaces between them.",
    "secret": "Of a webhook: signs each request.",
    "private": "Of a webhook: `true` lets it go to addresses that are not public.",
    "ca": "Of a webhook: a file of certificates to trust instead of the system's.",
    "link": "Where Rota's pages are, `https://...`; each alert has the address of its run's.",
}
SMTP_MEANINGS = {
    "host": "Its name; needed.",
    "port": "587, 465 or 25, by `tls`.",
    "tls": "`starttls`, `tls` or `none`; without it `starttls`.",
    "user": "Whom to log in as, with `password`.",
    "password": "Of the user; sent with TLS only.",
    "from": "The sender's address; needed.",
    "ca": "A file of certificates to trust instead of the system's.",
}
OPTION_MEANINGS = {
    "lost_max": "How many attempts may be lost with their node before the run fails.",
    "anchor": "Of `every`: where its grid begins. Without one, when the schedule is added.",
}
VARIABLE_MEANINGS = {
    "ROTA_RUN_ID": "The number of the run.",
    "ROTA_JOB": "The name of the job.",
    "ROTA_SCHEDULE": "The key of the schedule; only in a run of a slot.",
    "ROTA_SLOT": "The instant at which the schedule was due, in UTC; only in a run of a slot.",
    "ROTA_ATTEMPT": "1 for the first attempt.",
    "ROTA_RUN_AT": "The instant before which the run was not to start, in UTC.",
    "ROTA_ARGS": "The arguments as JSON. Above 100,000 bytes it is absent: `current_run().args` has them in any case.",
    "ROTA_NODE": "The node that runs it.",
    "ROTA_FENCE": "Rises with every claim of the run: outside systems may refuse a lower one than they have seen.",
    "ROTA_KEY": "The same over all attempts of one piece of work: job and period, schedule and slot, or the key that "
    "was asked for.",
    "ROTA_PERIOD": "The name of the period; this and the four below only in a run for one.",
    "ROTA_PERIOD_START": "When the period begins, in UTC.",
    "ROTA_PERIOD_END": "When it ends, in UTC: the first moment that is not of it.",
    "ROTA_RANGE_START": "Where the part of the period begins that this run is for, in UTC.",
    "ROTA_RANGE_END": "Where that part ends. Both are those of the period, unless it is worked on while it is open.",
    "ROTA_CONTROL": "The socket of the guardian: `rota current` and `current_run()` speak to it.",
}


def write_commands() -> Iterator[str]:
    yield "# Commands"
    yield "Exit statuses: 0 done (with `--wait`: the run succeeded), 1 failed, refused or not found, 2 misuse."
    yield from _write_command(root_command, "rota")


def _write_command(command: click.Command, path: str) -> Iterator[str]:
    yield f"## {path}"
    with _context_of(command, path) as context:
        yield fence("text", command.get_help(context))
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                assert found is not None, f"{path} {name} is listed and cannot be found"
                yield from _write_command(found, f"{path} {name}")


def _context_of(command: click.Command, path: str) -> click.Context:
    # As at the door: a command remembers the names of its help option from the first context that asks.
    names = root_command.context_settings["help_option_names"]
    return click.Context(command, info_name=path, terminal_width=HELP_WIDTH, color=False, help_option_names=names)


def find_command(path: str) -> click.Command:
    """Return the command that ``path`` names, such as ``job add``."""
    found: click.Command | None = root_command
    for name in path.split():
        assert isinstance(found, click.Group)
        found = found.get_command(_context_of(found, path), name)
    assert found is not None
    return found


def write_settings() -> Iterator[str]:
    yield "# Settings"
    yield prose("""
        Later ones win: the default, the TOML file (`--config`, or `ROTA_CONFIG`), the variable, the flag. A key
        that is not known is an error; a variable that nothing reads and that is spelled almost as one of these is
        warned of. `rota config show` prints each value that is in force and where it came from.
    """)
    yield fence("toml", SETTINGS_SAMPLE)
    yield fence("console", "$ rota --config rota.toml config show")
    expect_keys(SETTING_MEANINGS, config.KEYS)
    for setting in config.SETTINGS:
        default = setting.show(setting.default)
        yield f"## {setting.key}"
        yield f"{SETTING_MEANINGS[setting.key]}"
        yield f"Variable `{setting.variable}`; default: {default if default.startswith('(') else f'`{default}`'}."
    yield "## connections"
    yield prose("""
        A section `[connections.NAME]` with `url` for each database that jobs of SQL may name with `--connection`: see
        [transactional jobs and SQL](../transactional-jobs.md). Their passwords are masked wherever settings are shown.
    """)
    yield "## environments"
    yield prose("""
        A section `[environments.NAME]` for each code base that jobs may ask for with `--env`, or
        `[[environments.NAME]]` for each of several versions: see [environments](../environments.md). Values of
        variables are not shown.
    """)
    expect_keys(ENVIRONMENT_MEANINGS, config.ENVIRONMENT_KEYS)
    yield table(("key", "meaning"), [(f"`{key}`", meaning) for key, meaning in ENVIRONMENT_MEANINGS.items()])
    yield "## secrets"
    yield prose("""
        A section `[secrets]` with a line for each secret that jobs may name with `--secret`, where it is and never
        the secret itself: `NAME = { file = "/path" }`, or `NAME = { env = "VARIABLE" }` for a variable of the
        worker's own environment. See [secrets](../secrets.md).
    """)
    yield "## alerts"
    yield prose("""
        A section `[alerts.NAME]` for each channel that jobs may name with `--alert`, with exactly one of `webhook`,
        `email` and `apprise`: see [alerts](../alerts.md). What is secret of it is written as text, or as
        `{ file = "/path" }` or `{ env = "VARIABLE" }`, and not shown.
    """)
    expect_keys(CHANNEL_MEANINGS, CHANNEL_KEYS)
    yield table(("key", "meaning"), [(f"`{key}`", meaning) for key, meaning in CHANNEL_MEANINGS.items()])
    yield "## oidc"
    yield prose("""
        A section `[oidc]`: the OpenID provider by which people log in to the web. See
        [who may do what](../trust.md#a-log-in-by-openid-connect).
    """)
    expect_keys(OIDC_MEANINGS, OIDC_KEYS)
    yield table(("key", "meaning"), [(f"`{key}`", meaning) for key, meaning in OIDC_MEANINGS.items()])
    yield "## smtp"
    yield prose("A section `[smtp]`: the server that takes the mail of channels with `email`.")
    expect_keys(SMTP_MEANINGS, SMTP_KEYS)
    yield table(("key", "meaning"), [(f"`{key}`", meaning) for key, meaning in SMTP_MEANINGS.items()])


def write_definitions() -> Iterator[str]:
    yield "# Jobs and schedules"
    yield prose("""
        The same options at every door: a flag of the command line, a keyword in Python with underscores. Durations
        are written `90s`, `15m`, `6h`, `2d`, `1h30m`, or as a number of seconds; times as ISO 8601. Names have 1 to
        200 letters, digits and `. _ : / -`. Arguments and results are JSON of at most 1 MiB and 64 levels. What is
        not so is refused with the field, the value and the rule, and nothing is stored.
    """)
    yield "## Job"
    yield "What it runs is one of " + ", ".join(f"`{kind}`" for kind in JobKind) + ". The rest is optional:"
    yield _table_of_options(JobSpec, "job add", left_out={"name", "kind", "target"})
    yield prose("""
        Sizes are written `512M`, `2G` (units of 1024), or as a number of bytes; `umask` is text of octal digits;
        `run_as_groups` is a list, as a flag it is repeated. What limits mean to Linux is in
        [concepts](../concepts.md#limits).
    """)
    yield "## Schedule"
    timings = ", ".join(f"`{name}`" for name in TIMINGS)
    yield f"A name (its key), a job, and at least one of {timings}. The rest is optional:"
    yield _table_of_options(ScheduleSpec, "schedule add", left_out={"name", "job", *TIMINGS})
    yield "What `catch_up`, `start_within` and `overlap` mean together is in [concepts](../concepts.md#late-slots)."
    yield "### Delivery"
    yield table_of_enum(states, states.Delivery)


def _table_of_options(spec: type[Any], command: str, *, left_out: set[str]) -> str:
    flags = {option.name: option for option in find_command(command).params if isinstance(option, click.Option)}
    rows: list[tuple[str, ...]] = []
    for name, parameter in inspect.signature(spec.checked).parameters.items():
        if name in left_out:
            continue
        flag = flags.get(name) or flags.get(name.removesuffix("s"))
        meaning = (flag.help or "") if flag else OPTION_MEANINGS[name]
        default = "" if parameter.default is None else f"`{_show_default(parameter.default)}`"
        rows.append((f"`{name}`", f"`{max(flag.opts, key=len)}`" if flag else "", default, _say(meaning)))
    return table(("in Python", "flag", "default", "meaning"), rows)


def _show_default(value: object) -> str:
    return format_duration(value) if isinstance(value, float) else str(value)


def _say(help_text: str) -> str:
    return help_text.rpartition(" [")[0] if help_text.endswith("]") else help_text


def write_environment() -> Iterator[str]:
    yield "# What a job sees"
    yield prose("""
        A process of its own, in a process group of its own, with standard input from the job's `stdin` or nothing,
        and both outputs captured. Its working directory is the job's `cwd`, or that in which the worker was
        started.
    """)
    yield "## Variables"
    made = sorted([*_sample_environment(), "ROTA_CONTROL"], key=list(VARIABLE_MEANINGS).index)
    expect_keys(VARIABLE_MEANINGS, made)
    yield table(("variable", "meaning"), [(f"`{name}`", VARIABLE_MEANINGS[name]) for name in made])
    yield (
        "Of the worker's own environment a job gets "
        + ", ".join(f"`{name}`" for name in KEPT_VARIABLES)
        + "; then what its [environment](../environments.md) says, if it asks for one, which then decides about "
        "`PATH` and `PYTHONPATH`; then what the job declares with `--variable`, and the [secrets](../secrets.md) that "
        "it names. The database's URL is not among them."
    )
    yield "## A result"
    yield prose("""
        A Python job returns it. A command leaves one with `rota current result`; the last one counts, and only when
        the attempt ends well.
    """)
    yield fence(
        "console",
        "$ rota db upgrade\n"
        """$ rota job add count --shell 'rota current result "{\\"lines\\": $(wc -l < /etc/passwd)}"'\n"""
        "$ rota worker &\n"
        "$ rota job run count --wait",
    )
    yield "Exit status 0 ends it well, any other badly. What it leaves behind, in whichever session, is killed."


def _sample_environment() -> Iterable[str]:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    facts: dict[str, Any] = dict.fromkeys(inspect.signature(Claim).parameters)
    facts |= {"run_id": 1, "claim_id": "c", "fence": 1, "attempt": 1, "job": "j", "kind": "shell", "target": "true"}
    facts |= {"args": "{}", "schedule": "s", "slot_at": now, "run_at": now, "pool": "default", "variables": {}}
    facts |= {"delivery": states.Delivery.AT_LEAST_ONCE, "lease_seconds": 60.0, "retries": 0, "marked": True}
    facts |= {"limits": {}, "secrets": (), "executor": "process", "part": PeriodPart("2026", now, now, now, now)}
    settings = NodeSettings(database_url="sqlite:///rota.db", state_dir=Path("state"), environment={})
    return [name for name in make_order(Claim(**facts), settings, "n", 0.0).environment if name.startswith("ROTA_")]
