"""The words of the command line: what the page of names fixes, and that each command explains itself."""

from __future__ import annotations

import importlib
import subprocess
import sys

import click
import pytest

from rota.cli.main import COMMANDS, main

# As the page of names has them for this version. A flag of a later one must not be here before it works.
# fmt: off
JOB_FLAGS = (
    "--call --command --shell --sql --connection --pool --env --timeout --start-within --delivery "
    "--retries --retry-delay --backoff --retry-delay-max --retry-on --no-retry-on --deadline "
    "--no-op-exit-code --cancel-exit-code --breaker-failures --breaker-pause --lease --priority --stdin --cwd "
    "--run-as --run-as-group --memory-max --cpu-max --open-files-max --processes-max --nice --ionice "
    "--umask --variable --secret --startup --executor --on --max-parallel --prefer --exclude --retry-node "
    "--max-running --mutex --after --upstream-failure --concurrency-key --max-per-key --rate --keep "
    "--period --period-tz --period-start --period-mode --settle --refresh --rolls-up --blocking --periods-at-once "
    "--give-up-failures --give-up-age --alert --alert-on --alert-quiet"
)
FLAGS = {
    "up": "--demo --seconds --host --port --name --pool --label --slots -I -m --lease --poll --drain-timeout "
    "--on-term --state-dir --log-file",
    "worker": "--name --pool --label --slots -I -m --lease --poll --drain-timeout --on-term --state-dir --log-file",
    "tick": "--name --pool --label --slots -I -m --lease --poll --drain-timeout --on-term --state-dir --log-file",
    "web": "--host --port --name --behind-tls --proxy-from --trust-proxy --open-metrics --log-file",
    "status": "",
    "check": "--nagios --warning-late --critical-late",
    "job add": f"{JOB_FLAGS} --if-exists",
    "job list": "--state --pool --ghosts --search --limit --after",
    "job show": "",
    "job edit": JOB_FLAGS,
    "job pause": "",
    "job resume": "",
    "job delete": "",
    "job reset": "",
    "job run": "--args --at --in --start-within --key --unique-for --priority --retries --retry-delay "
               "--concurrency-key --force --request --wait --follow",
    "schedule add": "--cron --every --at --interval --weekly --tz --gap --fold --anchor --start --end "
                    "--first-run --calendar --on-closed --delay --jitter --start-within --catch-up "
                    "--catch-up-limit --catch-up-order --overlap --in-order --args --if-exists",
    "schedule list": "--state --job --ghosts --search --limit --after",
    "schedule mark-succeeded": "",
    "schedule show": "",
    "schedule next": "-n --from",
    "schedule edit": "--cron --every --at --interval --weekly --tz --gap --fold --anchor --start --end "
                     "--first-run --calendar --on-closed --delay --jitter --start-within --catch-up "
                     "--catch-up-limit --catch-up-order --overlap --in-order --args",
    "schedule pause": "",
    "schedule resume": "--latest",
    "schedule delete": "",
    "calendar add": "--weekday --date --open --window --country --subdivision --if-exists",
    "calendar list": "--search --limit --after",
    "calendar show": "",
    "calendar delete": "",
    "board jobs": "--zoom --start --search --troubled --after --limit",
    "board nodes": "--zoom --start --after --limit",
    "board hours": "--hours",
    "forecast": "--days --job --schedules",
    "backfill start": "--from --to --order --max-active --downstream --again --failed-only --dry-run --yes",
    "backfill list": "--name --state --limit --before",
    "backfill show": "",
    "backfill pause": "",
    "backfill resume": "",
    "backfill cancel": "",
    "run list": "--job --group --schedule --state --since --until --from --to --brief --limit --before --within",
    "run show": "",
    "run wait": "--timeout",
    "run logs": "--attempt --stream -f --follow --times --search --raw",
    "run cancel": "",
    "run freeze": "",
    "run thaw": "",
    "run rerun": "--force --downstream --dry-run",
    "run skip": "",
    "run mark-succeeded": "",
    "node list": "--search --limit --after",
    "node show": "",
    "node drain": "",
    "node resume": "",
    "node forget": "",
    "pool list": "--search --limit --after",
    "period list": "--state --from --to --limit --before",
    "period wait": "--timeout",
    "period tree": "",
    "period reprocess": "--to --failed-only --dry-run",
    "period skip": "--to --dry-run",
    "pool pause": "",
    "pool resume": "",
    "pool create": "--member --nodes --label --if-exists",
    "pool edit": "--member --nodes --label",
    "pool add": "",
    "pool remove": "",
    "pool show": "",
    "pool delete": "",
    "why run": "",
    "why job": "",
    "why period": "",
    "why schedule": "",
    "import crontab": "--plan --system --user --tz --prefix --if-exists",
    "user add": "--role --password-file",
    "user list": "",
    "user edit": "--role --disable --enable",
    "user passwd": "--password-file",
    "user delete": "",
    "user sessions": "--user",
    "user end-sessions": "",
    "token add": "--role --user --scope --expires",
    "token list": "",
    "token revoke": "",
    "token delete": "",
    "audit": "--actor --door --kind --subject --did --since --until --limit --before",
    "command list": "--state --verb --since --until --limit --before",
    "command show": "",
    "db upgrade": "",
    "db check": "",
    "db sql": "",
    "db grants": "--owner --node --submit --read",
    "config show": "",
    "alert test": "",
}
# fmt: on
WITHOUT_DATABASE = {
    "current progress": "",
    "current checkpoint": "",
    "current result": "",
    "current retry": "--after",
    "current release": "",
    "current skip": "",
    "current cancelled": "",
    "current show": "--json",
}


def commands() -> dict[str, click.Command]:
    """Find every command that does something, by its words."""
    found: dict[str, click.Command] = {}
    for name, (place, _) in COMMANDS.items():
        module, _, attribute = place.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        if isinstance(command, click.Group):
            found |= {f"{name} {verb}": below for verb, below in command.commands.items()}
        else:
            found[name] = command
    return found


def flags_of(command: click.Command) -> set[str]:
    return {name for option in command.params if isinstance(option, click.Option) for name in option.opts}


def test_the_commands_are_those_of_the_page_of_names():
    assert set(commands()) == set(FLAGS) | set(WITHOUT_DATABASE)


@pytest.mark.parametrize("words", FLAGS)
def test_a_command_has_the_flags_of_the_page_of_names_and_those_that_all_have(words):
    assert flags_of(commands()[words]) == {*FLAGS[words].split(), "--db", "--config", "--json"}


@pytest.mark.parametrize("words", [*FLAGS, *WITHOUT_DATABASE])
def test_a_command_and_each_of_its_flags_explains_itself(rota, words):
    result = rota(*words.split(), "--help")

    assert result.exit_code == 0
    command = commands()[words]
    assert command.help
    assert all(option.help for option in command.params if isinstance(option, click.Option))


def test_the_root_tells_of_every_command_without_importing_one(rota):
    result = rota("--help")

    for name, (_, text) in COMMANDS.items():
        assert name in result.output
        assert text in result.output


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["current", "--help"], ["job", "add", "--help"]])
def test_what_needs_no_database_does_not_import_what_talks_to_one(words):
    program = (
        "import sys; from rota.cli.main import main\n"
        f"try: main({words!r})\n"
        "except SystemExit: pass\n"
        "heavy = 'sqlalchemy', 'rich', 'rota.client.rota', 'rota.engine.node'\n"
        "print([name for name in heavy if name in sys.modules])"
    )

    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert shown.splitlines()[-1] == "[]"


@pytest.mark.parametrize("words", [["current", "result", "{}"], ["current", "show"]])
def test_a_command_for_jobs_says_so_outside_of_one_and_imports_nothing_for_databases(words):
    program = (
        "import sys; from rota.cli.main import main\n"
        f"try: main({words!r})\n"
        "except SystemExit as left: print(left.code, 'sqlalchemy' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env={})

    assert done.stdout.split() == ["1", "False"]
    assert "not a job of Rota" in done.stderr


def test_a_flag_can_be_given_as_a_variable(rota):
    result = rota("job", "add", "x", "--shell", "true", "--json", environ={"ROTA_JOB_ADD_POOL": "reports"})

    assert '"pool": "reports"' in result.stdout


def test_the_version_is_that_of_the_package():
    import rota

    done = subprocess.run([sys.executable, "-m", "rota", "--version"], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == f"rota {rota.__version__}"


def test_a_word_too_much_or_too_little_is_misuse(rota):
    assert main.name == "main"
    for words in (
        ["bogus"],
        ["job"],
        ["job", "bogus"],
        ["job", "show"],
        ["job", "show", "a", "b"],
        ["job", "list", "--no"],
    ):
        result = rota(*words)

        assert result.exit_code == 2, words
