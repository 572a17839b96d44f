"""Several followers: independent, with prices, with values, and in equilibrium among themselves."""

from __future__ import annotations

import itertools

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.registry import OPTIMISTIC, SOLVERS, rows

import bilevel as bl
from bilevel import Status, Structure, UnsupportedProblem

EXACT = tuple(row for row in SOLVERS if row.exact and row.stances >= OPTIMISTIC)

pytestmark = pytest.mark.backend("scip")


def solved(row, problem, limit=10):
    if row.struggles & problem.structure:
        limit = 2
    try:
        return bl.solve(problem, row.build(), time_limit=limit, throw=False)
    except UnsupportedProblem:
        assert row.may_refuse or row.must_refuse(problem)
        return None


def close(row, solution, truth):
    assert solution.leader_value == pytest.approx(truth, abs=max(1e-4, 10 * row.tolerance))
    assert solution.certificate.accepted


# ------------------------------------------------------------------------------------ independent


def suppliers(count=3):
    """Supplier k answers ``max(x - k, 0)`` at a cost of ``k + 1`` per unit."""
    x, followers = cp.Variable(name="x"), []
    for k in range(count):
        y = cp.Variable(name=f"y{k}")
        follower = bl.Follower(
            cp.Minimize((k + 1) * y), [y >= x - k, y >= 0], variables=[y], name=f"s{k}"
        )
        followers.append(follower)
    return x, followers


@pytest.mark.parametrize("row", rows(EXACT))
def test_independent_followers(row):
    x, followers = suppliers()
    total = sum(f.variables[0] for f in followers)
    problem = bl.Problem(
        cp.Minimize(cp.square(x - 4) + total), [x >= 0, x <= 5, total <= 40], followers=followers
    )
    assert Structure.SEVERAL_FOLLOWERS in problem.structure
    assert Structure.NASH not in problem.structure
    solution = solved(row, problem)
    if solution is None:
        return
    grid = np.linspace(0, 5, 500001)
    answers = [np.maximum(grid - k, 0) for k in range(3)]
    close(row, solution, ((grid - 4) ** 2 + sum(answers)).min())
    assert set(solution.follower_values) == {"s0", "s1", "s2"}


def test_prices_of_several_followers():
    """The multiplier of ``y >= x - k`` is ``k + 1`` where it is active."""
    x, followers = suppliers()
    prices = [f.dual(f.constraints[0]) for f in followers]
    problem = bl.Problem(
        cp.Maximize(prices[0] - 10 * prices[1] + 2 * prices[2]),
        [x >= 0.5, x <= 1.5],
        followers=followers,
    )
    solution = bl.solve(problem)
    # At x = 1 both 0 and 2 are possible for the second: the leader takes 0.
    assert solution.leader_value == pytest.approx(1, abs=1e-6)
    assert [float(solution[p]) for p in prices] == pytest.approx([1, 0, 0], abs=1e-6)


def test_values_of_several_followers():
    x, followers = suppliers(2)
    problem = bl.Problem(
        cp.Minimize(followers[0].value + 3 * followers[1].value - 4 * x),
        [x >= 0, x <= 3],
        followers=followers,
    )
    solution = bl.solve(problem)
    # x + 6 max(x - 1, 0) - 4 x is least at x = 1.
    assert solution.leader_value == pytest.approx(-3, abs=1e-6)
    for follower in followers:
        assert float(solution[follower.value]) == pytest.approx(
            solution.follower_values[follower.name], abs=1e-6
        )


def test_price_and_value_and_variables_of_different_followers_at_once():
    x, followers = suppliers()
    (y0,) = followers[0].variables
    price = followers[2].dual(followers[2].constraints[0])
    objective = cp.Minimize(y0 - followers[1].value + price)
    problem = bl.Problem(objective, [x >= 0, x <= 4], followers=followers)
    solution = bl.solve(problem)
    # x - 2 max(x - 1, 0) + 3 [x > 2]: at x = 2 that is 0, at x = 4 it is 1.
    assert solution.leader_value == pytest.approx(0, abs=1e-6)


# ------------------------------------------------------------------------------------ equilibrium


def cournot(taxes=(0.0, 4.0)):
    """Firms choose quantities; the leader taxes the first: ``q0 = (12 - 2 t)/3``."""
    t = cp.Variable(name="t")
    q = [cp.Variable(name=f"q{k}") for k in range(2)]
    followers = []
    for k in range(2):
        profit = (12 - (t if k == 0 else 0)) * q[k] - cp.square(q[k]) - q[0] * q[1]
        followers.append(
            bl.Follower(cp.Maximize(profit), [q[k] >= 0], variables=[q[k]], name=f"firm{k}")
        )
    leading = [t >= taxes[0], t <= taxes[1]]
    return t, q, bl.Problem(cp.Maximize(t * q[0]), leading, followers=followers)


@pytest.mark.parametrize("row", rows(EXACT))
def test_cournot(row):
    t, q, problem = cournot()
    assert Structure.NASH in problem.structure
    solution = solved(row, problem, limit=5)
    if solution is None:
        return
    # t (12 - 2 t)/3 is largest at t = 3 with value 6.
    if solution.status is Status.OPTIMAL or (row.proves and not row.struggles & problem.structure):
        close(row, solution, 6.0)
        assert float(solution[q[0]]) == pytest.approx(2, abs=1e-2)
        assert float(solution[q[1]]) == pytest.approx(5, abs=1e-2)


def test_an_equilibrium_is_verified_firm_by_firm():
    t, q, problem = cournot()
    solution = bl.solve(problem)
    gaps = solution.certificate.follower_gaps
    assert set(gaps) == {"firm0", "firm1"}
    assert max(gaps.values()) <= 1e-6
    assert solution.certificate.optimistic_value is None
    assert any("equilibria" in note for note in solution.certificate.notes)


def test_pessimistic_equilibrium_is_refused():
    *_, problem = cournot()
    with pytest.raises(UnsupportedProblem, match="equilibri"):
        bl.solve(problem.replace(stance="pessimistic"))


def test_shared_constraint():
    """Both firms feel ``q0 + q1 <= 3``: every split is an equilibrium.

    The optimistic leader takes its favourite.
    """
    x = cp.Variable(name="x")
    q = [cp.Variable(name=f"q{k}") for k in range(2)]
    followers = [
        bl.Follower(
            cp.Maximize(q[k]), [q[k] >= 0, q[0] + q[1] <= 3 - x], variables=[q[k]], name=f"f{k}"
        )
        for k in range(2)
    ]
    problem = bl.Problem(
        cp.Maximize(2 * q[0] - q[1] + 0.5 * x), [x >= 0, x <= 1], followers=followers
    )
    solution = bl.solve(problem)
    assert solution.leader_value == pytest.approx(6, abs=1e-5)
    assert float(solution[q[0]]) == pytest.approx(3, abs=1e-5)
    assert bl.verify(problem, {x: 0.0, q[0]: 1.0, q[1]: 2.0}).accepted
    assert not bl.verify(problem, {x: 0.0, q[0]: 1.0, q[1]: 1.0}).accepted


def test_no_equilibrium():
    """Matching pennies: one wants to agree, the other to differ; only a mixed answer is stable."""
    x = cp.Variable(name="x")
    a, b = cp.Variable(name="a"), cp.Variable(name="b")
    agree = bl.Follower(cp.Minimize((1 - 2 * b) * a), [a >= 0, a <= 1], variables=[a], name="agree")
    differ = bl.Follower(
        cp.Minimize((2 * a - 1) * b), [b >= 0, b <= 1], variables=[b], name="differ"
    )
    free = bl.Problem(cp.Minimize(x + a), [x >= 0, x <= 1], followers=[agree, differ])
    solution = bl.solve(free)  # the mixed one
    assert float(solution[a]) == pytest.approx(0.5, abs=1e-6)
    assert float(solution[b]) == pytest.approx(0.5, abs=1e-6)
    ends = free.replace(constraints=[*free.constraints, a >= 0.75])
    assert not bl.solve(ends, throw=False).status.has_point


@st.composite
def quadratic_games(draw):
    """Two followers with strictly convex costs and a coupling small enough for one equilibrium."""
    small = st.integers(-3, 3)
    c = [draw(small) for _ in range(2)]
    d = [draw(small) for _ in range(2)]
    cross = [draw(st.sampled_from([-0.8, -0.5, 0.0, 0.5, 0.8])) for _ in range(2)]
    F = [draw(small) for _ in range(3)]
    return c, d, cross, F


@settings(max_examples=12)
@given(quadratic_games())
def test_random_equilibria_on_a_grid(parts):
    """Best responses are iterated at every leader decision of a grid; the optimum is read off."""
    c, d, cross, F = parts
    x = cp.Variable(name="x", integer=True)
    y = [cp.Variable(name=f"y{k}") for k in range(2)]
    followers = []
    for k in range(2):
        cost = 0.5 * cp.square(y[k]) + (c[k] + d[k] * x) * y[k] + cross[k] * y[0] * y[1]
        followers.append(
            bl.Follower(cp.Minimize(cost), [y[k] >= -2, y[k] <= 2], variables=[y[k]], name=f"f{k}")
        )
    objective = cp.Minimize(F[0] * x + F[1] * y[0] + F[2] * y[1])
    problem = bl.Problem(objective, [x >= -2, x <= 2], followers=followers)
    truth = np.inf
    for decision in range(-2, 3):
        answer = np.zeros(2)
        for _ in range(200):  # a contraction: |cross| < 1
            for k in range(2):
                slope = c[k] + d[k] * decision + cross[k] * answer[1 - k]
                answer[k] = np.clip(-slope, -2, 2)
        truth = min(truth, F[0] * decision + F[1] * answer[0] + F[2] * answer[1])
    solution = bl.solve(problem, time_limit=20)
    assert solution.status is Status.OPTIMAL
    assert solution.leader_value == pytest.approx(truth, abs=1e-4)


@settings(max_examples=10)
@given(st.lists(st.integers(-3, 3), min_size=8, max_size=8))
def test_random_linear_equilibria(numbers):
    """Matrix games of two LP followers: the value is found among all vertices, by enumeration."""
    A, B = np.array(numbers[:4]).reshape(2, 2), np.array(numbers[4:]).reshape(2, 2)
    k = cp.Variable(name="k", boolean=True)
    p, q = cp.Variable(2, name="p"), cp.Variable(2, name="q")
    simplex = lambda v: [cp.sum(v) == 1, v >= 0]  # noqa: E731
    bonus = np.array([1.0, 0.0])
    row = bl.Follower(
        cp.Maximize(p @ A @ q + k * (bonus @ p)), simplex(p), variables=[p], name="row"
    )
    column = bl.Follower(cp.Maximize(p @ B @ q), simplex(q), variables=[q], name="column")
    F = np.array([1.0, 2.0])
    problem = bl.Problem(cp.Maximize(F @ p - F @ q - 0.25 * k), [], followers=[row, column])
    solution = bl.solve(problem, time_limit=20)
    assert solution.status in (Status.OPTIMAL, Status.FEASIBLE)
    assert solution.certificate.accepted
    best = -np.inf
    for bit, i, j in itertools.product((0, 1), range(2), range(2)):
        payoff = A + bit * np.outer(bonus, np.ones(2))
        if payoff[i, j] == payoff[:, j].max() and B[i, j] == B[i].max():
            best = max(best, F[i] - F[j] - 0.25 * bit)
    # Pure equilibria are a lower bound of what an optimistic leader gets among all.
    if solution.status is Status.OPTIMAL:
        assert solution.leader_value >= best - 1e-5
