"""Upstreams by name: cycles with their path, an order, and one answer from how all of them stand."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.errors import Invalid
from rota.model.dependencies import Stand, Standing, UpstreamFailure, check_after, find_cycle, in_order, judge

NAMES = [f"job{number}" for number in range(8)]
GRAPHS = st.dictionaries(st.sampled_from(NAMES), st.lists(st.sampled_from(NAMES), max_size=3), max_size=8)


def test_names_are_sorted_and_each_comes_once() -> None:
    assert check_after(["b", "a", "b"]) == ("a", "b")
    assert check_after("a") == ("a",)
    assert check_after(None) == check_after([]) == check_after("none") == ()
    with pytest.raises(Invalid):
        check_after([1])


@pytest.mark.parametrize(
    ("upstreams", "path"),
    [
        ({}, None),
        ({"a": ["b"], "b": ["c"]}, None),
        ({"a": ["a"]}, ["a", "a"]),
        ({"a": ["b"], "b": ["a"]}, ["a", "b", "a"]),
        ({"a": ["b"], "b": ["c"], "c": ["a"]}, ["a", "b", "c", "a"]),
        ({"a": ["d", "b"], "b": ["c"], "c": ["a"], "d": ["a"]}, ["a", "d", "a"]),
        ({"a": ["b"], "b": ["c"], "c": ["b"]}, None),  # a cycle, but none of its own
    ],
)
def test_a_cycle_is_found_with_its_path(upstreams: dict[str, list[str]], path: list[str] | None) -> None:
    assert find_cycle(upstreams, "a") == path


@given(GRAPHS)
def test_there_is_an_order_exactly_where_there_is_no_cycle(graph: dict[str, list[str]]) -> None:
    order = in_order(graph)

    assert sorted(order) == sorted(graph)
    place = {name: number for number, name in enumerate(order)}
    is_ordered = all(place[upstream] < place[name] for name in graph for upstream in graph[name] if upstream in graph)
    assert is_ordered == all(find_cycle(graph, name) is None for name in graph)


@given(GRAPHS, st.sampled_from(NAMES))
def test_the_path_of_a_cycle_is_one(graph: dict[str, list[str]], start: str) -> None:
    path = find_cycle(graph, start)

    if path is not None:
        assert path[0] == path[-1] == start
        assert all(after in graph[name] for name, after in pairwise(path))


DONE, AHEAD, FAILED = (Standing(stand.value, stand, "which") for stand in (Stand.DONE, Stand.AHEAD, Stand.FAILED))
BEFORE = Standing("before", Stand.FAILED, "which", is_before=True)


@pytest.mark.parametrize(
    ("standings", "waiting", "skipping"),
    [
        ([], Stand.DONE, Stand.DONE),
        ([DONE, DONE], Stand.DONE, Stand.DONE),
        ([DONE, AHEAD], Stand.AHEAD, Stand.AHEAD),
        ([DONE, FAILED], Stand.AHEAD, Stand.FAILED),
        ([AHEAD, FAILED], Stand.AHEAD, Stand.FAILED),
        ([DONE, BEFORE], Stand.AHEAD, Stand.AHEAD),
        ([FAILED, BEFORE], Stand.AHEAD, Stand.FAILED),
    ],
)
def test_one_answer_is_made_of_all(standings: list[Standing], waiting: Stand, skipping: Stand) -> None:
    assert judge(standings, UpstreamFailure.WAIT).stand is waiting
    assert judge(standings, UpstreamFailure.SKIP).stand is skipping


def test_of_many_that_are_waited_for_some_are_named() -> None:
    many = [Standing(f"job{number}", Stand.AHEAD, "which is ready") for number in range(5)]

    text = judge(many, UpstreamFailure.WAIT).text

    assert text == "it waits for job0, which is ready; job1, which is ready; job2, which is ready; and 2 more"
