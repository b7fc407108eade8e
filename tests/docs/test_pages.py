"""The documentation says what is so: its blocks run, its links lead somewhere, its reference is that of the code."""

from __future__ import annotations

import ast
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import pytest

import rota
from docs.generate import FOLDER, render_page
from docs.generate import PAGES as PAGES_WRITTEN
from docs.generate.python import error_classes
from rota import config
from rota.cli.main import main as root_command
from rota.model.reasons import Reason
from rota.model.states import RunState
from tests.docs.pages import (
    OTHER_PAGES,
    PAGES,
    ROOT,
    RUN_LANGUAGES,
    anchor_of,
    find_blocks,
    find_headings,
    find_links,
    run_page,
    split_commands,
)

RUN_PAGES = [page for page in PAGES if any(block.language in RUN_LANGUAGES for block in find_blocks(page))]
README_PROMISES_WITHIN = 40
SCENARIOS = FOLDER / "scenarios.md"
SCENARIOS_COUNT = 92
OPEN = "**open**"


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: the sockets of a worker have their paths in it."""
    with TemporaryDirectory(prefix="rota-docs-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.mark.parametrize("page", RUN_PAGES, ids=name_of)
def test_what_a_page_shows_can_be_typed(page: Path, folder: Path) -> None:
    run_page(page, folder)

    if (folder / "rota.db").exists():
        with closing(sqlite3.connect(folder / "rota.db")) as connection:
            assert connection.execute("select * from rota_violations").fetchall() == []


@pytest.mark.parametrize("name", PAGES_WRITTEN)
def test_a_generated_page_is_what_the_code_says_today(name: str) -> None:
    written = (FOLDER / name).read_text(encoding="utf-8") if (FOLDER / name).exists() else ""

    assert written == render_page(name), "run `make docs`"


def test_no_page_of_the_reference_is_left_over() -> None:
    found = {f"reference/{path.name}" for path in (FOLDER / "reference").glob("*.md")}

    assert found == {name for name in PAGES_WRITTEN if name.startswith("reference/")}


@pytest.mark.parametrize("page", [*PAGES, *OTHER_PAGES], ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = [link for link in find_links(page) if not leads_somewhere(page, link)]

    assert broken == []


def test_the_unit_for_systemd_leaves_jobs_alone_and_lets_them_find_rota() -> None:
    text = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
    unit = text[text.index("[Service]") : text.index("[Install]")].splitlines()

    assert "KillMode=process" in unit  # the usual one kills guardians and jobs with their worker
    program = next(line.partition("=")[2] for line in unit if line.startswith("ExecStart=")).split()[0]
    paths = next(line.rpartition("=")[2] for line in unit if line.startswith("Environment=PATH="))
    assert str(Path(program).parent) in paths.split(":")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_test_that_a_page_names_is_there(page: Path) -> None:
    named = set(re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8")))
    there = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }

    assert named - there == set()


def read_scenarios() -> list[tuple[int, str]]:
    """Return the number of each row of the scenarios, and what it says that proves it."""
    rows = re.findall(r"^\| *\d.*$", SCENARIOS.read_text(encoding="utf-8"), re.MULTILINE)
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row for row in cells if len(row) != 4 or not all(row)] == [], "four cells, and none is empty"
    return [(int(number), proof) for number, _, _, proof in cells]


def read_names_of_functions(path: Path) -> set[str]:
    """Return the functions of a module, not those that it only mentions."""
    body = ast.parse(path.read_text(encoding="utf-8")).body if path.is_file() else []
    return {statement.name for statement in body if isinstance(statement, ast.FunctionDef)}


def test_the_scenarios_are_numbered_from_1_to_92() -> None:
    assert [number for number, _ in read_scenarios()] == list(range(1, SCENARIOS_COUNT + 1))


def test_every_test_that_is_to_show_a_scenario_is_there() -> None:
    named = [word.split("::") for _, proof in read_scenarios() for word in re.findall(r"`(tests/[^`]+)`", proof)]
    there = {path: read_names_of_functions(ROOT / path) for path, *_ in named}

    assert len(named) > SCENARIOS_COUNT
    assert [name for name in named if not name[-1].startswith("test_") or name[-1] not in there[name[0]]] == []


def test_a_scenario_is_shown_by_a_test_or_says_what_is_open_and_why() -> None:
    for number, proof in read_scenarios():
        shown, mark, reason = proof.partition(OPEN)
        assert mark or "::test_" in shown, f"{number} is neither shown nor open"
        assert not mark or re.match(r": \S+ \S+ \S+", reason), f"{number} is open, and does not say why"


def test_the_scenarios_are_counted_as_they_are() -> None:
    proofs = [proof for _, proof in read_scenarios()]
    is_open, in_part = (
        sum(OPEN in proof and proof.startswith(OPEN) is whole for proof in proofs) for whole in (True, False)
    )
    shown = SCENARIOS_COUNT - is_open - in_part

    told = f"{shown} of the {SCENARIOS_COUNT} are shown, {in_part} are shown in part, {is_open} are open"
    assert told in SCENARIOS.read_text(encoding="utf-8")


def leads_somewhere(page: Path, link: str) -> bool:
    if link.startswith(("https://", "http://")):
        return True  # the network is not asked
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    return target.exists() and (not anchor or anchor in [anchor_of(heading) for heading in find_headings(target)])


def test_the_readme_tells_the_promises_within_forty_lines() -> None:
    beginning = "\n".join((ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:README_PROMISES_WITHIN])

    for needed in ("make demo", "make test", "$ rota worker &", "**Promised**", "**Not promised**", "**Not yet**"):
        assert needed in beginning


def walk_commands(command: click.Command, path: str) -> Iterator[str]:
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from walk_commands(found, f"{path} {name}")


def test_every_command_setting_and_error_has_a_heading() -> None:
    assert set(walk_commands(root_command, "rota")) <= set(find_headings(FOLDER / "reference/commands.md"))
    assert set(config.KEYS) <= set(find_headings(FOLDER / "reference/settings.md"))
    assert {kind.code for kind in error_classes()} <= set(find_headings(FOLDER / "reference/errors.md"))
    assert {name for name in public_names() if name[0] != "_"} <= set(find_headings(FOLDER / "reference/python.md"))


def public_names() -> set[str]:
    listed = {kind.__name__ for kind in error_classes()}
    return {name for name in rota.__all__ if name not in listed and name != "RotaError"}


def test_every_state_and_reason_is_described() -> None:
    text = (FOLDER / "reference/states.md").read_text(encoding="utf-8")

    assert [word for word in [*RunState, *Reason] if f"| `{word}` |" not in text] == []


def test_a_page_that_says_what_is_not_so_is_found_out(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```console\n$ echo one\ntwo\n```\n", encoding="utf-8")

    with pytest.raises(AssertionError, match="it wrote:\none"):
        run_page(page, tmp_path)


def test_a_page_whose_command_fails_is_found_out(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```console\n$ false\n```\n", encoding="utf-8")

    with pytest.raises(AssertionError, match="false\nended with 1"):
        run_page(page, tmp_path)


def test_output_belongs_to_the_command_before_it() -> None:
    assert list(split_commands("$ one\nfirst\n$ two &\n")) == [("one", "first\n"), ("two &", "")]
