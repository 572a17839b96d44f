"""Outer approximation against enumeration: every integer decision, every answer to it."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from dataclasses import replace

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.oracle import assert_claim_is_true, games

import bilevel as bl
from bilevel import Status, UnsupportedProblem, backends
from bilevel.errors import ProblemError
from bilevel.problem.functions import Monomials, Objective, Rows
from bilevel.program import Limits, Program, Termination
from bilevel.reformulate.tangents import outer

ON = [pytest.param(name, marks=pytest.mark.backend(name)) for name in ("scip", "highs")]


# ------------------------------------------------------------------------- against enumeration


@st.composite
def quadratics(draw):
    """Data of ``min y'Qy/2 + (c + R'x)'y, A y + B x <= b`` and of a convex leader in (x, y, u).

    The follower is strictly convex and has equality rows, duplicated rows and free variables.
    """

    def array(low, high, *shape):
        count = int(np.prod(shape))
        flat = draw(st.lists(st.integers(low, high), min_size=count, max_size=count))
        return np.array(flat, float).reshape(shape)

    nx, ny, m = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    low, high = draw(st.sampled_from([(0, 1), (-3, 5), (-1, 2)]))
    A, B, b = array(-2, 2, m, ny), array(-2, 2, m, nx), array(0, 6, m)
    equal = np.zeros(m, bool)
    equal[0] = draw(st.booleans()) and bool(A[0].any())
    if draw(st.booleans()):
        A, B, b = np.vstack([A, 2 * A[-1:]]), np.vstack([B, 2 * B[-1:]]), np.append(b, 2 * b[-1])
        equal = np.append(equal, False)
    root = array(-1, 1, ny, ny)
    turn = array(-1, 1, nx + ny, nx + ny)
    return {
        "box": (low, high),
        "Q": root @ root.T + np.eye(ny),
        "c": array(-4, 4, ny),
        "R": array(-1, 1, nx, ny),
        "A": A[A.any(axis=1)],
        "B": B[A.any(axis=1)],
        "b": b[A.any(axis=1)],
        "equal": equal[A.any(axis=1)],
        "W": turn @ turn.T,
        "d": array(-4, 4, nx + ny),
    }


def as_problem(data):
    x = cp.Variable(len(data["R"]), integer=True, name="x")
    y = cp.Variable(len(data["c"]), name="y")
    u = cp.Variable(name="u")
    f = 0.5 * cp.quad_form(y, cp.psd_wrap(data["Q"])) + (data["c"] + x @ data["R"]) @ y
    rows = [
        a @ y + r @ x == s if equal else a @ y + r @ x <= s
        for a, r, s, equal in zip(data["A"], data["B"], data["b"], data["equal"], strict=True)
    ]
    follower = bl.Follower(cp.Minimize(f), rows, variables=[y], name="f")
    z, (low, high) = cp.hstack([x, y]), data["box"]
    F = 0.5 * cp.quad_form(z, cp.psd_wrap(data["W"])) + data["d"] @ z + cp.square(u - y[0]) + u
    return bl.Problem(cp.Minimize(F), [x >= low, x <= high], followers=[follower])


def best_answer(Q, c, A, b, equal):
    """The one best response of a strictly convex QP, from all active sets; ``None`` without one."""
    n = len(c)
    choices = [(True,) if flag else (False, True) for flag in equal]
    for active in itertools.product(*choices):
        rows = A[list(active)] if len(A) else A
        k = len(rows)
        system = np.block([[Q, rows.T], [rows, np.zeros((k, k))]])
        rhs = np.concatenate([-c, b[list(active)]])
        point = np.linalg.lstsq(system, rhs, rcond=None)[0]
        y, lam = point[:n], point[n:]
        holds = abs(system @ point - rhs).max() < 1e-9 and (A @ y - b <= 1e-9).all()
        if holds and (lam[~equal[list(active)]] >= -1e-9).all():
            return y
    return None


def enumerated(data):
    """The optimum over all integer decisions; ``u`` is best at ``y[0] - 1/2``."""
    low, high = data["box"]
    best = np.inf
    for x in itertools.product(range(low, high + 1), repeat=len(data["R"])):
        x = np.array(x, float)
        cost, rhs = data["c"] + x @ data["R"], data["b"] - data["B"] @ x
        y = best_answer(data["Q"], cost, data["A"], rhs, data["equal"])
        if y is not None:
            z = np.concatenate([x, y])
            best = min(best, 0.5 * z @ data["W"] @ z + data["d"] @ z + y[0] - 0.25)
    return best


@pytest.mark.parametrize("backend", ON)
def test_quadratic_leaders_and_followers(backend):
    @settings(max_examples=12)
    @given(quadratics())
    def check(data):
        truth = enumerated(data)
        try:
            solution = bl.solve(as_problem(data), bl.OuterApproximation(backend), throw=False)
        except UnsupportedProblem as refusal:
            assert backend == "highs"
            assert "does without bounds" in str(refusal)
            return
        if truth == np.inf:
            assert solution.status is Status.FOLLOWER_INFEASIBLE, solution.summary()
            return
        assert solution.status is Status.OPTIMAL, solution.summary()
        assert solution.certificate.accepted
        assert solution.leader_value == pytest.approx(truth, abs=1e-5, rel=1e-5)
        assert solution.bound <= truth + 1e-5 * max(1, abs(truth))

    check()


@pytest.mark.backend("scip")
@pytest.mark.parametrize("encoding", [None, bl.SOS1(), bl.Indicator()], ids=repr)
@settings(max_examples=10)
@given(game=games(integer=True, quadratic=True, rows=4))
def test_degenerate_followers(encoding, game):
    """Singular Hessians, ties, coupling rows, equations, maximization at either level."""
    truth = game.optimum()
    solver = bl.OuterApproximation(encoding=encoding)
    solution = bl.solve(game.problem(), solver, throw=False, time_limit=30)
    assert_claim_is_true(solution, game, truth, 1e-5)
    assert np.isinf(truth) or solution.status is Status.OPTIMAL, solution.summary()


def test_other_integers_of_the_leader_are_chosen_with_the_answer():
    """``k`` enters no follower; the decision is ``x`` alone, so few are met."""
    x, k = cp.Variable(name="x", boolean=True), cp.Variable(3, integer=True, name="k")
    y = cp.Variable(name="y")
    follower = bl.Follower(
        cp.Minimize(cp.square(y - 2 * x)), [y <= 1.4, y >= -3], variables=[y], name="f"
    )
    objective = cp.Minimize(cp.sum_squares(k - 3 * y) - 20 * x)
    problem = bl.Problem(objective, [k >= -9, k <= 9], followers=[follower])
    for name in backends.available():
        if name in ("scip", "highs"):
            solution = bl.solve(problem, bl.OuterApproximation(name))
            assert solution.status is Status.OPTIMAL
            assert solution.leader_value == pytest.approx(3 * 0.2**2 - 20)
            np.testing.assert_allclose(solution["k"], 4, atol=1e-6)


def test_a_leader_without_a_choice():
    x, y = cp.Variable(name="x", integer=True), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(cp.square(y - x)), [y >= 0], variables=[y], name="f")
    problem = bl.Problem(cp.Minimize(y), [x >= 2, x <= 2], followers=[follower])
    solution = bl.solve(problem, bl.OuterApproximation())
    assert (solution.status, round(solution.leader_value, 6)) == (Status.OPTIMAL, 2.0)


# ------------------------------------------------------------------------------- claims and limits


def larger(n=8, coupled=None):
    """A packing follower with a curved leader, whose search takes a while."""
    rng = np.random.default_rng(5)
    x, y = cp.Variable(n, boolean=True, name="x"), cp.Variable(n, name="y")
    A, root = rng.integers(1, 5, (n, n)), rng.normal(size=(n, n))
    f = 0.5 * cp.sum_squares(root @ y) + 0.1 * cp.sum_squares(y) - rng.uniform(1, 6, n) @ y
    room = A.sum(axis=1) * 0.7 - rng.integers(0, 4, (n, n)) @ x + 4 * n
    follower = bl.Follower(cp.Minimize(f - x @ y), [A @ y <= room, y >= 0], variables=[y], name="f")
    F = cp.sum_squares(rng.normal(size=(n, 2 * n)) @ cp.hstack([x, y]) - 1)
    rows = [] if coupled is None else [cp.sum(y) <= coupled]
    return bl.Problem(cp.Minimize(F), rows, followers=[follower])


@pytest.mark.parametrize("backend", ON)
def test_a_limit_keeps_the_best_point_and_a_bound(backend):
    solution = bl.solve(larger(12), bl.OuterApproximation(backend), time_limit=0.3, throw=False)
    assert solution.status in (Status.FEASIBLE, Status.OPTIMAL)
    assert solution.certificate.accepted
    assert solution.bound is None or solution.bound <= solution.leader_value


@pytest.mark.parametrize("backend", ON)
def test_a_limit_before_any_point(backend):
    """The coupling row refuses nearly all answers."""
    solver, problem = bl.OuterApproximation(backend), larger(12, coupled=0.4)
    solution = bl.solve(problem, solver, time_limit=0.05, throw=False)
    assert solution.status in (Status.NOT_FOUND, Status.INFEASIBLE)


@pytest.mark.parametrize("backend", ON)
def test_a_callback_may_stop_and_may_fail(backend):
    seen = []

    def stop(moment):
        seen.append(moment)
        return True

    solution = bl.solve(larger(12), bl.OuterApproximation(backend), callback=stop, throw=False)
    assert seen
    assert solution.status in (Status.FEASIBLE, Status.OPTIMAL)

    def fail(moment):
        raise ArithmeticError("mine")

    with pytest.raises(ArithmeticError, match="mine"):
        bl.solve(larger(12), bl.OuterApproximation(backend), callback=fail)


@pytest.mark.parametrize("backend", ON)
def test_an_interruption_keeps_the_best_point(backend):
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))

    def begin(moment):  # a signal before the search would end the tests
        if not timer.ident:
            timer.start()

    solver = bl.OuterApproximation(backend)
    try:
        solution = bl.solve(larger(16), solver, callback=begin, time_limit=200, throw=False)
    finally:
        timer.cancel()
        if timer.ident:
            timer.join()
    assert solution.status in (Status.FEASIBLE, Status.OPTIMAL)
    assert solution.certificate.accepted
    assert solution.status is Status.OPTIMAL or "nterrupt" in solution.stats.note


@pytest.mark.parametrize("backend", ON)
@pytest.mark.parametrize("equation", [False, True])
def test_a_coupling_row_that_only_the_exact_answer_meets(backend, equation):
    """The answer at ``x = 1`` is 1/3, 1/7, as far as a QP solver computes it."""
    x, y = cp.Variable(name="x", boolean=True), cp.Variable(2, name="y")
    f = cp.square(3 * y[0] - x) + cp.square(7 * y[1] - x)
    follower = bl.Follower(cp.Minimize(f), [y <= 2, y >= -2], variables=[y], name="f")
    row = y[0] + y[1] == 10 / 21 if equation else y[0] + y[1] >= 10 / 21
    problem = bl.Problem(cp.Minimize(y[0] + x), [row], followers=[follower])
    solution = bl.solve(problem, bl.OuterApproximation(backend), throw=False)
    assert solution.status is Status.OPTIMAL, solution.summary()
    assert solution.leader_value == pytest.approx(4 / 3, abs=1e-6)


@pytest.mark.parametrize("backend", ON)
def test_what_has_no_solution(backend):
    solver = bl.OuterApproximation(backend)
    x, y, u = cp.Variable(name="x", boolean=True), cp.Variable(name="y"), cp.Variable(name="u")
    near = bl.Follower(cp.Minimize(cp.square(y - x)), [y >= 0, y <= 3], variables=[y], name="f")
    coupled = bl.Problem(cp.Minimize(y + x), [y >= 2], followers=[near])
    assert bl.solve(coupled, solver, throw=False).status is Status.INFEASIBLE
    unbounded = bl.Problem(cp.Minimize(u + y + x), [u <= 3], followers=[near])
    assert bl.solve(unbounded, solver, throw=False).status is Status.UNBOUNDED
    none = bl.Follower(cp.Minimize(y), [y >= 2 + x, y <= 1], variables=[y], name="f")
    empty = bl.Problem(cp.Minimize(y + x), [], followers=[none])
    assert bl.solve(empty, solver, throw=False).status is Status.FOLLOWER_INFEASIBLE
    free = bl.Follower(cp.Minimize(-y), [y >= x], variables=[y], name="f")
    endless = bl.Problem(cp.Minimize(y + x), [], followers=[free])
    assert bl.solve(endless, solver, throw=False).status is Status.FOLLOWER_UNBOUNDED


def test_a_relaxation_without_a_bound_does_not_spoil_the_proof():
    """The follower's response is unbounded for the leader in the relaxation only."""
    x, y = cp.Variable(name="x", boolean=True), cp.Variable(name="y")
    follower = bl.Follower(cp.Maximize(y), [y <= 5 * x], variables=[y], name="f")
    problem = bl.Problem(cp.Minimize(y + x), [], followers=[follower])
    solution = bl.solve(problem, bl.OuterApproximation())
    assert (solution.status, round(solution.leader_value, 6)) == (Status.OPTIMAL, 0.0)


def test_bounds_of_the_user_cap_the_status():
    solver = bl.OuterApproximation(encoding=bl.BigM(multiplier=1e3))
    solution = bl.solve(larger(4), solver)
    assert solution.status is Status.FEASIBLE
    assert solution.bound is None
    small = bl.OuterApproximation(encoding=bl.BigM(multiplier=1e-3))
    assert not bl.solve(larger(4), small, throw=False).status.is_proved


def test_without_bounds_the_note_names_the_rows_and_the_encoding():
    x, y = cp.Variable(name="x", boolean=True), cp.Variable(2, name="y")
    rows = [y[0] - 2 * y[1] <= x, 3 * y[0] + y[1] <= 4, -y[0] - y[1] <= 1, y >= -2, y <= 3]
    follower = bl.Follower(cp.Minimize(cp.sum_squares(y)), rows, variables=[y], name="f")
    problem = bl.Problem(cp.Minimize(y[0] + x), [], followers=[follower])
    note = bl.solve(problem, bl.OuterApproximation()).stats.note
    assert "SOS1" in note
    assert "cancel each other" in note
    with pytest.raises(UnsupportedProblem, match="SCIP does without bounds"):
        bl.solve(problem, bl.OuterApproximation("highs"))


# ------------------------------------------------------------------------------------- refusals


def simple(x, objective=None, stance="optimistic"):
    y = cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(cp.square(y - x)), [y >= 0], variables=[y], name="f")
    F = cp.Minimize(y if objective is None else objective(x, y))
    return bl.Problem(F, [x <= 3, y <= 9], followers=[follower], stance=stance)


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (lambda: simple(cp.Variable(name="x", nonneg=True)), "column x .* continuous.*KKT"),
        (lambda: simple(cp.Variable(name="x", integer=True)), "column x .* without bounds.*KKT"),
        (
            lambda: simple(cp.Variable(name="x", boolean=True), stance="pessimistic"),
            "WorstCase",
        ),
    ],
)
def test_refusals_name_the_column_and_the_alternative(problem, words):
    with pytest.raises(UnsupportedProblem, match=words):
        bl.solve(problem(), bl.OuterApproximation())


def test_a_leader_that_is_curved_in_continuous_columns_is_refused():
    x, y, u = cp.Variable(name="x", boolean=True), cp.Variable(name="y"), cp.Variable(name="u")
    follower = bl.Follower(cp.Minimize(cp.square(y - x)), [y >= 0], variables=[y], name="f")
    leading = [u >= 0, u <= 1]
    bad = bl.Problem(cp.Minimize(u * y + x), leading, followers=[follower])
    with pytest.raises(UnsupportedProblem, match=r"not convex in (u\*y|y\*u).*KKT"):
        bl.solve(bad, bl.OuterApproximation())
    good = bl.Problem(cp.Minimize(-x * y + cp.square(u - y)), leading, followers=[follower])
    solution = bl.solve(good, bl.OuterApproximation())
    assert (solution.status, round(solution.leader_value, 5)) == (Status.OPTIMAL, -1.0)


def test_an_encoding_that_leaves_products_is_refused():
    with pytest.raises(ProblemError, match="SOS1"):
        bl.OuterApproximation(encoding=bl.Product())


# -------------------------------------------------------------------------- its building blocks


def curved_program(P, rows):
    n = len(P)
    names = tuple(f"v{i}" for i in range(n))
    objective = Objective(sp.csr_array(P), np.ones(n))
    wide = np.full(n, 5.0)
    return Program(names, -wide, wide, np.zeros(n, bool), objective, rows)


@settings(max_examples=30)
@given(st.lists(st.integers(-3, 3), min_size=9, max_size=9), st.integers(0, 10))
def test_tangents_hold_at_every_point_and_meet_theirs(entries, seed):
    root = np.array(entries, float).reshape(3, 3)
    P = root @ root.T
    upper = np.argwhere(np.triu(P) != 0)
    value = np.array([P[i, j] if i != j else P[i, i] / 2 for i, j in upper])
    products = Monomials.collect(np.zeros(len(upper), int), upper.reshape(-1, 2), value)
    row = Rows(sp.csr_array(np.ones((1, 3))), np.ones(1), np.zeros(1, bool), products, ("q",))
    shape = outer(curved_program(P, row))
    assert not len(shape.program.rows.products)
    assert shape.program.objective.P.nnz == 0
    rng = np.random.default_rng(seed)
    here, there = rng.normal(size=(2, 3))
    v, at = shape.at(there), shape.at(here)
    # The squares add up to what they stand for.
    exact = 0.5 * there @ P @ there + there.sum()
    assert shape.program.objective.evaluate(v) == pytest.approx(exact, abs=1e-9)
    if len(upper):
        assert shape.program.rows.evaluate(v)[0] == pytest.approx(exact - 1, abs=1e-9)
    every = np.ones(len(shape.base), bool)
    tangents = shape.tangents(at, every)
    assert (tangents.evaluate(v) <= 1e-9).all()
    np.testing.assert_allclose(tangents.evaluate(at), 0, atol=1e-9)
    low = v.copy()
    low[shape.square] -= 0.5
    assert shape.violated(low, 1e-6).all()
    assert (shape.tangents(low, every).evaluate(low) > 0).all()


@pytest.mark.backend("scip")
def test_rows_found_during_the_search_decide_what_is_feasible():
    """``max v0 + 2 v1`` over three binaries, points with an even sum refused one by one."""
    met = []

    def cuts(v, is_candidate):
        nothing = Rows.empty(3)
        if not is_candidate:
            return nothing
        met.append(np.round(v))
        if round(v.sum()) % 2:
            return nothing
        signs = np.where(v > 0.5, 1.0, -1.0)
        name = f"not{np.round(v)}"
        rhs = np.array([(v > 0.5).sum() - 1.0])
        one = np.zeros(1, bool)
        return Rows(sp.csr_array(signs[None, :]), rhs, one, Monomials.empty(), (name,))

    objective = Objective(sp.csr_array((3, 3)), np.array([-1.0, -2.0, 1.0]))
    program = Program(
        ("a", "b", "c"), np.zeros(3), np.ones(3), np.ones(3, bool), objective, Rows.empty(3)
    )
    raw = backends.get("scip").solve(replace(program, cuts=cuts), Limits())
    assert raw.termination is Termination.OPTIMAL
    # a = b = 1, c = 0 has an even sum; then c = 1 or a = 0: the values are both -2.
    assert raw.bound == pytest.approx(-2)
    assert round(raw.v.sum()) % 2
    assert met
    assert backends.get("highs").missing(replace(program, cuts=cuts)).sentence() == (
        "rows that are found during the search"
    )

    def broken(v, is_candidate):
        raise ArithmeticError("mine")

    with pytest.raises(bl.BackendError) as error:
        backends.get("scip").solve(replace(program, cuts=broken), Limits())
    assert isinstance(error.value.__cause__, ArithmeticError)
