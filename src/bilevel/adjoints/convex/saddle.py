r"""Linear systems with ``K = [[P, A_J'], [A_J, -E]]``, batched, one factorization for all of them.

``P = H + H'``. Rows outside ``J`` have multiplier zero. Two forms of the inverse are kept:

* ``P = U'U`` positive definite, rows of ``A_J`` independent: the Cholesky factor of
  ``A_J P^-1 A_J'``, by compiled loops;
* everything else: the inverse, or the pseudo-inverse where ``K`` is singular.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bilevel.adjoints.convex import kernels
from bilevel.adjoints.function import AbstractRule, apply
from bilevel.errors import UnsupportedDerivative
from bilevel.problem.functions import Array

#: Singular values below this share of the largest count as zero.
_SINGULAR = 1e-11
#: Up to this many entries of ``A`` compiled loops are faster than LAPACK's calls.
_SMALL = 600


@dataclass(frozen=True)
class Factor:
    """Factors of a batch of saddle matrices.

    Parameters
    ----------
    U, C, index, number
        The first form: ``U'U = P``, the factors, the rows ``J`` and how many they are; the number
        is -1 where the second form holds.
    inverse
        The second form, shape ``(B, n + m, n + m)``, or ``(B, 0, 0)`` if no instance needs it.
    """

    U: Array
    C: Array
    index: Array
    number: Array
    inverse: Array

    def tensors(self) -> tuple[Tensor, ...]:
        """Return all of them, in order, as tensors."""
        arrays = (self.U, self.C, self.index, self.number, self.inverse)
        return tuple(map(torch.from_numpy, arrays))

    def solve(self, H: Array, A: Array, gy: Array, gz: Array) -> tuple[Array, Array]:
        """Return ``K^-1 (gy, gz)``."""
        dy, dz = kernels.solve_saddles(H, A, self.U, self.C, self.index, self.number, gy, gz)
        if self.inverse.shape[-1]:
            bad = self.number < 0
            n = gy.shape[-1]
            both = self.inverse[bad] @ np.concatenate([gy[bad], gz[bad]], -1)[..., None]
            dy[bad] = both[:, :n, 0]
            dz[bad] = both[:, n:, 0]
        return dy, dz


@dataclass(frozen=True)
class Half:
    """``U'U = P``, ``W = A U^-1`` and ``v = U'^-1 q``; ``U`` is the identity where that fails.

    Parameters
    ----------
    U, W, v
        Shapes ``(B, n, n)``, ``(B, m, n)`` and ``(B, n)``.
    regular
        Where ``P`` is positive definite, shape ``(B,)``.
    """

    U: Array
    W: Array
    v: Array
    regular: Array


def half(H: Array, q: Array, A: Array) -> Half:
    """Factorize the upper left block of a batch."""
    if A.shape[-1] * A.shape[-2] <= _SMALL:
        return Half(*kernels.prepare(H, q, A))
    L, info = torch.linalg.cholesky_ex(torch.from_numpy(H + H.swapaxes(1, 2)))
    pivot = L.diagonal(dim1=-2, dim2=-1)
    regular = (info == 0) & (pivot.amin(-1) > kernels.DEPENDENT * pivot.amax(-1))
    if not bool(regular.all()):
        unit = torch.eye(H.shape[-1], dtype=L.dtype)
        L = torch.where(regular[:, None, None], L, unit)
    W, v = (
        torch.linalg.solve_triangular(L, torch.from_numpy(part), upper=False)
        for part in (A.swapaxes(1, 2), q[..., None])
    )
    return Half(array(L.mT), array(W.mT), array(v[..., 0]), regular.numpy())


def factorize(
    H: Array,
    A: Array,
    active: Array,
    known: Half,
    usable: Array,
    smooth: Array | None = None,
) -> tuple[Factor, Array]:
    """Return the factors of a batch, and where the matrix is singular.

    Parameters
    ----------
    H, A
        Shapes ``(B, n, n)`` and ``(B, m, n)``.
    active
        The rows of ``J``, shape ``(B, m)``, boolean.
    known
        ``half(H, q, A)``.
    usable
        Where there is an answer; elsewhere every solution is zero. Shape ``(B,)``.
    smooth
        The diagonal ``E`` where it is not zero, shape ``(B, m)``.
    """
    regular = known.regular & usable
    if smooth is not None:
        regular = regular & ~smooth.any(-1)
    C, index, number, is_regular = kernels.factor_rows(known.W, active, regular)
    count, m, n = A.shape
    inverse = np.zeros((count, 0, 0))
    singular = np.zeros(count, bool)
    if not is_regular:
        bad = number < 0
        inverse = np.zeros((count, n + m, n + m))
        E = np.zeros_like(active, float) if smooth is None else smooth
        inverse[bad], singular[bad] = _invert(H[bad], A[bad], active[bad], E[bad])
        inverse[~usable] = 0.0
        singular[~usable] = False
    return Factor(known.U, C, index, number, inverse), singular


def solve(
    H: Tensor, A: Tensor, gy: Tensor, gz: Tensor, factor: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return ``K^-1 (gy, gz)``, differentiable in all four tensors."""
    dy, dz = apply(_Solve(), H, A, gy, gz, *factor)
    return dy, dz


class _Solve(AbstractRule):
    what = "a linear solve"

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        H, A, gy, gz, *factor = map(array, inputs)
        dy, dz = Factor(*factor).solve(H, A, gy, gz)
        return tuple(torch.from_numpy(one).to(inputs[0].device) for one in (dy, dz))

    def backward(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], grads: Sequence[Tensor | None]
    ) -> Sequence[Tensor | None]:
        H, A, _, _, *rest = inputs
        dy, dz = outputs
        hy, hz = (
            torch.zeros_like(one) if grad is None else grad
            for one, grad in zip(outputs, grads, strict=True)
        )
        wy, wz = solve(H, A, hy, hz, rest)
        gH = -outer(wy, dy) - outer(dy, wy)
        gA = -outer(wz, dy) - outer(dz, wy)
        return (gH, gA, wy, wz, *(None for _ in rest))


def outer(left: Tensor, right: Tensor) -> Tensor:
    """Return the outer products of two batches of vectors."""
    return left[..., :, None] * right[..., None, :]


def probe(H: Array, A: Array, factor: Factor) -> Array:
    """Return the relative residual of ``K (dy, dz) = (1, 1)``, shape ``(B,)``."""
    dy, dz = factor.solve(H, A, np.ones(H.shape[:2]), np.ones(A.shape[:2]))
    top = 1 - np.einsum("bij,bj->bi", H + H.swapaxes(1, 2), dy) - np.einsum("bij,bi->bj", A, dz)
    side = (1 - np.einsum("bij,bj->bi", A, dy)) * (dz != 0)
    return np.maximum(abs(top).max(-1, initial=0.0), abs(side).max(-1, initial=0.0))


def array(tensor: Tensor) -> Array:
    """Return a tensor's numbers, row by row, without a copy where possible."""
    try:
        return np.ascontiguousarray(tensor.numpy(force=True))
    except RuntimeError as error:
        raise UnsupportedDerivative(
            "Gradients cannot be batched here (vectorize=True, is_grads_batched=True); use "
            "torch.func.jacrev, or leave that out."
        ) from error


def _invert(H: Array, A: Array, active: Array, E: Array) -> tuple[Array, Array]:
    """Return inverses, or pseudo-inverses and True where the matrix is singular.

    Rows outside ``J`` become rows of the identity, and zero in the result.
    """
    count, m, n = A.shape
    K = np.zeros((count, n + m, n + m))
    K[:, :n, :n] = H + H.swapaxes(1, 2)
    K[:, n:, :n] = A * active[..., None]
    K[:, :n, n:] = K[:, n:, :n].swapaxes(1, 2)
    K[:, range(n, n + m), range(n, n + m)] = np.where(active, -E, 1.0)
    finite = np.isfinite(K).all((1, 2))
    K[~finite] = np.eye(n + m)
    inverse, info = (one.numpy() for one in torch.linalg.inv_ex(torch.from_numpy(K)))
    inverse[~np.isfinite(inverse).all((1, 2))] = 0.0  # LAPACK's answer to an exactly singular one
    error = abs(K @ inverse - np.eye(n + m)).max((1, 2))
    size = abs(K).max((1, 2)) * abs(inverse).max((1, 2))
    bad = (info > 0) | ~(error < 1e-8) | ~(size < 1 / _SINGULAR)
    if bad.any():
        inverse[bad] = np.linalg.pinv(K[bad], rcond=_SINGULAR, hermitian=True)
    inverse[:, :, n:] *= active[:, None, :]
    inverse[~finite] = 0.0
    return inverse, bad & finite
