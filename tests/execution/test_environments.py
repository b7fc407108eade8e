"""Python jobs in environments of their own: real interpreters, started by the runner that needs no Rota there."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rota.engine.watch import end_of
from rota.execution.command import RUNNER_PATH, argv_for_environment
from rota.execution.order import Outcome
from rota.execution.runner import PYTHON_MIN
from tests.execution.harness import ROOT, Harness
from tests.execution.pythons import TOO_OLD, VERSIONS, YOUNG_ENOUGH
from tests.execution.test_python_job import FACTS

# What a job's process may import of Rota under another Python, and what these bring along.
LENT = [
    "rota", "rota.crash", "rota.errors", "rota.execution.context", "rota.execution.inline", "rota.execution.python_job",
    "rota.execution.report", "rota.execution.wire", "rota.model.documents", "rota.model.durations",
    "rota.model.outcomes",
]  # fmt: skip
LENT_TO_WARM_PARENTS = [
    "rota.execution.cgroup", "rota.execution.forked_job", "rota.execution.imported_files", "rota.execution.limits",
    "rota.execution.linux", "rota.execution.spawn", "rota.execution.warm_birth", "rota.execution.warm_parent",
]  # fmt: skip

APPLICATION = """
import sys
from rota import Release, Retry, Skip, current_run

def look():
    run = current_run()
    return {
        "version": list(sys.version_info[:2]), "prefix": sys.prefix, "path": sys.path, "file": __file__,
        "rota": sys.modules["rota"].__file__, "args": run.args, "slot": str(run.slot), "key": run.key,
    }
def wish(kind):
    raise {"skip": Skip, "release": Release, "retry": lambda text: Retry(text, after="1h30m")}[kind]("for a reason")
def fail(): raise ValueError("no good")
def early():
    current_run().result({"half": 0.5})
    import os
    os._exit(0)
def spawned():
    import multiprocessing
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(of_run)
def of_run():
    return current_run().run_id
def heavy():
    import sqlalchemy
"""


@pytest.fixture
def application(folder: Path) -> Path:
    (folder / "shop").mkdir()
    (folder / "shop/app.py").write_text(APPLICATION)
    return folder / "shop"


@pytest.fixture
def call(harness: Harness, application: Path) -> Callable[..., Outcome]:
    def run_callable(python: str, target: str, arguments: Any = None, *, folder: str = str(application)) -> Outcome:
        text = json.dumps(arguments or {})
        environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": folder, **FACTS, "ROTA_ARGS": text}
        return harness.run(
            *argv_for_environment(target, python, "shop==1.2"),
            environment=environment,
            arguments=text,
            expects_result=True,
            cwd="/",
        )

    return run_callable


def read(outcome: Outcome) -> Any:
    assert outcome.result is not None, outcome
    return json.loads(outcome.result)


def check_a_job(call: Callable[..., Outcome], python: str) -> dict[str, Any]:
    """Have a job do all it can do with what is lent to it, and return what it saw."""
    seen = read(call(python, "app:look"))
    assert (seen["args"], seen["slot"], seen["key"]) == ({}, "2026-11-20 07:00:00+00:00", "s/1")
    assert Path(seen["rota"]) == ROOT / "rota/__init__.py"
    ends = [end_of(call(python, "app:wish", {"kind": kind})) for kind in ("skip", "release", "retry")]
    assert [(end.kind, end.retry_after_seconds) for end in ends] == [
        ("no_op", None), ("released", None), ("exception", 5400.0),
    ]  # fmt: skip
    failed = call(python, "app:fail")
    assert (failed.error_type, failed.error_message) == ("ValueError", "no good")
    assert failed.traceback is not None
    assert "runner.py" not in failed.traceback
    assert read(call(python, "app:early")) == {"half": 0.5}
    return seen


def test_a_job_in_a_bare_virtual_environment_has_rota_and_nothing_else_of_the_worker(
    call: Callable[..., Outcome], application: Path, bare_python: str
) -> None:
    seen = check_a_job(call, bare_python)

    assert seen["prefix"] == str(Path(bare_python).parents[1])
    assert seen["path"][0] == str(application)
    assert not [one for one in seen["path"] if Path(one).is_relative_to(ROOT) or Path(one).is_relative_to(sys.prefix)]
    assert call(bare_python, "app:heavy").error_type == "ModuleNotFoundError"


@pytest.mark.parametrize("python", YOUNG_ENOUGH)
def test_a_job_runs_under_another_version_of_python(call: Callable[..., Outcome], python: str) -> None:
    seen = check_a_job(call, python)

    assert tuple(seen["version"]) == VERSIONS[python]


@pytest.mark.parametrize("python", TOO_OLD)
def test_an_interpreter_that_is_too_old_is_refused(call: Callable[..., Outcome], python: str) -> None:
    end = end_of(call(python, "app:look"))

    assert (end.kind, end.error_type) == ("not_started", "EnvironmentBroken")
    assert end.error_message is not None
    assert f"of environment shop==1.2 is Python {'.'.join(map(str, VERSIONS[python]))}." in end.error_message


def test_processes_that_a_job_spawns_have_rota_too(call: Callable[..., Outcome], bare_python: str) -> None:
    assert read(call(bare_python, "app:spawned")) == 7


def test_a_rota_that_is_installed_there_does_not_come_between_a_job_and_its_guardian(
    call: Callable[..., Outcome], application: Path, bare_python: str
) -> None:
    (application / "rota").mkdir()
    (application / "rota/__init__.py").write_text("raise RuntimeError('another version')")
    # As an editable installation does: it is imported before anything of ours runs.
    (packages,) = Path(bare_python).parents[1].glob("lib/python*/site-packages")
    early = "import sys, types; sys.modules['rota'] = sys.modules['rota.errors'] = types.ModuleType('rota')"
    (packages / "early.pth").write_text(early)
    try:
        seen = read(call(bare_python, "app:look"))
    finally:
        (packages / "early.pth").unlink()

    assert Path(seen["rota"]) == ROOT / "rota/__init__.py"


def test_two_modules_of_the_same_name_do_not_meet(
    call: Callable[..., Outcome], folder: Path, application: Path, bare_python: str
) -> None:
    (folder / "other").mkdir()
    (folder / "other/app.py").write_text("def look(): return {'file': __file__}")

    files = [read(call(bare_python, "app:look", folder=str(folder / name)))["file"] for name in ("shop", "other")]

    assert files == [str(folder / "shop/app.py"), str(folder / "other/app.py")]


def test_names_of_rota_s_own_modules_are_free_for_an_application(
    call: Callable[..., Outcome], application: Path, bare_python: str
) -> None:
    for name in ("command", "order", "report", "wire", "runner", "output"):
        (application / f"{name}.py").write_text("MINE = True")
    (application / "app.py").write_text(
        "import command, order, output, report, runner, wire\n"
        "def look(): return [one.MINE for one in (command, order, output, report, runner, wire)]"
    )

    assert read(call(bare_python, "app:look")) == [True] * 6


def test_an_interpreter_that_takes_itself_for_too_old_is_refused(
    harness: Harness, folder: Path, application: Path, bare_python: str
) -> None:
    # What the runner does under an old Python, by a new one that takes itself for old.
    old = folder / "old"
    line = (
        "import runpy, sys; sys.version_info = (3, 6, 8); sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], None, '__main__')"
    )
    old.write_text(f'#!/bin/sh\nexec {bare_python} -c "{line}" "$@"\n')
    old.chmod(0o755)

    outcome = harness.run(
        *argv_for_environment("app:look", str(old), "shop==1.2"),
        environment={"PATH": "/usr/bin:/bin", **FACTS},
        expects_result=True,
    )

    end = end_of(outcome)
    assert end.kind == "not_started"
    assert end.error_message is not None
    assert "of environment shop==1.2 is Python 3.6.8, and Python jobs need 3.9 or later" in end.error_message


# What is lent


def test_what_is_lent_needs_the_standard_library_only(bare_python: str) -> None:
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
before = set(sys.modules)
import {", ".join(LENT + LENT_TO_WARM_PARENTS)}
print(*sorted(set(sys.modules) - before))
"""

    imported = subprocess.run(
        [bare_python, "-I", "-S", "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()

    ours = {name for name in imported if name.partition(".")[0] == "rota"}
    assert {name.partition(".")[0] for name in imported} - {"rota"} <= sys.stdlib_module_names
    # Whatever else they import has to be on the list, so that the next test reads it too.
    assert ours == {*LENT, *LENT_TO_WARM_PARENTS, "rota.execution", "rota.model"}


@pytest.mark.parametrize("name", [*LENT, *LENT_TO_WARM_PARENTS, "rota.execution.runner"])
def test_what_is_lent_is_written_for_the_oldest_python_that_may_run_it(name: str) -> None:
    path = ROOT / name.replace(".", "/")
    source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()

    tree = ast.parse(source, feature_version=PYTHON_MIN)

    for_checkers = {inner for node in ast.walk(tree) if _is_for_checkers(node) for inner in ast.walk(node)}
    too_new = [ast.unparse(node) for node in ast.walk(tree) if node not in for_checkers and _is_too_new(node)]
    assert too_new == []


def _is_for_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def _is_too_new(node: ast.AST) -> bool:
    """Find what parses under Python 3.9 and fails there all the same, of what this code uses elsewhere."""
    match node:
        case ast.Call(func=ast.Name(id="isinstance" | "issubclass"), args=[_, ast.BinOp(op=ast.BitOr())]):
            return True
        case ast.keyword(arg="slots" | "kw_only" | "strict"):
            return True
        case ast.ImportFrom(module="enum" | "datetime" | "typing", names=names):
            new = {"StrEnum", "UTC", "Self", "ParamSpec", "TypeGuard", "assert_never", "Never"}
            return any(alias.name in new for alias in names)
        case _:
            return False


def test_the_runner_can_be_read_by_pythons_that_are_too_old_to_use() -> None:
    # To tell that they are too old they have to parse it: nothing later than Python 2.7.
    tree = ast.parse(Path(RUNNER_PATH).read_text(), feature_version=(3, 0))

    too_new = (ast.JoinedStr, ast.AnnAssign, ast.Nonlocal, ast.YieldFrom, ast.Starred)
    assert [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, too_new) or _is_annotated(node)] == []


def _is_annotated(node: ast.AST) -> bool:
    match node:
        case ast.arg(annotation=found) | ast.FunctionDef(returns=found):
            return found is not None
        case _:
            return False
