"""What a node reads of its secrets: afresh, within bounds, and without a word of any value."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rota.engine.secrets import LOOK_AGAIN_SECONDS, SECRET_BYTES_MAX, NodeSecrets, Unavailable
from rota.engine.settings import NodeSettings
from rota.engine.stand_in import program
from rota.errors import Invalid
from rota.model.secret import SecretSource
from tests.engine.test_orders import order_of


def in_file(path: Path, name: str = "DB") -> SecretSource:
    return SecretSource.checked(name, file=str(path))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_bytes(b"hunter2\n")
    (tmp_path / "secret").chmod(0o600)
    return tmp_path / "secret"


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"hunter2", "hunter2"),
        (b"hunter2\r\n", "hunter2"),
        (b"hunter2\n\n", "hunter2\n"),
        (b" hunter 2 ", " hunter 2 "),
        ("schlüssel".encode(), "schlüssel"),
        (b"-----\nline\n-----\n", "-----\nline\n-----"),
        (b"x" * SECRET_BYTES_MAX + b"\r\n", "x" * SECRET_BYTES_MAX),
    ],
)
def test_a_file_is_the_secret_without_the_end_of_its_last_line(path: Path, data: bytes, value: str) -> None:
    path.write_bytes(data)

    assert NodeSecrets([in_file(path)]).read(["DB"]) == {"DB": value}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "shorter than 4"),
        (b"hun\n", "shorter than 4"),
        (b"     \n", "shorter than 4"),
        (b"hunter2\0", "NUL"),
        (b"hunter2\xff", "not UTF-8"),
        (b"x" * (SECRET_BYTES_MAX + 1), "longer than 32768 bytes"),
        (b"x" * 10_000_000, "longer than 32768 bytes"),
    ],
)
def test_what_cannot_be_a_secret_is_refused_without_being_shown(path: Path, data: bytes, why: str) -> None:
    path.write_bytes(data)

    with pytest.raises(Unavailable, match=f"secret DB cannot be read from file {path}: .*{why}") as refused:
        NodeSecrets([in_file(path)]).read(["DB"])

    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Path.unlink, "No such file"),
        (lambda path: (path.unlink(), path.mkdir()), "no regular file|Is a directory"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "no regular file"),
        (lambda path: (path.unlink(), path.symlink_to("/dev/zero")), "no regular file"),
    ],
)
def test_what_is_no_file_keeps_nobody_waiting(path: Path, make: Callable[[Path], object], why: str) -> None:
    make(path)

    with pytest.raises(Unavailable, match=why):
        NodeSecrets([in_file(path)]).read(["DB"])


def test_a_variable_is_that_of_the_worker() -> None:
    source = SecretSource.checked("DB", env="SHOP_DB")

    assert NodeSecrets([source], {"SHOP_DB": "hunter2"}).read(["DB"]) == {"DB": "hunter2"}
    with pytest.raises(Unavailable, match="from variable SHOP_DB: it is not set"):
        NodeSecrets([source], {"DB": "hunter2"}).read(["DB"])


def test_what_cannot_be_read_is_not_offered_until_it_can_be_and_the_log_says_it_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    now = [100.0]
    secrets = NodeSecrets([in_file(path)], clock=lambda: now[0])
    assert secrets.offered() == ("DB",)
    path.rename(path.with_name("away"))
    assert secrets.offered() == ("DB",)  # nobody has looked

    for _ in range(3):
        with pytest.raises(Unavailable):
            secrets.read(["DB"])
    assert secrets.offered() == ()
    path.with_name("away").rename(path)
    assert secrets.offered() == ()
    now[0] += LOOK_AGAIN_SECONDS

    assert secrets.offered() == ("DB",)
    assert [record.getMessage().partition(f" file {path}")[0] for record in caplog.records] == [
        "secret DB cannot be read from",
        "secret DB can be read again",
    ]


def test_a_file_that_others_may_read_is_told_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.chmod(0o640)
    secrets = NodeSecrets([in_file(path)])

    for _ in range(3):
        assert secrets.read(["DB"]) == {"DB": "hunter2"}

    assert caplog.messages == [f"secret DB: others than its owner may read file {path}"]


def test_a_node_has_no_more_than_fifty() -> None:
    with pytest.raises(Invalid, match="at most 50"):
        NodeSecrets(SecretSource.checked(f"A{number}", env="A") for number in range(51))


def test_those_of_one_job_are_no_more_than_can_be_looked_for(path: Path) -> None:
    path.write_bytes(b"x" * SECRET_BYTES_MAX)
    secrets = NodeSecrets(in_file(path, f"A{number}") for number in range(5))

    assert len(secrets.read(["A0", "A1", "A2", "A3"])) == 4
    with pytest.raises(Invalid, match="at most 131072 bytes together") as refused:
        secrets.read(["A0", "A1", "A2", "A3", "A4"])

    assert "xxxx" not in str(vars(refused.value))
    assert secrets.offered() == ("A0", "A1", "A2", "A3", "A4")


def test_neither_settings_nor_orders_show_a_value(path: Path) -> None:
    settings = {"secrets": NodeSecrets([in_file(path)])}

    order = order_of(settings=settings, secrets=("DB",))

    assert order.secrets == {"DB": "hunter2"}
    assert "DB" not in order.environment
    made = NodeSettings("mysql://rota:hunter2@db/rota", Path("/x"), environment={"SHOP_DB": "hunter2"})
    assert "hunter2" not in repr(order) + str(order) + repr(made) + repr(settings)


def test_a_stand_in_gets_the_variable_of_no_secret_but_of_one_that_the_database_needs() -> None:
    sources = [SecretSource.checked("DB", env="SHOP_DB"), SecretSource.checked("PG", env="PGPASSWORD")]
    variables = {"PATH": "/bin", "SHOP_DB": "hunter2", "PGPASSWORD": "of-rota"}
    settings = NodeSettings("sqlite:////x", Path("/x"), environment=variables, secrets=NodeSecrets(sources, variables))

    assert program(settings, Path("/x")).environment == {"PATH": "/bin", "PGPASSWORD": "of-rota"}


def test_secrets_that_change_how_a_process_begins_make_it_start_cold(path: Path) -> None:
    named = {name: {"secrets": NodeSecrets([in_file(path, name)])} for name in ("PYTHONPATH", "LD_PRELOAD", "DB")}

    calls = {name: order_of(settings=settings, secrets=(name,)).call for name, settings in named.items()}

    assert calls == {"PYTHONPATH": None, "LD_PRELOAD": None, "DB": "app:work"}
