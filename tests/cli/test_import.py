"""Importing crontabs: every line is accounted for, and what was imported is in force."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import read, refusal

SYSTEM = r"""# what a package leaves behind
SHELL=/bin/sh
PATH=/usr/local/bin:/usr/bin:/bin
MAILTO=root

17 *	* * *	root	cd / && run-parts --report /etc/cron.hourly
@daily  root  test -e /run/systemd/system || echo daily
30 3 * * 0 root cat %first line%second \% line
@reboot root echo never
61 * * * * root echo never
"""


@pytest.fixture
def system_file(tmp_path: Path) -> Path:
    folder = tmp_path / "etc" / "cron.d"
    folder.mkdir(parents=True)
    file = folder / "package"
    file.write_text(SYSTEM)
    return file


def test_a_plan_accounts_for_every_line_and_changes_nothing(rota, system_file):
    result = rota("import", "crontab", str(system_file), "--plan")

    assert result.exit_code == 1  # two lines are refused
    assert "10 lines: 1 blank, 1 comment, 3 variable, 3 entry, 2 refused" in result.output
    assert "nothing was changed" in result.output
    assert read(rota("job", "list", "--json")) == []
    assert read(rota("schedule", "list", "--json")) == []


def test_refused_lines_are_named_with_their_reason_and_the_others_are_imported(rota, system_file):
    result = rota("import", "crontab", str(system_file))

    assert result.exit_code == 1
    refused = [line for line in result.stdout.splitlines() if "refused" in line and "never" in line]
    assert ["@reboot" in line for line in refused] == [True, False]
    assert len(read(rota("job", "list", "--json"))) == 3
    schedules = read(rota("schedule", "list", "--json"))
    assert sorted(view["cron"] for view in schedules) == ["17 * * * *", "30 3 * * 0", "@daily"]


def test_an_entry_keeps_its_user_variables_and_standard_input(rota, system_file):
    rota("import", "crontab", str(system_file))

    (job,) = [view for view in read(rota("job", "list", "--json")) if view["stdin"]]

    assert job["shell"] == "cat"
    assert job["stdin"] == "first line\nsecond % line\n"
    assert (job["run_as"], job["cwd"]) == ("root", "/root")
    assert job["variables"]["PATH"] == "/usr/local/bin:/usr/bin:/bin"


def test_the_json_of_a_plan_has_every_line_of_the_file(rota, system_file):
    import json

    plan = json.loads(rota("import", "crontab", str(system_file), "--plan", "--json").stdout)

    assert [line["line"] for line in plan["lines"]] == list(range(1, 11))
    assert [line["text"] for line in plan["lines"]] == SYSTEM.replace("\t", "\t").splitlines()
    assert plan["planned_only"] is True


def test_a_crontab_of_a_user_comes_from_standard_input_and_names_no_user(rota):
    result = rota("import", "crontab", "-", "--tz", "Europe/Amsterdam", "--prefix", "mine", stdin="5 4 * * * echo hi\n")

    assert result.exit_code == 0, result.output
    (schedule,) = read(rota("schedule", "list", "--json"))
    assert (schedule["cron"], schedule["tz"]) == ("5 4 * * *", "Europe/Amsterdam")
    assert schedule["key"].startswith("mine/")
    assert read(rota("job", "show", schedule["job"], "--json"))["run_as"] is None


def test_importing_again_is_refused_as_a_whole_unless_said_what_to_do(rota, tmp_path):
    file = tmp_path / "tab"
    file.write_text("5 4 * * * echo first\n")
    rota("import", "crontab", str(file))
    file.write_text("1 1 * * * sync-new\n5 5 * * * echo first\n")

    again = rota("import", "crontab", str(file), "--json")

    assert (again.exit_code, refusal(again)["code"]) == (1, "already-exists")
    assert len(read(rota("job", "list", "--json"))) == 1
    assert rota("import", "crontab", str(file), "--if-exists", "update").exit_code == 0
    assert sorted(view["cron"] for view in read(rota("schedule", "list", "--json"))) == ["1 1 * * *", "5 5 * * *"]


def test_what_is_there_already_is_named_and_not_counted(rota, tmp_path):
    file = tmp_path / "tab"
    file.write_text("1 1 * * * sync one\n")
    rota("import", "crontab", str(file))
    file.write_text("1 1 * * * sync one\n2 2 * * * check two\n")

    plan = rota("import", "crontab", str(file), "--plan")
    skipped = rota("import", "crontab", str(file), "--if-exists", "skip")

    assert "1 jobs and schedules would be imported" in plan.output
    assert "there already, and with --if-exists error the import is refused then: tab/sync\n" in plan.output
    assert "1 jobs and schedules are imported" in skipped.output
    assert "with --if-exists skip they are left as they are: tab/sync\n" in skipped.output


def test_what_an_earlier_import_made_and_the_file_no_longer_has_is_named(rota, tmp_path):
    file = tmp_path / "tab"
    file.write_text("1 1 * * * sync one\n2 2 * * * sync two\n")
    rota("import", "crontab", str(file))
    rota("schedule", "add", "tab-2/sync", "tab/sync", "--every", "1h")
    file.write_text("2 2 * * * sync two\n")

    again = rota("import", "crontab", str(file), "--if-exists", "update")

    assert "not in the file, as it was before, and left as they are: tab/sync:2\n" in again.output
    planned = rota("import", "crontab", str(file), "--plan", "--json")
    assert read(planned)["not_in_file"] == ["tab/sync:2"]


def test_a_line_in_another_encoding_does_not_take_the_file_with_it(rota, tmp_path):
    file = tmp_path / "tab"
    file.write_bytes("5 4 * * * echo caf\xe9\n6 4 * * * echo tea\n".encode("latin-1"))

    result = rota("import", "crontab", str(file))

    assert result.exit_code == 1
    assert "1 entry, 1 refused" in result.output
    assert len(read(rota("job", "list", "--json"))) == 1


def test_a_file_that_is_not_there_is_refused(rota, tmp_path):
    result = rota("import", "crontab", str(tmp_path / "nope"), "--json")

    assert (result.exit_code, refusal(result)["field"]) == (2, "file")


@pytest.mark.parametrize(
    ("file", "system"), [("/etc/crontab", True), ("/x/etc/cron.d/y", True), ("/var/spool/cron/crontabs/root", False)]
)
def test_the_place_of_a_file_tells_whether_its_entries_name_a_user(file, system):
    from rota.cli.importing import is_system_file

    assert is_system_file(file) is system
