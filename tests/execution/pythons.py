"""The Pythons of this machine other than the one that the tests run under."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rota.execution.runner import PYTHON_MIN


def _find() -> dict[str, tuple[str, tuple[int, ...]]]:
    """Find those of other versions that work, pyenv's too; OTHER_PYTHONS names more, by path, with : between."""
    found = [path for minor in range(20) if (path := shutil.which(f"python3.{minor}"))]
    found += [path for name in ("pypy3", "python2") if (path := shutil.which(name))]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found += sorted(map(str, pyenv.glob("versions/*/bin/python")))
    found += [path for path in os.environ.get("OTHER_PYTHONS", "").split(":") if path]
    working: dict[str, tuple[str, tuple[int, ...]]] = {}
    for path in found:
        line = "import platform, sys; print((platform.python_implementation(), sys.version_info[:2]))"
        asked = subprocess.run([path, "-c", line], capture_output=True, check=False)
        if asked.returncode == 0:  # else a launcher for a version that is not installed
            working[path] = ast.literal_eval(asked.stdout.decode())
    return {path: facts for path, facts in working.items() if facts != ("CPython", sys.version_info[:2])}


_NONE = [pytest.param("", marks=pytest.mark.skip("there is none on this machine"))]
_FOUND = _find()
VERSIONS = {path: version for path, (_, version) in _FOUND.items()}
YOUNG_ENOUGH = [path for path, version in VERSIONS.items() if version >= PYTHON_MIN] or _NONE
TOO_OLD = [path for path, version in VERSIONS.items() if version < PYTHON_MIN] or _NONE
FORKING = [path for path in YOUNG_ENOUGH if path in _FOUND and _FOUND[path][0] == "CPython"]  # warm parents are
