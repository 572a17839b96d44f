"""The derivative of ``KKT`` where matrices are sparse: one sparse factorization per instance.

Matrices are vectors of their entries in a fixed pattern; ``P = H + H'``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as splinalg
import torch
from torch import Tensor

from bilevel.adjoints.adjoint import Diagnosis, Solve
from bilevel.adjoints.function import AbstractRule, apply
from bilevel.errors import ProblemError
from bilevel.problem.affine import AffineMatrix
from bilevel.problem.functions import Array
from bilevel.problem.parametric import ParametricProgram

#: What keeps a singular system solvable, relative to its largest entry.
_SHIFT = 1e-9
_REFINEMENTS = 4


class SparseFactor:
    """A factorized matrix ``[[P, A_J'], [A_J, 0]]``.

    Parameters
    ----------
    P, A
        Sparse matrices.
    active
        The rows of ``J``, shape ``(m,)``, boolean.

    Attributes
    ----------
    is_singular
        Whether a small shift was needed; solutions are then regularized least-squares ones.
    """

    def __init__(self, P: sp.csr_array, A: sp.csr_array, active: Array) -> None:
        self._n = P.shape[0]
        self._rows = np.flatnonzero(active)
        J = A[self._rows]
        self._K = sp.csc_array(sp.block_array([[P, J.T], [J, None]], format="csc"))
        self.is_singular = False
        try:
            self._lu = splinalg.splu(self._K)
            pivots = abs(self._lu.U.diagonal())
            self.is_singular = bool(pivots.min(initial=np.inf) < 1e-13 * pivots.max(initial=0.0))
        except RuntimeError:
            self.is_singular = True
        if self.is_singular:
            size = abs(self._K).max() if self._K.nnz else 1.0
            sign = np.where(np.arange(self._K.shape[0]) < self._n, 1.0, -1.0)
            self._lu = splinalg.splu(sp.csc_array(self._K + _SHIFT * size * sp.diags_array(sign)))

    def solve(self, gy: Array, gz: Array) -> tuple[Array, Array]:
        """Return ``dy`` and ``dz``, refined; rows outside ``J`` have ``dz = 0``."""
        rhs = np.concatenate([gy, gz[self._rows]])
        x = self._lu.solve(rhs)
        for _ in range(_REFINEMENTS if self.is_singular else 1):
            x = x + self._lu.solve(rhs - self._K @ x)
        dz = np.zeros_like(gz)
        dz[self._rows] = x[self._n :]
        return x[: self._n], dz

    def residual(self) -> float:
        """Return the relative residual for a right-hand side of ones."""
        ones = np.ones(self._K.shape[0])
        full = np.zeros(self._rows.max(initial=-1) + 1)
        full[self._rows] = 1.0
        dy, dz = self.solve(ones[: self._n], full)
        return float(abs(self._K @ np.concatenate([dy, dz[self._rows]]) - ones).max(initial=0.0))


@dataclass(frozen=True)
class SparseResponses:
    """Answers to a batch of quadratic programs in sparse matrices.

    Parameters
    ----------
    y, z
        Answers and multipliers; where there are none, what the layer returns instead.
    usable
        Where there is an answer, shape ``(B,)``.
    active, weak, margin
        As in ``bilevel.adjoints.convex.kkt.QuadraticResponses``.
    matrices
        For each instance ``P`` and ``A``.
    """

    y: Array
    z: Array
    usable: Array
    active: Array
    weak: Array
    margin: Array
    matrices: list[tuple[sp.csr_array, sp.csr_array]]


class Policy(Protocol):
    """What the rule is told by ``KKT``."""

    @property
    def degenerate(self) -> str:
        """What to do with degenerate instances: ``"lstsq"``, ``"active"`` or ``"raise"``."""
        ...

    @property
    def tolerance(self) -> float:
        """A slack or multiplier below it counts as zero."""
        ...


class SparseKKTRule(AbstractRule):
    """The map ``(H, q, A, b) -> (y, z)`` with the derivative of ``KKT``, entries of patterns.

    Parameters
    ----------
    adjoint
        The policy for degenerate instances, and the tolerance.
    program
        The program, for its patterns.
    solve
        Solves a batch; returns ``SparseResponses``.
    """

    what = "a sparse quadratic program's answer"
    foldable = False

    def __init__(self, adjoint: Policy, program: ParametricProgram, solve: Solve) -> None:
        self._adjoint = adjoint
        self._solve = solve
        self._program = program
        self.diagnosis: Diagnosis | None = None
        self._factors: list[SparseFactor | None] = []
        self._complete = True

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """See the abstract method."""
        data = (one.numpy(force=True) for one in inputs)
        found: SparseResponses = self._solve(*data, tolerance=self._adjoint.tolerance)
        counted = found.active
        if self._adjoint.degenerate == "active":
            counted = counted | found.weak
        self._factors = [
            SparseFactor(*matrices, rows) if usable else None
            for matrices, rows, usable in zip(found.matrices, counted, found.usable, strict=True)
        ]
        singular = np.array([f is not None and f.is_singular for f in self._factors])
        is_exact = bool(found.usable.all()) and not (found.weak.any() or singular.any())
        self._complete = bool(found.usable.all())
        self.diagnosis = Diagnosis(
            found.usable, found.weak, singular, found.margin, self._adjoint.degenerate, is_exact
        )
        if self._adjoint.degenerate == "raise":
            self.diagnosis.demand_exact()
        device = inputs[0].device
        return torch.from_numpy(found.y).to(device), torch.from_numpy(found.z).to(device)

    def backward(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], grads: Sequence[Tensor | None]
    ) -> Sequence[Tensor | None]:
        """See the abstract method."""
        H, _, A, _ = inputs
        y, z = outputs
        if not self._complete:
            y = torch.nan_to_num(y)
            z = torch.nan_to_num(z)
        gy, gz = (
            torch.zeros_like(one) if grad is None else grad
            for one, grad in zip((y, z), grads, strict=True)
        )
        dy, dz = apply(_Solve(self._program, self._factors), H, A, gy, gz)
        gH = -_pairs(self._program.H, dy, y) - _pairs(self._program.H, y, dy)
        gA = -_pairs(self._program.A, z, dy) - _pairs(self._program.A, dz, y)
        return gH, -dy, gA, dz

    def probe(self) -> Tensor:
        """Return the relative residual of the adjoint system for a right-hand side of ones."""
        if not self._factors:
            raise ProblemError("There is no answer yet.")
        found = [np.nan if factor is None else factor.residual() for factor in self._factors]
        return torch.tensor(found, dtype=torch.float64)


class _Solve(AbstractRule):
    what = "a sparse linear solve"
    foldable = False

    def __init__(self, program: ParametricProgram, factors: list[SparseFactor | None]) -> None:
        self._program = program
        self._factors = factors

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """See the abstract method."""
        _, _, gy, gz = inputs
        dy = np.zeros(tuple(gy.shape))
        dz = np.zeros(tuple(gz.shape))
        for i, factor in enumerate(self._factors):
            if factor is not None:
                dy[i], dz[i] = factor.solve(gy[i].numpy(force=True), gz[i].numpy(force=True))
        return torch.from_numpy(dy).to(gy.device), torch.from_numpy(dz).to(gy.device)

    def backward(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], grads: Sequence[Tensor | None]
    ) -> Sequence[Tensor | None]:
        """See the abstract method."""
        H, A, _, _ = inputs
        dy, dz = outputs
        hy, hz = (
            torch.zeros_like(one) if grad is None else grad
            for one, grad in zip(outputs, grads, strict=True)
        )
        wy, wz = apply(_Solve(self._program, self._factors), H, A, hy, hz)
        gH = -_pairs(self._program.H, wy, dy) - _pairs(self._program.H, dy, wy)
        gA = -_pairs(self._program.A, wz, dy) - _pairs(self._program.A, dz, wy)
        return gH, gA, wy, wz


def _pairs(pattern: AffineMatrix, left: Tensor, right: Tensor) -> Tensor:
    """Return the entries of the outer products that are in a pattern."""
    row, column = (torch.from_numpy(part).to(left.device) for part in (pattern.row, pattern.column))
    return left[:, row] * right[:, column]
