"""The page about the guards of the protocol: each with the shortest way in which an invariant breaks without it."""

from __future__ import annotations

from collections.abc import Iterator

from docs.generate.markdown import prose, table
from tests.model.protocol import GUARDS, INVARIANTS, MODELS, SHOWN_BY, Guard, without


def write_protocol() -> Iterator[str]:
    yield "# The guards of the protocol"
    yield prose("""
        `tests/model/protocol.py` has the protocols as small models: what nodes, rescuers and people may do next, in any
        order, with trouble in between. `test_with_all_guards_every_invariant_holds_and_every_state_leads_to_an_end`
        searches each of them to the last state. Below is what each guard prevents: the shortest way in which an
        invariant breaks without it, found by the same search (`test_without_a_guard_its_invariant_breaks`).
    """)
    yield prose("""
        Reading and writing are two steps wherever the second depends on the first, as if rows could not be locked:
        locks make the protocol cheaper, and are not what makes it correct. A lease is two ticks long. Left out are a
        failover that loses commits, cancellation, and delays before another attempt.
    """)
    yield "## Models"
    yield table(("model", "what is in it"), [(f"`{model.name}`", model.what) for model in MODELS.values()])
    yield "## Invariants"
    yield prose("""
        I11, I13 and I14 of the same list (what commits together, faults that stay apart, recovery in time) are kept by
        other tests.
    """)
    yield table(("", "holds in every state"), INVARIANTS.items())
    yield "## Guards"
    yield prose("""
        The last column says what shows the guard on the real program. Where it is a condition of SQL, or a value that a
        statement writes, that is taken out of the real statement under the name given there, and the real store goes
        wrong: by a short script on every database
        (`test_without_a_condition_of_the_real_statements_a_run_goes_wrong`), and by a state machine that does whatever
        steps in whatever order (`test_the_machine_finds_each_condition_that_is_taken_out`). A rule of the program is no
        condition of SQL: the test that keeps it is named.
    """)
    yield prose("""
        Claim and fence of a move are taken out together, since either is enough
        (`test_of_claim_and_fence_of_a_move_either_is_enough`): the claim id is random, the fence rises with each claim,
        and nothing but the claim writes them. Both stand there, should a hand have changed one of them.
    """)
    rows = [(guard.name, guard.breaks, f"`{guard.model}`", guard.where, _say_shown(guard)) for guard in GUARDS]
    yield table(("guard", "keeps", "model", "in the code", "shown without"), rows)
    yield "## What each one prevents"
    for guard in GUARDS:
        yield f"### Without: {guard.name}"
        trace = [f"{number}. {told}" for number, told in enumerate(without(guard).trace, start=1)]
        trace[-1] += f" — **{guard.breaks}** is broken"
        yield "\n".join(trace)


def _say_shown(guard: Guard) -> str:
    removed = [f"*{name}*" for name in SHOWN_BY[guard.name] if not name.startswith("test_")]
    tests = [f"`{name}`" for name in SHOWN_BY[guard.name] if name.startswith("test_")]
    if not removed:
        return f"a rule of the program: {', '.join(tests)}"
    return "; ".join([*removed, *tests])
