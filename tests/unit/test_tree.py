"""Our own branch and bound: compact programs, sessions and the search, against brute force."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from bilevel import backends
from bilevel.backends import Purpose
from bilevel.backends.tree import _session
from bilevel.backends.tree.compact import Compact
from bilevel.backends.tree.search import Search
from bilevel.errors import BackendError
from bilevel.problem.functions import Monomials, Objective, Rows
from bilevel.program import Limits, Program, Termination
from bilevel.response.best_response import solve_continuous


def draw(seed: int, curved: bool, integers: int = 0) -> Program:
    """Return a program with slacks, pairs and integers over a box."""
    rng = np.random.default_rng(seed)
    n, m = 4, 4
    total = n + m
    A = np.hstack([rng.integers(-3, 4, (m, n)), np.eye(m)]).astype(float)
    scale = 10.0 ** rng.integers(-3, 4, m)
    b = rng.integers(-2, 6, m).astype(float)
    rows = Rows(
        sp.csr_array(A * scale[:, None]),
        b * scale,
        np.ones(m, bool),
        Monomials.empty(),
        tuple(f"r{i}" for i in range(m)),
    )
    P = np.zeros((total, total))
    if curved:
        L = rng.integers(-2, 3, (n, n))
        P[:n, :n] = L @ L.T
    integer = np.zeros(total, bool)
    integer[:integers] = True
    pairs = tuple((f"p{i}", (i % n, n + i)) for i in range(m))
    return Program(
        tuple(f"v{j}" for j in range(total)),
        np.append(np.where(np.arange(n) % 2, -3.0, 0.0), np.zeros(m)),
        np.append(np.full(n, 4.0), np.full(m, np.inf)),
        integer,
        Objective(sp.csr_array(P), np.append(rng.integers(-4, 5, n), np.zeros(m)).astype(float)),
        rows,
        sos1=pairs,
    )


def brute(program: Program) -> float:
    """Return the best value over all ways to decide pairs and integers."""
    best, whole = np.inf, np.flatnonzero(program.integer)
    for sides in product((0, 1), repeat=len(program.sos1)):
        for values in product(range(-3, 5), repeat=len(whole)):
            lower, upper = program.lower.copy(), program.upper.copy()
            for (_, pair), side in zip(program.sos1, sides, strict=True):
                lower[pair[side]], upper[pair[side]] = max(lower[pair[side]], 0.0), 0.0
            lower[whole] = np.maximum(lower[whole], values)
            upper[whole] = np.minimum(upper[whole], values)
            if np.any(lower > upper):
                continue
            leaf = Program(
                program.names,
                lower,
                upper,
                np.zeros(program.n, bool),
                program.objective,
                program.rows,
            )
            raw, _ = solve_continuous(leaf, Purpose.CONVEX)
            if raw is not None and raw.termination is Termination.OPTIMAL:
                best = min(best, raw.bound)
    return best


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_the_search_finds_the_best_of_all_patterns(seed, curved):
    program = draw(seed, curved)
    best, raw = brute(program), backends.get("tree").solve(program, Limits())
    if not np.isfinite(best):
        assert raw.termination is Termination.INFEASIBLE
        return
    assert raw.termination is Termination.OPTIMAL
    assert raw.bound == pytest.approx(best, rel=1e-6, abs=1e-6)
    for _, (a, b) in program.sos1:
        assert min(abs(raw.v[a]), abs(raw.v[b])) <= 1e-9


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_integers_are_branched_on_too(seed, curved):
    program = draw(seed, curved, integers=2)
    best, raw = brute(program), backends.get("tree").solve(program, Limits())
    if np.isfinite(best):
        assert raw.bound == pytest.approx(best, rel=1e-6, abs=1e-6)
        assert raw.v[:2] == pytest.approx(np.round(raw.v[:2]), abs=1e-9)
    else:
        assert raw.termination is Termination.INFEASIBLE


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_probing_at_every_node_settles_nothing_wrongly(seed, curved):
    program = draw(seed, curved, integers=1)
    raw = backends.get("tree").solve(program, Limits(options={"probe": 0}))
    truth = brute(program)
    if raw.v is None:
        assert raw.termination is Termination.INFEASIBLE
        assert truth == np.inf
    else:
        assert raw.bound == pytest.approx(truth, abs=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_a_search_in_pieces_finds_what_one_run_finds(seed):
    program = draw(seed, True, integers=2)
    whole = backends.get("tree").solve(program, Limits())
    resume, count, pieces = None, 0, 0
    while pieces < 200:
        pieces += 1
        limits = Limits(progress=lambda moment: True, resume=resume)
        raw = backends.get("tree").solve(program, limits)
        resume = raw.resume
        assert raw.nodes >= count
        count = raw.nodes
        if resume is None:
            break
    assert raw.termination is whole.termination
    assert raw.bound == pytest.approx(whole.bound, abs=1e-6) or raw.bound == whole.bound
    assert pieces > 1 or whole.nodes <= 1


def test_an_interrupted_search_loses_no_node(monkeypatch):
    program = draw(5, True, integers=2)
    whole = backends.get("tree").solve(program, Limits())
    for moment in range(1, 40, 3):
        asked = 0
        usual = Search._solve

        def solve(self, *more, usual=usual, moment=moment):
            nonlocal asked
            asked += 1
            if asked == moment:
                raise KeyboardInterrupt
            return usual(self, *more)

        with monkeypatch.context() as patch:
            patch.setattr(Search, "_solve", solve)
            first = backends.get("tree").solve(program, Limits())
        if asked < moment:
            break
        assert first.termination is Termination.INTERRUPTED
        assert first.bound <= whole.bound + 1e-6
        second = backends.get("tree").solve(program, Limits(resume=first.resume))
        assert second.bound == pytest.approx(whole.bound, abs=1e-6)


def test_the_state_of_another_program_is_not_used():
    limits = Limits(progress=lambda moment: True)
    resume = backends.get("tree").solve(draw(5, True, integers=2), limits).resume
    other = draw(7, True, integers=2)
    raw = backends.get("tree").solve(other, Limits(resume=resume))
    assert raw.bound == pytest.approx(brute(other), abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_a_compact_program_says_the_same(seed):
    program = draw(seed, curved=False)
    compact = Compact(program)
    assert len(compact.c) < program.n
    answer = _session(compact).solve(compact.low, compact.high)
    relaxed = Program(
        program.names,
        program.lower,
        program.upper,
        np.zeros(program.n, bool),
        program.objective,
        program.rows,
    )
    raw, _ = solve_continuous(relaxed, "highs")
    if raw.termination is not Termination.OPTIMAL:
        assert answer.termination is raw.termination
        return
    assert answer.value == pytest.approx(raw.bound, rel=1e-7, abs=1e-7)
    v = compact.expand(answer.entries)
    assert program.rows.violation(v).max() < 1e-7
    assert np.all((v >= program.lower - 1e-7) & (v <= program.upper + 1e-7))
    assert compact.collapse(v) == pytest.approx(answer.entries, abs=1e-6)


@pytest.mark.parametrize("vendor", ["highs", "daqp", "clarabel"])
def test_crossing_bounds_are_not_mended(vendor):
    """A program whose column bounds cross is infeasible, also for slacks of negative factor."""
    program = draw(3, curved=vendor == "clarabel")
    lower = program.lower.copy()
    lower[0] = 5.0
    crossed = Program(
        program.names,
        lower,
        program.upper,
        program.integer,
        program.objective,
        program.rows,
        sos1=program.sos1,
    )
    raw = backends.get("tree").solve(crossed, Limits())
    assert raw.termination is Termination.INFEASIBLE


def test_a_highs_of_other_threads_does_not_stop_the_session():
    """HiGHS refuses to run if `threads` differs from what an earlier instance asked for."""
    program = draw(1, curved=False)
    first, _ = solve_continuous(
        Program(
            program.names,
            program.lower,
            program.upper,
            np.zeros(program.n, bool),
            program.objective,
            program.rows,
        ),
        "highs",
    )
    assert first is not None
    from bilevel.backends.tree.highs_session import HiGHSSession

    compact = Compact(program)
    answer = HiGHSSession(compact).solve(compact.low, compact.high)
    assert answer.termination in (Termination.OPTIMAL, Termination.INFEASIBLE)


def test_an_unknown_option_is_named():
    with pytest.raises(BackendError, match=r"no option 'no_such'; .*candidates"):
        backends.get("tree").solve(draw(0, False), Limits(options={"no_such": 1}))


def test_a_missing_verdict_keeps_the_bound_down(monkeypatch):
    """A session that never decides one child must not let the search claim an optimum."""
    from bilevel.backends.tree import daqp_session, highs_session
    from bilevel.backends.tree.session import NodeAnswer

    program = draw(5, curved=False)
    truth = backends.get("tree").solve(program, Limits())
    calls = {"n": 0}
    solve = daqp_session.DAQPSession.solve

    def flaky(self, low, high, warm=None, cutoff=np.inf):
        calls["n"] += 1
        if calls["n"] % 3 == 0:
            return NodeAnswer(Termination.NUMERICAL)
        return solve(self, low, high, warm, cutoff)

    def silent(self, low, high, warm=None, cutoff=np.inf):
        return NodeAnswer(Termination.NUMERICAL)

    monkeypatch.setattr(daqp_session.DAQPSession, "solve", flaky)
    monkeypatch.setattr(highs_session.HiGHSSession, "solve", silent)
    raw = backends.get("tree").solve(program, Limits())
    assert raw.bound <= truth.bound + 1e-6 or raw.termination is Termination.INFEASIBLE
    assert raw.termination is not Termination.INFEASIBLE
