"""Convex programs for the tests of layers, each with what CVXPY itself answers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import numpy as np
import torch

import bilevel as bl
from bilevel.adjoints import KKT
from bilevel.layers import FollowerLayer

#: Clarabel's, so that its answers are an oracle.
TIGHT = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas", "tol_ktratio"), 1e-11) | {
    "max_iter": 200
}


@dataclass(frozen=True)
class LayerCase:
    """A layer, values for its inputs, and the same program for CVXPY.

    Parameters
    ----------
    layer
        The layer.
    draw
        From a random generator to one instance's inputs, NumPy.
    program
        The program as CVXPY has it.
    parameters
        Its parameters, in the order of the inputs.
    read
        After a solve: what the layer ought to return.
    """

    layer: Any
    draw: Callable[[np.random.Generator], tuple[Any, ...]]
    program: cp.Problem
    parameters: Sequence[cp.Parameter]
    read: Callable[[], tuple[Any, ...]]

    def inputs(self, count: int = 3, seed: int = 0) -> tuple[torch.Tensor, ...]:
        """Return a batch of inputs in double precision."""
        rng = np.random.default_rng(seed)
        columns = zip(*(self.draw(rng) for _ in range(count)), strict=True)
        return tuple(torch.from_numpy(np.stack(column).astype(float)) for column in columns)

    def by_cvxpy(self, *values: torch.Tensor) -> tuple[np.ndarray, ...]:
        """Return what CVXPY and Clarabel answer to one instance."""
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.value = value.numpy()
        # A parameter as the matrix of a form breaks CVXPY's parametric rules, not its convexity.
        with warnings.catch_warnings():
            # Where Clarabel stalls just above these tolerances, the comparison is the judge.
            warnings.filterwarnings("ignore", "Solution may be inaccurate")
            self.program.solve(solver=cp.CLARABEL, ignore_dpp=True, **TIGHT)
        return tuple(np.array(one, float) for one in self.read())


def positive_definite(rng: np.random.Generator, n: int) -> np.ndarray:
    root = rng.standard_normal((n, n))
    return root @ root.T / n + 0.5 * np.eye(n)


def of_problem(problem, parameters, variables, draw, **options) -> LayerCase:
    """Return a case whose layer takes the very problem that CVXPY solves."""
    layer = FollowerLayer(problem, parameters, variables, **options)
    # CVXPY gives multipliers of second-order cones one axis more than their variables have.
    read = lambda: tuple(np.reshape(one.value, one.shape) for one in variables)  # noqa: E731
    return LayerCase(layer, draw, problem, parameters, read)


def qp_all_data() -> LayerCase:
    """A QP in standard form, all data parameters, the multipliers outputs."""
    n, m, p = 4, 5, 2
    y = cp.Variable(n, name="y")
    P, q = cp.Parameter((n, n), PSD=True, name="P"), cp.Parameter(n, name="q")
    G, h = cp.Parameter((m, n), name="G"), cp.Parameter(m, name="h")
    A, b = cp.Parameter((p, n), name="A"), cp.Parameter(p, name="b")
    rows = [G @ y <= h, A @ y == b]
    problem = cp.Problem(cp.Minimize(0.5 * cp.quad_form(y, P) + q @ y), rows)

    def draw(rng):
        G, A, y = rng.standard_normal((m, n)), rng.standard_normal((p, n)), rng.standard_normal(n)
        slack = np.where(np.arange(m) < 2, 0.05, 1.0) * rng.uniform(0.5, 1.0, m)
        q = rng.standard_normal(n) - 2 * G[0]
        return positive_definite(rng, n), q, G, G @ y + slack, A, A @ y

    outputs = [y, rows[0].dual_variables[0], rows[1].dual_variables[0]]
    return of_problem(problem, [P, q, G, h, A, b], outputs, draw)


def qp_sparse() -> LayerCase:
    """A chain of differences with limits, by sparse factorizations; a parametric diagonal."""
    n = 6
    y = cp.Variable(n, name="y")
    w, q = cp.Parameter(n, nonneg=True, name="w"), cp.Parameter(n, name="q")
    a, b = cp.Parameter(n - 1, name="a"), cp.Parameter(n - 1, name="b")
    rows = [cp.multiply(a, y[1:]) - y[:-1] <= b, cp.sum(y) == 1]
    cost = w @ cp.square(y) + q @ y
    outputs = [y, rows[0].dual_variables[0], rows[1].dual_variables[0]]

    def draw(rng):
        q = 3 * np.array([1.0, -1.0, 0.2, 1.0, -1.0, 0.5])
        slope, side = rng.uniform(0.9, 1.1, n - 1), rng.uniform(0.1, 0.2, n - 1)
        return rng.uniform(1, 2, n), q + 0.1 * rng.random(n), slope, side

    problem = cp.Problem(cp.Minimize(cost), rows)
    return of_problem(problem, [w, q, a, b], outputs, draw, adjoint=KKT(sparse=True))


def qp_factor() -> LayerCase:
    """Least squares with a parametric matrix in a box that is an attribute of the variable."""
    n, k = 3, 5
    y = cp.Variable(n, name="y", bounds=[-0.3, 0.4])
    L, c = cp.Parameter((k, n), name="L"), cp.Parameter(k, name="c")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(L @ y - c)))
    return of_problem(
        problem, [L, c], [y], lambda rng: (rng.standard_normal((k, n)), rng.standard_normal(k))
    )


def qp_products() -> LayerCase:
    """Parametric weights, a matrix variable, and auxiliary columns for absolute values."""
    Y = cp.Variable((2, 2), name="Y")
    C, w = cp.Parameter((2, 2), name="C"), cp.Parameter(nonneg=True, name="w")
    cost = cp.sum_squares(Y - C) + w * cp.sum(cp.abs(Y))
    row = cp.sum(Y, axis=0) <= 1
    problem = cp.Problem(cp.Minimize(cost), [row])
    outputs = [Y, row.dual_variables[0]]

    def draw(rng):
        return np.array([[2.0, 0.1], [1.2, -1.5]]) + 0.1 * rng.random((2, 2)), 0.4

    return of_problem(problem, [C, w], outputs, draw)


def qp_symmetric_variable() -> LayerCase:
    """The nearest symmetric matrix with given row sums; closed under transposition by its kind."""
    Y = cp.Variable((3, 3), symmetric=True, name="Y")
    C, s = cp.Parameter((3, 3), name="C"), cp.Parameter(3, name="s")
    row = cp.sum(Y, axis=1) == s
    problem = cp.Problem(cp.Minimize(cp.sum_squares(Y - C)), [row])
    return of_problem(
        problem,
        [C, s],
        [Y, row.dual_variables[0]],
        lambda rng: (rng.standard_normal((3, 3)), rng.standard_normal(3)),
    )


def lp_vertex() -> LayerCase:
    """A maximum at a vertex of a polytope, and its prices."""
    n = 3
    y = cp.Variable(n, nonneg=True, name="y")
    c, A, b = cp.Parameter(n, name="c"), cp.Parameter((4, n), name="A"), cp.Parameter(4, name="b")
    row = A @ y <= b
    problem = cp.Problem(cp.Maximize(c @ y), [row])

    def draw(rng):
        return rng.uniform(1, 2, n), rng.uniform(0.2, 1, (4, n)), rng.uniform(1, 2, 4)

    return of_problem(problem, [c, A, b], [y, row.dual_variables[0]], draw)


def follower(maximize: bool = False) -> LayerCase:
    """A follower that answers a leader variable and a parameter, with its price and its value."""

    def cost(y, x, p):
        form = 0.5 * cp.sum_squares(y) + cp.sum(y) * x + p @ y
        return cp.Maximize(-form) if maximize else cp.Minimize(form)

    def build(x, p, y):
        capacity, balance = y[0] + 2 * y[1] <= x, y[1] - y[2] == 1
        return cost(y, x, p), [capacity, balance, y >= -4]

    x, p, y = cp.Variable(name="x"), cp.Parameter(3, name="p"), cp.Variable(3, name="y")
    objective, rows = build(x, p, y)
    agent = bl.Follower(objective, rows, variables=[y], name="carrier")
    layer = FollowerLayer(agent, [x, p], [y, agent.dual(rows[0]), agent.dual(rows[1]), agent.value])
    given, p, y = cp.Parameter(name="x"), cp.Parameter(3, name="p"), cp.Variable(3, name="y")
    objective, rows = build(given, p, y)
    problem = cp.Problem(objective, rows)
    read = lambda: (y.value, rows[0].dual_value, rows[1].dual_value, problem.value)  # noqa: E731
    return LayerCase(
        layer,
        lambda rng: (0.5 * rng.standard_normal() - 1.0, rng.standard_normal(3) - 1.0),
        problem,
        [given, p],
        read,
    )


def socp() -> LayerCase:
    """Second-order cones written as a cone and as a norm, with both multipliers."""
    n = 3
    y = cp.Variable(n, name="y")
    c, F = cp.Parameter(n, name="c"), cp.Parameter((n, n), name="F")
    r, s = cp.Parameter(name="r"), cp.Parameter(name="s")
    cone, ball = cp.SOC(r, F @ y), cp.norm(y - 1) <= s
    line = cp.sum(y) == 1
    problem = cp.Problem(cp.Minimize(c @ y), [cone, ball, line])
    outputs = [y, *cone.dual_variables, ball.dual_variables[0], line.dual_variables[0]]

    def draw(rng):
        F = np.eye(n) + 0.2 * rng.standard_normal((n, n))
        return np.array([1.0, -1.0, 0.3]) + 0.3 * rng.random(n), F, 1.1, 1.35

    return of_problem(problem, [c, F, r, s], outputs, draw)


def socp_quadratic() -> LayerCase:
    """A quadratic objective over a ball, strictly inside a half-space."""
    y = cp.Variable(3, name="y")
    P, c, r = cp.Parameter((3, 3), PSD=True, name="P"), cp.Parameter(3, name="c"), cp.Parameter()
    problem = cp.Problem(
        cp.Minimize(cp.quad_form(y, P) + c @ y), [cp.norm(y) <= r, cp.sum(y) <= 100]
    )
    return of_problem(
        problem,
        [P, c, r],
        [y],
        lambda rng: (positive_definite(rng, 3), 9.0 * rng.standard_normal(3), 0.7),
    )


def psd(n: int, attribute: bool) -> LayerCase:
    """The nearest positive semidefinite matrix, and the multiplier."""
    C = cp.Parameter((n, n), symmetric=True, name="C")
    if attribute:
        Y = cp.Variable((n, n), PSD=True, name="Y")
        rows, outputs = [], [Y]
    else:
        Y = cp.Variable((n, n), symmetric=True, name="Y")
        rows = [Y >> 0]
        outputs = [Y, rows[0].dual_variables[0]]
    problem = cp.Problem(cp.Minimize(cp.sum_squares(Y - C)), rows)

    def draw(rng):
        M = rng.standard_normal((n, n))
        return (M + M.T,)

    return of_problem(problem, [C], outputs, draw)


def softmax() -> LayerCase:
    """The entropy-regularized choice, whose answer is ``softmax(p)``."""
    y = cp.Variable(4, name="y")
    p = cp.Parameter(4, name="p")
    simplex = cp.sum(y) == 1
    problem = cp.Problem(cp.Maximize(p @ y + cp.sum(cp.entr(y))), [simplex])
    return of_problem(
        problem,
        [p],
        [y, simplex.dual_variables[0]],
        lambda rng: (rng.standard_normal(4),),
    )


def logistic() -> LayerCase:
    """Logistic regression with a ridge."""
    w = cp.Variable(2, name="w")
    X, ridge = cp.Parameter((5, 2), name="X"), cp.Parameter(nonneg=True, name="ridge")
    cost = cp.sum(cp.logistic(X @ w)) + ridge * cp.sum_squares(w)
    return of_problem(
        cp.Problem(cp.Minimize(cost)),
        [X, ridge],
        [w],
        lambda rng: (rng.standard_normal((5, 2)), 0.7),
    )
