"""Followers without constraints: Newton's method with a line search, for a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.linalg import vecdot, vector_norm

from bilevel.adjoints.smooth.inertia import is_definite
from bilevel.adjoints.smooth.krylov import cg
from bilevel.adjoints.smooth.stationarity import Hessian, Stationarity
from bilevel.solvers.smooth.follower_solution import DENSE, FollowerSolution, finite, noise


def minimize(
    st: Stationarity, x: Tensor, y: Tensor, atol: float, max_steps: int
) -> FollowerSolution:
    """Return the responses to ``x``, from ``y`` on; a finished instance stays as it is."""

    def value(y: Tensor) -> Tensor:
        return st.follower(x, y)

    f = value(y)
    k = 0
    positive = torch.ones_like(f, dtype=torch.bool)
    small = torch.zeros_like(f, dtype=torch.bool)
    going = positive.clone()
    last = torch.full_like(f, torch.inf)
    falls = positive.clone()
    H = Hessian(value, y)
    while k < max_steps:
        g = H.gradient.detach()
        size = vector_norm(g, dim=-1)
        # Where f no longer tells, the gradient must.
        going &= falls | (size < last)
        last = size
        # One step more than asked: it squares the error.
        going &= (size > 0) & size.isfinite() & ~small
        small |= size <= atol
        if not bool(going.any()):
            break
        k += 1
        d, positive = _direction(H, g, going, positive)
        old = f
        y, f, moved = _search(value, y, f, g, d, going)
        going &= moved
        falls = f < old - noise(f, 50)
        if bool(moved.any()):
            H = Hessian(value, y)
    residual = vector_norm(H.gradient.detach(), dim=-1)
    residual = torch.where(f.isfinite(), residual, torch.inf)
    if y.shape[-1] <= DENSE:
        positive = is_definite(H.dense())
    return FollowerSolution(st, y, residual, positive, torch.full_like(f, torch.inf), k)


def _direction(H: Hessian, g: Tensor, going: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """Return a direction of descent, and where the second derivative is positive definite."""
    if g.shape[-1] <= DENSE:
        return _shifted(H.dense(), g), positive
    size = torch.where(going, vector_norm(g, dim=-1), 0.0)
    rtol = float(size.max().sqrt().clamp(min=1e-6, max=0.1))
    found = cg(H, -g, rtol=rtol, max_steps=500)
    unmoved = vector_norm(found.x, dim=-1) == 0
    return torch.where(unmoved[:, None], -g, found.x), torch.where(
        going, found.is_positive, positive
    )


def _shifted(A: Tensor, g: Tensor) -> Tensor:
    A = finite(A)
    scale = A.diagonal(dim1=-2, dim2=-1).abs().amax(-1).clamp(min=1e-8)
    shift = torch.zeros_like(scale)
    unit = torch.eye(A.shape[-1]).to(A)
    for _ in range(20):
        L, info = torch.linalg.cholesky_ex(A + shift[:, None, None] * unit)
        if not bool(info.any()):
            break
        shift = torch.where(info > 0, (10 * shift).clamp(min=1e-4 * scale), shift)
    return -torch.cholesky_solve(g.unsqueeze(-1), L).squeeze(-1)


def _search(
    value: Callable[[Tensor], Tensor], y: Tensor, f: Tensor, g: Tensor, d: Tensor, going: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first points that decrease enough; near the end rounding is no increase."""
    slope = vecdot(g, d)
    step = going.to(y)
    for _ in range(40):
        new = y + step.unsqueeze(-1) * d
        f_new = value(new)
        good = f_new <= f + 1e-4 * step * slope + noise(f, 50)
        if bool((good | ~going).all()):
            break
        step = torch.where(good, step, step / 2)
    taken = good & going
    return torch.where(taken[:, None], new, y), torch.where(taken, f_new, f), taken
