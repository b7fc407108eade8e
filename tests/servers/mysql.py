"""MySQL, as its own makers build it: the machine's, or the program that ``ROTA_TEST_MYSQLD`` names.

Where ``mysqld`` is MariaDB's, under its old name, it does not count. For a server out of an unpacked folder the program
is a small script, which passes its own arguments on first, adds what the folder needs, and becomes the server:

    #!/bin/sh
    exec /opt/mysql/bin/mysqld "$@" --lc-messages-dir=/opt/mysql/share --plugin-dir=/opt/mysql/lib/plugin
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tests.servers.base import Prepare, Unavailable
from tests.servers.mariadb import MariaDB, ask_version, look_up, run_server, version_in

PROGRAM_VARIABLE = "ROTA_TEST_MYSQLD"
INSTALL = f"install mysql-server, or name the program in {PROGRAM_VARIABLE}"


class MySQL(MariaDB):
    """Databases on one MySQL server, made and dropped as on MariaDB's."""

    kind = "mysql"
    product = "MySQL"


@contextlib.contextmanager
def mysql_server(*, durable: bool = False, prepare: Prepare | None = None) -> Iterator[MySQL]:
    """Run a MySQL server for as long as the block lasts.

    Raises:
        Unavailable: there is none.
    """
    program, version = find_program()
    # Names are resolved, unlike on MariaDB: the one account that a new data folder has is root@localhost.
    start = [program, "--mysqlx=OFF", "--secure-file-priv=NULL"]
    if not durable:
        start.append("--performance-schema=OFF")  # half of the server's memory
    with run_server(
        MySQL, version, [program, "--initialize-insecure"], start, durable=durable, prepare=prepare
    ) as server:
        yield server


def find_program() -> tuple[Path, str]:
    """Return the server and its version."""
    if named := os.environ.get(PROGRAM_VARIABLE):
        program = look_up(named)
        if program is None:
            raise Unavailable(f"MySQL not found: {PROGRAM_VARIABLE} names {named}, which is no program")
    else:
        program = look_up("mysqld")
        if program is None:
            raise Unavailable(f"MySQL not found: {INSTALL}")
    said = ask_version(program)
    if "MariaDB" in said:
        raise Unavailable(f"MySQL not found, {program} is MariaDB's: {INSTALL}")
    if not said:
        raise Unavailable(f"MySQL not found, {program} does not say its version: {INSTALL}")
    return program, version_in(said)
