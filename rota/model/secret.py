"""Secrets of jobs: a job names them, a node's configuration says where they are, the database knows the names alone.

Invariant: no value is ever part of what is made here. A name is that of the environment variable by which the job's
process gets it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from rota.errors import Invalid
from rota.model.alerts import VARIABLE_PREFIX

SECRETS_MAX = 50  # of a job, and of a node
NAME_LENGTH_MAX = 100

_NAME = re.compile(rf"[A-Za-z_][A-Za-z0-9_]{{0,{NAME_LENGTH_MAX - 1}}}", re.ASCII)


@dataclass(frozen=True, slots=True)
class SecretSource:
    """Where a node finds a secret: in a file, or in a variable of the worker's environment. Made by ``checked``."""

    name: str
    file: str | None = None
    env: str | None = None
    text: str | None = field(default=None, repr=False)  # itself: of channels alone, whose addresses are secret too

    @classmethod
    def checked(cls, name: object, *, file: object = None, env: object = None) -> SecretSource:
        """Make a source from what somebody wrote.

        Raises:
            Invalid: a value breaks its rule. Only names and paths are shown: what stands elsewhere may be the secret.
        """
        found = check_secret_name("secrets", name)
        if (file is None) == (env is None):
            raise Invalid("secrets", found, "it has either file or env: where the secret is, and not the secret itself")
        return cls.checked_place(f"secrets.{found}", found, file=file, env=env)

    @classmethod
    def checked_place(cls, where: str, name: str, *, file: object = None, env: object = None) -> SecretSource:
        """Make a source of a name that is known to be one, from the one place that somebody wrote at ``where``.

        Raises:
            Invalid: it is no place, or there are two.
        """
        if (file is None) == (env is None):
            raise Invalid(where, "(not shown)", "it has either file or env")
        if file is not None and (not isinstance(file, str) or not file.startswith("/") or "\0" in file):
            raise Invalid(f"{where}.file", _hidden(file), "it is the absolute path of a file")
        if env is not None and (not isinstance(env, str) or not _NAME.fullmatch(env)):
            raise Invalid(f"{where}.env", _hidden(env), "it is the name of a variable of the worker's environment")
        return cls(name, file, env)

    def __str__(self) -> str:
        if self.text is not None:
            return "the settings"
        return f"variable {self.env}" if self.file is None else f"file {self.file}"


def _hidden(value: object) -> str:
    """Stand for a value that is refused, and may be a secret that somebody wrote into the wrong place."""
    return f"({type(value).__name__})"


def check_secret_name(field: str, value: object, *, own: str | None = None) -> str:
    """Return ``value`` if it can name a secret; one of Rota's own begins with ``own``."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        rule = f"a secret is named as a variable: up to {NAME_LENGTH_MAX} letters, digits and _, and no digit first"
        if isinstance(value, str) and "=" in value:  # the value was given along
            value = value.partition("=")[0] + "=..."
        raise Invalid(field, value, rule)
    if value.startswith("ROTA_") and (own is None or not value.startswith(own)):
        raise Invalid(field, value, "names that begin with ROTA_ are Rota's own; choose another")
    return value


def check_secrets(value: object, variables: Mapping[str, str], *, own: str | None = None) -> tuple[str, ...]:
    """Return the names of a job's secrets, sorted; none for None and for ``none``. ``variables`` are the job's own.

    A job of Rota's own may have those that begin with ``own``.

    Raises:
        Invalid: a name is none, is there twice, or is that of a variable.
    """
    if value is None or value == "none":
        return ()
    if not isinstance(value, list | tuple):
        raise Invalid("secrets", value, "it is a list of names")
    names = [check_secret_name("secrets", name, own=own) for name in cast("Iterable[object]", value)]
    if len(names) > SECRETS_MAX:
        raise Invalid("secrets", f"{len(names)} secrets", f"a job has at most {SECRETS_MAX}")
    for name in names:
        if names.count(name) > 1:
            raise Invalid("secrets", name, "it is named twice")
        if name in variables:
            raise Invalid(
                "secrets", name, "the job's variables set it: take it out there, or give the secret another name"
            )
    return tuple(sorted(names))


def read_names(text: str | None) -> tuple[str, ...]:
    """Read what a row holds.

    Raises:
        Invalid: somebody wrote there what no door would have accepted.
    """
    if not text:
        return ()
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise Invalid("secrets", text, "it is a JSON list of names: correct it with `rota job edit`")
    try:
        return check_secrets(cast("list[object]", found), {}, own=VARIABLE_PREFIX)
    except Invalid as error:
        raise Invalid(error.field, error.value, f"{error.rule}: correct it with `rota job edit`") from None
