"""The leader's problem in ``x`` alone: its follower responds, its constraints are priced."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.linalg import vecdot, vector_norm

from bilevel.adjoints.smooth.krylov import direct, quotient
from bilevel.adjoints.smooth.stationarity import Hessian, Stationarity, gradients
from bilevel.solvers.smooth.follower_solution import FollowerSolution

#: No step is longer than this times ``1 + |x|``.
_LONGEST = 10.0


@dataclass(frozen=True, eq=False)
class LagrangianPoint:
    """A leader's decisions with what is known there.

    Parameters
    ----------
    x, response
        The decisions, and the follower's responses to them.
    value, gradient, S
        Of the leader's problem in ``x`` alone, with its second derivative.
    slope
        Derivative of the follower's ``w`` in ``x``.
    v
        The follower's co-state.
    """

    x: Tensor
    response: FollowerSolution
    value: Tensor
    gradient: Tensor = field(repr=False)
    S: Tensor = field(repr=False)
    slope: Tensor = field(repr=False)
    v: Tensor = field(repr=False)


@dataclass(frozen=True, eq=False)
class Penalty:
    """The augmented Lagrangian of the leader's constraints.

    Parameters
    ----------
    omega, mu
        Multipliers of ``H`` and ``G``.
    rho
        The price of a violation's square, for each instance.
    """

    omega: Tensor
    mu: Tensor
    rho: Tensor

    def __call__(self, st: Stationarity, x: Tensor, y: Tensor) -> Tensor:
        """Return the leader's objective with its constraints priced."""
        value = st.instances.value("F", x, y)
        rho = self.rho[:, None]
        if st.sizes[4]:
            H = st.instances.vector("H", x, y)
            value = value + (self.omega * H + rho / 2 * H**2).sum(-1)
        if st.sizes[5]:
            G = st.instances.vector("G", x, y)
            pushed = (G + self.mu / rho).clamp(min=0)
            value = value + (rho / 2 * (pushed**2 - (self.mu / rho) ** 2)).sum(-1)
        return value


def look(penalty: Penalty, x: Tensor, response: FollowerSolution) -> LagrangianPoint:
    """Return value, gradient and second derivative of the leader's problem in ``x``."""
    at = response.st
    w = response.w
    n = x.shape[-1]

    def whole(u: Tensor) -> Tensor:
        x, w, v = u.split([n, at.follower_size, at.follower_size], -1)
        (K,) = gradients(at.follower(x, w), (w,))
        return penalty(at, x, w[:, : at.sizes[1]]) - vecdot(v, K)

    nothing = torch.zeros_like(w)
    K_w = Hessian(lambda w: at.follower(x, w), w).dense()
    F_w = Hessian(lambda w: penalty(at, x, w[:, : at.sizes[1]]), w).gradient.detach()
    v = direct(K_w, F_w).x
    H = Hessian(whole, torch.cat([x, w, v if v.numel() else nothing], -1))
    matrix = H.dense()
    gradient = H.gradient.detach()[:, :n]
    side = matrix[:, n:, :n]
    inner = quotient(matrix[:, n:, n:], side)
    S = matrix[:, :n, :n] - side.mT @ inner
    value = penalty(at, x, w[:, : at.sizes[1]])
    return LagrangianPoint(x, response, value, gradient, S, -inner[:, : at.follower_size], v)


def descent(S: Tensor, g: Tensor, x: Tensor) -> Tensor:
    """Return Newton's direction with positive curvatures, no longer than ``10 (1 + |x|)``."""
    if not g.shape[-1]:
        return g
    finite = S.isfinite().flatten(1).all(-1)
    size, V = torch.linalg.eigh(torch.where(finite[:, None, None], S, torch.eye(S.shape[-1]).to(S)))
    size = size.abs()
    size = torch.maximum(size, 1e-8 * size.amax(-1, keepdim=True).clamp(min=1e-8))
    d = -(V @ ((V.mT @ g[..., None]) / size[..., None])).squeeze(-1)
    most = _LONGEST * (1 + vector_norm(x, dim=-1, keepdim=True))
    return d * (most / vector_norm(d, dim=-1, keepdim=True).clamp(min=1e-300)).clamp(max=1.0)


def inside(st: Stationarity, guess: Tensor, old: Tensor) -> Tensor:
    """Return a guess whose multipliers of inequalities are those of the last point."""
    first = st.sizes[1] + st.sizes[2]
    return torch.cat([guess[:, :first], old[:, first:]], -1) if st.sizes[3] else guess


def update(
    penalty: Penalty, point: LagrangianPoint, worst: Tensor, open_: Tensor
) -> tuple[Penalty, Tensor]:
    """Return the next multipliers and prices, and the violations, of the open instances."""
    st = point.response.st
    x = point.x
    y = point.response.w[:, : st.sizes[1]]
    H = st.instances.vector("H", x, y)
    G = st.instances.vector("G", x, y)
    rho = penalty.rho[:, None]
    slack = torch.maximum(G, -penalty.mu / rho)
    violation = torch.cat([H.abs(), slack.abs()], -1).amax(-1)
    slow = violation > worst / 4
    new = Penalty(
        torch.where(open_[:, None], penalty.omega + rho * H, penalty.omega),
        torch.where(open_[:, None], (penalty.mu + rho * G).clamp(min=0), penalty.mu),
        torch.where(open_ & slow, (10 * penalty.rho).clamp(max=1e8), penalty.rho),
    )
    return new, torch.where(open_, violation, worst)
