"""Crontab files: every line accounted for, each meaning what Debian's cron makes of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.errors import Invalid
from rota.model.crontab import CrontabPlan, LineKind, read_crontab, split_percent
from rota.model.slot_rule import Overlap

SYSTEM = r"""# /etc/crontab: system-wide crontab
SHELL=/bin/sh
PATH="/usr/local/sbin:/usr/bin"
MAILTO = root

17 *	* * *	root    cd / && run-parts --report /etc/cron.hourly
25 6	* * *	root	test -x /usr/sbin/anacron || { cd / && run-parts --report /etc/cron.daily; }
5-55/10 * * * * root command -v debian-sa1 > /dev/null && debian-sa1 1 1
@daily  www-data  [ -x /usr/lib/php/sessionclean ] && /usr/lib/php/sessionclean
@reboot root /usr/bin/at-boot
60 * * * * root /usr/bin/never
"""


def system(text: str) -> CrontabPlan:
    return read_crontab(text, system=True, source="/etc/cron.d/some", home_of={"root": "/root"}.get)


def user(text: str) -> CrontabPlan:
    return read_crontab(text, system=False, source="alice", zone="Europe/Amsterdam")


def test_a_system_crontab_becomes_jobs_and_schedules() -> None:
    plan = read_crontab(SYSTEM, system=True, source="/etc/crontab", home_of={"root": "/root"}.get)

    assert [(entry.job.name, entry.job.run_as, entry.job.cwd) for entry in plan.entries] == [
        ("crontab/run-parts-cron.hourly", "root", "/root"),
        ("crontab/run-parts-cron.daily", "root", "/root"),
        ("crontab/debian-sa1", "root", "/root"),
        ("crontab/sessionclean", "www-data", None),
    ]
    first = plan.entries[0]
    assert (first.job.kind, first.job.target) == ("shell", "cd / && run-parts --report /etc/cron.hourly")
    assert (first.schedule.job, first.schedule.expression) == (first.job.name, "17 * * * *")
    assert first.schedule.overlap is Overlap.ALLOW
    assert first.job.variables == {
        "HOME": "/root",
        "LOGNAME": "root",
        "MAILTO": "root",
        "PATH": "/usr/local/sbin:/usr/bin",
        "SHELL": "/bin/sh",
    }
    assert plan.counts() == {
        LineKind.BLANK: 1,
        LineKind.COMMENT: 1,
        LineKind.VARIABLE: 3,
        LineKind.ENTRY: 4,
        LineKind.REFUSED: 2,
    }


@given(st.text(st.sampled_from("* 0159/-,@%\\#=abroot\"'\t\n"), max_size=200), st.booleans())
def test_every_line_of_any_file_is_accounted_for(text: str, is_system: bool) -> None:
    plan = read_crontab(text, system=is_system, source="f")

    lines = text.removesuffix("\n").split("\n") if text else []
    assert [(line.number, line.text) for line in plan.lines] == list(enumerate(lines, 1))
    for line in plan.lines:
        assert (line.entry is not None) == (line.kind is LineKind.ENTRY)
        assert line.note or line.kind is not LineKind.REFUSED
    names = [entry.job.name for entry in plan.entries]
    assert len(set(names)) == len(names)
    assert read_crontab(text, system=is_system, source="f") == plan


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("@reboot root x", "boots"),
        ("60 * * * * root x", "the minute is 0 to 59"),
        ("@sometimes root x", "of the @ names"),
        ("* * * * root", "a user after the fields"),
        ("* * * * *", "a user after the fields"),
        ("* * * * * root", "a command after the user"),
        ("* * * * * root %input", "a command after the user"),
        ("* * *", "five fields"),
        ("NO-NAME=1", "letters, digits and _"),
        ("@daily root:daemon x", "the name of a user"),
    ],
)
def test_a_line_that_cannot_be_used_is_refused_with_its_rule_and_stops_no_other(line: str, rule: str) -> None:
    plan = system(f"@daily root before\n{line}\n@daily root after\n")

    (refused,) = plan.refused
    assert (refused.number, refused.text) == (2, line)
    assert rule in refused.note
    assert [entry.job.name for entry in plan.entries] == ["some/before", "some/after"]


@pytest.mark.parametrize(
    ("text", "command", "stdin"),
    [
        ("echo hi", "echo hi", None),
        (r"date +\%d", "date +%d", None),
        ("cat%one%two", "cat", "one\ntwo\n"),
        ("cat%one%", "cat", "one\n"),
        ("cat%", "cat", None),
        ("cat%%", "cat", "\n"),
        (r"cat%100\% of \it%end", "cat", "100% of \\it\nend\n"),
        (r"sed 's/\\./-/'", r"sed 's/\./-/'", None),
        (r"sed 's/\./-/'", r"sed 's/\./-/'", None),
        (r"echo \\%x", "echo \\", "x\n"),
        (r"cat%a\\%b", "cat", "a\\%b\n"),
        ("echo \\", "echo \\", None),
    ],
)
def test_a_percent_sign_ends_the_command_unless_a_backslash_keeps_it(
    text: str, command: str, stdin: str | None
) -> None:
    assert split_percent(text) == (command, stdin)


def test_two_backslashes_in_a_command_are_noted_since_crons_differ() -> None:
    assert "backslash" in user(r"@daily sed 's/\\./-/'").lines[0].note
    assert user(r"@daily cat%a\\b").lines[0].note == ""


def test_variables_hold_for_the_lines_below_them() -> None:
    plan = user("@daily a\nA = 'x y' \n@daily b\nA=\"z\"\n B\t=  1  2 \nEMPTY=\n@daily c\n")

    assert [entry.job.variables.get("A") for entry in plan.entries] == [None, "x y", "z"]
    assert plan.entries[-1].job.variables == {
        "A": "z",
        "B": "1  2",
        "EMPTY": "",
        "PATH": "/usr/bin:/bin",
        "SHELL": "/bin/sh",
    }


def test_another_shell_runs_the_line_and_home_is_where_it_starts() -> None:
    (entry,) = user("SHELL=/bin/bash\nHOME=/srv\n@daily echo {a,b}\n").entries

    assert (entry.job.kind, entry.job.target) == ("command", ("/bin/bash", "-c", "echo {a,b}"))
    assert entry.job.cwd == "/srv"


def test_the_zone_is_the_machines_until_cron_tz_names_another() -> None:
    plan = user("0 7 * * * a\nCRON_TZ=Asia/Tokyo\n0 7 * * * b\nCRON_TZ=JST-9\n0 7 * * * c\n")

    assert [entry.schedule.zone for entry in plan.entries] == ["Europe/Amsterdam", "Asia/Tokyo"]
    assert [(line.number, "'JST-9' is refused" in line.note) for line in plan.refused] == [(4, True), (5, True)]


def test_who_a_crontab_belongs_to_is_not_for_it_to_say() -> None:
    plan = read_crontab("LOGNAME=root\n@daily x\n", system=False, source="f", user="alice", home_of=lambda _: "/home/a")

    assert "cannot be set" in plan.lines[0].note
    assert plan.entries[0].job.run_as == "alice"
    assert plan.entries[0].job.variables["LOGNAME"] == "alice"
    assert plan.entries[0].job.cwd == "/home/a"


def test_names_tell_the_program_and_are_used_once() -> None:
    plan = user(
        "@daily /opt/backup.sh --full\n@hourly /opt/backup.sh\n@daily cd /srv && A=1 ./run me\n@daily nice -n 19 tidy\n"
        "@daily if [ -x /a/b ]; then /a/b; fi\n@daily $UNKNOWN\n"
    )

    assert [entry.schedule.name for entry in plan.entries] == [
        "alice/backup.sh",
        "alice/backup.sh:2",
        "alice/run",
        "alice/tidy",
        "alice/b",
        "alice/command",
    ]


def test_a_prefix_takes_the_place_of_the_files_name() -> None:
    plan = read_crontab("@daily x", system=False, source="/tmp/some file!", prefix="web1:cron")
    other = read_crontab("@daily x", system=False, source="/tmp/some file!")

    assert plan.entries[0].job.name == "web1:cron/x"
    assert other.entries[0].job.name == "some-file/x"
    with pytest.raises(Invalid, match="prefix"):
        read_crontab("", system=False, source="f", prefix="a b")


def test_odd_but_readable_lines_are_read() -> None:
    plan = user("\t@daily a\r\n-*/5 * * * * b\n   # comment\n \t \n* * * * * c  ")

    assert [line.kind for line in plan.lines] == ["entry", "entry", "comment", "blank", "entry"]
    assert "logging" in plan.lines[1].note
    assert plan.entries[1].schedule.expression == "*/5 * * * *"
    assert plan.entries[2].job.target == "c"
