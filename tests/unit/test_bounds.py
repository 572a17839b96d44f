"""Derived bounds hold for what enumeration finds, and refusals name what is unbounded."""

from __future__ import annotations

import itertools

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

import bilevel as bl
from bilevel import Status, UnsupportedProblem
from bilevel.backends import registry
from bilevel.reformulate.bounds import multiplier_bounds, slack_bounds

CLOSED = {"packing": "closed form of a packing follower", "network": "of a network follower"}


def build(c, A, B, b, equal, leader, high=1, Q=None):
    """A follower ``min c'y (+ y'Qy/2)  s.t.  A y + B x <= b``, x integer in ``[0, high]``."""
    x = cp.Variable(B.shape[1], integer=True, name="x")
    y = cp.Variable(len(c), name="y")
    f = c @ y if Q is None else c @ y + 0.5 * cp.quad_form(y, cp.psd_wrap(Q))
    rows = [
        A[i] @ y + B[i] @ x == b[i] if equal[i] else A[i] @ y + B[i] @ x <= b[i]
        for i in range(len(b))
    ]
    follower = bl.Follower(cp.Minimize(f), rows, variables=[y], name="f")
    leading = [x >= 0, x <= high, cp.sum(x) <= high * len(B[0]) - 1]
    return bl.Problem(cp.Minimize(leader @ cp.hstack([x, y])), leading, followers=[follower])


def draw_array(draw, low, high, *shape):
    count = int(np.prod(shape))
    numbers = st.lists(st.integers(low, high), min_size=count, max_size=count)
    return np.array(draw(numbers), float).reshape(shape)


@st.composite
def packings(draw):
    """Knapsacks, packings and interdictions, some variables mirrored, some rows scaled."""
    n, m = draw(st.integers(1, 3)), draw(st.integers(0, 2))
    A = np.vstack([draw_array(draw, 0, 3, m, n), np.eye(n), -np.eye(n)])
    A[:m][~A[:m].any(axis=1), 0] = 1.0
    u = draw_array(draw, 1, 3, n)
    B = np.vstack([draw_array(draw, -1, 1, m, n), np.diag(u), np.zeros((n, n))])
    b = np.concatenate([draw_array(draw, 1, 6, m), u, np.zeros(n)])
    sign = 2 * draw_array(draw, 0, 1, n) - 1
    scale = draw_array(draw, 1, 3, len(b))
    c, leader = draw_array(draw, -4, 2, n) * sign, draw_array(draw, -3, 3, 2 * n)
    equal = np.zeros(len(b), bool)
    return c, scale[:, None] * A * sign, scale[:, None] * B, scale * b, equal, leader


@st.composite
def networks(draw):
    """Arcs between three nodes, flows with bounds that the leader may close, one node redundant."""
    arcs = draw(st.lists(st.sampled_from([(0, 1), (1, 2), (0, 2), (2, 1)]), min_size=2, max_size=4))
    n = len(arcs)
    N = np.zeros((3, n))
    for a, (i, j) in enumerate(arcs):
        N[i, a], N[j, a] = 1.0, -1.0
    N = N[N.any(axis=1)]
    scale = draw_array(draw, 1, 2, len(N))
    u = draw_array(draw, 1, 3, n)
    A = np.vstack([scale[:, None] * N, np.eye(n), -np.eye(n)])
    B = np.vstack([np.zeros((len(N), n)), np.diag(u), np.zeros((n, n))])
    flow = N @ np.minimum(draw_array(draw, 0, 2, n), u)
    b = np.concatenate([scale * flow, u, np.zeros(n)])
    equal = np.arange(len(b)) < len(N)
    c, leader = draw_array(draw, -3, 3, n), draw_array(draw, -3, 3, 2 * n)
    return c, A, B, b, equal, leader


def has_best_multipliers_within(bounds, c, A, rhs, equal):
    """Whether some best multipliers of ``min c'y, A y <= rhs`` are at most ``bounds``."""
    best = linprog(c, A[~equal], rhs[~equal], A[equal], rhs[equal], bounds=(None, None))
    if best.status != 0:
        return True  # no answer, no multipliers
    limits = [
        (None, None) if flag else (0, bound) for flag, bound in zip(equal, bounds, strict=True)
    ]
    value = linprog(rhs, A_eq=A.T, b_eq=-c, bounds=limits)
    return value.status == 0 and value.fun == pytest.approx(-best.fun, abs=1e-6)


@pytest.mark.parametrize("kind", ["packing", "network"])
def test_closed_forms_hold_at_every_decision(kind):
    @settings(max_examples=40)
    @given({"packing": packings, "network": networks}[kind]())
    def check(data):
        c, A, B, b, equal, _ = data
        bounds, origin = multiplier_bounds(build(*data).compile(), 0)
        assert CLOSED[kind] in origin or "packing" in origin or "one LP" in origin
        for x in itertools.product((0.0, 1.0), repeat=B.shape[1]):
            if sum(x) <= B.shape[1] - 1:
                assert has_best_multipliers_within(bounds, c, A, b - B @ np.array(x), equal)

    check()


@pytest.mark.parametrize("kind", ["packing", "network"])
@pytest.mark.backend("scip")
def test_derived_bounds_and_no_bounds_find_the_same_value(kind):
    @settings(max_examples=10)
    @given({"packing": packings, "network": networks}[kind](), st.booleans())
    def check(data, curved):
        c, *rest = data
        Q = np.eye(len(c)) + np.ones((len(c), len(c))) if curved else None
        problem = build(c, *rest, Q=Q)
        values = []
        for solver in (
            bl.SingleLevel(bl.KKT(bl.BigM())),
            bl.SingleLevel(bl.KKT(bl.SOS1())),
            bl.SingleLevel(bl.KKT(bl.BigM()), backend="highs"),
        ):
            solution = bl.solve(problem, solver, throw=False)
            assert solution.status in (Status.OPTIMAL, Status.FOLLOWER_INFEASIBLE)
            values.append(solution.leader_value)
        if values[0] is None:
            assert values == [None] * 3
        else:
            assert values == pytest.approx([values[0]] * 3, abs=1e-5)

    check()


@settings(max_examples=40)
@given(st.data())
def test_every_dual_vertex_lies_within_the_bounds_of_the_programs(data):
    """Rows to one side cancel nowhere, so that the LPs bound all multipliers; some are doubled."""
    n, m = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 3))
    A = -np.vstack([draw_array(data.draw, 0, 3, m, n), np.eye(n)])
    A = np.vstack([A, A[:1]]) if data.draw(st.booleans()) else A
    A = A[A.any(axis=1)]
    B = draw_array(data.draw, -2, 2, len(A), 2)
    b, c = draw_array(data.draw, -3, 3, len(A)), draw_array(data.draw, 0, 4, n)
    form = build(c, A, B, b, np.zeros(len(A), bool), np.ones(2 + n), high=3).compile()
    bounds, origin = multiplier_bounds(form, 0)
    assert "one LP per multiplier" in origin
    for basis in itertools.combinations(range(len(A)), n):
        square = A[list(basis)].T
        if abs(np.linalg.det(square)) < 1e-9:
            continue
        lam = np.linalg.solve(square, -c)
        if (lam >= 0).all():
            infeasible = bounds.max() <= 1e-6  # no decision has an answer: any bound is valid
            assert infeasible or (lam <= bounds[list(basis)] + 1e-9).all()


def test_the_interdiction_row_is_worth_no_more_than_its_item():
    x, y = cp.Variable(3, boolean=True, name="x"), cp.Variable(3, name="y")
    worth, weight = np.array([5.0, 2.0, -1.0]), np.array([2.0, 4.0, 1.0])
    rows = [weight @ y <= 5, y <= 1 - x, y >= 0]
    follower = bl.Follower(cp.Maximize(worth @ y), rows, variables=[y], name="thief")
    problem = bl.Problem(cp.Minimize(worth @ y), [cp.sum(x) <= 1], followers=[follower])
    bounds, origin = multiplier_bounds(problem.compile(), 0)
    assert origin == CLOSED["packing"]
    np.testing.assert_allclose(bounds[1:4], [5, 2, 0], atol=1e-4)
    assert bounds[0] == pytest.approx(2.5, abs=1e-4)
    # a_j lam - r_j where the knapsack prices an item above its reward.
    np.testing.assert_allclose(bounds[4:], [0, 8, 3.5], atol=1e-4)
    solution = bl.solve(problem, bl.SingleLevel(bl.KKT(bl.BigM()), backend="highs"))
    assert solution.status is Status.OPTIMAL
    assert CLOSED["packing"] in solution.stats.note
    assert solution.leader_value == pytest.approx(2)


def test_a_box_and_a_dense_row_of_mixed_signs_name_the_rows_that_cancel():
    x, y = cp.Variable(name="x", boolean=True), cp.Variable(2, name="y")
    rows = [y[0] - 2 * y[1] <= x, 3 * y[0] + y[1] <= 4, -y[0] - y[1] <= 1, y >= -2, y <= 3]
    follower = bl.Follower(cp.Minimize(cp.sum(y)), rows, variables=[y], name="f")
    problem = bl.Problem(cp.Minimize(y[0] + x), [], followers=[follower])
    with pytest.raises(UnsupportedProblem, match=r"rows c\d\[0\] and .*cancel each other") as error:
        bl.solve(problem, bl.SingleLevel(bl.KKT(bl.BigM())))
    assert "SOS1" in str(error.value)


def test_prices_of_the_leader_forbid_a_choice_of_multipliers():
    """The leader earns the multiplier, so a bound on some best multipliers is not enough."""
    y = cp.Variable(name="y")
    x = cp.Variable(name="x", boolean=True)
    room = y <= 1 - x
    follower = bl.Follower(cp.Maximize(y), [room, y >= 0], variables=[y], name="f")
    problem = bl.Problem(cp.Maximize(follower.dual(room) - x), [], followers=[follower])
    with pytest.raises(UnsupportedProblem, match="cancel each other"):
        bl.solve(problem, bl.SingleLevel(bl.KKT(bl.BigM())))
    # Without the price the same follower is a packing.
    alone = bl.Problem(cp.Maximize(y - x), [], followers=[follower])
    assert bl.solve(alone, bl.SingleLevel(bl.KKT(bl.BigM()))).status is Status.OPTIMAL


@pytest.mark.backend("scip")
@pytest.mark.parametrize("boolean", [True, False])
def test_a_leader_variable_in_the_follower_s_matrix_is_relaxed(boolean):
    """``(1 + x) y >= 2``: the slack by McCormick, the multiplier by ``0 <= x lam <= lam``."""
    x, y = cp.Variable(name="x", boolean=boolean), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(3 * y), [y + x * y >= 2], variables=[y], name="f")
    leading = [x >= 0, x <= 1, y <= 4, y >= 0]
    problem = bl.Problem(cp.Minimize(2 * x + y), leading, followers=[follower])
    form = problem.compile()
    multiplier, _ = multiplier_bounds(form, 0)
    slack, _ = slack_bounds(form, 0)
    # lam (1 + x) = 3 allows lam = 3 at x = 0; the slack is largest at x = 1, y = 4.
    assert multiplier == pytest.approx([3], abs=1e-4)
    assert slack == pytest.approx([6], abs=1e-4)
    for encoding in (bl.BigM(), bl.SOS1()):
        assert bl.solve(problem, bl.SingleLevel(bl.KKT(encoding))).leader_value == pytest.approx(2)


def test_a_slack_that_nothing_bounds_is_named():
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(y), [y >= x, y >= -x], variables=[y], name="f")
    problem = bl.Problem(cp.Minimize(y - x), [x >= 0], followers=[follower])
    with pytest.raises(UnsupportedProblem, match=r"slack of row c\d\[0\] of follower 'f'"):
        slack_bounds(problem.compile(), 0)


def test_auto_says_which_row_has_no_bound_where_scip_is_missing(monkeypatch):
    monkeypatch.setattr(registry, "_installed", lambda package: package != "pyscipopt")
    x, y = cp.Variable(name="x"), cp.Variable(2, name="y")
    rows = [y[0] - 2 * y[1] <= x, 3 * y[0] + y[1] <= 4, -y[0] - y[1] <= 1, y >= -2, y <= 3]
    follower = bl.Follower(cp.Minimize(cp.sum(y)), rows, variables=[y], name="f")
    # The product has no convex relaxation, so Branching does not take it.
    problem = bl.Problem(cp.Minimize(y[0] * x), [x >= 0, x <= 1], followers=[follower])
    with pytest.raises(UnsupportedProblem, match="cancel each other") as error:
        bl.Auto().choose(problem)
    assert "pip install pyscipopt" in str(error.value)
    assert bl.Auto().accepts(problem.compile()) == error.value.reasons
