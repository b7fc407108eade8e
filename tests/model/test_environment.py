"""What an environment may look like, and what a job gets that asks for one."""

from __future__ import annotations

from typing import Any

import pytest

from rota.errors import Invalid
from rota.model.environment import ENVIRONMENTS_MAX, Environment, Environments, sort_key
from rota.model.job import JobSpec


def shop(version: str = "1.2", **facts: Any) -> Environment:
    return Environment.checked("shop", version=version, **facts)


def test_an_environment_keeps_what_it_was_given() -> None:
    found = shop(interpreter="/venv/bin/python", python_path=["/srv/shop", "/srv/lib"], variables={"B": "2", "A": "1"})

    assert found.spelled == "shop==1.2"
    assert found.interpreter == "/venv/bin/python"
    assert found.python_path == ("/srv/shop", "/srv/lib")
    assert list(found.variables.items()) == [("A", "1"), ("B", "2")]


@pytest.mark.parametrize(
    ("field", "facts"),
    [
        ("name", {"name": "two words"}),
        ("name", {"name": ""}),
        ("name", {"name": "default"}),
        ("name", {"name": "n" * 198}),  # with its version it would not fit
        ("version", {"version": None}),
        ("version", {"version": 1.2}),
        ("version", {"version": "1 2"}),
        ("version", {"version": "-1"}),
        ("version", {"version": "1" * 101}),
        ("interpreter", {"interpreter": "python3"}),
        ("interpreter", {"interpreter": 3}),
        ("interpreter", {"interpreter": "/venv/\0"}),
        ("python_path", {"python_path": "/srv"}),
        ("python_path", {"python_path": ["srv"]}),
        ("python_path", {"python_path": ["/srv:/lib"]}),
        ("python_path", {"python_path": ["/x"] * 101}),
        ("variables", {"variables": ["A=1"]}),
        ("variables", {"variables": {"PYTHONPATH": "/srv"}}),
        ("variables", {"variables": {"ROTA_DB": "x"}}),
        ("variables.A", {"variables": {"A": 1}}),
    ],
)
def test_what_breaks_a_rule_is_refused_with_the_field(field: str, facts: dict[str, Any]) -> None:
    given = {"name": "shop", "version": "1.2"} | facts

    with pytest.raises(Invalid) as refused:
        Environment.checked(given.pop("name"), **given)

    assert refused.value.field == field


def test_a_job_asks_for_a_name_or_for_a_name_and_version() -> None:
    def asks(env: object) -> str | None:
        return JobSpec.checked("job", kind="shell", target="true", env=env).env

    assert [asks(env) for env in (None, "shop", "shop==1.2", "team/shop==2026-11-20")] == [
        None, "shop", "shop==1.2", "team/shop==2026-11-20",
    ]  # fmt: skip
    for wrong in ("", "shop==", "==1", "shop=1.2", "shop==1==2", "shop ==1", "default", "default==1", 3, "s" * 201):
        with pytest.raises(Invalid) as refused:
            asks(wrong)
        assert refused.value.field == "env"


def test_a_job_without_a_version_gets_the_newest_and_one_with_a_version_that_one() -> None:
    node = Environments([shop("1.10"), shop("1.9"), shop("1.2"), Environment.checked("tools", version="3")])

    assert node.find("shop") == shop("1.10")
    assert node.find("shop==1.2") == shop("1.2")
    assert node.find("tools") is not None
    assert [node.find(env) for env in ("shop==1", "sho", "==1.2", "")] == [None] * 4
    assert node.spelled == ("shop==1.10", "shop==1.2", "shop==1.9", "tools==3")
    assert node.wanted == ("", *node.spelled, "shop", "tools")


def test_numbers_in_versions_are_compared_as_numbers() -> None:
    in_order = ["1.2", "1.10", "2", "2.0.1", "10", "2026.9.1", "2026.11.20"]

    assert sorted(sorted(in_order), key=sort_key) == in_order


def test_of_the_same_name_and_version_the_first_counts() -> None:
    node = Environments([shop(interpreter="/first"), shop(interpreter="/second")])

    assert node.find("shop") == shop(interpreter="/first")


def test_a_node_has_no_more_environments_than_a_look_may_name() -> None:
    Environments(shop(str(number)) for number in range(ENVIRONMENTS_MAX))

    with pytest.raises(Invalid, match="at most 100"):
        Environments(shop(str(number)) for number in range(ENVIRONMENTS_MAX + 1))
