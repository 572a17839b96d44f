"""Krylov methods for batches of symmetric linear systems that are known by their products alone.

Each instance has scalars of its own, so that one does not wait for another's spectrum; vectors are
the rows of a matrix, and every method holds a fixed number of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.linalg import vecdot

from bilevel.adjoints.smooth.inertia import is_definite

Product = Callable[[Tensor], Tensor]

_PROBES = 2
#: Two estimates of the diagonal with a smaller correlation are noise.
_ALIKE = 0.5


@dataclass(frozen=True)
class Solved:
    """The answer to ``A x = b``.

    Parameters
    ----------
    x
        Shape ``(B, n)``.
    residual
        ``|A x - b| / |b|``, shape ``(B,)``; zero where ``b`` is zero.
    products
        How often ``A`` was multiplied with a vector.
    is_positive
        Whether no direction of negative curvature was met, shape ``(B,)``.
    """

    x: Tensor
    residual: Tensor
    products: int
    is_positive: Tensor


def cg(
    A: Product,
    b: Tensor,
    *,
    start: Tensor | None = None,
    precondition: Product | None = None,
    rtol: float = 1e-10,
    max_steps: int = 1000,
) -> Solved:
    """Solve ``A x = b`` for positive definite ``A`` by conjugate gradients; four vectors.

    It stops at an instance's first direction of negative curvature, which ``is_positive`` tells.

    References
    ----------
    Hestenes and Stiefel, 1952.

    Examples
    --------
    >>> import torch
    >>> from bilevel.adjoints.smooth.krylov import cg
    >>> A = torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    >>> found = cg(lambda v: v @ A, torch.tensor([[1.0, 2.0]], dtype=torch.float64))
    >>> print((11 * found.x).round(decimals=9).tolist(), found.products)
    [[1.0, 7.0]] 2
    """
    size = _norm(b)
    products = 0 if start is None else 1
    x = torch.zeros_like(b) if start is None else start * (size > 0).unsqueeze(-1)
    r = b.clone() if start is None else b - A(x)
    z = r if precondition is None else precondition(r)
    rz = _host(vecdot(r, z))
    goal = rtol * _host(size)
    p = z.clone() if z is r else z
    del z
    positive = np.ones_like(goal, dtype=bool)
    going = _host(_norm(r)) > goal
    with np.errstate(all="ignore"):
        while going.any() and products < max_steps:
            q = A(p)
            products += 1
            curvature = _host(vecdot(p, q))
            positive &= (curvature > 0) | ~going
            going &= positive
            step = _column(np.where(going, rz / curvature, 0), b)
            x.addcmul_(step, p)
            r.addcmul_(step, q, value=-1)
            del q
            norm = _host(_norm(r))
            z = r if precondition is None else precondition(r)
            new = _host(vecdot(r, z))
            going &= norm > goal
            p.mul_(_column(np.where(going, new / rz, 0), b)).add_(z)
            del z
            rz = np.where(going, new, rz)
    return Solved(x, _relative(_norm(r), size), products, _tensor(positive, b))


def minres(
    A: Product,
    b: Tensor,
    *,
    start: Tensor | None = None,
    precondition: Product | None = None,
    rtol: float = 1e-10,
    max_steps: int = 1000,
) -> Solved:
    """Solve ``A x = b`` for symmetric ``A``, definite or not; nine vectors.

    ``precondition`` must be positive definite. The residual that is returned is computed anew, and
    the method begins again from its answer where rounding has spoilt it.

    References
    ----------
    Paige and Saunders, 1975.

    Examples
    --------
    >>> import torch
    >>> from bilevel.adjoints.smooth.krylov import minres
    >>> A = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    >>> found = minres(
    ...     lambda v: v @ A, torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    ... )
    >>> print(found.x.round(decimals=9).tolist())
    [[2.0, 1.0]]
    """
    size = _norm(b)
    x = torch.zeros_like(b) if start is None else start * (size > 0).unsqueeze(-1)
    r, products = (b.clone(), 0) if start is None else (b - A(x), 1)
    goal = rtol * size
    for _ in range(3):
        if not bool((_norm(r) > goal).any()) or products >= max_steps:
            break
        step, used = _minres(A, r, precondition, goal, max_steps - products)
        x += step
        r = b - A(x)
        products += used + 1
    positive = torch.ones_like(size, dtype=torch.bool)
    return Solved(x, _relative(_norm(r), size), products, positive)


def diagonal(A: Product, b: Tensor) -> tuple[Product, int]:
    """Return a preconditioner from an estimate of the diagonal, and how many products it took.

    It is the mean of ``z * (A z)`` over vectors ``z`` of signs, noisy, so that no entry is taken to
    be less than half the median: it is the large ones that slow an iteration down. An instance gets
    the identity where two halves of the mean are not alike, as where all entries are equal.

    References
    ----------
    Bekas, Kokiopoulou and Saad, An estimator for the diagonal of a matrix, 2007.

    Examples
    --------
    >>> import torch
    >>> from bilevel.adjoints.smooth.krylov import diagonal
    >>> D = torch.tensor([[1.0, 10.0, 50.0]])
    >>> M, products = diagonal(lambda v: D * v, torch.ones(1, 3))
    >>> print((50 * M(torch.ones(1, 3))).round().tolist(), products)
    [[10.0, 5.0, 1.0]] 4
    """
    generator = torch.Generator().manual_seed(0)
    halves = []
    for _ in range(2):
        half = torch.zeros_like(b)
        for _ in range(_PROBES):
            signs = torch.randint(0, 2, b.shape[-1:], generator=generator, dtype=torch.int8)
            z = signs.to(b).mul_(2).sub_(1).expand_as(b).contiguous()
            half += A(z).mul_(z)
        halves.append(half.div_(_PROBES))
    floor = torch.add(*halves).median(-1, keepdim=True).values / 4
    floor = torch.where(floor > 0, floor, 1.0)
    first, second = (torch.maximum(half, floor) for half in halves)
    del halves
    inverse = torch.add(first, second).div_(2).reciprocal_()
    for half in (first, second):
        half.log_()
        half.sub_(half.mean(-1, keepdim=True))
    alike = vecdot(first, second) > _ALIKE * _norm(first) * _norm(second)
    inverse = torch.where(alike.unsqueeze(-1), inverse, 1.0)
    return lambda v: v * inverse, 2 * _PROBES


def direct(A: Tensor, b: Tensor, definite: bool = False) -> Solved:
    """Solve ``A x = b`` for symmetric matrices; least squares where they are singular.

    Examples
    --------
    >>> import torch
    >>> from bilevel.adjoints.smooth.krylov import direct
    >>> direct(torch.tensor([[[4.0]]]), torch.tensor([[2.0]])).x.item()
    0.5
    """
    positive = torch.ones_like(b[..., 0], dtype=torch.bool) if b.shape[-1] else b.sum(-1) == 0
    if definite and b.shape[-1]:
        positive = is_definite(A)
    x = quotient(A, b.unsqueeze(-1)).squeeze(-1)
    residual = _relative(_norm((A @ x.unsqueeze(-1)).squeeze(-1) - b), _norm(b))
    return Solved(x, residual, b.shape[-1], positive)


def quotient(A: Tensor, B: Tensor) -> Tensor:
    """Return ``A^-1 B`` for symmetric ``A``; the least-squares solution where it is singular.

    Instances with entries that are not finite get zeros.

    Parameters
    ----------
    A, B
        Shapes ``(B, n, n)`` and ``(B, n, k)``.
    """
    finite = A.isfinite().flatten(1).all(-1) & B.isfinite().flatten(1).all(-1)
    if not bool(finite.all()):
        A = torch.where(finite[:, None, None], A, torch.eye(A.shape[-1]).to(A))
        B = torch.where(finite[:, None, None], B, 0.0)
    x, info = torch.linalg.solve_ex(A, B)
    bad = (info != 0) | ~x.isfinite().flatten(1).all(-1)
    if bool(bad.any()):
        x[bad] = torch.linalg.pinv(A[bad], hermitian=True) @ B[bad]
    return x


def _minres(
    A: Product, b: Tensor, precondition: Product | None, goal: Tensor, max_steps: int
) -> tuple[Tensor, int]:
    """Return a correction whose preconditioned residual is a hundredth of what is asked."""
    M = precondition if precondition is not None else _same
    x = torch.zeros_like(b)
    w = torch.zeros_like(b)
    w_old = torch.zeros_like(b)
    r_old = torch.zeros_like(b)
    r = b
    y = M(r)
    beta = first = vecdot(r, y).clamp(min=0).sqrt()
    share = torch.where(_norm(b) > 0, goal / _norm(b), 0.0)
    zero = torch.zeros_like(beta)
    beta_old = torch.ones_like(beta)
    dbar = zero
    epsilon = zero
    phibar = beta
    cs = -torch.ones_like(beta)
    sn = zero
    tiny = torch.finfo(b.dtype).tiny
    products = 0
    going = (beta > 0) & (_norm(b) > goal)
    while bool(going.any()) and products < max_steps:
        v = y / beta.clamp(min=tiny).unsqueeze(-1)
        y = A(v)
        if products:
            y = y.addcmul_((beta / beta_old).unsqueeze(-1), r_old, value=-1)
        products += 1
        alpha = vecdot(v, y)
        y = y.addcmul_((alpha / beta.clamp(min=tiny)).unsqueeze(-1), r, value=-1)
        r_old = r
        r = y
        y = M(r)
        beta_old = beta.clamp(min=tiny)
        beta = vecdot(r, y).clamp(min=0).sqrt()
        epsilon_old = epsilon
        delta = cs * dbar + sn * alpha
        gbar = sn * dbar - cs * alpha
        epsilon = sn * beta
        dbar = -cs * beta
        gamma = torch.hypot(gbar, beta).clamp(min=tiny)
        cs = gbar / gamma
        sn = beta / gamma
        phi = torch.where(going, cs * phibar, 0.0)
        phibar = sn * phibar
        new = v.addcmul_(epsilon_old.unsqueeze(-1), w_old, value=-1)
        new = new.addcmul_(delta.unsqueeze(-1), w, value=-1).div_(gamma.unsqueeze(-1))
        w_old = w
        w = new
        x.addcmul_(phi.unsqueeze(-1), torch.where(going.unsqueeze(-1), w, 0.0))
        going &= (phibar.abs() > 0.3 * share * first) & (beta > tiny)
    return x, products


def _host(scalars: Tensor) -> np.ndarray:
    """Return one number for each instance to NumPy, which is quicker with so few."""
    return scalars.numpy(force=True)


def _tensor(scalars: np.ndarray, like: Tensor) -> Tensor:
    found = torch.from_numpy(scalars)
    return found if like.is_cpu else found.to(like.device)


def _column(scalars: np.ndarray, like: Tensor) -> Tensor:
    return _tensor(scalars[:, None], like)


def _same(v: Tensor) -> Tensor:
    return v.clone()


def _norm(v: Tensor) -> Tensor:
    return torch.linalg.vector_norm(v, dim=-1)


def _relative(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole.clamp(min=torch.finfo(whole.dtype).tiny), part)
