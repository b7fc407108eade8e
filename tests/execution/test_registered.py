"""Environments that installed applications register: each entry point is read, or left out with the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rota.execution import registered
from rota.execution.registered import Registered, read_registered

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install an application as pip does: a module, and the metadata of its distribution."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(module: str, source: str, entry_points: str, version: str = "7.1") -> None:
        (tmp_path / f"{module}.py").write_text(source)
        folder = tmp_path / f"{module}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: {version}\n")
        (folder / "entry_points.txt").write_text(f"[rota.environments]\n{entry_points}\n")

    return put


def only() -> Registered:
    (found,) = read_registered()
    return found


def test_nothing_is_registered_where_no_application_is_installed() -> None:
    assert read_registered() == []


def test_a_class_says_what_its_environment_is(install: Install) -> None:
    source = """
from pathlib import Path
class Shop:
    name = "shop"
    version = "1.2"
    interpreter = Path("/srv/shop/bin/python")
    python_path = (Path("/srv/shop"), "/srv/lib")
    variables = {"LEVEL": "3"}
"""
    install("shop_rota", source, "anything = shop_rota:Shop")

    assert only() == Registered(
        "anything = shop_rota:Shop",
        {
            "name": "shop",
            "version": "1.2",
            "interpreter": "/srv/shop/bin/python",
            "python_path": ["/srv/shop", "/srv/lib"],
            "variables": {"LEVEL": "3"},
        },
    )


def test_what_a_class_leaves_out_is_taken_from_its_distribution(install: Install) -> None:
    install("shop_rota", "class Shop:\n  @property\n  def python_path(self): return ['/srv']", "shop = shop_rota:Shop")

    assert only().facts == {"name": "shop", "version": "7.1", "python_path": ["/srv"]}


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
        ("class Other: pass", "has no attribute 'Shop'"),
        ("class Shop:\n  def __init__(self): raise ValueError('not today')", "ValueError: not today"),
        ("class Shop: version = object()", "TypeError: object is no text, list or mapping"),
        ("raise SystemExit(0)", "its process ended with 0 and said nothing"),
        ("import os; os._exit(3)", "its process ended with 3 and said nothing"),
        ("import os; os.kill(os.getpid(), 11)", "its process ended with -11 and said nothing"),
        ("import sys; sys.exit('closed')", "closed"),
    ],
)
def test_one_that_is_broken_says_so_and_the_others_are_read(install: Install, source: str, fault: str) -> None:
    install("broken_rota", source, "broken = broken_rota:Shop")
    install("shop_rota", "class Shop: version = '1'", "shop = shop_rota:Shop")

    broken, whole = read_registered()

    assert broken.fault is not None
    assert fault in broken.fault
    assert broken.facts == {}
    assert (whole.fault, whole.facts["version"]) == (None, "1")


def test_one_that_hangs_is_left_out_after_a_while(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registered, "READ_SECONDS_MAX", 0.2)
    install("slow_rota", "import time\ntime.sleep(1000)", "slow = slow_rota:Shop")

    assert only().fault == "it has not told anything within 0.2 s"


def test_several_are_read_at_once(install: Install) -> None:
    source = "import pathlib, time\nhere = pathlib.Path(__file__)\nhere.with_suffix('.here').touch()\n"
    for name, other in (("one", "two"), ("two", "one")):  # each waits for the other
        wait = f"while not here.with_name('{other}.here').exists(): time.sleep(0.01)\nclass Shop: version = '1'"
        install(name, source + wait, f"{name} = {name}:Shop")

    assert [one.fault for one in read_registered()] == [None, None]


def test_what_an_application_prints_and_threads_that_it_starts_do_no_harm(install: Install) -> None:
    source = """
import os, threading, time
print("{}")
os.write(1, b'{"version": "9"}')
threading.Thread(target=time.sleep, args=(1000,)).start()
class Shop: version = "1"
"""
    install("loud_rota", source, "loud = loud_rota:Shop")

    assert only().facts == {"name": "loud", "version": "1"}


def test_it_sees_none_of_rota_s_own_variables(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROTA_DB", "postgresql://user:secret@host/db")
    install("nosy_rota", "import os\nclass Shop: version = os.environ.get('ROTA_DB', '0')", "nosy = nosy_rota:Shop")

    assert only().facts["version"] == "0"


def test_a_new_version_is_seen_by_a_process_that_has_read_the_old_one(install: Install, tmp_path: Path) -> None:
    install("shop_rota", "class Shop: version = '1'", "shop = shop_rota:Shop")
    before = only().facts["version"]

    (tmp_path / "shop_rota.py").write_text("class Shop: version = 'twenty'")

    assert (before, only().facts["version"]) == ("1", "twenty")


def test_what_registers_sees_neither_rota_s_settings_nor_variables_that_hold_secrets(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ROTA_DB", "SHOP_TOKEN", "SHOP_LEVEL"):
        monkeypatch.setenv(name, "hunter2")
    names = "sorted(name for name in os.environ if name.startswith(('ROTA_', 'SHOP_')))"
    install("seeing", f"import os\nclass Seen:\n    python_path = {names}\n", "seeing = seeing:Seen")

    (found,) = read_registered(without={"SHOP_TOKEN"})

    assert found.facts["python_path"] == ["SHOP_LEVEL"]
