"""Followers with constraints: an interior-point method, and Newton's near a known response."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.linalg import vector_norm

from bilevel.adjoints.smooth.krylov import direct
from bilevel.adjoints.smooth.stationarity import Hessian, Stationarity
from bilevel.problem.precision import attainable
from bilevel.solvers.smooth.follower_solution import FollowerSolution, finite, second_order, taken

_BOUNDARY = 0.995
#: Slacks at the interior-point method's start are no smaller.
_SLACK = 1.0
#: Decisions whose optimality conditions fail by less are near a response.
_CLOSE = 1e-3
#: How often the active rows are corrected near a known response.
_ROUNDS = 5
#: In so many steps the interior-point method must halve its residual.
_PATIENCE = 15


def interior(
    st: Stationarity, x: Tensor, w: Tensor, atol: float, max_steps: int
) -> FollowerSolution:
    """Return the responses to ``x``, from ``w`` on; a finished instance stays as it is.

    A primal-dual interior-point method whose parameter grows tenfold a step, then Newton's method
    on the active rows, or on the barrier's equations. An instance whose residual does not halve in
    some steps is given up: its constraints may contradict each other.
    """
    m, p, k = st.sizes[1:4]
    whole = replace(st, active_g=torch.ones_like(st.active_g), barrier_parameter=None)
    final = (
        1 / st.barrier_parameter if st.barrier_parameter is not None else attainable(1e-13, w, 1)
    )
    s = (-st.instances.vector("g", x, w[:, :m])).clamp(min=_SLACK)
    tau = torch.full_like(w[:, 0], 1.0 if k else final)
    # A start on the central path's scale: slack times multiplier is the parameter.
    w = torch.cat([w[:, : m + p], 1 / s], -1)
    steps = 0
    H = Hessian(lambda w: whole.follower(x, w), w)
    moves = torch.ones_like(tau, dtype=torch.bool)
    goal = torch.full_like(tau, torch.inf)
    waited = torch.zeros_like(tau)
    while steps < max_steps:
        near = vector_norm(_residual(H, w, s, tau, m + p), dim=-1)
        falls = near <= goal
        goal = torch.where(falls, near / 2, goal)
        waited = torch.where(falls, 0, waited + 1)
        small = near <= max(atol, attainable(1e-12, w))
        going = moves & ~(small & (tau <= final)) & near.isfinite() & (waited <= _PATIENCE)
        if not bool(going.any()):
            break
        steps += 1
        dw, ds = _step(H, w, s, tau, (m, p, k))
        w, s, H, moves = _inside(whole, x, (w, s), (dw, ds), tau, m + p, near, going)
        ready = going & (vector_norm(_residual(H, w, s, tau, m + p), dim=-1) <= 10 * tau)
        # Where rounding lets nothing decrease, another parameter may; if not, Newton's steps do.
        moves |= ready & (tau > final)
        tau = torch.where(ready, (tau / 10).clamp(min=final), tau)
        goal = torch.where(ready, torch.inf, goal)
    if st.barrier_parameter is None:
        lam = w[:, m + p :]
        st = replace(st, active_g=lam > s)
        w = torch.cat([w[:, : m + p], torch.where(st.active_g, lam, 0.0)], -1)
    return _polished(st, x, w, 4, steps)


def begin(st: Stationarity, x: Tensor, w: Tensor, atol: float, max_steps: int) -> FollowerSolution:
    """Return the responses to ``x``; by Newton's method alone where ``w`` is close to one."""
    if st.barrier_parameter is not None:
        return interior(st, x, w, atol, max_steps)
    m = st.sizes[1]
    at, close = st.recover(x, w[:, :m])
    K = Hessian(lambda w: at.follower(x, w), close).gradient.detach()
    worst = torch.cat([K.abs(), at.instances.vector("g", x, w[:, :m])], -1).amax(-1)
    rows = worst <= _CLOSE
    found = near(at, x, close, atol, max_steps, rows)
    far = (~rows).nonzero()[:, 0]
    if not len(far):
        return found
    return found.put(far, interior(taken(st, far), x[far], w[far], atol, max_steps))


def near(
    st: Stationarity, x: Tensor, w: Tensor, atol: float, max_steps: int, rows: Tensor
) -> FollowerSolution:
    """Return the responses to ``x`` from ``w`` on, near responses whose active rows ``st`` holds.

    Newton's method on these rows; those with a negative multiplier are let go, those that are
    violated become active. An instance for which that ends nowhere is given to the interior-point
    method.

    Parameters
    ----------
    rows
        The instances that are asked, a mask; of the others, what they have is returned.
    """
    found = _polished(st, x, w, 12, 1)
    m, p, k = st.sizes[1:4]
    for _ in range(_ROUNDS):
        open_ = (rows & ~_holds(found, atol)).nonzero()[:, 0]
        if st.barrier_parameter is not None or not k or not len(open_):
            break
        part = taken(found.st, open_)
        lam = found.w[open_, m + p :]
        g = part.instances.vector("g", x[open_], found.w[open_, :m])
        active = torch.where(part.active_g, lam >= 0, g > 0)
        begin = torch.cat([found.w[open_, : m + p], torch.where(active, lam, 0.0)], -1)
        again = _polished(replace(part, active_g=active), x[open_], begin, 12, 1)
        found = found.put(open_, again)
    lost = (rows & ~_holds(found, atol)).nonzero()[:, 0]
    if not len(lost):
        return found
    return found.put(lost, interior(taken(st, lost), x[lost], w[lost], atol, max_steps))


def _holds(found: FollowerSolution, atol: float) -> Tensor:
    return (found.residual <= max(atol, attainable(1e-10, found.w))) & found.is_minimum


def _polished(
    st: Stationarity, x: Tensor, w: Tensor, max_steps: int, steps: int
) -> FollowerSolution:
    """Take Newton's steps on the rows that are active as long as they help, and judge."""
    m, p = st.sizes[1:3]
    best = w
    size = torch.full_like(w[:, 0], torch.inf)
    going = torch.ones_like(size, dtype=torch.bool)
    matrix = w.new_zeros(len(w), 1, 1)
    for i in range(max_steps + 1):
        H = Hessian(lambda w: st.follower(x, w), w)
        now = vector_norm(H.gradient.detach(), dim=-1)
        new = H.dense()
        going &= now < size
        best = torch.where(going[:, None], w, best)
        size = torch.where(going, now, size)
        matrix = torch.where(going[:, None, None], new, matrix)
        going &= size > attainable(1e-14, w, 10)
        if i == max_steps or not bool(going.any()):
            break
        d = direct(new, -H.gradient.detach()).x
        if st.barrier_parameter is not None:
            d = d * _longest(w[:, m + p :], d[:, m + p :])[:, None]
        w = torch.where(going[:, None], w + d, w)
    return _judged(st, x, best, size, matrix, steps)


def _judged(
    st: Stationarity, x: Tensor, w: Tensor, size: Tensor, matrix: Tensor, steps: int
) -> FollowerSolution:
    m, p, k = st.sizes[1:4]
    lam = w[:, m + p :]
    g = st.instances.vector("g", x, w[:, :m])
    residual = size
    margin = torch.full_like(size, torch.inf)
    if k:
        residual = torch.maximum(size, torch.maximum(g, -lam).clamp(min=0).amax(-1))
        margin = torch.maximum(lam, -g).amin(-1)
    f = st.instances.value("f", x, w[:, :m])
    residual = torch.where(f.isfinite(), residual, torch.inf)
    return FollowerSolution(st, w, residual, second_order(st, w, matrix), margin, steps)


def _residual(H: Hessian, w: Tensor, s: Tensor, tau: Tensor, first: int) -> Tensor:
    residual = H.gradient.detach().clone()
    lam = w[:, first:]
    residual[:, first:] += s
    return torch.cat([residual, s * lam - tau.unsqueeze(-1)], -1)


def _step(
    H: Hessian, w: Tensor, s: Tensor, tau: Tensor, sizes: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    """Return the primal-dual direction; the Hessian is shifted until it is one of descent."""
    m, p, k = sizes
    lam = w[:, m + p :]
    residual = H.gradient.detach().clone()
    K = H.dense()
    K[:, m + p :, m + p :] -= torch.diag_embed(s / lam)
    K = finite(K)
    residual[:, m + p :] += tau.unsqueeze(-1) / lam
    unit = torch.zeros_like(w[0])
    unit[:m] = 1.0
    unit = torch.diag(unit)
    shift = torch.zeros_like(tau)
    for _ in range(20):
        wrong = (torch.linalg.eigvalsh(K + shift[:, None, None] * unit) < 0).sum(-1) != p + k
        if not bool(wrong.any()):
            break
        shift = torch.where(wrong, (10 * shift).clamp(min=1e-8), shift)
    dw = direct(K + shift[:, None, None] * unit, -residual).x
    ds = -s + tau.unsqueeze(-1) / lam - s / lam * dw[:, m + p :]
    return dw, ds


def _inside(
    st: Stationarity,
    x: Tensor,
    point: tuple[Tensor, Tensor],
    step: tuple[Tensor, Tensor],
    tau: Tensor,
    first: int,
    size: Tensor,
    going: Tensor,
) -> tuple[Tensor, Tensor, Hessian, Tensor]:
    """Return the next point, inside the boundary, and where its residual is smaller."""
    (w, s), (dw, ds) = point, step
    dw = torch.where(going[:, None], dw, 0.0)
    ds = torch.where(going[:, None], ds, 0.0)
    length = torch.minimum(_longest(s, ds), _longest(w[:, first:], dw[:, first:]))
    for _ in range(20):
        new_w = w + length[:, None] * dw
        new_s = s + length[:, None] * ds
        H = Hessian(lambda w: st.follower(x, w), new_w)
        now = vector_norm(_residual(H, new_w, new_s, tau, first), dim=-1)
        good = (now <= (1 - 1e-4 * length) * size) | ~going
        if bool(good.all()):
            break
        length = torch.where(good, length, length / 2)
    return new_w, new_s, H, good & going


def _longest(v: Tensor, dv: Tensor) -> Tensor:
    if not v.shape[-1]:
        return torch.ones_like(v.sum(-1))
    ratio = torch.where(dv < 0, -v / dv.clamp(max=-1e-300), torch.inf)
    return (_BOUNDARY * ratio.amin(-1)).clamp(max=1.0)
