"""Databases for the tests: every test that asks for one gets a fresh one, on each kind that can be had.

- ``database_url``: a migrated database of its own; the test ends with ``rota_violations`` empty, or it fails.
- ``empty_database_url``: the same without the schema.
- ``ledger``: its rows, and a ``clock`` that stands still in place of the database's.
- ``database_kind``: which kind it is; part of the test's id, so that ``-k mariadb`` chooses it.

``ROTA_TEST_DATABASES`` names the kinds to test with (all by default). A kind that cannot be had on this machine is
left out, and named in the header and the summary; one named in ``ROTA_TEST_DATABASES_REQUIRED`` must be had.
So must be the browser of ``tests/browser`` with ``ROTA_TEST_BROWSER_REQUIRED=1``; its tests are skipped without one.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser import chromium
from tests.clock import Clock
from tests.returning import switch_returning_off
from tests.servers import KINDS, STARTERS, Server, Unavailable, attach, find
from tests.servers.mysql import PROGRAM_VARIABLE
from tests.store.counted import miscounted
from tests.store.ledger import Ledger

if TYPE_CHECKING:
    from sqlalchemy import Engine


class Servers:
    """The servers of this test run: each started when first asked for, or by the process that runs our workers."""

    def __init__(self, kinds: list[str], missing: dict[str, str], running: dict[str, tuple[str, str]]) -> None:
        self.kinds = kinds
        self.missing = missing  # kind: why it cannot be had
        self.running = running  # kind: admin URL and origin
        self._attached: dict[str, Server] = {}
        self._stack = ExitStack()

    def get(self, kind: str) -> Server:
        if kind in self.missing:
            pytest.skip(self.missing[kind])
        if kind not in self._attached:
            if kind in self.running:
                self._attached[kind] = self._stack.enter_context(attach(kind, *self.running[kind], prepare=migrate))
            else:
                server = self._stack.enter_context(STARTERS[kind](prepare=migrate))
                self._attached[kind], self.running[kind] = server, (server.admin_url, server.origin)
        return self._attached[kind]

    def close(self) -> None:
        self._stack.close()


EVERY_DATABASE = "--every-database"
STORE = Path(__file__).parent / "store"
SERVERS = pytest.StashKey[Servers]()


def migrate(url: str) -> None:
    from rota.store.database import Database
    from rota.store.migrate import upgrade

    database = Database(url)
    try:
        upgrade(database)
    finally:
        database.close()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(EVERY_DATABASE, action="store_true", help="run each test of whole workers on every database")


def _kinds_named(variable: str) -> list[str]:
    named = [word for word in os.environ.get(variable, "").replace(",", " ").split() if word]
    if unknown := [word for word in named if word not in KINDS]:
        raise pytest.UsageError(f"{variable} names {', '.join(unknown)}: choose from {', '.join(KINDS)}")
    return named


def pytest_configure(config: pytest.Config) -> None:
    switch_returning_off()
    given = getattr(config, "workerinput", None)
    if given is not None:
        config.stash[SERVERS] = Servers(*given["rota_servers"])
        return
    required = _kinds_named("ROTA_TEST_DATABASES_REQUIRED")
    kinds = _kinds_named("ROTA_TEST_DATABASES") or list(KINDS)
    missing: dict[str, str] = {}
    for kind in kinds:
        try:
            find(kind)
        except Unavailable as reason:
            missing[kind] = str(reason)
    for kind in required:
        if kind not in kinds:
            raise pytest.UsageError(f"{kind} is required, but ROTA_TEST_DATABASES leaves it out")
        if kind in missing:
            raise pytest.UsageError(f"{kind} is required: {missing[kind]}")
    if os.environ.get("ROTA_TEST_BROWSER_REQUIRED") and chromium.find() is None:
        raise pytest.UsageError(f"a browser is required: {chromium.MISSING}")
    config.stash[SERVERS] = Servers(kinds, missing, {})
    # What a developer has set for a database of their own must not reach the tests.
    for variable in [name for name in os.environ if name.startswith("ROTA_") and name != PROGRAM_VARIABLE]:
        del os.environ[variable]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Start the servers before the first of several workers; called by xdist in the process that starts them."""
    servers = node.config.stash[SERVERS]
    for kind in servers.kinds:
        if kind not in servers.missing:
            servers.get(kind)
    node.workerinput["rota_servers"] = (servers.kinds, servers.missing, servers.running)


def pytest_unconfigure(config: pytest.Config) -> None:
    if (servers := config.stash.get(SERVERS, None)) is not None:
        servers.close()


def _without(servers: Servers) -> list[str]:
    lines = [f"databases: NOT TESTED WITH {kind}: {reason}" for kind, reason in servers.missing.items()]
    if left_out := [kind for kind in KINDS if kind not in servers.kinds]:
        lines.append(f"databases: left out on request: {', '.join(left_out)}")
    return lines


def pytest_report_header(config: pytest.Config) -> list[str]:
    return _without(config.stash[SERVERS])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    servers = config.stash[SERVERS]
    used = [origin for _, origin in servers.running.values()]
    terminalreporter.section("databases")
    terminalreporter.write_line(f"databases: tested with {', '.join(used) or 'none'}")
    for line in _without(servers):
        terminalreporter.write_line(line, yellow=True)


def _runs_on_every_database(metafunc: pytest.Metafunc) -> bool:
    """Those of the store do, unless they are to take turns, and those that are marked so; of all others each takes one
    database, which its name says.

    All of them run on all databases by ``make test-databases``.
    """
    takes_turns = metafunc.definition.get_closest_marker("takes_turns") is not None
    is_of_store = metafunc.definition.path.is_relative_to(STORE) and not takes_turns
    is_marked = metafunc.definition.get_closest_marker("every_database") is not None
    return is_of_store or is_marked or metafunc.config.getoption(EVERY_DATABASE)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "database_kind" in metafunc.fixturenames:
        servers = metafunc.config.stash[SERVERS]
        # One that cannot be had is named in the header and the summary, not at each of its tests.
        kinds = [kind for kind in servers.kinds if kind not in servers.missing]
        if (only := metafunc.definition.get_closest_marker("only_on")) is not None:
            kinds = [kind for kind in kinds if kind in only.args]
        if kinds and not _runs_on_every_database(metafunc):
            kinds = [kinds[zlib.crc32(metafunc.definition.nodeid.encode()) % len(kinds)]]
        metafunc.parametrize("database_kind", kinds, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what `make test` does a selection of; what was named one by one is done."""
    if config.getoption(EVERY_DATABASE):
        return
    cases: dict[str, dict[str, dict[str, pytest.Item]]] = {}  # by test, case and database
    for item in items:
        is_long = item.get_closest_marker("long") is not None
        if isinstance(item, pytest.Function) and hasattr(item, "callspec") and not is_long:
            given = dict(item.callspec.params)
            kind = str(given.pop("database_kind", ""))
            case = item.callspec.id.replace(kind, "", 1)
            cases.setdefault(item.nodeid.partition("[")[0], {}).setdefault(case, {})[kind] = item
    left_out: set[pytest.Item] = set()
    for test, found in cases.items():
        turn = zlib.crc32(test.encode())
        first = next(iter(next(iter(found.values())).values()))
        if first.get_closest_marker("one_case") is not None:
            for place, by_kind in enumerate(found.values()):
                left_out.update(by_kind.values() if place != turn % len(found) else ())
        elif first.get_closest_marker("cases_take_turns") is not None:
            for place, by_kind in enumerate(found.values()):
                if len(found) >= len(by_kind):  # or not all databases would see this test
                    kept = list(by_kind)[(turn + place) % len(by_kind)]
                    left_out.update(item for kind, item in by_kind.items() if kind != kept)
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def database_kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def database_server(request: pytest.FixtureRequest, database_kind: str) -> Server:
    return request.config.stash[SERVERS].get(database_kind)


@pytest.fixture
def empty_database_url(database_server: Server) -> Iterator[str]:
    url = database_server.create_empty_database()
    yield url
    database_server.drop_database(url)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, database_server: Server) -> Iterator[str]:
    url = database_server.create_database()
    yield url
    try:
        if request.node.get_closest_marker("breaks_invariants") is None:
            assert_no_violations(url, are_counted=is_counted(request))
    finally:
        database_server.drop_database(url)


def is_counted(request: pytest.FixtureRequest) -> bool:
    """Tell whether all that a test ends is ended by Rota."""
    return request.node.get_closest_marker("writes_runs_by_hand") is None


def assert_no_violations(url: str, engine: Engine | None = None, *, are_counted: bool = True) -> None:
    """Look at ``rota_violations``, and whether ends were counted, over a connection of our own."""
    from sqlalchemy import NullPool, create_engine, text

    with (engine or create_engine(url, poolclass=NullPool)).connect() as connection:
        found = [tuple(row) for row in connection.execute(text("select * from rota_violations"))]
        wrong = miscounted(connection) if are_counted else []
    assert not found, f"rota_violations is not empty after the test (rule, run, schedule): {found}"
    assert not wrong, f"the roll-ups do not agree with the ledger (unit, whose, state, counted, there are): {wrong}"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(database_url: str, clock: Clock) -> Iterator[Ledger]:
    made = Ledger(database_url, clock)
    yield made
    made.close()


@pytest.fixture
def alone_as_nobody() -> Iterator[None]:
    """Wait until no other test of this machine runs processes as ``nobody``: Linux counts them all together."""
    with (Path(tempfile.gettempdir()) / f"rota-tests-nobody-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
