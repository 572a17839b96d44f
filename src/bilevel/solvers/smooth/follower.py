"""What a smooth follower answers: a batch of Newton's methods, one scalar of step each."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.linalg import vecdot, vector_norm

from bilevel.adjoints.linear import cg, direct
from bilevel.adjoints.stationarity import Hessian, Stationarity

#: Up to this many unknowns matrices are built.
DENSE = 256
_BOUNDARY = 0.995


@dataclass(frozen=True, eq=False)
class Answered:
    """A follower's answers to a batch of decisions.

    Parameters
    ----------
    st
        The scalars with the rows that are active at the answers.
    w
        ``(y, nu, lam)``, shape ``(B, k)``.
    residual
        Norm of the optimality conditions, shape ``(B,)``.
    is_minimum
        Where the second derivative is positive definite on what active constraints leave.
    margin
        Smallest ``max(lam_i, -g_i)``, shape ``(B,)``.
    iterations
        Of the batch.
    """

    st: Stationarity
    w: Tensor
    residual: Tensor
    is_minimum: Tensor
    margin: Tensor
    iterations: int


@dataclass(frozen=True)
class Newton:
    """How accurately, and for how long, a follower is asked.

    Parameters
    ----------
    atol
        Norm of the optimality conditions at which an answer is one.
    limit
        Most iterations.

    Examples
    --------
    >>> from bilevel.solvers.smooth import Newton
    >>> Newton(atol=1e-8).limit
    200
    """

    atol: float = 1e-10
    limit: int = 200

    def __call__(self, st: Stationarity, x: Tensor, w: Tensor) -> Answered:
        """Return the answers to ``x``, from ``w`` on.

        Without constraints: Newton's method with a line search on ``f``, with matrices up to 256
        variables and truncated conjugate gradients beyond. With constraints: a primal-dual
        interior-point method, whose parameter grows tenfold a step, then Newton's method on the
        active rows, or on the barrier's equations.
        """
        with torch.no_grad():
            if st.follower_size == st.sizes[1]:
                return self._free(st, x, w)
            return self._constrained(st, x, w)

    def _free(self, st: Stationarity, x: Tensor, y: Tensor) -> Answered:
        def value(y: Tensor) -> Tensor:
            return st.follower(x, y)

        f, k = value(y), 0
        positive, small = (
            torch.ones_like(f, dtype=torch.bool),
            torch.zeros_like(f, dtype=torch.bool),
        )
        while k < self.limit:
            k += 1
            H = Hessian(value, y)
            g = H.gradient.detach()
            size = vector_norm(g, dim=-1)
            # One step more than asked: it squares the error.
            going = (size > 0) & size.isfinite() & ~small
            small |= size <= self.atol
            if not bool(going.any()):
                break
            d, positive = _direction(H, g)
            y, f, moved = _search(value, y, f, g, d, going)
            if not bool(moved.any()):
                break
        H = Hessian(value, y)
        residual = vector_norm(H.gradient.detach(), dim=-1)
        if y.shape[-1] <= DENSE:
            positive = torch.linalg.cholesky_ex(H.dense()).info == 0
        return Answered(st, y, residual, positive, torch.full_like(f, torch.inf), k)

    def _constrained(self, st: Stationarity, x: Tensor, w: Tensor) -> Answered:
        m, p, k = st.sizes[1:4]
        whole = replace(st, active_g=torch.ones_like(st.active_g), t=None)
        final = 1 / st.t if st.t is not None else 1e-13
        g = st.instances.vector("g", x, w[:, :m])
        s = (-g).clamp(min=1e-2)
        tau = torch.full_like(w[:, 0], 1.0 if k else final)
        lam = torch.where(w[:, m + p :] > 0, w[:, m + p :], 0).clamp(min=1e-2)
        w, steps = torch.cat([w[:, : m + p], lam], -1), 0
        while steps < self.limit:
            steps += 1
            H = Hessian(lambda w: whole.follower(x, w), w)
            rest = _rest(H, w, s, tau, m + p)
            near = vector_norm(rest, dim=-1)
            done = (near <= max(self.atol, 1e-12)) & (tau <= final)
            if bool((done | ~near.isfinite()).all()):
                break
            dw, ds = _step(H, w, s, tau, (m, p, k))
            w, s = _walk(whole, x, (w, s), (dw, ds), tau, m + p, near)
            ready = vector_norm(_rest(Hessian(lambda w: whole.follower(x, w), w), w, s, tau, m + p),
                                dim=-1) <= 10 * tau  # fmt: skip
            tau = torch.where(ready, (tau / 10).clamp(min=final), tau)
        return self._finish(st, x, w, s, steps)

    def _finish(self, st: Stationarity, x: Tensor, w: Tensor, s: Tensor, steps: int) -> Answered:
        """Polish on the rows that look active, and judge."""
        m, p, k = st.sizes[1:4]
        lam = w[:, m + p :]
        if st.t is None:
            st = replace(st, active_g=lam > s)
            w = torch.cat([w[:, : m + p], torch.where(st.active_g, lam, 0.0)], -1)
        best, size = w, torch.full_like(w[:, 0], torch.inf)
        for _ in range(4):
            H = Hessian(lambda w: st.follower(x, w), w)
            now = vector_norm(H.gradient.detach(), dim=-1)
            better = now < size
            best, size = torch.where(better[:, None], w, best), torch.where(better, now, size)
            if not bool(better.any()) or bool((size <= 1e-14).all()):
                break
            w = w + direct(H.dense(), -H.gradient.detach()).x
            if st.t is not None:
                w[:, m + p :].clamp_(min=1e-300)
        g = st.instances.vector("g", x, best[:, :m])
        matrix = Hessian(lambda w: st.follower(x, w), best).dense()
        negative = (torch.linalg.eigvalsh(_finite(matrix)) < 0).sum(-1)
        wrong = torch.cat([g.clamp(min=0), (-best[:, m + p :]).clamp(min=0)], -1)
        residual = torch.maximum(size, wrong.amax(-1) if k else size)
        margin = torch.full_like(size, torch.inf)
        if k:
            margin = torch.maximum(best[:, m + p :], -g).amin(-1)
        return Answered(st, best, residual, negative == p + k, margin, steps)


def is_minimum(st: Stationarity, x: Tensor, w: Tensor) -> bool | None:
    """Return whether the follower's second-order condition holds at one answer; ``None``: unknown.

    Beyond 256 unknowns, whether conjugate gradients meet a direction of negative curvature.
    """
    H = Hessian(lambda w: st.follower(x, w), w)
    _, p, k = st.sizes[1:4]
    if w.shape[-1] <= DENSE:
        return int((torch.linalg.eigvalsh(_finite(H.dense())) < 0).sum()) == p + k
    generator = torch.Generator().manual_seed(0)
    b = torch.randn(w.shape, generator=generator, dtype=w.dtype).to(w.device)
    return None if p + k else bool(cg(H, b, rtol=1e-3, limit=50).is_positive.all())


def _direction(H: Hessian, g: Tensor) -> tuple[Tensor, Tensor]:
    """Return a direction of descent, and where the second derivative is positive definite."""
    if g.shape[-1] <= DENSE:
        return _shifted(H.dense(), g)
    rtol = float(vector_norm(g, dim=-1).max().sqrt().clamp(min=1e-6, max=0.1))
    found = cg(H, -g, rtol=rtol, limit=500)
    still = vector_norm(found.x, dim=-1) == 0
    return torch.where(still[:, None], -g, found.x), found.is_positive


def _shifted(A: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    A = _finite(A)
    scale = A.diagonal(dim1=-2, dim2=-1).abs().amax(-1).clamp(min=1e-8)
    shift, unit = torch.zeros_like(scale), torch.eye(A.shape[-1]).to(A)
    positive = torch.linalg.cholesky_ex(A).info == 0
    for _ in range(20):
        L, info = torch.linalg.cholesky_ex(A + shift[:, None, None] * unit)
        if not bool(info.any()):
            break
        shift = torch.where(info > 0, (10 * shift).clamp(min=1e-4 * scale), shift)
    return -torch.cholesky_solve(g.unsqueeze(-1), L).squeeze(-1), positive


def _search(
    value: object, y: Tensor, f: Tensor, g: Tensor, d: Tensor, going: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first points that decrease enough; near the end rounding is no increase."""
    slope = vecdot(g, d)
    step = going.to(y)
    noise = 1e-14 * (1 + f.abs())
    for _ in range(40):
        new = y + step.unsqueeze(-1) * d
        f_new = value(new)  # type: ignore[operator]
        good = f_new <= f + 1e-4 * step * slope + noise
        if bool((good | ~going).all()):
            break
        step = torch.where(good, step, step / 2)
    taken = good & going
    return torch.where(taken[:, None], new, y), torch.where(taken, f_new, f), taken


def _rest(H: Hessian, w: Tensor, s: Tensor, tau: Tensor, first: int) -> Tensor:
    rest = H.gradient.detach().clone()
    lam = w[:, first:]
    rest[:, first:] += s
    return torch.cat([rest, s * lam - tau.unsqueeze(-1)], -1)


def _step(
    H: Hessian, w: Tensor, s: Tensor, tau: Tensor, sizes: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    """Return the primal-dual direction; the Hessian is shifted until it is one of descent."""
    m, p, k = sizes
    lam, rest = w[:, m + p :], H.gradient.detach().clone()
    K = _finite(H.dense())
    K[:, m + p :, m + p :] -= torch.diag_embed(s / lam)
    rest[:, m + p :] += tau.unsqueeze(-1) / lam
    unit = torch.zeros_like(w[0])
    unit[:m] = 1.0
    unit, shift = torch.diag(unit), torch.zeros_like(tau)
    for _ in range(20):
        wrong = (torch.linalg.eigvalsh(K + shift[:, None, None] * unit) < 0).sum(-1) != p + k
        if not bool(wrong.any()):
            break
        shift = torch.where(wrong, (10 * shift).clamp(min=1e-8), shift)
    dw = direct(K + shift[:, None, None] * unit, -rest).x
    ds = -s + tau.unsqueeze(-1) / lam - s / lam * dw[:, m + p :]
    return dw, ds


def _walk(
    st: Stationarity,
    x: Tensor,
    point: tuple[Tensor, Tensor],
    step: tuple[Tensor, Tensor],
    tau: Tensor,
    first: int,
    near: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the next point: inside the boundary, with a smaller residual where one is found."""
    (w, s), (dw, ds) = point, step
    length = torch.minimum(_longest(s, ds), _longest(w[:, first:], dw[:, first:]))
    for _ in range(30):
        new_w, new_s = w + length[:, None] * dw, s + length[:, None] * ds
        H = Hessian(lambda w: st.follower(x, w), new_w)
        now = vector_norm(_rest(H, new_w, new_s, tau, first), dim=-1)
        good = now <= (1 - 1e-4 * length) * near
        if bool((good | ~near.isfinite()).all()):
            break
        length = torch.where(good, length, length / 2)
    return new_w, new_s


def _longest(v: Tensor, dv: Tensor) -> Tensor:
    if not v.shape[-1]:
        return torch.ones_like(v.sum(-1))
    ratio = torch.where(dv < 0, -v / dv.clamp(max=-1e-300), torch.inf)
    return (_BOUNDARY * ratio.amin(-1)).clamp(max=1.0)


def _finite(A: Tensor) -> Tensor:
    finite = A.isfinite().flatten(1).all(-1)
    return torch.where(finite[:, None, None], A, torch.eye(A.shape[-1]).to(A))
