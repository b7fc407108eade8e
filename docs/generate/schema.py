"""The pages about what is stored: states and reasons, the state table, the tables, the violations."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from sqlalchemy import Column, ColumnElement, ForeignKeyConstraint, Index, Table, UniqueConstraint
from sqlalchemy.dialects import postgresql

from docs.generate.markdown import fence, notes_above, prose, read_comments, table, table_of_enum
from rota.model import reasons, states
from rota.store import tables
from rota.store.views import VIEWS
from rota.store.violations import VIOLATIONS


def write_states() -> Iterator[str]:
    yield "# States and reasons"
    yield "The moves between the states of a run are in [the state table](../internals/states.md)."
    for title, kind in (
        ("Run", states.RunState),
        ("Attempt", states.AttemptState),
        ("Job, schedule and pool", states.JobState),
        ("Node", states.NodeState),
    ):
        yield f"## {title}"
        yield table_of_enum(states, kind)
    yield "## Reasons"
    yield prose("""
        Why a run is in its state: a stable code. The sentence beside it names the values that decided. Grouped by
        the state that it explains.
    """)
    notes = read_comments(reasons)
    group = ""
    grouped: dict[str, list[tuple[str, str]]] = {}
    lines = inspect.getsource(reasons).splitlines()
    for number, line in enumerate(lines, start=1):
        code = line.strip()
        if line.startswith("    # "):
            group = notes[number]
        elif group and " = " in code and line.startswith("    "):
            value = reasons.Reason[code.partition(" = ")[0]].value
            grouped.setdefault(group, []).append((f"`{value}`", notes.get(number, "")))
    assert sum(map(len, grouped.values())) == len(reasons.Reason), "a reason stands in no group"
    for name, rows in grouped.items():
        yield f"### {name}"
        yield table(("reason", "meaning"), rows)


def write_transitions() -> Iterator[str]:
    yield "# The state table"
    yield prose("""
        `TRANSITIONS` in `rota/model/states.py` is the only source: the schema's check, the conditional updates of
        the store, the property test and this page come from it. A move that is not in it raises `Conflict`.
    """)
    edges: dict[tuple[str, str], list[str]] = {}
    for move in states.TRANSITIONS:
        edges.setdefault((move.source or "[*]", move.target), []).append(move.because)
    drawn = [f"    {source} --> {target}: {', '.join(why)}" for (source, target), why in edges.items()]
    drawn += [f"    {state} --> [*]" for state in states.RunState if state in states.FINISHED]
    yield fence("mermaid", "\n".join(["stateDiagram-v2", *drawn]))
    rows = [(move.source or "new", move.target.value, move.because.value) for move in states.TRANSITIONS]
    yield table(("from", "to", "because"), rows)
    yield "What each state means is in [states and reasons](../reference/states.md)."


def write_tables() -> Iterator[str]:
    yield "# Tables"
    yield prose("""
        In the order in which a transaction touches them. They are stable to read with plain SQL; to change
        something, use a command. Types are PostgreSQL's; instants are in UTC, lengths of time in seconds.
    """)
    notes = read_comments(tables)
    calls = _find_calls(tables)
    for each in tables.metadata.tables.values():
        yield f"## {each.name}"
        said = notes_above(notes, calls[each.name])
        if said:
            yield said
        yield table(
            ("column", "type", "empty?", "meaning"),
            [
                (
                    f"`{column.name}`",
                    _type_of(column),
                    "yes" if column.nullable else "",
                    _meaning(each, column, notes, calls),
                )
                for column in each.columns
            ],
        )
        keys = [_describe_key(key) for key in sorted(each.constraints, key=str) if isinstance(key, UniqueConstraint)]
        keys += [
            _describe_index(index, notes, calls) for index in sorted(each.indexes, key=lambda index: str(index.name))
        ]
        if keys:
            yield "\n".join(f"- {key}" for key in keys)


def _type_of(column: ColumnElement[Any]) -> str:
    return column.type.compile(dialect=postgresql.dialect()).lower()


def _meaning(owner: Table, column: Column[Any], notes: dict[int, str], calls: dict[str, int]) -> str:
    said = notes.get(calls[f"{owner.name}.{column.name}"], "").replace("|", "\\|")
    keys = [
        key for key in owner.constraints if isinstance(key, ForeignKeyConstraint) and column.name in key.column_keys
    ]
    refers = f"refers to `{keys[0].elements[0].target_fullname}`" if keys else ""
    low, high = tables.ranges_of(owner).get(column.name, (None, None))
    within = f"from {low:,.0f} to {high:,.0f}" if low is not None and high is not None else ""
    return "; ".join(part for part in (said, refers, within) if part)


def _describe_key(key: UniqueConstraint) -> str:
    return "unique: " + ", ".join(f"`{column.name}`" for column in key.columns)


def _describe_index(index: Index, notes: dict[int, str], calls: dict[str, int]) -> str:
    said = notes_above(notes, calls[str(index.name)])
    columns = ", ".join(f"`{column.name}`" for column in index.columns)
    return f"index `{index.name}` on {columns}" + (f". {said}" if said else "")


def _find_calls(module: ModuleType) -> dict[str, int]:
    """Find the lines on which tables and indexes begin and columns end."""
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if (
            not isinstance(node, ast.Call)
            or not isinstance(node.func, ast.Name)
            or node.func.id not in {"Table", "Index"}
        ):
            continue
        assert isinstance(node.args[0], ast.Constant)
        name = str(node.args[0].value)
        found[name] = node.lineno
        for argument in node.args[1:]:
            if isinstance(argument, ast.Call) and isinstance(argument.func, ast.Name) and argument.func.id == "Column":
                assert isinstance(argument.args[0], ast.Constant)
                found[f"{name}.{argument.args[0].value}"] = argument.end_lineno or 0
    return found


def write_views() -> Iterator[str]:
    yield "# Views"
    yield prose("""
        What is asked most at a SQL prompt. Their columns are stable, and each is served by indexes however long the
        ledger is. There is also [`rota_violations`](violations.md). Instants are in UTC.
    """)
    for view in VIEWS:
        yield f"## {view.name}"
        yield view.about
        rows = [
            (f"`{name}`", _type_of(column), meaning)
            for (name, meaning), column in zip(view.columns.items(), view.query.selected_columns, strict=True)
        ]
        yield table(("column", "type", "meaning"), rows)


def write_violations() -> Iterator[str]:
    yield "# Violations"
    yield prose("""
        The view `rota_violations` (`rule_broken`, `run_id`, `schedule_id`) holds the invariants as queries. It is
        empty after every test, and always. A row in it is a bug of Rota, or of somebody who wrote to the tables:
        please report it with the run's history.
    """)
    yield fence("sql", "select * from rota_violations;")
    for rule, (meaning, query) in VIOLATIONS.items():
        yield f"## {rule}"
        yield f"Finds {meaning}."
        yield fence("sql", query)
