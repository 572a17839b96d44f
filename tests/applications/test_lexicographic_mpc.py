"""Control with priorities against two programs solved one after the other."""

import cvxpy as cp
import numpy as np
import pytest

import bilevel as bl
from bilevel.applications.lexicographic_mpc import lexicographic_mpc

CART = ([[1.0, 1.0], [0.0, 1.0]], [[0.5], [1.0]])
LIMITS = {"input_limit": 1.0, "state_limit": [1.0, np.inf]}


def two_stages(A, B, horizon, state, input_limit, state_limit, Q, R):
    """Return the least violation, and the least cost among inputs with it."""
    A, B = np.array(A), np.array(B)
    u, x = cp.Variable((horizon, B.shape[1])), cp.Variable((horizon + 1, len(A)))
    s = cp.Variable((horizon, len(A)), nonneg=True)
    limit = np.broadcast_to(state_limit, len(A))
    rows = [x[0] == state, cp.abs(u) <= np.broadcast_to(input_limit, u.shape)]
    rows += [x[k + 1] == A @ x[k] + B @ u[k] for k in range(horizon)]
    some = np.isfinite(limit)
    rows += [cp.abs(x[k + 1][some]) <= limit[some] + s[k][some] for k in range(horizon)]
    first = cp.Problem(cp.Minimize(cp.sum(s)), rows).solve(solver="HIGHS")
    cost = sum(
        cp.quad_form(x[k + 1], cp.psd_wrap(Q)) + cp.quad_form(u[k], cp.psd_wrap(R))
        for k in range(horizon)
    )
    rows.append(cp.sum(s) <= first + 1e-7)
    return first, cp.Problem(cp.Minimize(cost), rows).solve(solver="CLARABEL")


@pytest.mark.parametrize("horizon", [3, 6])
def test_both_priorities_agree_with_two_stages_at_any_state(horizon):
    Q, R = np.diag([0.1, 0.0]), np.array([[1.0]])
    mpc = lexicographic_mpc(*CART, horizon, Q=Q, R=R, **LIMITS)
    for state in ([0.5, 0.0], [4.0, 0.0], [3.0, 1.0], [-2.0, 0.7]):
        solution = bl.solve(mpc.problem, parameters={mpc.state: state})
        assert solution.status is bl.Status.OPTIMAL
        assert solution.certificate.accepted
        violation, cost = two_stages(*CART, horizon, state, 1.0, LIMITS["state_limit"], Q, R)
        assert mpc.violation(solution) == pytest.approx(violation, abs=1e-5)
        assert solution.leader_value == pytest.approx(cost, rel=1e-4, abs=1e-5)
        path = mpc.trajectory(solution, state)
        assert np.maximum(abs(path[1:, 0]) - 1, 0).sum() == pytest.approx(violation, abs=1e-5)


def test_two_inputs_and_states_all_limited():
    A, B = [[0.9, 0.2], [0.0, 1.1]], [[1.0, 0.0], [0.3, 0.5]]
    mpc = lexicographic_mpc(A, B, 3, input_limit=[0.5, 1.0], state_limit=1.0)
    state = [2.0, -2.5]
    solution = bl.solve(mpc.problem, parameters={mpc.state: state})
    expected = two_stages(A, B, 3, state, [0.5, 1.0], 1.0, np.eye(2), np.eye(2))
    assert mpc.violation(solution) == pytest.approx(expected[0], abs=1e-5)
    assert solution.leader_value == pytest.approx(expected[1], rel=1e-4)


def test_another_state_needs_no_second_compilation():
    mpc = lexicographic_mpc(*CART, 3, **LIMITS)
    before = mpc.problem.canonical._compiled
    assert before is not None
    values = [
        bl.solve(mpc.problem, parameters={mpc.state: [p, 0.0]}).leader_value for p in (0.5, 2.0)
    ]
    assert mpc.problem.canonical._compiled is before
    assert values[0] < values[1]


def test_a_closed_loop_leaves_the_forbidden_region_and_stays_out():
    mpc = lexicographic_mpc(*CART, 5, **LIMITS)
    state, path = np.array([3.0, 0.0]), []
    for _ in range(6):
        solution = bl.solve(mpc.problem, parameters={mpc.state: state})
        state = mpc.trajectory(solution, state)[1]
        path.append(state[0])
    assert np.max(np.abs(path[-3:])) <= 1 + 1e-6


GOOD = {"A": CART[0], "B": CART[1], "horizon": 3, **LIMITS}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"A": [[1.0, 2.0]]}, "A must be square"),
        ({"A": [[1.0, np.nan], [0, 1]]}, "A must be a matrix of finite"),
        ({"B": [0.5, 1.0]}, "B must be a matrix"),
        ({"horizon": 0}, "horizon must be"),
        ({"horizon": 2.5}, "horizon must be"),
        ({"input_limit": 0.0}, "limit of input 0 must be above 0"),
        ({"input_limit": np.inf}, "input_limit must be finite"),
        ({"input_limit": [1.0, 1.0]}, "input_limit has 2 entries for 1 inputs"),
        ({"state_limit": [1.0, -1.0]}, "limit of state 1 must be above 0"),
        ({"state_limit": [1.0, np.nan]}, "limit of state 1 must be finite"),
        ({"state_limit": np.inf}, "no finite entry"),
        ({"Q": np.diag([1.0, -1.0])}, "Q is not positive semidefinite"),
        ({"R": [[1.0, 0.0]]}, "R must be symmetric"),
    ],
)
def test_bad_input_is_named(change, words):
    with pytest.raises(bl.ProblemError, match=words):
        lexicographic_mpc(**{**GOOD, **change})
