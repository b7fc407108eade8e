"""The bare clients of the databases, psql, mariadb and sqlite3, do what the command line does; a worker answers."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
from sqlalchemy.engine import make_url

from tests.cluster.cluster import Cluster

pytestmark = pytest.mark.every_database

CLIENTS = {"sqlite": "sqlite3", "postgresql": "psql", "mysql": "mariadb"}


class Prompt:
    """The client of a database, started anew for each statement: it knows nothing of Rota."""

    def __init__(self, database_url: str) -> None:
        url = make_url(database_url)
        self.program = CLIENTS[url.get_backend_name()]
        if shutil.which(self.program) is None:
            pytest.skip(
                f"NOT TESTED: there is no {self.program}; apt-get install sqlite3 postgresql-client mariadb-client"
            )
        given = {
            "sqlite3": ["-batch", "-bail", "-cmd", ".timeout 10000", str(url.database)],
            "psql": ["-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1", "-h", str(url.host), "-p", str(url.port),
                     "-U", str(url.username), str(url.database)],
            "mariadb": ["--no-defaults", "--skip-column-names", "--raw", f"--host={url.host}", f"--port={url.port}",
                        f"--user={url.username}", "--protocol=tcp", "--skip-ssl", str(url.database)],
        }  # fmt: skip
        self.command = [self.program, *given[self.program]]

    def send(self, statement: str) -> str:
        done = subprocess.run(
            self.command, input=f"{statement};\n", capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


def test_a_job_is_made_run_and_looked_at_from_a_bare_prompt(cluster: Cluster) -> None:
    prompt = Prompt(cluster.url)
    cluster.start("a")

    adding = """values ('job.add', 'report', '{"shell": "echo done"}')"""
    prompt.send(f"insert into rota_command (verb, target, params) {adding}")
    prompt.send("insert into rota_command (verb, target) values ('job.run', 'report'), ('job.puase', 'report')")
    pending = "select count(*) from rota_command where state = 'pending'"
    cluster.wait(lambda: prompt.send(pending) == "0", "all are answered")

    assert prompt.send("select state from rota_command order by id").split() == ["done", "done", "refused"]
    assert json.loads(prompt.send("select outcome from rota_command where id = 2"))["job"] == "report"
    refused = json.loads(prompt.send("select error from rota_command where id = 3"))
    assert "did you mean job.pause?" in refused["message"]
    succeeded = "select count(*) from rota_last_results where job = 'report' and state = 'succeeded'"
    cluster.wait(lambda: prompt.send(succeeded) == "1", "it has run")
    assert prompt.send("select count(*) from rota_violations") == "0"
