"""Layers whose gradients are compared with finite differences of full re-solves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import cvxpy as cp
import numpy as np
import torch
from torch import Tensor

import bilevel as bl
from benchmarks.layer_data import Programs
from benchmarks.layer_peers import make_bilevel
from bilevel.layers import BilevelLayer, FollowerLayer, tensors_of

_NX, _NY, _ROWS = 3, 4, 5


@dataclass(frozen=True, eq=False)
class Differentiated:
    """A layer and a point where it is differentiable."""

    layer: Any
    inputs: tuple[Tensor, ...]


def random_bilevel(leader: str, follower: str, seed: int) -> Differentiated:
    """Return a layer of a random problem; it returns the variables of both levels.

    Parameters
    ----------
    leader
        ``"qp"`` or ``"lp"``; with the latter the leader mostly ends at a bound or at a kink of the
        follower's response.
    follower
        ``"qp"``: with linear rows; ``"socp"``: with a norm and one row.
    seed
        For the data.
    """
    rng = np.random.default_rng(seed)
    p = cp.Parameter(_NX, name="p", value=rng.normal(size=_NX))
    r = cp.Parameter(_NY, name="r", value=rng.normal(size=_NY))
    b = cp.Parameter(_ROWS, name="b", value=0.5 + rng.random(_ROWS))
    x, y = cp.Variable(_NX, name="x"), cp.Variable(_NY, name="y")
    root = rng.normal(size=(_NY, _NY))
    linear = rng.normal(size=(_NY, _NX)) @ x + r
    cost = cp.quad_form(y, root @ root.T + np.eye(_NY)) / 2 + linear @ y
    A, B = rng.normal(size=(_ROWS, _NY)), rng.normal(size=(_ROWS, _NX))
    rows = [A @ y <= b + B @ x]
    if follower == "socp":
        rows = [cp.norm(y - B[:_NY] @ x) <= 1 + cp.sum(b) / _ROWS, A[0] @ y <= b[0]]
    answer = bl.Follower(cp.Minimize(cost), rows, [y])
    c, d = rng.normal(size=_NX), rng.normal(size=_NY)
    objective = (c + p) @ x + d @ y
    if leader == "qp":
        objective = cp.sum_squares(x - p) + d @ y + cp.sum_squares(y) / 2
    problem = bl.Problem(cp.Minimize(objective), [x >= -1, x <= 1], [answer])
    parameters = [q for q in (p, r, b) if q.id in {one.id for one in problem.parameters}]
    return Differentiated(BilevelLayer(problem, parameters, [x, y]), tensors_of(parameters))


def follower_qp() -> Differentiated:
    """Return a layer of a quadratic program with multipliers, all data parameters."""
    programs = Programs.draw(5, 1, 0)
    return Differentiated(
        make_bilevel(5), tuple(torch.from_numpy(part[0].copy()) for part in programs.data)
    )


def follower_socp() -> Differentiated:
    """Return a layer of a second-order cone program with a matrix parameter."""
    y, c, r = cp.Variable(3), cp.Parameter(3), cp.Parameter(nonneg=True)
    M = cp.Parameter((2, 3))
    rows = [cp.norm(M @ y) <= r, cp.sum(y) == 1]
    problem = cp.Problem(cp.Minimize(cp.sum_squares(y - c)), rows)
    layer = FollowerLayer(problem, [c, r, M], [y, rows[1].dual_variables[0]])
    torch.manual_seed(1)
    drawn = torch.randn(3), torch.tensor(0.3), torch.randn(2, 3)
    return Differentiated(layer, tuple(part.double() for part in drawn))


#: Layers whose gradients are compared with finite differences, by name.
DIFFERENTIATED: dict[str, Callable[[], Differentiated]] = {
    "follower QP": follower_qp,
    "follower SOCP": follower_socp,
    **{f"QP-QP {i}": partial(random_bilevel, "qp", "qp", i) for i in range(3)},
    **{f"LP-QP {i}": partial(random_bilevel, "lp", "qp", i) for i in range(3)},
    "QP-SOCP 0": partial(random_bilevel, "qp", "socp", 0),
}
