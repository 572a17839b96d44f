"""Points that satisfy all optimality conditions of a smooth problem, and what is known of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.linalg import vector_norm

from bilevel.adjoints.smooth.inertia import inertia
from bilevel.adjoints.smooth.krylov import direct
from bilevel.adjoints.smooth.stationarity import Hessian, Stationarity
from bilevel.problem.precision import attainable
from bilevel.solvers.smooth.follower_solution import FollowerSolution

#: A row of the leader with less slack than this may be active.
_TOUCHED = 1e-4
#: A row or a multiplier is wrong by more than this, or it is not; and how often that is mended.
_EXACT = 1e-9
_ROUNDS = 4


@dataclass(frozen=True, eq=False)
class KKTPoint:
    """Stationary points of a batch of smooth problems.

    Parameters
    ----------
    st
        The scalars, with the rows that are active at the points.
    u
        ``(x, w, v, omega, mu)``.
    residual
        Norm of all optimality conditions, shape ``(B,)``.
    follower_residual
        Of the follower's alone.
    follower_is_minimum, is_minimum
        Where the follower's, and the leader's second-order conditions hold.
    is_singular
        Where the derivative of the conditions is singular to rounding.
    margin
        Smallest ``max(multiplier, slack)`` over all inequalities.
    steps
        Of the batch.
    """

    st: Stationarity
    u: Tensor
    residual: Tensor
    follower_residual: Tensor
    follower_is_minimum: Tensor
    is_minimum: Tensor
    is_singular: Tensor
    margin: Tensor
    steps: int

    @property
    def is_strict(self) -> Tensor:
        """Where both levels' second-order conditions hold and no matrix is singular."""
        return self.follower_is_minimum & self.is_minimum & ~self.is_singular


def multipliers(response: FollowerSolution, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the co-state and the leader's multipliers that satisfy stationarity best.

    With them the norm of what is left of stationarity, shape ``(B,)``.
    """
    st = response.st
    w = response.w
    G = st.instances.vector("G", x, w[:, : st.sizes[1]])
    st = replace(st, active_G=G >= -_TOUCHED)
    first = x.shape[-1] + w.shape[-1]
    more = sum(st.sizes[4:])
    co = 0 if st.instances.problem.zero_sum else w.shape[-1]
    H = Hessian(st.leader, torch.cat([x, w, x.new_zeros(len(x), co + more)], -1))
    jacobian = H.dense()[:, :first, first:]
    rhs = -H.gradient.detach()[:, :first, None]
    good = jacobian.isfinite().flatten(1).all(-1) & rhs.isfinite().flatten(1).all(-1)
    jacobian = torch.where(good[:, None, None], jacobian, 0.0)
    found = torch.linalg.lstsq(jacobian, torch.where(good[:, None, None], rhs, 0.0), driver="gelsd")
    dual = found.solution[..., 0]
    dual[:, co + st.sizes[4] :].clamp_(min=0)
    left = vector_norm((jacobian @ dual[..., None] - rhs)[..., 0], dim=-1)
    v = torch.zeros_like(w) if not co else dual[:, :co]
    return v, dual[:, co : co + st.sizes[4]], dual[:, co + st.sizes[4] :], left


def polish(
    response: FollowerSolution, x: Tensor, v: Tensor, omega: Tensor, mu: Tensor, steps: int
) -> KKTPoint:
    """Solve all optimality conditions at once, from decisions near a stationary point.

    Parameters
    ----------
    response
        The follower's responses to ``x``.
    x, v
        The decisions, and the follower's co-state.
    omega, mu
        Multipliers of the leader's constraints.
    steps
        How many steps have led here.
    """
    st = response.st
    w = response.w
    y = w[:, : st.sizes[1]]
    G = st.instances.vector("G", x, y)
    if st.barrier_parameter is None:
        st = replace(st, active_G=mu > -G)
        mu = torch.where(st.active_G, mu, 0.0)
    elif st.sizes[5]:
        mu = torch.maximum(
            mu, 1 / (st.barrier_parameter * (-G).clamp(min=st.barrier_parameter**-0.5))
        )
    v = v[:, :0] if st.instances.problem.zero_sum else v
    st, u, size = _on_rows(st, torch.cat([x, w, v, omega, mu], -1))
    x, w, *_ = st.split(u)
    y, (rows, duals) = w[:, : st.sizes[1]], _inequalities(st, u)
    residual = size
    margin = torch.full_like(size, torch.inf)
    if rows.shape[-1]:
        residual = torch.maximum(size, torch.maximum(rows, -duals).clamp(min=0).amax(-1))
        margin = torch.maximum(duals, -rows).amin(-1)
    f, F = (st.instances.value(name, x, y) for name in "fF")
    residual = torch.where(f.isfinite() & F.isfinite(), residual, torch.inf)
    K = Hessian(lambda w: st.follower(x, w), w)
    follower = vector_norm(K.gradient.detach(), dim=-1)
    minimum, singular = _second_order(st, u)
    return KKTPoint(
        st, u, residual, follower, response.is_minimum, minimum, singular, margin, steps
    )


def _inequalities(st: Stationarity, u: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of both levels and their multipliers."""
    x, w, _, _, mu = st.split(u)
    y = w[:, : st.sizes[1]]
    lam = w[:, st.sizes[1] + st.sizes[2] :]
    rows = [st.instances.vector(name, x, y) for name in "gG"]
    return torch.cat(rows, -1), torch.cat([lam, mu], -1)


def _on_rows(st: Stationarity, u: Tensor) -> tuple[Stationarity, Tensor, Tensor]:
    """Take Newton's steps; where a row was wrongly active or inactive, again with it corrected."""
    begun, (u, size) = u, _newton(st, u)
    least = attainable(_EXACT, u)
    k = st.sizes[3]
    for _ in range(_ROUNDS if st.barrier_parameter is None and k + st.sizes[5] else 0):
        rows, duals = _inequalities(st, u)
        active = torch.cat([st.active_g, st.active_G], -1)
        wrong = torch.where(active, duals < -least, rows > least)
        again = wrong.any(-1, keepdim=True) & (size[:, None] <= least)
        if not bool(again.any()):
            break
        active = active ^ (wrong & again)
        corrected = replace(st, active_g=active[:, :k], active_G=active[:, k:])
        start = torch.where(again, _cleared(corrected, begun), u)
        found, norm = _newton(corrected, start)
        st = corrected
        u = torch.where(again, found, u)
        size = torch.where(again[:, 0], norm, size)
    return st, u, size


def _cleared(st: Stationarity, u: Tensor) -> Tensor:
    """Return a point with no multiplier for a row that is not active."""
    x, w, v, omega, mu = st.split(u)
    first = st.sizes[1] + st.sizes[2]
    lam = torch.where(st.active_g, w[:, first:], 0.0)
    return torch.cat([x, w[:, :first], lam, v, omega, torch.where(st.active_G, mu, 0.0)], -1)


def _newton(st: Stationarity, u: Tensor) -> tuple[Tensor, Tensor]:
    best = u
    size = torch.full_like(u[:, 0], torch.inf)
    least = attainable(1e-14, u, 10)
    duals = torch.zeros_like(u[0], dtype=torch.bool)
    if st.barrier_parameter is not None:
        first = st.sizes[0] + st.sizes[1] + st.sizes[2]
        duals[first : first + st.sizes[3]] = True
        duals[len(duals) - st.sizes[5] :] = st.sizes[5] > 0
    for _ in range(30 if st.barrier_parameter is not None else 6):
        H = Hessian(st.leader, u)
        now = vector_norm(H.gradient.detach(), dim=-1)
        # A finished instance stays as it is, whatever the others still need.
        better = (now < size) & (size > least)
        best = torch.where(better[:, None], u, best)
        size = torch.where(better, now, size)
        if bool((size <= least).all()):
            break
        d = direct(H.dense(), -H.gradient.detach()).x
        if st.barrier_parameter is not None:
            ratio = torch.where(duals & (d < 0), -u / d.clamp(max=-1e-300), torch.inf)
            d = d * (0.99 * ratio.amin(-1, keepdim=True)).clamp(max=1.0)
        u = u + d
    return best, size


def _second_order(st: Stationarity, u: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the leader's second-order condition holds, and where the matrix is singular.

    By Haynsworth's formula for the inertia of the whole matrix: every co-state, equation and
    active row brings one negative eigenvalue, every inactive one its own, and there are no more.
    """
    _, m, p, k, equations, rows = st.sizes
    negative, positive = inertia(Hessian(st.leader, u).dense())
    # Minus the follower's matrix has m negative eigenvalues.
    expected = (m if st.instances.problem.zero_sum else m + p + k) + equations + rows
    return negative == expected, negative + positive < u.shape[-1]
