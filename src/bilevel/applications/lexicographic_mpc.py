"""Predictive control with priorities: first the limits of the state, then the cost of control."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cvxpy as cp
import numpy as np

from bilevel.applications.data import number
from bilevel.errors import ProblemError
from bilevel.problem.problem import Follower, Problem

if TYPE_CHECKING:
    from bilevel.problem.functions import Array
    from bilevel.solution import Solution

__all__ = ["LexicographicMPC", "lexicographic_mpc"]


@dataclass(frozen=True, eq=False)
class LexicographicMPC:
    """A control problem with priorities, for any present state.

    Parameters
    ----------
    problem
        What ``bl.solve`` takes, with ``parameters={state: x}``.
    state
        CVXPY parameter: the present state, shape (states,).
    input
        The follower's variable: inputs of all steps, shape (horizon, inputs).
    A, B
        The system ``x+ = A x + B u``.
    """

    problem: Problem
    state: cp.Parameter = field(repr=False)
    input: cp.Variable = field(repr=False)
    A: Array = field(repr=False)
    B: Array = field(repr=False)

    def first_input(self, solution: Solution) -> Array:
        """Return the inputs of the first step, which are applied, shape (inputs,)."""
        return np.asarray(solution[self.input], float)[0]

    def violation(self, solution: Solution) -> float:
        """Return the sum of all violations over the horizon: the value of the first priority."""
        return solution.follower_values["limits"]

    def trajectory(self, solution: Solution, state: Any) -> Array:
        """Return the states from a present one on, shape (horizon + 1, states)."""
        states = [np.asarray(state, float)]
        for u in np.asarray(solution[self.input], float):
            states.append(self.A @ states[-1] + self.B @ u)
        return np.array(states)


def lexicographic_mpc(
    A: Any,
    B: Any,
    horizon: int,
    *,
    input_limit: Any,
    state_limit: Any,
    Q: Any = None,
    R: Any = None,
) -> LexicographicMPC:
    r"""Return the control problem whose first priority is to keep the state within limits.

        minimize    sum_k x_k'Q x_k + u_k'R u_k       over the responses of the follower
        follower:   minimize    sum_k sum(s_k)
                    subject to  |x_k| <= state_limit + s_k,  s_k >= 0,  |u_k| <= input_limit
                                x_{k+1} = A x_k + B u_k,  x_0 the present state

    Parameters
    ----------
    A, B
        The system, shapes (states, states) and (states, inputs).
    horizon
        Number of steps, at least 1.
    input_limit
        Largest size of each input, above 0; a number, or shape (inputs,).
    state_limit
        Limit of the size of each state, above 0; a number, or shape (states,), infinite for none.
    Q, R
        Cost of states and inputs, symmetric and positive semidefinite; identities if left out.

    Returns
    -------
    LexicographicMPC
        ``bl.solve(mpc.problem, parameters={mpc.state: x})``; new states need no new compilation.

    Raises
    ------
    ProblemError
        If a shape does not fit, data contain NaN, a limit is not positive, or a cost is not
        convex.

    Notes
    -----
    The limits of states are soft, hence there is always a response. The leader has no variable of
    its own: it chooses among all inputs with the least violation. A weighted sum of both aims needs
    a weight that is large enough for every state, which nobody knows, and gives the second aim a
    part of the first where it is not (instance T19).

    States are eliminated, so that a follower row is a limit. The certificate's worst value, a
    maximum of a convex function, may be left out.

    References
    ----------
    Kerrigan & Maciejowski, *Designing model predictive controllers with prioritised constraints and
    objectives*, IEEE CACSD (2002).

    Examples
    --------
    A cart at 2, with position to be within 1: it cannot be there at once.

    >>> import bilevel as bl
    >>> from bilevel.applications.lexicographic_mpc import lexicographic_mpc
    >>> mpc = lexicographic_mpc(
    ...     [[1, 1], [0, 1]],
    ...     [[0.5], [1]],
    ...     4,
    ...     input_limit=1,
    ...     state_limit=[1, float("inf")],
    ... )
    >>> solution = bl.solve(mpc.problem, parameters={mpc.state: [2.0, 0.0]})
    >>> print(solution.status.name, round(mpc.violation(solution), 3))
    OPTIMAL 0.5
    """
    A = _matrix(A, "A")
    B = _matrix(B, "B")
    states, inputs = B.shape
    if A.shape != (states, states):
        raise ProblemError(
            f"A must be square with as many rows as B, not {A.shape} beside B of {B.shape}."
        )
    if isinstance(horizon, bool) or not isinstance(horizon, (int, np.integer)) or horizon < 1:
        raise ProblemError(f"horizon must be an integer of at least 1, not {horizon!r}.")
    most_input = _limits(input_limit, inputs, "input")
    if np.isinf(most_input).any():
        raise ProblemError("input_limit must be finite: inputs without limit leave no first aim.")
    most_state = _limits(state_limit, states, "state")
    limited = np.flatnonzero(np.isfinite(most_state))
    if not len(limited):
        raise ProblemError("state_limit has no finite entry, so that there is no first priority.")
    Q = _cost(Q, states, "Q")
    R = _cost(R, inputs, "R")

    present = cp.Parameter(states, name="state")
    u = cp.Variable((int(horizon), inputs), name="input")
    slack = cp.Variable((int(horizon), len(limited)), name="violation")
    rows = [slack >= 0]
    rows += [u[:, [j]] <= most_input[j] for j in range(inputs)]
    rows += [u[:, [j]] >= -most_input[j] for j in range(inputs)]
    x = present
    cost = 0.0
    for k in range(int(horizon)):
        x = A @ x + B @ u[k]
        size = most_state[limited] + slack[k]
        rows += [x[limited] <= size, -x[limited] <= size]
        cost = cost + _quadratic(x, Q) + _quadratic(u[k], R)
    follower = Follower(cp.Minimize(cp.sum(slack)), rows, [u, slack], "limits")
    return LexicographicMPC(Problem(cp.Minimize(cost), [], [follower]), present, u, A, B)


def _quadratic(vector: Any, root: Array) -> Any:
    return cp.sum_squares(root @ vector)


def _matrix(values: Any, what: str) -> Array:
    try:
        matrix = np.array(values, dtype=float)
    except (TypeError, ValueError):
        raise ProblemError(f"{what} must be a matrix of numbers.") from None
    if matrix.ndim != 2 or not matrix.size or not np.isfinite(matrix).all():
        raise ProblemError(
            f"{what} must be a matrix of finite numbers; its shape is {matrix.shape}."
        )
    return matrix


def _limits(values: Any, count: int, what: str) -> Array:
    listed = [values] * count if np.ndim(values) == 0 else list(values)
    if len(listed) != count:
        raise ProblemError(f"{what}_limit has {len(listed)} entries for {count} {what}s.")
    infinite = [isinstance(value, (float, np.floating)) and value == np.inf for value in listed]
    return np.array(
        [
            np.inf if free else number(value, f"The limit of {what} {j}", above=0.0)
            for j, (value, free) in enumerate(zip(listed, infinite, strict=True))
        ]
    )


def _cost(values: Any, size: int, what: str) -> Array:
    """Return a matrix ``L`` with ``L'L`` the cost, after checking that this is convex."""
    matrix = np.eye(size) if values is None else _matrix(values, what)
    if matrix.shape != (size, size) or not np.allclose(matrix, matrix.T):
        raise ProblemError(f"{what} must be symmetric of shape ({size}, {size}).")
    eigenvalues, vectors = np.linalg.eigh(matrix)
    if eigenvalues[0] < -1e-9 * max(1.0, eigenvalues[-1]):
        raise ProblemError(
            f"{what} is not positive semidefinite (smallest eigenvalue {eigenvalues[0]:.3g})."
        )
    return np.sqrt(np.maximum(eigenvalues, 0.0))[:, None] * vectors.T
