"""Environments: named, versioned code bases that jobs may ask for.

A node has those that applications register on it or that its configuration names; a job asks for one by ``NAME`` (any
version) or ``NAME==VERSION``. A job that asks for none runs in the worker's own. Checked here for every source and at
every door.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import cast

from rota.errors import Invalid
from rota.model.job import check_text, check_variables
from rota.model.names import check_env, check_name, check_version

ENVIRONMENTS_MAX = 100  # of a node: all of them are named in every look
FOLDERS_MAX = 100

_NUMBER = re.compile(r"([0-9]+)")


@dataclass(frozen=True, slots=True)
class Environment:
    """One code base on one node. Made by ``checked``."""

    name: str
    version: str
    interpreter: str | None = None  # None: the worker's own
    python_path: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def checked(
        cls,
        name: object,
        *,
        version: object,
        interpreter: object = None,
        python_path: object = (),
        variables: object = None,
    ) -> Environment:
        """Make an environment from what somebody wrote.

        Raises:
            Invalid: a value breaks its rule; ``field`` is the name of the parameter.
        """
        found = cls(
            name=check_name("name", name),
            version=check_version("version", version),
            interpreter=None if interpreter is None else _check_path("interpreter", interpreter),
            python_path=_check_folders(python_path),
            variables=_check_variables(variables),
        )
        check_env("name", found.spelled)  # for both together
        return found

    @property
    def spelled(self) -> str:
        """The way a job asks for exactly this one."""
        return f"{self.name}=={self.version}"


class Environments:
    """What one node has, and what jobs may call it."""

    def __init__(self, found: Iterable[Environment] = ()) -> None:
        """Take up to ``ENVIRONMENTS_MAX``; of two with the same name and version the first counts."""
        self._found: dict[str, Environment] = {}
        for one in found:
            self._found.setdefault(one.spelled, one)
        if len(self._found) > ENVIRONMENTS_MAX:
            rule = f"a node has at most {ENVIRONMENTS_MAX}"
            raise Invalid("environments", f"{len(self._found)} environments", rule)
        self._newest: dict[str, Environment] = {}
        for one in sorted(self._found.values(), key=lambda one: sort_key(one.version)):
            self._newest[one.name] = one
        self.spelled = tuple(sorted(self._found))
        # With '' a list for SQL is never empty, and a job whose `env` somebody has set to nothing asks for none.
        self.wanted = ("", *self.spelled, *sorted(self._newest))

    def find(self, env: str) -> Environment | None:
        """Return what a job gets here that asks for ``env``: of several versions the newest."""
        return self._found.get(env) or self._newest.get(env)


NO_ENVIRONMENTS = Environments()


def sort_key(version: str) -> list[tuple[int, int, str]]:
    """Order versions: numbers in them as numbers, the rest as text."""
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in _NUMBER.split(version) if part]


def _check_path(name: str, value: object) -> str:
    path = check_text(name, value)
    if not path.startswith("/"):
        raise Invalid(name, value, "it is an absolute path; the worker's own place is no base for it")
    return path


def _check_folders(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise Invalid("python_path", value, "it is a list of folders")
    folders = tuple(_check_path("python_path", folder) for folder in cast("list[object]", value))
    if len(folders) > FOLDERS_MAX:
        raise Invalid("python_path", f"{len(folders)} folders", f"there are at most {FOLDERS_MAX}")
    for folder in folders:
        if ":" in folder:
            raise Invalid("python_path", folder, "a folder on the import path cannot have : in its name")
    return folders


def _check_variables(value: object) -> dict[str, str]:
    variables = check_variables("variables", value)
    if "PYTHONPATH" in variables:
        raise Invalid("variables", "PYTHONPATH", "the import path is given as python_path, a list of folders")
    return variables
