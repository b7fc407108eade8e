"""The documentation as the tests see it: pages, headings, links, and blocks that are run.

A block marked ``console`` is typed into a shell: lines that begin with ``$ `` are commands, and what follows is their
output, with ``...`` for what differs from time to time. One that ends with ``&`` goes on in the background until the
page is done. A ``python`` or ``toml`` block whose first line is a comment with a file's name is written to that file;
other Python is executed. Blocks of other languages are only read.
"""

from __future__ import annotations

import doctest
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
OTHER_PAGES = (
    *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "examples").rglob("README.md")),
)
RUN_LANGUAGES = ("console", "python", "toml")

COMMAND_SECONDS_MAX = 60  # a hang guard
LEAVE_SECONDS_MAX = 20

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FILE = re.compile(r"# ([\w./-]+\.(?:py|toml))\n")


@dataclass(frozen=True, slots=True)
class Block:
    """One block of code."""

    language: str
    text: str
    line: int


def find_blocks(page: Path) -> list[Block]:
    """Return the blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [Block(found[1], found[2], text.count("\n", 0, found.start()) + 1) for found in _FENCE.finditer(text)]


def read_prose(page: Path) -> str:
    """Return a page without its blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def find_headings(page: Path) -> list[str]:
    """Return the texts of a page's headings."""
    return _HEADING.findall(read_prose(page))


def find_links(page: Path) -> list[str]:
    """Return what a page links to."""
    return _LINK.findall(read_prose(page))


def anchor_of(heading: str) -> str:
    """Return the anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def run_page(page: Path, folder: Path) -> None:
    """Run the blocks of a page in ``folder``, in order; what it left in the background is stopped in the end.

    Raises:
        AssertionError: a command failed, or wrote something else than the page says.
    """
    environment = _environment(folder)
    background: list[subprocess.Popen[bytes]] = []
    statuses: list[int] = []
    try:
        for block in find_blocks(page):
            if block.language in RUN_LANGUAGES:
                _run_block(block, folder, environment, background, f"{page.name}:{block.line}")
    finally:
        statuses = _stop(background)
    assert not any(statuses), f"{page.name}: commands in the background ended with {statuses}{_read_logs(folder)}"


def _environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ROTA_", "PYTHON", "XDG_"))}
    kept |= {"HOME": str(folder), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    # A page that does not say where its database is means this one, which no other page has.
    return kept | {"ROTA_DB": f"sqlite:///{folder}/rota.db", "COLUMNS": "120"}


def _run_block(
    block: Block,
    folder: Path,
    environment: dict[str, str],
    background: list[subprocess.Popen[bytes]],
    place: str,
) -> None:
    named = _FILE.match(block.text)
    if named:
        (folder / named[1]).write_text(block.text, encoding="utf-8")
    elif block.language == "python":
        _expect(place, [sys.executable, "-c", block.text], None, folder, environment)
    else:
        for command, output in split_commands(block.text):
            exported = re.fullmatch(r"export (\w+)=(\S+)", command)
            if exported:
                environment[exported[1]] = exported[2]
            elif command.endswith("&"):
                background.append(_start(command.removesuffix("&"), folder, environment, len(background)))
                if command.startswith("rota worker"):
                    _wait_until_ready(background[-1], folder / f"background-{len(background) - 1}.log")
            else:
                _expect(place, ["/bin/bash", "-c", command], output, folder, environment)


def split_commands(text: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a console block, and the output that follows it."""
    for piece in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = piece.partition("\n")
        yield command.strip(), output


def _start(command: str, folder: Path, environment: Mapping[str, str], number: int) -> subprocess.Popen[bytes]:
    with (folder / f"background-{number}.log").open("wb") as log:
        return subprocess.Popen(
            ["/bin/bash", "-c", f"exec {command}"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _wait_until_ready(worker: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a worker is registered, as it is by the time that a person has typed the next line."""
    until = time.monotonic() + COMMAND_SECONDS_MAX
    while b" rota.worker: node " not in log.read_bytes():
        said = log.read_text("utf-8", "replace")
        assert worker.poll() is None, f"{worker.args!r} has ended:\n{said}"
        assert time.monotonic() < until, f"{worker.args!r} has not become ready:\n{said}"
        time.sleep(0.02)


def _expect(place: str, argv: list[str], output: str | None, folder: Path, environment: Mapping[str, str]) -> None:
    try:
        done = subprocess.run(
            argv,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_SECONDS_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise AssertionError(f"{place}: {argv[-1]}\nhas not ended{_read_logs(folder)}") from None
    written = done.stdout.decode("utf-8", "replace")
    assert done.returncode == 0, f"{place}: {argv[-1]}\nended with {done.returncode}:\n{written}{_read_logs(folder)}"
    if output:
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        is_as_said = doctest.OutputChecker().check_output(output, written, flags)
        assert is_as_said, f"{place}: {argv[-1]}\nthe page says:\n{output}\nit wrote:\n{written}"


def _read_logs(folder: Path) -> str:
    return "".join(f"\n{log.name}:\n{log.read_text('utf-8', 'replace')}" for log in sorted(folder.glob("*.log")))


def _stop(background: list[subprocess.Popen[bytes]]) -> list[int]:
    """Have each stop its jobs and leave, and return how they ended."""
    for process in background:
        for number in (signal.SIGINT, signal.SIGQUIT):  # two equal ones may become one
            if process.poll() is None:
                process.send_signal(number)
    return [_wait_for(process) for process in background]


def _wait_for(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(LEAVE_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
