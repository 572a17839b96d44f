"""The local method: closed forms, exact values as bounds, failures at starts, limits, refusals."""

from __future__ import annotations

import importlib
import os
import signal

import cvxpy as cp
import numpy as np
import pytest
from benchmarks.cases.continuation import quadratic as random_quadratic

import bilevel as bl
from bilevel import BackendNotFound, ProblemError, Status, UnsupportedProblem
from bilevel.errors import BackendError

pytestmark = pytest.mark.backend("ipopt")


def quadratic(seed, nx=6, ny=4):
    return random_quadratic(seed, nx, ny)


@pytest.mark.backend("scip")
def test_random_quadratic_problems_against_exact_values():
    """Never better than the optimum, always certified, and mostly as good."""
    reached = 0
    for seed in range(6):
        exact = bl.solve(quadratic(seed))
        assert exact.status is Status.OPTIMAL
        local = bl.solve(quadratic(seed), bl.Continuation())
        assert local.status is Status.STATIONARY
        assert local.bound is None
        assert local.certificate.accepted
        room = 1e-5 * max(1.0, abs(exact.leader_value))
        assert local.leader_value >= exact.leader_value - room
        reached += local.leader_value <= exact.leader_value + room
    assert reached >= 4


def test_one_start_can_end_in_a_local_optimum_and_more_starts_do_not():
    """T2: the descent that starts left of the kink ends in 4.5, the optimum is 4."""
    problem = bl.instances.get("T2").problem
    left = bl.solve(problem, bl.Continuation(starts=1, steps=1), start={"x": 0.0})
    assert left.status is Status.STATIONARY
    assert left.leader_value in (pytest.approx(4.0), pytest.approx(4.5))
    assert bl.solve(problem, bl.Continuation()).leader_value == pytest.approx(4.0)


# ------------------------------------------------------------------------------------- cones


def ball(distance):
    """Return a follower that projects onto the unit ball; the best x is the point on its rim."""
    x, y = cp.Variable(2, name="x"), cp.Variable(2, name="y")
    f = cp.sum_squares(y - x) if distance == "squared" else cp.norm(y - x)
    follower = bl.Follower(cp.Minimize(f), [cp.norm(y) <= 1], variables=[y], name="projection")
    F = cp.sum_squares(y - np.array([1.2, 1.6])) + 0.1 * cp.sum_squares(x)
    return bl.Problem(cp.Minimize(F), [x <= 5, x >= -5], [follower]), 1.1, {"x": [0.6, 0.8]}


def logit():
    """Return a firm that prices against a logit buyer: share = 1 / (1 + exp(-x))."""
    x, y = cp.Variable(name="x"), cp.Variable(2, name="y")
    f = cp.Maximize(x * y[0] + cp.sum(cp.entr(y)))
    buyer = bl.Follower(f, [cp.sum(y) == 1], variables=[y], name="logit")
    problem = bl.Problem(cp.Maximize((4 - x) * y[0]), [x >= -5, x <= 4], [buyer])
    grid = np.linspace(-5, 4, 900001)
    value = (4 - grid) / (1 + np.exp(-grid))
    return problem, value.max(), {"x": grid[value.argmax()]}


def softmax():
    """Return a leader that sets utilities so that the softmax has given shares."""
    x, y = cp.Variable(3, name="x"), cp.Variable(3, name="y")
    shares = np.array([0.2, 0.3, 0.5])
    f = cp.Maximize(x @ y + cp.sum(cp.entr(y)))
    follower = bl.Follower(f, [cp.sum(y) == 1], variables=[y], name="softmax")
    problem = bl.Problem(
        cp.Minimize(cp.sum_squares(y - shares)), [cp.sum(x) == 0, cp.abs(x) <= 5], [follower]
    )
    return problem, 0.0, {"y": shares, "x": np.log(shares) - np.log(shares).mean()}


def log_sum_exp():
    """Return a follower that balances two exponents: y = x / 2."""
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(cp.log_sum_exp(cp.hstack([y, x - y]))), [], variables=[y])
    F = cp.square(x - 1) + cp.square(y - 2)
    return bl.Problem(cp.Minimize(F), [x >= -9, x <= 9], [follower]), 1.8, {"x": 1.6, "y": 0.8}


def eigenvector():
    """Return a follower over the spectraplex: Y = vv', v the first eigenvector of C + x D."""
    x, Y = cp.Variable(name="x"), cp.Variable((2, 2), name="Y", symmetric=True)
    C, D = np.diag([1.0, -1.0]), np.array([[0.0, 1.0], [1.0, 0.0]])
    f = cp.Maximize(cp.trace((C + x * D) @ Y))
    follower = bl.Follower(f, [Y >> 0, cp.trace(Y) == 1], variables=[Y], name="eigen")
    problem = bl.Problem(cp.Maximize(Y[0, 1] - 0.1 * x), [x >= -3, x <= 3], [follower])
    grid = np.linspace(-3, 3, 600001)
    value = grid / np.sqrt(1 + grid**2) / 2 - 0.1 * grid
    return problem, value.max(), {"x": grid[value.argmax()]}


def nearest_matrix():
    """Return a follower that projects onto the semidefinite matrices (spectrum clipped at 0)."""
    X = cp.Variable((2, 2), name="X", symmetric=True)
    Y = cp.Variable((2, 2), name="Y", symmetric=True)
    follower = bl.Follower(cp.Minimize(cp.sum_squares(Y - X)), [Y >> 0], variables=[Y], name="psd")
    target = np.array([[1.0, 2.0], [2.0, 1.0]])  # eigenvalues 3 and -1
    F = cp.sum_squares(Y - target) + 0.01 * cp.sum_squares(X)
    problem = bl.Problem(cp.Minimize(F), [X <= 5, X >= -5], [follower])
    best = 3 / 1.01
    value = (best - 3) ** 2 + 0.01 * best**2 + 1
    return problem, value, {"X": np.full((2, 2), best / 2), "Y": np.full((2, 2), best / 2)}


CONIC = {
    "ball": lambda: ball("squared"),
    "ball by distance": lambda: ball("distance"),
    "logit": logit,
    "softmax": softmax,
    "log-sum-exp": log_sum_exp,
    "eigenvector": eigenvector,
    "nearest matrix": nearest_matrix,
}


@pytest.mark.parametrize("name", CONIC)
def test_conic_followers_with_closed_forms(name):
    problem, value, point = CONIC[name]()
    assert bl.Structure.FOLLOWER_CONIC in problem.structure
    solution = bl.solve(problem)
    assert "Continuation" in solution.stats.method
    assert solution.status is Status.STATIONARY, solution.summary()
    assert solution.bound is None
    assert solution.leader_value == pytest.approx(value, abs=1e-4)
    for key, expected in point.items():
        # A value within r of the optimum leaves sqrt(r) to the point of a curved problem.
        np.testing.assert_allclose(solution[key], expected, atol=2e-2)
    assert solution.certificate.accepted
    assert "weak duality" in solution.certificate.route
    assert solution.certificate.follower_gap < 1e-6
    assert bl.verify(problem, solution).accepted


def test_wrong_conic_points_are_refused():
    problem, _, _ = ball("squared")
    right = {"x": np.array([1.2, 1.6]), "y": np.array([0.6, 0.8])}
    assert bl.verify(problem, right).accepted
    unique = bl.verify(problem, right)
    assert unique.unique_response
    assert unique.optimistic_value == pytest.approx(unique.leader_value, abs=1e-6)
    worse = bl.verify(problem, {**right, "y": np.array([0.8, 0.6])})
    assert not worse.accepted
    assert worse.follower_gap > 1e-2
    outside = bl.verify(problem, {**right, "y": np.array([0.66, 0.88])})
    assert not outside.accepted
    assert outside.follower_violation > 1e-2


def test_wrong_matrices_and_shares_are_refused():
    problem, _, _ = eigenvector()
    angle = np.arctan2(1.0, 1.0) / 2
    v = np.array([np.cos(angle), np.sin(angle)])
    assert bl.verify(problem, {"x": 1.0, "Y": np.outer(v, v)}).accepted
    assert not bl.verify(problem, {"x": 1.0, "Y": np.eye(2) / 2}).accepted
    indefinite = np.outer(v, v) + np.array([[0.0, 0.1], [0.1, 0.0]])
    assert bl.verify(problem, {"x": 1.0, "Y": indefinite}).follower_violation > 1e-2
    problem, _, _ = logit()
    share = 1 / (1 + np.exp(-0.5))
    assert bl.verify(problem, {"x": 0.5, "y": np.array([share, 1 - share])}).accepted
    assert not bl.verify(problem, {"x": 0.5, "y": np.array([0.5, 0.5])}).accepted
    assert not bl.verify(problem, {"x": 0.5, "y": np.array([share, 1.1 - share])}).accepted


def test_false_multipliers_do_not_pass(monkeypatch):
    """A vendor that claims another optimum is refuted by weak duality."""
    problem, _, _ = ball("squared")
    clarabel = importlib.import_module("bilevel.backends.clarabel")
    real = clarabel._answer

    def wrong(*arguments):
        raw = real(*arguments)
        if raw.cone_duals:
            object.__setattr__(raw, "v", raw.v * 0.5)
            object.__setattr__(raw, "cone_duals", tuple(0.5 * z for z in raw.cone_duals))
        return raw

    monkeypatch.setattr(clarabel, "_answer", wrong)
    point = {"x": np.array([1.2, 1.6]), "y": np.array([0.3, 0.4])}
    assert not bl.verify(problem, point).accepted


def test_multipliers_of_cones_are_refused():
    x, Y = cp.Variable(name="x"), cp.Variable((2, 2), name="Y", symmetric=True)
    order, size = Y >> 0, cp.trace(Y) == x
    follower = bl.Follower(cp.Maximize(Y[0, 0]), [order, size], variables=[Y], name="matrix")
    with pytest.raises(UnsupportedProblem, match=r"'matrix'.*cone"):
        follower.dual(order)
    price = follower.dual(size)
    problem = bl.Problem(cp.Minimize(x + price), [x >= 1, x <= 2], [follower])
    with pytest.raises(UnsupportedProblem, match="'matrix'"):
        bl.solve(problem)


def test_an_equilibrium_of_conic_followers_is_refused():
    x, y, z = (cp.Variable(name=name) for name in "xyz")
    first = bl.Follower(cp.Minimize(cp.exp(y) - z * y), [], variables=[y], name="first")
    second = bl.Follower(cp.Minimize(cp.square(z - y)), [z <= 3], variables=[z], name="second")
    problem = bl.Problem(cp.Minimize(x + y), [x >= 0], [first, second])
    with pytest.raises(UnsupportedProblem, match="equilibrium"):
        bl.solve(problem, bl.Continuation())


# -------------------------------------------------------------------------- failures and limits


def test_a_failure_at_every_start_leaves_the_followers_answers():
    problem = quadratic(0)
    solution = bl.solve(problem, bl.Continuation(starts=3), options={"max_iter": 0})
    assert solution.status is Status.FEASIBLE
    assert solution.certificate.accepted
    assert "failed at 3 of 3 starts" in solution.stats.note
    assert "Maximum_Iterations_Exceeded" in solution.stats.note


def test_a_failure_at_one_start_never_loses_the_others(monkeypatch):
    ipopt = importlib.import_module("bilevel.backends.ipopt")
    real, calls = ipopt.Model.solve, []

    def broken(self, start, t, multipliers=None, deadline=None):
        calls.append(t)
        if len(calls) <= 6:
            raise BackendError("IPOPT failed: on purpose")
        return real(self, start, t, multipliers, deadline)

    monkeypatch.setattr(ipopt.Model, "solve", broken)
    solution = bl.solve(bl.instances.get("T2").problem, bl.Continuation())
    assert solution.status is Status.STATIONARY
    assert solution.leader_value == pytest.approx(4.0)
    assert "failed at 1 of 8 starts" in solution.stats.note


def test_an_unknown_option_is_refused():
    with pytest.raises(BackendError, match="no_such_option"):
        bl.solve(quadratic(0), bl.Continuation(), options={"no_such_option": 1})


def test_the_time_limit_keeps_what_was_found():
    solution = bl.solve(
        quadratic(1, 30, 20), bl.Continuation(starts=50), time_limit=1.0, throw=False
    )
    assert solution.status in (Status.FEASIBLE, Status.NOT_FOUND)
    assert "time limit" in solution.stats.note


def test_the_callback_sees_incumbents_and_stops():
    seen = []

    def stop(moment):
        seen.append(moment)
        return len(seen) > 40

    solution = bl.solve(quadratic(0), bl.Continuation(), callback=stop)
    assert solution.status is Status.FEASIBLE
    assert "Interrupted" in solution.stats.note
    assert any(moment.incumbent is not None for moment in seen)
    assert all(moment.bound is None for moment in seen)


def test_an_error_in_the_callback_reaches_the_caller():
    def broken(moment):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        bl.solve(quadratic(0), bl.Continuation(), callback=broken)


@pytest.mark.skipif(os.name == "nt", reason="SIGINT cannot be sent to one process")
@pytest.mark.parametrize("after", [1, 60])
def test_ctrl_c_returns_the_best_point_so_far(after):
    count = []

    def interrupt(moment):
        count.append(moment)
        if len(count) == after:
            signal.raise_signal(signal.SIGINT)

    solution = bl.solve(quadratic(0), bl.Continuation(), callback=interrupt)
    assert solution.status is Status.FEASIBLE
    assert solution.certificate.accepted
    assert "Interrupted" in solution.stats.note
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_same_seed_same_answer_and_a_start_is_used():
    problem = quadratic(2)
    first, second = (bl.solve(problem, bl.Continuation(starts=4), seed=7) for _ in range(2))
    assert first.leader_value == second.leader_value
    np.testing.assert_array_equal(first["x"], second["x"])
    again = bl.solve(problem, bl.Continuation(starts=1), start={"x": first["x"]})
    assert again.leader_value <= first.leader_value + 1e-6


def test_infeasible_problems_are_proved_where_the_relaxation_is_infeasible():
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(y), [y >= x], variables=[y], name="low")
    clash = bl.Problem(cp.Minimize(x), [x >= 0, x <= -1], [follower])
    solution = bl.solve(clash, bl.Continuation(), throw=False)
    assert solution.status is Status.INFEASIBLE
    # Feasible for both levels, but never with a best response: a local method does not know.
    never = bl.Problem(cp.Minimize(x), [x >= 0, x <= 1, y >= 3], [follower])
    solution = bl.solve(never, bl.Continuation(), throw=False)
    assert solution.status is Status.FAILED
    nobody = bl.Follower(cp.Minimize(y), [y >= x, y <= x - 1], variables=[y], name="nobody")
    solution = bl.solve(
        bl.Problem(cp.Minimize(x), [x >= 0, x <= 1], [nobody]), bl.Continuation(), throw=False
    )
    assert solution.status is Status.FOLLOWER_INFEASIBLE


# ------------------------------------------------------------------------------------- refusals


def test_what_is_refused_and_what_is_named_instead():
    integer = bl.instances.get("T14").problem
    with pytest.raises(UnsupportedProblem, match="integer"):
        bl.solve(integer, bl.Continuation())
    with pytest.raises(UnsupportedProblem, match="WorstCase"):
        bl.solve(bl.instances.get("T4").problem.replace(stance="pessimistic"), bl.Continuation())
    with pytest.raises(UnsupportedProblem, match="not convex"):
        bl.solve(bl.instances.get("T7").problem, bl.Continuation())


@pytest.mark.parametrize(
    "settings", [{"starts": 0}, {"steps": 1.5}, {"starts": True}, {"smallest": 0}, {"smallest": 1}]
)
def test_settings_are_checked(settings):
    with pytest.raises(ProblemError, match=next(iter(settings))):
        bl.Continuation(**settings)


def test_without_casadi_the_install_line_is_named(monkeypatch):
    registry = importlib.import_module("bilevel.backends.registry")
    real = registry.find_spec
    monkeypatch.setattr(
        registry, "find_spec", lambda name: None if name == "casadi" else real(name)
    )
    with pytest.raises(BackendNotFound, match=r"pip install 'bilevel\[casadi\]'"):
        bl.solve(bl.instances.get("T2").problem, bl.Continuation())
    with pytest.raises(UnsupportedProblem, match=r"pip install\s+'bilevel\[casadi\]'"):
        bl.solve(ball("squared")[0])
