"""What is executed, and in which environment: pure values."""

from __future__ import annotations

from rota.execution.command import (
    ARGUMENTS_BYTES_MAX,
    account_variables,
    argv_for_call,
    argv_for_shell,
    job_environment,
    python_path,
)


def test_a_job_inherits_a_few_variables_and_no_secret() -> None:
    base = {
        "PATH": "/bin", "HOME": "/root", "LANG": "de_DE.UTF-8", "TZ": "UTC", "LC_CTYPE": "C.UTF-8", "PGPASSWORD": "x",
        "ROTA_DB": "postgresql://secret", "ROTA_DB_FILE": "/etc/secret", "ROTA_SLOTS": "4",
    }  # fmt: skip

    assert job_environment(base, {}, {}) == {"PATH": "/bin", "HOME": "/root", "LANG": "de_DE.UTF-8", "TZ": "UTC"}


def test_a_job_has_a_path_even_when_its_worker_has_none() -> None:
    assert "/usr/bin" in job_environment({}, {}, {})["PATH"]


def test_what_the_job_declares_wins_over_the_account_and_facts_win_over_all() -> None:
    environment = job_environment(
        {"HOME": "/root", "PATH": "/bin", "USER": "root"},
        {"HOME": "/srv", "ROTA_RUN_ID": "9", "ROTA_SCHEDULE": "made up"},
        {"ROTA_RUN_ID": "1", "ROTA_SCHEDULE": None},
        account=account_variables("www", "/var/www", ""),
    )

    assert environment == {
        "HOME": "/srv", "LOGNAME": "www", "PATH": "/bin", "SHELL": "/bin/sh", "USER": "www", "ROTA_RUN_ID": "1",
    }  # fmt: skip


def test_arguments_too_long_for_an_environment_are_left_out() -> None:
    fits, too_long = "x" * ARGUMENTS_BYTES_MAX, "é" * (ARGUMENTS_BYTES_MAX // 2 + 1)

    assert job_environment({}, {}, {"ROTA_ARGS": fits})["ROTA_ARGS"] == fits
    assert "ROTA_ARGS" not in job_environment({}, {}, {"ROTA_ARGS": too_long})


def test_calls_and_shell_lines_become_argument_lists() -> None:
    assert argv_for_shell("echo $X | cat") == ("/bin/sh", "-c", "echo $X | cat")
    assert argv_for_call("a.b:c", "/py") == ("/py", "-P", "-m", "rota.execution.python_job", "a.b:c")
    assert python_path(["/a", "/b"], "/c") == "/a:/b:/c"
    assert python_path([], "") is None
